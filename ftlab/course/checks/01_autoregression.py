"""Exercises of Lab 01: texts, hints, mistakes and what each check knows. torch is imported where it is needed."""

import math

from ftlab.teach import Exercise, against

END = 0


class Table:
    """A stand-in for a language model: logits (B, T, V) that depend on the last two tokens only."""

    def __init__(self, vocab_size, seed):
        import torch

        generator = torch.Generator().manual_seed(seed)
        self.scores = 2 * torch.randn(vocab_size, vocab_size, vocab_size, generator=generator)

    def __call__(self, ids):
        import torch

        before = torch.cat([torch.zeros_like(ids[:, :1]), ids[:, :-1]], dim=1)
        return self.scores[before, ids]

    def __repr__(self):
        return f"a small model of {len(self.scores)} tokens"


# ---- the loop


def write_greedily(model, prompt, max_new_tokens, end_id, ended=(), whole=False, frozen=False, place=-1):
    """The reference; the arguments after `end_id` make its mistakes."""
    import torch

    ids, new = list(prompt), []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([ids]))[0, place].argmax().item()
        if token == end_id:
            new += [end_id] if ended else []
            break
        new.append(token)
        if not frozen:
            ids.append(token)
    return list(prompt) + new if whole else new


def loop_cases():
    model = Table(7, seed=3)
    stops = write_greedily(model, [1, 4], 6, None)[2]
    return [(model, [1, 4], 1, None), (model, [1, 4], 5, None), (model, [1, 4], 5, stops), (model, [2, 5, 3], 8, END)]


LOOP = Exercise(
    id="loop",
    title="The loop",
    points=4,
    minutes=10,
    difficulty=2,
    hints=(
        "Which row of the logits speaks about the token that does not exist yet?",
        "model(torch.tensor([ids])) has shape (1, T, V). Its last row, [0, -1], scores the next token; "
        ".argmax().item() is the likeliest as an int. Append it to ids, and ask the model again.",
        "ids, new = list(prompt), []\nfor _ in range(max_new_tokens):\n    token = model(torch.tensor([ids]))[0, -1]"
        ".argmax().item()\n    if token == end_id: break\n    ids.append(token); new.append(token)\nreturn new",
    ),
    mistakes={
        "never_appends": "You ask the model about the same prompt every time: what it chose must be appended to what "
                         "it reads next. That is all the memory it has.",
        "wrong_row": "You took the logits of the first position; the next token is scored by the last one, [0, -1].",
        "returns_prompt": "You returned the prompt too; only the new tokens are asked for.",
        "keeps_end": "The end token says that the text is over and is no part of it: stop before appending it.",
    },
    check=against(write_greedily, loop_cases, mistakes={
        "never_appends": lambda *case: write_greedily(*case, frozen=True),
        "wrong_row": lambda *case: write_greedily(*case, place=0),
        "returns_prompt": lambda *case: write_greedily(*case, whole=True),
        "keeps_end": lambda *case: write_greedily(*case, ended=True),
    }),
    withheld=("ftlab.model.generate.generate", "ftlab.model.generate.beam_search"),
)

# ---- temperature and top-p


def next_token_probs(logits, temperature, top_p, drops_crossing=False, renormalise=True, filter_first=False):
    """The reference; the arguments after `top_p` make its mistakes."""
    import torch

    probs = (logits / temperature).softmax(-1)
    ranked = logits.softmax(-1) if filter_first else probs
    ordered, order = ranked.sort(descending=True)
    reached = ordered.cumsum(-1) if drops_crossing else ordered.cumsum(-1) - ordered
    kept = torch.zeros_like(probs)
    kept[order[reached < top_p]] = 1.0
    probs = probs * kept
    return probs / probs.sum() if renormalise else probs


def sampling_cases():
    import torch

    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    generator = torch.Generator().manual_seed(1)
    wide = 2 * torch.randn(12, generator=generator)
    return [(logits, 1.0, 1.0), (logits, 0.5, 1.0), (logits, 1.0, 0.8), (logits, 1.0, 0.5), (logits, 2.0, 0.8),
            (wide, 0.7, 0.9), (wide, 1.5, 0.7)]  # fmt: skip


