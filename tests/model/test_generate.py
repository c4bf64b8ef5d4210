"""Generation against Hugging Face and against slow versions that cannot be wrong."""

import itertools
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.model import beam_search, choose, filter_logits, generate, sequence_logprobs, to_hf
from ftlab.model.generate import KVCache

NEG = float("-inf")


def prompts_of(count, seed=0, longest=12, vocab=60):
    rng = random.Random(seed)
    return [[rng.randrange(4, vocab) for _ in range(rng.randrange(1, longest + 1))] for _ in range(count)]


def hf_generate(theirs, prompt, **settings):
    """New ids that `model.generate` writes after one prompt, without end and padding."""
    ids = torch.tensor([prompt])
    out = theirs.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **settings)[0, len(prompt):].tolist()
    end = settings.get("eos_token_id")
    return out[:out.index(end)] if end in out else out


@pytest.mark.parametrize("seed", range(4))
def test_greedy_equals_hugging_face(random_model, seed):
    changes = [{}, {"num_layers": 3, "num_heads": 2}, {"tie_word_embeddings": False}, {"hidden_size": 48}][seed]
    model = random_model(seed, **changes)
    theirs = to_hf(model)
    prompts = prompts_of(4, seed)
    expected = [hf_generate(theirs, p, max_new_tokens=20, do_sample=False, eos_token_id=None) for p in prompts]
    assert generate(model, prompts, 20, temperature=0) == expected
    # An end token that comes up on the way ends a text, and that one only.
    end = expected[0][10]
    ended = [hf_generate(theirs, p, max_new_tokens=20, do_sample=False, eos_token_id=end) for p in prompts]
    assert generate(model, prompts, 20, temperature=0, eos_id=end) == ended
    assert any(len(row) < 20 for row in ended)


@pytest.mark.parametrize("stay", [[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 1],
                                  [1, 1, 1, 0, 0, 0], [0, 1, 0, 0, 1, 0]])
@pytest.mark.parametrize("length", [1, 5, 7])
def test_finished_texts_leave_the_cache_as_a_selection_does(random_model, stay, length):
    model, staying = random_model(0), torch.tensor(stay).nonzero()[:, 0]
    left, selected = caches = [KVCache(model, 6, 8) for _ in range(2)]
    for cache in caches:
        torch.manual_seed(0)
        for layer in cache.layers:
            layer.extend(*torch.randn(2, 6, *layer.keys.shape[1:2], length, layer.keys.shape[-1]))
    left.leave(staying)
    selected.select(staying)
    k, v = torch.randn(2, len(staying), *left.layers[0].keys.shape[1:2], 1, left.layers[0].keys.shape[-1])
    for one, other in zip(left.layers, selected.layers, strict=True):
        for held, wanted in zip(one.extend(k, v), other.extend(k, v), strict=True):
            assert torch.equal(held, wanted)


def test_batch_cache_and_padding_change_nothing(random_model):
    for seed in range(2):
        model = random_model(seed)
        prompts = prompts_of(4, seed)
        end = generate(model, prompts[:1], 12, temperature=0)[0][6]
        together = generate(model, prompts, 20, temperature=0, eos_id=end)
        for use_cache in (True, False):
            alone = [generate(model, [p], 20, temperature=0, eos_id=end, use_cache=use_cache)[0] for p in prompts]
            assert together == alone
        assert together == generate(model, prompts, 20, temperature=0, eos_id=end, use_cache=False)


def test_padding_changes_no_draw_of_the_distribution(random_model):
    """Left padding: the first token's distribution in a mixed batch is that of the prompt by itself."""
    model = random_model()
    prompts = [[5], [7, 8, 9, 10, 11, 12, 13]]
    draws = 3000
    both = generate(model, [prompts[0]] * draws + [prompts[1]], 1, seed=0)
    with torch.no_grad():
        probs = model(torch.tensor([[5]]))[0, -1].softmax(-1)
    check_draws([row[0] for row in both[:draws]], probs)


