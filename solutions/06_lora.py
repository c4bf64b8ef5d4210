# %% [markdown]
# # 06 · LoRA: a small correction beside a large matrix
#
# **The question.** Full fine-tuning moves every weight, keeps an optimizer's state for each, and leaves a second copy of the
# whole model for each task. But how *rich* is the change that it makes? If it is poor, something small will do. How small,
# beside which matrices, at which rate, and what does it cost in quality?
#
# You will write the layer with its dropout, its start, the attaching, merging and unmerging, the count of parameters and the
# swap of two adapters; see that yours is what PEFT does; and measure what people say of ranks, alphas and bases.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import copy
import pathlib
import random
import statistics
import tempfile

import torch
from torch import nn

import ftlab
from ftlab import profile
from ftlab.course import checks, studies
from ftlab.model import load
from ftlab.model.ask import ask
from ftlab.show import plots, widgets
from ftlab.text.examples import Example
from ftlab.tune import attach, files, sft
from ftlab.tune import lora as library
from ftlab.tune.bases import lab_base
from ftlab.world import World, tasks

torch.manual_seed(0)
lab = ftlab.lab("06_lora")
measured = studies.load("06_lora")
known = checks.load("06_lora")
base, tokenizer = lab_base(measured.BASE)
STEPS = profile.steps(measured.STEPS, 4)
JUDGED = profile.steps(40, 2)

# %% [markdown]
# ## Play: how rich is a change?
#
# First an ordinary full fine-tuning, every weight free. Then the question: what did it change? For each matrix,
# $\Delta W = W_\text{after} - W_\text{before}$, and its singular values
# $\sigma_1 \ge \sigma_2 \ge \dots$: how much the change does along each of its directions. Its *energy* is
# $\sum_i \sigma_i^2$; a matrix of rank $r$ keeps the first $r$ of them, and none does better (Eckart and Young 1936).

# %% ftlab="experiment"
full = measured.run(0, "full", 4e-3, steps=STEPS)
deltas = {name.removesuffix(".weight"): delta for name, delta in measured.updates(full["model"]).items()}
CORNER = 32


def cut(name, rank):
    """A corner of the update `name`, cut to `rank`, as rows of numbers."""
    u, s, v = torch.linalg.svd(deltas[name], full_matrices=False)
    return ((u[:CORNER, :rank] * s[:rank]) @ v[:rank, :CORNER]).tolist()


print(f"full fine-tuning, {len(full['losses'])} steps: loss {full['losses'][0]:.2f} -> "
      f"{statistics.fmean(full['losses'][-10:]):.2f} nats per labelled token")

# %% [markdown]
# Drag the rank. **What to look at:**
#
# - At which rank can you no longer tell the two squares apart? How many of the bars are filled then?
# - Which matrices have the steepest bars? Which parameters would rank 4 take of the largest matrix?
# - From which rank on do two thin matrices hold *more* numbers than the one they stand for?

# %% ftlab="play"
widgets.rank_view(
    {name: {"shape": tuple(delta.shape), "values": torch.linalg.svdvals(delta).tolist(),
            "picture": delta[:CORNER, :CORNER].tolist()} for name, delta in deltas.items()},
    cut, [1, 2, 4, 8, 16, 32, 64, 128], rank=4)

# %% [markdown]
# ## Build
#
# ### 1. The layer
#
# LoRA (Hu et al. 2021) learns the small matrix from the start, in its factored form. Beside a frozen
# $W \in \mathbb{R}^{n \times k}$ stand $A \in \mathbb{R}^{r \times k}$ and $B \in \mathbb{R}^{n \times r}$, with $r$ far below
# $n$ and $k$:
#
# $$h = W x + \frac{\alpha}{r}\, B A\, x .$$
#
# The factor $\alpha / r$ keeps the size of the update about the same when only $r$ changes. **Dropout**, where it is used,
# acts on the $x$ that $A$ reads and on nothing else: the frozen layer sees everything.


# %% ftlab="exercise" id="layer"
def lora_linear(x, W, A, B, alpha, keep=None):
    """The output (T, n) of a linear layer with LoRA for x (T, k). W: (n, k), A: (r, k), B: (n, r).

    keep: None, or dropout's mask (T, k), with what is kept scaled up already: the update reads x * keep.
    """
    ### BEGIN SOLUTION
    thin = x if keep is None else x * keep
    return x @ W.T + (alpha / A.shape[0]) * (thin @ A.T) @ B.T
    ### END SOLUTION


