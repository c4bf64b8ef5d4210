# %% [markdown]
# # 03 · Pretraining a tiny model
#
# **The question.** A model begins as noise. A minute later it writes stories in which Tilda stays Tilda and the pink
# boat stays pink. What drove the loss down in between, how low can it go, and could we have known beforehand?
#
# You will write the loss, the training step, the schedule, the masking of a masked language model, and two instruments:
# one that reads a loss against the entropy of its source, one that foretells a larger run. Then you pretrain a model of
# 0.46 million parameters from nothing, and watch.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import math
import random
import statistics
import tempfile

import torch

import ftlab
from ftlab import profile
from ftlab.course import studies
from ftlab.model import ModelConfig, Transformer, load
from ftlab.show import plots, widgets
from ftlab.text.batching import RowBatches, collate, mask_tokens
from ftlab.text.template import alpaca
from ftlab.train import TrainConfig, optim, schedule, train
from ftlab.train.recipes import small_recipe, small_tokenizer, text_recipe
from ftlab.world import World, oracle, tasks

lab = ftlab.lab("03_pretraining")
torch.manual_seed(0)

world, tokenizer = World("small"), small_tokenizer()
stories = world.sample(200, seed=0)
rows = tokenizer.encode_batch([story.text for story in stories], bos=True, eos=True)
batch = collate(rows[:4], tokenizer.pad_id)  # input_ids and labels (4, T); labels are -100 where there is padding

# %% [markdown]
# ## Play: where does a story cost nats?
#
# The loss of a language model is its mean *surprise*, $-\log p(\text{token} \mid \text{what stands before})$, in nats
# per token. Below, a model that has read many such stories reads one more: under each token stands its surprise.
# Type, and see it move.
#
# - Which tokens are expensive, and which are nearly free? Why can no model get *pink* cheaply?
# - Change the last *boat* into *kite*, or the name in the last sentence. What does one wrong word cost?
# - Write something that is no story of this world.

# %% ftlab="play"
base, base_tokenizer = load("base")


def surprise(text):
    """[(piece, nats)] of each token of `text`, as the shipped base model reads it."""
    ids = torch.tensor([base_tokenizer.encode(text, bos=True)])
    with torch.no_grad():
        log_probs = base(ids).log_softmax(-1)  # (1, T, V)
    nats = -log_probs[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]  # row t scores token t + 1
    return [(piece, f"{abs(n):.1f}") for piece, n in zip(base_tokenizer.pieces(ids[0, 1:].tolist()), nats.tolist())]


widgets.tokenizer_box(
    surprise,
    "Once upon a time there lived a cheerful owl called Tilda. Tilda had a pink boat. On a cloudy morning, Tilda walked "
    "to the orchard with the boat. But a storm broke out, and Tilda lost the path with the boat.",
)

# %% [markdown]
# A choice that the story makes (a name, a colour) must cost about the logarithm of the number of choices, whoever
# reads it. What only repeats an earlier choice is nearly free, *once one has learnt to copy*. The world's generator
# makes these choices itself, so it knows what each story must cost: $-\log p(\text{story})$, exactly. Summed and divided
# by the number of tokens this is the **floor**, the entropy of the source, and no model can be better on new stories.

# %%
for story in stories[:2]:
    print(f"{-story.logp:5.1f} nats, {len(tokenizer.encode(story.text, eos=True))} tokens: {story.text}\n")

# %% [markdown]
# ## Build
#
# ### 1. Cross-entropy on shifted targets
#
# A causal model reads tokens $x_1 \dots x_t$ and predicts $x_{t+1}$. One pass over a row gives a prediction at *every*
# position, so a text of $T$ tokens holds $T - 1$ exercises with their answers; nobody has to label anything.
#
# $$L(\theta) = -\frac{1}{|W|} \sum_{(b, t) \in W} \log p_\theta(x_{b,t+1} \mid x_{b,1}, \dots, x_{b,t})$$
#
# $W$ are the places whose target is a real token. As in Hugging Face, labels stand *beside* their own token, and the
# loss does the shifting; a label of −100 means that no loss is due (padding, for one).

# %%
print("position  reads      must predict")
pieces = tokenizer.pieces(rows[0])
for t in range(8):
    print(f"{t:8}  {pieces[t]!r:10} {pieces[t + 1]!r}")


