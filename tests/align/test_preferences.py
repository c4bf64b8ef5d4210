"""ftlab.align.preferences: the user's own preferences in every form, and every way in which they can be unfit."""

import csv
import io
import json

import pytest

from ftlab import online
from ftlab.align.preferences import read_preferences
from ftlab.align.ratings import Ratings
from ftlab.errors import UsageError
from ftlab.world.preference import Pair

ASKED = {"role": "user", "content": "Hi"}
GOOD, BAD = {"role": "assistant", "content": "Hello!"}, {"role": "assistant", "content": "What?"}
ROW = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
PAIR = Pair("Hi", "Hello!", "What?")


def said(*contents, system=None):
    """A talk that the user begins."""
    start = [{"role": "system", "content": system}] if system else []
    return start + [{"role": ("user", "assistant")[i % 2], "content": c} for i, c in enumerate(contents)]


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


def refusal(source, *parts):
    """The one line with which `source` is refused; it names the file and holds `parts`."""
    with pytest.raises(UsageError) as caught:
        read_preferences(source)
    line = str(caught.value)
    assert "\n" not in line and str(source) in line and ": " in line
    for part in parts:
        assert part in line, line


# ---- what is read


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        (ROW, PAIR),
        ({"instruction": " Hi\n", "chosen": "Hello! ", "rejected": "\tWhat?", "id": 3}, PAIR),
        ({"question": "Hi", "chosen": "Hello!", "rejected": "What?", "margin": 1.5}, Pair("Hi", "Hello!", "What?", 1.5)),
        (ROW | {"margin": None}, PAIR),
        # TRL's conversational form: the prompt apart,
        ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        ({"prompt": "Hi", "chosen": [GOOD], "rejected": [BAD]}, PAIR),
        # inside,
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, PAIR),
        # or both (as UltraFeedback has it).
        ({"prompt": "Hi", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, PAIR),
        ({"prompt": [ASKED], "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, PAIR),
        # A longer talk.
        ({"chosen": said("Hi", "Yes?", "Sing!", "La", system="Be kind."),
          "rejected": said("Hi", "Yes?", "Sing!", "No", system="Be kind.")},
         Pair("Be kind.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: Sing!", "La", "No")),
        ({"prompt": said("Sing!", system="Be kind."), "chosen": [GOOD], "rejected": [BAD]},
         Pair("Be kind.\n\nSing!", "Hello!", "What?")),
        # hh-rlhf's text form.
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello!", "rejected": "\n\nHuman: Hi\n\nAssistant: What?"}, PAIR),
        ({"chosen": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: D",
          "rejected": "\n\nHuman: A\n\nAssistant: B\n\nHuman: C\n\nAssistant: Dear"},
         Pair("User: A\n\nAssistant: B\n\nUser: C", "D", "Dear")),
    ],
)
def test_forms(write, row, pair):
    assert read_preferences(write("a.jsonl", [row])) == [pair]
    assert read_preferences(write("a.json", json.dumps([row, row]))) == [pair, pair]


HUMAN, GPT, OTHER = ({"from": name, "value": text} for name, text in (("human", "Hi"), ("gpt", "Hello!"), ("gpt", "What?")))


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [HUMAN], "chosen": GPT, "rejected": OTHER},  # LLaMA-Factory
        {"conversations": [HUMAN], "chosen": [GPT], "rejected": [OTHER]},
        {"messages": [ASKED], "chosen": GOOD, "rejected": BAD},
        {"messages": [ASKED], "chosen": "Hello!", "rejected": "What?"},
        {"Prompt": [ASKED], "Chosen": GOOD, "Rejected": BAD},
        {"prompt": "Hi", "chosen": str([ASKED, GOOD]), "rejected": str([ASKED, BAD])},  # as pandas writes it
        {"input": "Hi", "chosen": "Hello!", "rejected": "What?"},
        {"instruction": "Hi", "input": "", "history": [], "chosen": "Hello!", "rejected": "What?"},
        {"input": {"messages": [ASKED], "tools": []}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},  # OpenAI
        {"messages": [ASKED, GOOD], "rejected_response": "What?"},  # ms-swift
        {"messages": [ASKED, GOOD], "rejected_messages": [ASKED, BAD]},
        {"query": "Hi", "response": "Hello!", "rejected_response": "What?"},
        {"question": "Hi", "response_j": "Hello!", "response_k": "What?"},  # Stack Exchange
        {"question": "Hi", "answers": [{"text": "What?", "pm_score": 0}, {"text": "Hello!", "pm_score": 4}]},
        {"prompt": "Hi", "answers": [{"answer": "Hello!", "rank": 1.0}, {"answer": "What?", "rank": 2.0}]},  # Nectar
        {"history": "Hi", "human_ref_A": "What?", "human_ref_B": "Hello!", "labels": 0},  # SHP
        {"prompt": "Hi", "response_0": "What?", "response_1": "Hello!", "better_response_id": 1},  # PKU-SafeRLHF
        {"conversation_a": [ASKED, BAD], "conversation_b": [ASKED, GOOD], "winner": "model_b"},  # Chatbot Arena
        {"prompt": "Hi", "response_a": "Hello!", "response_b": "What?", "winner_model_a": 1, "winner_model_b": 0},
        {"question": {"full_text": "Hi"}, "answer_0": "What?", "answer_1": "Hello!", "score_0": -1.0, "score_1": 1.0},  # WebGPT
        {"context": [ASKED], "response1": "Hello!", "response2": "What?", "overall_preference": -2},  # HelpSteer
    ],
)
def test_published_forms(write, row):
    assert read_preferences(write("a.jsonl", [row])) == [PAIR]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": "S", "question": "Hi"}, "S\n\nHi"),
        ({"instruction": "Fix it.", "input": "freind"}, "Fix it.\n\n### Input:\nfreind"),
        ({"instruction": "Q", "history": [["a", "b"]], "system": "S"}, "S\n\nUser: a\n\nAssistant: b\n\nUser: Q"),
        ({"conversations": [HUMAN, GPT, HUMAN], "system": "S"}, "S\n\nUser: Hi\n\nAssistant: Hello!\n\nUser: Hi"),
    ],
)
def test_what_belongs_to_the_prompt_is_in_it(write, row, prompt):
    lines = []
    pairs = read_preferences(write("a.jsonl", [row | {"chosen": "a", "rejected": "b"}]), progress=lines.append)
    assert pairs == [Pair(prompt, "a", "b")] and "not used" not in lines[0]
    if "conversations" not in row:
        return
    talk = [{"role": "user", "content": "Hi"}]
    row = {"system": "S", "chosen": [*talk, GOOD], "rejected": [*talk, BAD]}
    assert read_preferences(write("a.jsonl", [row]))[0].prompt == "S\n\nHi"


