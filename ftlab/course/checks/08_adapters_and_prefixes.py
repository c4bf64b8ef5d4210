"""Exercises of lab 08_adapters_and_prefixes: texts, hints, mistakes and what each check knows."""

import functools

from ftlab.teach import Exercise, against, call, expect, expect_close, mistake
from ftlab.teach.compare import difference

# -- the adapter

SIZE, BOTTLENECK = 6, 2


def _randn(*shape, seed=0):
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bottleneck(h, down, up):
    """h + up(relu(down(h))); down, up: nn.Linear."""
    return h + up(down(h).relu())


ADAPTER_MISTAKES = {
    "no_residual": lambda h, down, up: up(down(h).relu()),
    "no_bend": lambda h, down, up: h + up(down(h)),
    "bend_outside": lambda h, down, up: (h + up(down(h))).relu(),
}


def check_adapter(student):
    """First what it computes with weights given to it, then how it starts."""
    import torch
    from torch import nn

    made = call(student, SIZE, BOTTLENECK)
    expect(isinstance(made, nn.Module), f"Adapter({SIZE}, {BOTTLENECK}) must give a torch module.")
    for name, shape in (("down", (BOTTLENECK, SIZE)), ("up", (SIZE, BOTTLENECK))):
        layer = getattr(made, name, None)
        expect(isinstance(layer, nn.Linear) and tuple(layer.weight.shape) == shape and layer.bias is not None,
               f"self.{name} must be an nn.Linear with a bias and a weight of shape {shape}, for hidden_size {SIZE} and "
               f"bottleneck_size {BOTTLENECK}.")
    h = _randn(2, 3, SIZE)
    start = call(made, h)
    with torch.no_grad():
        for number, parameter in enumerate((made.down.weight, made.down.bias, made.up.weight, made.up.bias)):
            parameter.copy_(_randn(*parameter.shape, seed=number + 1))
        got = call(made, h)
        for name, model in ADAPTER_MISTAKES.items():
            if difference(got, model(h, made.down, made.up)) is None:
                mistake(name)
        expect_close(got, bottleneck(h, made.down, made.up), given="h of shape (2, 3, 6), random weights")
    if difference(start.detach() if isinstance(start, torch.Tensor) else start, h) is not None:
        mistake("random_start")


# -- inserting by hooks

def insert(model, make_adapter):
    from torch import nn

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adapters = nn.ModuleList()
    for layer in model.layers:
        for place in (layer.self_attn, layer.mlp):
            adapter = make_adapter()
            place.register_forward_hook(lambda module, inputs, output, adapter=adapter: adapter(output))
            adapters.append(adapter)
    return adapters


def _not_frozen(model, make_adapter):
    before = {p: p.requires_grad for p in model.parameters()}
    adapters = insert(model, make_adapter)
    for parameter, learns in before.items():
        parameter.requires_grad_(learns)
    return adapters


def _all_frozen(model, make_adapter):
    adapters = insert(model, make_adapter)
    for parameter in adapters.parameters():
        parameter.requires_grad_(False)
    return adapters


def _returns_nothing(model, make_adapter):
    def make():
        adapter = make_adapter()
        return adapter

    adapters = insert(model, make)
    for layer in model.layers:
        for place in (layer.self_attn, layer.mlp):
            place._forward_hooks.clear()
    return adapters


def _late_binding(model, make_adapter):
    adapters = insert(model, make_adapter)
    for layer in model.layers:
        for place in (layer.self_attn, layer.mlp):
            place._forward_hooks.clear()
            place.register_forward_hook(lambda module, inputs, output: adapters[-1](output))
    return adapters


def _one_for_all(model, make_adapter):
    adapter = make_adapter()
    return insert(model, lambda: adapter)