# %% ftlab="check" id="layer"
lab.check("layer", lora_linear)

# %% ftlab="probe" id="layer"
torch.manual_seed(lab.probe_seed("layer"))
lab.probe("layer", [lora_linear(torch.randn(3, 5), torch.randn(5, 5), torch.randn(2, 5), torch.randn(5, 2), 6.0, keep)
                    for keep in (None, 2.0 * (torch.rand(3, 5) > 0.5))])

# %% [markdown]
# ### 2. Its start
#
# The model should start as the base: $B A = 0$. With $\Delta = \frac{\alpha}{r} B A$ and the gradient $G$ at $\Delta$, the chain
# rule gives $\partial L / \partial B = \frac{\alpha}{r} G A^\top$ and $\partial L / \partial A = \frac{\alpha}{r} B^\top G$. So
# one of the two may be zero. Not both, or else. LoRA chooses $B$; let $A$ have normal entries of standard deviation
# $1 / \sqrt{k}$, so that $A x$ is as large as $x$ is.


# %% ftlab="exercise" id="start"
def lora_start(r, k, n):
    """(A, B), two tensors: A (r, k), normal with mean 0 and standard deviation 1 / sqrt(k); B (n, r), zeros."""
    ### BEGIN SOLUTION
    return torch.randn(r, k) / k ** 0.5, torch.zeros(n, r)
    ### END SOLUTION


# %% ftlab="check" id="start"
lab.check("start", lora_start)

# %% ftlab="probe" id="start"
random.seed(lab.probe_seed("start"))
torch.manual_seed(0)
probe_r, probe_k, probe_n = random.randint(20, 60), random.randint(400, 900), random.randint(100, 300)
probe_A, probe_B = lora_start(probe_r, probe_k, probe_n)
lab.probe("start", {"A": list(probe_A.shape), "B": list(probe_B.shape), "largest of B": float(probe_B.abs().max()),
                    "spread of A": round(10 * float(probe_A.std()) * probe_k ** 0.5)})

# %% [markdown]
# ### 3. Attach it to chosen modules
#
# Every parameter that is there stops learning; then the chosen linear layers give way to adapted ones. A layer is chosen by
# the **last part** of its name: `"q_proj"` chooses `layers.0.self_attn.q_proj` and `layers.1.self_attn.q_proj`, and not
# `q_proj_norm`. `make(linear)` builds the adapted layer around the old one.


# %% ftlab="exercise" id="attach"
def attach_lora(model, target_modules, make):
    """The model, changed in place: frozen, with make(layer) in the place of each nn.Linear that is chosen.

    target_modules: a list of last parts of names.
    """
    ### BEGIN SOLUTION
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.split(".")[-1] in target_modules:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, make(module))
    return model
    ### END SOLUTION


# %% ftlab="check" id="attach"
lab.check("attach", attach_lora)

# %% ftlab="probe" id="attach"
random.seed(lab.probe_seed("attach"))
probe_depth = random.randint(2, 9)
lab.probe("attach", [known.run_attach(attach_lora, probe_depth, chosen) for chosen in (["q_proj"], ["v_proj", "q_proj"])])

# %% [markdown]
# ### 4. Merge and unmerge
#
# $W' = W + \frac{\alpha}{r} B A$ is a matrix like $W$. Put it in the place of $W$, and the adapted model costs what the base
# costs: no second path, no latency. Subtract the same, and the base is back.


# %% ftlab="exercise" id="merge"
def merge(W, A, B, alpha, sign=1):
    """W (n, k) with the update of A (r, k) and B (n, r) added; with sign = −1, taken away."""
    ### BEGIN SOLUTION
    return W + sign * (alpha / A.shape[0]) * (B @ A)
    ### END SOLUTION


# %% ftlab="check" id="merge"
lab.check("merge", merge)

# %% ftlab="probe" id="merge"
torch.manual_seed(lab.probe_seed("merge"))
lab.probe("merge", [merge(torch.randn(4, 4), torch.randn(2, 4), torch.randn(4, 2), 6.0, sign) for sign in (1, -1)])

# %% [markdown]
# ### 5. How many parameters?
#
# "LoRA trains 0.1 % of the parameters" depends on the rank, on the model's width and on which layers are chosen. Count.


