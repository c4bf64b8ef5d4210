"""A student's notebook file, read within limits. What is stored as output, attachment or widget is left out and does not count.

A file is not to be trusted: only a regular file is opened, at most MAX_FILE bytes of it are read, and no more JSON is parsed
than MAX_BYTES with MAX_TOKENS strings, lists and objects, so that the memory that one file costs is bounded.
"""

import codecs
import json
import os
import re
import stat

MAX_FILE = 200_000_000  # bytes read, outputs included
MAX_BYTES = 20_000_000  # bytes parsed, outputs left out
MAX_TOKENS, MAX_SKIPPED = 1_000_000, 4_000_000  # strings, lists and objects parsed; those passed over in outputs
# What lies before it, then: a string (a key where a colon follows), a bracket, a quote that no other one closes, or the end.
_TOKEN = re.compile(rb'[^"{}\[\]]*+(?:("[^"\\]*+(?:\\.[^"\\]*+)*+")(\s*+:)?|([{}\[\]])|("|\Z))', re.S)
_LEFT_OUT = ([b'"cells"', None, b'"outputs"'], [b'"cells"', None, b'"attachments"'], [b'"metadata"', b'"widgets"'])
_CONFLICT = [re.compile(rf"^{mark}{{7}}(?: .*|\r)?$", re.M) for mark in "<=>"]
_NOT_JSON = "the file is not valid JSON, so it is no notebook (was the upload cut off?)"


class Unreadable(Exception):
    """One line that says why a file cannot be read."""


def read_notebook(path):
    """(the notebook at `path` as a dict, without outputs, attachments and widgets; None), or (None, why it cannot be read)."""
    try:
        return parsed(read_bytes(path)), None
    except Unreadable as problem:
        return None, str(problem)


def read_bytes(path):
    """All bytes of the regular file at `path`. Raises Unreadable, for a pipe, a device, a link or too large a file as well."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise Unreadable("it is no file but a link, a pipe or a device, which is not read")
        with os.fdopen(os.open(path, flags), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable("it is no file but a link, a pipe or a device, which is not read")
            if found.st_size > MAX_FILE:
                raise Unreadable(too_large(found.st_size))
            return file.read(MAX_FILE)
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from None


def too_large(size):
    """The line for a file of `size` bytes, of which MAX_FILE are read at most."""
    return f"the file has {size / 1e6:.0f} MB; a notebook with at most {MAX_FILE / 1e6:.0f} is read (clear its outputs)"


def parsed(data):
    """The notebook in `data` (bytes) as a dict. Raises Unreadable."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):  # saved by an editor that calls it "Unicode"
            data = data.decode(encoding, "replace").encode("utf-8", "replace")
    try:
        text = reduced(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable(_why_not_text(data)) from None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable(_why_not_json(text)) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("cells"), list) or raw.get("nbformat") != 4:
        raise Unreadable("the file is no notebook of format 4: open it in JupyterLab and save it again")
    return raw


def reduced(data):
    """The JSON in `data` (bytes) with outputs, attachments and widgets emptied. Raises Unreadable where it is too large.

    What is emptied is not checked to be JSON. Text that is no JSON comes back as it is, up to the limit.
    """
    parts, done, keys, since, count, skipped = [], 0, [], None, 0, 0
    for match in _TOKEN.finditer(data):
        string, key, bracket, end = match.groups()
        count, skipped = (count, skipped + 1) if since is not None else (count + 1, skipped)
        if count > MAX_TOKENS or skipped > MAX_SKIPPED:
            raise Unreadable("the file's JSON is too large: it has more lists and objects than a notebook of this course")
        if end is not None or (bracket in (b"}", b"]") and not keys):
            break
        if key and keys and since is None:
            keys[-1] = string
        elif bracket in (b"{", b"["):
            if since is None and keys in _LEFT_OUT:
                since = match.start(3), len(keys)
            keys.append(None)
        elif bracket:
            keys.pop()
            if since and len(keys) == since[1]:
                parts += [data[done:since[0] + 1]]
                done, since = match.start(3), None
    rest = b"".join([*parts, data[done:]]) if parts else data
    if len(rest) > MAX_BYTES:
        raise Unreadable(f"the file has {len(rest) / 1e6:.0f} MB without its outputs; a notebook with at most "
                         f"{MAX_BYTES / 1e6:.0f} is read")  # fmt: skip
    return rest


def conflict(text):
    """The number of the line at which git's conflict markers begin in `text`, or None."""
    begin, place = None, 0
    for mark in _CONFLICT:
        found = mark.search(text, place)
        if not found:
            return None
        begin, place = found.start() if begin is None else begin, found.end()
    return text.count("\n", 0, begin) + 1


def _why_not_text(data):
    for start, kind in ((b"PK\x03\x04", "a zip archive"), (b"%PDF", "a PDF"), (b"\x1f\x8b", "a gzip archive"),
                        (b"\x89PNG", "a picture")):  # fmt: skip
        if data.startswith(start):
            return f"the file is {kind} under the name of a notebook"
    return "the file is not text in UTF-8, so it is no notebook"


def _why_not_json(text):
    start = text[:2000].lstrip().lower()
    if not text.strip():
        return "the file is empty, so it is no notebook (was the upload cut off?)"
    if start.startswith(("<!doctype", "<html", "<?xml", "<head")):
        return "the file is a web page under the name of a notebook (a login page?), so it is no notebook"
    if start.startswith("version https://git-lfs"):
        return "the file is a pointer of Git LFS, not the notebook itself"
    line = conflict(text)
    if line:
        return f"git's conflict markers are in the file, from line {line} on (<<<<<<<): the merge was not finished"
    return _NOT_JSON
