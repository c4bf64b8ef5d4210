# %% [markdown]
# # 12 · Sparsity: which weights and activations matter
#
# **The question.** A trained matrix is full of numbers near zero. Take them away: does the model notice? When it does, which
# others should have gone, and can what was lost be learned again? Then two neighbours of the same thought: activations that
# are zero for most tokens, and a fine-tuning that moves few weights, beside LoRA, which moves all of them in few directions.
#
# You will write the magnitude mask, Wanda's score and its mask, the 2:4 mask of sparse tensor cores, the merge that keeps
# zeros, and the choice of a sparse update; see that yours are torch's; and measure where the cliff is.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import copy
import random
import statistics

import torch

import ftlab
from ftlab import profile
from ftlab.course import studies
from ftlab.show import plots, widgets
from ftlab.tune import attach, lora, sft, sparse

torch.manual_seed(0)
lab = ftlab.lab("12_sparsity")
measured = studies.load("12_sparsity")
base, tokenizer = measured.base()
STEPS = profile.steps(measured.STEPS, 3)

# %% [markdown]
# ## Play: until the model notices
#
# The small base that Lab 04 tunes, pruned in one shot: in every linear layer the same share of the weights is set to zero
# (embedding and norms stay). Two ways to choose them: **magnitude**, the smallest go; **Wanda**, a small weight on a large
# input may stay. How much will the model stand?

# %% ftlab="play"
lab.predict("half", "Half of the weights go, the smallest of each matrix. By how much does the held-out loss rise? "
            "(It is 0.52 nats per token; a model that knows nothing has 6.9.)", low=0, high=3, unit="nats")

# %% ftlab="play"
lab.predict("cliff", "At which sparsity has it risen by 0.05 nats, a tenth of what it is?", percent=True)

# %% ftlab="experiment"
GRID = profile.steps(measured.SPARSITIES, (0.5, 0.9))
weights = {name: layer.weight.detach() for name, layer in sparse.prunable(base).items()}
norms = measured.calibrated(0)  # {name: how large each input of the layer is, over the tokens of 64 stories}
dense = measured.loss_of(0, "dense")
curves = {method: ([0.0, *GRID], [dense, *(measured.loss_of(0, method, s) for s in GRID)])
          for method in ("magnitude", "wanda")}
for s in GRID:
    print(f"{s:4.0%} go: " + ", ".join(f"{method} {dict(zip(*curve))[s]:.2f}" for method, curve in curves.items()))
plots.prediction_vs_result(lab.prediction("half"), dict(zip(*curves["magnitude"]))[0.5] - dense, label="rise at 50 %",
                           unit="nats")

# %% [markdown]
# Drag the sparsity. **What to look at:**
#
# - The histogram: by magnitude everything left of one line goes. And by Wanda? Which of the weights that stay are small?
# - Columns of the matrix that Wanda clears, or spares: what do they read?
# - Where does the curve leave the floor, and is it a slope or a cliff?

# %% ftlab="play"
CORNER = 32


def look(matrix, method, sparsity):
    """What the widget shows of a setting."""
    W = weights[matrix]
    mask = sparse.mask_of(W, method, sparsity, norms[matrix])
    edges, kept, pruned = sparse.histogram(W, mask)
    return {"picture": (W * mask)[:CORNER, :CORNER].tolist(), "edges": edges, "kept": kept, "pruned": pruned}


shown = [name for name in weights if name.startswith("layers.1.")]
widgets.sparsity_view(look, shown, curves, [0.0, *GRID], dense, sparsity=0.5)

# %% [markdown]
# ## Build
#
# A **mask** has the shape of its weight, True where the weight stays; pruning is $W \leftarrow m \odot W$. What differs is the
# score by which weights are compared, and with which others each is compared.
#
# ### 1. The smallest weights
#
# The oldest score is the size $|w|$ (Han et al. 2015). Here every matrix loses the same share of its entries: those nearest
# to zero, `round(sparsity * W.numel())` of them.