SAMPLING = Exercise(
    id="sampling",
    title="Temperature and top-p",
    points=4,
    minutes=15,
    difficulty=3,
    hints=(
        "Two steps, in this order: temperature on the logits and softmax; then sort, and decide who stays.",
        "With `ordered` sorted downwards, ordered.cumsum(-1) - ordered is the probability of all tokens *before* each. "
        "A token stays as long as that is still below top_p.",
        "probs = (logits / temperature).softmax(-1)\nordered, order = probs.sort(descending=True)\n"
        "drop = order[ordered.cumsum(-1) - ordered >= top_p]\nprobs[drop] = 0\nreturn probs / probs.sum()",
    ),
    mistakes={
        "multiplied": "You multiplied by the temperature; logits are divided by it, so that a high one flattens.",
        "drops_crossing": "You dropped the token with which the sum reaches top_p. It stays: else the kept ones fall "
                          "short of p, and a single sure token would be dropped too.",
        "not_renormalised": "What is kept does not sum to 1: divide by its sum.",
        "filters_first": "You chose who stays from the probabilities before the temperature. Temperature comes first.",
    },
    check=against(next_token_probs, sampling_cases, mistakes={
        "multiplied": lambda logits, temperature, top_p: next_token_probs(logits, 1 / temperature, top_p),
        "drops_crossing": lambda *case: next_token_probs(*case, drops_crossing=True),
        "not_renormalised": lambda *case: next_token_probs(*case, renormalise=False),
        "filters_first": lambda *case: next_token_probs(*case, filter_first=True),
    }),
    withheld=("ftlab.model.generate.filter_logits", "ftlab.model.generate.choose"),
)

# ---- the chain rule


def surprisals(model, ids, shift=1):
    """The reference: −log p of every token but the first; shift=0 is the mistake of looking in the wrong row."""
    import torch

    logp = model(torch.tensor([ids]))[0].log_softmax(-1)
    targets = torch.tensor(ids[1:])
    rows = logp[:-1] if shift else logp[1:]
    return -rows[torch.arange(len(targets)), targets]


def _both(student_surprisals, student_perplexity, model, ids):
    return {"surprisals": student_surprisals(model, ids), "perplexity": student_perplexity(model, ids)}


def _pair(surprisal, perplexity):
    """What a (possibly mistaken) pair of formulas gives on a case."""

    def result(model, ids):
        found = surprisal(model, ids)
        return {"surprisals": found, "perplexity": perplexity(found)}

    return result


def _exp_mean(found):
    return math.exp(found.mean().item())


def perplexity_cases():
    model = Table(7, seed=5)
    return [(model, [1, 4]), (model, [1, 4, 2, 2]), (model, [3, 1, 6, 5, 0, 2, 1])]


PERPLEXITY = Exercise(
    id="perplexity",
    title="Surprisal and perplexity of a text",
    points=4,
    minutes=12,
    difficulty=3,
    hints=(
        "Row t of the logits was computed from tokens 0 to t. Which token is it a forecast of?",
        "Rows 0 … T−2 forecast tokens 1 … T−1: logp[:-1] against ids[1:]. Pick one number a row, and mind the sign. "
        "Perplexity is math.exp of the mean.",
        "logp = model(torch.tensor([ids]))[0].log_softmax(-1)\n"
        "surprisals: -logp[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]\n"
        "perplexity: math.exp(surprisals(model, ids).mean().item())",
    ),
    mistakes={
        "not_shifted": "You scored each token with the row that has already read it. Row t forecasts token t + 1.",
        "summed": "exp of the *sum* is one over the probability of the whole text and grows with its length. "
                  "Perplexity is exp of the *mean*.",
        "mean_of_probs": "You took one over the mean of the probabilities. The chain rule multiplies them, so the mean "
                         "is taken of the logarithms.",
        "sign": "log p is negative; a surprisal is −log p, and a perplexity is never below 1.",
    },
    check=against(_pair(surprisals, _exp_mean), perplexity_cases, using=_both, mistakes={
        "not_shifted": _pair(lambda model, ids: surprisals(model, ids, shift=0), _exp_mean),
        "summed": _pair(surprisals, lambda found: math.exp(found.sum().item())),
        "mean_of_probs": _pair(surprisals, lambda found: 1 / (-found).exp().mean().item()),
        "sign": _pair(lambda model, ids: -surprisals(model, ids), _exp_mean),
    }),
    withheld=("ftlab.model.generate.sequence_logprobs",),
)

