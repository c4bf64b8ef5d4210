"""The user's own text: files, folders, globs, Hub datasets and Python's docstrings, read into a list of documents.

Left out: formats other than text and JSON lines (PDF, HTML, Parquet, archives) and near-duplicate removal.
"""

import argparse
import ast
import glob
import json
import os
import pathlib
import re
import stat
import sys
import sysconfig
import time
import warnings

from ftlab import online
from ftlab.errors import UsageError
from ftlab.files import atomic_write_text

DOCSTRINGS = "python:docstrings"
# A line that holds only this ends a document, as in the plain-text releases of many corpora (TinyStories).
SEPARATOR = "<|endoftext|>"
# About as much English as fits in 512 tokens; longer documents are split, so that no text falls behind a cut row.
DOCUMENT_CHARS = 2000
MAX_BYTES = 256 * 2**20
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(:[\w.-]+)?")
_TEXT_SUFFIXES = {".txt", ".md", ".py", ".rst", ".jsonl", ".text", ".csv", ".tsv", ".json", ".html", ".tex"}
_MAGIC = (
    (b"%PDF", "a PDF: convert it to text first, such as with pdftotext"),
    (b"PK\x03\x04", "a zip archive or an office document: unpack it or save it as plain text"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first, with gunzip"),
    (b"(\xb5/\xfd", "compressed with zstd: unpack it first, with unzstd"),
    (b"BZh", "compressed with bzip2: unpack it first, with bunzip2"),
    (b"PAR1", "Parquet: save its text column as JSON lines first"),
    (b"\xff\xfe", "UTF-16: convert it first, with iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16: convert it first, with iconv -f UTF-16 -t UTF-8"),
)


def read_texts(source, *, min_chars=20_000, max_bytes=MAX_BYTES, document_chars=DOCUMENT_CHARS, progress=None):
    """The documents of `source`, as a list of non-empty strings without surrounding white space.

    source: a file of any text (`.jsonl`: one JSON object a line with a "text" column), a folder (recursively; hidden
        files and files that are not UTF-8 text are passed over), a glob, "python:docstrings", or a dataset on the
        Hugging Face Hub, "owner/name" or "owner/name:config".
    min_chars: fewer characters in all are refused. max_bytes: more are refused (a Hub dataset is read up to there).
    document_chars: a document that is longer is split at paragraphs, else at lines, sentences or words.
    progress: called with one line of text now and then, and at the end with what was read and passed over.

    A line that holds only `<|endoftext|>` separates documents within a file. Raises UsageError when the source is
    missing, empty, too small, too large, binary, not UTF-8, not readable or no file at all.
    """
    source = os.fspath(source)
    say = progress or (lambda line: None)
    if not source.strip():
        raise UsageError("no text given: name a file, a folder, a glob or a Hub dataset (owner/name)")
    if source == DOCSTRINGS:
        texts = python_docstrings(progress=progress)
    elif os.path.lexists(source):
        texts = _read_path(pathlib.Path(source), max_bytes, say)
    elif glob.has_magic(source):
        texts = _read_glob(source, max_bytes, say)
    elif _is_hub_name(source):
        texts = _read_hub(source, max_bytes, say)
    else:
        raise UsageError(f"{source}: no such file or folder: check the path")
    documents = [part for text in texts for part in split_document(text, document_chars)]
    chars = sum(map(len, documents))
    if chars < min_chars:
        raise UsageError(
            f"{source}: {chars:,} characters of text are too few to learn from: give at least {min_chars:,}"
        )
    say(f"{len(documents):,} documents, {chars:,} characters")
    return documents


def split_document(text, max_chars=DOCUMENT_CHARS):
    """`text` as a list of documents of at most `max_chars` characters each, without empty ones.

    Parts follow each other in `text`; only white space between them is lost.
    """
    text = text.strip()
    if len(text) <= max_chars:
        return [text] if text else []
    for border in (r"\n\s*\n", r"\n", r"(?<=[.!?])\s", r"\s"):
        pieces = [piece for piece in _spans(text, border) if piece.strip()]
        if len(pieces) > 1:
            return _gather(pieces, max_chars)
    return [text[i : i + max_chars] for i in range(0, len(text), max_chars)]


def python_docstrings(progress=None):
    """The docstrings of Python's standard library, one a document, in the order of its files, without repeats.

    Text that nobody wrote for this course and that every machine has. Tests and installed packages are skipped.
    Raises UsageError when the library's sources are not there (a zipped or stripped Python).
    """
    say = progress or (lambda line: None)
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    files = sorted(_library_files(root))
    texts, report = {}, _Every(2.0)
    for number, path in enumerate(files, 1):
        for text in _docstrings(path):
            texts.setdefault(text)
        if report():
            say(f"docstrings: {number} of {len(files)} files")
    if not texts:
        raise UsageError(f"no Python sources in {root}: use a Python whose standard library is not zipped")
    return list(texts)


def _spans(text, border):
    """The pieces of `text`, each with the border that follows it, so that joining them gives `text` again."""
    start = 0
    for match in re.finditer(border, text):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def _gather(pieces, max_chars):
    """Join neighbouring pieces up to `max_chars`; a piece longer than that is split at the next finer border."""
    out, held = [], ""
    for piece in pieces:
        if len((held + piece).strip()) <= max_chars:
            held += piece
            continue
        out.append(held.strip())
        held = ""
        if len(piece.strip()) <= max_chars:
            held = piece
        else:
            out.extend(split_document(piece, max_chars))
    out.append(held.strip())
    return [part for part in out if part]


class _Every:
    """True at most once in `seconds`."""

    def __init__(self, seconds):
        self.seconds, self.last = seconds, time.monotonic()

    def __call__(self):
        due = time.monotonic() - self.last >= self.seconds
        if due:
            self.last = time.monotonic()
        return due


# ---- files


class _PassedOver(Exception):
    """A file that holds no text we can read: `kind` for counting, the message for a user who named it."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def _read_path(path, max_bytes, say):
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{path}: a link to nowhere: mend the link or name the file itself") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from None
    if stat.S_ISDIR(mode):
        hidden = [0]
        files = list(_folder_files(path, hidden))
        return _read_many(str(path), files, max_bytes, say, hidden[0])
    try:
        return _read_file(path, max_bytes)
    except _PassedOver as error:
        raise UsageError(str(error)) from None


def _read_glob(pattern, max_bytes, say):
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        raise UsageError(f"{pattern}: no file matches: check the pattern, and quote it from the shell")
    files, hidden = [], [0]
    for match in map(pathlib.Path, matches):
        # With ** a folder's files match by themselves.
        if not match.is_dir():
            files.append(match)
        elif "**" not in pattern:
            files.extend(_folder_files(match, hidden))
    return _read_many(pattern, files, max_bytes, say, hidden[0])


def _folder_files(folder, hidden):
    """Files under `folder` in a stable order; counts the hidden ones that it passes over in `hidden[0]`."""

    def refuse(error):
        if pathlib.Path(error.filename) == folder:
            raise UsageError(f"{folder}: cannot be opened ({error.strerror}): check its permissions")

    for place, folders, files in os.walk(folder, onerror=refuse):
        hidden[0] += sum(name.startswith(".") for name in folders + files)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (pathlib.Path(place, name) for name in sorted(files) if not name.startswith("."))


def _read_many(source, files, max_bytes, say, hidden):
    """The texts of `files`, passing over what is no text, with one line that counts it."""
    texts, left, passed, report = [], max_bytes, {}, _Every(2.0)
    for number, path in enumerate(files, 1):
        try:
            found = _read_file(path, left, of_many=True)
        except _PassedOver as error:
            passed[error.kind] = passed.get(error.kind, 0) + 1
            continue
        left -= sum(len(text.encode()) for text in found)
        texts.extend(found)
        if report():
            say(f"read {number} of {len(files)} files")
    if hidden:
        passed["hidden"] = hidden
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(passed.items()))
    if not texts:
        why = f" ({counts})" if counts else ""
        raise UsageError(f"{source}: no text files found{why}: name a folder with UTF-8 text in it")
    say(f"read {len(files) - sum(passed.values()) + hidden} files" + (f"; passed over {counts}" if counts else ""))
    return texts


def _read_file(path, max_bytes, of_many=False):
    """The documents in one file. Raises _PassedOver where it holds no text, UsageError where it is too large."""
    data = _read_bytes(path, max_bytes, of_many)
    text = _decode(path, data)
    if path.suffix == ".jsonl":
        return _json_lines(path, text)
    texts = [part.strip() for part in re.split(rf"(?m)^{re.escape(SEPARATOR)}[ \t]*$", text)]
    texts = [part for part in texts if part]
    if not texts:
        raise _PassedOver("empty", f"{path}: holds nothing but white space: name a file with text in it")
    return texts


def _read_bytes(path, max_bytes, of_many):
    try:
        # Look before opening: opening a fifo or a device can block for ever.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise _PassedOver("special", f"{path}: {_kind(status.st_mode)}, not a file: name a text file or a folder")
        if status.st_size == 0:
            raise _PassedOver("empty", f"{path}: is empty: name a file with text in it")
        if status.st_size > max_bytes:
            of = "with the files before it, " if of_many else ""
            raise UsageError(
                f"{path}: {of}more than the limit of {_size(max_bytes)} left for it ({_size(status.st_size)}): "
                "give less text"
            )
        return path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}): check its permissions"
        raise _PassedOver("unreadable", message) from None


def _kind(mode):
    names = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return next((name for test, name in names if test(mode)), "a device")


def _size(count):
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count:,} bytes"


def _decode(path, data):
    for magic, what in _MAGIC:
        if data.startswith(magic):
            raise _PassedOver("binary", f"{path}: not plain text but {what}")
    at = data.find(b"\0")
    if at >= 0:
        raise _PassedOver("binary", f"{path}: binary, not text (a zero byte at offset {at}): name a text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder of utf-8-sig counts from behind the mark.
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        message = (
            f"{path}: not UTF-8 at byte offset {at} (0x{data[at]:02x}): convert it first, "
            "such as with iconv -f ISO-8859-1 -t UTF-8"
        )
        raise _PassedOver("not UTF-8", message) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _json_lines(path, text):
    texts = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            message = f"{path}: line {number} is not JSON: each line must be one JSON object"
            raise _PassedOver("not JSON lines", message) from None
        value = row.get("text") if isinstance(row, dict) else row
        if not isinstance(value, str):
            have = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
            message = f'{path}: line {number} has no string in a "text" column (it has: {have}): rename one'
            raise _PassedOver("without a text column", message)
        if value.strip():
            texts.append(value.strip())
    if not texts:
        raise _PassedOver("empty", f"{path}: every row's text is empty: name a file with text in it")
    return texts


# ---- the Hub


def _is_hub_name(source):
    """Whether `source`, which is no path here, can only be meant as a dataset's name on the Hub."""
    if not _HUB_NAME.fullmatch(source) or pathlib.Path(source).suffix.lower() in _TEXT_SUFFIXES:
        return False
    return not pathlib.Path(source.split("/")[0]).is_dir()


def _read_hub(source, max_bytes, say):
    name, _, config = source.partition(":")
    return _take_rows(source, online.rows(name, config, "name a local file or folder"), max_bytes, say)


def _take_rows(source, rows, max_bytes, say):
    texts, size, column, report = [], 0, None, _Every(2.0)
    for row in rows:
        column = column or _text_column(source, row)
        value = row.get(column)
        if not isinstance(value, str) or not value.strip():
            continue
        size += len(value.encode("utf-8", "replace"))
        if size > max_bytes:
            say(f"stopped at the limit of {_size(max_bytes)}: the dataset holds more")
            break
        texts.append(value.strip())
        if report():
            say(f"read {len(texts):,} rows, {_size(size)}")
    if not texts:
        raise UsageError(f"{source}: the dataset's first split holds no text: name another dataset or config")
    return texts


def _text_column(source, row):
    """The column to read: "text" or "content" where there is one, else the longest string of the first row."""
    strings = {name: value for name, value in row.items() if isinstance(value, str)}
    if not strings:
        have = ", ".join(row)
        raise UsageError(f"{source}: no column holds text (it has: {have}): name another dataset or config")
    return next((name for name in ("text", "content") if name in strings), max(strings, key=lambda n: len(strings[n])))


# ---- Python's own documentation


def _library_files(root):
    skip = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib2to3", "ensurepip"}
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        yield from (pathlib.Path(place, name) for name in files if name.endswith(".py"))


def _docstrings(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in docstrings are the library's business
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            text = (ast.get_docstring(node) or "").strip()
            # A line of one or two words teaches nothing.
            if len(text) >= 20 and _is_unicode(text):
                yield text


def _is_unicode(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate written as an escape
        return False
    return True


def main(arguments=None):
    """`python -m ftlab.text.corpus --docstrings OUT.txt`: write them, separated by `<|endoftext|>` lines."""
    parser = argparse.ArgumentParser(
        prog="python -m ftlab.text.corpus",
        description="Write the docstrings of Python's standard library as one text file.",
        epilog="example: python -m ftlab.text.corpus --docstrings docstrings.txt",
    )
    parser.add_argument("--docstrings", metavar="OUT.txt", required=True, help="the file to write")
    out = pathlib.Path(parser.parse_args(arguments).docstrings)
    show = (lambda line: print(line, file=sys.stderr)) if sys.stderr.isatty() else None
    try:
        texts = python_docstrings(progress=show)
        atomic_write_text(out, f"\n{SEPARATOR}\n".join(texts) + "\n")
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {out}: cannot be written ({error.strerror})", file=sys.stderr)
        return 2
    print(f"{out}: {len(texts):,} docstrings, {sum(map(len, texts)):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