# %% ftlab="exercise" id="shifted_loss"
def next_token_loss(logits, labels):
    """Mean cross-entropy in nats (a tensor without axes) of logits (B, T, V) on labels (B, T); −100: no loss due.

    Write it with log_softmax and indexing, or with torch.nn.functional.cross_entropy.
    """
    ### BEGIN SOLUTION
    logits, targets = logits[:, :-1], labels[:, 1:]  # (B, T − 1, V), (B, T − 1): row t faces label t + 1
    wanted = targets != -100
    log_probs = logits[wanted].log_softmax(-1)  # (tokens, V)
    return -log_probs.gather(-1, targets[wanted][:, None]).mean()
    ### END SOLUTION


# %% ftlab="check" id="shifted_loss"
lab.check("shifted_loss", next_token_loss)

# %% ftlab="probe" id="shifted_loss"
generator = torch.Generator().manual_seed(lab.probe_seed("shifted_loss"))
probe_labels = torch.randint(0, 7, (6, 3, 6), generator=generator)  # six batches: a wrong mean is near the right one at times
probe_labels[:, 1, 4:], probe_labels[:, 2, 2:] = -100, -100
lab.probe("shifted_loss", [next_token_loss(2 * torch.randn(3, 6, 7, generator=generator), labels) for labels in probe_labels])

# %% [markdown]
# A new model gives every token of the vocabulary about the same probability. Its loss should be close to $\log V$: the
# first thing to look at in any training run.

# %%
new_model = Transformer(ModelConfig(tokenizer.vocab_size))
print(f"log V = {math.log(tokenizer.vocab_size):.3f}; a new model's loss = "
      f"{new_model.loss(batch).item():.3f} nats per token")

# %% [markdown]
# ### 2. One training step
#
# Forward, backward, clip, update. Clipping scales the whole gradient $g$ down to norm $c$ where it is longer,
# $g \leftarrow g \cdot \min(1, c / \lVert g \rVert)$, so that one odd batch cannot wreck the weights
# (Pascanu et al. 2013). The update itself is the optimizer's:
#
# **AdamW** (Kingma and Ba 2015; Loshchilov and Hutter 2019) keeps running means of each gradient entry and of its
# square, and divides the one by the root of the other, so that every entry moves by about the rate $\eta$:
# $\; m \leftarrow \beta_1 m + (1 - \beta_1) g, \;\; v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \;\;
# w \leftarrow w - \eta \left( \hat m / (\sqrt{\hat v} + \varepsilon) + \lambda w \right)$.
#
# **Muon** (Jordan et al. 2024) treats a weight matrix as a matrix: it replaces the momentum $M = U \Sigma V^\top$ by
# roughly $U V^\top$, so that every *direction* moves by about the same amount, the rare ones too. A few matrix products
# (Newton–Schulz steps) do this without a decomposition. It serves hidden matrices only; embeddings and norms stay
# with AdamW.
#
# Your step works with any optimizer that PyTorch knows. The rate comes from outside, since it changes from step to step.


# %% ftlab="exercise" id="training_step"
def training_step(model, batch, optimizer, lr, clip):
    """One update of `model` (which has .loss(batch)) at rate `lr`, the gradient's norm clipped to `clip`.

    Returns the loss before the update, as a float. The rate belongs into each of optimizer.param_groups, under "lr".
    """
    ### BEGIN SOLUTION
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.item()
    ### END SOLUTION


# %% ftlab="check" id="training_step"
lab.check("training_step", training_step)

# %% ftlab="probe" id="training_step"
torch.manual_seed(lab.probe_seed("training_step"))
probe_model = Transformer(ModelConfig(40, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=32))
probe_optimizer = torch.optim.SGD(probe_model.parameters(), lr=0.01)
probe_batches = [collate(torch.randint(4, 40, (4, 9)).tolist(), pad_id=0) for _ in range(4)]
lab.probe("training_step", [training_step(probe_model, b, probe_optimizer, lr, 0.3)
                            for b, lr in zip(probe_batches * 2, (3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 0.5))])

# %% [markdown]
# ### 3. Warmup and decay
#
# At the start the optimizer's averages know little, and a full step in a badly known direction does harm: so the rate
# rises over $w$ steps. At the end, smaller steps let the weights settle: so it falls, most often along a half cosine
# (Loshchilov and Hutter 2017). As a factor on the peak rate, at step $s = 0, \dots, S - 1$:
#
# $$f(s) = \begin{cases} (s + 1) / w & s < w \\
# \tfrac12 \left(1 + \cos \pi \dfrac{s - w}{S - w}\right) & s \ge w \end{cases}$$


