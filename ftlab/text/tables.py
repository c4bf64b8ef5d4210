"""Tables of the user's own: JSON lines, JSON, CSV, TSV, Parquet or a Hub dataset, read row by row as plain dicts.

What the columns mean is the business of others (`ftlab.text.examples`, `ftlab.align.preferences`); what they share to
check cells is here too. Whatever is wrong is said in one line that names the file, the row and the column.
"""

import csv
import io
import json
import os
import pathlib

from ftlab import online
from ftlab.errors import UsageError
from ftlab.text import corpus

MAX_BYTES = corpus.MAX_BYTES
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
ROLES = ("system", "user", "assistant")


class TornLine(UsageError):
    """The last line of a file of JSON lines is not whole: it is no JSON, and no line break ends it."""


def table_rows(source, max_bytes=MAX_BYTES, say=lambda line: None):
    """("line 3", row) of each row of `source`: a file, or a Hub dataset ("owner/name" or "owner/name:config", its split
    "train"). Raises UsageError, one line that says where and what to do; some only when the row is reached.
    """
    source = os.fspath(source)
    if not source.strip():
        raise UsageError("no data given: name a .jsonl, .json, .csv, .tsv or .parquet file, or a Hub dataset")
    if os.path.lexists(source):
        return _file_rows(pathlib.Path(source), max_bytes)
    if is_hub_dataset(source):
        return _hub_rows(source, max_bytes, say)
    raise UsageError(f"{source}: no such file: check the path")


def is_hub_dataset(source):
    """Whether `table_rows` takes `source` for the name of a dataset on the Hub."""
    source = os.fspath(source)
    return not os.path.lexists(source) and not source.lower().endswith(SUFFIXES) and corpus._is_hub_name(source)


# ---- cells


def text_of(place, value, needed=True):
    """A cell's text as it stands; place: "data.jsonl: line 3, column …". Raises UsageError where it is none."""
    if not isinstance(value, str):
        raise UsageError(f"{place}: {kind(value)}, not text: write a string")
    if needed and not value.strip():
        raise UsageError(f"{place} is empty: fill it in or delete the row")
    if not corpus._is_unicode(value):
        raise UsageError(f"{place}: half of a character (a lone surrogate): write the text again as UTF-8")
    return value


def messages_of(place, value):
    """A cell's messages as a list of (role, content); their order is not checked. Raises UsageError where it has none."""
    if isinstance(value, str):  # a CSV has no lists: there they stand as JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UsageError(f"{place} is no JSON: write a list of {{\"role\": …, \"content\": …}}") from None
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind(value)
        raise UsageError(f"{place}: {what}: write a list of {{\"role\": …, \"content\": …}}")
    parts = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict) or not {"role", "content"} <= set(message):
            raise UsageError(f"{place}, message {number}: {kind(message)} without \"role\" and \"content\": "
                             "write both")
        if message["role"] not in ROLES:
            raise UsageError(f"{place}, message {number}: the role is {message['role']!r}: write one of "
                             f"{', '.join(ROLES)}")
        parts.append((message["role"], text_of(f"{place}, message {number}", message["content"])))
    return parts


def columns_of(row):
    """The names of a row's columns, for messages."""
    return ", ".join(f'"{name}"' for name in row) or "none"


def kind(value):
    """What a cell holds, in words."""
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
    lines = text.split("\n")
    last = len(lines)  # a file that ends with a line break has an empty line there
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                why = f" ({error.msg}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
                line_error = TornLine if number == last else UsageError
                raise line_error(f"{path}: line {number} is not JSON{why}: each line must be one JSON object") from None
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
    size = 0
    for number, row in enumerate(online.rows(name, config, "name a local file"), 1):
        size += sum(len(value) for value in row.values() if isinstance(value, str))
        if size > max_bytes:
            say(f"stopped at the limit of {corpus._size(max_bytes)}: the dataset holds more")
            return
        yield f"row {number}", row
