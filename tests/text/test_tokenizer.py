"""The tokenizer loses nothing, and the libraries that read its files see the same ids."""

import functools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlab.errors import UsageError
from ftlab.text import Tokenizer

TEXTS = ["Ada was a gentle rabbit. Ada had an orange cap.", "Emil loved a yellow cap; Emil wept.",
         "Then the cap hung in a tree.\n\nNaïve café, 3 + 4 = 7."] * 5  # fmt: skip


@functools.cache
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


# No lone surrogates: they are no text in UTF-8. A special token's own name is a command, not text.
anything = st.text(st.characters(codec="utf-8"), max_size=60).filter(lambda s: "<" not in s)


@settings(max_examples=200, deadline=None)
@given(anything)
def test_round_trip(text):
    tok = tokenizer()
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert all(4 <= i < tok.vocab_size for i in ids)
    assert tok.decode(tok.encode(text, bos=True, eos=True)) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(anything, max_size=5), st.booleans(), st.booleans())
def test_batch_is_one_by_one(texts, bos, eos):
    tok = tokenizer()
    assert tok.encode_batch(texts, bos, eos) == [tok.encode(text, bos, eos) for text in texts]


def test_special_tokens():
    tok = tokenizer()
    assert (tok.pad_id, tok.bos_id, tok.eos_id, tok.mask_id) == (0, 1, 2, 3)
    ids = tok.encode("Ada", bos=True, eos=True)
    assert ids[0] == 1 and ids[-1] == 2 and 1 not in ids[1:]
    assert tok.decode(ids, skip_special=False) == "<s>Ada</s>"
    assert tok.encode("") == []


def test_pieces_join_to_the_text():
    tok = tokenizer()
    ids = tok.encode("Ada had an orange cap.", bos=True)
    pieces = tok.pieces(ids)
    assert len(pieces) == len(ids) and pieces[0] == "<s>"
    assert "".join(pieces[1:]) == "Ada had an orange cap."


def test_merges_give_the_vocabulary():
    tok = tokenizer()
    vocabulary = set(tok.backend.get_vocab())
    assert len(tok.merges()) == tok.vocab_size - 256 - 4
    assert all(left + right in vocabulary for left, right in tok.merges())
    # Applied by hand, in the order learnt, they give the same tokens as the library.
    word = list("Ġorange")
    for left, right in tok.merges():
        i = 0
        while i < len(word) - 1:
            if (word[i], word[i + 1]) == (left, right):
                word[i:i + 2] = [left + right]
            i += 1
    assert [tok.backend.id_to_token(i) for i in tok.encode(" orange")] == word


def test_saved_and_loaded(tmp_path):
    tok = tokenizer()
    tok.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    text = "Ada had a café.\n\tThe end 🙂"
    assert again.encode(text) == tok.encode(text) and again.vocab_size == tok.vocab_size
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["eos_token"] == "</s>"


@pytest.mark.parametrize("text", ["Ada had an orange cap.", "  two  spaces ", "café 🙂\n\nx", ""])
def test_transformers_reads_the_same_ids(tmp_path, text):
    from transformers import AutoTokenizer

    tok = tokenizer()
    tok.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for hf in (theirs, tok.to_hf()):
        assert hf(text, add_special_tokens=False)["input_ids"] == tok.encode(text)
        assert hf.decode(tok.encode(text), clean_up_tokenization_spaces=False) == text
        assert (hf.pad_token_id, hf.bos_token_id, hf.eos_token_id, hf.mask_token_id) == (0, 1, 2, 3)
        assert len(hf) == tok.vocab_size


def test_vocabulary_too_small():
    with pytest.raises(UsageError, match="at least"):
        Tokenizer.train(TEXTS, 259)
    assert Tokenizer.train(TEXTS, 260).vocab_size == 260


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        Tokenizer.load(tmp_path / "nowhere")


def test_same_texts_same_tokenizer():
    assert Tokenizer.train(TEXTS, 290).backend.to_str() == Tokenizer.train(TEXTS, 290).backend.to_str()