def run_insert(student, layers):
    """What a student's `insert` does to a tiny model: the logits behind it, who learns, how many adapters there are."""
    import itertools

    import torch
    from torch import nn

    from ftlab.model import ModelConfig, Transformer

    numbers = itertools.count(1)

    class Stretch(nn.Module):
        """The k-th one made multiplies by 1 + k / 4, so that each can be told from the others."""

        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(1 + next(numbers) / 4))

        def forward(self, h):
            return h * self.factor

    torch.manual_seed(3)
    model = Transformer(ModelConfig(11, 8, layers, 2, 12, max_position_embeddings=16))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.ndim == 2 else 1)  # far from linear, so that places tell apart
    own = list(model.parameters())
    adapters = student(model, Stretch)
    with torch.no_grad():
        logits = model(torch.tensor([[1, 4, 7, 2]]))
    return {"logits": logits, "adapters": len(adapters), "base learns": any(p.requires_grad for p in own),
            "adapters learn": all(p.requires_grad for adapter in adapters for p in adapter.parameters())}


# -- keys and values

def prefix_keys_values(flat, num_layers, num_heads, batch):
    parts = flat.view(len(flat), num_layers, 2, num_heads, -1)  # (P, L, 2, H, D)
    parts = parts.permute(1, 2, 3, 0, 4).unsqueeze(2).expand(-1, -1, batch, -1, -1, -1)  # (L, 2, B, H, P, D)
    return [(keys, values) for keys, values in parts]


def _keys_then_values(flat, num_layers, num_heads, batch):
    parts = flat.view(len(flat), 2, num_layers, num_heads, -1).permute(2, 1, 3, 0, 4).unsqueeze(2)
    return [tuple(pair) for pair in parts.expand(-1, -1, batch, -1, -1, -1)]


def _swapped(flat, num_layers, num_heads, batch):
    return [(values, keys) for keys, values in prefix_keys_values(flat, num_layers, num_heads, batch)]


def _scrambled(flat, num_layers, num_heads, batch):
    parts = flat.reshape(num_layers, 2, 1, num_heads, len(flat), -1)
    return [tuple(pair) for pair in parts.expand(-1, -1, batch, -1, -1, -1)]


def kv_cases():
    import torch

    return [(torch.arange(8.0).view(2, 4), 1, 1, 1), (torch.arange(48.0).view(3, 16), 2, 2, 2),
            (_randn(5, 36), 3, 2, 1)]


# -- the mask

def prefix_mask(real, prefix):
    import torch

    batch, length = real.shape
    text = torch.ones(length, length, dtype=torch.bool).tril() & real[:, None, :]  # (B, T, T)
    return torch.cat([torch.ones(batch, length, prefix, dtype=torch.bool), text], dim=-1)[:, None]


def _with_columns(value, behind=False):
    """The mask with other columns for the prefix, or with them behind the text's."""

    def model(real, prefix):
        import torch

        text = prefix_mask(real, 0)
        columns = torch.full((*text.shape[:-1], prefix), value)
        return torch.cat([text, columns] if behind else [columns, text], dim=-1)

    return model


def _unshifted(real, prefix):
    import torch

    batch, length = real.shape
    seen = torch.cat([torch.ones(batch, prefix, dtype=torch.bool), real], dim=-1)  # (B, P + T)
    return (torch.ones(length, prefix + length, dtype=torch.bool).tril() & seen[:, None, :])[:, None]


def _padding_seen(real, prefix):
    import torch

    return prefix_mask(torch.ones_like(real), prefix)


def mask_cases():
    import torch

    return [(torch.ones(1, 2, dtype=torch.bool), 1), (torch.ones(1, 4, dtype=torch.bool), 3),
            (torch.tensor([[False, True, True], [True, True, True]]), 2)]  # fmt: skip


# -- the soft prompt

