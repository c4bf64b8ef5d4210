"""Wrong answers to the exercises of lab 12_sparsity: each must be named by its check, and fail its probe."""

MAGNITUDE = '''
def magnitude_masks(weights, sparsity):
    masks = {{}}
    for name, W in weights.items():
        going = {score}.flatten().argsort()[:round(sparsity * W.numel())]
        mask = torch.ones(W.numel(), dtype=torch.bool)
        mask[going] = False
        masks[name] = mask.view(W.shape)
    return masks
'''
WHOLE = '''
def magnitude_masks(weights, sparsity):
    every = torch.cat([W.abs().flatten() for W in weights.values()])
    threshold = every.sort().values[round(sparsity * len(every))]
    return {name: W.abs() >= threshold for name, W in weights.items()}
'''

WANDA = "def wanda_score(W, X):\n    return {weight} * {norm}\n"

ROWS = '''
def row_mask(score, sparsity):
    n, k = score.shape
    {body}
'''

TWO_FOUR = '''
def two_four_mask(score):
    n, k = score.shape
    groups = {groups}
    best = groups.topk(2, dim=-1, largest={largest}).indices
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter(2, best, True)
    return {back}
'''
RIGHT_FOUR = {"groups": "score.view(n, k // 4, 4)", "largest": "True", "back": "mask.view(n, k)"}

RECOVER = "def merge_pruned(W, mask, A, B, alpha):\n    r = A.shape[0]\n    return {merged}\n"

UPDATE = '''
def top_updates(before, after, count):
    moved = {{name: {moved} for name in before}}
    least = torch.cat([m.flatten() for m in moved.values()]).topk(count).values[-1]
    return {{name: m >= {least} for name, m in moved.items()}}
'''

WRONG = {
    "magnitude": {
        "largest_pruned": MAGNITUDE.format(score="(-W.abs())"),
        "signed": MAGNITUDE.format(score="W"),
        "whole_model": WHOLE,
    },
    "wanda": {
        "wrong_axis": WANDA.format(weight="W.abs()", norm="X.norm(dim=1)"),
        "signed": WANDA.format(weight="W", norm="X.norm(dim=0)"),
        "squared": WANDA.format(weight="W.abs()", norm="X.square().sum(0)"),
        "mean": WANDA.format(weight="W.abs()", norm="X.mean(0).abs()"),
    },
    "rows": {
        "whole_matrix": ROWS.format(body="return score >= score.flatten().sort().values[round(sparsity * n * k)]"),
        "columns": ROWS.format(body="going = score.argsort(dim=0)[:round(sparsity * n)]\n"
                                    "    return torch.ones_like(score, dtype=torch.bool).scatter(0, going, False)"),
        "inverted": ROWS.format(body="going = score.argsort(dim=1)[:, :round(sparsity * k)]\n"
                                     "    return torch.zeros_like(score, dtype=torch.bool).scatter(1, going, True)"),
    },
    "two_four": {
        "two_smallest": TWO_FOUR.format(**RIGHT_FOUR | {"largest": "False"}),
        "along_outputs": TWO_FOUR.format(**RIGHT_FOUR | {
            "groups": "score.T.reshape(k, n // 4, 4)", "back": "mask.view(k, n).T"}),
        "strided": TWO_FOUR.format(**RIGHT_FOUR | {
            "groups": "score.view(n, 4, k // 4).transpose(1, 2)", "back": "mask.transpose(1, 2).reshape(n, k)"}),
        "half_of_row": "def two_four_mask(score):\n"
                       "    going = score.argsort(dim=1)[:, :score.shape[1] // 2]\n"
                       "    return torch.ones_like(score, dtype=torch.bool).scatter(1, going, False)\n",
    },
    "recover": {
        "not_reapplied": RECOVER.format(merged="W + alpha / r * (B @ A)"),
        "mask_before": RECOVER.format(merged="W * mask + alpha / r * (B @ A)"),
        "inverted": RECOVER.format(merged="~mask * (W + alpha / r * (B @ A))"),
        "plain_alpha": RECOVER.format(merged="mask * (W + alpha * (B @ A))"),
    },
    "update": {
        "by_size": UPDATE.format(moved="after[name].abs()", least="least"),
        "signed": UPDATE.format(moved="after[name] - before[name]", least="least"),
        "each_matrix": UPDATE.format(moved="(after[name] - before[name]).abs()",
                                     least="m.flatten().topk(count).values[-1]"),
    },
}
