"""Exercises of lab 03_pretraining: texts, hints, mistakes and what each check knows."""

import functools
import math
import statistics

from ftlab.teach import Exercise, against

IGNORE = -100


# -- cross-entropy on shifted targets

def next_token_loss(logits, labels):
    logits, targets = logits[:, :-1], labels[:, 1:]
    wanted = targets != IGNORE
    log_probs = logits[wanted].log_softmax(-1)
    return -log_probs.gather(-1, targets[wanted][:, None]).mean()


def _not_shifted(logits, labels):
    wanted = labels != IGNORE
    return -logits[wanted].log_softmax(-1).gather(-1, labels[wanted][:, None]).mean()


def _shifted_backwards(logits, labels):
    return next_token_loss(logits.flip(1), labels.flip(1))


def _padding_counted(logits, labels):
    wanted = labels[:, 1:] != IGNORE
    return next_token_loss(logits, labels) * wanted.sum() / wanted.numel()


def _mean_of_rows(logits, labels):
    rows = [next_token_loss(logits[i:i + 1], labels[i:i + 1]) for i in range(len(labels))]
    return sum(rows) / len(rows)


def loss_cases():
    import torch

    generator = torch.Generator().manual_seed(0)
    cases = []
    for rows, length, vocabulary in ((1, 3, 4), (2, 5, 4), (4, 9, 11)):
        labels = torch.randint(0, vocabulary, (rows, length), generator=generator)
        for row in range(1, rows):
            labels[row, length - row:] = IGNORE
        cases.append((torch.randn(rows, length, vocabulary, generator=generator), labels))
    return cases


# -- one training step

def training_step(model, batch, optimizer, lr, clip):
    import torch

    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.item()


def _variant(model, batch, optimizer, lr, clip, zero=True, clipped=True, rate=True, late=False):
    """`training_step` with one thing wrong."""
    import torch

    for group in optimizer.param_groups:
        group["lr"] = lr if rate else group["lr"]
    if zero:
        optimizer.zero_grad()
    loss = model.loss(batch)
    if late:
        optimizer.step()
    loss.backward()
    if clipped:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    if not late:
        optimizer.step()
    return loss.item()


