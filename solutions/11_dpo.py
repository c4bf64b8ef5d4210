# %% [markdown]
# # 11 · DPO, and RLHF against DPO
#
# **The question.** Lab 10 went a long way round: people compare answers, a reward model learns from the comparisons, the
# policy writes, the reward model marks, PPO pushes. Must one take that way? DPO takes the comparisons and changes the policy
# at once, by a loss that looks like any other. What has it left out, and what does that cost? The same pairs, the same start,
# both methods, side by side.
#
# You will write the log-probability of a response, the loss and two variants of it, and the reward that hides in the policy;
# see that yours is what TRL does; train by it; read off the two methods' utility at the same distance from the start; and put
# a name to what went wrong where something did.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import copy
import json
import pathlib
import random
import statistics
import tempfile

import torch
import torch.nn.functional as F

import ftlab
from ftlab import profile
from ftlab.align import annotators, judge, pairs, preferences, with_trl
from ftlab.align import dpo as library
from ftlab.course import checks, studies
from ftlab.model import load
from ftlab.model.ask import ask
from ftlab.show import plots, widgets
from ftlab.train import TrainConfig, train
from ftlab.world import World, tasks

torch.manual_seed(0)
lab = ftlab.lab("11_dpo")
measured, rlhf, known = studies.load("11_dpo"), studies.load("10_rlhf"), checks.load("11_dpo")
assistant, tokenizer = rlhf.start()  # where both methods start, and the reference of both
BETA = measured.BETA

# %% [markdown]
# ## Play: a language model that scores
#
# Below are two answers to one prompt, as an annotator ranked them, and two models: the assistant, and the same model after
# DPO. DPO gave it no score, no head, no number to put out. Yet ask of every token: *how much likelier has training made you?*
# The color is $\beta \log \frac{\pi(\text{token})}{\pi_\text{ref}(\text{token})}$.
#
# **What to look at:**
#
# - Which of the two answers has the higher sum? Do the model and the annotator agree?
# - Where is it decided? By a few tokens, or by all of them a little? Look for dialogue, for the ending, for what was asked for.
# - Change `PAIR` and run the cell again, until you find a pair that the model ranks the other way round.

# %% ftlab="play"
PAIR = 0
aligned, _ = load("aligned-dpo")
ranked = rlhf.test_pairs()[PAIR]
two = {name: side[0] for name, side in zip(("chosen", "rejected"), pairs.pair_rows([ranked], tokenizer))}
print(ranked.prompt)
widgets.token_rewards_view({name: tokenizer.pieces(ids[begin:]) for name, (ids, begin) in two.items()},
                           {name: library.token_rewards(aligned, assistant, row, BETA) for name, row in two.items()})

# %% [markdown]
# ## Build
#
# ### Where the loss comes from
#
# Four steps (Rafailov et al. 2023, eq. 3 to 7). RLHF looks for the policy of the highest reward that stays near the reference:
#
# $$\max_\pi\; \mathbb{E}_{y \sim \pi}\, r(x, y) - \beta\, \mathrm{KL}\big(\pi(\cdot|x)\,\|\,\pi_\text{ref}(\cdot|x)\big)
# \tag{1}$$
#
# 1. **Write it as one KL.** Divided by $-\beta$, (1) asks for the minimum of
#    $\mathbb{E}_{y \sim \pi} \log \dfrac{\pi(y|x)}{\pi_\text{ref}(y|x)\, e^{r(x, y)/\beta}}$. The denominator is a
#    distribution, but for its sum $Z(x) = \sum_y \pi_\text{ref}(y|x)\, e^{r(x, y)/\beta}$. A KL is
#    smallest, 0, where the two are equal:
#
#    $$\pi^*(y|x) = \frac{1}{Z(x)}\, \pi_\text{ref}(y|x)\, e^{r(x, y)/\beta} \tag{2}$$
#
#    So the goal of all that reinforcement is known beforehand. It only cannot be computed: $Z$ sums over all texts.
# 2. **Solve it for the reward:**
#
#    $$r(x, y) = \beta \log \frac{\pi^*(y|x)}{\pi_\text{ref}(y|x)} + \beta \log Z(x) \tag{3}$$
#
# 3. **Compare.** Bradley and Terry's annotator sees differences only:
#    $P(y_w \succ y_l) = \sigma\big(r(x, y_w) - r(x, y_l)\big)$. Both answers have the same $x$, and $Z(x)$ is gone.
# 4. **Maximum likelihood**, for the policy in place of a reward model:
#
#    $$L = -\log \sigma\!\left(\beta \log \frac{\pi(y_w|x)}{\pi_\text{ref}(y_w|x)}
#    - \beta \log \frac{\pi(y_l|x)}{\pi_\text{ref}(y_l|x)}\right) \tag{4}$$
#
# What step 4 needs, then, is the log-probability of a response, four times.
#
# ### 1. The log-probability of a response
#
# $\log \pi(y|x) = \sum_t \log \pi(y_t \mid x, y_{<t})$: a **sum**, over the response's tokens **only**. Prompts and responses
# stand in one row of ids, and rows of a batch are padded to one length; so three things must be left out, or not left out, by
# exactly one place.


