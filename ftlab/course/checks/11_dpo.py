"""Exercises of lab 11_dpo: texts, hints, mistakes and what each check knows."""

from ftlab.teach import Exercise, against


def _draws(seed):
    """draw(*shape) -> normal numbers, by a generator of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator)


# -- log-probabilities of responses

def sequence_logprobs(logits, ids, starts, lengths, first=0, last=0, mean=False):
    """first, last: by how many places the mask is off at its two ends."""
    import torch

    logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]  # (B, T − 1)
    places = torch.arange(1, ids.shape[1])
    mask = (places >= starts[:, None] + first) & (places < lengths[:, None] + last)
    total = (logp * mask).sum(1)
    return total / mask.sum(1) if mean else total


FAR = 10 ** 6  # beyond either end of a text


def _not_shifted(logits, ids, starts, lengths):
    import torch

    logp = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]  # (B, T)
    places = torch.arange(ids.shape[1])
    return (logp * ((places >= starts[:, None]) & (places < lengths[:, None]))).sum(1)


def _no_softmax(logits, ids, starts, lengths):
    import torch

    score = logits[:, :-1].gather(-1, ids[:, 1:, None])[..., 0]
    places = torch.arange(1, ids.shape[1])
    return (score * ((places >= starts[:, None]) & (places < lengths[:, None]))).sum(1)


def texts(seed, *sizes):
    """[(logits, ids, starts, lengths), …] of batches of so many rows, all of them with padding."""
    import torch

    generator, draw, made = torch.Generator().manual_seed(seed), _draws(seed), []
    for rows in sizes:
        starts = torch.randint(2, 4, (rows,), generator=generator)
        lengths = starts + torch.randint(2, 4, (rows,), generator=generator)
        size = int(lengths.max()) + 1
        ids = torch.randint(1, 5, (rows, size), generator=generator) * (torch.arange(size) < lengths[:, None])
        made.append((2 * draw(rows, size, 5), ids, starts, lengths))
    return made


# -- the loss

def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    import torch.nn.functional as F

    return -F.logsigmoid(beta * ((chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach()))).mean()


def _swapped(chosen, rejected, ref_chosen, ref_rejected, beta):
    return dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta)


def _no_reference(chosen, rejected, ref_chosen, ref_rejected, beta):
    return dpo_loss(chosen, rejected, 0 * ref_chosen, 0 * ref_rejected, beta)


def _beta_outside(chosen, rejected, ref_chosen, ref_rejected, beta):
    return beta * dpo_loss(chosen, rejected, ref_chosen, ref_rejected, 1.0)


def _no_log(chosen, rejected, ref_chosen, ref_rejected, beta):
    return -(beta * ((chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach()))).sigmoid().mean()


def _summed(chosen, rejected, ref_chosen, ref_rejected, beta):
    return len(chosen) * dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)


def _reference_learns(chosen, rejected, ref_chosen, ref_rejected, beta):
    import torch.nn.functional as F

    return -F.logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected))).mean()


def _log_of_sigmoid(chosen, rejected, ref_chosen, ref_rejected, beta):
    margin = beta * ((chosen - ref_chosen.detach()) - (rejected - ref_rejected.detach()))
    return -margin.sigmoid().log().mean()


def run_loss(loss, chosen, rejected, ref_chosen, ref_rejected, beta):
    """A loss of the policy's and the reference's log-probabilities, all of which could learn: its value, the gradients of the
    policy's, and whether the reference's got one."""
    inputs = [x.clone().requires_grad_() for x in (chosen, rejected, ref_chosen, ref_rejected)]
    value = loss(*inputs, beta)
    value.backward()
    a, b, *frozen = (x.grad for x in inputs)
    return {"loss": value.detach(), "gradient of chosen": a, "gradient of rejected": b,
            "the reference learns": any(g is not None and bool(g.abs().max() > 0) for g in frozen)}


def _running(loss):
    return lambda *case: run_loss(loss, *case)


def logprobs_cases(seed, beta=0.3):
    """Log-probabilities of two and of three pairs; and of one that the policy has very wrong."""
    import torch

    draw = _draws(seed)
    made = []
    for pairs in (2, 3):
        references = [-40 + 4 * draw(pairs) for _ in range(2)]
        made.append((*(r + 3 * draw(pairs) for r in references), *references, beta))
    return [*made, (torch.tensor([-450.0]), torch.tensor([-40.0]), torch.tensor([-40.0]), torch.tensor([-45.0]), 0.5)]


# -- variants of the loss

def variant_loss(h, beta, kind, epsilon=0.1):
    import torch.nn.functional as F

    if kind == "ipo":
        return ((h - 1 / (2 * beta)) ** 2).mean()
    epsilon = epsilon if kind == "cdpo" else 0.0
    return (-(1 - epsilon) * F.logsigmoid(beta * h) - epsilon * F.logsigmoid(-beta * h)).mean()


def _ipo_on_margin(h, beta, kind, epsilon=0.1):
    return ((beta * h - 1 / (2 * beta)) ** 2).mean() if kind == "ipo" else variant_loss(h, beta, kind, epsilon)


def _ipo_target(h, beta, kind, epsilon=0.1):
    return ((h - 1 / beta) ** 2).mean() if kind == "ipo" else variant_loss(h, beta, kind, epsilon)


def _reversed(h, beta, kind, epsilon=0.1):
    return variant_loss(h, beta, kind, 1 - epsilon)


def _shrunk(h, beta, kind, epsilon=0.1):
    return variant_loss((1 - 2 * epsilon) * h if kind == "cdpo" else h, beta, "dpo" if kind == "cdpo" else kind)


def _one_sided(h, beta, kind, epsilon=0.1):
    return (1 - epsilon) * variant_loss(h, beta, "dpo") if kind == "cdpo" else variant_loss(h, beta, kind, epsilon)


def variant_cases():
    import torch

    draw = _draws(11)
    return [(h, beta, kind, epsilon) for h, beta, epsilon in
            ((torch.tensor([1.0]), 0.5, 0.2), (6 * draw(3), 0.2, 0.1), (6 * draw(4), 1.5, 0.3))
            for kind in ("dpo", "cdpo", "ipo")]


# -- the implicit reward

def implicit_reward(logp, ref_logp, mask, beta):
    return beta * ((logp - ref_logp) * mask).sum(1)


def _ratio_of_sums(logp, ref_logp, mask, beta):
    return beta * ((logp * mask).sum(1) / (ref_logp * mask).sum(1)).log()


def reward_cases(seed=12):
    """[(logp, ref_logp, mask, beta), …] of token log-probabilities (B, T − 1)."""
    import torch

    draw, made = _draws(seed), []
    for rows, size, beta in ((1, 3, 0.5), (2, 5, 0.1), (3, 6, 0.4)):
        mask = torch.arange(size) >= torch.arange(rows)[:, None] + 1
        made.append((-draw(rows, size).abs(), -draw(rows, size).abs(), mask, beta))
    return made


# -- utility at a KL

def at_kl(points, kl):
    points = sorted(points)
    for (low, a), (high, b) in zip(points, points[1:]):
        if low <= kl <= high:
            return a + (b - a) * (kl - low) / (high - low)
    return None


def _unsorted(points, kl):
    for (low, a), (high, b) in zip(points, points[1:]):
        if low <= kl <= high:
            return a + (b - a) * (kl - low) / (high - low)
    return None


def _nearest(points, kl):
    if not min(points)[0] <= kl <= max(points)[0]:
        return None
    return min(points, key=lambda point: abs(point[0] - kl))[1]


def _below(points, kl):
    if not min(points)[0] <= kl <= max(points)[0]:
        return None
    return max(point for point in points if point[0] <= kl)[1]


def _clipped(points, kl):
    return at_kl(points, min(max(kl, min(points)[0]), max(points)[0]))


POINTS = [(8.0, 1.2), (2.0, 0.4), (4.0, 0.9), (16.0, 0.1)]
AT_KL_CASES = [([(0.0, 0.0), (2.0, 1.0)], 0.5), (POINTS, 3.5), (POINTS, 9.0), (POINTS, 1.0), (POINTS, 30.0), (POINTS, 8.0)]

# -- the diagnosis

START = {"utility": -0.5, "reward": 0.0, "kl": 0.0, "length": 60.0, "accuracy": 0.5}
GAIN, STILL, LONGER, CHANCE = 0.1, 1.0, 1.2, 0.6


def diagnose(row, start):
    if row["utility"] >= start["utility"] + GAIN:
        return "none"
    if row["kl"] < STILL:
        return "not moved"
    if row["length"] >= LONGER * start["length"]:
        return "length"
    if row["accuracy"] < CHANCE:
        return "noise"
    return "overoptimised" if row["reward"] > start["reward"] else "unexplained"


def _proxy_believed(row, start):
    return "none" if row["reward"] >= start["reward"] + GAIN else diagnose(row | {"utility": start["utility"]}, start)


def _no_baseline(row, start):
    return diagnose(row, start | {"utility": 0.0})


def _length_alone(row, start):
    return diagnose(row, start | {"length": 1.0})


def _last_wins(row, start):
    found = "unexplained"
    if row["utility"] >= start["utility"] + GAIN:
        found = "none"
    if row["kl"] < STILL:
        found = "not moved"
    if row["length"] >= LONGER * start["length"]:
        found = "length"
    if row["accuracy"] < CHANCE:
        found = "noise"
    if row["reward"] > start["reward"]:
        found = "overoptimised"
    return found


def diagnose_cases():
    rows = [START | changes for changes in (
        {"utility": 0.4, "reward": 1.5, "kl": 6.0, "accuracy": 0.8},  # went well
        {"utility": -0.2, "reward": 0.9, "kl": 5.0, "length": 74.0, "accuracy": 0.55},  # and this, for all its oddities
        {"utility": -0.48, "reward": 0.05, "kl": 0.3, "accuracy": 0.7},
        {"utility": -1.6, "reward": 2.0, "kl": 14.0, "length": 85.0, "accuracy": 0.75},
        {"utility": -0.7, "reward": -0.1, "kl": 5.0, "length": 62.0, "accuracy": 0.52},
        {"utility": -2.5, "reward": 2.4, "kl": 60.0, "length": 50.0, "accuracy": 0.8},
        {"utility": -0.9, "reward": -0.4, "kl": 4.0, "length": 58.0, "accuracy": 0.7})]
    return [(row, START) for row in rows]


def rows_of(seed, count=12):
    """Rows of a table as runs might leave them, drawn by a seed: [(row, start), …]."""
    import random

    rng = random.Random(seed)
    start = START | {"utility": round(rng.uniform(-0.8, -0.3), 3), "reward": round(rng.uniform(-0.2, 0.2), 3),
                     "length": round(rng.uniform(50, 70), 1)}
    drawn = [{"utility": start["utility"] + rng.uniform(-0.9, 0.5), "reward": start["reward"] + rng.uniform(-0.6, 2),
              "kl": rng.choice((0.4, 3.0, 12.0, 40.0)), "length": start["length"] * rng.choice((0.8, 1.0, 1.1, 1.5)),
              "accuracy": rng.choice((0.5, 0.58, 0.7, 0.85))} for _ in range(count)]
    return [(row, start) for row in drawn] + [(row, START) for row, _ in diagnose_cases()]


EXERCISES = [
    Exercise(
        id="logprobs", title="The log-probability of a response", points=5, minutes=18, difficulty=2,
        hints=(
            "A response's probability is a product over its tokens; the log turns it into a sum.",
            "The logits at place t speak of the token at t + 1: so logits[:, :-1] belong to ids[:, 1:]. Gather, from the "
            "log-softmax, the entry of the token that came.",
            "places = torch.arange(1, T) are the places of those tokens, and the response holds those with starts <= place < "
            "lengths. logp = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]; mask = (places >= "
            "starts[:, None]) & (places < lengths[:, None]); return (logp * mask).sum(1)",
        ),
        mistakes={
            "not_shifted": "You asked each place about its own token; the logits at place t speak of the token at t + 1.",
            "prompt_counted": "You counted the prompt's tokens as well; only the response is the policy's choice.",
            "padding_counted": "You counted padding: behind a row's `lengths` nothing was written.",
            "first_left_out": "You left out the response's first token: it stands at `starts` itself and counts.",
            "mask_not_shifted": "Your mask speaks of places, your log-probabilities of the tokens behind them: shift the mask, "
                                "too. The first token of the response is missing, and one behind its end is counted.",
            "averaged": "You took the mean over tokens; the probability of a text is a product, so its log is the sum.",
            "no_softmax": "You summed logits; a log-probability is the log-softmax over the vocabulary.",
        },
        check=against(sequence_logprobs, lambda: texts(11, 1, 2, 4), mistakes={
            "not_shifted": _not_shifted, "prompt_counted": lambda *case: sequence_logprobs(*case, first=-FAR),
            "padding_counted": lambda *case: sequence_logprobs(*case, last=FAR),
            "first_left_out": lambda *case: sequence_logprobs(*case, first=1),
            "mask_not_shifted": lambda *case: sequence_logprobs(*case, first=1, last=1),
            "averaged": lambda *case: sequence_logprobs(*case, mean=True), "no_softmax": _no_softmax}),
        withheld=("ftlab.align.pairs.token_logprobs", "ftlab.align.pairs.sequence_logprobs",
                  "ftlab.align.pairs.logprobs_of", "ftlab.model.generate.sequence_logprobs"),
    ),
    Exercise(
        id="loss", title="The DPO loss", points=5, minutes=15, difficulty=2,
        hints=(
            "For each response: how much likelier has the policy made it than the reference has it? The loss looks at the "
            "difference of these two numbers.",
            "margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected)), then -log sigmoid(margin), the mean over "
            "pairs. The reference is a constant: .detach() it.",
            "Take F.logsigmoid, which knows what to do where sigmoid is too small for a float: margin = beta * ((chosen - "
            "ref_chosen.detach()) - (rejected - ref_rejected.detach())); return -F.logsigmoid(margin).mean()",
        ),
        mistakes={
            "swapped": "Your margin has the wrong sign: chosen minus rejected, and policy minus reference. Training would "
                       "teach the rejected answers.",
            "no_reference": "You left the reference out; each log-probability counts from where the reference has it.",
            "beta_outside": "Your beta stands before the log-sigmoid; it belongs inside, as the scale of the margin.",
            "no_log": "You took the sigmoid; the loss is minus its logarithm.",
            "summed": "You took the sum over pairs; take the mean, or the step grows with the batch.",
            "reference_learns": "The value is right, but the reference gets a gradient, too: it is frozen, so .detach() it.",
            "log_of_sigmoid": "At a margin of -200 the sigmoid is 0 in float32 and its log is -inf; F.logsigmoid computes both "
                              "in one step and is right everywhere.",
        },
        check=against(_running(dpo_loss), lambda: logprobs_cases(13), using=run_loss, mistakes={
            "swapped": _running(_swapped), "no_reference": _running(_no_reference),
            "beta_outside": _running(_beta_outside), "no_log": _running(_no_log), "summed": _running(_summed),
            "reference_learns": _running(_reference_learns), "log_of_sigmoid": _running(_log_of_sigmoid)}),
        withheld=("ftlab.align.dpo.dpo_loss", "ftlab.align.dpo.pair_loss"),
    ),
    Exercise(
        id="variants", title="Two variants of it", points=3, minutes=10, difficulty=1,
        hints=(
            "cDPO is a mean of two losses: that of the pair as it stands, and that of the pair the other way round.",
            "The pair the other way round has the margin -beta * h. IPO is a squared distance of h itself, not of beta * h, "
            "from its target.",
            '"cdpo": -(1 - epsilon) * F.logsigmoid(beta * h) - epsilon * F.logsigmoid(-beta * h), the mean; "dpo" is that with '
            'epsilon = 0; "ipo": ((h - 1 / (2 * beta)) ** 2).mean()',
        ),
        mistakes={
            "ipo_on_margin": "You scaled h by beta in IPO, too; there beta stands in the target only.",
            "ipo_target": "Your target of IPO is 1 / beta; it is 1 / (2 beta).",
            "epsilon_reversed": "Your epsilon weighs the pair as it stands; it is the share of pairs that stand the wrong way.",
            "shrunk": "You shrank the margin by 1 - 2 epsilon; what is averaged are the two losses, not the two margins.",
            "one_sided": "You scaled the loss by 1 - epsilon and left out the other half: -epsilon log sigmoid(-beta h).",
        },
        check=against(variant_loss, variant_cases, mistakes={
            "ipo_on_margin": _ipo_on_margin, "ipo_target": _ipo_target,
            "epsilon_reversed": lambda h, beta, kind, epsilon=0.1: (
                _reversed(h, beta, kind, epsilon) if kind == "cdpo" else variant_loss(h, beta, kind, epsilon)),
            "shrunk": _shrunk, "one_sided": _one_sided}),
        withheld=("ftlab.align.dpo.dpo_loss", "ftlab.align.dpo.pair_loss"),
    ),
    Exercise(
        id="implicit", title="The implicit reward", points=4, minutes=10, difficulty=1,
        hints=(
            "Start from r = beta log(policy / reference). What is the log of a quotient of two probabilities?",
            "beta times the difference of the two log-probabilities of the whole response: the sum over the tokens that the "
            "mask marks.",
            "The prompt's tokens are masked out, and what is left is summed over each row: return beta * ((logp - ref_logp) * "
            "mask).sum(1)",
        ),
        mistakes={
            "divided": "You divided by beta; the policy is pi_ref exp(r / beta), so r is beta times the log-ratio.",
            "averaged": "You took the mean over tokens; the reward of a response is the sum, as its log-probability is.",
            "policy_only": "You left the reference out: that is how likely a text is, not how much it was preferred.",
            "ratio_of_sums": "You divided one sum of logs by the other and took a log again; the log of a quotient is a "
                             "difference of logs.",
            "reversed": "You subtracted the policy from the reference: what training made likelier has the higher reward.",
            "not_masked": "You counted the prompt, too; the mask says which tokens are the response.",
        },
        check=against(implicit_reward, reward_cases, mistakes={
            "divided": lambda logp, ref_logp, mask, beta: implicit_reward(logp, ref_logp, mask, 1 / beta),
            "averaged": lambda logp, ref_logp, mask, beta: implicit_reward(logp, ref_logp, mask, beta) / mask.sum(1),
            "policy_only": lambda logp, ref_logp, mask, beta: implicit_reward(logp, 0 * ref_logp, mask, beta),
            "ratio_of_sums": _ratio_of_sums,
            "reversed": lambda logp, ref_logp, mask, beta: implicit_reward(ref_logp, logp, mask, beta),
            "not_masked": lambda logp, ref_logp, mask, beta: implicit_reward(logp, ref_logp, mask | True, beta)}),
        withheld=("ftlab.align.dpo.implicit_rewards", "ftlab.align.dpo.token_rewards"),
    ),
    Exercise(
        id="frontier", title="Utility at a matched KL", points=4, minutes=12, difficulty=2,
        hints=(
            "Two runs of different KL cannot be compared; two lines through several runs can, at a KL that both reach.",
            "Sort the points by their KL. Between the two neighbours of `kl` the utility is taken to go straight from the one "
            "to the other; beyond the first and the last point nothing is known.",
            "points = sorted(points); for (low, a), (high, b) in zip(points, points[1:]): if low <= kl <= high: return a + "
            "(b - a) * (kl - low) / (high - low). Behind the loop, where no neighbours were found: return None",
        ),
        mistakes={
            "unsorted": "You took the points as they come; sort them by KL first: a larger beta has the smaller KL.",
            "nearest": "You took the point that lies nearest; go along the line between the two neighbours.",
            "below": "You took the last point before `kl`; go along the line between the two neighbours.",
            "clipped": "You gave a value where nothing was measured: outside the points the answer is None.",
        },
        check=against(at_kl, AT_KL_CASES, mistakes={
            "unsorted": _unsorted, "nearest": _nearest, "below": _below, "clipped": _clipped}),
    ),
    Exercise(
        id="diagnose", title="Explain a failure", points=4, minutes=15, difficulty=2,
        hints=(
            "Take the findings from top to bottom, and stop at the first that applies.",
            "The first asks about the true utility, and whether it rose from the start's by at least 0.1. Length, too, counts "
            "beside the start's. An `if` that returns needs no `else`.",
            'if row["utility"] >= start["utility"] + 0.1: return "none"; if row["kl"] < 1: return "not moved"; if '
            'row["length"] >= 1.2 * start["length"]: return "length"; if row["accuracy"] < 0.6: return '
            '"noise"; at last "overoptimised" if row["reward"] > start["reward"] else "unexplained"',
        ),
        mistakes={
            "proxy_believed": "You asked whether the reward rose; whether a run went well is said by the true utility.",
            "no_baseline": "You compared the utility with 0.1 itself; what counts is the gain over the start.",
            "length_alone": "You compared the length with 1.2 tokens; it counts in lengths of the start's answers.",
            "last_wins": "A later finding overwrote an earlier one: the first that applies is the answer, so return at once.",
        },
        check=against(diagnose, diagnose_cases, mistakes={
            "proxy_believed": _proxy_believed, "no_baseline": _no_baseline, "length_alone": _length_alone,
            "last_wins": _last_wins}),
    ),
]