# %% ftlab="exercise" id="cosine"
def cosine_with_warmup(step, steps, warmup):
    """Factor on the peak rate at `step` (0 … steps − 1), with `warmup` steps of linear rise: a float."""
    ### BEGIN SOLUTION
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)  # 0 where the warmup ends, 1 behind the last step
    return 0.5 * (1 + math.cos(math.pi * progress))
    ### END SOLUTION


# %% ftlab="check" id="cosine"
lab.check("cosine", cosine_with_warmup)

# %% ftlab="probe" id="cosine"
random.seed(lab.probe_seed("cosine"))
probe_warmup, probe_steps = random.randint(3, 9), random.randint(30, 60)
lab.probe("cosine", [cosine_with_warmup(step, probe_steps, probe_warmup) for step in range(0, probe_steps)])

# %% [markdown]
# Yours beside two others that are in use: *constant*, and *warmup–stable–decay* (Hu et al. 2024), which stays at the
# peak until near the end, so that a run can be prolonged without having known its length. Lab 05 lets them race.

# %%
S, w = 100, 10
factors = {"cosine (yours)": [cosine_with_warmup(s, S, w) for s in range(S)]}
factors |= {name: [schedule.factor(s, S, name, w) for s in range(S)] for name in ("wsd", "constant")}
plots.lines({name: (list(range(0, S, 3)), values[::3]) for name, values in factors.items()},
            "step", "factor on the peak rate", title="three schedules", ylim=(0, 1.08))

# %% [markdown]
# ### 4. The other objective: masked tokens
#
# BERT (Devlin et al. 2019) sees both sides, so it cannot be asked for the next token: it would look. Instead 15 % of the
# tokens are chosen, and the model must restore them. Of the chosen ones 80 % are shown as `<mask>`, 10 % as a random
# token and 10 % unchanged, so that the model cannot rely on seeing a mask where it is to work. Only chosen tokens
# have labels, and there is no shift: label $t$ is predicted at position $t$.
#
# The random numbers are given, so that what you write is a plain function.


# %% ftlab="exercise" id="mask_for_mlm"
def mask_for_mlm(ids, draw, dice, random_ids, mask_id):
    """(what the model is shown, labels), both (B, T) and long.

    ids (B, T): true tokens; ids 0, 1, 2 are special and never chosen. Chosen are the others where draw < 0.15.
    dice (B, T): a chosen token is shown as mask_id where dice < 0.8, as the token of random_ids (B, T) where
    0.8 <= dice < 0.9, else as itself. Labels are −100 where nothing is to be guessed.
    """
    ### BEGIN SOLUTION
    chosen = (draw < 0.15) & (ids > 2)
    shown = torch.where(dice < 0.8, mask_id, torch.where(dice < 0.9, random_ids, ids))
    return torch.where(chosen, shown, ids), torch.where(chosen, ids, -100)
    ### END SOLUTION


# %% ftlab="check" id="mask_for_mlm"
lab.check("mask_for_mlm", mask_for_mlm)

# %% ftlab="probe" id="mask_for_mlm"
generator = torch.Generator().manual_seed(lab.probe_seed("mask_for_mlm"))
probe_ids = torch.randint(0, 12, (6, 20), generator=generator)
lab.probe("mask_for_mlm", [t.tolist() for t in mask_for_mlm(
    probe_ids, torch.rand(6, 20, generator=generator) / 3, torch.rand(6, 20, generator=generator),
    torch.randint(4, 12, (6, 20), generator=generator), 3)])

# %% [markdown]
# Look at the data after masking: above what the model is shown, below what it must say, a dot where nothing is asked.

# %%
generator = torch.Generator().manual_seed(0)
ids = torch.tensor([rows[0]])
draw, dice = torch.rand(ids.shape, generator=generator), torch.rand(ids.shape, generator=generator)
shown, labels = mask_for_mlm(ids, draw, dice, torch.randint(4, 512, ids.shape, generator=generator), tokenizer.mask_id)
asked = ["·" if label == -100 else tokenizer.pieces([label])[0].strip() for label in labels[0].tolist()]
plots.tokens(list(zip(tokenizer.pieces(shown[0].tolist()), asked)), title="masked: shown above, asked below").show()

masked = mask_tokens(batch, tokenizer.mask_id, tokenizer.vocab_size, generator=generator)
print(f"One pass over four stories asks for {batch.num_tokens() - 4} tokens under the causal objective, "
      f"for {masked.num_tokens()} under the masked one.")

# %% [markdown]
# A pass costs both the same. The causal model gets some seven times as many answers out of it, and can write; the
# masked one sees both sides, and cannot. Lab 01 measured what comes of making it write all the same.

