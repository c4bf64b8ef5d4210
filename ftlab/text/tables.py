"""Tables of the user's own: JSON lines, JSON, CSV, TSV, Parquet, Arrow, a folder of them or a Hub dataset, row by row.

What the columns mean is the business of others (`ftlab.text.forms`, `ftlab.align.preferences`); what they share to
check cells is here too. Whatever is wrong is said in one line that names the file, the row and the column.
"""

import ast
import csv
import io
import json
import math
import os
import pathlib
import re

from ftlab import online
from ftlab.errors import UsageError
from ftlab.text import sources

MAX_BYTES = sources.MAX_BYTES
SUFFIXES = sources.TABLES
# Under these names a JSON object holds the rows of a data set, and none of them is a row's column.
_WRAPPERS = ("rows", "data", "train", "examples", "instances", "records", "samples", "dataset")
_NO_WRAPPERS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "contents", "items",
                "chat_messages", "tools", "functions", "segments", "answers", "chosen", "rejected", "prompt", "completion",
                "history", "preferred_output", "non_preferred_output")  # fmt: skip
_SPEAKERS = ("role", "from", "speaker", "sender", "author")
_DELIMITERS = (",", ";", "\t", "|")
# What `save_to_disk` and the Hub put beside a data set's files.
_NO_TABLES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json", "metadata.json")


class TornLine(UsageError):
    """The last line of a file of JSON lines is not whole: it is no JSON, and no line break ends it."""


class Unusable:
    """In place of a row that a file's form already spoils (a line that is no JSON). why: what is wrong with it."""

    def __init__(self, why):
        self.why = why


def table_rows(source, max_bytes=MAX_BYTES, say=lambda line: None, warn=None):
    """("line 3", row) of each row of `source`: a file, a folder of files, or a Hub dataset ("owner/name" or
    "owner/name:config", its split "train"). A row is mostly a dict; it may be an `Unusable`, or any other JSON value.

    NaN is None. say: called with lines of progress; warn (default: say): with lines about what was not read as it is.
    Raises UsageError, one line that says where and what to do; some only when the row is reached.
    """
    source, warn = os.fspath(source), warn or say
    if not source.strip():
        raise UsageError("no data given: name a .jsonl, .json, .csv, .tsv or .parquet file, or a Hub dataset")
    if os.path.isdir(source):
        return _folder_rows(pathlib.Path(source), max_bytes, warn)
    if os.path.lexists(source):
        return file_rows(pathlib.Path(source), max_bytes, warn)
    if is_hub_dataset(source):
        return _hub_rows(source, max_bytes, say)
    raise UsageError(f"{source}: no such file: check the path")


def is_hub_dataset(source):
    """Whether `table_rows` takes `source` for the name of a dataset on the Hub."""
    source = os.fspath(source)
    return not os.path.lexists(source) and sources.is_hub_name(source)


# ---- cells


def text_of(place, value, needed=True):
    """A cell's text as it stands; place: "data.jsonl: line 3, column …". Raises UsageError where it is none."""
    if not isinstance(value, str):
        raise UsageError(f"{place}: {kind(value)}, not text: write a string")
    if needed and not value.strip():
        raise UsageError(f"{place} is empty: fill it in or delete the row")
    if not sources.is_unicode(value):
        raise UsageError(f"{place}: half of a character (a lone surrogate): write the text again as UTF-8")
    return value


def written(value):
    """A number as the text that a reader of the table sees; every other value as it is."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def listed(value):
    """The list or object that a cell's text holds, as JSON or as Python and pandas print it; None where it holds none."""
    if not value.lstrip().startswith(("[", "{")):
        return None
    try:
        return parse_json(value)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def columns_of(row):
    """The names of a row's columns, for messages."""
    return ", ".join(f'"{name}"' for name in row) or "none"


def kind(value):
    """What a cell holds, in words."""
    names = {type(None): "null", bool: "true or false", int: "a number", float: "a number", list: "a list",
             dict: "an object", str: "text"}
    return names.get(type(value), f"a {type(value).__name__}")


