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
def tokenizer(line_starts=False):
    return Tokenizer.train(TEXTS, 300, line_starts)


# No lone surrogates: they are no text in UTF-8. A special token's own name is a command, not text.
anything = st.text(st.characters(codec="utf-8"), max_size=60).filter(lambda s: "<" not in s)


@settings(max_examples=200, deadline=None)
@given(anything, st.booleans())
def test_round_trip(text, line_starts):
    tok = tokenizer(line_starts)
    ids = tok.encode(text)
    assert tok.decode(ids) == text
    assert all(4 <= i < tok.vocab_size for i in ids)
    assert tok.decode(tok.encode(text, bos=True, eos=True)) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(anything, max_size=5), st.booleans(), st.booleans())
def test_batch_is_one_by_one(texts, bos, eos):
    tok = tokenizer()
    assert tok.encode_batch(texts, bos, eos) == [tok.encode(text, bos, eos) for text in texts]


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from(" \nab\r\t#"), max_size=12))
def test_round_trip_of_lines_and_spaces(text):
    tok = tokenizer(line_starts=True)
    assert tok.decode(tok.encode(text)) == text


def test_a_word_that_begins_a_line_is_the_word_behind_a_space():
    tok = tokenizer(line_starts=True)
    cap, line = tok.encode(" cap"), tok.encode("\n")
    assert len(cap) == 1
    assert tok.encode("a\ncap")[1:] == line + cap
    assert tok.encode("a\n\ncap")[-1:] == cap
    assert tokenizer().encode("a\ncap")[-1:] != cap


@settings(max_examples=200, deadline=None)
@given(anything, anything, st.booleans())
def test_a_text_behind_another_has_the_ids_that_it_has_in_the_whole(before, text, line_starts):
    tok = tokenizer(line_starts)
    before += "\n"
    if text[:1].isspace():
        text = "x" + text
    assert tok.encode(before) + tok.encode(tok.behind(before, text)) == tok.encode(before + text) or not line_starts


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
    lines = "Ada\nhad\n\n an orange\n"
    for tok in (tokenizer(), tokenizer(line_starts=True)):
        assert "".join(tok.pieces(tok.encode(lines))) == lines


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


@pytest.mark.parametrize("text", ["Ada had an orange cap.", "  two  spaces ", "café 🙂\n\nx\ny\n z", ""])
@pytest.mark.parametrize("line_starts", [False, True])
def test_transformers_reads_the_same_ids(tmp_path, text, line_starts):
    from transformers import AutoTokenizer

    tok = tokenizer(line_starts)
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
