"""ftlab.align.ratings: nothing that was acknowledged is lost, whenever the process dies."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from ftlab.align.ratings import CHOICES, Ratings
from ftlab.errors import UsageError
from ftlab.world.preference import Pair

PAIRS = [Pair(f"Prompt {i}", f"good {i}", f"bad {i}", 0.5) for i in range(40)]


def rate(ratings, pair, choice):
    return ratings.add(pair.prompt, *ratings.sides(pair), choice, 1.0)


@pytest.fixture
def journal(tmp_path):
    return Ratings(tmp_path / "deep" / "ratings.jsonl", seed=3)


# ---- what a journal knows


def test_no_file_before_the_first_rating(journal):
    assert not journal.path.exists() and len(journal) == 0 and journal.pairs() == []
    rate(journal, PAIRS[0], "left")
    line, = journal.path.read_text().splitlines()
    record = json.loads(line)
    left, right = journal.sides(PAIRS[0])
    assert (record["a"], record["b"], record["rating"], record["seconds"]) == (left, right, "left", 1.0)
    assert (record["chosen"], record["rejected"]) == (left, right) and "time" in record


def test_it_resumes(journal):
    for pair, choice in zip(PAIRS, ("left", "right", "tie", "skip"), strict=False):
        rate(journal, pair, choice)
    again = Ratings(journal.path, seed=3)
    assert len(again) == 4 and again.mended == "" and again.records == journal.records
    assert [again.rating_of(p)["rating"] for p in PAIRS[:4]] == list(CHOICES)
    assert again.rating_of(PAIRS[4]) is None
    assert again.pairs() == journal.pairs() and len(again.pairs()) == 2
    assert "chosen" not in again.rating_of(PAIRS[2])


def test_the_order_is_drawn_and_stays(journal):
    orders = [journal.sides(p) == (p.chosen, p.rejected) for p in PAIRS]
    assert 10 <= sum(orders) <= 30
    assert orders == [Ratings(journal.path, seed=3).sides(p) == (p.chosen, p.rejected) for p in PAIRS]
    assert orders != [Ratings(journal.path, seed=4).sides(p) == (p.chosen, p.rejected) for p in PAIRS]
    # What an annotator preferred has no say in it.
    assert all(journal.sides(p) == journal.sides(Pair(p.prompt, p.rejected, p.chosen)) for p in PAIRS)


def test_the_last_rating_of_a_pair_counts_and_undo_takes_it_back(journal):
    rate(journal, PAIRS[0], "left")
    rate(journal, PAIRS[1], "right")
    rate(journal, PAIRS[0], "right")
    left, right = journal.sides(PAIRS[0])
    assert journal.pairs()[-1] == Pair("Prompt 0", right, left) and len(journal) == 2
    assert journal.undo(PAIRS[1:])["prompt"] == "Prompt 1"
    assert journal.undo()["prompt"] == "Prompt 0"
    assert journal.undo() is None and journal.pairs() == []
    assert len(Ratings(journal.path)) == 0
    assert len(journal.path.read_text().splitlines()) == 5  # the journal only grows


@pytest.mark.parametrize("bad", [("p", "a", "a", "left"), ("p", "a", "b", "best"), ("", "a", "b", "left"),
                                 ("p", None, "b", "left"), ("p", "a", "\ud800", "left")])
def test_what_is_no_rating_is_not_written(journal, bad):
    with pytest.raises(UsageError):
        journal.add(*bad)
    assert not journal.path.exists() and len(journal) == 0


# ---- files that were cut off, or are something else


def test_a_cut_at_any_byte_loses_no_other_rating(tmp_path):
    whole = Ratings(tmp_path / "whole.jsonl")
    rate(whole, Pair("Hé 🙂", "a", "b"), "left")
    first = whole.path.stat().st_size
    rate(whole, PAIRS[1], "tie")
    data = whole.path.read_bytes()
    for cut in range(first, len(data)):
        path = tmp_path / f"{cut}.jsonl"
        path.write_bytes(data[:cut])
        mended = Ratings(path)
        complete = cut == len(data) - 1  # only the line break is missing
        assert mended.records == whole.records[:1 + complete]
        assert bool(mended.mended) == (cut > first)
        assert path.read_bytes() == data if complete else data[:first]
        aside = path.with_name(path.name + ".torn")
        assert aside.read_bytes() == data[first:cut] + b"\n" if first < cut < len(data) - 1 else not aside.exists()
        rate(mended, PAIRS[2], "skip")
        assert len(Ratings(path)) == len(mended) == 2 + complete


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"my notes, without a line break", "line 1 is not JSON"),
        (b"my notes\n", "line 1 is not JSON"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "line 1 is no rating"),
        (b'{"prompt": "a", "chosen": "b", "rejected": "c"}', "line 1 is no rating"),
        (b"[1]\n", "line 1 is no rating"),
        (b"\0\0\0", "not JSON"),
        (b'{"prompt": "a", "a": "b", "b": "c", "rating": "left"}\n{"pro\n', "line 2 is not JSON"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path, content, what):
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=what) as caught:
        Ratings(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == content and list(tmp_path.iterdir()) == [path]


def test_a_folder_and_another_kind_of_file_are_refused(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match="not a file"):
        Ratings(tmp_path / "folder.jsonl")
    with pytest.raises(UsageError, match="something.jsonl"):
        Ratings(tmp_path / "ratings.csv")


def test_an_empty_text_can_be_rated(journal):
    journal.add("Prompt", "", "b", "right")
    assert Ratings(journal.path).pairs() == [Pair("Prompt", "b", "")]


def test_a_write_that_fails_leaves_no_half_line(journal, monkeypatch):
    rate(journal, PAIRS[0], "left")
    before = journal.path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        rate(journal, PAIRS[1], "left")
    assert journal.path.read_bytes() == before and journal.rating_of(PAIRS[1]) is None
    monkeypatch.undo()
    rate(journal, PAIRS[1], "left")
    assert len(Ratings(journal.path)) == 2


# ---- killed in the middle of writing

# Rates without end; a line "ROUND NUMBER" on stdout acknowledges each. Long prompts, so that writing takes a while.
WRITER = """
import os, sys
from ftlab.align.ratings import Ratings
ratings, start = Ratings(sys.argv[1]), sys.argv[2]
for number in range(10**6):
    ratings.add(f"{start} {number} " + "long " * 400_000, "a", "b", "left")
    os.write(1, f"{start} {number}\\n".encode())