# %% ftlab="exercise" id="magnitude"
def magnitude_masks(weights, sparsity):
    """{name: mask} for weights {name: W (n, k)}; a mask is a bool tensor like its W, True where an entry stays.

    sparsity: the share of the entries of each matrix that go, at least 0 and below 1.
    """
    ### BEGIN SOLUTION
    masks = {}
    for name, W in weights.items():
        going = W.abs().flatten().argsort()[:round(sparsity * W.numel())]
        mask = torch.ones(W.numel(), dtype=torch.bool)
        mask[going] = False
        masks[name] = mask.view(W.shape)
    return masks
    ### END SOLUTION


# %% ftlab="check" id="magnitude"
lab.check("magnitude", magnitude_masks)

# %% ftlab="probe" id="magnitude"
generator = torch.Generator().manual_seed(lab.probe_seed("magnitude"))
probe_weights = {"q": torch.randn(3, 4, generator=generator), "up": 5 * torch.randn(4, 4, generator=generator)}
lab.probe("magnitude", [{name: mask.int() for name, mask in magnitude_masks(probe_weights, s).items()} for s in (0.25, 0.6)])

# %% [markdown]
# ### 2. Wanda's score
#
# An output is $y_i = \sum_j w_{ij} x_j$. A small weight on an input that is always large changes $y_i$ more than a large
# weight on an input that hardly moves. So Wanda (Sun et al. 2023, "pruning by **w**eights **and a**ctivations") runs a few
# texts through the model, collects what each layer reads, $X$ (tokens, $k$), and scores
#
# $$S_{ij} = |w_{ij}| \cdot \lVert X_{\cdot j} \rVert_2 .$$
#
# No gradient, no labels; about 64 stories are enough here.


# %% ftlab="exercise" id="wanda"
def wanda_score(W, X):
    """The score (n, k) of every entry of W (n, k), for a layer that read X (tokens, k)."""
    ### BEGIN SOLUTION
    return W.abs() * X.norm(dim=0)
    ### END SOLUTION


# %% ftlab="check" id="wanda"
lab.check("wanda", wanda_score)

# %% ftlab="probe" id="wanda"
generator = torch.Generator().manual_seed(lab.probe_seed("wanda"))
lab.probe("wanda", wanda_score(torch.randn(2, 5, generator=generator), torch.randn(5, 5, generator=generator)))

# %% [markdown]
# ### 3. Row by row
#
# Wanda compares a score only with the others of the same *row*: the inputs of one output. So each output loses the same
# share of its inputs, and none is cut off altogether.


# %% ftlab="exercise" id="rows"
def row_mask(score, sparsity):
    """The mask (n, k), a bool tensor: in each row of score (n, k) the round(sparsity * k) lowest go."""
    ### BEGIN SOLUTION
    going = score.argsort(dim=1)[:, :round(sparsity * score.shape[1])]  # (n, going)
    return torch.ones_like(score, dtype=torch.bool).scatter(1, going, False)
    ### END SOLUTION


# %% ftlab="check" id="rows"
lab.check("rows", row_mask)

# %% ftlab="probe" id="rows"
generator = torch.Generator().manual_seed(lab.probe_seed("rows"))
probe_score = torch.rand(4, 8, generator=generator) * torch.tensor([[1.0], [4.0], [9.0], [2.0]])
lab.probe("rows", [row_mask(probe_score, s).int() for s in (0.25, 0.5)])

# %% [markdown]
# ### 4. Two of four
#
# Zeros wherever they like to be are hard to skip: a processor would have to look for them. The sparse tensor cores of NVIDIA's
# GPUs (since Ampere) want a pattern: of every **four neighbours along the inputs**, at most two may be other than zero
# (Mishra et al. 2021). Then half of the numbers are stored, each with two bits that say where in its four it stood.