# ---- the causal mask


def causal_attention(scores, allowed=None, fill=-math.inf):
    """The reference; `allowed` and `fill` make its mistakes."""
    import torch

    length = scores.shape[-1]
    if allowed is None:
        allowed = torch.ones(length, length, dtype=torch.bool).tril()
    return scores.masked_fill(~allowed, fill).softmax(-1)


def _square(scores):
    import torch

    return torch.ones(scores.shape[-2:], dtype=torch.bool)


def mask_cases():
    import torch

    generator = torch.Generator().manual_seed(2)
    return [torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.randn(4, 4, generator=generator),
            torch.randn(2, 3, 3, generator=generator)]  # fmt: skip


MASK = Exercise(
    id="causal_mask",
    title="The causal mask",
    points=3,
    minutes=8,
    difficulty=2,
    hints=(
        "Row t is the token that reads, column s the one it reads from. For which s must row t be blind?",
        "torch.ones(T, T, dtype=torch.bool).tril() is True where s ≤ t. A score of −∞ becomes a weight of exactly 0.",
        "allowed = torch.ones(T, T, dtype=torch.bool).tril()\n"
        "return scores.masked_fill(~allowed, float('-inf')).softmax(-1)",
    ),
    mistakes={
        "transposed": "You hid the past and kept the future: row t may see columns 0 to t.",
        "blind_to_itself": "A token may read itself: keep the diagonal (else the first row has nothing to read).",
        "zero_scores": "You set the scores of the future to 0, but exp(0) is 1: the softmax still gives them weight. "
                       "Use −∞.",
        "zero_weights": "You set weights to 0 after the softmax, so rows no longer sum to 1. Mask the scores first.",
    },
    check=against(causal_attention, mask_cases, mistakes={
        "transposed": lambda scores: causal_attention(scores, _square(scores).triu()),
        "blind_to_itself": lambda scores: causal_attention(scores, _square(scores).tril(-1)),
        "zero_scores": lambda scores: causal_attention(scores, fill=0.0),
        "zero_weights": lambda scores: scores.softmax(-1) * _square(scores).tril(),
    }),
)

# ---- the KV cache


class LayerCache:
    """The reference: keys and values of one layer, (B, H, t, D) each. `join` makes its mistakes."""

    keys = values = None

    def extend(self, k, v):
        if self.keys is not None:
            k, v = self.join(self.keys, k), self.join(self.values, v)
        self.keys, self.values = k, v
        return k, v

    @staticmethod
    def join(old, new):
        import torch

        return torch.cat([old, new], dim=2)


class Overwriting(LayerCache):
    join = staticmethod(lambda old, new: new)


class NewestFirst(LayerCache):
    join = staticmethod(lambda old, new: LayerCache.join(new, old))


class Cache:
    """A layer cache for each layer, as the model asks for it."""

    def __init__(self, model, layer_cache):
        self.layers = [layer_cache() for _ in range(model.config.num_layers)]

    @property
    def length(self):
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[2]

    def layer(self, index):
        return self.layers[index]


def write_with_cache(model, prompt, max_new_tokens, end_id, cache, reads="new"):
    """The reference. reads: "new" tokens only; the mistakes are "all", and "uncached" (all, without the cache)."""
    import torch

    ids, new = list(prompt), []
    unread = ids
    for _ in range(max_new_tokens):
        logits = model(torch.tensor([unread]), cache=None if reads == "uncached" else cache)[0, -1]
        token = logits.argmax().item()
        if token == end_id:
            break
        new.append(token)
        ids = ids + [token]
        unread = [token] if reads == "new" else ids
    return new