def check_draws(tokens, probs):
    """Pearson's chi-square of draws against probabilities; rare outcomes pooled, 6 standard deviations allowed."""
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probs)).double()
    expected = probs.double() * len(tokens)
    assert (counts[expected == 0] == 0).all(), "a token of probability 0 was drawn"
    often = expected >= 5
    counts = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    counts, expected = counts[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    assert freedom >= 1, "a test of one outcome tests nothing"
    chi = ((counts - expected) ** 2 / expected).sum().item()
    assert abs(chi - freedom) < 6 * (2 * freedom) ** 0.5, (chi, freedom)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5}, {"temperature": 1.7}, {"top_k": 7}, {"top_p": 0.8},
                                      {"temperature": 1.3, "top_k": 20, "top_p": 0.7}])  # fmt: skip
def test_draws_follow_the_distribution(settings):
    logits = 2 * torch.randn(40, generator=torch.Generator().manual_seed(3))
    probs = slow_filter(logits, **settings).softmax(-1)
    draws = choose(logits.expand(20_000, -1), generator=torch.Generator().manual_seed(4), **settings)
    check_draws(draws.tolist(), probs)


def test_two_tokens_in_a_row_follow_the_model(random_model):
    model = random_model(vocab_size=8)
    out = generate(model, [[5, 6]] * 4000, 2, temperature=1.2, seed=1)
    with torch.no_grad():
        first = (model(torch.tensor([[5, 6]]))[0, -1] / 1.2).softmax(-1)
        second = (model(torch.tensor([[5, 6, t] for t in range(8)]))[:, -1] / 1.2).softmax(-1)
    check_draws([8 * a + b for a, b in out], (first[:, None] * second).flatten())


def test_a_seed_fixes_the_draws(random_model):
    model, prompts = random_model(), prompts_of(3)
    one = generate(model, prompts, 15, seed=7)
    assert one == generate(model, prompts, 15, seed=7) == generate(model, prompts, 15, seed=7, use_cache=False)
    assert one == generate(model, prompts, 15, seed=torch.Generator().manual_seed(7))
    assert one != generate(model, prompts, 15, seed=8)


def test_generate_leaves_the_model_as_it_was(random_model):
    model = random_model().train()
    generate(model, [[5]], 3, seed=0)
    assert model.training and all(p.requires_grad for p in model.parameters())
    counts = []
    generate(model.eval(), [[5]], 3, seed=0, on_token=counts.append)
    assert counts == [1, 2, 3] and not model.training


def test_empty_prompts_and_lengths(random_model):
    model = random_model()
    assert generate(model, [[5]], 0) == [[]]
    for bad in ([], [[]], [[4], []]):
        with pytest.raises(ValueError, match="at least one"):
            generate(model, bad, 3)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        generate(model, [[5] * 60], 10)


def slow_filter(logits, temperature=1.0, top_k=None, top_p=None):
    """The definition, one token at a time, for distinct logits (V,)."""
    values = [value / temperature for value in logits.tolist()]
    order = sorted(range(len(values)), key=lambda i: -values[i])
    if top_k:
        order = order[:top_k]
    if top_p is not None:
        probs = torch.tensor([values[i] for i in order], dtype=torch.double).softmax(-1).tolist()
        total, kept = 0.0, []
        for i, p in zip(order, probs, strict=True):
            kept.append(i)
            total += p
            if total >= top_p:
                break
        order = kept
    return torch.tensor([values[i] if i in order else NEG for i in range(len(values))])


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.2, 3), st.none() | st.integers(1, 14),
       st.none() | st.floats(0.01, 0.999))  # fmt: skip
def test_filter_against_the_slow_version(seed, vocab, temperature, top_k, top_p):
    logits = 3 * torch.randn(vocab, generator=torch.Generator().manual_seed(seed))
    got = filter_logits(logits, temperature, top_k, top_p)
    torch.testing.assert_close(got, slow_filter(logits, temperature, top_k, top_p))
    # Rows are filtered one by one, and the input stays as it was.
    stacked = filter_logits(torch.stack([logits.flip(0), logits]), temperature, top_k, top_p)
    assert torch.equal(stacked[1], got)


