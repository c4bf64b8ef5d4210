"""Asking a model: prompts under a template in, answers out, for our models and those of `transformers`."""

import torch

from ftlab import profile
from ftlab.errors import UsageError
from ftlab.model.generate import check_choice, generate, prefix_length
from ftlab.model.transformer import Transformer
from ftlab.numbers import check_whole
from ftlab.text.examples import Example
from ftlab.text.rows import prompt_rows
from ftlab.text.template import ALPACA_END


def ask(model, tokenizer, asked, template="alpaca", max_new_tokens=160, temperature=0.0, batch_size=100, seed=0,
        progress=None):
    """The answers (strings) of a model to `asked`: strings, tasks of the world or Examples.

    Greedy at temperature 0. An answer ends at the model's end token or at the mark "### End", which is not part of it.
    Prompts of like length are answered together; progress(done, all) is called after each batch.
    """
    check_choice(temperature)
    check_whole("max_new_tokens", max_new_tokens)
    check_whole("batch_size", batch_size)
    examples = [Example(item) if isinstance(item, str) else item if isinstance(item, Example) else
                Example(item.instruction, input=item.input) for item in asked]
    prompts = prompt_rows(examples, tokenizer, template)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers = [None] * len(prompts)
    write = _ours if isinstance(model, Transformer) else _theirs
    for first in range(0, len(order), batch_size):
        chosen = order[first:first + batch_size]
        rows = write(model, tokenizer, [prompts[i] for i in chosen], max_new_tokens, temperature, seed + first)
        for i, text in zip(chosen, rows, strict=True):
            answers[i] = text.split(ALPACA_END)[0].strip()
        if progress is not None:
            progress(min(first + batch_size, len(order)), len(order))
    return answers


def _ours(model, tokenizer, prompts, max_new_tokens, temperature, seed):
    longest = max(map(len, prompts))
    room = model.config.max_position_embeddings - longest - prefix_length(model)
    if room < 1:
        raise UsageError(f"a prompt of {longest:,} tokens leaves the model no room to answer (it takes "
                         f"{model.config.max_position_embeddings:,}): ask something shorter")
    rows = generate(model, prompts, min(max_new_tokens, room), temperature, eos_id=tokenizer.eos_id, seed=seed)
    return [tokenizer.decode(row) for row in rows]


def _finite_scores(ids, scores):
    """A logits processor of transformers that changes nothing, and stops where a model gives no numbers: from NaN its greedy
    choice would write the first token of the vocabulary."""
    if not scores.amax(-1).isfinite().all():
        raise ValueError("the logits hold NaN or infinity: the model's weights are damaged or diverged")
    return scores


@torch.inference_mode()
def _theirs(model, tokenizer, prompts, max_new_tokens, temperature, seed):
    device, longest = next(model.parameters()).device, max(map(len, prompts))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + list(p) for p in prompts], device=device)  # (B, T)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    torch.manual_seed(seed)
    choice = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    with profile.autocast(device.type):
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, pad_token_id=pad,
                             eos_token_id=tokenizer.eos_token_id, logits_processor=[_finite_scores], **choice)
    return tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
