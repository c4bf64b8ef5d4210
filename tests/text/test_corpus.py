"""ftlab.text.corpus: the user's own text, with every way in which it can be unfit."""

import ast
import json
import os
import pathlib
import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlab import online
from ftlab.errors import UsageError
from ftlab.text import corpus
from ftlab.text.corpus import python_docstrings, read_texts, split_document

WORDS = "The fox carried a lantern to the mill. "


def refusal(source, **options):
    """The one line with which `source` is refused."""
    with pytest.raises(UsageError) as caught:
        read_texts(source, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---- what is read


def test_a_file_of_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfOne.\r\nTwo.\n<|endoftext|>\n\nThree.\n")
    assert read_texts(path, min_chars=1) == ["One.\nTwo.", "Three."]


def test_json_lines_with_a_text_column(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "Née."}) + "\n\n" + json.dumps({"text": "  Two\nlines. ", "id": 3}) + "\n")
    assert read_texts(path, min_chars=1) == ["Née.", "Two\nlines."]


def test_a_folder_passes_over_what_is_no_text(tmp_path):
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    (tmp_path / "sub" / "b.md").write_text("From b.")
    (tmp_path / "a.rst").write_text("From a.")
    (tmp_path / "sub" / "deep" / "c").write_text("From c.")
    (tmp_path / "sub" / "x.bin").write_bytes(b"ab\0cd")
    (tmp_path / "sub" / "latin.txt").write_bytes("née".encode("latin-1"))
    (tmp_path / "table.jsonl").write_text('{"story": "no text column"}')
    (tmp_path / "empty.txt").write_text("")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    lines = []
    assert read_texts(tmp_path, min_chars=1, progress=lines.append) == ["From a.", "From b.", "From c."]
    assert lines[0].startswith("read 3 files; passed over ")
    for count in ("1 binary", "1 empty", "1 hidden", "1 not UTF-8", "1 special", "1 without a text column"):
        assert count in lines[0]


def test_a_glob(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("A.")
    (tmp_path / "b.txt").write_text("B.")
    (tmp_path / "c.md").write_text("C.")
    assert read_texts(f"{tmp_path}/**/*.txt", min_chars=1) == ["B.", "A."]
    assert read_texts(f"{tmp_path}/s*", min_chars=1) == ["A."]
    assert "no file matches" in refusal(f"{tmp_path}/*.tex")


def test_a_long_file_becomes_documents_of_paragraphs(tmp_path):
    paragraphs = [f"Paragraph {i}. " + WORDS * 10 for i in range(40)]
    (tmp_path / "long.txt").write_text("\n\n".join(paragraphs))
    documents = read_texts(tmp_path / "long.txt", min_chars=1)
    assert max(map(len, documents)) <= corpus.DOCUMENT_CHARS
    assert all(document.startswith("Paragraph") and document.endswith(".") for document in documents)
    assert "".join("".join(documents).split()) == "".join("".join(paragraphs).split())


@given(st.text(alphabet="ab .\n", max_size=300), st.integers(1, 40))
def test_splitting_loses_nothing_but_white_space(text, max_chars):
    parts = split_document(text, max_chars)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(part == part.strip() and 0 < len(part) <= max_chars for part in parts)


# ---- what is refused, in one line


def test_missing_and_nothing(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "nowhere.txt")
    assert "no text given" in refusal("  ")
    (tmp_path / "link.txt").symlink_to(tmp_path / "gone.txt")
    assert "a link to nowhere" in refusal(tmp_path / "link.txt")


def test_empty_and_too_small(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("")
    assert "is empty" in refusal(path)
    path.write_text("\n \n")
    assert "nothing but white space" in refusal(path)
    path.write_text("Short.")
    assert "6 characters of text are too few" in refusal(path)
    assert "at least 20,000" in refusal(path)


def test_too_large(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(WORDS)
    assert "more than the limit" in refusal(tmp_path / "a.txt", max_bytes=10)
    assert "with the files before it" in refusal(tmp_path, max_bytes=len(WORDS) + 10)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"text\0more", "a zero byte at offset 4"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"\x1f\x8b\x08\0\0", "compressed with gzip"),
        ("née".encode("utf-16"), "UTF-16"),
        ("abc née".encode("latin-1"), "not UTF-8 at byte offset 5 (0xe9)"),
        (b"\xef\xbb\xbfabc\xff", "not UTF-8 at byte offset 6 (0xff)"),
    ],
)
def test_binary_and_other_encodings(tmp_path, data, what):
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    line = refusal(path, min_chars=1)
    assert what in line and line.startswith(str(path))


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ('{"text": "a"}\n{"text"', "line 2 is not JSON"),
        ('{"story": "a", "id": 1}', 'no string in a "text" column (it has: story, id)'),
        ("[" * 200_000, "line 1 is not JSON"),
        ("3", "it has: int"),
        ('{"text": " "}', "every row's text is empty"),
    ],
)
def test_json_lines_that_do_not_fit(tmp_path, rows, what):
    path = tmp_path / "a.jsonl"
    path.write_text(rows)
    assert what in refusal(path, min_chars=1)


