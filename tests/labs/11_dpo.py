"""Wrong answers to the exercises of lab 11_dpo: each must be named by its check, and fail its probe."""

LOGPROBS = '''
def response_logprobs(logits, ids, starts, lengths):
    logp = logits[:, :-1]{softmax}.gather(-1, ids[:, 1:, None])[..., 0]
    places = torch.arange({places})
    mask = {mask}
    return {result}
'''
RIGHT_LOGPROBS = {"softmax": ".log_softmax(-1)", "places": "1, ids.shape[1]", "result": "(logp * mask).sum(1)",
                  "mask": "(places >= starts[:, None]) & (places < lengths[:, None])"}

LOSS = '''
def dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta):
    ref_chosen, ref_rejected = {reference}
    margin = {scale} * {difference}
    return {loss}
'''
RIGHT_LOSS = {"reference": "ref_chosen.detach(), ref_rejected.detach()", "scale": "beta", "loss": "-F.logsigmoid(margin).mean()",
              "difference": "((chosen - ref_chosen) - (rejected - ref_rejected))"}  # fmt: skip

VARIANTS = '''
def variant_loss(h, beta, kind, epsilon=0.1):
    if kind == "ipo":
        return {ipo}
    if kind == "cdpo":
        return ({cdpo}).mean()
    return -F.logsigmoid(beta * h).mean()
'''
RIGHT_VARIANTS = {"ipo": "((h - 1 / (2 * beta)) ** 2).mean()",
                  "cdpo": "-(1 - epsilon) * F.logsigmoid(beta * h) - epsilon * F.logsigmoid(-beta * h)"}

IMPLICIT = "def implicit_reward(logp, ref_logp, mask, beta):\n    return {reward}\n"

AT_KL = '''
def at_kl(points, kl):
    points = {points}
    {before}
    for (low, a), (high, b) in zip(points, points[1:]):
        if low <= kl <= high:
            return {between}
    return {beyond}
'''
RIGHT_AT_KL = {"points": "sorted(points)", "before": "pass", "between": "a + (b - a) * (kl - low) / (high - low)",
               "beyond": "None"}  # fmt: skip

DIAGNOSE = '''
def diagnose(row, start):
    if row["{utility}"] >= {baseline} + 0.1:
        return "none"
    if row["kl"] < 1:
        return "not moved"
    if row["length"] >= {length}:
        return "length"
    if row["accuracy"] < 0.6:
        return "noise"
    return "overoptimised" if row["reward"] > start["reward"] else "unexplained"
'''
RIGHT_DIAGNOSE = {"utility": "utility", "baseline": 'start["utility"]', "length": '1.2 * start["length"]'}

LAST_WINS = '''
def diagnose(row, start):
    found = "unexplained"
    if row["utility"] >= start["utility"] + 0.1:
        found = "none"
    if row["kl"] < 1:
        found = "not moved"
    if row["length"] >= 1.2 * start["length"]:
        found = "length"
    if row["accuracy"] < 0.6:
        found = "noise"
    if row["reward"] > start["reward"]:
        found = "overoptimised"
    return found
'''

