# %% [markdown]
# # 05 · The learning rate
#
# **The question.** Two runs see the same stories in the same order with the same model. One ends with stories that keep
# their hero, the other babbles. Between them stands one number, and nobody can tell you its value: it depends on the
# model, the optimizer, the batch, the length of the run. How do you find it, cheaply, and know when it is wrong?
#
# It comes before all comparisons of methods for a reason: a method judged at another's rate is misjudged.
#
# You will write four schedules, the range test, a detector of divergence, and the judge that picks a rate from curves.
#
# Rooms: play · build · the library agrees · predict and run · what we measured · what people get wrong · go further.

# %% ftlab="setup"
import math
import random
import statistics

import torch

import ftlab
from ftlab import profile
from ftlab.course import studies
from ftlab.show import plots, widgets
from ftlab.train import TrainConfig, divergence, schedule, train, train_safely
from ftlab.train import range_test as library_range_test
from ftlab.train.recipes import text_recipe
from ftlab.train.sweeps import load_sweep, short_recipe, short_run

torch.manual_seed(0)
lab = ftlab.lab("05_learning_rate")
measured = studies.load("05_learning_rate")

# %% [markdown]
# ## Play: ninety-nine runs
#
# Somebody has made these runs for you: a model of 0.1 million parameters, 320 steps on bare stories, nine rates, and at
# each of them one factor changed at a time. Nothing is computed while you drag; the runs are looked up. Both pictures
# show nats per token above the **floor**, the entropy of the stories (Lab 03).
#
# "Rate" is the peak rate of AdamW; where the optimizer is Muon, the hidden matrices take three times as much.
#
# - Drag the rate from end to end. Which runs are *too slow*, which *too hot*, and how do the two look different on the
#   left?
# - Somewhere the curve bends down a second time, late: there the model learns to copy. Which rates get that far?
# - Set AdamW. Where does its best rate lie? What would you have concluded about Muon at AdamW's best rate, and about
#   AdamW at Muon's?
# - Which factor moves the best rate, which only widens or narrows the valley?

# %% ftlab="play"
widgets.sweep_explorer(load_sweep(), labels={
    "warmup": lambda share: f"{100 * share:g} % warmup" if share else "no warmup",
    "batch": lambda tokens: f"{tokens} tokens",
    "optimizer": lambda name: {"adamw": "AdamW", "muon": "Muon"}[name],
})

# %% [markdown]
# ## Build
#
# ### 1. Four schedules
#
# The rate need not stay what it is. Near the start a large step in a badly known direction does harm, so the rate rises
# over $w$ steps of **warmup** (Goyal et al. 2017). Near the end large steps keep the weights from settling. As a factor on
# the peak rate, at step $s = 0, \dots, S - 1$, with $p = (s - w) / (S - w)$ the progress after the warmup:
#
# $$f(s) = \frac{s + 1}{w} \;\text{ while } s < w, \text{ then} \qquad
# \begin{array}{ll}
# \text{constant} & 1 \\
# \text{linear} & 1 - p \\
# \text{cosine} & \tfrac12 (1 + \cos \pi p) \\
# \text{wsd} & 1 \text{ while } p < 0.8, \text{ then straight down to } 0 \text{ at } p = 1
# \end{array}$$
#
# The last is *warmup–stable–decay* (Hu et al. 2024). It has a practical charm: until the decay begins, nobody had to know
# how long the run would be.


# %% ftlab="exercise" id="schedules"
def lr_factor(schedule, step, steps, warmup):
    """Factor on the peak rate at `step` (0 … steps − 1), a float; `warmup` steps of rise come first.

    schedule: "constant", "linear", "cosine" or "wsd".
    """
    ### BEGIN SOLUTION
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)  # 0 where the warmup ends, 1 behind the last step
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "wsd":
        return 1.0 if progress < 0.8 else (1 - progress) / 0.2
    return 1.0
    ### END SOLUTION