def test_filter_edges():
    logits = torch.tensor([1.0, 3.0, 2.0, 0.0])
    for unfiltered in ({}, {"top_k": 0}, {"top_k": 4}, {"top_k": 99}, {"top_p": 1.0}):
        assert torch.equal(filter_logits(logits, **unfiltered), logits)
    for only_best in ({"top_k": 1}, {"top_p": 1e-9}, {"top_p": 0.0}):
        assert filter_logits(logits, **only_best).tolist() == [NEG, 3.0, NEG, NEG]
    with pytest.raises(ValueError, match="temperature"):
        filter_logits(logits, temperature=0)
    # Probabilities 0.5, 0.25, 0.25 of exact floats: 0.5 reaches 0.5, so one is enough.
    assert torch.isfinite(filter_logits(torch.tensor([0.5, 0.25, 0.25]).log(), top_p=0.5)).sum() == 1


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("top_k", [None, 1, 5, 50])
@pytest.mark.parametrize("top_p", [None, 0.3, 0.9])
def test_filter_against_their_warpers(temperature, top_k, top_p):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = 3 * torch.randn(8, 60, generator=torch.Generator().manual_seed(0))
    expected = TemperatureLogitsWarper(temperature)(None, logits) if temperature != 1 else logits
    expected = TopKLogitsWarper(top_k)(None, expected) if top_k else expected
    expected = TopPLogitsWarper(top_p)(None, expected) if top_p else expected
    torch.testing.assert_close(filter_logits(logits, temperature, top_k, top_p), expected)


@pytest.mark.parametrize("num_beams, length_penalty", [(1, 1.0), (2, 1.0), (4, 1.0), (5, 0.4), (3, 2.0)])
def test_beam_search_equals_hugging_face(random_model, num_beams, length_penalty):
    lengths = []
    for seed, prompt in enumerate(prompts_of(9, num_beams, vocab=20)):
        model = random_model(seed % 3, vocab_size=20, tie_word_embeddings=False)
        end = generate(model, [prompt], 5, temperature=0)[0][seed % 5]  # a token that does come up
        ours, score = beam_search(model, prompt, 10, num_beams, eos_id=end, length_penalty=length_penalty)
        more = {"length_penalty": length_penalty, "early_stopping": False} if num_beams > 1 else {}
        theirs = hf_generate(to_hf(model), prompt, max_new_tokens=10, do_sample=False, num_beams=num_beams,
                             eos_token_id=end, **more)
        assert ours == theirs, seed
        lengths.append(len(ours))
        whole = prompt + ours + [end] * (len(ours) < 10)
        assert score == pytest.approx(sequence_logprobs(model, [whole], [len(prompt)]).item(), abs=1e-4)
    assert min(lengths) < 10 and len(set(lengths)) > 1, "too few ways to end were tried"


def test_one_beam_is_greedy_and_many_are_exhaustive(random_model):
    model = random_model(5, vocab_size=6)
    prompt = [4, 5]
    assert beam_search(model, prompt, 6, num_beams=1)[0] == generate(model, [prompt], 6, temperature=0)[0]
    every = [list(row) for row in itertools.product(range(6), repeat=3)]
    scores = sequence_logprobs(model, [prompt + row for row in every], [2] * len(every))
    best, score = beam_search(model, prompt, 3, num_beams=36)
    assert best == every[scores.argmax()] and score == pytest.approx(scores.max().item(), abs=1e-4)


def test_sequence_logprobs_by_definition(random_model):
    model = random_model()
    rows, starts = prompts_of(6, 3, longest=14), None
    rows = [row + [9, 8] for row in rows]
    for starts in (None, [2] * 6, [1 + i % 2 for i in range(6)]):
        got = sequence_logprobs(model, rows, starts)
        for i, row in enumerate(rows):
            with torch.no_grad():
                logp = model(torch.tensor([row]))[0].log_softmax(-1)
            first = starts[i] if starts else 1
            expected = sum(logp[t - 1, row[t]].item() for t in range(first, len(row)))
            assert got[i].item() == pytest.approx(expected, abs=1e-4)