"""


# Kills itself with half of the third line written.
HALF = """
import io, os, pathlib, signal, sys
from ftlab.align.ratings import Ratings

class Half(io.FileIO):
    def write(self, data):
        if len(ratings) == 2:
            super().write(data[:len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(data)

pathlib.Path.open = lambda path, mode, buffering: Half(path, mode)
ratings = Ratings(sys.argv[1])
for number in range(5):
    ratings.add(f"Prompt {number}", "a", "b", "left")
    os.write(1, f"Prompt {number}\\n".encode())
"""
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_half_a_line_by_sigkill_is_mended(tmp_path):
    path = tmp_path / "ratings.jsonl"
    done = subprocess.run([sys.executable, "-c", HALF, path], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL and done.stdout.split("\n") == ["Prompt 0", "Prompt 1", ""], done.stderr
    assert path.read_bytes().count(b"\n") == 2 and not path.read_bytes().endswith(b"\n")
    mended = Ratings(path)
    assert [r["prompt"] for r in mended.records] == ["Prompt 0", "Prompt 1"] and "line 3 had been cut off" in mended.mended
    mended.add("Prompt 2", "a", "b", "tie")
    assert len(Ratings(path)) == 3 and Ratings(path).mended == ""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_sigkill_while_writing_loses_nothing_acknowledged(tmp_path):
    path, dice, known = tmp_path / "ratings.jsonl", random.Random(), []
    for start in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path, str(start)], stdout=subprocess.PIPE, text=True,
                                  cwd=ROOT)
        known.append(writer.stdout.readline().strip())
        time.sleep(dice.random() * 0.15)
        if start % 2:  # as early in a line as can be seen from here
            size, end = path.stat().st_size, time.monotonic() + 20
            while path.stat().st_size == size and time.monotonic() < end:
                pass
        os.kill(writer.pid, signal.SIGKILL)
        known += writer.stdout.read().split("\n")[:-1]
        assert writer.wait() == -signal.SIGKILL
        writer.stdout.close()
        found = [" ".join(record["prompt"].split(" ", 2)[:2]) for record in Ratings(path).records]
        assert path.read_bytes().endswith(b"\n")
        assert set(known) <= set(found) and len(found) == len(set(found))
        # At most the rating that was being written is there without having been acknowledged.
        assert len(found) <= len(known) + start + 1
