"""The user's own preferences, read into a list of `Pair`: JSON lines, JSON, CSV, TSV, Parquet, or a Hub dataset.

Columns `prompt, chosen, rejected`, as text or as lists of messages {"role", "content"}; the prompt may also stand at the
head of both texts, as TRL calls it an implicit prompt. A journal of `Ratings` is read as well.
"""

import itertools
import json
import math
import os
import re

from ftlab.align.ratings import check_rating, is_rating, rated_pairs
from ftlab.errors import UsageError
from ftlab.text.tables import MAX_BYTES, TornLine, columns_of, is_hub_dataset, kind, messages_of, table_rows, text_of
from ftlab.world.preference import Pair

# Other names under which well-known data sets (Alpaca's and Orca's) keep the prompt.
PROMPTS = ("prompt", "instruction", "question")
# How the texts of Anthropic's hh-rlhf mark who speaks (Bai et al. 2022).
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):[ ]?")


def read_preferences(source, *, max_bytes=MAX_BYTES, progress=None):
    """The pairs in `source`, a file or a Hub dataset ("owner/name" or "owner/name:config", its split "train").

    Texts lose the white space around them. A number in a column "margin" becomes the Pair's; without one it is 0. A
    prompt of one user's message is that message; a longer talk is written out (`talk`). progress: called with lines of
    text. Raises UsageError, one line that says where and what to do; of a Hub dataset, which the user cannot mend, rows
    that are no pairs are passed over and counted.
    """
    source = os.fspath(source)
    say = progress or (lambda line: None)
    rows = _objects(source, table_rows(source, max_bytes, say))
    first = next(rows, None)
    if first is None:
        raise UsageError(f"{source}: holds no rows: give a file with preferences in it")
    rows = itertools.chain([first], rows)
    pairs = _rated(source, rows, say) if is_rating(first[1]) else _given(source, first, rows, say)
    say(f"{len(pairs):,} pairs")
    return pairs


def talk(messages):
    """Messages [(role, content), …] that end with the user's, as one prompt: a single one as it stands, a longer talk
    with "User:" and "Assistant:" before each turn, after what the system message says."""
    turns = [m for m in messages if m[0] != "system"]
    if len(messages) == 1:
        return messages[0][1].strip()
    system = [content.strip() for role, content in messages if role == "system"]
    said = [content.strip() if len(turns) == 1 else f"{role.capitalize()}: {content.strip()}" for role, content in turns]
    return "\n\n".join(system + said)


def _objects(source, rows):
    for where, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"{source}: {where} is {kind(row)}, not an object with columns: write one "
                             '{"prompt": …, "chosen": …, "rejected": …} a row')
        yield where, row


def _rated(source, rows, say):
    records = []
    try:
        for where, row in rows:
            records.append(check_rating(source, where, row))
    except TornLine as error:  # a kill in mid-writing; `Ratings` mends it when it next opens the file
        say(f"{error}; passed over")
    pairs = rated_pairs(records)
    if not pairs:
        raise UsageError(f"{source}: none of its {len(records)} ratings decides between two texts: rate some pairs first")
    return pairs


def _given(source, first, rows, say):
    columns, on_hub = _columns(source, *first), is_hub_dataset(source)
    pairs, passed, trouble = [], 0, None
    for where, row in rows:
        try:
            pairs.append(_pair(source, where, row, columns))
        except UsageError as error:
            if not on_hub:
                raise
            passed, trouble = passed + 1, trouble or error
    if not pairs:
        raise trouble
    if passed:
        say(f"passed over {passed:,} rows that are no pairs, the first of them: {trouble}")
    return pairs


def _columns(source, where, row):
    """{"prompt": its column, or None where it stands inside the texts; "chosen", "rejected"} by the first row."""
    for name in ("chosen", "rejected"):
        if name not in row:
            raise UsageError(f"{source}: {where} has no column \"{name}\" (its columns: {columns_of(row)}): name them "
                             '"prompt", "chosen" and "rejected"')
    return {"prompt": next((name for name in PROMPTS if name in row), None), "chosen": "chosen", "rejected": "rejected"}


def _pair(source, where, row, columns):
    cells = {}
    for field, column in columns.items():
        if column is not None and column not in row:
            raise UsageError(f"{source}: {where} has no column \"{column}\" (its columns: {columns_of(row)}): add it or "
                             "delete the row")
        cells[field] = None if column is None else _cell(f'{source}: {where}, column "{column}"', row[column])
    place = f"{source}: {where}"
    if cells["chosen"] == cells["rejected"]:
        raise UsageError(f"{place}: \"chosen\" and \"rejected\" are the same: delete the row")
    inside, chosen, rejected = _split(place, cells["chosen"], cells["rejected"], cells["prompt"] is None)
    prompt = _prompt(place, cells["prompt"], inside)
    if chosen == rejected:
        raise UsageError(f"{place}: \"chosen\" and \"rejected\" differ in white space alone: delete the row")
    return Pair(prompt, chosen, rejected, _margin(place, row.get("margin")))


def _cell(place, value):
    """A cell as text, or as a list of (role, content). A CSV keeps messages as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            listed = json.loads(value)
        except (ValueError, RecursionError):
            listed = None
        if isinstance(listed, list) and all(isinstance(m, dict) and "role" in m for m in listed):
            value = listed
    return messages_of(place, value) if isinstance(value, list) else text_of(place, value).strip()


def _split(place, chosen, rejected, implicit):
    """(messages that both begin with, chosen text, rejected text)."""
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise UsageError(f"{place}: of \"chosen\" and \"rejected\" one is text, the other messages: write both alike")
    if isinstance(chosen, str):
        if not implicit:
            return [], chosen, rejected
        chosen, rejected = _spoken(chosen), _spoken(rejected)
        if not (chosen and rejected):
            raise UsageError(f"{place} has no column \"prompt\", and its texts hold none: add the column")
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    ends = chosen[same:], rejected[same:]
    if any([role for role, _ in end] != ["assistant"] for end in ends):
        raise UsageError(f"{place}: \"chosen\" and \"rejected\" must be the same talk up to the last message, the "
                         "assistant's: mend or delete the row")
    return chosen[:same], ends[0][0][1].strip(), ends[1][0][1].strip()


def _spoken(text):
    """The messages of a text in the form of hh-rlhf, or None."""
    parts = _SPEAKER.split(text)
    if len(parts) < 5 or parts[0].strip():
        return None
    return [(_SPEAKERS[name], said) for name, said in zip(parts[1::2], parts[2::2], strict=True)]


def _prompt(place, given, inside):
    """The prompt as text, from its own column (text, messages or None) and from what both texts begin with."""
    if given is None and not inside:
        raise UsageError(f"{place} has no prompt: add a column \"prompt\", or put the user's message before the answers")
    if isinstance(given, str) and not inside:
        return given
    if given is not None and inside:
        agrees = inside[:len(given)] == given if isinstance(given, list) else any(
            role == "user" and content.strip() == given for role, content in inside)
        if not agrees:
            raise UsageError(f"{place}: the column \"prompt\" says something else than the messages before the answers: "
                             "keep one of them")
    messages = inside or given
    if messages[-1][0] != "user":
        raise UsageError(f"{place}: the prompt ends with the {messages[-1][0]}'s message: it must end with the user's")
    return talk(messages)


def _margin(place, value):
    if value is None or value == "":
        return 0.0
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{place}, column \"margin\": {kind(value)}, not a number: write u(chosen) − u(rejected), or "
                         "nothing where it is unknown")
    return number