# %% [markdown]
# ### 5. Read a loss against its floor
#
# A loss of 0.41 says nothing by itself. With the floor $H$ it does: $L - H$ is what the model loses by *not knowing
# the world*, per token, and the rest is choice that nobody can foresee.
#
# $$H = \frac{\sum_i -\log p(\text{story}_i)}{\sum_i \text{tokens}_i}$$


# %% ftlab="exercise" id="gap_to_floor"
def gap_to_floor(loss, logps, token_counts):
    """How far `loss` (nats per token) stands above the floor of the same stories, in nats per token: a float.

    logps: log-probability of each story under the source (negative). token_counts: tokens of each, the end included.
    """
    ### BEGIN SOLUTION
    floor = sum(-logp for logp in logps) / sum(token_counts)
    return loss - floor
    ### END SOLUTION


# %% ftlab="check" id="gap_to_floor"
lab.check("gap_to_floor", gap_to_floor)

# %% ftlab="probe" id="gap_to_floor"
random.seed(lab.probe_seed("gap_to_floor"))
lab.probe("gap_to_floor", gap_to_floor(random.uniform(1, 2), [random.uniform(-60, -20) for _ in range(9)],
                                       [random.randint(40, 90) for _ in range(9)]))

# %% [markdown]
# The gap has a second reading. Over a whole story it is the Kullback–Leibler divergence of the world from the model,
# $D = (L - H) \cdot \text{tokens}$. A divergence never grows when one looks at less (the data-processing inequality),
# and looking only at *is this a story of the world?* gives $D \ge -\log q$, where $q$ is the share of the model's own
# stories that keep every rule. So
#
# $$q \;\ge\; e^{-(L - H) \cdot \text{tokens per story}} .$$
#
# A loss *promises* a share of faultless stories. We will hold the model to it.
#
# ### 6. Foretell a larger run
#
# Excess losses tend to fall as powers of the number of parameters $N$ and of the tokens $D$ (Kaplan et al. 2020;
# Hoffmann et al. 2022). In the simplest form
#
# $$L - H \approx A \, N^{-\alpha} D^{-\beta}, \qquad \log (L - H) = \log A - \alpha \log N - \beta \log D ,$$
#
# which is a plane between the logarithms. For real text $H$ must be guessed along with the rest; here it is known. The
# compute is $C = 6 N D$ operations: two for each parameter and token forward, four backward.


# %% ftlab="exercise" id="fit_power_law"
def fit_power_law(parameters, tokens, losses, floor):
    """(A, alpha, beta), floats, of loss − floor ≈ A · N^(−alpha) · D^(−beta): least squares between the logarithms.

    parameters (N), tokens (D), losses: lists, one entry a run. torch.linalg.lstsq(rows, targets).solution gives the
    coefficients of the columns of `rows`; take dtype=torch.float64.
    """
    ### BEGIN SOLUTION
    rows = torch.tensor([[1.0, -math.log(n), -math.log(d)] for n, d in zip(parameters, tokens)], dtype=torch.float64)
    targets = torch.tensor([math.log(loss - floor) for loss in losses], dtype=torch.float64)
    log_a, alpha, beta = torch.linalg.lstsq(rows, targets).solution.tolist()
    return math.exp(log_a), alpha, beta
    ### END SOLUTION


# %% ftlab="check" id="fit_power_law"
lab.check("fit_power_law", fit_power_law)

# %% ftlab="probe" id="fit_power_law"
random.seed(lab.probe_seed("fit_power_law"))
probe_runs = [(n, d) for n in (1e4, 2e4, 5e4) for d in (1e5, 3e5, 7e5)]
lab.probe("fit_power_law", list(fit_power_law(
    [n for n, _ in probe_runs], [d for _, d in probe_runs],
    [0.4 + 9 * n ** -0.3 * (d / 1e5) ** -0.7 * random.uniform(0.8, 1.25) for n, d in probe_runs], 0.4)))

# %% [markdown]
# ## The library does it too, and agrees
#
# From here on `ftlab.train.train` does the work: one loop with evaluation, checkpoints and callbacks. First see that it
# is your loop. Same model, same batches, your three functions against the library:

# %%
tiny = ModelConfig(tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=88)
batches = RowBatches(rows, tokens_per_batch=512, seed=0)  # batches(step) -> Batch, a function of the step alone


def new_tiny():
    torch.manual_seed(1)
    return Transformer(tiny)