# %% ftlab="exercise" id="logprobs"
def response_logprobs(logits, ids, starts, lengths):
    """log π(response | prompt) of each row, a tensor (B,), in nats.

    logits (B, T, V): at place t, what the model says of the token at t + 1. ids (B, T): prompt, response, padding.
    starts (B,): place of the response's first token. lengths (B,): number of tokens of the row without its padding.
    """
    ### BEGIN SOLUTION
    logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]  # (B, T − 1), of the tokens at 1 to T − 1
    places = torch.arange(1, ids.shape[1])  # where those tokens stand
    mask = (places >= starts[:, None]) & (places < lengths[:, None])  # (B, T − 1)
    return (logp * mask).sum(1)
    ### END SOLUTION


# %% ftlab="check" id="logprobs"
lab.check("logprobs", response_logprobs)

# %% ftlab="probe" id="logprobs"
lab.probe("logprobs", [response_logprobs(*case) for case in known.texts(lab.probe_seed("logprobs"), 3, 4)])

# %% [markdown]
# ### 2. The loss
#
# Formula (4), the mean over pairs. Only the policy learns; the reference is what it was, and no gradient goes there.


# %% ftlab="exercise" id="loss"
def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    """The DPO loss, one number, the mean over pairs.

    All (B,): log-probabilities of the chosen and of the rejected responses, under the policy and under the reference.
    """
    ### BEGIN SOLUTION
    margin = beta * ((chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach()))  # (B,)
    return -F.logsigmoid(margin).mean()
    ### END SOLUTION


# %% ftlab="check" id="loss"
lab.check("loss", dpo_loss)

# %% ftlab="probe" id="loss"
lab.probe("loss", [known.run_loss(dpo_loss, *case) for case in known.logprobs_cases(lab.probe_seed("loss"), 0.2)])

# %% [markdown]
# ### 3. Two variants of it
#
# With $h = \log\frac{\pi}{\pi_\text{ref}}(y_w) - \log\frac{\pi}{\pi_\text{ref}}(y_l)$ the loss is $-\log \sigma(\beta h)$. It
# is never done: a pair that is ranked rightly still gains by a larger $h$. Two answers to that:
#
# - **cDPO** (Mitchell 2023): annotators err in a share $\epsilon$ of pairs, so
#   $-(1 - \epsilon) \log \sigma(\beta h) - \epsilon \log \sigma(-\beta h)$.
# - **IPO** (Azar et al. 2023, eq. 17): draw $h$ itself to a target, $\left(h - \frac{1}{2 \beta}\right)^2$.


# %% ftlab="exercise" id="variants"
def variant_loss(h, beta, kind, epsilon=0.1):
    """The mean loss of pairs with the differences h (B,). kind: "dpo", "cdpo" or "ipo"; epsilon is cDPO's."""
    ### BEGIN SOLUTION
    if kind == "ipo":
        return ((h - 1 / (2 * beta)) ** 2).mean()
    if kind == "cdpo":
        return (-(1 - epsilon) * F.logsigmoid(beta * h) - epsilon * F.logsigmoid(-beta * h)).mean()
    return -F.logsigmoid(beta * h).mean()
    ### END SOLUTION