# %% ftlab="check" id="schedules"
lab.check("schedules", lr_factor)

# %% ftlab="probe" id="schedules"
random.seed(lab.probe_seed("schedules"))
probe_warmup, probe_steps = random.randint(4, 9), random.randint(30, 60)
lab.probe("schedules", {name: [lr_factor(name, step, probe_steps, probe_warmup) for step in range(probe_steps)]
                        for name in ("constant", "linear", "cosine", "wsd")})

# %%
S, w = 100, 10
plots.lines({name: (list(range(0, S, 3)), [lr_factor(name, s, S, w) for s in range(0, S, 3)])
             for name in ("constant", "wsd", "linear", "cosine")},
            "step", "factor on the peak rate", title="your four schedules", ylim=(0, 1.08))

# %% [markdown]
# ### 2. The range test
#
# Trying nine rates costs nine runs. Smith (2017) needs a part of one: begin with a rate far too low and let it rise by a
# constant factor from step to step,
#
# $$\eta_i = \eta_\text{low} \left( \frac{\eta_\text{high}}{\eta_\text{low}} \right)^{i / (n - 1)}, \qquad i = 0, \dots, n - 1 .$$
#
# While the rate is too low, nothing happens; where the loss falls fast, the rate is useful; where it turns up, it is too
# high; and before the model is in ruins, one stops.
#
# Your test is given a function: `update(rate)` makes one step at that rate and returns the loss *before* it. So it works
# with any model, any optimizer, any data.


# %% ftlab="exercise" id="range_test"
def range_test(update, low, high, steps):
    """(rates, losses), lists of floats: the rate rises from `low` at the first step by equal factors to `high` at the last.

    update(rate) -> loss, a float. The test ends early, without the rate and the loss that end it, where a loss is no
    finite number or stands more than 1 above the first loss.
    """
    ### BEGIN SOLUTION
    rates, losses = [], []
    for i in range(steps):
        rate = low * (high / low) ** (i / (steps - 1))
        loss = update(rate)
        if not math.isfinite(loss) or losses and loss > losses[0] + 1:
            break
        rates.append(rate)
        losses.append(loss)
    return rates, losses
    ### END SOLUTION


# %% ftlab="check" id="range_test"
lab.check("range_test", range_test)

# %% ftlab="probe" id="range_test"
random.seed(lab.probe_seed("range_test"))


def probe_update(curvature, hole, later):
    """The loss of one weight under gradient descent; no number where the weight is beyond `hole`."""
    state = {"weight": 1.0, "steps": 0}

    def update(rate):
        weight, state["steps"] = state["weight"], state["steps"] + 1
        state["weight"] -= rate * curvature * weight
        loss = curvature * weight ** 2 if abs(weight) < hole else math.nan
        return loss + (1.4 if state["steps"] > later else 0)

    return update


lab.probe("range_test", [list(range_test(probe_update(random.uniform(2, 3), hole, later), 0.01, high, 12))
                         for hole, later, high in ((1e3, 99, 30.0), (1.05, 99, 30.0), (1e3, 5, 0.09))])

# %% [markdown]
# ### 3. When has a run diverged?
#
# Not when one loss is high: batches differ. Not when the loss is higher than it once was: that may be a rate that has
# become too high, and it may come back. But when a trained model is *worse than it was before training*, nothing is left
# to hope for. So: a run has diverged at the first step whose loss is not finite, or at which the mean of the last
# `window` losses stands more than `margin` above the first loss of all.


# %% ftlab="exercise" id="diverged"
def diverged_at(losses, window, margin):
    """The step (1, 2, …) at which a run with these losses had diverged, an int, or None.

    losses: a list of floats, one a step. There is no mean before step `window`.
    """
    ### BEGIN SOLUTION
    for step in range(1, len(losses) + 1):
        if not math.isfinite(losses[step - 1]):
            return step
        if step >= window and sum(losses[step - window:step]) / window > losses[0] + margin:
            return step
    return None
    ### END SOLUTION