def test_unpaired_preferences_become_pairs(write):
    def row(prompt, answer, good):
        return {"prompt": prompt, "completion": answer, "label": good}

    rows, lines = [row("P", " a", True), row("Q", " c", True), row("P", " b", False), row("P", " d", True)], []
    assert read_preferences(write("a.jsonl", rows), progress=lines.append) == [Pair("P", "a", "b")]
    assert "2 answers have no other" in lines[-1]
    rows = [{"conversations": [HUMAN, answer], "kto_tag": answer is GPT} for answer in (OTHER, GPT)]
    assert read_preferences(write("a.jsonl", rows)) == [PAIR]
    refusal(write("a.jsonl", [row("P", " a", True), row("Q", " b", False)]), "unpaired preferences", "two answers")


def test_rows_that_are_no_pairs_are_passed_over_and_ties_left_out(write):
    rows, lines = [ROW, ROW | {"rejected": "Hello!"}, ROW, "{oops", ROW | {"weight": 0}, ROW], []
    assert read_preferences(write("a.jsonl", rows), progress=lines.append) == [PAIR] * 3
    assert "passed over 2 rows" in lines[1] and 'line 2: "chosen" and' in lines[1] and "line 4 is not JSON" in lines[1]
    assert "left out 1 row of 6, not to be learned (weight 0: 1)" in lines[2]
    arena = {"conversation_a": [ASKED, GOOD], "conversation_b": [ASKED, BAD], "winner": "model_a"}
    assert read_preferences(write("a.jsonl", [arena, arena | {"winner": "tie"}]), progress=lines.append) == [PAIR]
    assert "winner tie: 1" in lines[-1]


def test_columns_that_are_not_read_are_named(write):
    lines = []
    read_preferences(write("a.jsonl", [ROW | {"score_chosen": 8, "messages": [ASKED, GOOD]}]), progress=lines.append)
    assert lines == ["1 pair from prompt, chosen, rejected; not used: score_chosen, messages"]


def test_csv_and_tsv(write):
    out = io.StringIO()
    csv.writer(out).writerows([["prompt", "chosen", "rejected", "margin"], ["Say, so", "two\nlines", "b", "0.25"],
                               ["Hi", json.dumps([GOOD]), json.dumps([BAD]), ""]])
    assert read_preferences(write("a.csv", out.getvalue())) == [Pair("Say, so", "two\nlines", "b", 0.25), PAIR]
    assert read_preferences(write("a.tsv", "prompt\tchosen\trejected\nHi\tHello!\tWhat?\n")) == [PAIR]
    assert read_preferences(write("b.csv", "prompt;chosen;rejected\nHi;Hello!;What?\n")) == [PAIR]


