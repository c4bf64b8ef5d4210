"""ftlab.text.forms: what published forms become, what marks keep out of what is learned, and what is said of the rest."""

import json

import pytest

from ftlab.errors import UsageError
from ftlab.text.examples import Example, read_documents, read_examples

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
TALK = (("user", "Hi"), ("assistant", "Hello."))


@pytest.fixture
def read(tmp_path):
    """read(rows) -> (examples, the lines that were said); the rows are written as JSON lines."""
    def from_rows(*rows, reader=read_examples):
        path, lines = tmp_path / "a.jsonl", []
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return reader(path, progress=lines.append), lines

    return from_rows


def messages(*talk, **more):
    return Example(form="messages", messages=tuple(talk), **more)


SECOND = messages(*TALK, *TALK, learn=(False, False, False, True))
SYSTEM_ASKED = messages(("system", "S"), ("user", "q"), ("assistant", "r"))
OPTIONS = {"enable_thinking": True}


@pytest.mark.parametrize(
    ("row", "example"),
    [
        ({"query": "q", "response": "r"}, Example("q", "r")),
        ({"prompt": "q", "response": "r"}, Example("q", "r")),
        ({"input": "q", "output": "r"}, Example("q", "r")),
        ({"Question": "q", "Answer ": 0.5}, Example("q", "0.5")),
        ({"context": "c", "question": "q", "answers": {"text": ["r", "s"], "answer_start": [0, 1]}}, Example("q", "r", "c")),
        ({"instruction": "q", "input": "<noinput>", "output": "r"}, Example("q", "r")),
        ({"instruction": "q", "input": "None", "output": "r"}, Example("q", "r", "None")),
        ({"instruction": "q", "output": "r", "history": [], "system": " "}, Example("q", "r")),
        ({"content": "c"}, Example(response="c", form="text")),
        ({"system_prompt": "S", "question": "q", "response": "r"}, SYSTEM_ASKED),
        ({"query": "q", "response": "r", "history": [["a", "b"]]},
         messages(("user", "a"), ("assistant", "b"), ("user", "q"), ("assistant", "r"))),
        ({"system": "S", "messages": [USER, ANSWER]}, messages(("system", "S"), *TALK)),
        ({"system": "S", "messages": [{"role": "system", "content": "T"}, USER, ANSWER]},
         messages(("system", "S\n\nT"), *TALK)),
        ({"conversations": [{"role": "human", "value": "Hi"}, {"from": "GPT", "content": "Hello."}]}, messages(*TALK)),
        ({"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"},
                            {"from": "gpt", "value": "Hello."}]},
         messages(*TALK)),
        ({"Messages": [{"Role": "User", "Content": "Hi"}, ANSWER]}, messages(*TALK)),
        ({"messages": json.dumps([USER, ANSWER])}, messages(*TALK)),
        ({"messages": str([USER, ANSWER])}, messages(*TALK)),  # as pandas writes it into a CSV
        ({"messages": {"role": ["user", "assistant"], "content": ["Hi", "Hello."]}}, messages(*TALK)),
        ({"conversation": [{"human": "Hi", "assistant": "Hello."}]}, messages(*TALK)),
        ({"chat_messages": [{"sender": "human", "text": "Hi"}, {"sender": "assistant", "text": "Hello."}]}, messages(*TALK)),
        ({"messages": [USER, USER, ANSWER, USER]}, messages(("user", "Hi"), *TALK, ("user", "Hi"))),
        ({"messages": [USER, {"role": "assistant", "content": None, "refusal": "No."}]},
         messages(("user", "Hi"), ("assistant", "No."))),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]},
                       ANSWER]},
         messages(("user", "a\nb"), ("assistant", "Hello."))),
        ({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]}, SECOND),
        ({"prompt": "Hi", "completion": [ANSWER]}, messages(*TALK)),
        ({"messages": [USER, ANSWER | {"weight": 0}, USER, ANSWER]}, SECOND),
        ({"messages": [USER, ANSWER | {"mask": True}, USER, ANSWER]}, SECOND),
        ({"messages": [USER, ANSWER | {"loss": "false"}, USER, ANSWER]}, SECOND),
        ({"conversation": [{"input": "Hi", "output": "Hello.", "output_with_loss": False},
                           {"input": "Hi", "output": "Hello."}]}, SECOND),
        ({"prompt": [USER], "completion": [ANSWER | {"reasoning_content": "t"}], "chat_template_kwargs": OPTIONS},
         messages(*TALK, extra=({}, {"reasoning_content": "t"}), template_options=OPTIONS)),
    ],
)  # fmt: skip
def test_forms(read, row, example):
    assert read(row)[0] == [example]


CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize("message", [
    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{\"a\": 1}"}},
    {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"a\": 1}}"},
])
def test_calls_of_functions_in_every_spelling(read, message):
    found, = read({"conversations": [USER, message, {"from": "observation", "value": "3"}, ANSWER],
                   "functions": "[{\"name\": \"f\", \"parameters\": {}}]"})[0]
    assert found.messages == (("user", "Hi"), ("assistant", ""), ("tool", "3"), ("assistant", "Hello."))
    assert found.extra == ({}, {"tool_calls": [CALL]}, {}, {})
    assert found.tools == ({"type": "function", "function": {"name": "f", "parameters": {}}},)


