"""The user's own text: files, folders, globs, Hub datasets and Python's docstrings, read into a list of documents.

Of tables (JSON, CSV, Parquet and what else `ftlab.text.tables` reads), notebooks and web pages the text is read, and none of
the syntax around it. Left out: PDF, office documents, archives, and near-duplicate removal.
"""

import argparse
import ast
import glob
import os
import pathlib
import re
import sys
import sysconfig
import time
import warnings

from ftlab.errors import UsageError
from ftlab.files import atomic_write_text
from ftlab.text import sources
from ftlab.text.examples import read_documents
from ftlab.text.markup import notebook_texts, page_text
from ftlab.text.reading import NoForm
from ftlab.text.sources import MAX_BYTES, PassedOver
from ftlab.text.tables import TornLine, looks_like_json

DOCSTRINGS = "python:docstrings"
# A line that holds only this ends a document, as in the plain-text releases of many corpora (TinyStories).
SEPARATOR = "<|endoftext|>"
# About as much English as fits in 512 tokens; longer documents are split, so that no text falls behind a cut row.
DOCUMENT_CHARS = 2000
NAMED = 3  # of the files of a folder that had something to be said of, so many are named
_PAGES = (".html", ".htm", ".xhtml")
# Formats whose marks stand between the words and are learned with them.
_MARKED = (".xml", ".svg", ".yaml", ".yml", ".toml", ".ini", ".srt", ".vtt", ".bib", ".log")


def read_texts(source, *, min_chars=20_000, max_bytes=MAX_BYTES, document_chars=DOCUMENT_CHARS, progress=None, warn=None):
    """The documents of `source`, as a list of non-empty strings without surrounding white space.

    source: a file of any text, or a table (.jsonl, .json, .csv, .tsv, .parquet and others, in any case; see
        `read_documents`); a folder (recursively; hidden files and files that hold no text are passed over), a glob,
        "python:docstrings", or a dataset on the Hugging Face Hub, "owner/name" or "owner/name:config".
    min_chars: fewer characters in all are refused. max_bytes: more are refused (a Hub dataset is read up to there).
    document_chars: a document that is longer is split at paragraphs, else at lines, sentences or words.
    progress: called with one line of text now and then, and at the end with what was read and passed over; warn (default:
    progress): with the lines that name what was not used.

    A line that holds only `<|endoftext|>` separates documents within a file. Raises UsageError when the source is
    missing, empty, too small, too large, binary, not UTF-8, not readable or no file at all.
    """
    source = os.fspath(source)
    say = progress or (lambda line: None)
    warn = warn or say
    if not source.strip():
        raise UsageError("no text given: name a file, a folder, a glob or a Hub dataset (owner/name)")
    if source == DOCSTRINGS:
        texts = python_docstrings(progress=progress)
    elif os.path.lexists(source):
        texts = _read_path(pathlib.Path(source), max_bytes, say, warn)
    elif glob.has_magic(source):
        texts = _read_glob(source, max_bytes, say, warn)
    elif sources.is_hub_name(source):
        texts = read_documents(source, max_bytes=max_bytes, progress=say, warn=warn)
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


def _read_path(path, max_bytes, say, warn):
    try:
        path.stat()
    except FileNotFoundError:
        raise UsageError(f"{path}: a link to nowhere: mend the link or name the file itself") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}): check the path and its permissions") from None
    if path.is_dir():
        hidden = [0]
        files = list(_folder_files(path, hidden))
        return _read_many(str(path), files, max_bytes, say, warn, hidden[0])
    try:
        return _read_file(path, max_bytes, say, warn)
    except PassedOver as error:
        raise UsageError(str(error)) from None


def _read_glob(pattern, max_bytes, say, warn):
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
    return _read_many(pattern, files, max_bytes, say, warn, hidden[0])


def _folder_files(folder, hidden):
    """Files under `folder` in a stable order; counts the hidden ones that it passes over in `hidden[0]`."""

    def refuse(error):
        if pathlib.Path(error.filename) == folder:
            raise UsageError(f"{folder}: cannot be opened ({error.strerror}): check its permissions")

    for place, folders, files in os.walk(folder, onerror=refuse):
        hidden[0] += sum(name.startswith(".") for name in folders + files)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        yield from (pathlib.Path(place, name) for name in sorted(files) if not name.startswith("."))


def _read_many(source, files, max_bytes, say, warn, hidden):
    """The texts of `files`, passing over what is no text, with one line that counts it."""
    texts, left, passed, report, notes = [], max_bytes, {}, _Every(2.0), []
    for number, path in enumerate(files, 1):
        try:
            found = _read_file(path, left, lambda line: None, lambda line, path=path: notes.append((path, line)), of_many=True)
        except PassedOver as error:
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
    for path, line in notes[:NAMED]:
        warn(line if str(path) in line else f"{path}: {line}")
    if len(notes) > NAMED:
        warn(f"… and {len(notes) - NAMED:,} such lines of other files")
    return texts


def _read_file(path, max_bytes, say, warn, of_many=False):
    """The documents in one file. Raises PassedOver where it holds no text, UsageError where it is too large."""
    data = sources.read_bytes(path, max_bytes, of_many)
    suffix = sources.suffix_of(path)
    if suffix in sources.TABLES or data.startswith(b"PAR1"):
        return _table_texts(path, max_bytes, say, warn, of_many)
    text = sources.decode(path, data)
    if suffix == ".ipynb":
        texts = notebook_texts(path, text)
    elif suffix in _PAGES:
        texts = [page_text(text)]
    elif suffix in ("", ".txt", ".text", ".dat") and looks_like_json(text):
        return _table_texts(path, max_bytes, say, warn, of_many)
    else:
        texts = [part.strip() for part in re.split(rf"(?m)^{re.escape(SEPARATOR)}[ \t]*$", text)]
    if suffix in _MARKED:
        warn(f"{path}: taken as plain text, with the marks of its format ({suffix})")
    texts = [part for part in texts if part]
    if not texts:
        raise PassedOver("empty", f"{path}: holds nothing but white space: name a file with text in it")
    return texts


def _table_texts(path, max_bytes, say, warn, of_many):
    try:
        return read_documents(path, max_bytes=max_bytes, progress=say, warn=warn)
    except UsageError as error:
        if not of_many:
            raise
        kind = "without a text column" if isinstance(error, NoForm) else "not JSON lines" if isinstance(error, TornLine) else (
            "without a row that can be used")
        raise PassedOver(kind, str(error)) from None


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
            if len(text) >= 20 and sources.is_unicode(text):
                yield text


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
