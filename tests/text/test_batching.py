"""Every row once an epoch, labels beside their tokens, no loss on padding, nothing but the step decides."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.text.batching import (
    IGNORE,
    Batch,
    ChunkBatches,
    MaskedBatches,
    PackedBatches,
    RowBatches,
    collate,
    mask_suffix,  # fmt: skip
    mask_tokens,
    pack,
    response_labels,
)


def make_rows(count, seed=0, longest=20, vocab=50):
    rng = random.Random(seed)
    return [[1] + [rng.randrange(4, vocab) for _ in range(rng.randrange(1, longest))] + [2] for _ in range(count)]


def rows_of(batch):
    """The rows of a padded batch without their padding (0, which `make_rows` never draws)."""
    return [tuple(i for i in row if i) for row in batch.input_ids.tolist()]


row_lists = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(row_lists, st.integers(12, 60), st.integers(0, 5))
def test_every_row_once_an_epoch(rows, budget, seed):
    batches = RowBatches(rows, budget, seed)
    for epoch in range(2):
        seen = []
        for step in range(batches.steps_per_epoch):
            batch = batches(epoch * batches.steps_per_epoch + step)
            assert batch.input_ids.numel() <= budget
            seen += rows_of(batch)
        assert sorted(seen) == sorted(map(tuple, rows))


@settings(max_examples=60, deadline=None)
@given(row_lists, st.integers(12, 30), st.integers(1, 4), st.integers(0, 5))
def test_packed_every_row_once_an_epoch(rows, seq_len, batch_size, seed):
    batches = PackedBatches(rows, seq_len, batch_size, seed)
    for epoch in range(2):
        seen = []
        for step in range(batches.steps_per_epoch):
            batch = batches(epoch * batches.steps_per_epoch + step)
            assert batch.input_ids.shape[1] == seq_len and 1 <= len(batch.input_ids) <= batch_size
            for ids, segments in zip(batch.input_ids, batch.segments, strict=True):
                seen += [tuple(ids[segments == n].tolist()) for n in range(int(segments.max()) + 1)]
        assert sorted(seen) == sorted(map(tuple, rows))


@pytest.mark.parametrize("make", [lambda rows, seed: RowBatches(rows, 100, seed),
                                  lambda rows, seed: PackedBatches(rows, 40, 3, seed),
                                  lambda rows, seed: ChunkBatches(sum(rows, []), 16, 3, seed),
                                  lambda rows, seed: MaskedBatches(RowBatches(rows, 100, seed), 3, 50, seed)])  # fmt: skip
def test_a_batch_is_a_function_of_the_step(make):
    rows = make_rows(60)
    one, other = make(rows, 0), make(rows, 0)
    steps = 2 * one.steps_per_epoch + 1
    forward = [one(step) for step in range(steps)]
    for step in reversed(range(steps)):
        for field in ("input_ids", "labels", "positions", "segments"):
            a, b = getattr(forward[step], field), getattr(other(step), field)
            assert (a is None and b is None) or torch.equal(a, b)
    third = make(rows, 1)
    assert any(forward[s].input_ids.tolist() != third(s).input_ids.tolist() for s in range(one.steps_per_epoch))
    epoch = one.steps_per_epoch
    assert any(forward[s].input_ids.tolist() != forward[s + epoch].input_ids.tolist() for s in range(epoch))


def test_drawing_batches_leaves_the_global_generator_alone():
    rows = make_rows(20)
    sources = [RowBatches(rows, 60), PackedBatches(rows, 30, 2), MaskedBatches(RowBatches(rows, 60), 3, 50)]
    before = torch.get_rng_state()
    for source in sources:
        source(0)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_stand_beside_their_tokens():
    prompt, response = [1, 10, 11], [12, 13, 2]
    ids, labels = response_labels(prompt, response)
    assert ids == [1, 10, 11, 12, 13, 2] and labels == [IGNORE] * 3 + [12, 13, 2]
    batch = collate([ids, [1, 20]], 0, [labels, [1, 20]])
    assert batch.input_ids.tolist() == [ids, [1, 20, 0, 0, 0, 0]]
    assert batch.labels.tolist() == [labels, [1, 20] + [IGNORE] * 4]


@settings(max_examples=40, deadline=None)
@given(row_lists)
def test_a_label_is_its_token_or_ignored(rows):
    for batches in (RowBatches(rows, 24), PackedBatches(rows, 14, 2)):
        for step in range(batches.steps_per_epoch):
            batch = batches(step)
            wanted = batch.labels != IGNORE
            assert torch.equal(batch.labels[wanted], batch.input_ids[wanted])
            assert not (wanted & (batch.input_ids == 0)).any(), "a loss on padding"


def test_num_tokens_counts_what_a_loss_is_due_on():
    # The first token of a row is predicted from nothing, so it is none of them.
    assert collate([[1, 5, 6], [1, 5]], 0).num_tokens() == 3
    assert Batch(torch.tensor([[1, 5]]), torch.full((1, 2), IGNORE)).num_tokens() == 0


def test_rows_of_like_length_share_a_batch():
    batches = RowBatches(make_rows(400, longest=60), 600)
    filled = total = 0
    for step in range(batches.steps_per_epoch):
        ids = batches(step).input_ids
        filled, total = filled + int((ids != 0).sum()), total + ids.numel()
    assert filled / total > 0.9


@settings(max_examples=60, deadline=None)
@given(row_lists, st.integers(12, 40))
def test_packing_keeps_to_the_length(rows, seq_len):
    bins = pack(rows, seq_len)
    assert sorted(i for b in bins for i in b) == list(range(len(rows)))
    fills = [sum(len(rows[i]) for i in b) for b in bins]
    assert max(fills) <= seq_len
    # First fit: two bins that are both at most half full would have been one.
    assert sum(2 * fill <= seq_len for fill in fills) <= 1


def test_packing_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="row 1 has 9 tokens"):
        pack([[1], [1] * 9], 8)


def test_the_first_token_of_a_packed_document_has_no_label():
    rows = make_rows(30)
    batches = PackedBatches(rows, 48, 2)
    for step in range(batches.steps_per_epoch):
        batch = batches(step)
        starts = torch.ones_like(batch.segments, dtype=torch.bool)
        starts[:, 1:] = batch.segments[:, 1:] != batch.segments[:, :-1]
        assert (batch.labels[starts] == IGNORE).all() and (batch.positions[starts & (batch.segments >= 0)] == 0).all()
        inside = ~starts & (batch.segments >= 0)
        assert (batch.labels[inside] != IGNORE).all()
        assert (batch.positions[inside] > 0).all()


def test_chunks_cut_one_stream():
    batches = ChunkBatches(list(range(103)), 10, 3)
    assert batches.steps_per_epoch == 3
    windows = [row for step in range(3) for row in batches(step).input_ids.tolist()]
    assert len({tuple(w) for w in windows}) == 9
    assert all(w == list(range(w[0], w[0] + 10)) and w[0] % 10 == 0 for w in windows)
    with pytest.raises(ValueError, match="do not fill one window"):
        ChunkBatches([1, 2], 10, 1)


def test_masking_statistics():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 1000, (200, 200), generator=generator)
    ids[:, 0], ids[:, -1] = 1, 2
    masked = mask_tokens(Batch(ids, ids.clone()), 3, 1000, generator=generator)
    chosen = masked.labels != IGNORE
    assert torch.equal(masked.labels[chosen], ids[chosen])
    assert torch.equal(masked.input_ids[~chosen], ids[~chosen])
    assert not chosen[:, 0].any() and not chosen[:, -1].any()
    count = int(chosen.sum())
    expected = 0.15 * 200 * 198
    assert abs(count - expected) < 5 * (expected * 0.85) ** 0.5  # five standard deviations of a binomial
    shown, original = masked.input_ids[chosen], ids[chosen]
    shares = {"mask": (shown == 3).sum(), "same": (shown == original).sum()}
    # A random token is now and then the original itself: 10 % of one in a thousand.
    for share, probability in ((shares["mask"], 0.8001), (shares["same"], 0.1001)):
        assert abs(float(share) - probability * count) < 5 * (count * probability * (1 - probability)) ** 0.5


def test_masking_never_asks_for_nothing():
    batch = Batch(torch.tensor([[1, 9, 2]]), torch.tensor([[1, 9, 2]]))
    for seed in range(20):
        masked = mask_tokens(batch, 3, 50, generator=torch.Generator().manual_seed(seed))
        assert masked.labels.tolist() == [[IGNORE, 9, IGNORE]]


def test_suffix_masking():
    rows = make_rows(40, longest=12)
    batch = collate(rows, 0)
    cuts = set()
    for seed in range(30):
        masked = mask_suffix(batch, 3, torch.Generator().manual_seed(seed))
        for row, shown, labels in zip(rows, masked.input_ids.tolist(), masked.labels.tolist(), strict=True):
            wanted = [t for t, label in enumerate(labels) if label != IGNORE]
            assert len(wanted) == 1
            cut = wanted[0]
            assert 1 <= cut < len(row) and labels[cut] == row[cut]
            assert shown[:cut] == row[:cut]
            assert shown[cut:len(row)] == [3] * (len(row) - cut)
            assert shown[len(row):] == [0] * (len(shown) - len(row))
            cuts.add((len(row), cut))
    assert {cut for length, cut in cuts if length == max(map(len, rows))} >= {1, max(map(len, rows)) - 1}
