"""Wrong answers to the exercises of lab 06_lora: each must be named by its check, and fail its probe."""

LAYER = '''
def lora_linear(x, W, A, B, alpha, keep=None):
    thin = {thin}
    {more}
    return {base} + {scale} * ({update})
'''
RIGHT_LAYER = {"thin": "x if keep is None else x * keep", "more": "pass", "base": "x @ W.T", "scale": "(alpha / A.shape[0])",
               "update": "(thin @ A.T) @ B.T"}  # fmt: skip

START = "def lora_start(r, k, n):\n    return {A}, {B}\n"
RIGHT_START = {"A": "torch.randn(r, k) / k ** 0.5", "B": "torch.zeros(n, r)"}

ATTACH = '''
def attach_lora(model, target_modules, make):
    {freeze_first}
    for name, module in list(model.{walk}()):
        if isinstance(module, nn.Linear) and {chosen}:
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, make(module))
    {freeze_last}
    return model
'''
FREEZE = "[p.requires_grad_(False) for p in model.parameters()]"
RIGHT_ATTACH = {"freeze_first": FREEZE, "walk": "named_modules", "freeze_last": "pass",
                "chosen": 'name.split(".")[-1] in target_modules'}  # fmt: skip

MERGE = "def merge(W, A, B, alpha, sign=1):\n    return W + {sign} * {scale} * {product}\n"
RIGHT_MERGE = {"sign": "sign", "scale": "(alpha / A.shape[0])", "product": "(B @ A)"}

COUNT = "def count_lora(shapes, target_modules, r):\n    return sum({one} for name, (n, k) in shapes.items(){chosen})\n"
RIGHT_COUNT = {"one": "r * (n + k)", "chosen": ' if name.split(".")[-1] in target_modules'}

SWAP = '''
def swap(model, state):
    before = {{}}
    with torch.no_grad():
        for name, p in model.named_parameters():
            if {which}:
                before[name] = {kept}
                p.copy_(state[name])
    return {result}
'''
RIGHT_SWAP = {"which": '"lora_" in name', "kept": "p.clone()", "result": "before"}

WRONG = {
    "layer": {
        "plain_alpha": LAYER.format(**RIGHT_LAYER | {"scale": "alpha"}),
        "swapped": LAYER.format(**RIGHT_LAYER | {"update": "(thin @ B) @ A"}),
        "dropped_everywhere": LAYER.format(**RIGHT_LAYER | {"base": "thin @ W.T"}),
        "not_dropped": LAYER.format(**RIGHT_LAYER | {"thin": "x"}),
        "no_base": LAYER.format(**RIGHT_LAYER | {"base": "0"}),
    },
    "start": {
        "B_not_zero": START.format(**RIGHT_START | {"B": "torch.randn(n, r) / k ** 0.5"}),
        "both_zero": START.format(**RIGHT_START | {"A": "torch.zeros(r, k)"}),
        "shapes_swapped": START.format(A="torch.randn(k, r) / k ** 0.5", B="torch.zeros(r, n)"),
        "A_too_large": START.format(**RIGHT_START | {"A": "torch.randn(r, k)"}),
    },
    "attach": {
        "not_frozen": ATTACH.format(**RIGHT_ATTACH | {"freeze_first": "pass"}),
        "all_frozen": ATTACH.format(**RIGHT_ATTACH | {"freeze_last": FREEZE}),
        "top_only": ATTACH.format(**RIGHT_ATTACH | {"walk": "named_children"}),
        "by_part": ATTACH.format(**RIGHT_ATTACH | {
            "chosen": 'any(target in name.split(".")[-1] for target in target_modules)'}),
    },
    "merge": {
        "plain_alpha": MERGE.format(**RIGHT_MERGE | {"scale": "alpha"}),
        "sign_ignored": MERGE.format(**RIGHT_MERGE | {"sign": "1"}),
        "transposed": MERGE.format(**RIGHT_MERGE | {"product": "(B @ A).T"}),
    },
    "count": {
        "one_matrix": COUNT.format(**RIGHT_COUNT | {"one": "r * k"}),
        "product": COUNT.format(**RIGHT_COUNT | {"one": "r * n * k"}),
        "everything": COUNT.format(**RIGHT_COUNT | {"chosen": ""}),
    },
    "swap": {
        "aliased": SWAP.format(**RIGHT_SWAP | {"kept": "p.data"}),
        "only_B": "def swap(model, state):\n"
                  "    before = {name: p.detach().clone() for name, p in model.named_parameters() if 'lora_' in name}\n"
                  "    with torch.no_grad():\n"
                  "        for name, p in model.named_parameters():\n"
                  "            if 'lora_B' in name:\n"
                  "                p.copy_(state[name])\n"
                  "    return before\n",
        "returns_new": SWAP.format(**RIGHT_SWAP | {"result": "dict(state)"}),
    },
}
