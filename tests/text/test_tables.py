"""ftlab.text.tables: one reading of a table, whatever its suffix, layout and encoding, and whoever wrote it."""

import bz2
import gzip
import json
import lzma

import pytest

from ftlab.errors import UsageError
from ftlab.text.corpus import read_texts
from ftlab.text.examples import Example, read_examples

ROWS = [{"instruction": "Say hi.", "response": "Hi."}, {"instruction": "Say bye.", "response": "Bye."}]
EXAMPLES = [Example("Say hi.", "Hi."), Example("Say bye.", "Bye.")]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CSV = "instruction,response\nSay hi.,Hi.\nSay bye.,Bye.\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", json.dumps(ROWS, indent=2)),
        ("a.ndjson", LINES),
        ("A.JSONL", LINES),
        ("a.json", LINES),
        ("a.txt", LINES),
        ("a.jsonl", "\n".join(json.dumps(row, indent=2) for row in ROWS)),
        ("a.jsonl", ",\n".join(json.dumps(row) for row in ROWS) + ",\n"),
        ("a.json", json.dumps({"version": 1, "data": ROWS})),
        ("a.json", json.dumps({"train": ROWS, "test": ROWS})),
        ("a.json", json.dumps({"features": [{"name": "x"}], "rows": [{"row_idx": 0, "row": row} for row in ROWS]})),
        ("a.json", json.dumps(COLUMNS)),
        ("a.json", json.dumps({name: dict(enumerate(cells)) for name, cells in COLUMNS.items()})),
        ("a.json", json.dumps({"columns": list(COLUMNS), "index": [0, 1], "data": [list(row.values()) for row in ROWS]})),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.json.bz2", bz2.compress(LINES)),
        ("a.CSV.xz", lzma.compress(CSV.encode())),
        ("a.csv", CSV.replace(",", ";")),
        ("a.csv", CSV.replace(",", "\t")),
        ("a.csv", CSV.replace(",", "|")),
        ("a.tsv", CSV.replace(",", ";")),
        ("a.csv", "sep=;\n" + CSV.replace(",", ";")),
        ("a.csv", "\ufeffsep=\t\n" + CSV.replace(",", "\t")),
        ("a.csv", CSV.replace(",", "\t").encode("utf-16")),
        ("a.csv", CSV.replace("\n", ",,\n") + ",,,\n,,,\n"),
        ("a.csv", "Instruction , RESPONSE\nSay hi.,Hi.\n\n,\nSay bye.,Bye.\n"),
        ("a.csv", "instruction,input,response\nSay hi.,NaN,Hi.\nSay bye.,,Bye.\nSay what?,,nan\n"),
    ],
)  # fmt: skip
def test_the_same_rows_in_every_layout(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    assert read_examples(path) == EXAMPLES


def test_a_talk_as_a_row_of_its_own(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    wanted = Example(form="messages", messages=(("user", "Hi"), ("assistant", "Yo")))
    for count, text in ((1, json.dumps(talk)), (2, json.dumps([talk, talk])), (2, f"{json.dumps(talk)}\n{json.dumps(talk)}\n"),
                        (1, json.dumps({"messages": talk}, indent=1))):
        for name in ("a.json", "a.jsonl"):
            (tmp_path / name).write_text(text)
            assert read_examples(tmp_path / name) == [wanted] * count


def test_csv_of_windows_is_read_and_said_and_damaged_utf8_is_refused(tmp_path):
    path, lines = tmp_path / "a.csv", []
    path.write_bytes("instruction;response\nSag schön.;„Schön“ – ja.\n".encode("cp1252"))
    assert read_examples(path, progress=lines.append) == [Example("Sag schön.", "„Schön“ – ja.")]
    assert "Windows-1252" in lines[0]
    path.write_bytes("text\nschön, größer, Straße\n".encode().replace(b"ch\xc3", b"ch"))
    with pytest.raises(UsageError, match="not UTF-8 at byte offset"):
        read_examples(path)


def test_columns_without_a_name_are_named_where_they_hold_something(tmp_path):
    path, lines = tmp_path / "a.csv", []
    path.write_text("v,text,,,\n1,a,,note,\n2,b,,,\n")
    assert len(read_examples(path, progress=lines.append)) == 2
    assert lines == ["2 examples from text; not used: v, columns without a name"]


def test_a_folder_is_read_by_its_training_split(tmp_path):
    (tmp_path / "data").mkdir()
    for name in ("train-00000.jsonl", "train-00001.JSONL", "test.jsonl"):
        (tmp_path / "data" / name).write_bytes(LINES)
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    lines = []
    assert read_examples(tmp_path, progress=lines.append) == EXAMPLES * 2
    assert "not read: data/test.jsonl" in lines[0] and "train-00001.JSONL" in lines[0]


def test_what_datasets_saves_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "saved"))
    assert read_examples(tmp_path / "saved") == EXAMPLES


