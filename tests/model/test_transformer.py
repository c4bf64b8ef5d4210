"""What the model computes: who sees whom, the loss, packing, and gradients by finite differences."""

import pytest
import torch

from ftlab.model import KVCache, ModelConfig, Transformer, sequence_logprobs
from ftlab.text.batching import IGNORE, Batch, PackedBatches, collate


def ids_of(shape, seed=0, vocab=60):
    return torch.randint(4, vocab, shape, generator=torch.Generator().manual_seed(seed))


def changed_positions(model, ids, place):
    """Which positions' logits move when the token at `place` is another one."""
    other = ids.clone()
    other[0, place] = 4 + (ids[0, place] - 4 + 1) % 56
    with torch.no_grad():
        difference = (model(ids) - model(other)).abs().amax(-1)[0]
    return [t for t, d in enumerate(difference.tolist()) if d > 0]


def test_a_causal_model_does_not_see_the_future(random_model):
    model, ids = random_model(), ids_of((1, 12))
    for place in range(12):
        assert changed_positions(model, ids, place) == list(range(place, 12))


def test_a_bidirectional_model_sees_both_sides(random_model):
    model, ids = random_model(causal=False), ids_of((1, 12))
    for place in (0, 5, 11):
        assert changed_positions(model, ids, place) == list(range(12))


def test_rotary_positions_are_relative(random_model):
    model, ids = random_model(), ids_of((1, 10))
    with torch.no_grad():
        here = model(ids, positions=torch.arange(10)[None])
        there = model(ids, positions=torch.arange(10)[None] + 17)
    torch.testing.assert_close(here, there, atol=1e-4, rtol=0)
    assert torch.equal(here, model(ids).detach()) or (here - model(ids)).abs().max() < 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_packed_rows_have_the_logits_of_separate_rows(random_model, causal):
    model = random_model(causal=causal)
    rows = [ids_of((n,), seed=n).tolist() for n in (3, 5, 6, 9, 12, 12, 14)]
    batches = PackedBatches(rows, 20, 2, seed=1)
    for step in range(batches.steps_per_epoch):
        batch = batches(step)
        with torch.no_grad():
            logits = model(batch.input_ids, batch.positions, batch.segments)
        assert torch.isfinite(logits).all()
        for row in range(len(logits)):
            for n in range(int(batch.segments[row].max()) + 1):
                own = batch.segments[row] == n
                with torch.no_grad():
                    alone = model(batch.input_ids[row][own][None])[0]
                torch.testing.assert_close(logits[row][own], alone, atol=1e-5, rtol=0)


def test_packed_documents_do_not_leak(random_model):
    model = random_model()
    batch = PackedBatches([ids_of((n,), seed=n).tolist() for n in (6, 7, 7)], 20, 1)(0)
    assert batch.segments.max() == 2
    with torch.no_grad():
        before = model(batch.input_ids, batch.positions, batch.segments)
        for n in range(3):
            other, own = batch.input_ids.clone(), batch.segments == n
            other[own] = ids_of((int(own.sum()),), seed=99)
            after = model(other, batch.positions, batch.segments)
            assert torch.equal(before[~own], after[~own])
            assert not torch.equal(before[own], after[own])


def test_packed_loss_is_the_loss_of_the_rows(random_model):
    model = random_model()
    rows = [ids_of((n,), seed=n).tolist() for n in (3, 5, 6, 9, 12)]
    packed = PackedBatches(rows, 40, 5)(0)
    padded = collate(rows, 0)
    assert packed.num_tokens() == padded.num_tokens() == sum(len(row) - 1 for row in rows)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(packed), model.loss(padded))


def test_loss_by_definition(random_model):
    model = random_model()
    rows = [ids_of((n,), seed=n).tolist() for n in (3, 8)]
    with torch.no_grad():
        total, count = 0.0, 0
        for row in rows:
            logp = model(torch.tensor([row])).log_softmax(-1)[0]
            total -= sum(logp[t - 1, row[t]].item() for t in range(1, len(row)))
            count += len(row) - 1
        assert model.loss(collate(rows, 0)).item() == pytest.approx(total / count, rel=1e-5)
        # Sums of log-probabilities are the same numbers, seen the other way round.
        assert sequence_logprobs(model, rows).sum().item() == pytest.approx(-total, rel=1e-5)


def test_masked_loss_scores_the_token_itself(random_model):
    model = random_model(causal=False)
    ids = ids_of((1, 6))
    labels = torch.full((1, 6), IGNORE)
    labels[0, 2] = 17
    with torch.no_grad():
        expected = -model(ids).log_softmax(-1)[0, 2, 17]
        torch.testing.assert_close(model.loss(Batch(ids, labels)), expected)


def test_attention_maps_are_those_of_the_forward_pass(random_model):
    ids = ids_of((2, 9))
    for causal in (True, False):
        model = random_model(causal=causal)
        maps = model.attention_maps(ids)
        assert len(maps) == 2 and maps[0].shape == (2, 4, 9, 9)
        for weights in maps:
            torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 9))
            assert bool((weights.triu(1) == 0).all()) is causal
        # The last layer's output built from its map is the model's own.
        with torch.no_grad():
            layer, x = model.layers[-1], model.embed_tokens(ids)
            for before in model.layers[:-1]:
                x = before(x, model.cos[:9], model.sin[:9], None, causal)
            values = layer.self_attn.split(layer.self_attn.v_proj(layer.input_layernorm(x)))
            x = x + layer.self_attn.o_proj((maps[-1] @ values).transpose(1, 2).flatten(2))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            torch.testing.assert_close(model.norm(x), model.hidden(ids), atol=1e-5, rtol=1e-5)


def test_a_cache_changes_nothing(random_model):
    model, ids = random_model(), ids_of((3, 20))
    with torch.no_grad():
        whole = model(ids)
        for cuts in ([1] * 20, [5, 1, 1, 13], [20], [7, 7, 6]):
            cache, parts, at = KVCache(model, 3, 20), [], 0
            for length in cuts:
                parts.append(model(ids[:, at:at + length], cache=cache))
                at += length
            torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)


def test_too_long(random_model):
    with pytest.raises(ValueError, match="65 tokens.*64"):
        random_model()(ids_of((1, 65)))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_by_finite_differences(causal, tied):
    torch.manual_seed(0)
    model = Transformer(ModelConfig(vocab_size=11, hidden_size=8, num_layers=2, num_heads=2, intermediate_size=6,
                                    max_position_embeddings=8, causal=causal, tie_word_embeddings=tied)).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=1.0 if p.ndim == 1 else 0.0, std=0.4)
    ids = ids_of((2, 5), vocab=11)
    labels = ids.clone()
    labels[1, 3:] = IGNORE
    batch = Batch(ids, labels)
    model.loss(batch).backward()
    step, generator = 1e-5, torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        # A random direction in each parameter sees every entry of its gradient.
        direction = torch.randn(p.shape, generator=generator, dtype=torch.double)
        with torch.no_grad():
            p.add_(direction, alpha=step)
            up = model.loss(batch)
            p.add_(direction, alpha=-2 * step)
            down = model.loss(batch)
            p.add_(direction, alpha=step)
        slope = ((up - down) / (2 * step)).item()
        assert (p.grad * direction).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-9), name


def test_number_of_parameters():
    model = Transformer(ModelConfig(vocab_size=512))
    block = 4 * 128 * 128 + 3 * 128 * 344 + 2 * 128
    assert model.num_parameters() == 512 * 128 + 2 * block + 128
    model.embed_tokens.weight.requires_grad_(False)
    assert model.num_parameters(trainable=True) == 2 * block + 128