# %% ftlab="exercise" id="count"
def count_lora(shapes, target_modules, r):
    """Number of parameters that learn, an int. shapes: {full name: (n, k)}; target_modules: last parts of names."""
    ### BEGIN SOLUTION
    return sum(r * (n + k) for name, (n, k) in shapes.items() if name.split(".")[-1] in target_modules)
    ### END SOLUTION


# %% ftlab="check" id="count"
lab.check("count", count_lora)

# %% ftlab="probe" id="count"
random.seed(lab.probe_seed("count"))
probe_shapes = {f"layers.{i}.{name}": (random.randint(9, 99), random.randint(9, 99))
                for i in range(3) for name in ("q_proj", "up_proj", "down_proj")}
lab.probe("count", [count_lora(probe_shapes, chosen, 3) for chosen in (["q_proj"], ["q_proj", "down_proj"])])

# %%
every = sorted({name.split(".")[-1] for name in library.targets(base)})
shapes = {name: tuple(library.matrix(base.get_submodule(name)).shape) for name in library.targets(base)}
plots.lines({f"{len(chosen)} of {len(every)} kinds of layer": (
    [1, 2, 4, 8, 16, 32], [count_lora(shapes, chosen, r) / base.num_parameters() for r in (1, 2, 4, 8, 16, 32)])
    for chosen in (every, ["q_proj", "v_proj"])}, "rank", "parameters that learn", logx=True, percent=True,
    title="beside every linear layer, and beside query and value", ylim=(0, 0.4))

# %% [markdown]
# ### 6. Swap two adapters on one base
#
# An adapter is a few small tensors. To change the task, write other numbers into them; the base stays where it is. Whoever
# swaps keeps what was there, or there is no way back. `state` is a dict {name of the parameter: tensor} of all parameters with
# `lora_` in their name.


# %% ftlab="exercise" id="swap"
def swap(model, state):
    """Write the tensors of `state` into the model's LoRA parameters; returns those that were there, as another state."""
    ### BEGIN SOLUTION
    before = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                before[name] = p.clone()
                p.copy_(state[name])
    return before
    ### END SOLUTION


# %% ftlab="check" id="swap"
lab.check("swap", swap)

# %% ftlab="probe" id="swap"
probe_swapped = known.run_swap(swap, lab.probe_seed("swap"))
lab.probe("swap", {part: {name: value for name, value in probe_swapped[part].items()} for part in ("there", "back")})

# %% [markdown]
# ## The library does it too, and agrees
#
# PEFT puts the same layer into the same model. One base, one batch of instructions, the same numbers in $A$ and $B$ (not zero:
# at the start everything agrees with everything). Compared is in float64, since in float32 this base alone, its sums taken in
# another order, moves its logits by 1e-4.

# %%
ours, batch = measured.shaken(0)
theirs = measured.with_peft(ours)
first = next(iter(library.layers(ours)))  # the name of the first layer that was adapted
layer, peft_layer = ours.get_submodule(first), theirs.get_submodule(first)
print("PEFT's layer:", type(peft_layer).__module__)
x = torch.randn(5, layer.lora_A.shape[1], dtype=torch.float64, device=layer.lora_A.device)
with torch.no_grad():
    frozen = library.matrix(layer.base)  # W
    mine = lora_linear(x, frozen, layer.lora_A, layer.lora_B, 16)
    print(f"your layer against ftlab's {(mine - layer(x)).abs().max():.0e}, against PEFT's "
          f"{(mine - peft_layer(x)).abs().max():.0e}")
    W = merge(frozen, layer.lora_A, layer.lora_B, 16)
    print(f"your merged weight against ftlab's {(W - library.matrix(layer)).abs().max():.0e}; yours unmerged against the base's "
          f"{(merge(W, layer.lora_A, layer.lora_B, 16, -1) - frozen).abs().max():.0e}")
names = [name.split(".")[-1] for name in library.targets(base)]
print(f"parameters: you count {count_lora(shapes, names, 8):,}, PEFT "
      f"{sum(p.numel() for p in theirs.parameters() if p.requires_grad):,}")

# %% ftlab="result" claim="C22"
same = measured.measure_same(0, None)
lab.claim("C22", same["value"], logits=same["logits"], gradients=same["gradients"])

# %% ftlab="result" claim="C23"
merging = measured.measure_merge(0, None)
lab.claim("C23", merging["value"], logits=merging["logits"], weights=merging["weights"])

