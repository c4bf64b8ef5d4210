"""The user's own examples: JSON lines, JSON, CSV, TSV, Parquet or a Hub dataset, read into a list of `Example`.

Columns: `instruction, response` (and `input`), or `prompt, completion`, or `text`, or `messages` (a list of
{"role", "content"}). Whatever is wrong is said in one line that names the file, the row and the column.
"""

import csv
import dataclasses
import io
import json
import os
import pathlib

from ftlab.errors import UsageError
from ftlab.text import corpus

MAX_BYTES = corpus.MAX_BYTES
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ROLES = ("system", "user", "assistant")
# Other names under which well-known data sets (Alpaca, Dolly) keep the same thing.
ALIASES = {"response": ("response", "output"), "input": ("input", "context")}
HOW = ('"instruction" and "response", or "prompt" and "completion", or "text", or "messages"')


@dataclasses.dataclass(frozen=True)
class Example:
    """What a model is to answer, and how.

    form: "instruction" (instruction, maybe input, response), "completion" (the prompt in `instruction`, its
    continuation in `response`; no template), "text" (all in `response`; no template), "messages" (`messages`, a tuple
    of (role, content)). source: (file, row, {field: column}), where it came from a file.
    """

    instruction: str = ""
    response: str = ""
    input: str = ""
    form: str = "instruction"
    messages: tuple = ()
    source: tuple | None = dataclasses.field(default=None, compare=False, repr=False)

    def as_messages(self):
        """The example as [{"role", "content"}, …]; an input follows its instruction as a section of its own."""
        if self.form == "messages":
            return [{"role": role, "content": content} for role, content in self.messages]
        asked = f"{self.instruction}\n\n### Input:\n{self.input}" if self.input else self.instruction
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": self.response}]

    def place(self):
        """"data.jsonl: line 3", for messages."""
        return f"{self.source[0]}: {self.source[1]}" if self.source else f"the example {self.instruction[:40]!r}"

    def longest_column(self):
        """The column that holds most of the text."""
        if self.form == "messages":
            return "messages"
        field = max(("instruction", "input", "response"), key=lambda name: len(getattr(self, name)))
        return (self.source[2] if self.source else {}).get(field, field)


def from_tasks(tasks):
    """Tasks of `ftlab.world.tasks` as examples."""
    return [Example(task.instruction, task.response, task.input) for task in tasks]


def read_examples(source, *, max_bytes=MAX_BYTES, progress=None):
    """The examples in `source`: a .jsonl, .json, .csv, .tsv or .parquet file, or a Hub dataset ("owner/name" or
    "owner/name:config", its split "train").

    The columns of the first row decide how all are read. progress: called with a line of text at the end.
    Raises UsageError, one line that says where and what to do.
    """
    source = os.fspath(source)
    say = progress or (lambda line: None)
    if not source.strip():
        raise UsageError("no data given: name a .jsonl, .json, .csv, .tsv or .parquet file, or a Hub dataset")
    if os.path.lexists(source):
        rows = _file_rows(pathlib.Path(source), max_bytes)
    elif not source.lower().endswith(SUFFIXES) and corpus._is_hub_name(source):
        rows = _hub_rows(source, max_bytes, say)
    else:
        raise UsageError(f"{source}: no such file: check the path")
    examples, reader = [], None
    for where, row in rows:
        if not isinstance(row, dict):
            raise UsageError(f"{source}: {where} is {_kind(row)}, not an object with columns: write one "
                             '{"instruction": …, "response": …} a row')
        reader = reader or _reader(source, where, row)
        examples.append(reader(source, where, row))
    if not examples:
        raise UsageError(f"{source}: holds no rows: give a file with examples in it")
    say(f"{len(examples):,} examples")
    return examples


# ---- rows


def _reader(source, where, row):
    """The function (source, where, row) -> Example for the columns of the first row."""
    def column(field):
        return next((name for name in ALIASES.get(field, (field,)) if name in row), None)

    if "messages" in row:
        return _messages
    for form, asked, answer in (("instruction", "instruction", "response"), ("completion", "prompt", "completion")):
        if asked in row and column(answer):
            columns = {"instruction": asked, "response": column(answer)}
            if form == "instruction" and column("input"):
                columns["input"] = column("input")
            return lambda source, where, row: _fields(source, where, row, form, columns)
    if "text" in row:
        return lambda source, where, row: _fields(source, where, row, "text", {"response": "text"})
    have = ", ".join(f'"{name}"' for name in row) or "none"
    lacking = next((f'"{answer}" beside "{asked}"' for asked, answer in (("instruction", "response"),
                    ("prompt", "completion")) if asked in row), "the columns to learn from")
    raise UsageError(f"{source}: {where} lacks {lacking} (its columns: {have}): name them {HOW}")


def _fields(source, where, row, form, columns):
    values = {}
    for field, column in columns.items():
        if field == "input" and row.get(column) is None:
            continue  # an input may be left out
        if column not in row:
            have = ", ".join(f'"{name}"' for name in row) or "none"
            raise UsageError(f"{source}: {where} has no column \"{column}\" (its columns: {have}): add it or delete "
                             "the row")
        text = _text(f"{source}: {where}, column \"{column}\"", row[column], field != "input")
        # A template puts its own line breaks around; a text or completion stands as it is.
        values[field] = text.strip() if form == "instruction" else text
    return Example(**values, form=form, source=(source, where, columns))