# %% ftlab="check" id="variants"
lab.check("variants", variant_loss)

# %% ftlab="probe" id="variants"
torch.manual_seed(lab.probe_seed("variants"))
probe_h = 5 * torch.randn(6)
lab.probe("variants", [variant_loss(probe_h, 0.3, kind, 0.2) for kind in ("dpo", "cdpo", "ipo")])

# %% [markdown]
# **What to look at:** the slope, which is what moves the policy. Where does each of the three stop pushing? What does a pair
# far on the wrong side ($h = -40$: a mistake of the annotator, perhaps) do to each?

# %%
hs = torch.linspace(-40, 40, 81)
plots.lines({name: (hs.tolist(), [scale * variant_loss(h[None], BETA, kind).item() for h in hs])
             for name, kind, scale in (("DPO", "dpo", 1), ("cDPO, ε = 0.1", "cdpo", 1), ("IPO × β²", "ipo", BETA ** 2))},
            "h, the difference of log-ratios (nats)", "loss", title=f"three losses, beta = {BETA:g}", ylim=(0, 6))

# %% [markdown]
# ### 4. The implicit reward
#
# By (3), whoever trains by (4) trains a reward model, $\hat r(x, y) = \beta \log \frac{\pi(y|x)}{\pi_\text{ref}(y|x)}$; known
# but for a number that hangs on the prompt. So it may rank answers to *one* prompt, never answers to two.


# %% ftlab="exercise" id="implicit"
def implicit_reward(logp, ref_logp, mask, beta):
    """Implicit rewards of responses, a tensor (B,).

    logp, ref_logp (B, T): log-probabilities of all tokens of each row under the policy and the reference. mask (B, T): true
    where a token belongs to the response.
    """
    ### BEGIN SOLUTION
    return beta * ((logp - ref_logp) * mask).sum(1)
    ### END SOLUTION


# %% ftlab="check" id="implicit"
lab.check("implicit", implicit_reward)

# %% ftlab="probe" id="implicit"
lab.probe("implicit", [implicit_reward(*case) for case in known.reward_cases(lab.probe_seed("implicit"))])

# %% [markdown]
# ### 5. Utility at a matched KL
#
# A method that moves the policy further has *another* utility, not just a better or worse one. To say which method is better,
# compare both at the same KL. Each was run at several strengths ($\beta$ in DPO, `kl_coef` in PPO), which gives points
# (KL, utility); between two neighbours we draw a straight line, and beyond the last point we know nothing.


# %% ftlab="exercise" id="frontier"
def at_kl(points, kl):
    """The utility at `kl`, a float, on straight lines between points [(KL, utility), …] in any order; None beyond them."""
    ### BEGIN SOLUTION
    points = sorted(points)
    for (low, a), (high, b) in zip(points, points[1:]):
        if low <= kl <= high:
            return a + (b - a) * (kl - low) / (high - low)
    return None
    ### END SOLUTION


# %% ftlab="check" id="frontier"
lab.check("frontier", at_kl)

# %% ftlab="probe" id="frontier"
random.seed(lab.probe_seed("frontier"))
probe_points = [(kl + random.random(), random.uniform(-1, 1)) for kl in (9, 2, 5, 14, 3)]
lab.probe("frontier", [at_kl(probe_points, kl) for kl in (1.0, 4.5, 6.5, 8.4, 12.0, 16.0)])

# %% [markdown]
# ### 6. Explain a failure
#
# Runs fail in ways that have names, and most of the names can be read off a table if it holds the right columns. Here are the
# findings, in order; the **first** that applies is the answer.
#
# | finding | when |
# |---|---|
# | `"none"` | the true utility is at least 0.1 above the start's |
# | `"not moved"` | KL below 1 nat an answer: the strength held it fast |
# | `"length"` | answers at least 1.2 times as long as the start's: length was rewarded |
# | `"noise"` | accuracy on held-out pairs below 0.6: the comparisons, or what was learned of them, say little |
# | `"overoptimised"` | the reward (what was optimised) rose above the start's, and the utility did not: the two came apart |
# | `"unexplained"` | none of these |


