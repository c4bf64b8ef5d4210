"""Bytes and text of one file, whatever it is named: what the readers of text (`corpus`) and of tables (`tables`) share.

A compressed file (gzip, bzip2, xz) is read as what it holds.
"""

import bz2
import gzip
import io
import lzma
import pathlib
import re
import stat
import zlib

from ftlab.errors import UsageError

MAX_BYTES = 256 * 2**20
TABLES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
COMPRESSED = (".gz", ".bz2", ".xz")
_HUB_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(:[\w.-]+)?")
_TEXTS = {".txt", ".md", ".py", ".rst", ".text", ".html", ".tex"}
_MAGIC = (
    (b"%PDF", "a PDF: convert it to text first, such as with pdftotext"),
    (b"PK\x03\x04", "a zip archive or an office document: unpack it or save it as plain text"),
    (b"{\\rtf", "a word processor's document (RTF): save it as plain text"),
    (b"\xd0\xcf\x11\xe0", "an old office document: save it as plain text, or a spreadsheet as CSV"),
    (b"(\xb5/\xfd", "compressed with zstd: unpack it first, with unzstd"),
)
_OPENERS = {
    b"\x1f\x8b": (gzip.open, "gzip", "gunzip"),
    b"BZh": (bz2.open, "bzip2", "bunzip2"),
    b"\xfd7zXZ": (lzma.open, "xz", "unxz"),
}


class PassedOver(Exception):
    """A file that holds nothing we can read: `kind` for counting, the message for a user who named it."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def suffix_of(path) -> str:
    """The suffix that says what a file holds, in small letters, without that of a compression: ".csv" of A.CSV.gz."""
    path = pathlib.Path(path)
    if path.suffix.lower() in COMPRESSED:
        path = path.with_suffix("")
    return path.suffix.lower()


def read_bytes(path, max_bytes, of_many=False) -> bytes:
    """The bytes of a file, unpacked where it is compressed. Raises PassedOver, and UsageError where there are too many."""
    try:
        # Look before opening: opening a fifo or a device can block for ever.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PassedOver("special", f"{path}: {_kind(status.st_mode)}, not a file: name a text file or a folder")
        if status.st_size == 0:
            raise PassedOver("empty", f"{path}: is empty: name a file with text in it")
        if status.st_size > max_bytes:
            raise _too_large(path, max_bytes, size_text(status.st_size), of_many)
        data = path.read_bytes()
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror}): check its permissions"
        raise PassedOver("unreadable", message) from None
    return _unpacked(path, data, max_bytes, of_many)


def _too_large(path, max_bytes, size, of_many):
    of = "with the files before it, " if of_many else ""
    return UsageError(f"{path}: {of}more than the limit of {size_text(max_bytes)} left for it ({size}): give less text")


def _unpacked(path, data, max_bytes, of_many):
    opener = next((found for magic, found in _OPENERS.items() if data.startswith(magic)), None)
    if opener is None:
        return data
    unpack, name, command = opener
    try:
        data = unpack(io.BytesIO(data)).read(max_bytes + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = " ".join(str(error).split())[:100]
        raise PassedOver("binary", f"{path}: compressed with {name}, and damaged ({reason}): fetch it again, or try "
                                   f"{command}") from None
    if len(data) > max_bytes:
        raise _too_large(path, max_bytes, "unpacked", of_many)
    if not data:
        raise PassedOver("empty", f"{path}: is empty: name a file with text in it")
    return data


def _kind(mode):
    names = ((stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISDIR, "a folder"))
    return next((name for test, name in names if test(mode)), "a device")


def size_text(count) -> str:
    """A number of bytes, for messages."""
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count:,} bytes"


def decode(path, data) -> str:
    """The text in `data`, line ends as \\n. Raises PassedOver where it is not UTF-8."""
    for magic, what in _MAGIC:
        if data.startswith(magic):
            raise PassedOver("binary", f"{path}: not plain text but {what}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PassedOver("binary", f"{path}: not plain text but UTF-16: convert it first, with iconv -f UTF-16 -t UTF-8")
    at = data.find(b"\0")
    if at >= 0:
        raise PassedOver("binary", f"{path}: binary, not text (a zero byte at offset {at}): name a text file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The decoder of utf-8-sig counts from after the mark.
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        message = (
            f"{path}: not UTF-8 at byte offset {at} (0x{data[at]:02x}): convert it first, "
            "such as with iconv -f ISO-8859-1 -t UTF-8"
        )
        raise PassedOver("not UTF-8", message) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decode_table(path, data, warn=lambda line: None) -> str:
    """The text of a table, as `decode`; besides, UTF-16 with its mark, and of CSV what a spreadsheet saves on Windows."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return data.decode("utf-16").replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            raise PassedOver("binary", f"{path}: begins as UTF-16, but is damaged: save it again, as UTF-8") from None
    try:
        return decode(path, data)
    except PassedOver as error:
        if error.kind != "not UTF-8" or suffix_of(path) not in (".csv", ".tsv", ".txt") or _mostly_utf8(data):
            raise
    warn(f"{path}: not UTF-8; read as Windows-1252 (Western European): where letters look wrong, save it as UTF-8")
    text = data.decode("cp1252", errors="replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _mostly_utf8(data):
    """Whether this is UTF-8 with a few damaged bytes, and no other encoding: then another would spoil all the rest."""
    text = data.decode("utf-8", errors="replace")
    wrong = text.count("\ufffd")
    return sum(ord(char) > 127 for char in text) - wrong >= wrong


def is_hub_name(source) -> bool:
    """Whether `source`, which is no path here, can only be meant as a dataset's name on the Hub."""
    if not _HUB_NAME.fullmatch(source) or pathlib.Path(source).suffix.lower() in COMPRESSED:
        return False
    if suffix_of(source) in _TEXTS or suffix_of(source) in TABLES:
        return False
    return not pathlib.Path(source.split("/")[0]).is_dir()


def is_unicode(text) -> bool:
    """Whether `text` can be written as UTF-8: whether it has no lone surrogate, which JSON's escapes can make."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