def soft_prompt_loss(read, embed, prompt, ids, labels):
    import torch
    import torch.nn.functional as F

    x = torch.cat([prompt.expand(len(ids), -1, -1), embed(ids)], dim=1)
    logits = read(x)[:, len(prompt):]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def _soft_variant(read, embed, prompt, ids, labels, behind=False, cut=None, shift=True, detached=False):
    """`soft_prompt_loss` with one thing changed."""
    import torch
    import torch.nn.functional as F

    soft = (prompt.detach() if detached else prompt).expand(len(ids), -1, -1)
    x = torch.cat([embed(ids), soft] if behind else [soft, embed(ids)], dim=1)
    length = ids.shape[1]
    logits = read(x)
    logits = logits[:, :length] if behind or cut == "end" else logits[:, -length:]
    if not shift:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def run_soft_prompt(student, prompt, ids, labels):
    """The loss of a tiny recurrent reader, and its gradient on the prompt (zeros where there is none)."""
    import torch

    table, head = _randn(9, prompt.shape[1], seed=4), _randn(prompt.shape[1], 9, seed=5)

    def read(x):
        """Each place mixes what stands up to it, a little less the further back; logits (B, n, 9)."""
        length = x.shape[1]
        back = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        return torch.tanh((0.8 ** back.clamp(min=0) * (back >= 0)) @ x) @ head

    prompt = prompt.clone().requires_grad_()
    loss = student(read, lambda ids: table[ids], prompt, ids, labels)
    gradient = torch.zeros_like(prompt)
    if loss.requires_grad:
        gradient, = torch.autograd.grad(loss, prompt, allow_unused=True)
        gradient = torch.zeros_like(prompt) if gradient is None else gradient
    return {"loss": loss.detach(), "gradient": gradient}


def soft_cases():
    import torch

    return [(_randn(1, 3), torch.tensor([[1, 2, 3]]), torch.tensor([[-100, 2, 3]])),
            (_randn(4, 3, seed=1), torch.tensor([[1, 5, 6, 2], [1, 3, 3, 8]]),
             torch.tensor([[-100, -100, 6, 2], [-100, 3, 3, -100]]))]  # fmt: skip


def _soft(**wrong):
    return functools.partial(run_soft_prompt, functools.partial(_soft_variant, **wrong))


