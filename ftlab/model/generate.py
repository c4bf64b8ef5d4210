"""Text from a model, token by token: the loop, the cache, and the ways to choose.

Lab 01 builds these by hand in their simplest form; here stands the version that the rest of the course uses.
"""

import math

import torch

from ftlab.model.decode import one_token_decoder
from ftlab.numbers import check_real, check_whole

WORTH_DECODER = 8  # new tokens from which on preparing a OneTokenDecoder pays


class KVCache:
    """Keys and values of the tokens already read, so that a new token costs one token's work.

    Room for `capacity` tokens is made at once, (B, H, capacity, D) a layer, and filled from the left. Where the model
    has a learned prefix (`ftlab.tune.prefix`), the cache begins with it: `before` such tokens, besides the capacity.
    """

    def __init__(self, model, batch_size, capacity):
        config, like = model.config, next(model.parameters())
        self.capacity, self.before = capacity, prefix_length(model)
        shape = (batch_size, config.num_heads, self.before + capacity, config.head_size)
        self.layers = [_LayerCache(like.new_empty(shape), like.new_empty(shape)) for _ in range(config.num_layers)]
        if self.before:
            with torch.no_grad():
                for layer, pair in zip(self.layers, model.kv_prefix.keys_values(model), strict=True):
                    layer.extend(*pair)

    @property
    def length(self):
        """Number of tokens held."""
        return self.layers[0].length

    def layer(self, index):
        """The cache of one layer; `extend(k, v)` stores new ones and returns all so far."""
        return self.layers[index]

    def select(self, rows):
        """Keep only these rows of the batch (a tensor of indices), in this order: beams fork."""
        for layer in self.layers:
            layer.keys, layer.values = layer.keys[rows], layer.values[rows]

    def leave(self, staying):
        """As `select` for rows that rise: finished texts leave, and what the others hold moves up into their places. That
        moves the filled part of some rows, where `select` copies all of all."""
        moves = [(to, row) for to, row in enumerate(staying.tolist()) if to != row]
        for layer in self.layers:
            for held in (layer.keys, layer.values):
                for to, row in moves:  # upwards only, so nothing is overwritten that is still to move
                    held[to, :, :layer.length] = held[row, :, :layer.length]
            layer.keys, layer.values = layer.keys[:len(staying)], layer.values[:len(staying)]


def prefix_length(model):
    """Virtual tokens that stand before every text of this model: 0 unless a prefix was learned."""
    return model.kv_prefix.length if hasattr(model, "kv_prefix") else 0


class _LayerCache:
    def __init__(self, keys, values):
        self.keys, self.values, self.length = keys, values, 0

    def extend(self, k, v):
        """Store k, v (B, H, T, D) behind what is there; return views of everything stored."""
        end = self.length + k.shape[2]
        self.keys[:, :, self.length:end] = k
        self.values[:, :, self.length:end] = v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]


def filter_logits(logits, temperature=1.0, top_k=None, top_p=None):
    """Logits (..., V) divided by the temperature, those that top-k and top-p drop set to −inf.

    top_k keeps the k likeliest tokens (and ties with the k-th; 0 or None: all). top_p keeps the shortest list of
    likeliest tokens whose probability reaches p (Holtzman et al. 2020); the token that crosses p is kept, so at least
    one always stays. Raises ValueError where a number cannot be meant, and where logits are no numbers or infinite (−inf, a
    token that is left out, is allowed).
    """
    if temperature == 0:
        raise ValueError("temperature must be above 0 here; greedy choice (temperature 0) needs no filter")
    check_choice(temperature, top_k, top_p)
    logits = logits / temperature
    _check_finite(logits.amax(-1), temperature)
    if top_k and top_k < logits.shape[-1]:
        smallest_kept = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < smallest_kept, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        probs = ordered.softmax(-1)
        drop_sorted = probs.cumsum(-1) - probs >= top_p  # what stands before it already reaches p
        drop_sorted[..., 0] = False
        drop = torch.zeros_like(drop_sorted).scatter(-1, order, drop_sorted)
        logits = logits.masked_fill(drop, float("-inf"))
    return logits


def check_choice(temperature, top_k=None, top_p=None):
    """Raise ValueError where a way to choose cannot be meant: temperature at least 0, top_k at least 0, top_p from 0 to 1."""
    check_real("temperature", temperature, least=0)
    if top_k is not None:
        check_whole("top_k", top_k, least=0)
    if top_p is not None:
        check_real("top_p", top_p, least=0, most=1)