# %% ftlab="check" id="diverged"
lab.check("diverged", diverged_at)

# %% ftlab="probe" id="diverged"
random.seed(lab.probe_seed("diverged"))
probe_curves = [[4 - 0.2 * s + random.random() + (0.04 * s * s if s > 9 and hot else 0) + (4.0 if s in odd else 0)
                 for s in range(30)] for hot, odd in ((True, ()), (True, (9,)), (False, (9,)), (False, (10, 20)))]
probe_curves[2][random.randint(11, 20)] = math.nan  # from here on the curve has no number
lab.probe("diverged", [diverged_at(losses, window, 0.5) for losses in probe_curves for window in (3, 6)]
          + [diverged_at([5.0, 3.0, 1.0, 2.0, 3.0 + random.random(), 4.0], 2, 0.5)])

# %% [markdown]
# ### 4. Pick a rate
#
# A sweep gives one curve a seed: final loss against rate. Three things go wrong when one just takes the smallest number.
# Seeds differ, so the smallest number is partly luck: take the **mean**. A rate at which one seed in three diverges is not
# a good rate, however good the other two: it is **out**. And the best rate lies between the points of the grid: near its
# lowest point the curve is about a **parabola over the logarithm** of the rate. With means $l, m, r$ left of, at, and
# right of the lowest one, on a grid where neighbours differ by the factor $q$, its vertex lies at
#
# $$\eta^* = \eta_m \cdot q^{\,\frac12 \frac{l - r}{l - 2m + r}} .$$


# %% ftlab="exercise" id="pick_rate"
def pick_rate(rates, losses):
    """The rate to take, a float: the vertex of the parabola through the lowest mean loss and its two neighbours.

    rates: a rising list, neighbours differ by one factor. losses: one list a seed, with a loss for each rate; NaN or
    infinite where the run diverged, and then no mean exists for that rate. Where the lowest mean has not two neighbours
    with a mean, its own rate is taken.
    """
    ### BEGIN SOLUTION
    means = []
    for column in zip(*losses):
        means.append(sum(column) / len(column) if all(math.isfinite(loss) for loss in column) else math.inf)
    best = min(range(len(means)), key=lambda i: means[i])
    if best in (0, len(means) - 1) or math.isinf(means[best - 1]) or math.isinf(means[best + 1]):
        return rates[best]
    left, low, right = means[best - 1:best + 2]
    return rates[best] * (rates[best + 1] / rates[best]) ** (0.5 * (left - right) / (left - 2 * low + right))
    ### END SOLUTION


# %% ftlab="check" id="pick_rate"
lab.check("pick_rate", pick_rate)

# %% ftlab="probe" id="pick_rate"
random.seed(lab.probe_seed("pick_rate"))
probe_rates = [0.001 * 2 ** i for i in range(7)]
probe_losses = []
for _ in range(5):
    vertex = random.uniform(1.5, 3.5)
    probe_losses.append([[0.4 + random.uniform(0.03, 0.05) * (i - vertex) ** 2 for i in range(7)] for _ in range(3)])
probe_losses[0][1][-1] = probe_losses[1][2][6] = math.nan
probe_losses[2][0][5], probe_losses[2][1][5], probe_losses[2][2][5] = 0.1, 0.1, math.inf  # low, but one seed diverged
lab.probe("pick_rate", [pick_rate(probe_rates, curves) for curves in probe_losses])

# %% [markdown]
# ## The library does it too, and agrees
#
# `transformers.get_scheduler` has all four. One difference is worth knowing: its warmup gives step $s$ the factor $s/w$,
# so that the first step has rate 0 and is lost. After the warmup it is yours. PyTorch's own cosine has no warmup at all.

# %%
from transformers import get_scheduler


