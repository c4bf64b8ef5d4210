"""Exercises of lab 06_lora: texts, hints, mistakes and what each check knows."""

from ftlab.teach import Exercise, against, call, expect, mistake

# -- the layer


def lora_linear(x, W, A, B, alpha, keep=None):
    r = A.shape[0]
    thin = x if keep is None else x * keep
    return x @ W.T + (alpha / r) * (thin @ A.T) @ B.T


def _plain_alpha(x, W, A, B, alpha, keep=None):
    return x @ W.T + alpha * ((x if keep is None else x * keep) @ A.T) @ B.T


def _swapped(x, W, A, B, alpha, keep=None):
    return x @ W.T + (alpha / A.shape[0]) * ((x if keep is None else x * keep) @ B) @ A


def _dropped_everywhere(x, W, A, B, alpha, keep=None):
    x = x if keep is None else x * keep
    return lora_linear(x, W, A, B, alpha)


def _not_dropped(x, W, A, B, alpha, keep=None):
    return lora_linear(x, W, A, B, alpha)


def _no_base(x, W, A, B, alpha, keep=None):
    return lora_linear(x, 0 * W, A, B, alpha, keep)


def layer_cases():
    import torch

    generator = torch.Generator().manual_seed(6)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    made = [(draw(1, 2), draw(2, 2), draw(1, 2), draw(2, 1), 3.0, None)]
    for t, n, k, r, alpha in ((2, 3, 3, 2, 5.0), (4, 5, 3, 2, 16.0), (3, 2, 6, 4, 1.0)):
        keep = (torch.rand(t, k, generator=generator) > 0.4).float() / 0.6
        made += [(draw(t, k), draw(n, k), draw(r, k), draw(n, r), alpha, other) for other in (None, keep)]
    return made


# -- the start


def check_start(start):
    import torch

    for r, k, n in ((2, 3, 5), (4, 400, 100)):
        torch.manual_seed(6)
        got = call(start, r, k, n)
        expect(isinstance(got, tuple) and len(got) == 2 and all(isinstance(m, torch.Tensor) for m in got),
               "Return two tensors, A and B.")
        A, B = got
        shapes = tuple(A.shape), tuple(B.shape)
        if shapes in (((k, r), (r, n)), ((n, r), (r, k))):
            mistake("shapes_swapped", f"You returned {shapes[0]} and {shapes[1]}.")
        expect(shapes == ((r, k), (n, r)), f"With r = {r}, k = {k}, n = {n}: A must be ({r}, {k}) and B ({n}, {r}), you "
                                           f"returned {shapes[0]} and {shapes[1]}.")
        if A.abs().max() == 0 and B.abs().max() == 0:
            mistake("both_zero")
        if B.abs().max() > 0:
            mistake("B_not_zero")
    spread = A.std().item() * k ** 0.5
    if 0.8 < A.std().item() < 1.2:
        mistake("A_too_large")
    expect(0.85 < spread < 1.15 and abs(A.mean().item()) < 0.1 * k ** -0.5,
           f"A must have mean 0 and standard deviation 1 / √k = {k ** -0.5:.3f}; yours has {A.mean():.3f}, {A.std():.3f}.")


# -- attaching


def attach(model, target_modules, make):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _replace(model, target_modules, make)
    return model


def _replace(model, target_modules, make, chooses=lambda last, target: last == target, only_children=False):
    from torch import nn

    found = [(name, module) for name, module in (model.named_children() if only_children else model.named_modules())
             if isinstance(module, nn.Linear) and any(chooses(name.split(".")[-1], t) for t in target_modules)]
    for name, module in found:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, make(module))


def _not_frozen(model, target_modules, make):
    _replace(model, target_modules, make)
    return model


def _all_frozen(model, target_modules, make):
    _replace(model, target_modules, make)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def _top_only(model, target_modules, make):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _replace(model, target_modules, make, only_children=True)
    return model


