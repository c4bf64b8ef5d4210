"""Exercises of lab 12_sparsity: texts, hints, mistakes and what each check knows."""

from ftlab.teach import Exercise, against


def _generator(seed):
    import torch

    return torch.Generator().manual_seed(seed)


# -- magnitude: the smallest of each matrix

def magnitude_masks(weights, sparsity):
    return {name: _without(W.abs(), sparsity) for name, W in weights.items()}


def _without(score, sparsity):
    """The mask without the lowest share of the scores."""
    import torch

    going = score.flatten().argsort(stable=True)[:round(sparsity * score.numel())]
    mask = torch.ones(score.numel(), dtype=torch.bool)
    mask[going] = False
    return mask.view(score.shape)


def _whole_model(weights, sparsity):
    import torch

    every = _without(torch.cat([W.abs().flatten() for W in weights.values()]), sparsity)
    parts = every.split([W.numel() for W in weights.values()])
    return {name: part.view(W.shape) for part, (name, W) in zip(parts, weights.items(), strict=True)}


def magnitude_cases():
    import torch

    generator = _generator(12)

    def draw(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator)

    return [({"up": torch.tensor([[1.0, -3.0], [-0.5, 2.0]]), "down": torch.tensor([[30.0, -10.0], [20.0, 40.0]])}, 0.5),
            ({"q": draw(3, 4), "o": draw(2, 6, scale=0.1)}, 0.25), ({"q": draw(4, 5, scale=3.0), "o": draw(5, 2)}, 0.7)]


# -- Wanda: the score

def wanda_score(W, X):
    return W.abs() * X.norm(dim=0)


def wanda_cases():
    import torch

    generator = _generator(13)
    made = [(torch.tensor([[1.0, -2.0], [3.0, 0.5]]), torch.tensor([[1.0, 0.0], [2.0, 10.0]]))]
    for n, k, tokens in ((3, 3, 3), (2, 4, 4)):  # as many tokens as inputs, or the wrong axis would not even fit
        made.append((torch.randn(n, k, generator=generator), torch.randn(tokens, k, generator=generator)))
    return made


# -- the mask of a row

def row_mask(score, sparsity):
    import torch

    going = score.argsort(dim=1, stable=True)[:, :round(sparsity * score.shape[1])]
    return torch.ones_like(score, dtype=torch.bool).scatter(1, going, False)


def row_cases():
    import torch

    generator = _generator(14)
    return [(torch.tensor([[1.0, 2.0], [30.0, 20.0]]), 0.5), (torch.rand(4, 4, generator=generator), 0.25),
            (torch.rand(3, 8, generator=generator) * torch.tensor([[1.0], [5.0], [20.0]]), 0.75)]


# -- 2:4

