"""Left-to-right writing with a masked model."""

import pytest
import torch

from ftlab.errors import UsageError
from ftlab.model import ModelConfig, Transformer
from ftlab.model.masked import generate_masked

MASK, END = 3, 2


def make(causal=False):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(31, 32, 2, 2, 64, causal=causal, tie_word_embeddings=False))
    for weight in model.parameters():
        weight.data *= 8 if weight.dim() > 1 else 1
    model.lm_head.weight.data[:4] = -model.norm.weight.data  # specials are hardly ever chosen
    return model


def plain(model, prompt, length, window, end_shown):
    """The same, greedily, one text at a time."""
    ids, limit = list(prompt), length - end_shown
    while len(ids) < limit:
        masks = limit - len(ids) if window is None else min(window, limit - len(ids))
        shown = ids + [MASK] * masks + [END] * end_shown
        token = int(model(torch.tensor([shown]))[0, len(ids)].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt):]


@pytest.mark.parametrize("end_shown", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3])
def test_a_batch_of_different_lengths_equals_one_text_at_a_time(window, end_shown):
    model = make()
    prompts, lengths = [[1], [1, 9, 8], [1, 7]], [9, 12, 4]
    got = generate_masked(model, prompts, lengths, MASK, END, window, end_shown, temperature=0)
    assert got == [plain(model, *pair, window, end_shown) for pair in zip(prompts, lengths)]
    assert len({token for row in got for token in row}) > 2


def test_a_text_ends_where_the_end_token_is_written():
    model = make()
    whole = generate_masked(model, [[1]], [10], MASK, END, temperature=0)[0]
    short = generate_masked(model, [[1]], [10], MASK, end_id=whole[3], temperature=0)[0]
    assert short == whole[:whole.index(whole[3])]


def test_the_same_seed_gives_the_same_text():
    model = make()
    texts = [generate_masked(model, [[1]] * 3, [20] * 3, MASK, END, seed=seed) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


def test_what_cannot_be_written_is_said_in_one_line():
    with pytest.raises(UsageError, match="causal=False"):
        generate_masked(make(causal=True), [[1]], [5], MASK, END)
    with pytest.raises(UsageError, match="room"):
        generate_masked(make(), [[1, 5]], [2], MASK, END)