# %% [markdown]
# ## Predict, then run
#
# Now train one. Rank 4 beside every linear layer: 4 % of the parameters. Above, full fine-tuning has had its run at a
# good rate of its own; LoRA gets one at which full fine-tuning does badly.

# %% ftlab="play"
lab.predict("close", "By how much will LoRA of rank 4 fall short of full fine-tuning, in points of score (of 100)?", low=-20,
            high=60, unit="points")

# %% ftlab="experiment"
plot = widgets.LivePlot(title="LoRA, rank 4")
mine = measured.lora(0, measured.LORA_RATE, steps=STEPS, callbacks=[plot])
scores = {name: measured.score(model, tokenizer, 0, judged=JUDGED)
          for name, model in (("base", base), ("LoRA, rank 4", mine["model"]), ("full", full["model"]))}
for name, value in scores.items():
    print(f"{name:13} {value:.3f}")
plots.loss_curve({name: (list(range(1, len(one["losses"]) + 1)), one["losses"])
                  for name, one in (("LoRA, rank 4", mine), ("full", full))}, title="two ways to the same task")

# %% ftlab="experiment"
plots.prediction_vs_result(lab.prediction("close"), 100 * (scores["full"] - scores["LoRA, rank 4"]),
                           label="full minus LoRA", unit="points")

# %% [markdown]
# ### Two tasks, one base
#
# Two small runs, one that classifies endings and one that extracts a fact, each saved to a file in PEFT's format.

# %% ftlab="experiment"
folder = pathlib.Path(tempfile.mkdtemp())
sizes = {}
for task in ("classify", "extract"):
    one = measured.lora(0, measured.LORA_RATE, steps=STEPS, families=(task,))
    sizes[task] = files.save_adapter(one["model"], folder / task, measured.BASE)
print({task: f"{size / 1024:.0f} KiB" for task, size in sizes.items()},
      f"the base: {4 * base.num_parameters() / 1024:.0f} KiB")
hosts = copy.deepcopy(base)  # the one base on which both will live

# %% [markdown]
# Choose a prompt, or write one, and click an adapter: the answer is made now, in this kernel. **What to look at:** what the
# *wrong* adapter makes of a prompt. Has it forgotten what the base could do, or does it answer another question?

# %% ftlab="play"
asked = [task for family in ("classify", "extract") for task in tasks.make(World("rich"), family, 2, "swap", "test")]


def answer(prompt, adapter):
    """The answer to a prompt (the instruction, an empty line, the story) with an adapter put on the base."""
    instruction, _, story = prompt.partition("\n\n")
    model = base if adapter == "the base" else files.load_adapter(hosts, folder / adapter)
    return ask(model, tokenizer, [Example(instruction, "", story)], max_new_tokens=16)[0]


widgets.swap_view(["the base", "classify", "extract"], answer, [f"{task.instruction}\n\n{task.input}" for task in asked])

# %% ftlab="result" claim="C29"
[swapped] = [entry["data"] for entry in lab.study("C29")]
print(f"files of {swapped['bytes']} bytes beside a base of {swapped['base_bytes']:,}; a swap takes "
      f"{1000 * swapped['swap_seconds']:.0f} ms; own task {swapped['own']}, the other's {swapped['other']}")
again = {}
for task in ("classify", "extract", "classify"):
    some = tasks.make(World("rich"), task, profile.steps(20, 2), "again", "test")
    files.load_adapter(hosts, folder / task)
    answers = ask(hosts, tokenizer, some, max_new_tokens=16)
    changed = sum(a != b for a, b in zip(again.setdefault(task, answers), answers))
lab.claim("C29", changed)

# %% [markdown]
# ## What we measured
#
# ### Poor changes

# %% ftlab="result" claim="C24"
spectra = {"AdamW": lab.study("C24"), "Muon": lab.study("C24b")}
plots.bars({f"{name}, {matrix.removeprefix('layers.').removesuffix('.weight')}": share
            for name, runs in spectra.items() for matrix, share in runs[0]["data"]["by_matrix"].items()
            if "layers.0" in matrix}, "energy in a quarter of the directions", percent=True, threshold=0.9).show()
lab.claim("C24", statistics.fmean(measured.energy_in(delta, 0.25) for delta in deltas.values()))

# %% ftlab="result" claim="C24b"
lab.claim("C24b", lab.study("C24b")[0]["value"])

# %% [markdown]
# Each step of Muon moves a matrix along *all* directions alike (that is what orthogonalising means). Is what fifty such
# steps add up to poor nevertheless? The bars tell.
#
# ### Rank

