"""Exercises of lab 05_learning_rate: texts, hints, mistakes and what each check knows."""

import functools
import math

from ftlab.teach import Exercise, against

# -- the schedules

DECAY = 0.2  # the last share of the steps after the warmup in which warmup–stable–decay falls


def lr_factor(schedule, step, steps, warmup):
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return _shape(schedule, progress)


def _shape(schedule, progress):
    """The factor after the warmup, at a progress in [0, 1)."""
    if schedule == "linear":
        return 1 - progress
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "wsd":
        return 1.0 if progress < 1 - DECAY else (1 - progress) / DECAY
    return 1.0


def _warmup_from_zero(schedule, step, steps, warmup):
    return step / warmup if step < warmup else lr_factor(schedule, step, steps, warmup)


def _progress_from_start(schedule, step, steps, warmup):
    return (step + 1) / warmup if step < warmup else _shape(schedule, step / steps)


def _cliff(schedule, step, steps, warmup):
    if schedule == "wsd" and step >= warmup:
        progress = (step - warmup) / (steps - warmup)
        return 1.0 if progress < 1 - DECAY else 1 - progress
    return lr_factor(schedule, step, steps, warmup)


def _no_warmup(schedule, step, steps, warmup):
    return 1.0 if schedule == "constant" else lr_factor(schedule, step, steps, warmup)


