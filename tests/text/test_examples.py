"""ftlab.text.examples: the user's own data, and every way in which it can be unfit."""

import csv
import io
import json
import os

import pytest

from ftlab import online
from ftlab.errors import UsageError
from ftlab.text.examples import Example, from_tasks, read_examples
from ftlab.world import World, tasks

TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def refusal(source, *parts):
    """The one line with which `source` is refused; it names the file and holds `parts`."""
    with pytest.raises(UsageError) as caught:
        read_examples(source)
    line = str(caught.value)
    assert "\n" not in line and str(source) in line and ": " in line
    for part in parts:
        assert part in line, line
    return line


@pytest.fixture
def write(tmp_path):
    """write(name, content) -> path; rows are written as JSON lines, bytes as they are."""
    def to(name, content):
        path = tmp_path / name
        if isinstance(content, list):
            content = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return to


# ---- what is read


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"instruction": " Say it. ", "response": "It.\n"}, Example("Say it.", "It.")),
        ({"instruction": "Q", "input": "I", "response": "R", "id": 7}, Example("Q", "R", "I")),
        ({"instruction": "Q", "input": None, "output": "R"}, Example("Q", "R")),
        ({"instruction": "Q", "context": "C", "response": "R"}, Example("Q", "R", "C")),
        ({"prompt": "2 + 2 =", "completion": " 4"}, Example("2 + 2 =", " 4", form="completion")),
        ({"text": " as it is\n"}, Example(response=" as it is\n", form="text")),
        ({"messages": TURNS}, Example(form="messages", messages=(("user", "Hi"), ("assistant", "Hello")))),
    ],
)
def test_columns(write, row, example):
    assert read_examples(write("a.jsonl", [row])) == [example]


def test_blank_lines_and_windows_files(write):
    rows = b'\xef\xbb\xbf{"text": "n\xc3\xa9e"}\r\n\r\n   \r\n{"text": "b"}'
    assert [e.response for e in read_examples(write("a.jsonl", rows))] == ["née", "b"]


def test_json_lists_and_lines(write):
    rows = [{"instruction": "Q", "response": "R"}] * 2
    assert len(read_examples(write("a.json", json.dumps(rows, indent=1)))) == 2
    assert len(read_examples(write("b.json", rows))) == 2


def test_csv(write):
    out = io.StringIO()
    rows = [["instruction ", "input", "response"], ['Say, "now"', "", "two\nlines"], ["B", "C", "D"]]
    csv.writer(out).writerows(rows)
    wanted = [Example('Say, "now"', "two\nlines"), Example("B", "D", "C")]
    assert read_examples(write("a.csv", out.getvalue())) == wanted
    assert read_examples(write("a.tsv", "prompt\tcompletion\nA, b\tC\n")) == [Example("A, b", "C", form="completion")]
    assert read_examples(write("b.csv", "prompt;completion\nA;C, d\n")) == [Example("A", "C, d", form="completion")]
    path = write("c.csv", 'messages\n"' + json.dumps(TURNS).replace('"', '""') + '"\n')
    assert read_examples(path)[0].messages[1] == ("assistant", "Hello")


def test_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = pyarrow.table({"instruction": ["Q", "Q2"], "response": ["R", None], "messages_": [TURNS, TURNS]})
    parquet.write_table(table.slice(1, 1), path)
    refusal(path, 'row 1, column "response": null')
    parquet.write_table(table, path)
    assert read_examples(path) == [Example("Q", "R")]
    path.write_bytes(path.read_bytes()[:-30])
    refusal(path, "damaged Parquet")
    path.write_text("no parquet")
    refusal(path, "no Parquet file")


def test_progress_says_how_many(write):
    lines = []
    read_examples(write("a.jsonl", [{"text": "a"}] * 3), progress=lines.append)
    assert lines == ["3 examples from text"]


def test_tasks_are_examples():
    task, = tasks.make(World("rich"), "classify", 1)
    example, = from_tasks([task])
    assert (example.instruction, example.input, example.response) == (task.instruction, task.input, task.response)
    assert example.as_messages()[0]["content"].endswith("### Input:\n" + task.input)