def test_nan_of_parquet_is_no_value(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(COLUMNS | {"input": [float("nan"), None]}), tmp_path / "a.parquet")
    assert read_examples(tmp_path / "a.parquet") == EXAMPLES


# ---- the same by the reader of texts

TEXTS = [f'The boat {i} left "home".\nNobody saw it.' for i in range(3)]
WIDE = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.ndjson", "a.json", "a.txt", "a"])
@pytest.mark.parametrize("column", ["text", "content", "Story"])
def test_texts_are_the_same_in_every_file(tmp_path, name, column):
    path, lines = tmp_path / name, []
    path.write_text("".join(json.dumps({"id": row["id"], column: row["text"]}) + "\n" for row in WIDE))
    assert read_texts(path, min_chars=1, progress=lines.append) == TEXTS
    assert lines[0] == f"3 rows from {column}; not used: id"


def test_texts_of_csv_parquet_notebooks_and_pages(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    quoted = "".join('{},"{}"\n'.format(row["id"], row["text"].replace('"', '""')) for row in WIDE)
    (tmp_path / "a.CSV").write_text("id,text\n" + quoted)
    parquet.write_table(pyarrow.table({"text": TEXTS}), tmp_path / "a.parquet")
    cells = [{"cell_type": "code", "source": text.splitlines(True), "outputs": ["no"]} for text in TEXTS]
    (tmp_path / "a.ipynb").write_text(json.dumps({"cells": cells, "nbformat": 4}))
    page = "<html><head><style>p {}</style></head><body><p>" + "</p><p>".join(TEXTS) + "</p><script>no()</script></body></html>"
    (tmp_path / "a.html").write_text(page.replace('"', "&quot;"))
    assert read_texts(tmp_path / "a.CSV", min_chars=1) == read_texts(tmp_path / "a.parquet", min_chars=1) == TEXTS
    assert read_texts(tmp_path / "a.ipynb", min_chars=1) == ["\n\n".join(TEXTS)]
    assert read_texts(tmp_path / "a.html", min_chars=1) == ["\n\n".join(text.replace("\n", " ") for text in TEXTS)]


def test_texts_of_examples_leave_out_what_is_not_learned(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No.", "weight": 0},
                          {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}]},
            {"instruction": "Do.", "input": "It.", "output": "Done."},
            {"prompt": "2 + 2 =", "completion": " 4", "kto_tag": True},
            {"prompt": "2 + 2 =", "completion": " 5", "kto_tag": False}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_texts(tmp_path / "a.jsonl", min_chars=1) == ["Hi\n\nHi?\n\nYes.", "Do.\n\nIt.\n\nDone.", "2 + 2 = 4"]


def test_a_format_that_is_learned_with_its_marks_is_said(tmp_path):
    lines = []
    (tmp_path / "feed.xml").write_text("<a>Some text.</a>")
    assert read_texts(tmp_path / "feed.xml", min_chars=1, progress=lines.append) == ["<a>Some text.</a>"]
    assert "taken as plain text" in lines[0]


def test_a_setting_in_json_is_no_text(tmp_path):
    (tmp_path / "package.json").write_text('{"name": "x", "version": "1.0"}')
    (tmp_path / "a.txt").write_text("Text.")
    lines = []
    assert read_texts(tmp_path, min_chars=1, progress=lines.append) == ["Text."]
    assert "1 without a text column" in lines[0]