def test_text_that_looks_like_json_stays_text(write):
    row = {"prompt": "A list?", "chosen": '[{"a": 1}]', "rejected": "[{"}
    assert read_preferences(write("a.jsonl", [row])) == [Pair("A list?", '[{"a": 1}]', "[{")]


def test_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"chosen": [[ASKED, GOOD]] * 3, "rejected": [[ASKED, BAD], None, None]}), path)
    refusal(path, 'row 2, column "rejected": null', "2 of 3 rows")
    parquet.write_table(pyarrow.table({"chosen": [[ASKED, GOOD]], "rejected": [[ASKED, BAD]]}), path)
    assert read_preferences(path) == [PAIR]


def test_progress_says_how_many(write):
    lines = []
    read_preferences(write("a.jsonl", [ROW] * 3), progress=lines.append)
    assert lines == ["3 pairs from prompt, chosen, rejected"]


# ---- what is refused


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([{"chosen": "a", "rejected": "b"}], ['line 1 has no column "prompt"', "add the column"]),
        ([{"prompt": "a", "chosen": "b"}], ['line 1 has no column "rejected"', '"prompt", "chosen"']),
        ([{"instruction": "a", "response": "b"}], ['line 1 has no column "chosen"', '"instruction", "response"']),
        ([{}], ["its columns: none"]),
        ([ROW, *[{"prompt": "a", "chosen": "b", "reject": "c"}] * 2], ['line 2 has no column "rejected"', '"reject"']),
        ([ROW, *[{"asked": "a", "chosen": "b", "rejected": "c"}] * 2], ['line 2 has no column "prompt"']),
        ([ROW, "", "{oops", "{oops"], ["line 3 is not JSON"]),
        ([ROW, *["[" * 100_000] * 2], ["line 2 is not JSON"]),
        ([ROW, *['["a"]'] * 2], ["line 2 is a list"]),
        (["3"], ["line 1 is a number"]),
        ([ROW | {"prompt": None}], ['line 1, column "prompt": null']),
        ([ROW | {"chosen": None}], ['line 1, column "chosen": null']),
        ([ROW | {"rejected": True}], ['column "rejected": true or false, not text']),
        ([ROW | {"rejected": {"text": "a"}}], ['column "rejected": an object, not text']),
        ([ROW | {"prompt": " "}], ['column "prompt" is empty']),
        ([ROW, *[ROW | {"rejected": ""}] * 2], ['line 2, column "rejected" is empty', "2 of 3 rows"]),
        ([ROW | {"rejected": "Hello!"}], ['"chosen" and "rejected" are the same']),
        ([ROW | {"rejected": "Hello!\n"}], ["the same"]),
        ([{"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD]}], ["are the same"]),
        ([{"chosen": [ASKED, GOOD], "rejected": [ASKED, {**GOOD, "content": "Hello! "}]}], ["white space alone"]),
        (['{"prompt": "a", "chosen": "b", "rejected": "\\ud800"}'], ['column "rejected"', "surrogate"]),
        ([ROW | {"chosen": [GOOD]}], ["one is text, the other messages"]),
        ([{"prompt": "Hi", "chosen": [], "rejected": [BAD]}], ['column "chosen": an empty list']),
        ([{"prompt": "Hi", "chosen": [{"role": "he", "content": "x"}], "rejected": [BAD]}], ["message 1", "'he'"]),
        ([{"prompt": "Hi", "chosen": [{"role": "assistant"}], "rejected": [BAD]}], ["message 1", '"content"']),
        ([{"prompt": "Hi", "chosen": ["a"], "rejected": ["b"]}], ['column "chosen", message 1: text without "role"']),
        ([{"chosen": [GOOD], "rejected": [BAD]}], ["has no prompt"]),
        ([{"chosen": [ASKED, GOOD], "rejected": [ASKED]}], ["the same talk up to the last message"]),
        ([{"chosen": said("A", "B", "C", "D"), "rejected": said("A", "X", "C", "D")}], ["the same talk up to the last"]),
        ([{"chosen": said("A"), "rejected": said("B")}], ["the same talk up to the last"]),
        ([{"prompt": said("A", "B"), "chosen": [GOOD], "rejected": [BAD]}], ["must end with the user's"]),
        ([{"prompt": "Bye", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}], ["says something else"]),
        ([ROW | {"margin": "much"}], ['column "margin": text, not a number']),
        ([ROW | {"margin": True}], ['column "margin"']),
        (['{"prompt": "a", "chosen": "b", "rejected": "c", "margin": Infinity}'], ['column "margin"']),
        ([{"prompt": [ASKED], "rejected": [BAD],
           "chosen": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]}], ["tool calls"]),
        ([{"chosen": "Human: a", "rejected": "Human: b"}], ['no column "prompt"']),
    ],
)
def test_rows_that_are_no_pairs(write, rows, parts):
    refusal(write("a.jsonl", rows), *parts)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b"", ["is empty"]),
        ("a.jsonl", b" \n", ["white space"]),
        ("a.json", b"[]", ["holds no rows"]),
        ("a.json", b'{"prompt": "a"', ["not JSON"]),
        ("a.csv", b"prompt,chosen,rejected\n", ["holds no rows"]),
        ("a.csv", b"prompt,chosen,rejected\na,b\n", ["line 2 has 2 columns"]),
        ("a.csv", b"prompt,chosen,rejected\na,b,\n", ['line 2, column "rejected" is empty']),
        ("a.jsonl", b'{"prompt": "n\xe9e"}', ["not UTF-8"]),
        ("a.pdf", b"%PDF-1.7", ["a PDF"]),
    ],
)
def test_files_that_hold_no_pairs(write, name, content, parts):
    refusal(write(name, content), *parts)


