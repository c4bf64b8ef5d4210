"""Wrong answers to the exercises of lab 08_adapters_and_prefixes: each must be named by its check, and fail its probe."""

ADAPTER = '''
class Adapter(nn.Module):
    def __init__(self, hidden_size, bottleneck_size):
        super().__init__()
        self.down = nn.Linear(hidden_size, bottleneck_size)
        self.up = nn.Linear(bottleneck_size, hidden_size)
        {start}

    def forward(self, h):
        return {made}
'''
RIGHT_ADAPTER = {"start": "nn.init.zeros_(self.up.weight); nn.init.zeros_(self.up.bias)",
                 "made": "h + self.up(torch.relu(self.down(h)))"}  # fmt: skip

INSERT = '''
def insert(model, make_adapter):
    adapters = nn.ModuleList()
    {before}
    for layer in model.layers:
        for place in (layer.self_attn, layer.mlp):
            {make}
            place.register_forward_hook({hook})
            adapters.append(adapter)
    {after}
    return adapters
'''
FREEZE = "for p in model.parameters(): p.requires_grad_(False)"
RIGHT_INSERT = {"before": FREEZE, "make": "adapter = make_adapter()", "after": "pass",
                "hook": "lambda module, inputs, output, adapter=adapter: adapter(output)"}  # fmt: skip

KEYS_VALUES = '''
def prefix_keys_values(flat, num_layers, num_heads, batch):
    parts = {cut}
    parts = [part.unsqueeze(1).expand(-1, batch, -1, -1, -1) for part in parts]
    return [{pair} for part in parts]
'''
RIGHT_KEYS_VALUES = {"cut": "flat.view(len(flat), num_layers, 2, num_heads, -1).permute(1, 2, 3, 0, 4)",
                     "pair": "(part[0], part[1])"}  # fmt: skip

MASK = '''
def prefix_mask(real, prefix):
    B, T = real.shape
    text = torch.ones(T, T, dtype=torch.bool).tril() & real[:, None, :]
    before = torch.ones(B, T, prefix, dtype=torch.bool)
    return {mask}[:, None]
'''

SOFT = '''
def soft_prompt_loss(read, embed, prompt, ids, labels):
    x = torch.cat({parts}, dim=1)
    logits = read(x)[:, {rows}]
    return F.cross_entropy({logits}.flatten(0, 1), {labels}.flatten())
'''
RIGHT_SOFT = {"parts": "[prompt.expand(len(ids), -1, -1), embed(ids)]", "rows": "len(prompt):",
              "logits": "logits[:, :-1]", "labels": "labels[:, 1:]"}  # fmt: skip

WRONG = {
    "adapter": {
        "no_residual": ADAPTER.format(**RIGHT_ADAPTER | {"made": "self.up(torch.relu(self.down(h)))"}),
        "no_bend": ADAPTER.format(**RIGHT_ADAPTER | {"made": "h + self.up(self.down(h))"}),
        "bend_outside": ADAPTER.format(**RIGHT_ADAPTER | {"made": "torch.relu(h + self.up(self.down(h)))"}),
        "random_start": ADAPTER.format(**RIGHT_ADAPTER | {"start": "pass"}),
    },
    "insert": {
        "not_frozen": INSERT.format(**RIGHT_INSERT | {"before": "pass"}),
        "all_frozen": INSERT.format(**RIGHT_INSERT | {
            "after": "for p in [*model.parameters(), *adapters.parameters()]: p.requires_grad_(False)"}),
        "returns_nothing": INSERT.format(**RIGHT_INSERT | {
            "hook": "lambda module, inputs, output, adapter=adapter: [adapter(output)] and None"}),
        "late_binding": INSERT.format(**RIGHT_INSERT | {"hook": "lambda module, inputs, output: adapter(output)"}),
        "one_for_all": INSERT.format(**RIGHT_INSERT | {
            "before": FREEZE + "\n    adapter = make_adapter()", "make": "pass"}),
    },
    "prefix_kv": {
        "keys_then_values": KEYS_VALUES.format(**RIGHT_KEYS_VALUES | {
            "cut": "flat.view(len(flat), 2, num_layers, num_heads, -1).permute(2, 1, 3, 0, 4)"}),
        "swapped": KEYS_VALUES.format(**RIGHT_KEYS_VALUES | {"pair": "(part[1], part[0])"}),
        "scrambled": KEYS_VALUES.format(**RIGHT_KEYS_VALUES | {
            "cut": "flat.view(num_layers, 2, num_heads, len(flat), -1)"}),
    },
    "prefix_mask": {
        "too_short": MASK.format(mask="text"),
        "prefix_hidden": MASK.format(mask="torch.cat([~before, text], dim=-1)"),
        "behind": MASK.format(mask="torch.cat([text, before], dim=-1)"),
        "unshifted": MASK.format(
            mask="(torch.ones(T, prefix + T, dtype=torch.bool).tril() & "
                 "torch.cat([before[:, 0], real], dim=-1)[:, None, :])"),
        "padding_seen": MASK.format(
            mask="torch.cat([before, torch.ones(B, T, T, dtype=torch.bool).tril()], dim=-1)"),
    },
    "soft_prompt": {
        "behind": SOFT.format(**RIGHT_SOFT | {
            "parts": "[embed(ids), prompt.expand(len(ids), -1, -1)]", "rows": ":ids.shape[1]"}),
        "not_dropped": SOFT.format(**RIGHT_SOFT | {"rows": ":ids.shape[1]"}),
        "unshifted": SOFT.format(**RIGHT_SOFT | {"logits": "logits", "labels": "labels"}),
        "detached": SOFT.format(**RIGHT_SOFT | {"parts": "[prompt.detach().expand(len(ids), -1, -1), embed(ids)]"}),
    },
}