def _use_cache(layer_cache, write, model, prompt, max_new_tokens, end_id, tensors):
    """A cache that takes tensors, then a text: what came back, and how many tokens the model had to read each time."""
    one = layer_cache()
    outputs = [one.extend(k, v) for k, v in tensors]
    reads = []
    model.register_forward_pre_hook(lambda _, arguments: reads.append(int(arguments[0].shape[1])))
    text = write(model, list(prompt), max_new_tokens, end_id, Cache(model, layer_cache))
    return {"keys": outputs[-1][0], "values": outputs[-1][1], "text": text,
            "tokens read at each step": reads[:max_new_tokens]}  # fmt: skip


def _mistaken(layer_cache=LayerCache, **how):
    return lambda *case: _use_cache(layer_cache, lambda *args: write_with_cache(*args, **how), *case)


def small_model(seed):
    """A random model of the house's architecture whose greedy text does not repeat one token for ever."""
    import torch

    from ftlab.model import ModelConfig, Transformer

    class Small(Transformer):
        def __repr__(self):
            return "a model of 2 layers"

    kept = torch.get_rng_state()
    torch.manual_seed(seed)
    model = Small(ModelConfig(19, 16, 2, 2, 32, tie_word_embeddings=False)).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=0.35)
    torch.set_rng_state(kept)
    return model


def cache_cases():
    import torch

    generator = torch.Generator().manual_seed(4)
    pairs = [[torch.randn(1, 2, t, 3, generator=generator) for _ in range(2)] for t in (2, 1, 1)]
    model = small_model(6)
    stops = write_with_cache(model, [1, 5, 9], 8, None, Cache(model, LayerCache))[-1]
    return [(model, [1, 5, 9], 2, None, pairs[:2]), (model, [1, 5, 9], 8, None, pairs), (model, [7], 12, stops, pairs)]


KV_CACHE = Exercise(
    id="kv_cache",
    title="The KV cache",
    points=5,
    minutes=20,
    difficulty=4,
    hints=(
        "Under the causal mask the keys and values of old tokens never change. So what has the model not read yet, at "
        "the first step and at every later one?",
        "extend: torch.cat along dim=2, the tokens' axis, old before new, and remember the result. The loop: the model "
        "first reads the whole prompt, then only the token that it has just chosen, always with cache=cache.",
        "extend: if self.keys is not None:\n"
        "            k, v = torch.cat([self.keys, k], dim=2), torch.cat([self.values, v], dim=2)\n"
        "        self.keys, self.values = k, v; return k, v\n"
        "loop:   unread, new = list(prompt), []\n"
        "        for _ in range(max_new_tokens):\n"
        "            token = model(torch.tensor([unread]), cache=cache)[0, -1].argmax().item()\n"
        "            if token == end_id: break\n"
        "            new.append(token); unread = [token]",
    ),
    mistakes={
        "overwrites": "Your cache holds only what came last: join old and new with torch.cat along dim=2.",
        "newest_first": "You put the new keys and values in front of the old ones; they go behind: [old, new].",
        "reads_everything": "You gave the model the whole text again together with a cache that already holds it, so "
                            "it reads every token twice. After the prompt it reads one new token a step.",
        "uncached": "The text is right, but the model reads everything again at each step: pass cache=cache, and only "
                    "what it has not read yet.",
    },
    check=against(_mistaken(), cache_cases, using=_use_cache, mistakes={
        "overwrites": _mistaken(Overwriting),
        "newest_first": _mistaken(NewestFirst),
        "reads_everything": _mistaken(reads="all"),
        "uncached": _mistaken(reads="uncached"),
    }),
    withheld=("ftlab.model.generate.KVCache", "ftlab.model.generate.generate"),
)

EXERCISES = [LOOP, SAMPLING, PERPLEXITY, MASK, KV_CACHE]