def _check_finite(largest, temperature):
    # The largest of a row tells: NaN and +inf come out on top, and −inf only where every token is left out.
    if not largest.isfinite().all():
        raise ValueError("the logits hold NaN or infinity, or leave no token to choose"
                         + (f" (divided by temperature {temperature!r})" if temperature not in (0, 1) else "")
                         + ": the model's weights are damaged or diverged, or the temperature is too near 0")


def choose(logits, temperature=1.0, top_k=None, top_p=None, generator=None):
    """One token id for each row of logits (B, V): the likeliest at temperature 0, else a draw. ValueError: as in
    `filter_logits`."""
    if temperature == 0:
        largest, tokens = logits.max(-1)
        _check_finite(largest, 0)
        return tokens
    probs = filter_logits(logits, temperature, top_k, top_p).softmax(-1)
    # The first to ring of exponential clocks with rates p is a draw from p: the same as multinomial, and faster.
    return (probs / torch.empty_like(probs).exponential_(generator=generator)).argmax(-1)


@torch.inference_mode()
def generate(model, prompts, max_new_tokens, temperature=1.0, top_k=None, top_p=None, eos_id=None, seed=None,
             use_cache=True, on_token=None):
    """Continue each prompt (a list of ids, not empty) by up to `max_new_tokens` tokens; returns the new ids of each.

    temperature 0 is greedy. A text ends at `eos_id`, which is not returned. `seed`: an int or a torch.Generator.
    `on_token(count)` is told of progress. Prompts of different lengths are padded on the left and masked.
    """
    if not len(prompts) or not all(len(prompt) for prompt in prompts):
        raise ValueError("generate needs at least one prompt, and each must hold at least one token (the start token)")
    check_whole("max_new_tokens", max_new_tokens, least=0)
    check_choice(temperature, top_k, top_p)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed) if isinstance(seed, int) else seed
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)  # (B, T)
    _check_ids(model, ids)
    padding = torch.tensor([longest - len(p) for p in prompts], device=device)
    padded = bool(padding.any())
    cache = KVCache(model, len(prompts), longest + max_new_tokens) if use_cache else None
    before = cache.before if use_cache else 0
    decode = one_token_decoder(model) if use_cache and max_new_tokens >= WORTH_DECODER else None
    alive = torch.arange(len(prompts), device=device)
    results = [[] for _ in prompts]
    step_ids, was_training = ids, model.training
    model.eval()
    try:
        for count in range(max_new_tokens):
            mask, positions = _left_padding(padding, ids.shape[1], step_ids.shape[1], before) if padded else (None, None)
            if decode and count:  # the same, quicker
                logits = decode(step_ids[:, 0], cache, None if positions is None else positions[:, 0], mask)
            else:
                logits = model.lm_head(model.hidden(step_ids, positions, cache=cache, mask=mask)[:, -1])  # (B, V)
            tokens = choose(logits, temperature, top_k, top_p, generator)  # (B,)
            for row, token in zip(alive.tolist(), tokens.tolist()):
                results[row].append(token)
            if eos_id is not None:
                going = (tokens != eos_id).nonzero()[:, 0]
                if len(going) < len(tokens):
                    if not len(going):
                        break
                    alive, ids, tokens, padding = alive[going], ids[going], tokens[going], padding[going]
                    if cache is not None:
                        cache.leave(going)
            ids = torch.cat([ids, tokens[:, None]], dim=1)
            step_ids = tokens[:, None] if use_cache else ids
            if on_token is not None:
                on_token(count + 1)
    finally:
        model.train(was_training)
    return [row[:-1] if eos_id is not None and row and row[-1] == eos_id else row for row in results]


def _check_ids(model, ids):
    if ids.numel() and not (0 <= ids.min() and ids.max() < model.config.vocab_size):
        raise ValueError(f"the prompt holds the ids {ids.min().item()} to {ids.max().item()}, the model knows 0 to "
                         f"{model.config.vocab_size - 1}: it was made by another tokenizer")