def run_steps(step, seed, rates, clip):
    """What `step` does in len(rates) steps to a tiny model: {"losses", "weights"}. Plain gradient descent."""
    import torch

    class Table(torch.nn.Module):
        """A table of logits for each pair of neighbouring tokens: the smallest language model."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(5, 5, generator=generator))

        def loss(self, batch):
            return torch.nn.functional.cross_entropy(self.weight[batch[:, :-1]].flatten(0, 1), batch[:, 1:].flatten())

    generator = torch.Generator().manual_seed(seed)
    model = Table()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = [torch.randint(0, 5, (3, 4), generator=generator) for _ in rates]
    losses = [step(model, batch, optimizer, lr, clip) for batch, lr in zip(batches, rates)]
    return {"losses": losses, "weights": model.weight.detach().clone()}


def _steps_with(**wrong):
    return functools.partial(run_steps, functools.partial(_variant, **wrong))


STEP_CASES = [(0, [0.5], 10.0), (1, [0.5, 0.25], 10.0), (2, [1.0, 0.5, 0.1], 0.2)]


# -- cosine with warmup

def cosine_with_warmup(step, steps, warmup):
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * progress))


SCHEDULE_CASES = [(0, 8, 4), (2, 8, 4), (4, 8, 4), (5, 8, 4), (7, 8, 4), (30, 100, 10), (99, 100, 10)]


def _warmup_from_zero(step, steps, warmup):
    return step / warmup if step < warmup else cosine_with_warmup(step, steps, warmup)


def _progress_from_start(step, steps, warmup):
    return (step + 1) / warmup if step < warmup else 0.5 * (1 + math.cos(math.pi * step / steps))


def _twice(step, steps, warmup):
    return cosine_with_warmup(step, steps, warmup) * (1 if step < warmup else 2)


# -- masking

def mask_for_mlm(ids, draw, dice, random_ids, mask_id):
    import torch

    chosen = (draw < 0.15) & (ids > 2)
    shown = torch.where(dice < 0.8, mask_id, torch.where(dice < 0.9, random_ids, ids))
    return torch.where(chosen, shown, ids), torch.where(chosen, ids, IGNORE)


def mask_cases():
    import torch

    generator = torch.Generator().manual_seed(0)
    cases = []
    for rows, length in ((1, 12), (3, 40), (8, 60)):
        ids = torch.randint(4, 90, (rows, length), generator=generator)
        ids[:, 0], ids[:, -2:] = 1, torch.tensor([2, 0])
        draw = torch.rand(rows, length, generator=generator)
        draw[:, 3:9:2], draw[:, 0], draw[:, -1] = 0.05, 0.1, 0.1  # something to mask in every case, and what never is
        dice = torch.rand(rows, length, generator=generator)
        dice[:, 3], dice[:, 5], dice[:, 7] = 0.4, 0.85, 0.95
        cases.append((ids, draw, dice, torch.randint(4, 90, (rows, length), generator=generator), 3))
    return cases


def _labels_everywhere(ids, draw, dice, random_ids, mask_id):
    return mask_for_mlm(ids, draw, dice, random_ids, mask_id)[0], ids


def _always_mask(ids, draw, dice, random_ids, mask_id):
    return mask_for_mlm(ids, draw, dice * 0, random_ids, mask_id)


def _specials_masked(ids, draw, dice, random_ids, mask_id):
    shown, labels = mask_for_mlm(ids + 3, draw, dice, random_ids + 3, mask_id + 3)
    return shown - 3, (labels - 3).masked_fill(labels == IGNORE, IGNORE)


def _labels_of_what_is_shown(ids, draw, dice, random_ids, mask_id):
    shown, labels = mask_for_mlm(ids, draw, dice, random_ids, mask_id)
    return shown, shown.masked_fill(labels == IGNORE, IGNORE)


# -- the floor

def gap_to_floor(loss, logps, token_counts):
    return loss - sum(-logp for logp in logps) / sum(token_counts)


GAP_CASES = [(0.5, [-20.0], [50]), (0.41, [-20.0, -25.0], [50, 60]), (1.2, [-21.5, -44.0, -18.25], [52, 97, 46])]


# -- a power law

def fit_power_law(parameters, tokens, losses, floor):
    import torch

    rows = torch.tensor([[1.0, -math.log(n), -math.log(d)] for n, d in zip(parameters, tokens)], dtype=torch.float64)
    targets = torch.tensor([math.log(loss - floor) for loss in losses], dtype=torch.float64)
    log_a, alpha, beta = torch.linalg.lstsq(rows, targets).solution.tolist()
    return math.exp(log_a), alpha, beta


def _changed_fit(change):
    return lambda parameters, tokens, losses, floor: change(*fit_power_law(parameters, tokens, losses, floor))


POWER_CASES = [
    ([1e4, 2e4, 1e4], [1e5, 1e5, 3e5], [1.4, 1.2, 0.9], 0.4),
    ([1e4, 1e4, 4e4, 4e4], [1e5, 4e5, 1e5, 4e5], [2.2, 1.31, 1.83, 1.08], 0.39),
    ([3e4, 3e4, 6e4, 6e4, 9e4], [2e5, 9e5, 3e5, 7e5, 4e5], [3.0, 1.6, 2.1, 1.41, 1.66], 0.5),
]

EXERCISES = [
    Exercise(
        id="shifted_loss", title="Cross-entropy on shifted targets", points=4, minutes=12, difficulty=2,
        hints=(
            "Row t of the logits is made from tokens 0 … t. Which label is it to predict?",
            "Drop the last row of logits and the first label; then row t faces label t + 1. Places whose label is −100 "
            "must count neither above nor below the line.",
            "With logits, targets = logits[:, :-1], labels[:, 1:] and wanted = targets != -100, take "
            "logits[wanted].log_softmax(-1), gather the entries at targets[wanted][:, None], and return minus their mean.",
        ),
        mistakes={
            "not_shifted": "You compared each row of logits with the label beside it; row t must predict label t + 1.",
            "shifted_backwards": "You shifted the wrong way: row t + 1 has already read the token at t that it is to predict.",
            "padding_counted": "You divided by all positions; the mean is over the labels that are not −100.",
            "mean_of_rows": "You took the mean of each row's mean; every token counts the same, so rows with more tokens "
                            "weigh more.",
        },
        check=against(next_token_loss, loss_cases, mistakes={
            "not_shifted": _not_shifted, "shifted_backwards": _shifted_backwards, "padding_counted": _padding_counted,
            "mean_of_rows": _mean_of_rows}),
        # Transformer.loss is one line of F.cross_entropy; it stays, since the next exercise trains a model by it.
    ),
    Exercise(
        id="training_step", title="One training step", points=4, minutes=12, difficulty=2,
        hints=(
            "What does PyTorch do with gradients that are already there?",
            "It adds to them. The order: set the rate, clear the gradients, loss, backward, clip the norm, update.",
            'for group in optimizer.param_groups: group["lr"] = lr; then optimizer.zero_grad(), loss = model.loss(batch), '
            "loss.backward(), torch.nn.utils.clip_grad_norm_(model.parameters(), clip), optimizer.step(), return loss.item().",
        ),
        mistakes={
            "gradients_add_up": "You never clear the gradients: each step also takes the gradients of all steps before.",
            "not_clipped": "The gradients reach the update without being clipped to the norm `clip`.",
            "rate_ignored": "You left the optimizer's own rate; each step is to use `lr`.",
            "step_first": "You update before the backward pass, so the step uses gradients that are not there yet.",
        },
        check=against(
            functools.partial(run_steps, training_step), STEP_CASES, using=run_steps,
            mistakes={"gradients_add_up": _steps_with(zero=False), "not_clipped": _steps_with(clipped=False),
                      "rate_ignored": _steps_with(rate=False), "step_first": _steps_with(late=True)}),
    ),
    Exercise(
        id="cosine", title="Cosine with warmup", points=3, minutes=10, difficulty=2,
        hints=(
            "Two cases: before and after the end of the warmup.",
            "Warmup rises in equal steps and its first step already moves: (step + 1) / warmup. After it, count the "
            "progress from the end of the warmup, from 0 to 1.",
            "if step < warmup: return (step + 1) / warmup. Otherwise, with progress = (step - warmup) / (steps - warmup), "
            "return 0.5 * (1 + math.cos(math.pi * progress)).",
        ),
        mistakes={
            "warmup_from_zero": "Your first step has rate 0 and is lost: warmup gives (step + 1) / warmup.",
            "progress_from_start": "You count the cosine's progress from step 0; it begins at the end of the warmup.",
            "twice": "Your cosine begins at 2: it needs the factor 1/2.",
        },
        check=against(cosine_with_warmup, SCHEDULE_CASES, mistakes={
            "warmup_from_zero": _warmup_from_zero, "progress_from_start": _progress_from_start, "twice": _twice}),
        withheld=("ftlab.train.schedule.factor",),
    ),
    Exercise(
        id="mask_for_mlm", title="Masking for a masked language model", points=4, minutes=15, difficulty=3,
        hints=(
            "Two questions for every token: is it chosen at all, and if so, what is shown in its place?",
            "chosen = (draw < 0.15) & (ids > 2). What is shown for a chosen token depends on `dice`. Labels are the true "
            "ids of chosen tokens, −100 elsewhere.",
            "shown = torch.where(dice < 0.8, mask_id, torch.where(dice < 0.9, random_ids, ids)); then return "
            "torch.where(chosen, shown, ids), torch.where(chosen, ids, -100) with chosen = (draw < 0.15) & (ids > 2).",
        ),
        mistakes={
            "labels_everywhere": "Your labels ask for every token; only chosen ones have a label, the rest get −100.",
            "always_mask": "You show the mask for every chosen token; 10 % are shown as a random token, 10 % as they are.",
            "specials_masked": "You also choose special tokens (ids 0, 1, 2); padding, start and end are never to be guessed.",
            "labels_of_what_is_shown": "Your labels are what is shown; they must be the true tokens.",
        },
        check=against(mask_for_mlm, mask_cases, mistakes={
            "labels_everywhere": _labels_everywhere, "always_mask": _always_mask, "specials_masked": _specials_masked,
            "labels_of_what_is_shown": _labels_of_what_is_shown}),
        withheld=("ftlab.text.batching.mask_tokens",),
    ),
    Exercise(
        id="gap_to_floor", title="Read a loss against its floor", points=3, minutes=8, difficulty=2,
        hints=(
            "The loss is in nats per token. In which unit is −log p of a story?",
            "The floor is all surprise shared among all tokens: one sum divided by another.",
            "floor = sum(-logp for logp in logps) / sum(token_counts), in nats per token; then return loss - floor.",
        ),
        mistakes={
            "per_story": "Your floor is in nats per story; the loss is in nats per token.",
            "mean_of_ratios": "You took the mean of each story's ratio; the loss weighs every token the same, so divide "
                              "the sum by the sum.",
            "wrong_way_round": "You subtracted the loss from the floor: a gap above the floor is positive.",
        },
        check=against(gap_to_floor, GAP_CASES, mistakes={
            "per_story": lambda loss, logps, token_counts: loss + statistics.fmean(logps),
            "mean_of_ratios": lambda loss, logps, token_counts: loss - statistics.fmean(
                -logp / count for logp, count in zip(logps, token_counts)),
            "wrong_way_round": lambda loss, logps, token_counts: -gap_to_floor(loss, logps, token_counts)}),
    ),
    Exercise(
        id="fit_power_law", title="Fit a power law", points=3, minutes=15, difficulty=3,
        hints=(
            "Take logarithms of both sides: what is left is a sum of three terms.",
            "log(L − H) = log A − α log N − β log D is linear in log A, α and β: one row (1, −log N, −log D) a run, and "
            "least squares.",
            "rows = torch.tensor([[1.0, -math.log(n), -math.log(d)] ...], dtype=torch.float64), targets the logarithms of "
            "loss - floor; log_a, alpha, beta = torch.linalg.lstsq(rows, targets).solution.tolist(); return "
            "math.exp(log_a), alpha, beta.",
        ),
        mistakes={
            "floor_forgotten": "You fitted the loss itself; it is the excess over the floor that falls as a power law.",
            "log_a": "You returned log A; A itself is asked for.",
            "negative": "Your exponents are negative; in N^(−α) the minus stands outside of α.",
            "swapped": "Your α and β are swapped: α belongs to the parameters, β to the tokens.",
        },
        check=against(fit_power_law, POWER_CASES, rtol=1e-3, mistakes={
            "floor_forgotten": lambda parameters, tokens, losses, floor: fit_power_law(parameters, tokens, losses, 0.0),
            "log_a": _changed_fit(lambda a, alpha, beta: (math.log(a), alpha, beta)),
            "negative": _changed_fit(lambda a, alpha, beta: (a, -alpha, -beta)),
            "swapped": _changed_fit(lambda a, alpha, beta: (a, beta, alpha))}),
    ),
]