WRONG = {
    "logprobs": {
        "not_shifted": '''
def response_logprobs(logits, ids, starts, lengths):
    logp = logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    places = torch.arange(ids.shape[1])
    return (logp * ((places >= starts[:, None]) & (places < lengths[:, None]))).sum(1)
''',
        "prompt_counted": LOGPROBS.format(**RIGHT_LOGPROBS | {"mask": "places < lengths[:, None]"}),
        "padding_counted": LOGPROBS.format(**RIGHT_LOGPROBS | {"mask": "places >= starts[:, None]"}),
        "first_left_out": LOGPROBS.format(**RIGHT_LOGPROBS | {
            "mask": "(places > starts[:, None]) & (places < lengths[:, None])"}),
        "mask_not_shifted": LOGPROBS.format(**RIGHT_LOGPROBS | {"places": "ids.shape[1] - 1"}),
        "averaged": LOGPROBS.format(**RIGHT_LOGPROBS | {"result": "(logp * mask).sum(1) / mask.sum(1)"}),
        "no_softmax": LOGPROBS.format(**RIGHT_LOGPROBS | {"softmax": ""}),
    },
    "loss": {
        "swapped": LOSS.format(**RIGHT_LOSS | {"difference": "((ref_chosen - chosen) - (ref_rejected - rejected))"}),
        "no_reference": LOSS.format(**RIGHT_LOSS | {"difference": "(chosen - rejected)"}),
        "beta_outside": LOSS.format(**RIGHT_LOSS | {"scale": "1", "loss": "-beta * F.logsigmoid(margin).mean()"}),
        "no_log": LOSS.format(**RIGHT_LOSS | {"loss": "-torch.sigmoid(margin).mean()"}),
        "summed": LOSS.format(**RIGHT_LOSS | {"loss": "-F.logsigmoid(margin).sum()"}),
        "reference_learns": LOSS.format(**RIGHT_LOSS | {"reference": "ref_chosen, ref_rejected"}),
        "log_of_sigmoid": LOSS.format(**RIGHT_LOSS | {"loss": "-torch.log(torch.sigmoid(margin)).mean()"}),
    },
    "variants": {
        "ipo_on_margin": VARIANTS.format(**RIGHT_VARIANTS | {"ipo": "((beta * h - 1 / (2 * beta)) ** 2).mean()"}),
        "ipo_target": VARIANTS.format(**RIGHT_VARIANTS | {"ipo": "((h - 1 / beta) ** 2).mean()"}),
        "epsilon_reversed": VARIANTS.format(**RIGHT_VARIANTS | {
            "cdpo": "-epsilon * F.logsigmoid(beta * h) - (1 - epsilon) * F.logsigmoid(-beta * h)"}),
        "shrunk": VARIANTS.format(**RIGHT_VARIANTS | {"cdpo": "-F.logsigmoid((1 - 2 * epsilon) * beta * h)"}),
        "one_sided": VARIANTS.format(**RIGHT_VARIANTS | {"cdpo": "-(1 - epsilon) * F.logsigmoid(beta * h)"}),
    },
    "implicit": {
        "divided": IMPLICIT.format(reward="((logp - ref_logp) * mask).sum(1) / beta"),
        "averaged": IMPLICIT.format(reward="beta * ((logp - ref_logp) * mask).sum(1) / mask.sum(1)"),
        "policy_only": IMPLICIT.format(reward="beta * (logp * mask).sum(1)"),
        "ratio_of_sums": IMPLICIT.format(reward="beta * torch.log((logp * mask).sum(1) / (ref_logp * mask).sum(1))"),
        "reversed": IMPLICIT.format(reward="beta * ((ref_logp - logp) * mask).sum(1)"),
        "not_masked": IMPLICIT.format(reward="beta * (logp - ref_logp).sum(1)"),
    },
    "frontier": {
        "unsorted": AT_KL.format(**RIGHT_AT_KL | {"points": "list(points)"}),
        "nearest": AT_KL.format(**RIGHT_AT_KL | {"between": "a if kl - low < high - kl else b"}),
        "below": AT_KL.format(**RIGHT_AT_KL | {"between": "b if kl == high else a"}),
        "clipped": AT_KL.format(**RIGHT_AT_KL | {"beyond": "points[0][1] if kl < points[0][0] else points[-1][1]"}),
    },
    "diagnose": {
        "proxy_believed": DIAGNOSE.format(**RIGHT_DIAGNOSE | {"utility": "reward", "baseline": 'start["reward"]'}),
        "no_baseline": DIAGNOSE.format(**RIGHT_DIAGNOSE | {"baseline": "0"}),
        "length_alone": DIAGNOSE.format(**RIGHT_DIAGNOSE | {"length": "1.2"}),
        "last_wins": LAST_WINS,
    },
}