def _left_padding(padding, length, new, before=0):
    """Mask (B, 1, new, before + length) and positions (B, new) when row b begins with padding[b] empty places, behind
    `before` tokens of a prefix, which every token sees."""
    columns = torch.arange(length, device=padding.device)
    rows = columns[length - new:]
    mask = (columns >= padding[:, None])[:, None]  # (B, 1, length)
    if new > 1:
        mask = mask & (columns <= rows[:, None])
        mask = mask | (columns == rows[:, None])  # an empty place sees itself: no row is all masked
    if before:
        mask = torch.cat([mask.new_ones(*mask.shape[:2], before), mask], dim=-1)
    return mask.unsqueeze(1), (rows[None, :] - padding[:, None]).clamp(min=0) + before


@torch.inference_mode()
def beam_search(model, prompt, max_new_tokens, num_beams=4, eos_id=None, length_penalty=1.0):
    """The likeliest continuation that a search with `num_beams` beams finds: (new ids, sum of log-probabilities).

    Finished beams are compared by sum / length**length_penalty, as Hugging Face does; the end token counts.
    """
    check_whole("max_new_tokens", max_new_tokens)
    check_whole("num_beams", num_beams)
    check_real("length_penalty", length_penalty)
    if not len(prompt):
        raise ValueError("beam_search needs a prompt of at least one token (the start token)")
    device = next(model.parameters()).device
    ids = torch.tensor([list(prompt)] * num_beams, device=device)
    _check_ids(model, ids)
    cache = KVCache(model, num_beams, len(prompt) + max_new_tokens)
    scores = torch.full((num_beams,), float("-inf"), device=device)
    scores[0] = 0.0  # all beams begin alike; only one may count, or they stay copies
    new, finished, step_ids = [[] for _ in range(num_beams)], [], ids
    for count in range(1, max_new_tokens + 1):
        logp = model.lm_head(model.hidden(step_ids, cache=cache)[:, -1]).log_softmax(-1)  # (beams, V)
        best, where = (scores[:, None] + logp).flatten().topk(2 * num_beams)
        best, kept = best.tolist(), []
        if not math.isfinite(best[0]):  # NaN comes out on top
            raise ValueError("the logits hold NaN or infinity: the model's weights are damaged or diverged")
        for rank, (score, index) in enumerate(zip(best, where.tolist())):
            beam, token = divmod(index, logp.shape[1])
            if token == eos_id:
                # An end that ranks behind the beams' own number would never have been a beam.
                if rank < num_beams:
                    finished.append((score / count ** length_penalty, new[beam], score))
            elif len(kept) < num_beams:
                kept.append((score, beam, token))
        scores = torch.tensor([score for score, _, _ in kept], device=device)
        new = [new[beam] + [token] for _, beam, token in kept]
        finished = sorted(finished, key=lambda item: -item[0])[:num_beams]
        if len(finished) == num_beams and finished[-1][0] >= scores.max().item() / count ** length_penalty:
            break
        cache.select(torch.tensor([beam for _, beam, _ in kept], device=device))
        step_ids = torch.tensor([[token] for _, _, token in kept], device=device)
    finished += [(score / max_new_tokens ** length_penalty, row, score) for score, row in zip(scores.tolist(), new)
                 if len(row) == max_new_tokens]
    _, row, score = max(finished, key=lambda item: item[0])
    return row, score


@torch.no_grad()
def sequence_logprobs(model, rows, prompt_lengths=None, pad_id=0):
    """Sum of log p(token | tokens before) of each row of ids, from its prompt's end on (by default from token 1).

    In nats, (B,). Padded on the right; a causal model does not see the padding. Raises ValueError where a row is empty or
    the model gives no numbers.
    """
    if not len(rows) or not all(len(row) for row in rows):
        raise ValueError("sequence_logprobs needs at least one row, and each must hold at least one token")
    device = next(model.parameters()).device
    longest = max(map(len, rows))
    ids = torch.tensor([list(row) + [pad_id] * (longest - len(row)) for row in rows], device=device)
    _check_ids(model, ids)
    starts = torch.tensor([1] * len(rows) if prompt_lengths is None else prompt_lengths, device=device)
    ends = torch.tensor([len(row) for row in rows], device=device)
    logp = model(ids)[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]  # (B, T − 1): of tokens 1 …
    places = torch.arange(1, longest, device=device)
    wanted = (places >= starts[:, None]) & (places < ends[:, None])
    sums = logp.where(wanted, 0.0).sum(1)
    if sums.isnan().any():
        raise ValueError("the model's log-probabilities hold NaN: its weights are damaged or diverged")
    return sums