# %% ftlab="exercise" id="diagnose"
def diagnose(row, start):
    """The finding, a string. row, start: dicts with "utility", "reward", "kl", "length" and "accuracy"."""
    ### BEGIN SOLUTION
    if row["utility"] >= start["utility"] + 0.1:
        return "none"
    if row["kl"] < 1:
        return "not moved"
    if row["length"] >= 1.2 * start["length"]:
        return "length"
    if row["accuracy"] < 0.6:
        return "noise"
    return "overoptimised" if row["reward"] > start["reward"] else "unexplained"
    ### END SOLUTION


# %% ftlab="check" id="diagnose"
lab.check("diagnose", diagnose)

# %% ftlab="probe" id="diagnose"
lab.probe("diagnose", [diagnose(*case) for case in known.rows_of(lab.probe_seed("diagnose"))])

# %% [markdown]
# ## The library does it too, and agrees
#
# First your functions beside the package's on real answers; then the package's loss beside TRL's `DPOTrainer`, and its
# gradients on every weight. A policy that *is* the reference would agree with anything (each margin is 0), so the policy has
# moved a little.

# %%
some = rlhf.test_pairs()[:6]
sides = pairs.pair_rows(some, tokenizer)
moved = with_trl.moved(assistant)
batch = pairs.pair_batch(*sides, tokenizer.pad_id)
starts = torch.tensor([begin for side in sides for _, begin in side])
with torch.no_grad():
    mine = {name: response_logprobs(model(batch.ids), batch.ids, starts, batch.ends + 1)
            for name, model in (("policy", moved), ("reference", assistant))}
    theirs = {name: pairs.sequence_logprobs(model, batch) for name, model in (("policy", moved), ("reference", assistant))}
    by_token = {name: pairs.token_logprobs(model, batch.ids, batch.mask)
                for name, model in (("policy", moved), ("reference", assistant))}
four = [*mine["policy"].chunk(2), *mine["reference"].chunk(2)]
print(f"log-probabilities of {len(starts)} answers, {mine['reference'].max():.0f} to {mine['reference'].min():.0f} nats: yours "
      f"differ by {max((mine[name] - theirs[name]).abs().max().item() for name in mine):.0e}")
print(f"loss: yours {dpo_loss(*four, BETA):.6f}, the package's {library.dpo_loss(*four, BETA)[0]:.6f}")
rewards = torch.tensor([r for side in sides for r in library.implicit_rewards(moved, assistant, side, tokenizer, BETA)])
own = implicit_reward(by_token["policy"], by_token["reference"], batch.mask, BETA)
print(f"implicit rewards: yours differ by {(own - rewards).abs().max():.0e}")

# %% ftlab="result" claim="C55"
same = with_trl.compare_with_trl(assistant, tokenizer, some, BETA)
print(f"TRL's loss differs by {same['loss']:.0e}, a gradient by {same['gradient']:.0e} of the largest")
lab.claim("C55", max(same.values()), **same)

# %% [markdown]
# ## Predict, then run
#
# Now the real thing, by *your* loss: comparisons as the annotators of Lab 10 ranked them, one pass, half a minute. Two
# questions first. The loss wants the chosen answers likelier *than the rejected ones*, compared with the reference.

# %% ftlab="play"
lab.predict("chosen", "After DPO, the chosen answers of held-out pairs are, under the policy, on average ...", kind="choice",
            options=["likelier than before", "about as likely", "less likely than before"])

# %% ftlab="play"
lab.predict("gain", "By how much will DPO change the mean true utility? (A broken rule costs 2, style earns up to 1.4.)",
            low=-2, high=6)

# %% [markdown]
# **What to look at:** KL rises from 0: what does a nat buy in utility, early and late? Does *valid stories* fall while
# utility rises? Does the length change, though nobody asked for it? (Each point is measured on a few stories: it jitters.)