def test_no_plain_file_and_it_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe, not a file" in refusal(tmp_path / "pipe")
    assert "a device, not a file" in refusal("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path may be 100 characters long at most
        try:
            listener.bind("s")
        finally:
            os.chdir(here)
        assert "a socket, not a file" in refusal(tmp_path / "s")


def test_not_readable(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text(WORDS)

    def denied(self):
        raise PermissionError(13, "Permission denied", str(self))

    # Root may read everything, so the mode alone would not do.
    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    assert "cannot be read (Permission denied)" in refusal(path)
    assert "no text files found (1 unreadable)" in refusal(tmp_path)


def test_a_folder_without_text(tmp_path):
    assert "no text files found" in refusal(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"\0")
    assert "no text files found (1 binary)" in refusal(tmp_path)


# ---- the Hub


@pytest.fixture
def connected(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.timeout(60)
def test_a_hub_that_never_answers_is_one_line(connected, monkeypatch):
    assert online.SECONDS < 5  # what the course promises
    monkeypatch.setattr(online, "SECONDS", 0.5)
    with socket.socket() as deaf:  # accepts connections, and says nothing
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert "the Hub cannot be reached" in refusal("someone/some-dataset")


def test_offline_by_setting(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE" in refusal("someone/some-dataset")


def test_a_hub_dataset_is_read_to_the_limit(connected, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"title": ["x"] * 50, "content": [WORDS * 2] * 50}).to_iterable_dataset()
    asked = []

    def load(*args, **options):
        asked.append((args, options))
        return rows

    monkeypatch.setattr(online, "ask", lambda *arguments: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    lines = []
    texts = read_texts("someone/stories:plain", min_chars=1, max_bytes=800, progress=lines.append)
    assert texts == [(WORDS * 2).strip()] * 10
    assert asked == [(("someone/stories", "plain"), {"split": "train", "streaming": True})]
    assert "stopped at the limit" in lines[0]


def test_a_hub_dataset_without_text(connected, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(online, "ask", lambda *arguments: None)
    rows = datasets.Dataset.from_dict({"label": [1, 2]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: rows)
    assert "no column holds text (it has: label)" in refusal("someone/labels")

    def refuse(*args, **options):
        raise ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    assert "pick one among: ['a', 'b']" in refusal("someone/configs")


def test_paths_are_not_taken_for_hub_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    for source in ("docs/missing", "some/file.txt", "a/b/c", "./a/b"):
        assert refusal(source).endswith("no such file or folder: check the path")


# ---- Python's docstrings


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A small standard library."""
    root = tmp_path / "lib"
    (root / "test").mkdir(parents=True)
    (root / "test" / "test_a.py").write_text('"""A test\'s docstring, long enough."""')
    (root / "broken.py").write_text("def (")
    (root / "a.py").write_text(
        '"""The module says what it is for."""\n'
        'class A:\n    """A class that says something.\n\n    More.\n    """\n'
        '    def f(self):\n        """Short."""\n'
        '    async def g(self):\n        """The module says what it is for."""\n'
        'def s():\n    """A lone surrogate: \\ud800 cannot be written."""\n'
    )
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(root))
    return root


def test_docstrings_of_a_library(library):
    assert python_docstrings() == ["The module says what it is for.", "A class that says something.\n\nMore."]


def test_docstrings_of_this_python():
    """The real library: the docstring of a module that every Python has is there, whole, once."""
    import textwrap

    real = ast.get_docstring(ast.parse(pathlib.Path(textwrap.__file__).read_bytes()))
    found = list(corpus._docstrings(pathlib.Path(textwrap.__file__)))
    assert found[0] == real
    files = set(corpus._library_files(pathlib.Path(corpus.sysconfig.get_path("stdlib"))))
    assert pathlib.Path(textwrap.__file__) in files and len(files) > 300
    assert not any("site-packages" in path.parts for path in files)


def test_docstrings_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    assert "no Python sources" in refusal(corpus.DOCSTRINGS)


def test_docstrings_command_writes_what_is_read_back(library, tmp_path, capsys):
    out = tmp_path / "docstrings.txt"
    assert corpus.main(["--docstrings", str(out)]) == 0
    assert "2 docstrings" in capsys.readouterr().out
    assert read_texts(out, min_chars=1) == python_docstrings() == read_texts(corpus.DOCSTRINGS, min_chars=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix path that cannot be written")
def test_docstrings_command_on_a_path_that_cannot_be_written(library, capsys):
    assert corpus.main(["--docstrings", "/dev/null/x.txt"]) == 2
    assert "cannot be written" in capsys.readouterr().err