def library_factors(name, steps, warmup, **more):
    """What transformers' scheduler gives at each step, for a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, warmup, steps, scheduler_specific_kwargs=more)
    factors = []
    for _ in range(steps):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors


theirs = {"constant": library_factors("constant_with_warmup", S, w), "linear": library_factors("linear", S, w),
          "cosine": library_factors("cosine", S, w),
          "wsd": library_factors("warmup_stable_decay", S, w, num_decay_steps=(S - w) // 5, decay_type="linear")}
for name, factors in theirs.items():
    after = max(abs(lr_factor(name, s, S, w) - factors[s]) for s in range(w, S))
    rising = max(abs(lr_factor(name, s - 1, S, w) - factors[s]) for s in range(1, w + 1))
    ours = max(abs(lr_factor(name, s, S, w) - schedule.factor(s, S, name, w)) for s in range(S))
    print(f"{name:9} after the warmup {after:.0e}, in it (theirs one step later) {rising:.0e}; ftlab's {ours:.0e}")

sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
cosine = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=S)
worst = 0.0
for s in range(S):
    worst = max(worst, abs(lr_factor("cosine", s, S, 0) - cosine.get_last_lr()[0]))
    sgd.step()
    cosine.step()
print(f"torch's cosine without warmup: largest difference {worst:.0e}")

# %% [markdown]
# `ftlab.train.range_test` is your test around the course's own loop: it trains a *copy* of the model, so that any training
# can begin with it, and it stops by your rule of divergence. Here yours drives the same model by hand.
**What to look at:** the two runs are the same arithmetic in another order, so they differ by rounding alone. Where the rate
is small they stay together; towards divergence each step multiplies the difference, long before the loss shows anything.

# %% ftlab="experiment"
from ftlab.train import optim

TEST_STEPS = profile.steps(100, 10)
recipe = short_recipe(seed=0, rate=0.01, optimizer="adamw", steps=TEST_STEPS, clip=None)
model, batches = recipe.model(), recipe.batches
[adamw] = optim.make(model, "adamw", lr=1.0)
taken = iter(range(TEST_STEPS))


def update(rate):
    """One step of AdamW at `rate`; the loss before it."""
    for group in adamw.param_groups:
        group["lr"] = rate
    adamw.zero_grad()
    loss = model.loss(batches(next(taken)))
    loss.backward()
    adamw.step()
    return loss.item()


my_rates, my_losses = range_test(update, 1e-4, 3.0, TEST_STEPS)
found = library_range_test(recipe.model(), batches, recipe.config, low=1e-4, high=3.0, steps=TEST_STEPS)
apart = [abs(a - b) for a, b in zip(my_losses, found.losses)]
print(f"AdamW: yours ended after {len(my_losses)} steps, the library's after {len(found.losses)}. The two differ by at most")
for limit in (0.01, 0.05, 0.15):
    print(f"  {max(d for d, rate in zip(apart, my_rates) if rate <= limit):.0e} up to a rate of {limit}")
print("the library's run diverged at step", divergence(found.losses), "by its own rule, at step",
      diverged_at(found.losses, 8, 0.25), "by yours")

# %% [markdown]
# ## Predict, then run
#
# Now Muon, as in Lab 03. First the range test alone: about as much work as a third of one run.

# %% ftlab="experiment"
muon = short_recipe(seed=0, rate=0.01, steps=TEST_STEPS)
test = library_range_test(muon.model(), muon.batches, muon.config, low=1e-4, high=3.0, steps=TEST_STEPS)
plots.lines({"each step": (test.rates, test.losses), "running mean": (test.rates, test.smoothed)},
            "learning rate", "training loss (nats per token)", title="the range test", logx=True,
            vline=(test.suggestion, f"suggested: {test.suggestion:.3g}")).show()
print(f"lowest at {3 * test.suggestion:.3g}; diverged at {test.diverged_at or math.nan:.3g}; "
      f"suggested peak rate: {test.suggestion:.3g}")

# %% [markdown]
# The lowest point itself is already too high: it was reached *while* the rate rose, and a little further the loss turns
# up. A third of it is what `ftlab` suggests; others take a tenth, or the steepest point. It is a place to begin, not an
# answer. How good a place, the explorer above will tell you: find the best rate of its Muon runs.
#
# Now four whole runs: at 0.016 (near the best), far below it, eight times above it, and far above it.

# %% ftlab="play"
lab.predict("eight", "The run at 0.016 ends about 0.1 nats above the floor. Where does eight times that rate end?",
            low=0, high=3, unit="nats above the floor")

# %% ftlab="experiment"
STEPS = profile.steps(320, 10)
four = {}
for rate in (0.001, 0.016, 0.128, 0.256):
    plot = widgets.LivePlot(title=f"rate {rate:g}")
    four[rate] = short_run(0, rate, steps=STEPS, callbacks=[plot] if rate == 0.016 else ())
floor = four[0.016]["floor"]
for rate, one in four.items():
    print(f"rate {rate:<6g} ends {measured.final(one) - floor:.3f} nats above the floor; "
          f"diverged: {'at step ' + str(one['diverged_at']) if one['diverged_at'] else 'no'}")
plots.loss_curve({f"{rate:g}": (list(range(1, len(one["losses"]) + 1)), one["losses"]) for rate, one in four.items()},
                 floor=floor, title="four rates, the same batches", ylim=(0, 7))

# %% ftlab="experiment"
plots.prediction_vs_result(lab.prediction("eight"), measured.final(four[0.128]) - floor,
                           label="end of the run at 0.128", unit="nats above the floor")

# %% [markdown]
# ### Too hot, and mended
#
# A run whose rate is far too high, without clipping, without warmup. `train_safely` watches it with your rule, goes back
# to the last checkpoint with a third of the rate, and so on until it holds. **What to look at:** how often, and where the
# rate ends up compared with the suggestion above.

# %% ftlab="experiment"
hot = short_recipe(seed=0, rate=2.0, schedule="constant", warmup=0, optimizer="adamw", steps=profile.steps(160, 24),
                   clip=None, save_every=profile.steps(20, 8))
history, recoveries = train_safely(hot.model(), hot.batches, hot.config, attempts=6)
for recovery in recoveries:
    print(f"step {recovery.step}: diverged; back to step {recovery.back_to}, on with rate {recovery.lr:.3g}")
lost = {f"given up ({i + 1})": (list(range(r.back_to + 1, r.back_to + 1 + len(r.losses))), r.losses)
        for i, r in enumerate(recoveries) if r.losses}
plots.loss_curve({"what was kept": (history.steps, history.losses), **lost}, floor=hot.floor, smooth=1,
                 title="a run at rate 2, mended", ylim=(0, 20))

# %% [markdown]
# A lower rate rescues the run, not the time. What would have happened at the end without the rescue? And why is it not
# enough to go on from the *present* weights at a lower rate?
#
# ## What we measured
#
# ### The U
#
# The committed study: nine rates, three seeds. Its two edges, where the loss is a tenth of a nat above the lowest, are
# not alike: to the left the loss rises since the run was too short, to the right since the steps were too long. Your
# `pick_rate` reads the curves.

# %% ftlab="experiment"
def finals(data):
    """Final losses of a committed U, NaN where the run ended above its start."""
    return [run["final"] if run["final"] < run["start"] else math.nan for run in data["runs"]]


us = [entry["data"] for entry in lab.study("C45")]
rates = list(measured.RATES)
best = pick_rate(rates, [finals(data) for data in us])
columns = [[data["runs"][i]["final"] - data["floor"] for data in us] for i in range(len(rates))]
plots.u_curve({"mean of three seeds": (rates, [statistics.fmean(c) for c in columns], [min(c) for c in columns],
                                       [max(c) for c in columns])},
              ylabel="end above the floor (nats per token)", title="320 steps, Muon, cosine", ylim=(-0.15, 2.5)).show()
for data in us:
    low, high = (f"{edge:.4f}" if edge else "outside" for edge in (data["low_edge"], data["high_edge"]))
    print(f"best {data['best_rate']:.4f}, edges at {low} and {high}")
print(f"your pick from all three: {best:.4f}; the range test suggested {test.suggestion:.4f}")

# %% ftlab="result" claim="C45"
lab.claim("C45", min(measured.final(four[0.001]), measured.final(four[0.256])) - measured.final(four[0.016]))

# %% [markdown]
# ### Warmup
#
# Adam divides each gradient by the root of its running mean square; in the first steps this is a mean over next to
# nothing, and every weight moves by the full rate in a direction known from one batch. Warmup keeps these steps small.
# (Kalra and Barkeshli 2024 find more behind it: it leads the model to where the loss is flatter, and there larger steps
# are stable.) No clipping here, which would hide the effect.

# %% ftlab="play"
lab.predict("warmup", "AdamW without clipping: 30 steps of warmup allow a peak rate how many times higher?",
            low=1, high=10, unit="times")

# %% ftlab="experiment"
some = [0.06, 0.12, 0.24, 0.48, 0.96]
reached = {warmup: measured.largest_stable(0, warmup, lambda text: None, some, profile.steps(80, 10))
           for warmup in measured.WARMUPS}
print("largest of", some, "that does not diverge:",
      ", ".join(f"{rate:.3g} with {warmup} steps of warmup" for warmup, rate in reached.items()))
plots.bars({f"warmup {name}, seed {entry['seed']}": entry["data"][key] for entry in lab.study("C47")
            for name, key in (("none", "without"), ("30 steps", "with"))},
           xlabel="largest rate that does not diverge", title="AdamW, constant rate, no clipping").show()
plots.prediction_vs_result(lab.prediction("warmup"), statistics.fmean(e["value"] for e in lab.study("C47")),
                           label="with warmup over without", unit="times")

# %% ftlab="result" claim="C47"
lab.claim("C47", reached[30] / reached[0])

# %% [markdown]
# ### Schedules race
#
# Live at one rate, 0.016; in the study each schedule at its own best of four. **What to look at:** the constant rate is
# not behind for most of the way, it may even lead. What the others gain, they gain at the end, when their steps shrink
# and the weights settle. That is why an unfinished cosine run must not be compared with a finished one.

# %% ftlab="experiment"
race = {"cosine": four[0.016]}
for name in ("constant", "linear", "wsd"):
    race[name] = short_run(0, 0.016, schedule=name, steps=STEPS)
plots.loss_curve({name: (list(range(1, STEPS + 1)), one["losses"]) for name, one in race.items()}, floor=floor,
                 title="four schedules at rate 0.016", ylim=(0.3, 1.6)).show()
for entry in lab.study("C48"):
    ends, base = entry["data"]["ends"], entry["data"]["floor"]
    print(f"seed {entry['seed']}, each at its best rate:",
          ", ".join(f"{name} {min(values) - base:.3f}" for name, values in ends.items()))

# %% ftlab="result" claim="C48"
decaying = statistics.fmean(race[name]["final"] for name in ("linear", "cosine", "wsd"))
lab.claim("C48", race["constant"]["final"] - decaying)

# %% [markdown]
# ### Batch size
#
# A batch's gradient is the true one plus noise, and the noise shrinks as the batch grows. Where the noise decides how far
# a step can be trusted, larger batches allow larger steps: in proportion for plain gradient descent (Goyal et al. 2017),
# about as the square root for Adam (Malladi et al. 2022). Beyond a *critical* size the noise no longer matters, and
# neither does a larger batch (McCandlish et al. 2018). From one story a batch to sixteen, AdamW, equal steps:

# %% ftlab="experiment"
batch_runs = [entry["data"] for entry in lab.study("C49")]
batch_rates = list(measured.BATCH_RATES)
picked, lines = {}, {}
for size in measured.BATCHES:
    ends = [data["ends"][str(size)] for data in batch_runs]
    picked[size] = pick_rate(batch_rates, ends)
    lines[f"{size} tokens"] = (batch_rates, [statistics.fmean(column) for column in zip(*ends)])
plots.u_curve(lines, title="AdamW, 320 steps, three batch sizes").show()
print("your pick:", ", ".join(f"{rate:.4f} at {size} tokens" for size, rate in picked.items()),
      f"\nslope of log rate against log batch: {measured.slope(picked):.2f} (a square root would be 0.5)")

# %% ftlab="result" claim="C49"
lab.claim("C49", measured.slope(picked), picked={str(size): rate for size, rate in picked.items()})

# %% [markdown]
# Every run's slope is positive, and the claim still fails: with three seeds the interval reaches below the asked 0.05. What is
# sure is that sixteen times the batch does not ask for four times the rate here. One more batch size, here and now:

# %% ftlab="play"
def another_batch(report):
    curve = []
    for rate in batch_rates:
        report(f"128 tokens a batch, rate {rate:g} ...")
        curve.append(measured.final(short_run(0, rate, batch=128, optimizer="adamw", steps=STEPS)))
    report(f"best rate at 128 tokens: {pick_rate(batch_rates, [curve]):.4f}")
    return plots.u_curve({"128 tokens": (batch_rates, curve), **lines}, title="with your new curve")


widgets.run_live_button("Run the U of 128 tokens", another_batch, note="five runs, about 20 seconds")

# %% [markdown]
# ## What people get wrong
#
# > **"A higher learning rate learns faster."**
#
# For some steps, it does: at the very start the hottest of the useful rates leads. Then it bounces where others settle.
# Count the steps until the running loss is one nat above the floor:

# %% ftlab="experiment"
target = floor + measured.TARGET
counts = {rate: measured.steps_until(one["losses"], target) for rate, one in four.items()}
for rate, count in counts.items():
    print(f"rate {rate:<6g} {f'{count} steps' if count else f'not within {STEPS} steps'}")
for entry in lab.study("M08"):
    data = entry["data"]
    print(f"study, seed {entry['seed']}: ahead after a tenth of the run: rate {data['ahead_after_a_tenth']:g}; "
          f"best at the end: {data['best']:g}")

# %% ftlab="result" claim="M08"
lab.claim("M08", (counts[0.128] or STEPS) / (counts[0.016] or STEPS))

# %% [markdown]
# > **"A small rate gets stuck in a local minimum."**
#
# Look at the slow run below. For hundreds of steps its loss hardly moves: anybody would say that it is stuck, at the loss
# of a model that knows the stories' wording and guesses every name. So let it go on.

# %% ftlab="play"
lab.predict("stuck", "A run at 0.002 stands on a plateau after 320 steps. After six times as many?", kind="choice",
            options=["it is still on the plateau", "lower, but far from the best rate's 320 steps",
                     "about as low as the best rate's 320 steps"])

# %% ftlab="experiment"
slow = lab.study("M11")[0]["data"]
width = measured.SLOWLY * 320 / len(slow["losses"])
plots.loss_curve({"rate 0.002, constant": ([round((i + 0.5) * width) for i in range(len(slow["losses"]))], slow["losses"])},
                 evals={"held out": ([320 * (i + 1) for i in range(len(slow["held_out"]))], slow["held_out"])},
                 floor=slow["floor"], title="the slow run goes on (committed)", smooth=1, ylim=(0.2, 2.2)).show()
print(f"Held out after 320 steps {slow['held_out'][0] - slow['floor']:.3f}, after {len(slow['held_out']) * 320} "
      f"{slow['held_out'][-1] - slow['floor']:.3f} nats above the floor; the best rate's 320 steps end at "
      f"{slow['best'] - slow['floor']:.3f}.")
print(f"You predicted: {lab.prediction('stuck') or 'nothing'}.")

# %% ftlab="result" claim="M11"
lab.claim("M11", slow["best"] - slow["held_out"][-1])

# %% [markdown]
# A plateau is a stretch where the gradient is small, not a pit with walls; in thousands of dimensions there is nearly
# always a way down, and a small rate walks it slowly (Dauphin et al. 2014). What a small rate costs is time, and what it
# buys is nothing: the same place is reached in a sixth of the steps.

# %% ftlab="play"
def go_on_slowly():
    plot = widgets.LivePlot(floor=floor, metric="loss", title="rate 0.002, constant")
    history, recipe = measured.slow_run(0, callbacks=[plot], steps=STEPS)
    return f"ends {history.evals[-1]['loss'] - recipe.floor:.3f} nats above the floor"


widgets.run_live_button("Run the slow run here", go_on_slowly, note="1,920 steps, about half a minute")

# %% [markdown]
# ## Go further
#
# **Text of your own.** Any training of `ftlab` can begin with a range test. The button takes the docstrings of Python's
# standard library; put a file, a folder or a glob of yours in the place of `"python:docstrings"`. On the command line:
# `ftlab pretrain --text PATH --out FOLDER --range-test`.

# %% ftlab="play"
TEXT = "python:docstrings"  # or "my_book.txt", "notes/", "letters/*.txt"


def test_my_text(report):
    from ftlab.text.corpus import read_texts

    report("reading, and learning a tokenizer ...")
    own = text_recipe(read_texts(TEXT), steps=profile.steps(120, 6))
    report("the range test ...")
    found = library_range_test(own.model(), own.batches, own.config, low=1e-4, high=1.0, steps=profile.steps(80, 6))
    report(f"suggested peak rate {found.suggestion:.3g}; a short run with it ...")
    history = train(own.model(), own.batches, found.apply(own.config), callbacks=[widgets.LivePlot(title="your text")])
    report(f"suggested peak rate {found.suggestion:.3g}; after {len(history.losses)} steps the loss is "
           f"{statistics.fmean(history.losses[-10:]):.2f} nats per token")
    return plots.lines({"running mean": (found.rates, found.smoothed)}, "learning rate", "training loss (nats per token)",
                       title=f"range test on {TEXT}", logx=True, labels=False,
                       vline=(found.suggestion, f"suggested: {found.suggestion:.3g}"))


widgets.run_live_button("Range-test your text", test_my_text, note="about half a minute")

# %% [markdown]
# **Discuss.**
#
# 1. You compare two methods and have compute for ten runs. One method gets ten rates, or each gets five? And if one of
#    them is yours?
# 2. The best rate of a run of 320 steps: is it too high or too low for a run of 3,200? Which of the pictures above lets
#    you guess, and what would you run to find out?
# 3. A run on a hundred machines diverges after three weeks, far from any warmup. Going back to a checkpoint at a third of
#    the rate is one remedy. Name another, and say what it assumes about the cause.
#
# **Read.**
#
# - Smith (2017), *Cyclical Learning Rates for Training Neural Networks*: section 3.3 is the range test.
# - Loshchilov and Hutter (2017), *SGDR: Stochastic Gradient Descent with Warm Restarts*: the cosine.
# - Goyal et al. (2017), *Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour*: warmup, and rate against batch.
# - McCandlish, Kaplan, Amodei et al. (2018), *An Empirical Model of Large-Batch Training*: the critical batch size.
# - Hu et al. (2024), *MiniCPM*: warmup–stable–decay; Hägele et al. (2024), *Scaling Laws and Compute-Optimal Training
#   Beyond Fixed Training Durations*, on why its short decay suffices.
# - Malladi et al. (2022), *On the SDEs and Scaling Rules for Adaptive Gradient Algorithms*: the square-root rule for Adam.
# - Kalra and Barkeshli (2024), *Why Warmup the Learning Rate?*; Dauphin et al. (2014), *Identifying and attacking the
#   saddle point problem in high-dimensional non-convex optimization*.

# %%
lab.progress()