@pytest.mark.parametrize(
    ("out", "kept", "reason"),
    [
        ({"prompt": "q", "completion": "a", "label": False}, {"label": True}, "label false: 1"),
        ({"prompt": [USER], "completion": [ANSWER], "label": 0}, {"label": 1}, "label false: 1"),
        ({"instruction": "q", "output": "a", "kto_tag": False}, {"kto_tag": True}, "kto_tag false: 1"),
        ({"messages": [USER, ANSWER], "label": "false"}, {"label": "true"}, "label false: 1"),
        ({"instruction": "q", "output": "a", "weight": 0}, {"weight": 1.0}, "weight 0: 1"),
        ({"text": "q", "weight": 0.0}, {"weight": 1}, "weight 0.0: 1"),
        ({"text": "q", "split": "test"}, {"split": "train"}, "split test: 1"),
        ({"messages": [USER, ANSWER | {"weight": 0}]}, {"messages": [USER, ANSWER]}, "no message that is to be learned: 1"),
        ({"conversations": [USER, ANSWER], "mask": "Assistant"}, {"mask": "User"}, "no message that is to be learned: 1"),
        ({"prompt": "p", "completions": ["a"], "labels": [False]}, {"labels": [True]}, "labelled false: 1"),
    ],
)
def test_rows_that_say_that_they_are_not_learned(read, out, kept, reason):
    found, lines = read(out, out | kept)
    assert len(found) == 1 and "left out 1 row of 2" in lines[1] and reason in lines[1] and "not used" not in lines[0]
    assert len(read(out, out | kept, reader=read_documents)[0]) == 1
    with pytest.raises(UsageError, match="every row is left out"):
        read(out if "split" not in out else out | {"weight": 0})


def test_a_classifiers_label_is_no_mark_and_is_named(read):
    for rows in ([{"text": "a", "label": 0}, {"text": "b", "label": 1}], [{"text": "a", "label": False}] * 2,
                 [{"instruction": "a", "output": "b", "label": 0}, {"instruction": "a", "output": "b", "label": 1}],
                 [{"prompt": "a", "completion": "b", "label": "spam"}] * 2):
        found, lines = read(*rows)
        assert len(found) == 2 and len(lines) == 1 and lines[0].endswith("; not used: label")


def test_columns_and_keys_that_are_not_read_are_named(read):
    _, lines = read({"id": 1, "messages": [USER | {"time": 3}, ANSWER], "Source": "x"}, {"messages": [USER, ANSWER], "new": 2})
    assert lines == ['2 examples from messages; not used: id, Source, new, "time" in messages']


def test_each_row_is_read_by_its_own_form(read):
    found, lines = read({"messages": [USER, ANSWER]}, {"instruction": "q", "output": "r"}, {"text": "t"},
                        {"prompt": "p", "completion": " c"}, {"messages": None, "conversations": [USER, ANSWER], "text": None})
    assert [example.form for example in found] == ["messages", "instruction", "text", "completion", "messages"]
    assert "from messages, instruction, output, text, prompt, completion, conversations" in lines[0]


def test_an_incomplete_row_is_not_read_by_another_form(read):
    row = {"instruction": "q", "output": "r", "text": "all of it"}
    found, lines = read(row, row, row | {"output": None}, {"input": "i", "output": "r"})
    assert found == [Example("q", "r")] * 2
    assert 'line 3, column "output": null' in lines[1] and 'line 4 has no column "instruction"' in lines[1]


def test_rows_that_cannot_be_used_are_counted_and_three_named(read):
    good, bad = {"instruction": "q", "output": "r"}, {"instruction": "q", "output": ""}
    found, lines = read(good, bad, "{oops", good, bad, bad, good, good)
    assert len(found) == 4 and lines[1].startswith("passed over 4 rows that cannot be used, of 8: line 2, column")
    assert "line 3 is not JSON" in lines[1] and "line 5" in lines[1] and "line 6" not in lines[1]
    with pytest.raises(UsageError, match="3 of 5 rows cannot be used"):
        read(good, bad, bad, bad, good)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"input_ids": [1], "labels": [1]}, "token ids"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "is a preference"),
        ({"conversations": [USER], "chosen": ANSWER, "rejected": ANSWER}, "is a preference"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ANSWER]}, "type image_url"),
        ({"messages": [USER, ANSWER], "images": ["a.png"]}, "only text is learned"),
        ({"messages": [USER, ANSWER | {"train_detail": [{"begin_offset": 0, "train": False}]}]}, "parts of a message"),
        ({"segments": [{"label": True, "text": "a"}, {"label": False, "text": "b"}]}, "only a prompt and then its answer"),
        ({"role": "user", "content": "Hi"}, "is a single message"),
        ({"instruction": "q", "output": "r", "tools": "[oops"}, 'column "tools" is no JSON'),
    ],
)
def test_what_is_refused_says_why(read, row, part):
    with pytest.raises(UsageError, match=part):
        read(row)


def test_trees_of_messages_become_talks_and_share_no_answer(read):
    def message(id, parent, role, text, **more):
        return {"message_id": id, "parent_id": parent, "role": role, "text": text} | more

    found, lines = read(
        message("1", None, "prompter", "Hi"), message("2", "1", "assistant", "Hello."), message("3", "2", "prompter", "More?"),
        message("4", "3", "assistant", "Yes."), message("5", "3", "assistant", "No."), message("6", "4", "prompter", "Thanks"),
        message("7", "1", "assistant", "rude", deleted=True), message("8", "1", "assistant", "Yo.", lang="en"))
    start = (*TALK, ("user", "More?"))
    assert found == [messages(*start, ("assistant", "No.")),
                     messages(*start, ("assistant", "Yes."), learn=(False, False, False, True)),
                     messages(("user", "Hi"), ("assistant", "Yo."))]
    assert lines[0].endswith("not used: lang")