def _text(place, value, needed=True):
    if not isinstance(value, str):
        raise UsageError(f"{place}: {_kind(value)}, not text: write a string")
    if needed and not value.strip():
        raise UsageError(f"{place} is empty: fill it in or delete the row")
    if not corpus._is_unicode(value):
        raise UsageError(f"{place}: half of a character (a lone surrogate): write the text again as UTF-8")
    return value


def _messages(source, where, row):
    place, messages = f"{source}: {where}, column \"messages\"", row.get("messages")
    if isinstance(messages, str):  # a CSV has no lists: there they stand as JSON
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError):
            raise UsageError(f"{place} is no JSON: write a list of {{\"role\": …, \"content\": …}}") from None
    if not isinstance(messages, list) or not messages:
        what = "an empty list" if messages == [] else _kind(messages)
        raise UsageError(f"{place}: {what}: write a list of {{\"role\": …, \"content\": …}}")
    parts = []
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise UsageError(f"{place}, message {number}: {_kind(message)} without \"role\" and \"content\": "
                             "write both")
        if message["role"] not in ROLES:
            raise UsageError(f"{place}, message {number}: the role is {message['role']!r}: write one of "
                             f"{', '.join(ROLES)}")
        parts.append((message["role"], _text(f"{place}, message {number}", message["content"])))
    roles = [role for role, _ in parts]
    turns = roles[1:] if roles[0] == "system" else roles
    if turns[-1:] != ["assistant"] or any(role != ROLES[1 + i % 2] for i, role in enumerate(turns)):
        raise UsageError(f"{place}: the roles are {', '.join(roles)}: after an optional system message, user and "
                         "assistant must take turns, and the assistant ends")
    return Example(form="messages", messages=tuple(parts), source=(source, where, {}))


def _kind(value):
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list",
             dict: "an object", str: "text"}
    return names.get(type(value), f"a {type(value).__name__}")


# ---- files


def _file_rows(path, max_bytes):
    """("line 3", row) of each row of a file. Rows come as their file has them: nothing is checked here but the form."""
    if path.is_dir():
        raise UsageError(f"{path}: a folder: name one file ({', '.join(SUFFIXES)})")
    if not path.exists():
        raise UsageError(f"{path}: a link to nowhere: mend the link or name the file itself")
    suffix = path.suffix.lower()
    try:
        data = corpus._read_bytes(path, max_bytes, of_many=False)
        if data.startswith(b"PAR1"):
            return _parquet_rows(path)
        if suffix == ".parquet":
            raise UsageError(f"{path}: no Parquet file, whatever its name says: write it again or name it rightly")
        if suffix not in SUFFIXES:
            corpus._decode(path, data)  # what it is instead, where that is known, helps more
            raise UsageError(f"{path}: of no known kind: name a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        text = corpus._decode(path, data)
    except corpus._PassedOver as error:
        raise UsageError(str(error)) from None
    if not text.strip():
        raise UsageError(f"{path}: holds nothing but white space: give a file with examples in it")
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, text, "\t" if suffix == ".tsv" else None)
    if suffix == ".json" and text.lstrip().startswith("["):
        return _json_rows(path, text)
    return _jsonl_rows(path, text)


def _jsonl_rows(path, text):
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = f" ({error.msg}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
                raise UsageError(f"{path}: line {number} is not JSON{why}: each line must be one JSON object") from None
            yield f"line {number}", row


def _json_rows(path, text):
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
        raise UsageError(f"{path}: not JSON{at}: it must be one list of objects, or one object a line") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _csv_rows(path, text, delimiter):
    header_line = text.lstrip("\n").split("\n", 1)[0]
    if delimiter is None:  # spreadsheets in much of Europe write semicolons
        delimiter = ";" if ";" in header_line and "," not in header_line else ","
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, line = None, 1
    try:
        for cells in reader:
            where, line = f"line {line}", reader.line_num + 1
            if not cells:
                continue
            if header is None:
                header = [name.strip() for name in cells]
                twice = next((name for name in header if header.count(name) > 1), None)
                if twice is not None:
                    raise UsageError(f"{path}: {where}: the column \"{twice}\" stands there twice: rename one")
                continue
            if len(cells) != len(header):
                raise UsageError(f"{path}: {where} has {len(cells)} columns, the header has {len(header)}: put text "
                                 "that holds separators or line breaks in double quotes")
            yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UsageError(f"{path}: line {line} is no CSV ({error}): check its double quotes") from None


def _parquet_rows(path):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs the package pyarrow: pip install pyarrow") from None
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: a damaged Parquet file ({reason}): write it again") from None


# ---- the Hub


def _hub_rows(source, max_bytes, say):
    name, _, config = source.partition(":")
    corpus._probe_hub(source, name)
    try:
        import datasets
    except ImportError:
        raise UsageError("reading from the Hub needs the package datasets: pip install datasets") from None
    size = 0
    try:
        for number, row in enumerate(datasets.load_dataset(name, config or None, split="train", streaming=True), 1):
            size += sum(len(value) for value in row.values() if isinstance(value, str))
            if size > max_bytes:
                say(f"stopped at the limit of {corpus._size(max_bytes)}: the dataset holds more")
                return
            yield f"row {number}", row
    except (ValueError, RuntimeError, OSError, LookupError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{source}: the Hub's dataset cannot be read: {reason}") from None