def _by_part(model, target_modules, make):
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _replace(model, target_modules, make, chooses=lambda last, target: target in last)
    return model


def toy_model(depth):
    """A model with linear layers at several depths, one of which only looks like a target."""
    from torch import nn

    def block():
        inner = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4), "q_proj_norm": nn.Linear(4, 4)})
        return nn.ModuleDict({"attention": inner, "norm": nn.LayerNorm(4)})

    parts = {"embed": nn.Embedding(7, 4), "q_proj": nn.Linear(4, 4), "layers": nn.ModuleList(block() for _ in range(depth))}
    return nn.ModuleDict(parts)


def make_toy_lora(base):
    """A layer with a LoRA of rank 2 around `base`, for the check."""
    import torch
    from torch import nn

    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = base
            self.lora_A = nn.Parameter(torch.ones(2, base.in_features))
            self.lora_B = nn.Parameter(torch.zeros(base.out_features, 2))

    return Adapted()


def run_attach(attach_function, depth, target_modules):
    """What attaching did to a toy model: {"adapted": names of the layers replaced, "learns": names of what learns}."""
    model = toy_model(depth)
    got = attach_function(model, list(target_modules), make_toy_lora)
    model = model if got is None else got
    return {"adapted": sorted(name for name, m in model.named_modules() if type(m).__name__ == "Adapted"),
            "learns": sorted(name for name, p in model.named_parameters() if p.requires_grad)}


def _run(function):
    return lambda depth, target_modules: run_attach(function, depth, target_modules)


ATTACH_CASES = [(1, ["v_proj"]), (2, ["q_proj"]), (2, ["q_proj", "v_proj"])]

# -- merging


def merge(W, A, B, alpha, sign=1):
    return W + sign * (alpha / A.shape[0]) * (B @ A)


def merge_cases():
    import torch

    generator = torch.Generator().manual_seed(7)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    return [(draw(n, k), draw(r, k), draw(n, r), alpha, sign) for n, k, r, alpha in
            ((2, 2, 2, 4.0), (3, 3, 2, 8.0), (4, 2, 3, 1.0)) for sign in (1, -1)]


# -- counting


def count(shapes, target_modules, r):
    return sum(r * (n + k) for name, (n, k) in shapes.items() if name.split(".")[-1] in target_modules)


COUNT_SHAPES = {"layers.0.q_proj": (8, 8), "layers.0.down_proj": (8, 20), "layers.1.q_proj": (8, 8),
                "layers.1.down_proj": (8, 20), "lm_head": (50, 8)}  # fmt: skip


def _counted(formula):
    return lambda shapes, target_modules, r: sum(
        formula(r, n, k) for name, (n, k) in shapes.items() if name.split(".")[-1] in target_modules)


# -- swapping


def swap(model, state):
    import torch

    before = {}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                before[name] = p.clone()
                p.copy_(state[name])
    return before


def _aliased(model, state):
    import torch

    before = {name: p.data for name, p in model.named_parameters() if "lora_" in name}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.copy_(state[name])
    return before


def _only_B(model, state):
    return swap(model, {name: value if "lora_B" in name else model.get_parameter(name) for name, value in state.items()})


def _returns_new(model, state):
    swap(model, state)
    return dict(state)