def test_a_file_that_is_not_there(tmp_path):
    refusal(tmp_path / "none.jsonl", "no such file")
    refusal(tmp_path, "a folder")


def test_a_cut_off_file_of_preferences_is_refused(write):
    whole = json.dumps(ROW) + "\n"
    refusal(write("a.jsonl", (whole * 2)[:-20]), "line 2 is not JSON")


# ---- ratings


def rating(choice, a="x", b="y", prompt="Hi"):
    return {"prompt": prompt, "a": a, "b": b, "rating": choice}


def test_ratings_are_pairs_and_the_last_one_counts(write):
    rows = [rating("left"), rating("tie", prompt="Q"), rating("skip", prompt="R"), rating("right", prompt="S"),
            rating("left", "y", "x"),          # the first pair again, the other way round
            rating("undo", prompt="S"), rating("left", prompt="T"), rating("tie", "y", "x", prompt="T")]
    assert read_preferences(write("r.jsonl", rows)) == [Pair("Hi", "y", "x")]


def test_a_journal_cut_off_by_a_kill_is_read_up_to_there(write):
    path = write("r.jsonl", (json.dumps(rating("left")) + "\n") * 2 + '{"prompt": "Hi", "a": "q')
    lines = []
    assert read_preferences(path, progress=lines.append) == [Pair("Hi", "x", "y")]
    assert "line 3 is not JSON" in lines[0]


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([rating("tie"), rating("skip", prompt="Q")], ["none of its 2 ratings decides"]),
        ([rating("best")], ['line 1, column "rating"', "left, right, tie, skip"]),
        ([rating("left"), ROW], ["line 2 is no rating", '"chosen"']),
        ([rating("left", b="x")], ["the same text"]),
        ([rating("left", b=4)], ['column "b": a number']),
    ],
)
def test_ratings_that_are_none(write, rows, parts):
    refusal(write("r.jsonl", rows), *parts)


def test_what_ratings_write_is_read(tmp_path):
    ratings = Ratings(tmp_path / "r.jsonl")
    ratings.add("Hé 🙂", "a\n", " b", "right", 2.345)
    ratings.add("Q", "a", "b", "skip")
    assert read_preferences(ratings.path) == ratings.pairs() == [Pair("Hé 🙂", " b", "a\n")]


# ---- the Hub


@pytest.fixture
def hub(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def holds(columns):
        monkeypatch.setattr(online, "ask", lambda *arguments: None)
        monkeypatch.setattr(datasets, "load_dataset", lambda *a, **o: datasets.Dataset.from_dict(columns))

    return holds


def test_a_hub_dataset_is_read_past_rows_that_are_no_pairs(hub):
    hub({"prompt": ["Hi", "Hi", "Hi"], "chosen": [[ASKED, GOOD]] * 3,
         "rejected": [[ASKED, BAD], [ASKED, GOOD], [ASKED, BAD]]})
    lines = []
    assert read_preferences("owner/name", progress=lines.append) == [PAIR, PAIR]
    assert lines[0] == "2 pairs from prompt, chosen, rejected"
    assert "passed over 1 row that" in lines[1] and "row 2" in lines[1]


def test_a_hub_dataset_without_pairs_is_refused(hub):
    hub({"prompt": ["Hi"], "chosen": ["a"], "rejected": ["a"]})
    refusal("owner/name", "row 1", "are the same")
    hub({"text": ["Hi"] * 9})
    refusal("owner/name", 'row 1 has no column "chosen"')