mine = new_tiny()
[adamw] = optim.make(mine, "adamw", lr=3e-3)
my_losses = [training_step(mine, batches(s), adamw, 3e-3 * cosine_with_warmup(s, 20, 4), clip=1.0) for s in range(20)]
theirs = new_tiny()
history = train(theirs, batches, TrainConfig(20, lr=3e-3, optimizer="adamw", schedule="cosine", warmup=4))

with torch.no_grad():
    print("loss:    ", f"{abs(next_token_loss(mine(batch.input_ids), batch.labels) - mine.loss(batch)).item():.1e}")
print("20 steps:", f"{max(abs(a - b) for a, b in zip(my_losses, history.losses)):.1e}", "largest difference of a loss")

# %% [markdown]
# ### A run that is killed
#
# Machines stop. Every `save_every` steps the loop writes a checkpoint (weights, *optimizer state*, step, random state)
# to a file beside the old one and then renames it, so that there is always a whole one. Batches are a function of the
# step, so the resumed run sees just what it would have seen. Here a callback raises an exception in step 25, five steps
# after the last checkpoint; the same call, made again, goes on from step 20.

# %%
config = TrainConfig(40, lr=3e-3, optimizer="muon", warmup=4, save_every=10)


def power_cut(event):
    if event["kind"] == "step" and event["step"] == 25:
        raise RuntimeError("the power went out")


whole = new_tiny()
train(whole, batches, config)

with tempfile.TemporaryDirectory() as folder:
    try:
        train(new_tiny(), batches, config, callbacks=[power_cut], out=folder)
    except RuntimeError as error:
        print(f"Stopped: {error}.")
    resumed = new_tiny()  # a new process would begin like this
    starts = []
    train(resumed, batches, config, out=folder,
          callbacks=[lambda event: starts.append(event["step"]) if event["kind"] == "start" else None])

same = all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))
print(f"Resumed at step {starts[0]}. Weights equal to those of the run without a stop, bit for bit: {same}.")

# %% [markdown]
# Had we saved the weights alone, the momentum would have been lost and the two runs would part. Try it: what else
# would have to be the same?
#
# ## Predict, then pretrain
#
# 0.46 million parameters (2 layers, width 128), bare stories of the small world, each seen once, Muon, cosine with
# warmup, 800 steps: 0.8 million tokens. At ten points the loss is measured on stories whose combination of facts never
# occurs in training, and the model writes stories that the oracle judges.

# %% ftlab="play"
lab.predict("kept", "After 0.8 million tokens: what share of the model's stories keeps hero and object throughout?",
            percent=True)

# %% ftlab="play"
lab.predict("half", "At which of the 800 steps will half of its stories do so for the first time?",
            low=0, high=800, unit="steps")

# %% [markdown]
# **Your own text?** Set `TEXT` to a file, a folder or a glob of yours, or to `"python:docstrings"` (the docstrings of
# Python's standard library, which you have already), and run on from here. There is no floor then, since nobody knows
# the entropy of such text, and the oracle has nothing to say.

# %% ftlab="experiment"
TEXT = None  # or "python:docstrings", "my_book.txt", "notes/", "letters/*.txt"

STEPS = profile.steps(800, 12)
if TEXT is None:
    recipe = small_recipe(steps=STEPS, evaluations=profile.steps(10, 2))
else:
    from ftlab.text.corpus import read_texts

    recipe = text_recipe(read_texts(TEXT), steps=STEPS, evaluations=profile.steps(10, 2))
model = recipe.model()
print(f"{model.num_parameters():,} parameters; the first batch holds {recipe.batches(0).num_tokens():,} tokens")

# %% [markdown]
# **What to look at.** Three stretches: the fall to what a model can know without looking back (which words are there,
# which sentence comes next); a plateau or a slower slope; and the stretch in which it learns to *copy*. When does the
# green curve rise, and what does the loss do just then? (Lab 02 looks inside at that moment.)

# %% ftlab="experiment"
diary = {}  # step -> a story of that moment


def evaluate(model, step):
    texts = recipe.sample(model, profile.steps(100, 8), seed=step)
    diary[step] = texts[0]
    return {"loss": recipe.held_out_loss(model), **recipe.shares(texts)}


plot = widgets.LivePlot(
    floor=recipe.floor, metric="loss", title="pretraining from nothing",
    share=("hero_and_object", "hero and object kept") if recipe.world else None)
history = train(model, recipe.batches, recipe.config, evaluate=evaluate, callbacks=[plot])

# %% [markdown]
# The same model at four moments of its life, each story the first of that evaluation, with what the oracle found:

# %% ftlab="experiment"
moments = sorted(diary)
for step in sorted({moments[i * (len(moments) - 1) // 3] for i in range(4)}):
    print(f"step {step}: {diary[step]}")
    if recipe.world:
        problems = oracle.judge(diary[step], recipe.world).problems
        print("   ", "; ".join(problems[:2]) or "every rule is kept", "\n")

# %% [markdown]
# ## What we measured
#
# ### The stories

# %% ftlab="experiment"
final = recipe.shares(recipe.sample(model, profile.steps(500, 20), seed=1))
if final:
    plots.prediction_vs_result(lab.prediction("kept"), final["hero_and_object"], percent=True,
                               label="stories that keep hero and object").show()
    half = next((e["step"] for e in history.evals if e["hero_and_object"] >= 0.5), history.steps[-1])
    plots.prediction_vs_result(lab.prediction("half"), half, unit="steps",
                               label="first evaluation at which half of the stories do").show()
    print(f"every rule kept: {100 * final['every_rule']:.1f} %; {history.tokens:,} tokens in {history.seconds:.0f} s")

# %% ftlab="result" claim="C10"
if final:
    lab.claim("C10", final["hero_and_object"], every_rule=final["every_rule"], tokens=history.tokens)

# %% [markdown]
# ### The floor
#
# Your own instrument, on 400 stories that the run never saw, at each of the ten evaluations; time runs from right to
# left. The hundredths matter: where the gap is 0.05 it is as good as closed on the scale of the loss curve, and half of
# the stories still have a fault. One set of points is what the loss promises, $e^{-(L - H) \cdot \text{tokens}}$; the
# measured shares must not fall below it, sampling apart.

# %% ftlab="experiment"
held_out = world.sample(400, 1, "test")
counts = [len(ids) for ids in tokenizer.encode_batch([story.text for story in held_out], eos=True)]
logps = [story.logp for story in held_out]
if recipe.world:
    gap = gap_to_floor(recipe.held_out_loss(model), logps, counts)
    gaps = [gap_to_floor(e["loss"], logps, counts) for e in history.evals]
    per_story = statistics.fmean(counts)
    promised = [math.exp(-max(g, 0) * per_story) for g in gaps]
    plots.scatter({"hero and object kept": (gaps, [e["hero_and_object"] for e in history.evals]),
                   "every rule kept": (gaps, [e["every_rule"] for e in history.evals]),
                   "every rule kept, as promised by the loss": (gaps, promised)},
                  "held-out loss minus floor (nats per token)", "share of stories", percent_y=True, logx=True,
                  title="what a gap is worth").show()
    print(f"floor {recipe.floor:.4f}, held-out loss {recipe.floor + gap:.4f}, gap {gap:.4f} nats per token: "
          f"{gap * per_story:.2f} nats in a whole story")

# %% ftlab="result" claim="C12"
if recipe.world:
    lab.claim("C12", gap, floor=recipe.floor)

# %% [markdown]
# ### AdamW and Muon
#
# A smaller model, the same batches, the same schedule, two optimizers. **What to look at:** not the end, but the step
# at which each begins to copy. This is *one* rate for each, so it is no verdict: a method judged at another's rate is
# misjudged (Lab 05), and `ftlab bench train` gives each its best of five.

# %% ftlab="experiment"
race = {}
for name, optimizer, lr in (("AdamW", "adamw", 1e-2), ("Muon", "muon", 1e-2)):
    run = small_recipe(steps=profile.steps(240, 6), hidden_size=64, intermediate_size=176, optimizer=optimizer, lr=lr)
    race[name] = train(run.model(), run.batches, run.config, evaluate=run.evaluate(samples=0))
    print(f"{name}: held-out loss {race[name].evals[-1]['loss'] - run.floor:.3f} nats above the floor")
plots.loss_curve(race, floor=run.floor, title="64 wide: two optimizers")

# %% [markdown]
# ### A small scaling law
#
# Twelve committed runs on the *rich* world: three widths, four lengths, each with its own schedule down to zero. **What
# to look at:** on log–log axes, are the lines straight? Are they parallel?

# %% ftlab="experiment"
measured = studies.load("03_pretraining")
scaling = lab.study("C13")[0]["data"]
runs, big, floor = scaling["runs"], scaling["big"], scaling["floor"]
by_width = {}
for r in runs:
    some = by_width.setdefault(f"width {r['width']}", ([], []))
    some[0].append(r["tokens"])
    some[1].append(r["loss"] - floor)
plots.lines(by_width, "tokens", "excess loss L − H (nats per token)", logx=True, logy=True,
            title=f"{len(runs)} short runs on the rich world")

# %% ftlab="play"
best = min(r["loss"] for r in runs) - floor
lab.predict("big", f"The best of these runs ends {best:.2f} nats above the floor. Where does the same model end after four "
            "times the tokens?", low=0.0, high=round(best, 2), unit="nats")

# %% ftlab="experiment"
A, alpha, beta = fit_power_law([r["parameters"] for r in runs], [r["tokens"] for r in runs],
                               [r["loss"] for r in runs], floor)


def law(parameters, tokens):
    return A * parameters ** -alpha * tokens ** -beta


foretold, found = law(big["parameters"], big["tokens"]), big["loss"] - floor
same_width = [r for r in runs if r["width"] == big["width"]]
plots.power_law([r["compute"] for r in same_width], [r["loss"] - floor for r in same_width],
                (law(big["parameters"], 1) * (6 * big["parameters"]) ** beta, beta),  # the law at this N, in C = 6 N D
                (big["compute"], foretold), (big["compute"], found),
                title=f"your law at width {big['width']}, and the large run").show()
plots.prediction_vs_result(lab.prediction("big"), found, label="excess of the large run", unit="nats").show()
print(f"L − H ≈ {A:.3g} · N^(−{alpha:.2f}) · D^(−{beta:.2f})")
print(f"foretold {foretold:.3f}, found {found:.3f} nats above the floor: off by {100 * (foretold / found - 1):+.0f} %")

# %% ftlab="result" claim="C13"
lab.claim("C13", abs(foretold / found - 1), alpha=alpha, beta=beta)

# %% [markdown]
# **Where the law ends.** A straight line on log–log axes invites to be carried on for ever. These runs all lie in the
# stretch in which a model learns the sentences of the world, hundreds of small things one after another, the frequent
# ones first. Then comes *one* large thing, copying, and it comes all at once. Take your C10 run, on the small world,
# with the same eyes:

# %% ftlab="experiment"
if recipe.world:
    plots.lines({"held out": ([e["step"] for e in history.evals], gaps)}, "step", "held-out loss minus floor",
                logx=True, logy=True, labels=False, title="the main run: stairs, not a line").show()

# %% [markdown]
# Flat stretches and falls; one more fall still waits, for the rule about the helper. A first study of ours, fitted
# across the onset of copying, was wrong by a factor of 2 to 60. One explanation of why losses on *real* text fall
# so smoothly is that they are the sum of very many such stairs (Michaud et al. 2023).
#
# One more point of your own? The button runs it here; it should land near the law.

# %% ftlab="play"
def one_more_run():
    plot = widgets.LivePlot(floor=floor, title="width 48, 200 steps")
    new = measured.scaling_run(48, profile.steps(200, 6), seed=7, callbacks=[plot])
    return (f"{new['tokens']:,} tokens: {new['loss'] - floor:.2f} nats above the floor; "
            f"the law says {law(new['parameters'], new['tokens']):.2f}")


widgets.run_live_button("Run one more point", one_more_run, note="a few seconds")

# %% [markdown]
# ### What a pretrained model is not
#
# The shipped base was pretrained longer, on a richer world, with headings, lists, questions and answers. Ask it for
# something in the form of Alpaca (Taori et al. 2023), which it has never seen:

# %% ftlab="experiment"
per_family = profile.steps(8, 1)
asked = [task for family in tasks.FAMILIES for task in tasks.make(World("rich"), family, per_family, 0, "test")]
reading, answers = measured.instruction_scores(base, base_tokenizer, asked, seed=0)
blind, _ = measured.instruction_scores(base, base_tokenizer, asked, seed=0, read=False)
for i in (0, per_family):
    print(alpaca(asked[i].instruction, asked[i].input) + answers[i])
    print(f"   score {reading[i]:.2f}: {'; '.join(tasks.explain(asked[i], answers[i])[:2])}\n")

# %% [markdown]
# To tell whether it follows at all, it is compared with itself with the prompt *hidden*: then nothing it says can
# depend on the task, and what it scores is luck.

# %% ftlab="experiment"
plots.bars({"prompt read": statistics.fmean(reading), "prompt hidden": statistics.fmean(blind)}, percent=True,
           xlabel="mean score on five task families", title=f"the base on {len(asked)} instructions")

# %% ftlab="result" claim="C14"
lab.claim("C14", statistics.fmean(reading) - statistics.fmean(blind), tasks=len(asked))

# %% [markdown]
# It knows the language and the world, and does not know that it is being asked. Lab 04 changes that, with the very loss
# that you wrote above.
#
# ## What people get wrong
#
# > **"The aim is a loss of zero."**
#
# Then this model is on its way: the same recipe, but only 64 stories, over and over.

# %% ftlab="experiment"
few = small_recipe(steps=profile.steps(measured.MEMORISING_STEPS, 8), evaluations=profile.steps(10, 2),
                   hidden_size=measured.MEMORISING_WIDTH, intermediate_size=176)
parrot = few.model()
plot = widgets.LivePlot(floor=few.floor, metric="loss", title="64 stories, over and over")
parrot_history = train(parrot, RowBatches(few.batches.rows[:measured.MEMORISED], 1024), few.config,
                       evaluate=lambda model, step: {"loss": few.held_out_loss(model)}, callbacks=[plot])

# %% ftlab="result" claim="M02"
training_loss, held_out_loss = statistics.fmean(parrot_history.losses[-8:]), few.held_out_loss(parrot)
lab.claim("M02", min(few.floor - training_loss, held_out_loss - few.floor), training_loss=training_loss,
          held_out_loss=held_out_loss)

# %% [markdown]
# Below the floor on what it has seen, far above it on what it has not. A loss below the entropy of the source is
# possible only by remembering *which* choices were made, the one thing that does not carry over to a new story. Zero
# would mean that nothing is ever left open: the same story every time.
#
# > **"The loss hardly falls any more, so nothing is being learned."** (Or: "no loss, no learning.")
#
# Look once more at *what a gap is worth*. In the last two thirds of the main run the loss moves by some five
# hundredths, which the loss curve hardly shows, and the share of faultless stories nearly doubles: almost all that is
# left of the loss is the floor, so watch the gap and not the loss. And where the loss on an example *is* near zero, its gradient is near zero as well: that example has
# nothing left to teach, which is not the same as having taught nothing.

# %% ftlab="experiment"
if recipe.world:
    for e in (history.evals[len(history.evals) * 3 // 10 - 1], history.evals[-1]):
        print(f"step {e['step']:4}: held-out loss {e['loss']:.3f}, gap {e['loss'] - recipe.floor:.3f}, "
              f"every rule kept {100 * e['every_rule']:.0f} %")

# %% [markdown]
# ## Go further
#
# **Text of your own.** The button pretrains the same model on the docstrings of Python's standard library and lets it
# write. `TEXT` above takes any file or folder; on the command line it is
# `ftlab pretrain --text PATH --out FOLDER`, which also saves the model for `transformers`.

# %% ftlab="play"
def on_docstrings():
    from ftlab.text.corpus import read_texts

    own = text_recipe(read_texts("python:docstrings"), steps=profile.steps(400, 6))
    model = own.model()
    train(model, own.batches, own.config, evaluate=own.evaluate(), callbacks=[widgets.LivePlot(title="docstrings")])
    return own.sample(model, 1, seed=0, temperature=0.8, max_new_tokens=150)[0]


widgets.run_live_button("Pretrain on Python's docstrings", on_docstrings, note="about a minute")

# %% [markdown]
# **Discuss.**
#
# 1. On real text nobody knows $H$. What would you plot, and how would you tell a model that is near its floor from one
#    that is too small?
# 2. At equal tokens the larger model is ahead, at equal compute often the smaller one. For a fixed
#    amount of compute, what decides between a larger model and more text? What changes if the model will be *used* a
#    billion times?
# 3. Our held-out stories are new combinations of known facts. What would you hold out to ask whether a model has learnt
#    to copy *any* name?
#
# **Read.**
#
# - Radford, Wu, Child, Luan, Amodei, Sutskever (2019), *Language Models are Unsupervised Multitask Learners*.
# - Devlin, Chang, Lee, Toutanova (2019), *BERT*: sections 3.1 and C.2 on masking.
# - Kaplan et al. (2020), *Scaling Laws for Neural Language Models*; Hoffmann et al. (2022), *Training Compute-Optimal
#   Large Language Models*, which found other exponents, and section 3 says why.
# - Michaud, Liu, Girit, Tegmark (2023), *The Quantization Model of Neural Scaling*: many stairs make a slope.
# - Olsson et al. (2022), *In-context Learning and Induction Heads*: the jump that you have seen.
# - Jordan et al. (2024), *Muon: An optimizer for hidden layers in neural networks*; Karpathy's talk *Let's reproduce
#   GPT-2 (124M)* (2024) builds a full-sized run from nothing.

# %%
lab.progress()