# %% ftlab="play"
lab.predict("rank", "Rank 8 against rank 32, four times the parameters: how many points of score does the larger gain?",
            low=-10, high=30, unit="points")

# %% ftlab="experiment"
knee = [entry["data"]["scores"] for entry in lab.study("C25")]
ranks = list(measured.RANKS)
plots.lines({"mean of the seeds": (ranks, [statistics.fmean(s[str(r)] for s in knee) for r in ranks],
                                   [min(s[str(r)] for s in knee) for r in ranks],
                                   [max(s[str(r)] for s in knee) for r in ranks])}, "rank", "score", logx=True,
            percent=True, title="score against rank, one rate, alpha = 2 r").show()
gain = statistics.fmean(s["32"] - s["8"] for s in knee)
plots.prediction_vs_result(lab.prediction("rank"), 100 * gain, label="rank 32 minus rank 8", unit="points")

# %% ftlab="result" claim="C25"
lab.claim("C25", lab.study("C25")[0]["value"])

# %% [markdown]
# The rise from rank 1 is there. What comes behind rank 8 is no plateau: all ranks were run at one rate, and the largest did
# *worse*. Is that the rank, or a rate too high for it? Take rank 32 at half the rate and see.

# %% [markdown]
# ### Which matrices
#
# The paper put LoRA beside query and value. At an *equal number of parameters*, is that the best place?

# %% ftlab="result" claim="C26"
for entry in lab.study("C26"):
    data = entry["data"]
    print(f"all linear layers {data['all']:.3f}, query and value {data['query_value']:.3f} (parameters {data['parameters']})")
lab.claim("C26", lab.study("C26")[0]["value"])

# %% [markdown]
# ### Against full fine-tuning, each at its own rate

# %% ftlab="experiment"
curves = {}
for name, key in (("LoRA, rank 4", "lora"), ("full", "full")):
    found = [entry["data"][key] for entry in lab.study("C46")]
    rates = list(found[0])
    curves[name] = ([float(r) for r in rates], [statistics.fmean(f[r] for f in found) for r in rates],
                    [min(f[r] for f in found) for r in rates], [max(f[r] for f in found) for r in rates])
plots.u_curve(curves, xlabel="peak learning rate (AdamW)", ylabel="validation loss (nats per labelled token)",
              title="two Us")

# %% ftlab="result" claim="C27"
lab.claim("C27", scores["LoRA, rank 4"] - scores["full"])

# %% ftlab="result" claim="C46"
lab.claim("C46", lab.study("C46")[0]["value"])

# %% [markdown]
# Whoever gives LoRA the rate of full fine-tuning concludes that it hardly learns; whoever gives full fine-tuning that of LoRA
# concludes that LoRA is better. Lab 05 said it: a method judged at another's rate is misjudged.
#
# ### Alpha is a second learning rate
#
# AdamW moves $A$ and $B$ by steps of about the rate, whatever the size of the gradient; $\alpha / r$ says how much of that
# reaches $W'$.

# %% ftlab="result" claim="C30"
for entry in lab.study("C30"):
    print("best rate by alpha:", {alpha: f"{rate:.3g}" for alpha, rate in entry["data"]["best"].items()})
lab.claim("C30", lab.study("C30")[0]["value"])

# %% [markdown]
# ### What is forgotten
#
# Both learn the same task; on the way the loss on bare stories, which the base knew, rises. Compared is the rise at the moment
# when both are *equally good* at the new task.

# %% ftlab="result" claim="C28"
lost = lab.study("C28")[0]["data"]
plots.lines({name: ([e["loss"] for e in lost[key]], [e["stories"] for e in lost[key]])
             for name, key in (("LoRA, rank 4", "lora"), ("full", "full"))}, "loss on the new task",
            "loss on bare stories", title="new task against old knowledge (a run goes to the left)",
            vline=(lost["level"], "compared here")).show()
for rates, entry in zip([entry["data"]["rates"] for entry in lab.study("C27")], lab.study("C28")):
    print(f"seed {entry['seed']}: " + ", ".join(
        f"{name} at rate {rate:g} forgot {entry['data']['forgotten'][key]:.2f}"
        for name, key, rate in zip(("LoRA", "full"), ("lora", "full"), rates)))
lab.claim("C28", lab.study("C28")[0]["value"])

