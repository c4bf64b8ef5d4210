"""Rows of pairs, their masks, and log-probabilities of responses against a slow, obvious sum."""

import pytest
import torch

from ftlab.align import pairs as made
from ftlab.errors import UsageError
from ftlab.text.template import alpaca, alpaca_response
from ftlab.text.tokenizer import BOS, EOS


def slow_logprob(model, ids, start):
    """Σ log p(token | tokens before), one token after the other."""
    total = 0.0
    for place in range(start, len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:place]]))[0, -1]
        total += logits.log_softmax(-1)[ids[place]].item()
    return total


def test_a_row_is_the_template_and_its_response_begins_behind_the_prompt(tokenizer, pairs):
    [(ids, start)] = made.response_rows([pairs[0].prompt], [pairs[0].chosen], tokenizer)
    assert tokenizer.decode(ids[:start]).removeprefix(BOS) == alpaca(pairs[0].prompt)
    assert tokenizer.decode(ids[start:]).removesuffix(EOS) == alpaca_response(pairs[0].chosen)
    assert ids[-1] == tokenizer.eos_id


def test_the_mask_marks_the_places_that_decide_on_the_response(tokenizer, pairs):
    chosen, rejected = made.pair_rows(pairs[:3], tokenizer)
    batch = made.pair_batch(chosen, rejected, tokenizer.pad_id)
    for row, (ids, start) in enumerate([*chosen, *rejected]):
        assert batch.ids[row, 1:][batch.mask[row]].tolist() == ids[start:]
        assert batch.ids[row, batch.ends[row]] == tokenizer.eos_id


def test_log_probabilities_are_those_of_the_tokens_one_by_one(tokenizer, tiny, pairs):
    model = tiny()
    chosen, rejected = made.pair_rows(pairs[:3], tokenizer)
    want = [slow_logprob(model, *row) for row in [*chosen, *rejected]]
    batch = made.pair_batch(chosen, rejected, tokenizer.pad_id)
    assert made.sequence_logprobs(model, batch).tolist() == pytest.approx(want, rel=1e-4)
    assert made.logprobs_of(model, chosen + rejected, tokenizer) == pytest.approx(want, rel=1e-4)


def test_an_epoch_holds_each_pair_once_and_another_comes_in_another_order(tokenizer, pairs):
    chosen, rejected = made.pair_rows(pairs, tokenizer)
    batches = made.PairBatches(chosen, rejected, 7, tokenizer, seed=1)

    def epoch(number):
        steps = range(number * batches.steps_per_epoch, (number + 1) * batches.steps_per_epoch)
        return [tuple(row[row != tokenizer.pad_id].tolist()) for step in steps for row in batches(step).ids]

    assert sorted(epoch(0)) == sorted(tuple(ids) for ids, _ in chosen + rejected)
    assert sorted(epoch(0)) == sorted(epoch(1)) and epoch(0) != epoch(1) and epoch(0) == epoch(0)


def test_references_go_with_their_rows(tokenizer, pairs):
    chosen, rejected = made.pair_rows(pairs, tokenizer)
    known = [[float(sum(ids)) for ids, _ in side] for side in (chosen, rejected)]
    batch = made.PairBatches(chosen, rejected, 5, tokenizer, reference=known)(2)
    assert batch.reference.tolist() == [float(row[row != tokenizer.pad_id].sum()) for row in batch.ids]


def test_what_cannot_be_learned_from_is_named(tokenizer, pairs):
    with pytest.raises(UsageError, match="no preference pairs"):
        made.pair_rows([], tokenizer)
    with pytest.raises(UsageError, match="pair 1 has .* more than the 20"):
        made.pair_rows(pairs, tokenizer, max_length=20)
