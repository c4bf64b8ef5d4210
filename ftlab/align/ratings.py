"""Human ratings of pairs of texts: a journal on disk, one line of JSON a rating, that outlives a killed kernel.

Simplification: one writer at a time; two kernels that rate into one file do not see each other's ratings.
"""

import datetime
import json
import os
import pathlib
import random

from ftlab.errors import UsageError
from ftlab.text.tables import columns_of, kind, text_of
from ftlab.world.preference import Pair

CHOICES = ("left", "right", "tie", "skip")
UNDO = "undo"  # a line that takes the pair's rating back: the journal only ever grows
_COLUMNS = ("prompt", "a", "b", "rating")
_OPENING = b'{"prompt": "'  # how every line of ours begins


def pair_key(prompt, a, b):
    """What two ratings of the same pair share, whichever text stood on the left."""
    return (prompt, *sorted((a, b)))


def is_rating(row):
    """Whether a row of a table is a rating and no preference."""
    return {"a", "b", "rating"} <= set(row)


def check_rating(source, where, row):
    """Return `row` where it is a whole rating; else raise UsageError, one line with file, row and column."""
    if not isinstance(row, dict) or not set(_COLUMNS) <= set(row):
        have = columns_of(row) if isinstance(row, dict) else kind(row)
        raise UsageError(f"{source}: {where} is no rating (it has: {have}): each line must have the columns "
                         '"prompt", "a", "b" and "rating"')
    for column in _COLUMNS:
        # A text may be empty: models write such, and people rate them.
        text_of(f'{source}: {where}, column "{column}"', row[column], needed=column in ("prompt", "rating"))
    if row["rating"] not in (*CHOICES, UNDO):
        raise UsageError(f'{source}: {where}, column "rating": {row["rating"][:40]!r}: write one of '
                         f"{', '.join((*CHOICES, UNDO))}")
    if row["a"] == row["b"]:
        raise UsageError(f"{source}: {where}: \"a\" and \"b\" are the same text: delete the line")
    return row


def standing(records):
    """{key: record} of the ratings that stand, in the order in which they were given: the last one of a pair counts,
    and none after an undo."""
    last = {}
    for record in records:
        key = pair_key(record["prompt"], record["a"], record["b"])
        last.pop(key, None)
        if record["rating"] != UNDO:
            last[key] = record
    return last


def rated_pairs(records):
    """The Pairs that ratings decide; a tie and a skip are none. Their margins are unknown: 0."""
    sides = {"left": ("a", "b"), "right": ("b", "a")}
    return [Pair(record["prompt"], *(record[side] for side in sides[record["rating"]]))
            for record in standing(records).values() if record["rating"] in sides]


class Ratings:
    """A journal of ratings in the file `path`: each is appended and on disk (fsync) before `add` returns.

    A line: {"prompt", "a" (the text that stood left), "b" (right), "rating": left, right, tie, skip or undo, "seconds",
    "time"}, with "chosen" and "rejected" where it was decided. A file that is there goes on. A last line cut off by a
    kill is moved to PATH.torn; `mended` says so. The file is made with the first rating.
    seed: draws which text stands left. Raises UsageError where the file is something else, or cannot be written.
    """

    def __init__(self, path, seed=0):
        self.path, self.seed, self.mended = pathlib.Path(path), seed, ""
        if self.path.suffix != ".jsonl":  # or `read_preferences` would not know what it is
            raise UsageError(f"{self.path}: ratings are JSON lines: name the file something.jsonl")
        self.records = self._load()
        self.standing = standing(self.records)

    def __len__(self):
        return len(self.standing)

    def rating_of(self, pair):
        """The record that stands for a Pair, or None where it is not rated yet."""
        return self.standing.get(pair_key(pair.prompt, pair.chosen, pair.rejected))

    def sides(self, pair):
        """(left, right): the two texts of a Pair in the order drawn for it, which hides which was chosen.

        People favour a side; the order is drawn by seed and texts alone, so it is the same after a restart.
        """
        key = pair_key(pair.prompt, pair.chosen, pair.rejected)
        left, right = key[1:]
        return (right, left) if random.Random(f"sides/{self.seed}/{key}").random() < 0.5 else (left, right)

    def add(self, prompt, left, right, rating, seconds=None):
        """Append one rating; it is on disk when this returns the record."""
        record = {"prompt": prompt, "a": left, "b": right, "rating": rating}
        check_rating(self.path, "the rating", record)
        if rating in ("left", "right"):
            record["chosen"], record["rejected"] = (left, right) if rating == "left" else (right, left)
        if seconds is not None:
            record["seconds"] = round(seconds, 2)
        record["time"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._append(record)
        self.records.append(record)
        self.standing = standing(self.records)
        return record

    def undo(self, pairs=None):
        """Take the last standing rating back (of `pairs`, where given); returns its record, or None."""
        among = None if pairs is None else {pair_key(p.prompt, p.chosen, p.rejected) for p in pairs}
        last = next((record for key, record in reversed(self.standing.items()) if among is None or key in among), None)
        if last is not None:
            self.add(last["prompt"], last["a"], last["b"], UNDO)
        return last

    def pairs(self):
        """The Pairs decided so far, as `read_preferences(path)` gives them."""
        return rated_pairs(self.records)

    def _append(self, record):
        # ASCII: a line that is cut anywhere is still UTF-8.
        line = (json.dumps(record, ensure_ascii=True) + "\n").encode()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab", buffering=0) as file:
                before = file.seek(0, os.SEEK_END)
                try:
                    rest = memoryview(line)
                    while rest:
                        rest = rest[file.write(rest):]
                    os.fsync(file.fileno())
                except BaseException:  # a full disk, an interrupt: no half line stays
                    file.truncate(before)
                    raise
        except OSError as error:
            raise UsageError(f"{self.path}: the rating cannot be written ({error.strerror}): make room, or rate into "
                             "another file") from None

    def _load(self):
        if not os.path.lexists(self.path):
            return []
        if not self.path.is_file():
            raise UsageError(f"{self.path}: not a file: name a file for the ratings, such as ratings.jsonl")
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be read ({error.strerror}): check its permissions") from None
        end = data.rfind(b"\n") + 1
        records = [self._parse(number, line) for number, line in enumerate(data[:end].split(b"\n"), 1) if line.strip()]
        torn = data[end:]
        if torn:
            records += self._mend(torn, end, data[:end].count(b"\n") + 1)
        return records

    def _parse(self, number, line):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{self.path}: line {number} is not JSON: this is no journal of ratings, or it was changed; "
                             "delete the line, or rate into another file") from None
        return check_rating(self.path, f"line {number}", row)

    def _mend(self, torn, end, number):
        """Deal with a last line without a line break: whole (only that is missing), cut off, or not ours."""
        try:
            json.loads(torn)
        except (ValueError, RecursionError):
            if not (torn.startswith(_OPENING) or _OPENING.startswith(torn)):
                self._parse(number, torn)
        else:
            record = self._parse(number, torn)
            self._change(lambda file: file.write(b"\n"), self.path, "ab")
            self.mended = f"line {number} lacked its line break; it was added"
            return [record]
        aside = self.path.with_name(self.path.name + ".torn")
        self._change(lambda file: file.write(torn + b"\n"), aside, "ab")
        self._change(lambda file: file.truncate(end), self.path, "r+b")
        self.mended = f"line {number} had been cut off in mid-writing; what there was of it is now in {aside.name}"
        return []

    def _change(self, action, path, mode):
        try:
            with path.open(mode) as file:
                action(file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"{path}: cannot be written ({error.strerror}): check its permissions") from None