EXERCISES = [
    Exercise(
        id="adapter", title="The adapter", points=4, minutes=12, difficulty=2,
        hints=(
            "Two linear layers with a bend between them, and h itself added to what comes out.",
            "To start as h, the second layer must give zero whatever comes in: weight and bias. The first one keeps its "
            "random start, or nothing would ever learn.",
            "In __init__: self.down = nn.Linear(hidden_size, bottleneck_size), self.up = nn.Linear(bottleneck_size, "
            "hidden_size), then nn.init.zeros_ on self.up.weight and self.up.bias. In forward: "
            "return h + self.up(torch.relu(self.down(h))).",
        ),
        mistakes={
            "no_residual": "Your adapter has no residual connection: it must add h, or the base's work is thrown away.",
            "no_bend": "There is no non-linearity between down and up: two linear layers in a row are one, of low rank.",
            "bend_outside": "Your relu acts on the sum; it belongs between down and up.",
            "random_start": "Your adapter does not start as h: set up.weight and up.bias to zero.",
        },
        check=check_adapter, withheld=("ftlab.tune.adapter.Bottleneck",),
    ),
    Exercise(
        id="insert", title="Insert by hook", points=5, minutes=15, difficulty=3,
        hints=(
            "Three things: freeze what is there, make an adapter for each place, and let its output take the place's.",
            "A forward hook is called as hook(module, inputs, output); what it returns replaces the output. Freeze the "
            "model first: the adapters come after, and must learn.",
            "for p in model.parameters(): p.requires_grad_(False). For each layer and each place in (layer.self_attn, "
            "layer.mlp): adapter = make_adapter(); place.register_forward_hook(lambda module, inputs, output, "
            "adapter=adapter: adapter(output)); append it to an nn.ModuleList, which you return.",
        ),
        mistakes={
            "not_frozen": "You forgot to freeze the base: its parameters still have requires_grad.",
            "all_frozen": "The adapters do not learn: freeze the model before they come in, not after.",
            "returns_nothing": "The outputs are the base's: a hook must return what is to replace the output.",
            "late_binding": "Every place uses the last adapter: a lambda looks `adapter` up when it runs. Bind it with "
                            "adapter=adapter.",
            "one_for_all": "All places share one adapter: call make_adapter() for each place.",
        },
        check=against(
            functools.partial(run_insert, insert), [(1,), (2,)], using=run_insert, mistakes={
                "not_frozen": functools.partial(run_insert, _not_frozen),
                "all_frozen": functools.partial(run_insert, _all_frozen),
                "returns_nothing": functools.partial(run_insert, _returns_nothing),
                "late_binding": functools.partial(run_insert, _late_binding),
                "one_for_all": functools.partial(run_insert, _one_for_all)}),
        withheld=("ftlab.tune.adapter.attach_adapter",),
    ),
    Exercise(
        id="prefix_kv", title="Keys and values of a prefix", points=4, minutes=12, difficulty=2,
        hints=(
            "Cut the last axis into its parts first, in the order in which they are written: layer, key or value, head, D.",
            "flat.view(P, num_layers, 2, num_heads, -1) has the virtual tokens in front; `permute` brings them between "
            "heads and D. A view into the final shape at once would mix tokens with heads.",
            "parts = flat.view(len(flat), num_layers, 2, num_heads, -1).permute(1, 2, 3, 0, 4)  # (L, 2, H, P, D); then "
            "for each layer the pair (part[0], part[1]), each with .expand(batch, -1, -1, -1).",
        ),
        mistakes={
            "keys_then_values": "You took the first half of a row for all keys and the second for all values; each "
                                "layer's keys are followed by its own values.",
            "swapped": "Keys and values are swapped: in each layer the keys come first.",
            "scrambled": "You viewed the numbers straight into the final shape, which mixes tokens with heads: cut the "
                         "last axis, then permute.",
        },
        check=against(prefix_keys_values, kv_cases, mistakes={
            "keys_then_values": _keys_then_values, "swapped": _swapped, "scrambled": _scrambled}),
        withheld=("ftlab.tune.prefix.split",),
    ),
    Exercise(
        id="prefix_mask", title="The mask with a prefix", points=4, minutes=12, difficulty=3,
        hints=(
            "Rows are the T tokens that look, columns the P + T places they may look at. Which columns are new?",
            "Left of the causal mask of the text stand P columns of True, for every token, padded or not. Padding is a "
            "matter of the text's columns only.",
            "text = torch.ones(T, T, dtype=torch.bool).tril() & real[:, None, :]  # (B, T, T); then torch.cat of "
            "torch.ones(B, T, prefix, dtype=torch.bool) and text along the last axis, and [:, None] for the heads.",
        ),
        mistakes={
            "too_short": "Your mask is too short for the prefix: its columns are P + T, the prefix first.",
            "prefix_hidden": "Your prefix is masked: every token may look at all of it.",
            "behind": "You put the prefix's columns behind the text's; it stands before the text.",
            "unshifted": "Your triangle begins at the first column, so early tokens see neither all of the prefix nor "
                         "themselves: shift it by P.",
            "padding_seen": "Padding can be seen: columns where `real` is False are closed.",
        },
        check=against(prefix_mask, mask_cases, mistakes={
            "too_short": lambda real, prefix: prefix_mask(real, 0), "prefix_hidden": _with_columns(False),
            "behind": _with_columns(True, behind=True), "unshifted": _unshifted, "padding_seen": _padding_seen}),
        withheld=("ftlab.tune.prefix.behind_prefix",),
    ),
    Exercise(
        id="soft_prompt", title="Prompt tuning", points=4, minutes=12, difficulty=2,
        hints=(
            "The prompt's vectors stand before the text's, the same ones in each row of the batch.",
            "read gives a row of logits for the prompt's places, too. No label belongs to those: drop the first P rows, "
            "then shift by one as always.",
            "x = torch.cat([prompt.expand(len(ids), -1, -1), embed(ids)], dim=1); logits = read(x)[:, len(prompt):]; "
            "return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).",
        ),
        mistakes={
            "behind": "Your prompt stands behind the text; a causal model then never sees it in time.",
            "not_dropped": "You kept the first T rows of logits; the first P belong to the prompt and must go.",
            "unshifted": "Your labels are not shifted: the logits at place t score the token after it.",
            "detached": "No gradient reaches the prompt: it was detached, or rebuilt from numbers.",
        },
        check=against(
            functools.partial(run_soft_prompt, soft_prompt_loss), soft_cases, using=run_soft_prompt, mistakes={
                "behind": _soft(behind=True), "not_dropped": _soft(cut="end"), "unshifted": _soft(shift=False),
                "detached": _soft(detached=True)}),
        withheld=("ftlab.tune.prefix.SoftPrompt", "ftlab.tune.prefix.read"),
    ),
]