def two_four(score):
    import torch

    n, k = score.shape
    best = score.view(n, k // 4, 4).argsort(dim=2, descending=True, stable=True)[..., :2]
    return torch.zeros(n, k // 4, 4, dtype=torch.bool).scatter(2, best, True).view(n, k)


def _two_smallest(score):
    return ~two_four(score)


def _along_outputs(score):
    return two_four(score.T.contiguous()).T


def _strided(score):
    """Groups of every k/4-th input in the place of neighbours."""
    n, k = score.shape
    order = score.view(n, 4, k // 4).transpose(1, 2).reshape(n, k)
    return two_four(order).view(n, k // 4, 4).transpose(1, 2).reshape(n, k)


def two_four_cases():
    import torch

    generator = _generator(15)
    return [(torch.tensor([[4.0, 3.0, 2.0, 1.0, 8.0, 9.0, 6.0, 7.0]] * 4) + torch.arange(4.0)[:, None],),
            (torch.rand(4, 8, generator=generator),), (torch.rand(8, 12, generator=generator),)]


# -- recovering

def merge_pruned(W, mask, A, B, alpha):
    return mask * (W + (alpha / A.shape[0]) * (B @ A))


def recover_cases():
    import torch

    generator = _generator(16)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return [(draw(n, k), torch.rand(n, k, generator=generator) < 0.5, draw(r, k), draw(n, r), alpha)
            for n, k, r, alpha in ((2, 2, 2, 4.0), (3, 4, 2, 8.0), (4, 3, 1, 3.0))]


# -- a sparse update

def top_updates(before, after, count):
    import torch

    moved = {name: (after[name] - before[name]).abs() for name in before}
    return _top(moved, count, torch.cat([m.flatten() for m in moved.values()]))


def _top(scores, count, every):
    """{name: mask} of the `count` highest of all the scores together."""
    import torch

    chosen = torch.zeros(len(every), dtype=torch.bool)
    chosen[every.argsort(descending=True, stable=True)[:count]] = True
    parts = chosen.split([m.numel() for m in scores.values()])
    return {name: part.view(m.shape) for part, (name, m) in zip(parts, scores.items(), strict=True)}


def _by_size(before, after, count):
    import torch

    sizes = {name: W.abs() for name, W in after.items()}
    return _top(sizes, count, torch.cat([s.flatten() for s in sizes.values()]))


def _signed(before, after, count):
    import torch

    moved = {name: after[name] - before[name] for name in before}
    return _top(moved, count, torch.cat([m.flatten() for m in moved.values()]))


def _each_matrix(before, after, count):
    return {name: top_updates({name: before[name]}, {name: after[name]}, count)[name] for name in before}


def update_cases():
    import torch

    generator = _generator(17)

    def draw(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator)

    made = []
    for count, scale in ((2, 10.0), (5, 3.0)):
        before = {"q": draw(2, 3, scale=5.0), "down": draw(3, 3)}
        after = {"q": before["q"] + draw(2, 3), "down": before["down"] + draw(3, 3, scale=scale)}
        after["down"][0, 0] = before["down"][0, 0] - 40  # what moves most moves down
        made.append((before, after, count))
    return made


EXERCISES = [
    Exercise(
        id="magnitude", title="The smallest weights", points=3, minutes=10, difficulty=1,
        hints=(
            "Small means near zero, on either side: what counts is the absolute value.",
            "Matrix by matrix: flatten |W|, sort it, and let the first round(sparsity * W.numel()) positions go. Each "
            "matrix has its own order.",
            "For each W: going = W.abs().flatten().argsort()[:round(sparsity * W.numel())]; mask = torch.ones(W.numel(), "
            "dtype=torch.bool); mask[going] = False; and the mask of this name is mask.view(W.shape).",
        ),
        mistakes={
            "largest_pruned": "You let the largest go and kept the smallest; those near zero go.",
            "signed": "You sorted the weights with their signs, so large negative ones went; sort their absolute values.",
            "whole_model": "You put one threshold over all matrices, so those with small weights lose nearly everything; here "
                           "each matrix loses the same share.",
        },
        check=against(magnitude_masks, magnitude_cases, mistakes={
            "largest_pruned": lambda weights, s: {name: _without(-W.abs(), s) for name, W in weights.items()},
            "signed": lambda weights, s: {name: _without(W, s) for name, W in weights.items()},
            "whole_model": _whole_model}),
        withheld=("ftlab.tune.sparse.magnitude_mask", "ftlab.tune.sparse.masks", "ftlab.tune.sparse.mask_of"),
    ),
    Exercise(
        id="wanda", title="Wanda's score", points=3, minutes=8, difficulty=1,
        hints=(
            "A weight w_ij is multiplied by input j. How large is input j over all the tokens?",
            "The norm of each *column* of X (tokens, k) has shape (k,), and (n, k) times (k,) scales the columns of W.",
            "Absolute values of the weights, times the length of each input's column over the tokens: return W.abs() * "
            "X.norm(dim=0)",
        ),
        mistakes={
            "wrong_axis": "You took the norm of each token over its inputs; the score needs that of each input over the "
                          "tokens, dim=0.",
            "signed": "You kept the sign of the weights; a large negative weight matters as much as a positive one.",
            "squared": "You left out the root: the score has the norm of the input, not its square.",
            "mean": "You used the mean of the inputs, in which positive and negative ones cancel; take the norm.",
        },
        check=against(wanda_score, wanda_cases, mistakes={
            "wrong_axis": lambda W, X: W.abs() * X.norm(dim=1),
            "signed": lambda W, X: W * X.norm(dim=0),
            "squared": lambda W, X: W.abs() * X.square().sum(0),
            "mean": lambda W, X: W.abs() * X.mean(0).abs()}),
        withheld=("ftlab.tune.sparse.wanda_score", "ftlab.tune.sparse.mask_of"),
    ),
    Exercise(
        id="rows", title="Row by row", points=3, minutes=8, difficulty=2,
        hints=(
            "A row of the score holds everything that one output reads. Scores of one row are compared with each other only.",
            "argsort along dim=1 gives the inputs of each row from the lowest score up; the first round(sparsity * k) of "
            "each row go.",
            "going = score.argsort(dim=1)[:, :round(sparsity * score.shape[1])]; return torch.ones_like(score, "
            "dtype=torch.bool).scatter(1, going, False)",
        ),
        mistakes={
            "whole_matrix": "You compared the scores of the whole matrix; Wanda compares within each row, so every output "
                            "loses as many inputs.",
            "columns": "You compared along the outputs, dim=0; the inputs of one output stand in a row, dim=1.",
            "inverted": "Your mask is True where weights go; True means that a weight stays.",
        },
        check=against(row_mask, row_cases, mistakes={
            "whole_matrix": _without, "columns": lambda score, s: row_mask(score.T, s).T,
            "inverted": lambda score, s: ~row_mask(score, s)}),
        withheld=("ftlab.tune.sparse.row_mask", "ftlab.tune.sparse.mask_of"),
    ),
    Exercise(
        id="two_four", title="Two of four", points=4, minutes=12, difficulty=2,
        hints=(
            "Look at the matrix as (n, k/4, 4): the last axis holds four inputs that are neighbours in a row.",
            "In each four, the two highest scores stay. topk(2, dim=-1) gives their places; scatter puts True there, into "
            "zeros of the same shape.",
            "n, k = score.shape; best = score.view(n, k // 4, 4).topk(2, dim=-1).indices; return torch.zeros(n, k // 4, 4, "
            "dtype=torch.bool).scatter(2, best, True).view(n, k)",
        ),
        mistakes={
            "two_smallest": "You kept the two lowest of each four; the two highest stay.",
            "along_outputs": "Your fours run down the outputs; they are four neighbouring inputs in one row.",
            "strided": "Your fours are inputs that stand k/4 apart, view(n, 4, k/4); they must be neighbours, view(n, k/4, 4).",
            "half_of_row": "You kept half of each row wherever it stands; every four neighbours must keep exactly two.",
        },
        check=against(two_four, two_four_cases, mistakes={
            "two_smallest": _two_smallest, "along_outputs": _along_outputs, "strided": _strided,
            "half_of_row": lambda score: row_mask(score, 0.5)}),
        withheld=("ftlab.tune.sparse.two_four_mask", "ftlab.tune.sparse.mask_of"),
    ),
    Exercise(
        id="recover", title="Recover with LoRA", points=3, minutes=8, difficulty=2,
        hints=(
            "B A has no zeros. What does adding it do to a weight that was pruned away?",
            "First merge as in Lab 06, W + (alpha / r) B A; then apply the mask again, to the sum.",
            "The rank is the number of rows of A, and the mask comes last: return mask * (W + (alpha / A.shape[0]) * (B @ A))",
        ),
        mistakes={
            "not_reapplied": "You did not apply the mask after merging: B A fills the zeros, and the model is dense again.",
            "mask_before": "You masked W and then added B A everywhere; the mask must come after the sum.",
            "inverted": "You kept what was pruned: True in the mask means that a weight stays.",
            "plain_alpha": "You scaled the update by alpha; LoRA's scale is alpha / r.",
        },
        check=against(merge_pruned, recover_cases, mistakes={
            "not_reapplied": lambda W, mask, A, B, alpha: W + (alpha / A.shape[0]) * (B @ A),
            "mask_before": lambda W, mask, A, B, alpha: mask * W + (alpha / A.shape[0]) * (B @ A),
            "inverted": lambda W, mask, A, B, alpha: merge_pruned(W, ~mask, A, B, alpha),
            "plain_alpha": lambda W, mask, A, B, alpha: mask * (W + alpha * (B @ A))}),
        withheld=("ftlab.tune.sparse.MaskedLoRALinear", "ftlab.tune.sparse.apply"),
    ),
    Exercise(
        id="update", title="A sparse update", points=4, minutes=14, difficulty=3,
        hints=(
            "Not the weights' size counts but how far each has moved, in either direction.",
            "Put the |after − before| of all matrices into one long vector, find the value of its count-th largest, and "
            "compare every matrix with that.",
            "moved = {n: (after[n] - before[n]).abs() for n in before}; least = torch.cat([m.flatten() for m in "
            "moved.values()]).topk(count).values[-1]; return {n: m >= least for n, m in moved.items()}",
        ),
        mistakes={
            "by_size": "You chose the largest weights; what is wanted are those that moved most.",
            "signed": "You forgot the absolute value: a weight that fell has moved as well.",
            "each_matrix": "You chose `count` entries of every matrix; there are `count` in all, wherever they stand.",
        },
        check=against(top_updates, update_cases, mistakes={
            "by_size": _by_size, "signed": _signed, "each_matrix": _each_matrix}),
        withheld=("ftlab.tune.sparse.top_updates",),
    ),
]
