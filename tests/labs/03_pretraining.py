"""Wrong answers to the exercises of lab 03_pretraining: each must be named by its check, and fail its probe."""

LOSS = '''
def next_token_loss(logits, labels):
    {shift}
    wanted = targets != -100
    log_probs = logits[wanted].log_softmax(-1)
    {mean}
'''
SHIFT = "logits, targets = logits[:, :-1], labels[:, 1:]"
MEAN = "return -log_probs.gather(-1, targets[wanted][:, None]).mean()"

STEP = '''
def training_step(model, batch, optimizer, lr, clip):
    {rate}
    {zero}
    loss = model.loss(batch)
    {early}
    loss.backward()
    {clip}
    {late}
    return loss.item()
'''
RIGHT_STEP = {
    "rate": 'optimizer.param_groups[0]["lr"] = lr', "zero": "optimizer.zero_grad()", "early": "pass",
    "clip": "torch.nn.utils.clip_grad_norm_(model.parameters(), clip)", "late": "optimizer.step()",
}  # fmt: skip

COSINE = '''
def cosine_with_warmup(step, steps, warmup):
    if step < warmup:
        return {warm}
    progress = {progress}
    return {cosine}
'''
RIGHT_COSINE = {"warm": "(step + 1) / warmup", "progress": "(step - warmup) / (steps - warmup)",
                "cosine": "0.5 * (1 + math.cos(math.pi * progress))"}  # fmt: skip

MASK = '''
def mask_for_mlm(ids, draw, dice, random_ids, mask_id):
    chosen = {chosen}
    shown = {shown}
    shown = torch.where(chosen, shown, ids)
    return shown, {labels}
'''
RIGHT_MASK = {
    "chosen": "(draw < 0.15) & (ids > 2)",
    "shown": "torch.where(dice < 0.8, mask_id, torch.where(dice < 0.9, random_ids, ids))",
    "labels": "torch.where(chosen, ids, -100)",
}  # fmt: skip

FIT = '''
def fit_power_law(parameters, tokens, losses, floor):
    rows = torch.tensor([[1.0, -math.log(n), -math.log(d)] for n, d in zip(parameters, tokens)], dtype=torch.float64)
    targets = torch.tensor([math.log(loss{floor}) for loss in losses], dtype=torch.float64)
    log_a, alpha, beta = torch.linalg.lstsq(rows, targets).solution.tolist()
    return {result}
'''
RIGHT_FIT = {"floor": " - floor", "result": "math.exp(log_a), alpha, beta"}

WRONG = {
    "shifted_loss": {
        "not_shifted": LOSS.format(shift="targets = labels", mean=MEAN),
        "shifted_backwards": LOSS.format(shift="logits, targets = logits[:, 1:], labels[:, :-1]", mean=MEAN),
        "padding_counted": LOSS.format(
            shift=SHIFT, mean="return -log_probs.gather(-1, targets[wanted][:, None]).sum() / targets.numel()"),
        "mean_of_rows": LOSS.format(
            shift=SHIFT,
            mean="return sum(-logits[i][wanted[i]].log_softmax(-1).gather(-1, targets[i][wanted[i]][:, None]).mean() "
                 "for i in range(len(labels))) / len(labels)"),
    },
    "training_step": {
        "gradients_add_up": STEP.format(**RIGHT_STEP | {"zero": "pass"}),
        "not_clipped": STEP.format(**RIGHT_STEP | {"clip": "pass"}),
        "rate_ignored": STEP.format(**RIGHT_STEP | {"rate": "pass"}),
        "step_first": STEP.format(**RIGHT_STEP | {"early": "optimizer.step()", "late": "pass"}),
    },
    "cosine": {
        "warmup_from_zero": COSINE.format(**RIGHT_COSINE | {"warm": "step / warmup"}),
        "progress_from_start": COSINE.format(**RIGHT_COSINE | {"progress": "step / steps"}),
        "twice": COSINE.format(**RIGHT_COSINE | {"cosine": "1 + math.cos(math.pi * progress)"}),
    },
    "mask_for_mlm": {
        "labels_everywhere": MASK.format(**RIGHT_MASK | {"labels": "ids"}),
        "always_mask": MASK.format(**RIGHT_MASK | {"shown": "torch.full_like(ids, mask_id)"}),
        "specials_masked": MASK.format(**RIGHT_MASK | {"chosen": "draw < 0.15"}),
        "labels_of_what_is_shown": MASK.format(**RIGHT_MASK | {"labels": "torch.where(chosen, shown, -100)"}),
    },
    "gap_to_floor": {
        "per_story": "def gap_to_floor(loss, logps, token_counts):\n    return loss + sum(logps) / len(logps)",
        "mean_of_ratios": "def gap_to_floor(loss, logps, token_counts):\n"
                          "    return loss + sum(p / n for p, n in zip(logps, token_counts)) / len(logps)",
        "wrong_way_round": "def gap_to_floor(loss, logps, token_counts):\n"
                           "    return -sum(logps) / sum(token_counts) - loss",
    },
    "fit_power_law": {
        "floor_forgotten": FIT.format(**RIGHT_FIT | {"floor": ""}),
        "log_a": FIT.format(**RIGHT_FIT | {"result": "log_a, alpha, beta"}),
        "negative": FIT.format(**RIGHT_FIT | {"result": "math.exp(log_a), -alpha, -beta"}),
        "swapped": FIT.format(**RIGHT_FIT | {"result": "math.exp(log_a), beta, alpha"}),
    },
}