def parse_json(text):
    """The JSON value of `text`, NaN (which Python's json and pandas write) as None. Raises ValueError, RecursionError."""
    return _DECODER.decode(text.lstrip("\ufeff"))


_DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name.replace("Infinity", "inf")))


def _clean(value):
    """A value of Parquet or of the Hub with None for NaN, in lists and objects too."""
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    return value


# ---- files


def file_rows(path, max_bytes=MAX_BYTES, warn=lambda line: None, data=None):
    """("line 3", row) of each row of a file. Rows come as their file has them: nothing is checked here but the form."""
    if not path.exists():
        raise UsageError(f"{path}: a link to nowhere: mend the link or name the file itself")
    suffix = sources.suffix_of(path)
    try:
        data = sources.read_bytes(path, max_bytes) if data is None else data
        if data.startswith(b"PAR1"):
            return _parquet_rows(path, data)
        if suffix == ".parquet":
            raise UsageError(f"{path}: no Parquet file, whatever its name says: write it again or name it rightly")
        if suffix == ".arrow":
            return _arrow_rows(path, data)
        if suffix not in SUFFIXES:
            text = sources.decode(path, data)  # what it is instead, where that is known, helps more
            if not looks_like_json(text):
                raise UsageError(f"{path}: of no known kind: name a {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
        else:
            text = sources.decode_table(path, data, warn)
    except sources.PassedOver as error:
        raise UsageError(str(error)) from None
    if not text.strip():
        raise UsageError(f"{path}: holds nothing but white space: give a file with examples in it")
    if suffix in (".csv", ".tsv"):
        return _csv_rows(path, text, suffix)
    return _json_rows(path, text, suffix, warn)


def looks_like_json(text):
    """Whether a text of any name is JSON: one value, or an object on its first line."""
    head = text.lstrip()
    if not head.startswith(("{", "[")):
        return False
    for part in (head.split("\n", 1)[0], head):
        try:
            return isinstance(parse_json(part), (dict, list))
        except (ValueError, RecursionError):
            continue
    return False


def _folder_rows(folder, max_bytes, warn):
    """The rows of the tables in a folder; of a data set's splits only those for training, as on the Hub."""
    files = sorted(path for path in folder.rglob("*") if sources.suffix_of(path) in SUFFIXES and path.is_file()
                   and path.name not in _NO_TABLES and not any(p.startswith(".") for p in path.relative_to(folder).parts))
    if not files:
        raise UsageError(f"{folder}: a folder: name one file ({', '.join(SUFFIXES)}), or a folder that holds such files")
    names = {path: str(path.relative_to(folder)).lower() for path in files}
    training = [path for path in files if re.search(r"(^|[^a-z])train", names[path])]
    others = [path for path in files if re.search(r"(^|[^a-z])(test|valid|validation|dev|eval|heldout)", names[path])
              and path not in training]
    if training:
        others = [path for path in files if path not in training]
    files = [path for path in files if path not in others] or files
    if others and len(files) + len(others) == len(names):
        warn(f"{folder}: read {', '.join(str(p.relative_to(folder)) for p in files[:3])}{' …' * (len(files) > 3)}; not read: "
             f"{', '.join(str(p.relative_to(folder)) for p in others[:3])}{' …' * (len(others) > 3)}")
    left = max_bytes
    for path in files:
        left -= path.stat().st_size
        if left < 0:
            raise UsageError(f"{path}: with the files before it, more than {sources.size_text(max_bytes)}: give less")
        for where, row in file_rows(path, max_bytes, warn):
            yield f"{path.relative_to(folder)}, {where}", row


# ---- JSON


def _json_rows(path, text, suffix, warn):
    """Rows of JSON in any layout, whatever the suffix: a list, an object that holds one, or an object a line."""
    head, lines = text.lstrip()[:1], suffix in (".jsonl", ".ndjson")
    if head in ("[", "{"):
        try:
            value = parse_json(text)
        except (ValueError, RecursionError) as error:
            if head == "[" and not lines and not _is_json(text.lstrip().split("\n", 1)[0]):
                at = f" (line {error.lineno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
                raise UsageError(f"{path}: not JSON{at}: it must be one list of objects, or one object a line") from None
        else:
            on_a_line = lines and "\n" not in text.strip() and isinstance(value, list)
            if not on_a_line or _holds_rows(value) or all(isinstance(item, list) for item in value):
                rows = _unwrapped(path, value, warn)
                label = "line" if lines and rows == [value] else "row"
                return ((f"{label} {number}", row) for number, row in enumerate(rows, 1))
    if head == "{" and not _is_json(text.lstrip().split("\n", 1)[0].rstrip().rstrip(",")):
        rows = _objects_after_each_other(text)
        if rows:
            return ((f"object {number}", row) for number, row in enumerate(rows, 1))
    return _jsonl_rows(path, text)


def _is_json(text):
    try:
        parse_json(text)
    except (ValueError, RecursionError):
        return False
    return True


def _holds_rows(value):
    """Whether a list in JSON holds rows; a talk on a single line holds messages."""
    return bool(value) and isinstance(value[0], dict) and not any(key in value[0] for key in _SPEAKERS)


def _jsonl_rows(path, text):
    lines = text.split("\n")
    last = len(lines)  # a file that ends with a line break has an empty line there
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            try:
                row = parse_json(line.rstrip().removesuffix(","))  # a line cut out of a list
            except (ValueError, RecursionError):
                why = f" ({error.msg}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
                why = f"is not JSON{why}: each line must be one JSON object"
                if number == last:
                    raise TornLine(f"{path}: line {number} {why}; the file may be cut off there") from None
                row = Unusable(why)
        yield f"line {number}", row


def _objects_after_each_other(text):
    """The JSON values that follow each other in `text`, each over several lines; [] where it is not made of such."""
    found, between = [], re.compile(r"[\s,]*")
    at = between.match(text).end()
    try:
        while at < len(text):
            value, at = _DECODER.raw_decode(text, at)
            found.append(value)
            at = between.match(text, at).end()
    except (ValueError, RecursionError):
        return []
    return found


def _unwrapped(path, value, warn):
    """The rows in a JSON value: a list's items, the list inside an object, or columns of cells put together."""
    if isinstance(value, list):
        if value and all(_is_message(item) for item in value):
            return [value]  # the messages of one talk
        return [row["row"] if isinstance(row, dict) and "row_idx" in row and isinstance(row.get("row"), dict) else row
                for row in value]
    if not isinstance(value, dict):
        return [value]
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):  # pandas, orient="split"
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
    tables = [key for key, item in value.items() if key.lower() not in _NO_WRAPPERS and isinstance(item, list)
              and all(isinstance(row, dict) for row in item) and _holds_rows(item)]
    wanted = [key for name in _WRAPPERS for key in tables if key.lower() == name] or tables * (len(tables) == 1)
    name = wanted[0] if wanted else None
    if name is not None and not any(key.lower() in _NO_WRAPPERS for key in value):
        others = [key for key in tables if key != name and key != "features"]
        if others:
            warn(f"{path}: read the list \"{name}\"; not read: {', '.join(others)}")
        return _unwrapped(path, value[name], warn)
    return _from_columns(value) or [value]


