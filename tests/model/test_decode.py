"""The quick decoder for one token gives the logits of the readable model, or stands aside."""

import pytest
import torch
from torch import nn

from ftlab.model import KVCache
from ftlab.model.decode import one_token_decoder


@pytest.mark.parametrize("changes", [{}, {"num_layers": 3, "num_heads": 2}, {"tie_word_embeddings": False}])
@pytest.mark.parametrize("padded", [False, True])
def test_logits_are_those_of_the_model(random_model, changes, padded):
    model = random_model(1, **changes)
    for module in model.modules():
        if type(module).__name__ == "RMSNorm":
            nn.init.uniform_(module.weight, 0.5, 2.0)
    ids = torch.randint(4, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    empty = torch.tensor([0, 2, 3]) if padded else torch.zeros(3, dtype=torch.long)
    plain, quick = KVCache(model, 3, 9), KVCache(model, 3, 9)
    decode = one_token_decoder(model)
    with torch.inference_mode():
        for t in range(9):
            positions = (t - empty).clamp(min=0)
            columns = torch.arange(t + 1)
            mask = ((columns >= empty[:, None]) | (columns == t))[:, None, None]  # (B, 1, 1, t + 1)
            given = (positions[:, None], mask) if padded else (None, None)
            want = model(ids[:, t:t + 1], given[0], cache=plain, mask=given[1])[:, -1]
            got = decode(ids[:, t], quick, positions if padded else None, given[1])
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_it_stands_aside_where_it_would_not_be_the_same(random_model):
    model = random_model(0)
    assert one_token_decoder(model) is not None
    handle = model.layers[0].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    assert one_token_decoder(model) is None
    handle.remove()
    model.layers[0].mlp.up_proj = nn.Sequential(model.layers[0].mlp.up_proj)  # as a LoRA layer would replace it
    assert one_token_decoder(model) is None
