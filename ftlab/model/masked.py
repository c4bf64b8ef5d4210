"""Writing from left to right with a masked model, which sees both sides: the BERT contrast of Lab 01.

There is no cache here: a new token changes what every earlier place sees, so every key and value changes with it.
Left out: filling in other orders (Ghazvininejad et al. 2019), Gibbs sampling (Wang and Cho 2019).
"""

import torch

from ftlab.errors import UsageError
from ftlab.model.generate import choose
from ftlab.text.batching import pad


@torch.inference_mode()
def generate_masked(model, prompts, lengths, mask_id, end_id, window=None, end_shown=False, temperature=1.0,
                    top_k=None, top_p=None, seed=None):
    """Fill each text from left to right; returns the new ids of each prompt (a list of ids), without the end token.

    lengths: number of tokens of each whole text, prompt and end token counted: a masked model must be told.
    At each step the model sees the text so far and behind it `window` masks (None: one for every place still to come);
    the first of them is filled. end_shown: the end token stands behind the masks from the start, as a model trained on
    15 % masks always saw it; otherwise its place is a mask too, and a text ends early where the model writes it.
    seed: an int or a torch.Generator. Raises UsageError for a causal model or a prompt that leaves nothing to write.
    """
    if model.config.causal:
        raise UsageError("generate_masked needs a model with causal=False; for a causal one there is generate")
    if not prompts or any(not 0 < len(prompt) < length for prompt, length in zip(prompts, lengths, strict=True)):
        raise UsageError("each prompt needs at least one token, and its length must leave room for more")
    device, was_training = next(model.parameters()).device, model.training
    generator = torch.Generator(device).manual_seed(seed) if isinstance(seed, int) else seed
    ids = pad(prompts, mask_id, max(lengths)).to(device)  # (B, T)
    filled = torch.tensor([len(prompt) for prompt in prompts], device=device)  # (B,)
    limit = torch.tensor(lengths, device=device) - int(end_shown)  # places that are to be filled end here
    alive = (filled < limit).nonzero()[:, 0]
    model.eval()
    while len(alive):
        n = filled[alive]
        logits = _logits_at_gap(model, ids[alive], n, limit[alive], mask_id, end_id, window, end_shown)
        tokens = choose(logits, temperature, top_k, top_p, generator)  # (rows,)
        ids[alive, n] = tokens
        filled[alive] = n + (tokens != end_id)
        alive = alive[(tokens != end_id) & (n + 1 < limit[alive])]
    model.train(was_training)
    return [row[len(prompt):end] for row, prompt, end in zip(ids.tolist(), prompts, filled.tolist())]


def _logits_at_gap(model, ids, n, limit, mask_id, end_id, window, end_shown):
    """Logits (rows, V) at place n of each row, which together with what follows is masked."""
    masks = limit - n if window is None else (limit - n).clamp(max=window)
    shown = n + masks  # (rows,): the text and its masks
    places = torch.arange(int(shown.max()) + int(end_shown), device=ids.device)
    canvas = torch.full((len(ids), len(places)), mask_id, device=ids.device)
    width = min(len(places), ids.shape[1])
    canvas[:, :width] = torch.where(places[:width] < n[:, None], ids[:, :width], mask_id)
    if end_shown:
        canvas[places == shown[:, None]] = end_id
    seen = places < (shown + int(end_shown))[:, None]  # rows differ in length: what lies behind the end is not seen
    hidden = model.hidden(canvas, mask=None if seen.all() else seen[:, None, None, :])
    return model.lm_head(hidden[torch.arange(len(ids), device=ids.device), n])