# %% ftlab="exercise" id="two_four"
def two_four_mask(score):
    """The mask (n, k), a bool tensor: of every four neighbours along a row of score (n, k) the two highest stay.

    k is a multiple of 4; the fours are the inputs 0 to 3, 4 to 7, and so on.
    """
    ### BEGIN SOLUTION
    n, k = score.shape
    best = score.view(n, k // 4, 4).topk(2, dim=-1).indices  # (n, k/4, 2)
    return torch.zeros(n, k // 4, 4, dtype=torch.bool).scatter(2, best, True).view(n, k)
    ### END SOLUTION


# %% ftlab="check" id="two_four"
lab.check("two_four", two_four_mask)

# %% ftlab="probe" id="two_four"
generator = torch.Generator().manual_seed(lab.probe_seed("two_four"))
lab.probe("two_four", two_four_mask(torch.rand(8, 12, generator=generator)).int())

# %% [markdown]
# ### 5. Recover with LoRA
#
# A pruned model is tuned for a while, so that the weights that stay take over from those that went. With LoRA beside the
# pruned matrices this is cheap. But the product $B A$ has no zeros:
#
# $$W' = m \odot \left( W + \frac{\alpha}{r} B A \right).$$


# %% ftlab="exercise" id="recover"
def merge_pruned(W, mask, A, B, alpha):
    """The merged weight (n, k), pruned: W (n, k), mask (n, k) of bools, A (r, k), B (n, r).

    W may be given before its mask was applied to it.
    """
    ### BEGIN SOLUTION
    return mask * (W + (alpha / A.shape[0]) * (B @ A))
    ### END SOLUTION


# %% ftlab="check" id="recover"
lab.check("recover", merge_pruned)

# %% ftlab="probe" id="recover"
generator = torch.Generator().manual_seed(lab.probe_seed("recover"))
probe_W, probe_A, probe_B = (torch.randn(*shape, generator=generator) for shape in ((4, 5), (2, 5), (4, 2)))
lab.probe("recover", merge_pruned(probe_W, torch.rand(4, 5, generator=generator) < 0.5, probe_A, probe_B, 6.0))

# %% [markdown]
# ### 6. A sparse update
#
# Turn the thought round: leave the model dense and make the *change* sparse. Ansell et al. (2022) tune everything once, look
# which entries moved most, go back to the start, and tune those alone: a few entries of the model's choice, where LoRA has a
# few directions.


# %% ftlab="exercise" id="update"
def top_updates(before, after, count):
    """{name: mask} of the `count` entries that moved most, in all matrices together.

    before, after: {name: tensor} of the same matrices; a mask is a bool tensor, True where the entry may learn.
    """
    ### BEGIN SOLUTION
    moved = {name: (after[name] - before[name]).abs() for name in before}
    least = torch.cat([m.flatten() for m in moved.values()]).topk(count).values[-1]
    return {name: m >= least for name, m in moved.items()}
    ### END SOLUTION


# %% ftlab="check" id="update"
lab.check("update", top_updates)

# %% ftlab="probe" id="update"
random.seed(lab.probe_seed("update"))
generator = torch.Generator().manual_seed(lab.probe_seed("update"))
probe_before = {"q": torch.randn(3, 4, generator=generator), "up": 4 * torch.randn(4, 4, generator=generator)}
probe_after = {name: W + s * torch.randn(W.shape, generator=generator)
               for (name, W), s in zip(probe_before.items(), (2.0, 1.0))}
probe_after["q"][1, 1] = probe_before["q"][1, 1] - 30
lab.probe("update", [{name: mask.int() for name, mask in top_updates(probe_before, probe_after, count).items()}
                     for count in (random.randint(3, 5), 8)])

# %% [markdown]
# ## The library does it too, and agrees
#
# First the package: your functions on all matrices of the base. (`wanda_score` takes the inputs themselves; here it gets one
# row with the same norms, which gives the same score and saves keeping all inputs of all layers.) The base was stored in 16
# bits, so some of its weights are equal in size, and which of two equals goes is anybody's choice: these are not counted.

# %%
sizes = {name: W.abs() for name, W in weights.items()}
scored = {name: wanda_score(W, norms[name][None]) for name, W in weights.items()}
for method, score, mine in (("magnitude", sizes, magnitude_masks(weights, 0.5)),
                            ("wanda", scored, {name: row_mask(S, 0.5) for name, S in scored.items()}),
                            ("wanda 2:4", scored, {name: two_four_mask(S) for name, S in scored.items()})):
    theirs = sparse.masks(base, method, 0.5, norms)
    competing = {"magnitude": lambda S: S.numel(), "wanda": lambda S: S.shape[1], "wanda 2:4": lambda S: 4}[method]
    print(f"{method}: {sum(measured.unlike(S, mine[name], theirs[name], competing(S)) for name, S in score.items())} of "
          f"{sum(W.numel() for W in weights.values()):,} entries differ from ftlab's")

# %% [markdown]
# `torch.nn.utils.prune` has the magnitude mask; `torch.ao.pruning` makes 2:4 masks. For the product itself there is
# `torch.sparse.to_sparse_semi_structured`, and it wants a GPU:

# %%
name = "layers.1.mlp.up_proj"
W = weights[name]
mine = magnitude_masks({name: W}, 0.5)[name]
print("magnitude, entries that differ:", measured.unlike(W.abs(), mine, measured.torch_magnitude(W, 0.5), W.numel()))
mask = two_four_mask(W.abs())
print("2:4, entries that differ:", measured.unlike(W.abs(), mask, measured.torch_two_four(W), 4))
two_four = (W * mask).half()
try:
    torch.sparse.to_sparse_semi_structured(two_four)
except RuntimeError as error:
    print("to_sparse_semi_structured on the CPU:", error)

# %% [markdown]
# But the functions that pack a matrix into that form run anywhere. `sparse.pack_two_four` keeps half of the numbers and their
# places; torch does the same, four places of two numbers in 16 bits, in an order made for the GPU. With that order undone:

# %%
values, places = sparse.pack_two_four(two_four)
their_values, their_places = measured.torch_packed(two_four)
print("one four of the matrix:", [round(v, 3) for v in two_four[0, :4].tolist()], "-> values",
      [round(v, 3) for v in values[0, :2].tolist()], "at", places[0, :2].tolist())
print(f"packed, entries that differ: {int((values != their_values).sum())} values, "
      f"{int((places != their_places).sum())} places")
print("unpacked again:", torch.equal(sparse.unpack_two_four(values, places), two_four),
      f"· {sparse.two_four_bits(16):.0f} bits for each weight in place of 16")

# %% ftlab="result" claim="X12b"
same = measured.measure_same(0, None)
lab.claim("X12b", same["value"])

# %% [markdown]
# ## Predict, then run
#
# ### Tune what is left
#
# Now 60 % go, by magnitude, and the model is ruined. Then a LoRA of rank 8 for 80 steps, on the texts that the base was
# pretrained on, so that nothing new is taught. It is merged, and *your* `merge_pruned` puts the zeros back.

# %% ftlab="play"
lab.predict("recovered", "Which share of what pruning lost does it win back, zeros in place?", percent=True)

# %% ftlab="experiment"
plot = widgets.LivePlot(title="a LoRA of rank 8 beside pruned matrices")
recovered = measured.recover(0, "masked lora", steps=STEPS, callbacks=[plot])
plain = measured.recover(0, "lora", steps=STEPS)
before = measured.loss_of(0, "magnitude", measured.HIGH)
for what, loss, zeros in (("dense", dense, sparse.sparsity(base)), ("pruned", before, measured.HIGH),
                          ("plain LoRA, merged, no mask", plain["merged"], plain["merged_zeros"]),
                          ("plain LoRA, merged, mask reapplied", plain["loss"], plain["zeros"]),
                          ("LoRA that learned under the mask", recovered["loss"], recovered["zeros"])):
    print(f"{what:35} loss {loss:.2f}, zeros {zeros:4.0%}")

# %% ftlab="experiment"
regained = {name: (before - one["loss"]) / (before - dense) for name, one in (("plain", plain), ("masked", recovered))}
plots.prediction_vs_result(lab.prediction("recovered"), regained["plain"], label="won back, plain LoRA", percent=True)

# %% [markdown]
# **What to look at:** three losses after tuning. The first belongs to a model that is dense again, so it is no pruned model's
# loss. The second is what is left when the part of $B A$ that stood on pruned places is thrown away: LoRA had counted on it.
# The third learned $m \odot (W + \frac{\alpha}{r} B A)$ from the start: the same formula as yours, in each step.

# %% ftlab="experiment"
one = attach(sparse.apply(copy.deepcopy(base), recovered["masks"]), "lora", r=2, lora_alpha=4)
layer = lora.layers(one)[name]
with torch.no_grad():
    layer.lora_B.normal_(std=0.05)
    mine = merge_pruned(layer.base.weight, recovered["masks"][name], layer.lora_A, layer.lora_B, 4)
    theirs = lora.layers(sparse.mask_lora(one, recovered["masks"]))[name].weight
print(f"your merged weight against ftlab's masked LoRA: {(mine - theirs).abs().max():.0e}")

# %% [markdown]
# ### Zeros among the activations
#
# Weights are pruned once; **activations** can be zero for one token and not for another. SwiGLU, the MLP of this model, has no
# zeros: $\text{silu}(g) \cdot u$ is small often and zero never. Put $\text{relu}(u)^2$ in its place (So et al. 2021, *Primer*),
# with as many parameters, and pretrain the small model of Lab 03 for 300 steps.

# %% ftlab="play"
lab.predict("zeros", "Which share of the activations will be exactly zero with squared relu?", percent=True)

# %% ftlab="experiment"
plot = widgets.LivePlot(title="a small model with squared relu")
recipe, squared = measured.pretrained(0, "ReLU²", steps=profile.steps(measured.PRETRAINING, 3), callbacks=[plot])
rows = recipe.tokenizer.encode_batch(recipe.held_out[:40], bos=True, eos=True)
found = measured.shares(squared, rows)
print(f"held-out loss {recipe.held_out_loss(squared):.2f} (floor {recipe.floor:.2f}); exact zeros by layer {found['zeros']}")
gated = measured.shares(base, measured.stories(0, 40, "held out", "test"))
print(f"the base, SwiGLU: exact zeros {gated['zeros']}; below 1 % of the layer's largest {gated['small']}")
plots.prediction_vs_result(lab.prediction("zeros"), statistics.fmean(found["zeros"]), label="exact zeros", percent=True)

# %% [markdown]
# ### A sparse update beside a low-rank one
#
# Three families of tasks with one-word answers (those of Lab 06), 50 steps. LoRA of rank 1 beside every layer learns 1 % of the
# parameters. Your `top_updates` chooses as many single entries.

# %% ftlab="play"
lab.predict("update", "At an equal number of parameters, which scores higher on held-out tasks?", kind="choice",
            options=["low rank, by 2 points or more", "within 2 points", "sparse, by 2 points or more"])

# %% ftlab="experiment"
UPDATE_STEPS = profile.steps(measured.UPDATE_STEPS, 2)
JUDGED = profile.steps(measured.JUDGED, 2)
tuned = {kind: measured.updates(0, kind, rate, steps=UPDATE_STEPS)
         for kind, rate in (("full", measured.UPDATE_FULL_RATE), ("low rank", 4e-2), ("sparse", 0.16))}
scores = {kind: measured.score(one["model"], tokenizer, 0, JUDGED) for kind, one in tuned.items()}
print(f"the base: score {measured.score(base, tokenizer, 0, JUDGED):.2f}")
for kind, one in tuned.items():
    print(f"{kind:8} {one['parameters']:9,} parameters, score {scores[kind]:.2f}")
print(f"You predicted: {lab.prediction('update') or 'nothing'}.")

# %% [markdown]
# **What to look at:** *where* the entries stand. Each bar is the share of all entries that your function chose. By their size
# alone each kind of matrix in attention would get 8 %, each in the MLP 22 %.

# %% ftlab="experiment"
after = {name: tuned["full"]["model"].get_parameter(f"{name}.weight").detach() for name in weights}
chosen = top_updates(weights, after, tuned["sparse"]["parameters"])
kinds = {}
for name, mask in chosen.items():
    kinds.setdefault(name.split(".")[-1], []).append(int(mask.sum()))
plots.bars({kind: sum(counts) / tuned["sparse"]["parameters"] for kind, counts in kinds.items()}, percent=True,
           xlabel="share of the entries that moved most", title="where a sparse update goes")

# %% [markdown]
# ## What we measured
#
# ### Half of the weights

# %% ftlab="result" claim="C60"
lab.claim("C60", dict(zip(*curves["magnitude"]))[0.5] - dense)

# %% ftlab="experiment"
at = [entry["data"]["magnitude"] for entry in lab.study("C60")]
answered = [entry["data"]["scores"] for entry in lab.study("C60b")]
plots.lines({"held-out loss over the dense one": (measured.SPARSITIES[:6], [
    statistics.fmean(losses[i] - entry["data"]["dense"] for losses, entry in zip(at, lab.study("C60"))) for i in range(6)])},
    "sparsity", "rise (nats per token)", title="the edge of the cliff", labels=False,
    hline=(measured.LITTLE, "0.05 nats")).show()
shares = list(answered[0])
plots.lines({"the assistant": ([float(s) for s in shares], [statistics.fmean(one[s] for one in answered) for s in shares])},
            "sparsity", "score on one-word tasks", percent=True, labels=False, ylim=(0, 1),
            title="the assistant, pruned by magnitude")

# %% ftlab="result" claim="C60b"
cliff = statistics.fmean(entry["value"] for entry in lab.study("C60b"))
plots.prediction_vs_result(lab.prediction("cliff"), cliff, label="sparsity at a rise of 0.05 nats", percent=True).show()
lab.claim("C60b", cliff)

# %% [markdown]
# Large models lose half of their weights at little loss because they have many more than they need for the text they are
# judged on. This one was trained until nearly every bit of it was used. The *assistant's* score stands longer than the loss:
# the best answer stays the best while its probability falls.
#
# ### Wanda against magnitude
#
# They differ in two things: the score, and with whom a weight is compared. So there are four ways, and the two that have no
# name say which of the two matters.

# %% ftlab="experiment"
def ways(key):
    """{way: (mean, lowest, highest)} of the study's losses."""
    found = [entry["data"][key] for entry in lab.study("C61")]
    return {way: (statistics.fmean(one[way] for one in found), min(one[way] for one in found), max(one[way] for one in found))
            for way in sorted(found[0])}


plots.bars(ways("losses"), "held-out loss at 60 % (nats per token)", title="two scores, two ways to compare").show()
plots.bars(ways("spared"), "held-out loss at 60 % (nats per token)", title="the same, two matrices left dense")

# %% ftlab="result" claim="C61"
four = measured.four_ways(0)
lab.claim("C61", four["magnitude, whole matrix"] - four["wanda, row by row"])

# %% ftlab="result" claim="C61d"
lab.claim("C61d", four["magnitude, whole matrix"] - four["wanda, whole matrix"])

# %% [markdown]
# Wanda's *score* is the better one; comparing row by row is what costs. The second picture says where: two heads of the first
# layer look at a fixed distance and need few of their rotations, so 48 of the 128 rows of its query and key are zeros already.
# Over the whole matrix these go first, for nothing; row by row each of the 80 other rows loses 60 %. In a model without such
# rows, or in the next section's pattern, where everything is compared within fours, the score can show what it is worth.

# %%
for name in measured.LOOKING_BACK:
    print(f"{name}: {int((weights[name] == 0).all(dim=1).sum())} of {len(weights[name])} rows are zeros")

# %% [markdown]
# ### The price of a pattern

# %% ftlab="result" claim="C61b"
patterns = {method: measured.loss_of(0, method) for method in ("magnitude 2:4", "wanda 2:4")}
print(f"half of the weights: anywhere {dict(zip(*curves['magnitude']))[0.5]:.2f}, "
      + ", ".join(f"{method} {loss:.2f}" for method, loss in patterns.items()))
lab.claim("C61b", patterns["magnitude 2:4"] - patterns["wanda 2:4"])

# %% ftlab="result" claim="C61c"
lab.claim("C61c", measured.measure_pattern(0, None)["value"])

# %% [markdown]
# ### Recovered

# %% ftlab="result" claim="C62"
losses = [entry["data"] for entry in lab.study("C62")]
plots.bars({"dense": statistics.fmean(one["base"] for one in losses),
            "dense, tuned as long": statistics.fmean(one["losses"]["dense"] for one in losses),
            "pruned": statistics.fmean(one["pruned"] for one in losses),
            **{name: statistics.fmean(one["losses"][how] for one in losses) for how, name in (
                ("lora", "LoRA, mask reapplied"), ("masked lora", "LoRA under the mask"), ("full", "every weight that stays"))}},
           "held-out loss (nats per token)", title="60 % pruned by magnitude, then 80 steps").show()
lab.claim("C62", regained["plain"])

# %% ftlab="result" claim="C62b"
back = sum(int((one["model"].get_submodule(name).weight[~mask] != 0).sum())
           for one in (plain, recovered) for name, mask in one["masks"].items())
lab.claim("C62b", back)

# %% [markdown]
# "Dense, tuned as long" says what the texts alone bring: nothing, the base had learned them. So what the pruned models gain is
# repair.
#
# ### Activations

# %% ftlab="result" claim="C63"
for entry in lab.study("C63"):
    data = entry["data"]
    print(f"seed {entry['seed']}: squared relu, exact zeros {data['ReLU²']['zeros']}, held-out loss {data['ReLU²']['loss']:.3f};"
          f" SwiGLU, below 1 % of the largest {data['SwiGLU']['small']}, held-out loss {data['SwiGLU']['loss']:.3f}")
lab.claim("C63", statistics.fmean(found["zeros"]))

# %% [markdown]
# A zero in `down_proj`'s input saves a whole *column* of `down_proj`, for this token. "Below 1 % of the largest" depends on one
# outlier a layer, so it says less than it seems to: Lab 07's scales suffered from the same.
#
# ### Few entries, or few directions

# %% ftlab="result" claim="X12"
pairs = [entry["data"]["scores"] for entry in lab.study("X12")]
plots.bars({kind: (statistics.fmean(one[kind] for one in pairs), min(one[kind] for one in pairs),
                   max(one[kind] for one in pairs)) for kind in ("sparse", "low rank", "full")},
           "score on held-out tasks", percent=True, title="one per cent of the parameters, and all of them").show()
lab.claim("X12", scores["sparse"] - scores["low rank"])

# %% ftlab="experiment"
by_rate = [entry["data"]["losses"] for entry in lab.study("X12")]
rates = list(by_rate[0]["sparse"])
plots.u_curve({kind: ([float(r) for r in rates], [statistics.fmean(one[kind][r] for one in by_rate) for r in rates])
               for kind in ("sparse", "low rank")}, xlabel="peak learning rate (AdamW)",
              ylabel="validation loss (nats per labelled token)", title="one per cent of the parameters, two best rates")

# %% [markdown]
# A single entry moves by about the rate in each step, and few entries must do what all did before: a sparse update wants forty
# times the rate of full fine-tuning, or more (0.16 is the highest that was tried). At LoRA's rate it looks hopeless; with rates
# up to 0.04 alone this claim failed by 9 to 42 points. Lab 05 once more.
#
# The choice is not free: it took a full fine-tuning to find the entries. And a file of a sparse update holds a *place* for each
# number, LoRA's holds none.
#
# One more, here and now: entries chosen at random, as many of them.

# %% ftlab="play"
def random_update(report):
    generator = torch.Generator().manual_seed(1)
    drawn = top_updates({name: torch.zeros_like(W) for name, W in weights.items()},
                        {name: torch.rand(W.shape, generator=generator) for name, W in weights.items()},
                        tuned["sparse"]["parameters"])
    model = attach(copy.deepcopy(base), "full")
    sparse.learn_only(model, {f"{name}.weight": mask for name, mask in drawn.items()})
    report("tuning ...")
    sft.tune(model, tokenizer, measured.examples(0, measured.EXAMPLES), steps=UPDATE_STEPS, lr=0.16,
             tokens_per_batch=measured.TOKENS_PER_BATCH, callbacks=[widgets.LivePlot(title="entries chosen at random")])
    return f"score {measured.score(model, tokenizer, 0, JUDGED):.2f}; those that moved most gave {scores['sparse']:.2f}"


widgets.run_live_button("Tune entries chosen at random", random_update, note="some ten seconds")

# %% [markdown]
# ## What people get wrong
#
# **"Half of the weights are zero, so it is half the size and twice as fast."** A zero takes as many bytes as any number, and a
# dense product multiplies by it. A form that skips zeros must say where the others stand, and jumps to and fro in memory.

# %% ftlab="result" claim="M12"
times = measured.product_times()
for form, what in (("dense", "dense"), ("zeros", "dense, half of it zeros"), ("csr", "torch's CSR form, half zeros")):
    print(f"{what:30} {1000 * times['seconds'][form]:6.2f} ms, {times['bytes'][form] / 2**20:5.1f} MiB")
[ratios] = [lab.study("M12")[0]["data"]["by_sparsity"]]
print("time of CSR over dense, by share of zeros:", ratios)
lab.claim("M12", times["seconds"]["csr"] / times["seconds"]["dense"])

# %% [markdown]
# **"What is pruned stays pruned."** Not by itself: a merged LoRA fills every zero, and an optimizer moves them in its first
# step, unless the mask is applied again (the table above; C62b).
#
# **"Small weights are weights that do not matter."** They are those that matter least *if all inputs are alike*. Which score
# is the better one is a question for a measurement: C61 and C61b give two answers on one model.
#
# ## Go further
#
# **Prune your own model.** `sparse.masks(model, "wanda", 0.3, sparse.input_norms(model, rows))` and `sparse.apply` work on any
# causal model of `transformers` whose layers are `nn.Linear`.
#
# **Discuss.**
#
# 1. Every matrix lost the same share here. Which would you spare, and how would you find out without trying all?
# 2. The lottery ticket (Frankle and Carbin 2019): trained from *their own* start, the weights that stay reach the dense
#    model's loss. Which experiment with `sparse.keep` would test it here?
# 3. Squared relu gives zeros that change from token to token. What would a kernel have to know beforehand to save time by
#    them, and why is that easier when one text is written than in a batch?
# 4. Two sparse updates on one base: when can they be added? Compare with two LoRAs.
#
# **Read.**
#
# - Han et al. (2015), *Learning both Weights and Connections for Efficient Neural Networks*.
# - Frankle and Carbin (2019), *The Lottery Ticket Hypothesis*.
# - Mishra et al. (2021), *Accelerating Sparse Deep Neural Networks*: the 2:4 pattern and how to train for it.
# - Frantar and Alistarh (2023), *SparseGPT*: the weights that stay make up for those that go.
# - Sun et al. (2023), *A Simple and Effective Pruning Approach for Large Language Models*: Wanda.
# - So et al. (2021), *Primer*: squared relu; Mirzadeh et al. (2023), *ReLU Strikes Back*: what its zeros save.
# - Ansell et al. (2022), *Composable Sparse Fine-Tuning for Cross-Lingual Transfer*.

# %%
lab.progress()