# %% [markdown]
# The seeds disagree, and the rates beside them say why: each method ran at the rate that was best for the *new* task, among
# several that were nearly as good. Where that was a small one little was forgotten, where it was a large one much, whichever
# the method.

# %% [markdown]
# ## What people get wrong
#
# **"The rank is the number of update matrices, 8 at least."** It is the inner dimension of each pair. The number of pairs is
# the number of chosen layers, the same at rank 1 and at rank 32, and rank 1 trains.

# %% ftlab="result" claim="M01"
pairs = lab.study("M01")[0]["data"]
print(f"pairs of matrices by rank: {pairs['pairs']}; score of the base {pairs['base']:.3f}, of rank 1 {pairs['rank_1']:.3f}")
lab.claim("M01", lab.study("M01")[0]["value"])

# %% [markdown]
# **"A larger rank is always better."**

# %% ftlab="result" claim="M10"
lab.claim("M10", lab.study("M10")[0]["value"])

# %% [markdown]
# **"A LoRA fits any model of the same shape."** $\Delta W$ is written in the base's own coordinates. The *stranger* below is the
# same model with its 128 hidden channels in another order: but for rounding it computes the same function, as another seed of
# pretraining might have ended there. The *relative* is the base after a short full fine-tuning on something else. Which of the
# two can use the LoRA?

# %% ftlab="play"
lab.predict("stranger", "On which model does the LoRA still work?", kind="choice",
            options=["on both", "on the relative only", "on the stranger only", "on neither"])

# %% ftlab="experiment"
shipped, _ = load(measured.BASE)  # the one whose channels are known, whatever base the lab runs on
other, ids = measured.stranger(shipped), batch.input_ids % shipped.config.vocab_size
with torch.no_grad():
    difference = (other(ids) - shipped(ids)).abs().max().item()
print(f"the stranger's logits differ from the base's by {difference:.0e} at most")
fit = [entry["data"] for entry in lab.study("M06")]
plots.bars({name: statistics.fmean(data[key] for data in fit) for name, key in (
    ("its own base", "base"), ("a relative", "relative"), ("the relative without it", "relative_without"),
    ("the stranger", "stranger"), ("the stranger without it", "stranger_without"))}, "score", percent=True).show()
print(f"You predicted: {lab.prediction('stranger') or 'nothing'}.")

# %% ftlab="result" claim="M06"
lab.claim("M06", lab.study("M06")[0]["value"])

# %% [markdown]
# ## Go further
#
# **Examples of your own.** `ftlab tune lora --data FILE --out FOLDER --rank 8 --alpha 16 --target-modules q_proj v_proj` makes
# an adapter that `peft.PeftModel.from_pretrained` loads; `--merge` makes a whole model. The button does the same here, on
# examples that you can replace.

# %% ftlab="play"
def my_lora(report):
    rows = [tasks.make(World("rich"), "extract", 60, "mine")][0]  # or ftlab.text.examples.read_examples("my.jsonl")
    model = attach(copy.deepcopy(base), "lora", r=2, lora_alpha=4)
    report(f"{model.num_parameters(trainable=True):,} parameters learn ...")
    history = sft.tune(model, tokenizer, rows, steps=profile.steps(60, 3), lr=measured.LORA_RATE,
                       callbacks=[widgets.LivePlot(title="rank 2, your examples")])
    return f"loss {history.losses[0]:.2f} -> {history.losses[-1]:.2f} nats per labelled token"


widgets.run_live_button("Tune a LoRA of rank 2", my_lora, note="some ten seconds")

# %% [markdown]
# **Discuss.**
#
# 1. A service has one base and a thousand customers, each with a LoRA. Merge or swap? What if two requests of different
#    customers stand in one batch?
# 2. Two LoRAs on one base: what does adding their updates give, and when would you expect it to work?
# 3. The frozen base needs no gradient of its weights, so a step costs four operations a parameter and token in place of six.
#    Where, then, does most of the memory that LoRA saves come from?
#
# **Read.**
#
# - Hu et al. (2021), *LoRA: Low-Rank Adaptation of Large Language Models*; section 7 asks what the update looks like.
# - Aghajanyan et al. (2020), *Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning*.
# - Biderman et al. (2024), *LoRA Learns Less and Forgets Less*: where it does not come close, and what it keeps.
# - Kalajdzievski (2023), *A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA*: why perhaps α / √r.
# - Hayou et al. (2024), *LoRA+*: two rates, one for each matrix.

# %%
lab.progress()
