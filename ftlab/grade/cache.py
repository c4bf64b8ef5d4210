"""Results kept by content, so that nothing is graded twice: what a stopped run leaves, the next one finds.

    OUT/.cache/<key>.json     the result of one content; names no student
    OUT/.cache/journal.jsonl  one line for each file seen ("file" -> "key") and each result graded ("graded" -> seconds)
    OUT/.cache/expected-<basis>.json  what our solution of a lab gives on the hidden inputs, for each kind of machine
    OUT/.cache/attempts.json  which contents each student has handed in for each lab, for `--keep-best`

A result's key is a hash of all that it depends on: the course's release, the versions of what runs it, the instructor's
secret, whether there were walls, and what the grader takes from the submission (not its outputs, name or time).
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil

from ftlab import profile
from ftlab.course import catalogue
from ftlab.errors import UsageError
from ftlab.files import read_json, write_json

PACKAGES = ("torch", "transformers", "tokenizers", "peft", "numpy", "ipykernel", "nbval")


class Store:
    """The folder `out`/.cache, a context manager; one process at a time may have it open."""

    def __init__(self, out):
        self.folder = pathlib.Path(out) / ".cache"
        self.journal = self.folder / "journal.jsonl"

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            line = f"another ftlab grade is writing to {self.folder.parent}: wait for it, or name another --out"
            raise UsageError(line) from None
        self._keys = {line["file"]: line["key"] for line in self.lines() if "file" in line}
        self._attempts = self._read_attempts()
        self._mend_journal()
        return self

    def __exit__(self, *exception):
        self._lock.close()  # the lock goes with it

    @contextlib.contextmanager
    def scratch(self):
        """A folder for what is unpacked; what a killed run left there goes first."""
        folder = self.folder / "submissions"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def load(self, key):
        """The result with this key, or None."""
        try:
            result = read_json(self._path(key))
        except (OSError, ValueError):
            return None  # none yet, or damaged: it is graded again
        return result if isinstance(result, dict) and "exercises" in result else None

    def has(self, key):
        return self._path(key).exists() and self.load(key) is not None

    def save(self, key, result):
        """Keep `result` under `key`, whole or not at all."""
        write_json(self._path(key), result)
        self._note({"graded": key, "lab": result["lab"], "seconds": result.get("seconds")})

    def expected(self, basis):
        """{place: records} that were found for this basis: what `one.take_records` takes."""
        with contextlib.suppress(OSError, ValueError):
            return dict(read_json(self.folder / f"expected-{basis}.json"))
        return {}

    def save_expected(self, basis, expected):
        """Keep them, for the owner of the folder only, as the secret is."""
        write_json(self.folder / f"expected-{basis}.json", expected, private=True)

    def key_of(self, file):
        """The key that a file (the hash of its bytes and of what else its result depends on) had, or None."""
        return self._keys.get(file)

    def note_key(self, file, key):
        self._keys[file] = key
        self._note({"file": file, "key": key})

    def attempts(self, student, lab):
        """What this student handed in for this lab so far: list of dict(key, basis, modified, late), oldest first."""
        return list(self._attempts.get(f"{student}\n{lab}", ()))

    def note_attempts(self, attempts):
        """Keep {(student, lab): dict(key, basis, modified, late)}, each once."""
        for (student, lab), attempt in attempts.items():
            known = self._attempts.setdefault(f"{student}\n{lab}", [])
            if attempt not in known:
                known.append(attempt)
        write_json(self.folder / "attempts.json", self._attempts)

    def lines(self):
        """The journal's lines as dicts; a line that a kill cut off is left out."""
        found = []
        with contextlib.suppress(FileNotFoundError), open(self.journal, encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    value = json.loads(line)
                    if isinstance(value, dict):
                        found.append(value)
        return found

    def _read_attempts(self):
        try:
            return dict(read_json(self.folder / "attempts.json"))
        except (OSError, ValueError, TypeError):
            return {}

    def _mend_journal(self):
        """A line that a kill cut off gets its end, so that the next one does not run into it."""
        with contextlib.suppress(FileNotFoundError), open(self.journal, "rb+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")

    def _note(self, line):
        # One write of one short line: the journal only ever grows, and what a kill cuts off is skipped when it is read.
        with open(self.journal, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _path(self, key):
        return self.folder / f"{key}.json"


def hash_of(value):
    """A SHA-256, in hex, of bytes or of a JSON value."""
    if not isinstance(value, bytes):
        value = json.dumps(value, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.sha256(value).hexdigest()


def secret_id(secret):
    """What tells one secret from another and gives neither away."""
    return hash_of(b"ftlab grade secret\0" + secret.encode())[:16]


@functools.cache
def release(lab):
    """A hash of the course's release as `lab` is graded by it: the lab's source and the package's code."""
    digest = hashlib.sha256()
    source = catalogue.SOLUTIONS / f"{lab}.py"
    for path in [*([source] if source.exists() else []), *sorted(catalogue.PACKAGE.rglob("*.py"))]:
        digest.update(f"{path.relative_to(catalogue.ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def versions():
    """{"python": ..., "torch": ..., ...} of what is installed here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def place():
    """What may change the last digits of a result: processor and libraries, as text."""
    libraries = [f"{name} {version}" for name, version in versions().items()]
    return ", ".join([platform.system(), platform.machine(), profile.isa(load=False), *libraries])


def basis(lab, secret, unsafe=False):
    """A hash of all that a result of `lab` depends on besides the submission."""
    return hash_of([release(lab), versions(), secret_id(secret), bool(unsafe)])


def open_secret(path):
    """The secret in the file at `path`; made there, readable by its owner only, where there is none.

    Raises UsageError for an empty file, or one that cannot be read or written.
    """
    import secrets

    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(16) + "\n")
        secret = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the secret's file {path} cannot be used ({reason}): name another with --secret") from None
    if len(secret) < 8:
        raise UsageError(f"the secret in {path} has fewer than 8 characters: remove the file, and a new one is made")
    return secret