# %% ftlab="experiment"
learned_from = rlhf.annotated(0, profile.steps(rlhf.PAIRS, 40))
held_out = rlhf.test_pairs()[:profile.steps(100, 8)]
rows, held_rows = (pairs.pair_rows(some, tokenizer) for some in (learned_from, held_out))
reference = [pairs.logprobs_of(assistant, side, tokenizer) for side in rows]  # once: the reference never changes
batches = pairs.PairBatches(*rows, library.PAIRS_PER_BATCH, tokenizer, 0, reference)


def my_loss(model, batch):
    """Your loss of a batch: the chosen responses stand first, then the rejected."""
    chosen, rejected = pairs.sequence_logprobs(model, batch).chunk(2)
    return dpo_loss(chosen, rejected, *batch.reference.chunk(2), BETA)


def look(model, step):
    """Where a policy stands: on held-out prompts, and on held-out pairs."""
    found = rlhf.judged(model, 0, count=profile.steps(48, 4))
    good, bad = (library.implicit_rewards(model, assistant, side, tokenizer, BETA) for side in held_rows)
    chosen, rejected = statistics.fmean(good), statistics.fmean(bad)
    return {name: found[name] for name in ("utility", "kl", "valid", "length")} | {
        "accuracy": statistics.fmean(a > b for a, b in zip(good, bad)), "margin": chosen - rejected, "chosen": chosen,
        "rejected": rejected}


