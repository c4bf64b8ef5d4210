"""What a call costs: the answer is generate's, a cached prefix changes the cost and not the answer."""

import pytest
import torch

from ftlab.measure import calls
from ftlab.model import generate, load


@pytest.fixture(scope="module")
def small():
    return load("base-small")


STORY = "Mira had a red kite. Mira went to the pond.\n-> pond\n\n"
LATER = "Hugo had a blue sled. Hugo went to the hill.\n->"


def test_the_answer_is_the_first_line_of_a_greedy_text(small):
    model, tokenizer = small
    ids = tokenizer.encode(STORY + LATER, bos=True)
    one = calls.call(model, tokenizer, ids, max_new_tokens=8)
    [wanted] = generate(model, [ids], 8, temperature=0, eos_id=tokenizer.eos_id)
    assert one.text == tokenizer.decode(wanted).strip().splitlines()[0].strip() != ""
    assert one.read == len(ids) and 1 <= one.written <= 8 and one.reused == 0 and one.seconds > 0


def test_a_cached_prefix_gives_the_same_answer_again_and_again(small):
    model, tokenizer = small
    before = tokenizer.encode(STORY, bos=True)
    prefix = calls.CachedPrefix(model, before)
    for text in (LATER, STORY + LATER, LATER):
        ids = tokenizer.encode(text)
        plain, cached = calls.call(model, tokenizer, before + ids), calls.call(model, tokenizer, ids, prefix=prefix)
        assert cached.text == plain.text and cached.written == plain.written
        assert cached.reused == len(before) and cached.read == len(ids) == plain.read - len(before)


def test_summary_takes_means_of_tokens_and_the_median_of_seconds():
    some = [calls.Call("a", 10, 2, 0, 0.1), calls.Call("b", 20, 4, 0, 0.2), calls.Call("c", 30, 3, 0, 9.0)]
    assert calls.summary(some) == {"read": 20, "written": 3, "reused": 0, "seconds": 0.2}


def test_a_written_token_takes_longer_than_one_that_is_read(small):
    found = calls.rates(small[0], repeats=5)
    assert 0 < found["read"] < found["written"] < 1


def test_a_prefix_leaves_the_model_as_it_was(small):
    model, tokenizer = small
    calls.CachedPrefix(model, tokenizer.encode(STORY, bos=True))
    assert not model.training and torch.is_grad_enabled()