def swap_model(seed):
    """Two adapted layers, and the state of another adapter for them."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    model = nn.ModuleDict({name: make_toy_lora(nn.Linear(3, 2)) for name in ("q_proj", "v_proj")})
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    state = {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters() if "lora_" in name}
    return model, state


def run_swap(swap_function, seed):
    """What swapping there and back leaves: the adapter in use after one swap, and after the second; the base."""
    model, state = swap_model(seed)
    base = {name: p.detach().clone() for name, p in model.named_parameters() if "base" in name}
    before = swap_function(model, state)

    def now(part):
        return {name: p.detach().clone() for name, p in model.named_parameters() if part in name}

    there = now("lora_")
    copies = all(before[name].data_ptr() != p.data_ptr() for name, p in model.named_parameters() if name in before)
    swap_function(model, before)
    return {"there": there, "back": now("lora_"), "kept as copies": copies,
            "base moved": max((p - base[name]).abs().max().item() for name, p in now("base").items())}


def _swapping(function):
    return lambda seed: run_swap(function, seed)


EXERCISES = [
    Exercise(
        id="layer", title="The layer", points=5, minutes=15, difficulty=2,
        hints=(
            "Write the frozen part first, as in any linear layer; then what is added to it.",
            "Rows are tokens, so every product comes out transposed: W x is x @ W.T. The update is x @ A.T, (T, r), and "
            "then @ B.T, (T, n). The mask acts on the x of the update only.",
            "First what A reads: thin = x if keep is None else x * keep. Then the frozen part and, scaled by alpha over the "
            "rank, the update: return x @ W.T + (alpha / A.shape[0]) * (thin @ A.T) @ B.T",
        ),
        mistakes={
            "plain_alpha": "You scaled by alpha; the update is scaled by alpha / r, with r the number of rows of A.",
            "swapped": "You swapped A and B: x first meets A (r, k), which makes it thin, then B (n, r).",
            "dropped_everywhere": "You dropped inputs of the frozen layer, too; dropout acts before A only.",
            "not_dropped": "You left out the mask: where `keep` is given, the x that A reads is x * keep.",
            "no_base": "You returned the update alone; the frozen W x comes first.",
        },
        check=against(lora_linear, layer_cases, mistakes={
            "plain_alpha": _plain_alpha, "swapped": _swapped, "dropped_everywhere": _dropped_everywhere,
            "not_dropped": _not_dropped, "no_base": _no_base}),
        withheld=("ftlab.tune.lora.LoRALinear",),
    ),
    Exercise(
        id="start", title="Its start", points=3, minutes=8, difficulty=1,
        hints=(
            "At the start B A must be zero, and yet a gradient must reach one of the two.",
            "The gradient of B has A in it, that of A has B in it. So one of them may be zero, not both; in LoRA it is B.",
            "A (r, k) gets normal numbers divided by the root of k, B (n, r) gets zeros, and both are returned: return "
            "torch.randn(r, k) / k ** 0.5, torch.zeros(n, r)",
        ),
        mistakes={
            "B_not_zero": "Your B is not zero, so the model is no longer the base when training starts.",
            "both_zero": "Both are zero: then both gradients are zero, too, and nothing will ever be learned.",
            "shapes_swapped": "The shapes are swapped: A is (r, k) and meets the input, B is (n, r) and makes the output.",
            "A_too_large": "Your A has standard deviation 1; divide by √k, or A x grows with the width of the input.",
        },
        check=check_start,
        withheld=("ftlab.tune.lora.LoRALinear",),
    ),
    Exercise(
        id="attach", title="Attach to chosen modules", points=5, minutes=18, difficulty=3,
        hints=(
            "Two things: everything that is there stops learning; then some layers give way to adapted ones.",
            "Freeze first: what `make` returns has parameters that must learn. Collect the names of the layers in a list "
            "before you replace any. The part of the name before the last dot is the parent.",
            "for p in model.parameters(): p.requires_grad_(False). Then for name, m in list(model.named_modules()): if "
            "isinstance(m, nn.Linear) and name.split('.')[-1] in target_modules: parent, _, last = name.rpartition('.'); "
            "setattr(model.get_submodule(parent), last, make(m)). Return model.",
        ),
        mistakes={
            "not_frozen": "You forgot to freeze: the base's own parameters still learn, and that is full fine-tuning.",
            "all_frozen": "You froze after attaching, so A and B are frozen as well and nothing learns.",
            "top_only": "You looked at the model's direct children; the layers sit deeper, so walk named_modules().",
            "by_part": "You chose every layer whose name contains the word; the last part of the name must be equal to it.",
        },
        check=against(_run(attach), ATTACH_CASES, using=run_attach, mistakes={
            "not_frozen": _run(_not_frozen), "all_frozen": _run(_all_frozen), "top_only": _run(_top_only),
            "by_part": _run(_by_part)}),
        withheld=("ftlab.tune.lora.attach_lora", "ftlab.tune.lora.targets"),
    ),
    Exercise(
        id="merge", title="Merge and unmerge", points=3, minutes=8, difficulty=1,
        hints=(
            "Which matrix W' gives for every x what W x + (alpha / r) B A x gives?",
            "It has the shape of W, (n, k), and so has B @ A. Unmerging subtracts what merging added.",
            "The rank is A.shape[0], so the scale is alpha / A.shape[0]: return W + sign * (alpha / A.shape[0]) * (B @ A)",
        ),
        mistakes={
            "plain_alpha": "You merged alpha · B A; the layer adds (alpha / r) · B A.",
            "sign_ignored": "You added in both directions; with sign = −1 the update is taken away again.",
            "transposed": "You merged the transpose of B A; as W has shape (n, k), so has B @ A as it stands.",
        },
        check=against(merge, merge_cases, mistakes={
            "plain_alpha": lambda W, A, B, alpha, sign=1: W + sign * alpha * (B @ A),
            "sign_ignored": lambda W, A, B, alpha, sign=1: merge(W, A, B, alpha),
            "transposed": lambda W, A, B, alpha, sign=1: W + sign * (alpha / A.shape[0]) * (B @ A).T}),
        withheld=("ftlab.tune.lora.merge", "ftlab.tune.lora.LoRALinear"),
    ),
    Exercise(
        id="count", title="How many parameters?", points=2, minutes=6, difficulty=1,
        hints=(
            "A has r rows, one number for each input; B has r columns, one number for each output.",
            "For a layer of shape (n, k) that is r · k for A plus r · n for B; add up over the chosen layers.",
            "return sum(r * (n + k) for name, (n, k) in shapes.items() if name.split('.')[-1] in target_modules)",
        ),
        mistakes={
            "one_matrix": "You counted A alone; B has r · n numbers more.",
            "product": "You multiplied n, k and r; the two thin matrices have r · k and r · n numbers.",
            "everything": "You counted every layer; only the chosen ones get a LoRA.",
        },
        check=against(count, [
            ({"q_proj": (4, 6)}, ["q_proj"], 2), (COUNT_SHAPES, ["q_proj"], 1),
            (COUNT_SHAPES, ["q_proj", "down_proj"], 3)], mistakes={
                "one_matrix": _counted(lambda r, n, k: r * k), "product": _counted(lambda r, n, k: r * n * k),
                "everything": lambda shapes, target_modules, r: sum(r * (n + k) for n, k in shapes.values())}),
        withheld=("ftlab.tune.lora.num_parameters",),
    ),
    Exercise(
        id="swap", title="Swap two adapters", points=4, minutes=12, difficulty=2,
        hints=(
            "The numbers of the present adapter must be kept somewhere before others take their place.",
            "A parameter is a place in memory: keep a clone of what stands there, then copy_ the new numbers into it, "
            "without a gradient.",
            "before = {}; with torch.no_grad(): for name, p in model.named_parameters(): if 'lora_' in name: before[name] = "
            "p.clone(); p.copy_(state[name]). Return before.",
        ),
        mistakes={
            "aliased": "What you keep is the parameter itself and not a copy: it changes with the swap. Clone it.",
            "only_B": "You swapped B alone; an A belongs to its B.",
            "returns_new": "You returned the new adapter; return the one that was there, or there is no way back.",
        },
        check=against(_swapping(swap), [(1,), (2,)], using=run_swap, mistakes={
            "aliased": _swapping(_aliased), "only_B": _swapping(_only_B), "returns_new": _swapping(_returns_new)}),
        withheld=("ftlab.tune.lora.load_adapter_state",),
    ),
]
