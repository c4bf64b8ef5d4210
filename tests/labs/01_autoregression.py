"""Wrong answers to the exercises of Lab 01: each must be named by its check, and fail its probe."""

LOOP = """
def write_greedily(model, prompt, max_new_tokens, end_id):
    ids, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([ids]))[0, -1].argmax().item()
        if token == end_id:
            break
        new.append(token)
        ids.append(token)
    return new
"""

SAMPLING = """
def next_token_probs(logits, temperature, top_p):
    probs = (logits / temperature).softmax(-1)
    ordered, order = probs.sort(descending=True)
    dropped = order[ordered.cumsum(-1) - ordered >= top_p]
    probs[dropped] = 0.0
    return probs / probs.sum()
"""

PERPLEXITY = """
def surprisals(model, ids):
    logp = model(torch.tensor([ids]))[0].log_softmax(-1)
    return -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]


def perplexity(model, ids):
    return math.exp(surprisals(model, ids).mean().item())
"""

MASK = """
def causal_attention(scores):
    length = scores.shape[-1]
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1)
"""

CACHE = """
class LayerCache:
    def __init__(self):
        self.keys = self.values = None

    def extend(self, k, v):
        if self.keys is not None:
            k = torch.cat([self.keys, k], dim=2)
            v = torch.cat([self.values, v], dim=2)
        self.keys, self.values = k, v
        return k, v


def write_with_cache(model, prompt, max_new_tokens, end_id, cache):
    unread, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([unread]), cache=cache)[0, -1].argmax().item()
        if token == end_id:
            break
        new.append(token)
        unread = [token]
    return new
"""


def changed(source, old, new):
    """The right answer with one line made wrong."""
    assert source.count(old) == 1, old
    return source.replace(old, new)


WRONG = {
    "loop": {
        "never_appends": changed(LOOP, "        ids.append(token)\n", ""),
        "wrong_row": changed(LOOP, "[0, -1]", "[0, 0]"),
        "returns_prompt": changed(LOOP, "return new", "return ids"),
        "keeps_end": changed(LOOP, "            break", "            return new + [token]"),
    },
    "sampling": {
        "multiplied": changed(SAMPLING, "logits / temperature", "logits * temperature"),
        "drops_crossing": changed(SAMPLING, "ordered.cumsum(-1) - ordered >= top_p", "ordered.cumsum(-1) >= top_p"),
        "not_renormalised": changed(SAMPLING, "return probs / probs.sum()", "return probs"),
        "filters_first": changed(SAMPLING, "probs.sort(", "logits.softmax(-1).sort("),
    },
    "perplexity": {
        "not_shifted": changed(PERPLEXITY, "torch.arange(len(ids) - 1)", "torch.arange(1, len(ids))"),
        "summed": changed(PERPLEXITY, ".mean()", ".sum()"),
        "mean_of_probs": changed(
            PERPLEXITY, "math.exp(surprisals(model, ids).mean().item())",
            "1 / surprisals(model, ids).neg().exp().mean().item()"),
        "sign": changed(PERPLEXITY, "return -logp[", "return logp["),
    },
    "causal_mask": {
        "transposed": changed(MASK, ".tril()", ".triu()"),
        "blind_to_itself": changed(MASK, ".tril()", ".tril(-1)"),
        "zero_scores": changed(MASK, 'float("-inf")', "0.0"),
        "zero_weights": changed(MASK, 'scores.masked_fill(~allowed, float("-inf")).softmax(-1)',
                                "scores.softmax(-1).masked_fill(~allowed, 0.0)"),
    },
    "kv_cache": {
        "overwrites": changed(changed(CACHE, "torch.cat([self.keys, k], dim=2)", "k"),
                              "torch.cat([self.values, v], dim=2)", "v"),
        "newest_first": changed(changed(CACHE, "[self.keys, k]", "[k, self.keys]"),
                                "[self.values, v]", "[v, self.values]"),
        "reads_everything": changed(CACHE, "unread = [token]", "unread = unread + [token]"),
        "uncached": changed(changed(CACHE, "unread = [token]", "unread = unread + [token]"),
                            "cache=cache", "cache=None"),
    },
}