# ---- what is refused


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([{"title": "a", "summary": "b"}], ['line 1 lacks the columns to learn from', '"title", "summary"',
                                            '"instruction" and "response"']),
        ([{"instruction": "a", "reply": "b"}], ['line 1 lacks "response" beside "instruction"', '"reply"']),
        ([{"prompt": "a"}], ['line 1 lacks "completion" beside "prompt"']),
        ([{}], ["line 1 lacks", "none"]),
        ([{"txt": "b"}, {"text": "a"}, {"txt": "b"}], ['line 1 has no column "text"', '"txt"', "2 of 3 rows"]),
        ([{"text": "a"}, "", "{oops", "{oops"], ["line 3 is not JSON", "one JSON object", "2 of 3 rows"]),
        (['["a"]'], ["line 1 is a list"]),
        (["3"], ["line 1 is a number"]),
        ([{"text": True}], ['line 1, column "text": true or false, not text']),
        ([{"instruction": "a", "response": ["b"]}], ['column "response": a list, not text']),
        ([{"instruction": "a", "input": {}, "response": "b"}], ['column "input": an object']),
        ([{"instruction": " ", "response": "b"}], ['line 1, column "instruction" is empty', "delete the row"]),
        ([{"instruction": "a", "output": ""}], ['line 1, column "output" is empty']),
        (['{"text": "\\ud800"}'], ['line 1, column "text"', "surrogate"]),
        ([{"messages": []}], ["an empty list"]),
        ([{"messages": "hi"}], ["is no JSON"]),
        ([{"messages": [{"role": "user"}]}], ["message 1", '"role" and "content"']),
        ([{"messages": [{"role": "narrator", "content": "x"}]}], ["message 1", "'narrator'", "system, user, assistant"]),
        ([{"messages": [TURNS[0]]}], ["no message of the assistant", "the roles are user"]),
        ([{"messages": [TURNS[0], {"role": "assistant", "content": True}]}], ["message 2: true or false, not text"]),
    ],
)
def test_rows_that_are_no_examples(write, rows, parts):
    refusal(write("a.jsonl", rows), *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b"", ["is empty"]),
        ("a.jsonl", b" \n\n", ["white space"]),
        ("a.jsonl", b'{"text": "a\0"}', ["binary"]),
        ("a.jsonl", b'{"text": "n\xe9e"}', ["not UTF-8 at byte offset 11"]),
        ("a.jsonl.gz", b"\x1f\x8b\x08\0", ["gunzip", "damaged"]),
        ("a.xlsx", b"PK\x03\x04\0", ["office document"]),
        ("a.txt", b"text", ["no known kind", ".jsonl"]),
        ("a.json", b"[{]", ["not JSON", "line 1"]),
        ("a.json", b"[]", ["no rows"]),
        ("a.csv", b"instruction,response\n", ["no rows"]),
        ("a.csv", b"instruction,response\na,b\nc,d,e\nc,d,e\n", ["line 3 has 3 columns", "the header has 2", "double quotes"]),
        ("a.csv", b"instruction,response\n\"a\nb\",c\nd\ne\n", ["line 4 has 1 columns"]),
        ("a.csv", b"text,text\na,b\n", ['"text" stands there twice']),
        ("a.csv", b"text\n\"a\"b\n", ["line 2 is no CSV"]),
        ("a.csv", b"instruction,response\n,b\n", ['line 2, column "instruction" is empty']),
        ("a.csv", b"a,b\nc,d\n", ["line 2 lacks the columns"]),
    ],
)
def test_files_that_hold_no_examples(write, name, content, parts):
    refusal(write(name, content), *parts)


def test_files_that_are_not_there(tmp_path):
    refusal(tmp_path / "none.jsonl", "no such file")
    refusal("data/none.parquet", "no such file")
    refusal(tmp_path, "a folder: name one file")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "gone")
    refusal(tmp_path / "loop.jsonl", "a link to nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")
    refusal(tmp_path / "pipe.jsonl", "a pipe")
    with pytest.raises(UsageError, match="no data given"):
        read_examples(" ")


def test_too_much(write):
    with pytest.raises(UsageError, match="more than the limit of 10 bytes"):
        read_examples(write("a.jsonl", [{"text": "a" * 20}]), max_bytes=10)


# ---- the Hub


def test_a_hub_dataset(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(*arguments, **options):
        asked.append((arguments, options))
        return datasets.Dataset.from_dict({"instruction": ["Q", "Q2", ""], "output": ["R" * 9, "R2", "R3"]})

    monkeypatch.setattr(online, "ask", lambda *arguments: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    lines = []
    assert len(read_examples("owner/name:part", progress=lines.append)) == 2
    assert "passed over 1 row that" in lines[1] and 'row 3, column "instruction" is empty' in lines[1]
    assert asked == [(("owner/name", "part"), {"split": "train", "streaming": True})]
    lines = []
    assert len(read_examples("owner/name", max_bytes=15, progress=lines.append)) == 2
    assert "the dataset holds more" in lines[0]


def test_a_hub_dataset_whose_split_for_training_has_another_name(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "a.jsonl").write_text('{"question": "Q", "answer": "R"}\n')
    real = datasets.load_dataset

    def load(name, config, **options):
        files = {split: str(tmp_path / "a.jsonl") for split in ("test_sft", "train_sft")}
        return real("json", data_files=files, cache_dir=str(tmp_path / "cache"), **options)

    monkeypatch.setattr(online, "ask", lambda *arguments: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    lines = []
    assert read_examples("owner/name", progress=lines.append) == [Example("Q", "R")]
    assert lines[0] == 'owner/name: no split "train"; read train_sft'


def test_a_hub_that_refuses(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def load(*arguments, **options):
        raise ValueError("Unknown split\n'train'")

    monkeypatch.setattr(online, "ask", lambda *arguments: None)
    monkeypatch.setattr(datasets, "load_dataset", load)
    refusal("owner/name", "Unknown split 'train'")


def test_the_hub_is_not_asked_when_offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refusal("owner/name", "HF_HUB_OFFLINE")