JUDGED = profile.steps(rlhf.JUDGED, 6)
before = rlhf.judged(assistant, 0, count=JUDGED)
policy, steps = copy.deepcopy(assistant), batches.steps_per_epoch
config = TrainConfig(steps, lr=measured.LR, schedule="linear", warmup=0.1, eval_every=max(1, steps // 5))
marks = {name: (before[name], "assistant") for name in ("utility", "valid", "length")}
history = train(policy, batches, config, my_loss, look, [widgets.AlignPlot(title="DPO, by your loss", marks=marks)])

# %% [markdown]
# The implicit rewards of held-out answers, chosen and rejected. They start at 0 by definition.

# %% ftlab="experiment"
went = {name: history.metric(name) for name in ("chosen", "rejected")}
plots.lines({name: ([0, *at], [0.0, *values]) for name, (at, values) in went.items()}, "step", "implicit reward (nats)",
            title="what became likelier, and what less likely", hline=(0, "as in the reference")).show()
print(f"You predicted: the chosen answers are {lab.prediction('chosen') or '(nothing)'}. Measured: log-ratio "
      f"{history.evals[-1]['chosen'] / BETA:+.1f} nats for the chosen, {history.evals[-1]['rejected'] / BETA:+.1f} for the "
      "rejected.")

# %% ftlab="experiment"
after = rlhf.judged(policy, 0, count=JUDGED)
for name, found in (("assistant", before), ("after DPO", after)):
    print(f"{name:10} utility {found['utility']:+.2f}, valid {found['valid']:.0%}, KL {found['kl']:.1f} nats, "
          f"{found['length']:.0f} tokens: {found['texts'][0]}")
plots.prediction_vs_result(lab.prediction("gain"), after["utility"] - before["utility"], label="change of the true utility")

# %% [markdown]
# Whichever way the chosen answers went, the loss did not ask about it: it sees the *difference*. If both fall, the probability
# that left them went to texts that nobody compared. Are those better, too? That is a question about how the model
# generalises, and no loss on pairs can answer it; the true utility does, above.
#
# ## What we measured
#
# ### Two frontiers
#
# Same start, same pairs, several strengths of each method.

# %% ftlab="play"
lab.predict("better", "At the same KL, which method reaches the higher true utility here?", kind="choice",
            options=["PPO, by 0.2 or more", "less than 0.2 between them", "DPO, by 0.2 or more"])

# %% [markdown]
# Move the sliders. **What to look at:**
#
# - Which way along its line does a method go as its strength grows? Is the far end better, or only farther?
# - Find two points of like KL. Which has more valid stories, which the longer ones? Read the samples.
# - Where does a line turn down? What were the reward and the loss doing there?

# %% ftlab="experiment"
compared = lab.study("C57")[0]["data"]
curves = {"PPO": [{"kl_coef": point["strength"]} | point for point in compared["ppo"]],
          "DPO": [{"beta": point["strength"]} | point for point in compared["dpo"]]}
for points in curves.values():
    for point in points:
        point.pop("strength")

# %% ftlab="play"
widgets.frontier_view(curves)

# %% ftlab="experiment"
spots = {name: [(point["kl"], point["utility"]) for point in points] for name, points in curves.items()}
reached = sorted(kl for points in spots.values() for kl, _ in points)
low, high = max(min(p)[0] for p in spots.values()), min(max(p)[0] for p in spots.values())
both = [(kl, *(at_kl(spots[name], kl) for name in ("PPO", "DPO"))) for kl in sorted({low, *reached, high}) if low <= kl <= high]
for kl, ppo_has, dpo_has in both:
    print(f"at {kl:5.1f} nats: PPO {ppo_has:+.2f}, DPO {dpo_has:+.2f}, difference {ppo_has - dpo_has:+.2f}")
print(f"PPO minus DPO, mean over these: {statistics.fmean(a - b for _, a, b in both):+.2f}" if both else
      "There is no KL that both reach.")
print(f"You predicted: {lab.prediction('better') or 'nothing'}.")

# %% ftlab="result" claim="C57"
for what, costs in compared.get("cost", {}).items():
    print(f"{what:26} " + ", ".join(f"{name} {value:,.4g}" if isinstance(value, (int, float)) else f"{name} {value}"
                                    for name, value in costs.items()))
lab.claim("C57", lab.study("C57")[0]["value"])

# %% [markdown]
# Count what each must hold in memory while it trains. DPO: the policy with its gradients and the optimizer's state; the
# reference is asked once, beforehand, and can go. PPO: the policy with a value head, the reference and the reward model at
# every iteration, and a loop that *writes*, which is where its time goes.
#
# ### Beta

# %% ftlab="result" claim="C59"
dots = sorted(curves["DPO"], key=lambda point: point["beta"])
plots.lines({"DPO": ([point["beta"] for point in dots], [point["kl"] for point in dots])}, "beta", "KL (nats an answer)",
            logx=True, title="how far the policy goes").show()
lab.claim("C59", lab.study("C59")[0]["value"])

# %% [markdown]
# In (1) beta is the price of a nat. In the loss (4) it is the scale of a margin: a small one needs large log-ratios to say the
# same odds. But a run of one pass stops long before any optimum, so what beta sets here is, in part, just the size of the
# gradient. Which of the two do you see in the picture? (At the optimum KL would fall about as $1 / \beta^2$ while it is small.)
#
# ### The same again: ten seeds

# %% ftlab="result" claim="C58"
spread = {name: [entry["data"][name.lower()] for entry in lab.study("C58")] for name in ("PPO", "DPO")}
plots.bars({name: (statistics.fmean(v), min(v), max(v)) for name, v in spread.items()}, "true utility: mean, lowest, highest",
           title=f"{len(spread['DPO'])} seeds").show()
for name, values in spread.items():
    print(f"{name}: standard deviation {statistics.stdev(values):.3f} over {len(values)} seeds")
lab.claim("C58", statistics.stdev(spread["PPO"]) / statistics.stdev(spread["DPO"]))

# %% [markdown]
# A seed changes which comparisons were made and how noise fell on them, for both methods; for PPO it also changes every answer
# that it learns from. Does that show? If you report one run of either, which one is it?
#
# ### When annotators err

# %% ftlab="result" claim="X11"
broken = lab.study("X11")[0]["data"]
for name, row in broken["rows"].items():
    print(f"{name:30} utility {row['utility']:+.2f}, reward {row['reward']:+.2f}, KL {row['kl']:5.1f}, {row['length']:3.0f} "
          f"tokens, accuracy {row['accuracy']:.2f}: {diagnose(row, broken['start'])}")
lab.claim("X11", lab.study("X11")[0]["value"])

# %% [markdown]
# Your `diagnose` named each row. **Now explain one**, in two sentences: choose a row whose finding is not `"none"`; say which
# column gave it away, and what you would change in the next run (beta? the pairs? the reward?). Is there a row whose name you
# would dispute?
#
# *Your explanation:* …
#
# ### Which, then?
#
# | | DPO | PPO (RLHF) |
# |---|---|---|
# | needs | pairs, and nothing else | pairs, then prompts, a reward model, a loop that writes |
# | learns from | answers that were there before it | its own answers, as they are now |
# | held in memory | policy (the reference's numbers are computed once) | policy, value head, reference, reward model |
# | things to tune | beta, learning rate, passes | those, and clip, λ, KL coefficient, batch, value loss, ... |
# | prompts without comparisons | cannot use them | can: the reward model marks whatever is written |
# | a reward that is no preference (tests pass, an answer is right) | only through pairs made from it | takes it as it is |
# | typical failure | probability goes where nobody looked | the reward model is exploited, or too weak to say anything |
#
# **Take DPO** when what you have is pairs, of answers much like your model's own, and you want one run that is like supervised
# training in cost, memory and calm. **Take PPO**, or its relatives without a value model (RLOO, GRPO), when the reward can be
# asked about *new* answers and is worth asking: a verifier, a reward model trained on far more than you could pair up, or a
# policy that will move far from the answers that were compared. In between lies *online DPO*: sample from the policy, have the
# pairs ranked, take a DPO step, repeat. The differences above hold for a model of 0.7 million parameters in a small world. At
# scale studies disagree (Xu et al. 2024 and Ivison et al. 2024 find PPO ahead where it is tuned well), and most of them agree
# that better pairs matter more than the choice.
#
# ### And with TRL

# %% ftlab="result" claim="X11b"
for name, values in lab.study("X11b")[0]["data"].items():
    print(f"{name}: " + ", ".join(f"{what} {value:.4g}" for what, value in values.items()))
lab.claim("X11b", lab.study("X11b")[0]["value"])

# %% [markdown]
# ## What people get wrong
#
# > **"DPO has no reward model."**
#
# It has no *separate* one. Formula (3) says what it has, and you have written it. Does that one agree with the reward model of
# Lab 10, on pairs that neither has seen?

# %% ftlab="result" claim="C56"
good, bad = (library.implicit_rewards(policy, assistant, side, tokenizer, BETA) for side in held_rows)
print(f"this run's implicit reward ranks {statistics.fmean(a > b for a, b in zip(good, bad)):.0%} of {len(good)} held-out "
      "pairs as the true utility does")
lab.claim("C56", lab.study("C56")[0]["value"])

# %% [markdown]
# And use it. The *assistant*, which DPO never touched, writes four answers to each prompt; the implicit reward chooses one. No
# weight moves. Beside it: the choice by likelihood under the policy alone (the reference left out), and the best of the four by
# the true utility, which nobody has.

# %% ftlab="experiment"
asked = rlhf.write_tasks("best of four", profile.steps(60, 4), "test")
fours = [ask(assistant, tokenizer, asked, max_new_tokens=annotators.MAX_NEW_TOKENS, temperature=1.0, seed=seed)
         for seed in range(4)]
worth = torch.tensor([[judge.utility(task, text) for task, text in zip(asked, texts)] for texts in fours])  # (4, prompts)
under = {name: torch.tensor([pairs.logprobs_of(model, pairs.response_rows(asked, texts, tokenizer), tokenizer)
                             for texts in fours]) for name, model in (("policy", policy), ("reference", assistant))}
choices = {"any of the four": None, "by likelihood under the policy": under["policy"],
           "by the implicit reward": BETA * (under["policy"] - under["reference"]), "by the true utility": worth}
kept = {name: worth.mean().item() if score is None else worth.gather(0, score.argmax(0)[None]).mean().item()
        for name, score in choices.items()}
plots.bars(kept, "true utility", title=f"one of four answers, {len(asked)} prompts")

# %% ftlab="result" claim="M09"
lab.claim("M09", kept["by the implicit reward"] - kept["any of the four"])

# %% [markdown]
# Beta is missing from the choice: why does it not matter there? And why would the implicit reward not do to choose the best
# *prompt*?
#
# Four more, each of which your checks know:
#
# - *"Average over tokens, or long answers are punished."* The sum is what (4) says. A long answer has a small probability, but
#   under the reference as well: it is the *ratio* that counts. (Length does creep in, by another door: SimPO, below, drops
#   the reference and then must average.)
# - *"The reference is only a regulariser, drop it."* Without it the loss asks that the chosen be likelier than the rejected in
#   absolute terms, which a short text is anyway.
# - *"Swap policy and reference, or chosen and rejected: two different bugs."* The same bug: both turn the sign of the margin.
#   Both at once go unnoticed.
# - *"The loss fell, so the chosen answers became likelier."* See your own picture above.
#
# ## Go further
#
# **Preferences of your own.** A file with the columns `prompt`, `chosen`, `rejected`, or the journal of ratings that you wrote
# in Lab 10. Without one, the button makes a file of another taste: short answers, in points. Watch what one can teach in
# seconds, and what becomes of the true utility meanwhile.

# %% ftlab="play"
MY_FILE = ""  # "my_preferences.jsonl"


def taste(folder):
    """A file of preferences for short answers in points."""
    file = pathlib.Path(folder) / "points.jsonl"
    made = tasks.preference_pairs(World("rich"), profile.steps(400, 12), seed=1, utility="form")
    file.write_text("".join(json.dumps({"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}) + "\n"
                            for pair in made), encoding="utf-8")
    return file


def my_dpo(report):
    with tempfile.TemporaryDirectory() as folder:
        mine = preferences.read_preferences(MY_FILE or taste(folder), progress=report)
    made, _, metrics = library.dpo(assistant, tokenizer, mine, beta=BETA, lr=measured.LR,
                                   callbacks=[widgets.LivePlot(title="DPO on your preferences", unit="nats per pair")])
    prompt = mine[0].prompt
    return (f"accuracy on the last batch {metrics[-1]['accuracy']:.0%}\n\n{prompt}\n\nbefore: "
            f"{ask(assistant, tokenizer, [prompt])[0]}\n\nafter: {ask(made, tokenizer, [prompt])[0]}")


widgets.run_live_button("DPO on preferences of your own", my_dpo, note="some fifteen seconds")

# %% [markdown]
# **Discuss.**
#
# 1. Two annotators disagree about dialogue. What does DPO converge to if half of the pairs say so and half the contrary? And
#    what if *every* pair of answers was ranked once, with certainty? (Look at (4) and at IPO's target.)
# 2. The pairs were written by the assistant. What changes if they were written by a much better model? Which term of (4) is
#    then very negative at the start, and does it matter?
# 3. DPO's gradient weighs each pair by $\sigma(-\text{margin})$. Which pairs does it spend its time on, and which will be
#    those if some labels are wrong?
# 4. PPO can be told to stop by its KL. What would you watch in a run of DPO, where no answer is ever sampled?
# 5. Formula (3) holds for the *optimum*. In which sense is $\hat r$ a reward model after one pass over 1,500 pairs?
#
# **Read.**
#
# - Rafailov et al. (2023), *Direct Preference Optimization: Your Language Model is Secretly a Reward Model*: sections 4 and 5.
# - Rafailov et al. (2024), *From r to Q\**: the same at the level of tokens, which is what the colors at the top show.
# - Azar et al. (2023), *A General Theoretical Paradigm to Understand Learning from Human Preferences*: IPO, and why certain
#   preferences make DPO forget the reference.
# - Mitchell (2023), *A note on DPO with noisy preferences & relationship to IPO* (cDPO); Chowdhury, Kini, Natarajan (2024),
#   *Provably Robust DPO*: another correction, unbiased under flipped labels.
# - Ethayarajh et al. (2024), *KTO*: from thumbs up and down, without pairs.
# - Meng, Xia, Chen (2024), *SimPO*: no reference, the mean over tokens, and a margin.
# - Xu et al. (2024), *Is DPO Superior to PPO for LLM Alignment?*; Ivison et al. (2024), *Unpacking DPO and PPO*: the
#   comparison of this lab, on large models.

# %%
lab.progress()
