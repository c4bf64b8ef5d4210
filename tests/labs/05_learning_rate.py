"""Wrong answers to the exercises of lab 05_learning_rate: each must be named by its check, and fail its probe."""

SCHEDULES = '''
def lr_factor(schedule, step, steps, warmup):
    {warm}
    p = {progress}
    if schedule == "linear":
        return 1 - p
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * p))
    if schedule == "wsd":
        return {wsd}
    return 1.0
'''
RIGHT_SCHEDULES = {"warm": "if step < warmup: return (step + 1) / warmup",
                   "progress": "(step - warmup) / (steps - warmup)",
                   "wsd": "1.0 if p < 0.8 else (1 - p) / 0.2"}  # fmt: skip

RANGE = '''
def range_test(update, low, high, steps):
    rates, losses = [], []
    for i in range(steps):
        rate = {rate}
        loss = update(rate)
        if {stop}:
            break
        rates.append(rate)
        losses.append(loss)
    return rates, losses
'''
RIGHT_RANGE = {"rate": "low * (high / low) ** (i / (steps - 1))",
               "stop": "not math.isfinite(loss) or losses and loss > losses[0] + 1"}  # fmt: skip

DIVERGED = '''
def diverged_at(losses, window, margin):
    for step in range(1, len(losses) + 1):
        {finite}
        if {above}:
            return {step}
    return None
'''
RIGHT_DIVERGED = {
    "finite": "if not math.isfinite(losses[step - 1]): return step", "step": "step",
    "above": "step >= window and sum(losses[step - window:step]) / window > losses[0] + margin",
}  # fmt: skip

PICK = '''
def pick_rate(rates, losses):
    means = []
    for column in zip(*losses):
        {mean}
    b = min(range(len(means)), key=lambda i: means[i])
    if b == 0 or b == len(means) - 1 or not math.isfinite(means[b - 1] + means[b + 1]):
        return rates[b]
    l, m, r = means[b - 1], means[b], means[b + 1]
    {vertex}
'''
RIGHT_PICK = {
    "mean": "means.append(sum(column) / len(column) if all(math.isfinite(x) for x in column) else math.inf)",
    "vertex": "return rates[b] * (rates[b + 1] / rates[b]) ** (0.5 * (l - r) / (l - 2 * m + r))",
}  # fmt: skip

WRONG = {
    "schedules": {
        "warmup_from_zero": SCHEDULES.format(**RIGHT_SCHEDULES | {"warm": "if step < warmup: return step / warmup"}),
        "progress_from_start": SCHEDULES.format(**RIGHT_SCHEDULES | {"progress": "step / steps"}),
        "cliff": SCHEDULES.format(**RIGHT_SCHEDULES | {"wsd": "1.0 if p < 0.8 else 1 - p"}),
        "no_warmup": SCHEDULES.format(**RIGHT_SCHEDULES | {
            "warm": 'if step < warmup and schedule != "constant": return (step + 1) / warmup'}),
    },
    "range_test": {
        "linear": RANGE.format(**RIGHT_RANGE | {"rate": "low + (high - low) * i / (steps - 1)"}),
        "never_reaches_high": RANGE.format(**RIGHT_RANGE | {"rate": "low * (high / low) ** (i / steps)"}),
        "never_stops": RANGE.format(**RIGHT_RANGE | {"stop": "False"}),
        "no_number_passes": RANGE.format(**RIGHT_RANGE | {"stop": "losses and loss > losses[0] + 1"}),
        "against_lowest": RANGE.format(**RIGHT_RANGE | {
            "stop": "not math.isfinite(loss) or losses and loss > min(losses) + 1"}),
    },
    "diverged": {
        "one_odd_batch": DIVERGED.format(**RIGHT_DIVERGED | {"above": "losses[step - 1] > losses[0] + margin"}),
        "no_number_passes": DIVERGED.format(**RIGHT_DIVERGED | {"finite": "pass"}),
        "against_lowest": DIVERGED.format(**RIGHT_DIVERGED | {
            "above": "step >= window and sum(losses[step - window:step]) / window > min(losses[:step]) + margin"}),
        "counted_from_zero": DIVERGED.format(**RIGHT_DIVERGED | {
            "finite": "if not math.isfinite(losses[step - 1]): return step - 1", "step": "step - 1"}),
    },
    "pick_rate": {
        "best_seed": "def pick_rate(rates, losses):\n"
                     "    losses = [[x if math.isfinite(x) else math.inf for x in row] for row in losses]\n"
                     "    losses = [min(losses, key=min)]" + PICK.format(**RIGHT_PICK).replace(
                         "def pick_rate(rates, losses):\n", ""),
        "diverged_dropped": PICK.format(**RIGHT_PICK | {
            "mean": "kept = [x for x in column if math.isfinite(x)]; "
                    "means.append(sum(kept) / len(kept) if kept else math.inf)"}),
        "grid_only": PICK.format(**RIGHT_PICK | {"vertex": "return rates[b]"}),
        "linear_axis": PICK.format(**RIGHT_PICK | {
            "vertex": "return (lambda x, y, z: y - 0.5 * ((y - x) ** 2 * (m - r) - (y - z) ** 2 * (m - l)) / "
                      "((y - x) * (m - r) - (y - z) * (m - l)))(*rates[b - 1:b + 2])"}),
    },
}