SCHEDULE_CASES = [
    (schedule, step, steps, warmup)
    for steps, warmup in ((10, 0), (12, 2), (60, 10))
    for schedule in ("constant", "linear", "cosine", "wsd")
    for step in sorted({0, warmup // 2, warmup, (steps + warmup) // 2, steps - 2, steps - 1})
]


# -- the range test

def range_test(update, low, high, steps):
    rates, losses = [], []
    for i in range(steps):
        rate = low * (high / low) ** (i / (steps - 1))
        loss = update(rate)
        if not math.isfinite(loss) or losses and loss > losses[0] + 1.0:
            break
        rates.append(rate)
        losses.append(loss)
    return rates, losses


def _range_variant(update, low, high, steps, rises="geometric", count=None, stops=True, nan=True, against_lowest=False):
    """`range_test` with one thing changed."""
    rates, losses, best = [], [], math.inf
    for i in range(steps):
        share = i / (count or steps - 1)
        rate = low * (high / low) ** share if rises == "geometric" else low + (high - low) * share
        loss = update(rate)
        above = bool(losses) and loss > (best if against_lowest else losses[0]) + 1.0
        if stops and (above or nan and not math.isfinite(loss)):
            break
        best = min(best, loss)
        rates.append(rate)
        losses.append(loss)
    return rates, losses


class Slope:
    """A model so small that its training can be followed by hand: a weight w, the loss start · w², a gradient step.

    `asked` holds the rates it was trained at. Where w leaves [-limit, limit], the loss is no number. From step `bump`
    on the loss is 1.5 higher, as batches are that are harder.
    """

    def __init__(self, start, limit=1e3, bump=None):
        self.start, self.limit, self.bump, self.weight, self.asked = start, limit, bump, 1.0, []

    def __call__(self, rate):
        self.asked.append(rate)
        loss = self.start * self.weight**2 if abs(self.weight) <= self.limit else math.nan
        self.weight -= rate * self.start * self.weight
        return loss + (1.5 if self.bump is not None and len(self.asked) > self.bump else 0.0)


def run_range_test(test, start, limit, bump, low, high, steps):
    """What a range test finds on a Slope: {"rates", "losses", "asked"} — the rates it reports and those it tried."""
    update = Slope(start, limit, bump)
    rates, losses = test(update, low, high, steps)
    return {"rates": list(map(float, rates)), "losses": list(map(float, losses)), "tried": len(update.asked)}


def _range_with(**wrong):
    return functools.partial(run_range_test, functools.partial(_range_variant, **wrong))


RANGE_CASES = [
    (2.0, 1e3, None, 1e-3, 1e-1, 3),  # never too high
    (2.0, 1e3, None, 1e-3, 0.1, 5),
    (5.0, 1e3, 6, 1e-2, 1e-1, 12),  # a harder stretch late, but no divergence
    (3.0, 1e3, None, 1e-2, 30.0, 14),  # the loss rises above its start
    (4.0, 1.0, None, 1e-2, 30.0, 14),  # the loss becomes no number
]


# -- divergence

def diverged_at(losses, window, margin):
    for step in range(1, len(losses) + 1):
        if not math.isfinite(losses[step - 1]):
            return step
        if step >= window and sum(losses[step - window:step]) / window > losses[0] + margin:
            return step
    return None


def _one_odd_batch(losses, window, margin):
    return next((i for i, loss in enumerate(losses, 1) if not math.isfinite(loss) or loss > losses[0] + margin), None)


def _no_number_passes(losses, window, margin):
    for step in range(window, len(losses) + 1):
        if sum(losses[step - window:step]) / window > losses[0] + margin:  # False where a loss is NaN
            return step
    return None


def _against_lowest(losses, window, margin):
    lowest = math.inf
    for step in range(1, len(losses) + 1):
        if not math.isfinite(losses[step - 1]):
            return step
        lowest = min(lowest, losses[step - 1])
        if step >= window and sum(losses[step - window:step]) / window > lowest + margin:
            return step
    return None


def _counted_from_zero(losses, window, margin):
    step = diverged_at(losses, window, margin)
    return None if step is None else step - 1


NAN, INF = math.nan, math.inf
DIVERGENCE_CASES = [
    ([3.0, 2.5, 2.0], 2, 0.25),
    ([3.0, 2.5, 4.0, 2.0, 1.5, 1.0], 3, 0.25),  # one odd batch
    ([3.0, 2.0, 1.0, 1.5, 2.0, 2.5], 2, 0.25),  # much worse than it was, not above its start
    ([3.0, 2.0, 4.0, 5.0, 6.0], 2, 0.25),
    ([3.0, 2.0, NAN, 2.0, 2.0], 2, 0.25),
    ([3.0, INF, 2.0, 2.0, 1.0], 3, 0.25),
    ([6.2, 5.0, 4.0, 5.5, 6.0, 6.3, 6.9, 7.5, 9.0, 9.0], 4, 0.25),
]


# -- pick a rate

def pick_rate(rates, losses):
    means = [_mean_or_infinite(column) for column in zip(*losses, strict=True)]
    best = min(range(len(means)), key=means.__getitem__)
    if not 0 < best < len(means) - 1 or not math.isfinite(means[best - 1] + means[best + 1]):
        return float(rates[best])
    left, low, right = means[best - 1:best + 2]
    return rates[best] * (rates[best + 1] / rates[best]) ** (0.5 * (left - right) / (left - 2 * low + right))


def _mean_or_infinite(column):
    return sum(column) / len(column) if all(map(math.isfinite, column)) else math.inf


def _best_seed(rates, losses):
    finite = [[loss if math.isfinite(loss) else math.inf for loss in row] for row in losses]
    row = min(finite, key=min)
    return pick_rate(rates, [row])


def _diverged_dropped(rates, losses):
    means = []
    for column in zip(*losses, strict=True):
        finite = [loss for loss in column if math.isfinite(loss)]
        means.append(sum(finite) / len(finite) if finite else math.inf)
    return pick_rate(rates, [means])


def _grid_only(rates, losses):
    means = [_mean_or_infinite(column) for column in zip(*losses, strict=True)]
    return float(rates[min(range(len(means)), key=means.__getitem__)])


def _linear_axis(rates, losses):
    means = [_mean_or_infinite(column) for column in zip(*losses, strict=True)]
    best = min(range(len(means)), key=means.__getitem__)
    if not 0 < best < len(means) - 1 or not math.isfinite(means[best - 1] + means[best + 1]):
        return float(rates[best])
    left, low, right = means[best - 1:best + 2]
    x0, x1, x2 = rates[best - 1:best + 2]
    above = (x1 - x0) ** 2 * (low - right) - (x1 - x2) ** 2 * (low - left)
    below = (x1 - x0) * (low - right) - (x1 - x2) * (low - left)
    return x1 - 0.5 * above / below


PICK_CASES = [
    ([0.01, 0.02, 0.04], [[1.0, 0.5, 0.8]]),
    ([0.001, 0.01, 0.1], [[1.0, 0.6, 1.4], [1.2, 0.5, 0.9]]),
    ([0.01, 0.02, 0.04, 0.08], [[0.9, 0.6, 0.5, 0.2], [0.9, 0.6, 0.55, NAN]]),  # the lowest diverged on one seed
    ([0.01, 0.02, 0.04, 0.08], [[0.3, 0.6, 0.9, INF], [0.4, 0.7, 1.0, INF]]),  # lowest at the edge of the grid
    ([0.001, 0.002, 0.004, 0.008, 0.016],
     [[1.2, 0.8, 0.5, 0.4, 0.9], [1.1, 0.9, 0.45, 0.6, 1.4], [1.3, 0.7, 0.5, 0.7, 0.8]]),
]

EXERCISES = [
    Exercise(
        id="schedules", title="Four schedules", points=5, minutes=15, difficulty=2,
        hints=(
            "The warmup is the same for all four: settle it first, then forget about it.",
            "After the warmup everything depends on one number, the progress (step − warmup) / (steps − warmup). "
            "Linear is 1 − progress. The decay of wsd is a line from 1 to 0 over the last fifth of the progress.",
            "if step < warmup: return (step + 1) / warmup. Then, with p the progress: constant 1.0, linear 1 − p, "
            "cosine 0.5 * (1 + math.cos(math.pi * p)), wsd 1.0 while p < 0.8, and (1 − p) / 0.2 from there on to the end.",
        ),
        mistakes={
            "warmup_from_zero": "Your first step has rate 0 and is lost: the warmup gives (step + 1) / warmup.",
            "progress_from_start": "You count the progress from step 0; the decay begins where the warmup ends.",
            "cliff": "Your wsd jumps down to 0.2 where its decay begins; it must fall from 1 to 0 in the last fifth.",
            "no_warmup": "Your constant schedule has no warmup; all four rise over the first steps.",
        },
        check=against(lr_factor, SCHEDULE_CASES, mistakes={
            "warmup_from_zero": _warmup_from_zero, "progress_from_start": _progress_from_start, "cliff": _cliff,
            "no_warmup": _no_warmup}),
        withheld=("ftlab.train.schedule.factor",),
    ),
    Exercise(
        id="range_test", title="The range test", points=6, minutes=18, difficulty=3,
        hints=(
            "Rates differ by factors, so let them rise by a constant factor from step to step.",
            "Step i of 0 … steps − 1 has the rate low * (high / low) ** (i / (steps - 1)). Keep the rate and the loss "
            "only after you have looked at the loss.",
            "In the loop: loss = update(rate); if not math.isfinite(loss) or (losses and loss > losses[0] + 1): break; "
            "otherwise append both. Return rates, losses.",
        ),
        mistakes={
            "linear": "Your rates rise by equal differences; they must rise by equal factors, or small ones are never "
                      "tried.",
            "never_reaches_high": "Your last rate is below `high`: the share of the way is i / (steps − 1).",
            "never_stops": "You go on after the loss has risen by more than 1 above its first, or become no number.",
            "no_number_passes": "You keep a loss that is no number: `nan > x` is False, so ask math.isfinite.",
            "against_lowest": "You stop where the loss is 1 above its lowest; it is to be compared with its first.",
        },
        check=against(
            functools.partial(run_range_test, range_test), RANGE_CASES, using=run_range_test, mistakes={
                "linear": _range_with(rises="linear"), "never_stops": _range_with(stops=False),
                "no_number_passes": _range_with(nan=False), "against_lowest": _range_with(against_lowest=True),
                "never_reaches_high": lambda start, limit, bump, low, high, steps: run_range_test(
                    functools.partial(_range_variant, count=steps), start, limit, bump, low, high, steps)}),
        withheld=("ftlab.train.rates.range_test",),
    ),
    Exercise(
        id="diverged", title="Detect divergence", points=4, minutes=12, difficulty=2,
        hints=(
            "Two ways to diverge: a loss that is no number, at once; and losses above the first one, on average.",
            "Walk through the steps 1, 2, …. At step s look at losses[s - 1], and, once s >= window, at the mean of "
            "losses[s - window:s].",
            "for step in range(1, len(losses) + 1): return step if not math.isfinite(losses[step - 1]), or if step >= "
            "window and sum(losses[step - window:step]) / window > losses[0] + margin. After the loop, return None.",
        ),
        mistakes={
            "one_odd_batch": "A single high loss is enough for you; one odd batch is no divergence: take the mean of "
                             "the last `window` losses.",
            "no_number_passes": "A loss that is no number slips through: every comparison with NaN is False, so ask "
                                "math.isfinite.",
            "against_lowest": "You compare with the lowest loss so far; a run has diverged when it is worse than its "
                              "start.",
            "counted_from_zero": "You count steps from 0; the first loss belongs to step 1.",
        },
        check=against(diverged_at, DIVERGENCE_CASES, mistakes={
            "one_odd_batch": _one_odd_batch, "no_number_passes": _no_number_passes, "against_lowest": _against_lowest,
            "counted_from_zero": _counted_from_zero}),
        withheld=("ftlab.train.recovery.divergence",),
    ),
    Exercise(
        id="pick_rate", title="Pick a rate from curves", points=5, minutes=18, difficulty=3,
        hints=(
            "First one number a rate: the mean over the seeds, or infinity where any seed diverged.",
            "With the lowest mean at index b, fit a parabola through b − 1, b and b + 1 over the logarithm of the "
            "rate. Where one of them is missing or infinite, rates[b] is the answer.",
            "With l, m, r the three means, the vertex is rates[b] * (rates[b + 1] / rates[b]) ** (0.5 * (l - r) / "
            "(l - 2 * m + r)). A mean is finite only if math.isfinite holds for every loss of that rate.",
        ),
        mistakes={
            "best_seed": "You went by the luckiest single run; a rate is judged by the mean over the seeds.",
            "diverged_dropped": "You left diverged runs out of the mean; a rate at which any seed diverges must not be "
                                "picked.",
            "grid_only": "You returned the best rate of the grid; the vertex of the parabola lies between its points.",
            "linear_axis": "You fitted the parabola over the rate; over its logarithm the points are evenly spaced.",
        },
        check=against(pick_rate, PICK_CASES, mistakes={
            "best_seed": _best_seed, "diverged_dropped": _diverged_dropped, "grid_only": _grid_only,
            "linear_axis": _linear_axis}),
        withheld=("ftlab.train.sweeps.best_rate",),
    ),
]