def _is_message(item):
    """Whether this is a message and no row: it says who speaks and what, and names no other message."""
    speaks = isinstance(item, dict) and any(key in item for key in _SPEAKERS) and ("content" in item or "value" in item)
    return speaks and not any("parent" in key for key in item)


def _from_columns(value):
    """Rows of {column: {row: cell}} (pandas) or {column: [cell, …]}, or None."""
    cells = list(value.values())
    if len(cells) > 1 and all(isinstance(c, dict) and c and c.keys() == cells[0].keys() for c in cells):
        if all(key.isdigit() for key in cells[0]):
            return [{name: column[key] for name, column in value.items()} for key in cells[0]]
    if cells and all(isinstance(c, list) and len(c) == len(cells[0]) for c in cells) and any(
            c and all(isinstance(item, str) for item in c) for c in cells):
        return [dict(zip(value, row, strict=True)) for row in zip(*cells, strict=True)]
    return None


# ---- CSV


def _csv_rows(path, text, suffix):
    start, text, delimiter = _separator(text, suffix)
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header, line = None, start
    try:
        for cells in reader:
            where, line = f"line {line}", reader.line_num + start
            if not any(cell.strip() for cell in cells):
                continue  # an empty line, or a row in which a spreadsheet left nothing
            if header is None:
                header = [name.strip().strip("\ufeff") for name in cells]
                twice = next((name for name in header if name and header.count(name) > 1), None)
                if twice is not None:
                    raise UsageError(f"{path}: {where}: the column \"{twice}\" stands there twice: rename one")
                continue
            yield where, _csv_row(header, cells)
    except csv.Error as error:
        raise UsageError(f"{path}: line {line} is no CSV ({error}): check its double quotes") from None


def _separator(text, suffix):
    """(the number of the header's line, the text from there, the delimiter): by "sep=", else by the header."""
    lines = text.split("\n")
    first = next((i for i, line in enumerate(lines) if line.strip()), 0)
    told = re.fullmatch(r'"?sep=(.)"?[,;\t]*', lines[first].strip(" \ufeff"), re.I)
    if told:
        return first + 2, "\n".join(lines[first + 1:]), told.group(1)
    header = lines[first]
    candidates = ("\t", *_DELIMITERS) if suffix == ".tsv" else _DELIMITERS
    counts = {mark: len(next(csv.reader([header], delimiter=mark), [])) for mark in candidates}
    if suffix == ".tsv" and counts["\t"] > 1:
        return 1, text, "\t"
    return 1, text, max(counts, key=lambda mark: counts[mark])  # the first of those with as many


def _csv_row(header, cells):
    """The row as a dict. Cells without a column's name are kept under "" where they hold something."""
    if len(cells) != len(header):
        spare, missing = cells[len(header):], header[len(cells):]
        if any(cell.strip() for cell in spare) or any(missing):
            return Unusable(f"has {len(cells)} columns, the header has {len(header)}: put text that holds separators or line "
                            "breaks in double quotes")
    pairs = list(zip(header, cells, strict=False))
    row = {name: cell for name, cell in pairs if name}
    return row | ({"": cells} if any(cell.strip() for name, cell in pairs if not name) else {})


# ---- Parquet and Arrow


def _parquet_rows(path, data):
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"{path}: reading Parquet needs the package pyarrow: pip install pyarrow") from None
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data)).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"row {number}", _clean(row)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: a damaged Parquet file ({reason}): write it again") from None


def _arrow_rows(path, data):
    try:
        import pyarrow
    except ImportError:
        raise UsageError(f"{path}: reading Arrow needs the package pyarrow: pip install pyarrow") from None
    try:
        is_file = data.startswith(b"ARROW1")
        reader = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(pyarrow.BufferReader(data))
        rows = reader.read_all().to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path}: a damaged Arrow file ({reason}): write it again") from None
    for number, row in enumerate(rows, 1):
        yield f"row {number}", _clean(row)


# ---- the Hub


def _hub_rows(source, max_bytes, say):
    name, _, config = source.partition(":")
    size = 0
    for number, row in enumerate(online.rows(name, config, "name a local file", say), 1):
        size += _bytes_in(row)
        if size > max_bytes:
            say(f"stopped at the limit of {sources.size_text(max_bytes)}: the dataset holds more")
            return
        yield f"row {number}", _clean(row)


def _bytes_in(value):
    """How much text a row holds, in its lists and objects too."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "replace"))
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_bytes_in, value)) if isinstance(value, list) else 0
