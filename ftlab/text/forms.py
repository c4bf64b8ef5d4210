"""The forms in which the field keeps examples, as one table of columns, and how a row of each becomes an example.

A row is read by the first form of FORMS whose columns it has. Sources: TRL's "Dataset formats", OpenAI's, Mistral's and
Google's formats for fine-tuning, LLaMA-Factory's alpaca and sharegpt, FastChat, Axolotl, NeMo, XTuner and ms-swift;
docs/data.md shows a row of each.
"""

import dataclasses
import json

from ftlab.errors import UsageError
from ftlab.text.reading import LeftOut, NoForm
from ftlab.text.tables import kind, listed, text_of, written

# A column's names, in small letters; the first that a row has is read.
MESSAGES = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat_messages", "turns", "contents", "items",
            "mapping")  # fmt: skip
SYSTEM = ("system", "system_prompt", "system_message", "system_instruction")
HISTORY = ("history",)
TOOLS = ("tools", "functions")
OPTIONS = ("chat_template_kwargs",)
INPUT = ("input", "context", "passage")
ANSWER = ("response", "output", "answer", "answers", "solution", "target", "targets", "output_text", "assistant", "completion")
ASKED = ("question", "query", "problem", "prompt", "user", "human", "input", "inputs", "input_text")
TEXT = ("text", "content")
PREFERENCES = (("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred_output", "non_preferred_output"),
               ("response_j", "response_k"), ("response_a", "response_b"), ("response_0", "response_1"),
               ("human_ref_a", "human_ref_b"), ("conversation_a", "conversation_b"), ("answer_0", "answer_1"))  # fmt: skip
PICTURES = ("images", "videos", "audios")

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatbot": "assistant",
    "ai": "assistant", "chatgpt": "assistant", "claude": "assistant", "bing": "assistant", "bard": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool", "tool_response": "tool",
    "function_response": "tool", "tool_result": "tool",
    "function_call": "function_call", "tool_call": "function_call",
}  # fmt: skip
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker", "sender", "author"), ("content", "value", "text", "parts", "message")
# Keys of a message, or columns of a row, that say whether it is learned: it is not where the first kind is 0 or false, and
# where the second kind is true.
LEARNED_IF = ("weight", "train", "train_on_turn", "trainable", "learn", "loss", "loss_weight", "loss_mask", "need_learn")
NOT_LEARNED_IF = ("mask", "masked", "no_loss", "ignore")
_DETAILS = ("train_detail", "training_detail")  # masks of parts of a message
# What else of a message a chat template reads.
_EXTRA = ("tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning", "thinking")
_PAIRS = (("input", "output"), ("human", "assistant"), ("user", "assistant"), ("human", "gpt"), ("question", "answer"),
          ("instruction", "output"), ("instruction", "response"), ("query", "response"), ("prompt", "response"))  # fmt: skip
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
TRAINING_SPLITS = ("train", "training")
OTHER_SPLITS = ("test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation", "heldout", "held_out")
_TRUE, _FALSE = ("true", "1", "1.0", "yes", "desirable", "chosen"), ("false", "0", "0.0", "no", "undesirable", "rejected")


@dataclasses.dataclass
class Message:
    """One message. learn: None where nothing says whether it is learned. extra: other keys that templates read."""

    role: str
    content: str
    learn: bool | None = None
    extra: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Form:
    """name: as `Example.form` has it, or of our own. needs: for each column that a row must have, its names. build:
    (row, its columns) -> the fields of an `Example`."""

    name: str
    needs: tuple
    build: object


# ---- which form


def fields_of(row, forms=None) -> dict:
    """The fields of an `Example` of a `reading.Row`. Raises LeftOut where the row says that it is not to be learned,
    UsageError where it cannot be used."""
    form, columns = form_of(row, forms or FORMS)
    check_marks(row, form.name)
    fields = form.build(row, columns)
    if form.name != "text":
        _check_pictures(row)
    names = {name: row.table.names.get(column, column) for name, column in fields.pop("columns").items()}
    return fields | {"source": (row.table.source, row.where, names)}


def form_of(row, forms):
    """(Form, its columns in this row) of the first form that fits. Raises NoForm or UsageError where none does.

    A row that has only a part of what a form needs, while the table has the rest, is an incomplete row of that form.
    """
    incomplete = None
    for form in forms:
        columns = [next((name for name in names if row.cells.get(name) is not None), None) for names in form.needs]
        if "instruction" in row.table.names and form.needs[0] is ASKED and columns[0] == "input":
            continue  # it belongs to an instruction, which this row lacks
        if len(set(columns)) < len(columns) and all(columns):
            continue  # one column cannot be two
        if all(columns) and (incomplete is None or form.name != "text"):
            row.table.used.update(columns)
            return form, columns
        missing = [names for names, column in zip(form.needs, columns, strict=True) if column is None]
        if any(columns) and any(name in row.table.names for names in missing for name in names) and len(missing) == 1:
            incomplete = incomplete or missing[0]
    raise _no_form(row, forms, incomplete)


def _no_form(row, forms, missing):
    """The error for a row of no form. missing: names of what it lacks where it is an incomplete row of one."""
    known = row.table.names
    if missing is None:  # a row without any of a form's columns that the rest of the table has
        whole = next((form for form in forms if all(any(n in known for n in names) for names in form.needs)), None)
        missing = next((names for names in whole.needs if row.find(names) is None), None) if whole else None
    if missing is not None:
        name = next((n for n in missing if n in row.cells), None)
        if name is not None:
            return UsageError(f"{row.place(name)}: null, not text: write a string")
        column = next(known[n] for n in missing if n in known)
        return UsageError(f'{row.where} has no column "{column}" (its columns: {row.columns()}): add it or delete the row')
    if "input_ids" in row.cells:
        return NoForm(f"{row.where} holds token ids of some tokenizer, not text (its columns: {row.columns()}): give the "
                      "text that they were made from")
    if is_preference(row):
        return _no_example(row)
    lacking = next((f'"{answer}" beside "{asked}"' for asked, answer in (("instruction", "response"),
                    ("prompt", "completion"), ("question", "answer")) if asked in row.cells), "the columns to learn from")
    return NoForm(f'{row.where} lacks {lacking} (its columns: {row.columns()}): name them "instruction" and "response", or '
                  '"prompt" and "completion", or "text", or "messages"')


def is_preference(row) -> bool:
    """Whether a row has two answers to compare."""
    return any(all(row.cells.get(name) is not None for name in pair) for pair in PREFERENCES)


def _no_example(row):
    return NoForm(f"{row.where} is a preference (its columns: {row.columns()}), not an example to imitate: Labs 10 and 11 "
                  "learn from preferences; to imitate the chosen answers, name their column \"response\"")


# ---- what must not be learned


def number(value):
    """A number, or the number that a text says, else None."""
    if isinstance(value, (bool, int, float)):
        return float(value)
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def truth(value):
    """True or False for what says so (true, 1, "false", 0.0), None for anything else."""
    if isinstance(value, (bool, int, float)):
        return value != 0
    text = value.strip().lower() if isinstance(value, str) else ""
    return True if text in _TRUE else False if text in _FALSE else None


def label_column(table, form_name):
    """The column that says which answers are good ones (unpaired preference), or None.

    "kto_tag" always is one. "label" is one where it is true or false all along; 0 and 1 may be a classifier's classes, so
    they count beside messages and prompt–completion only, and beside plain text nothing does.
    """
    if form_name == "text":
        return None
    if "kto_tag" in table.names:
        return "kto_tag"
    held = _label_kind(table)
    return "label" if held == "words" or held == "numbers" and form_name in ("messages", "completion") else None


def _label_kind(table):
    """What the column "label" holds throughout: "words" (true, false), "numbers" (0, 1), or "classes" (anything else)."""
    if table.label_kind is None:
        values = table.values("label")
        known = all(truth(value) is not None and (isinstance(value, str) or value in (0, 1)) for value in values)
        numbers = any(not isinstance(value, bool) and str(value).strip() in ("0", "1", "0.0", "1.0") for value in values)
        table.label_kind = "classes" if not values or not known else "numbers" if numbers else "words"
    return table.label_kind


def check_marks(row, form_name):
    """Raise LeftOut where a column of the row says that it is not to be learned. form_name: a Form's, or "preference"."""
    label = None if form_name == "preference" else label_column(row.table, form_name)
    if label is not None and truth(row.get((label,))) is False:
        raise LeftOut(f"{row.table.names[label]} false")
    for name in _present(row.table, ("weight", "train") if form_name in ("text", "preference") else LEARNED_IF):
        value = row.cells.get(name)
        if name == "loss" and not isinstance(value, bool) or isinstance(value, (list, dict)):
            continue  # a number that was measured
        if truth(value) is not None:
            row.table.used.add(name)
            _note_fraction(row.table, value)
            if truth(value) is False:
                raise LeftOut(f"{row.table.names[name]} {value}".lower())
    for name in _present(row.table, NOT_LEARNED_IF if form_name != "text" else ()):
        if isinstance(row.cells.get(name), (bool, int)):
            row.table.used.add(name)
            if row.cells[name]:
                raise LeftOut(f"{row.table.names[name]} true")
    split = row.cells.get("split")
    if isinstance(split, str) and split.strip().lower() in TRAINING_SPLITS + OTHER_SPLITS and any(
            str(value).strip().lower() in TRAINING_SPLITS for value in _few(row.table, "split")):
        row.table.used.add("split")
        if split.strip().lower() in OTHER_SPLITS:
            raise LeftOut(f"{row.table.names['split']} {split.strip()}")


def _present(table, names):
    return [name for name in names if name in table.names]


def _few(table, name):
    """The different values of a column, found once."""
    if name not in table.different:
        table.different[name] = {value for value in table.values(name) if isinstance(value, str)}
    return table.different[name]


def _note_fraction(table, value):
    if isinstance(value, (int, float)) and value not in (0, 1):
        table.notes["weights other than 0 and 1 are read as 1"] = True


def _check_pictures(row):
    for name in PICTURES:
        if row.cells.get(name):
            raise UsageError(f"{row.place(name)}: {name}: only text is learned here: leave such rows out")


# ---- forms


def _messages(row, columns):
    column, = columns
    messages = talk(row, column)
    if messages[-1].role != "assistant" and is_preference(row):
        raise _no_example(row)
    return _as_messages(row, messages, {"messages": column})


def _asked(row, columns):
    """Instruction and answer, by a template."""
    return _two(row, *columns, "instruction")


def _completion(row, columns):
    """Prompt and its continuation, without a template."""
    return _two(row, *columns, "completion")


def _two(row, asked, answer, form):
    names = {"instruction": asked, "response": answer}
    talks = [as_talk(row, column) for column in (asked, answer)]
    extra_input = row.find([name for name in INPUT if name != asked]) if form == "instruction" else None
    told = row.optional(extra_input and (extra_input,) or ())
    if extra_input is not None:
        names["input"] = extra_input
    system, history, tools = system_of(row), history_of(row), tools_of(row)
    if not any(talks) and not system.strip() and not history and not tools:
        values = {"instruction": row.text(asked), "response": _answer(row, answer)} | ({"input": told} if told else {})
        # A template puts its own line breaks around; a completion stands as it is.
        values = {name: text.strip() for name, text in values.items()} if form == "instruction" else values
        return values | {"form": form, "columns": names}
    prompt = talks[0] or [Message("user", with_input(row.text(asked).strip(), told.strip()))]
    if history and talks[0] is None:
        prompt = history + prompt
    for message in prompt if talks[0] or talks[1] else ():
        message.learn = False  # the loss is on the completion
    answers = talks[1] or [Message("assistant", _answer(row, answer).strip())]
    return _as_messages(row, prompt + answers, {"messages": max((asked, answer), key=lambda c: len(str(row.cells[c])))}, system)


def _answer(row, column):
    """The text of an answer; of SQuAD's {"text": [answers], …} and of a list with one text, the first."""
    value = row.cells[column]
    if isinstance(value, dict) and isinstance(value.get("text"), list) and value["text"]:
        return text_of(row.place(column), written(value["text"][0]))
    return row.text(column)


def _steps(row, columns):
    """TRL's stepwise supervision: a prompt, steps, and for each step whether it is right. A wrong one is not learned."""
    prompt, steps, labels = columns
    marks = row.cells[labels]
    if not isinstance(row.cells[steps], list) or not isinstance(marks, list) or len(marks) != len(row.cells[steps]):
        raise UsageError(f'{row.place(steps)}: write a list of steps, and in "labels" as many times true or false')
    if not all(truth(mark) for mark in marks):
        raise LeftOut("a step that is labelled false")
    steps = [text_of(row.place(steps), step) for step in row.cells[steps]]
    return {"instruction": row.text(prompt), "response": "\n".join(steps), "form": "completion",
            "columns": {"instruction": prompt, "response": columns[1]}}


def _segments(row, columns):
    """Axolotl's template-free form: texts, each with a label whether it is learned."""
    column, = columns
    parts = row.cells[column]
    if not isinstance(parts, list) or not all(isinstance(part, dict) and "text" in part for part in parts):
        raise UsageError(f'{row.place(column)}: write a list of {{"label": true or false, "text": …}}')
    learned = [bool(truth(part.get("label"))) for part in parts]
    if learned != sorted(learned):
        raise UsageError(f"{row.place(column)}: what is not learned follows what is: only a prompt and then its answer are "
                         "read in this form")
    if not any(learned):
        raise LeftOut("every segment has the label false")
    texts = [text_of(row.place(column), part["text"], needed=False) for part in parts]
    start = learned.index(True)
    return {"instruction": "".join(texts[:start]), "response": "".join(texts[start:]), "form": "completion",
            "columns": {"instruction": column, "response": column}}


def _text(row, columns):
    column, = columns
    if column == "content" and "role" in row.cells:
        raise UsageError(f"{row.where} is a single message (its columns: {row.columns()}): put the messages of a talk into one "
                         "row, as a list under \"messages\"")
    return {"response": row.text(column), "form": "text", "columns": {"response": column}}


def document(row, columns):
    """The fields of a document: a text that may be empty, and is any column's of that name."""
    column, = columns
    return {"response": row.text(column, needed=False), "form": "text", "columns": {"response": column}}


FORMS = (
    Form("messages", (("messages",),), _messages),
    Form("instruction", (("instruction",), ANSWER), _asked),
    Form("completion", (("prompt",), ("completion",)), _completion),
    Form("text", (("text",),), _text),
    Form("messages", (MESSAGES,), _messages),
    Form("steps", (("prompt",), ("completions",), ("labels",)), _steps),
    Form("instruction", (ASKED, ANSWER), _asked),
    Form("segments", (("segments",),), _segments),
    Form("text", (("content",),), _text),
)


def with_input(instruction, told) -> str:
    """An instruction with its input as a section of its own, as `Example.as_messages` writes it."""
    return f"{instruction}\n\n### Input:\n{told}" if told else instruction


def _as_messages(row, messages, columns, system=None):
    """The fields of an example of messages, with what the row says beside them: system prompt, tools, options."""
    system = system_of(row) if system is None else system
    messages = with_system(messages, system)
    _mask_role(row, messages)
    if not any(message.role == "assistant" for message in messages):
        roles = ", ".join(message.role for message in messages)
        raise UsageError(f"{row.place(columns['messages'])}: no message of the assistant, so nothing to learn (the roles are "
                         f"{roles}): add its answer or delete the row")
    learned = [message.role == "assistant" and message.learn is not False for message in messages]
    if not any(learned):
        raise LeftOut("no message that is to be learned")
    row.table.masked += sum(message.role == "assistant" for message in messages) - sum(learned)
    usual = [message.role == "assistant" for message in messages]
    extra = tuple(message.extra for message in messages)
    return {
        "form": "messages", "messages": tuple((message.role, message.content) for message in messages),
        "learn": () if learned == usual else tuple(learned), "extra": extra if any(extra) else (),
        "tools": tuple(tools_of(row)), "template_options": options_of(row), "columns": columns,
    }  # fmt: skip


def system_of(row) -> str:
    """The system prompt in a column of its own, or "". Google's is an object with parts."""
    name = row.find(SYSTEM)
    if name is not None and isinstance(row.cells[name], (dict, list)):
        return content_of(row.place(name), row.cells[name], "system")
    return "" if name is None else row.text(name, needed=False)


def with_system(messages, system) -> list:
    """Messages with a system prompt from a column of its own before them; where they begin with one, it comes first."""
    if not system.strip():
        return messages
    if messages and messages[0].role == "system":
        own = messages[0]
        if own.content.strip() == system.strip():
            return messages
        return [dataclasses.replace(own, content=f"{system.strip()}\n\n{own.content}"), *messages[1:]]
    return [Message("system", system.strip()), *messages]


def _mask_role(row, messages):
    """NeMo's "mask" of a row: the name of who is not learned."""
    masked = row.cells.get("mask")
    if isinstance(masked, str) and truth(masked) is None:
        row.table.used.add("mask")
        for message in messages:
            if message.role == ROLES.get(masked.strip().lower(), masked):
                message.learn = False


# ---- what belongs to a prompt


def history_of(row) -> list:
    """Earlier turns in a column of their own: [[question, answer], …] or messages."""
    name = row.find(HISTORY)
    if name is None or row.cells[name] in ("", []):
        return []
    value = row.cells[name]
    value = listed(value) if isinstance(value, str) else value
    if not isinstance(value, list):
        raise UsageError(f"{row.place(name)}: {kind(row.cells[name])}: write a list of [question, answer]")
    return talk(row, name) if value else []


def tools_of(row) -> list:
    """The functions that the assistant may call, as JSON schemas in the form that chat templates read."""
    name = row.find(TOOLS)
    value = None if name is None else row.cells[name]
    if isinstance(value, str):
        value = listed(value) if value.strip() else []
        if value is None:
            raise UsageError(f"{row.place(name)} is no JSON: write a list of functions")
    value = [value] if isinstance(value, dict) else value or []
    value = [listed(tool) if isinstance(tool, str) else tool for tool in value]
    if not all(isinstance(tool, dict) for tool in value):
        raise UsageError(f"{row.place(name)}: write a list of functions, each an object with a \"name\"")
    value = [_without_null(tool) for tool in value]
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in value]


def options_of(row) -> dict:
    """TRL's column of keyword arguments for the chat template."""
    name = row.find(OPTIONS)
    value = None if name is None else row.cells[name]
    value = listed(value) if isinstance(value, str) else value
    if value is not None and not isinstance(value, dict):
        raise UsageError(f"{row.place(name)}: {kind(value)}: write an object of options")
    return {key: item for key, item in (value or {}).items() if item is not None}


def _without_null(value):
    """An object without the keys that Parquet and the Hub fill with null because other rows have them."""
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in value.items() if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


# ---- messages


def as_talk(row, column):
    """The messages in a column, or None where it holds text."""
    value = row.cells[column]
    if isinstance(value, str):
        found = listed(value) if value.lstrip().startswith(("[{", "[ {", "[\n")) else None
        if not isinstance(found, list) or not all(isinstance(m, dict) and _key(m, _ROLE_KEYS) for m in found):
            return None
    if isinstance(value, dict) and not (_key(value, _ROLE_KEYS) or _key(value, MESSAGES)):
        return None
    if isinstance(value, list) and not (value and all(isinstance(item, dict) for item in value)):
        return None
    return talk(row, column) if isinstance(value, (list, dict, str)) else None


def talk(row, column) -> list:
    """The messages in a column: a list of them in any known spelling, pairs of question and answer, JSON of such, or a
    tree exported from ChatGPT. Raises UsageError where it holds none."""
    value, place = row.cells[column], row.place(column)
    if isinstance(value, str):  # a CSV has no lists: there they are JSON, or what pandas prints
        value = listed(value)
        if value is None:
            raise UsageError(f"{place} is no JSON: write a list of {{\"role\": …, \"content\": …}}")
    if isinstance(value, dict):
        value = _list_of(row, value)
    if not isinstance(value, list) or not value:
        what = "an empty list" if value == [] else kind(value)
        raise UsageError(f"{place}: {what}: write a list of {{\"role\": …, \"content\": …}}")
    messages = []
    for number, item in enumerate(value, 1):
        messages += _turn(row, f"{place}, message {number}", item)
    if not messages:
        raise UsageError(f"{place}: every message is empty: delete the row")
    return messages


def _list_of(row, value):
    """The list of messages in an object: {"role": [...], "content": [...]}, {"messages": [...]}, one message, or a tree."""
    if value and all(isinstance(item, list) for item in value.values()):
        if _key(value, _ROLE_KEYS):
            return [dict(zip(value, cells, strict=False)) for cells in zip(*value.values(), strict=False)]
    inner = next((value[name] for name in MESSAGES if isinstance(value.get(name), list)), None)
    if inner is not None:
        return inner
    if _key(value, _ROLE_KEYS):
        return [value]
    if value and all(isinstance(node, dict) and "parent" in node for node in value.values()):
        return _branch(value, row.get(("current_node",)))
    return value


def _branch(nodes, last):
    """The messages from the root of a tree {id: {"message", "parent"}} to the node `last` (else the last one listed)."""
    at, found = last if last in nodes else list(nodes)[-1], []
    while at in nodes and len(found) <= len(nodes):
        message = nodes[at].get("message")
        if isinstance(message, dict):
            author = message.get("author")
            role = author.get("role") if isinstance(author, dict) else author
            content = message.get("content")
            parts = content.get("parts") if isinstance(content, dict) else [content]
            text = "\n".join(part for part in parts or [] if isinstance(part, str))
            if text.strip():
                found.append({"role": role, "content": text})
        at = nodes[at].get("parent")
    return found[::-1]


def _turn(row, place, item):
    """The messages of one item of a talk: one, two (a pair), or none (an empty system prompt)."""
    if isinstance(item, list) and len(item) == 2:
        texts = [text_of(place, written(text), needed=False) for text in item]
        return [Message(role, text) for role, text in zip(("user", "assistant"), texts, strict=True) if text.strip()]
    if not isinstance(item, dict):
        raise UsageError(f'{place}: {kind(item)} without "role" and "content": write both')
    item = {key.lower() if key.lower() in _ROLE_KEYS + _CONTENT_KEYS else key: value for key, value in item.items()
            if value is not None}
    role_key, content_key = _key(item, _ROLE_KEYS), _key(item, _CONTENT_KEYS)
    if role_key is None:
        pair = next((pair for pair in _PAIRS if set(pair) & set(item) and pair[1] in item), None)
        if pair is not None:
            return _pair(row, place, item, *pair)
    if role_key is None or content_key is None and not (_calls(item) or "reasoning_content" in item or "refusal" in item):
        # An assistant's null beside a call of a function, or a tool that gave nothing, is no mistake.
        if role_key is None or ROLES.get(str(item[role_key]).strip().lower()) != "tool":
            raise UsageError(f'{place}: an object without "role" and "content": write both')
    return _message(row, place, item, role_key, content_key)


def _message(row, place, item, role_key, content_key):
    named = item[role_key]
    named = named.get("role") if isinstance(named, dict) else named
    role = ROLES.get(named.strip().lower()) if isinstance(named, str) else None
    if role is None:
        raise UsageError(f"{place}: the role is {named!r}: write one of system, user, assistant, tool")
    content = content_of(place, item.get(content_key), role) if content_key else str(item.get("refusal") or "")
    extra = {key: _without_null(item[key]) for key in _EXTRA if key in item and item[key] not in ("", [], {})}
    calls = _calls(item)
    if role == "function_call":
        role, calls, content = "assistant", _parsed_calls(place, content), ""
    if calls:
        extra["tool_calls"] = [_call(place, call) for call in calls]
    elif role == "system" and not content.strip():
        return []  # of SlimOrca and others: a system prompt that says nothing
    elif role != "tool" and not extra.get("reasoning_content"):
        content = text_of(place, content)
    _note_keys(row, item, role_key, content_key)
    return [Message(role, content, _learned(row, place, item), extra)]


def _pair(row, place, item, asked, answer):
    """XTuner's and Firefly's turns, {"system", "input", "output", "output_with_loss"}, as messages."""
    found = [Message("system", item["system"])] if isinstance(item.get("system"), str) and item["system"].strip() else []
    question = content_of(place, item.get(asked), "user")
    found += [Message("user", question)] if question.strip() else []
    learn = _learned(row, place, item)
    if truth(item.get("output_with_loss")) is False:
        learn = False
    return [*found, Message("assistant", text_of(place, content_of(place, item[answer], "assistant")), learn)]


def _key(item, names):
    return next((name for name in names if name in item), None)


def content_of(place, value, role) -> str:
    """A message's content as text: text parts are put on lines of their own. Raises UsageError for other parts."""
    if value is None:
        return ""
    if isinstance(value, dict) and isinstance(value.get("parts"), list):
        value = value["parts"]
    if isinstance(value, list):
        return "\n".join(_part(place, part, role) for part in value)
    if isinstance(value, dict):
        if isinstance(value.get("text"), str):
            return value["text"]
        if role in ("tool", "function_call"):
            return json.dumps(value, ensure_ascii=False)
    return text_of(place, written(value), needed=False)


def _part(place, part, role):
    if isinstance(part, str):
        return text_of(place, part, needed=False)
    what = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else kind(part)
    text = part.get("text", part.get("refusal")) if isinstance(part, dict) and what in _TEXT_PARTS else None
    if isinstance(text, str):
        return text_of(place, text, needed=False)
    if role == "tool":
        return json.dumps(part, ensure_ascii=False)
    raise UsageError(f"{place}: a part of the type {what or ', '.join(map(str, part))}: only text is learned here: leave such "
                     "rows out")


def _calls(item):
    """The calls of functions in a message: OpenAI's "tool_calls", or the older "function_call"."""
    calls = item.get("tool_calls")
    calls = listed(calls) if isinstance(calls, str) else calls
    if not calls and isinstance(item.get("function_call"), dict) and item["function_call"].get("name"):
        calls = [item["function_call"]]
    return calls


def _parsed_calls(place, content):
    """ShareGPT's role "function_call": the calls are its content, as JSON."""
    found = listed(content)
    found = [found] if isinstance(found, dict) else found
    if not isinstance(found, list) or not found:
        raise UsageError(f'{place}: a function call that is no JSON: write {{"name": …, "arguments": {{…}}}}')
    return found


def _call(place, call):
    """A call as chat templates read it: {"type", "function": {"name", "arguments"}}, the arguments as an object."""
    call = _without_null(call) if isinstance(call, dict) else {}
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UsageError(f'{place}: a function call without a name: write {{"name": …, "arguments": {{…}}}}')
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        found = listed(arguments)
        arguments = found if isinstance(found, dict) else arguments
    ids = {"id": call["id"]} if "function" in call and "id" in call else {}
    return ids | {"type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _learned(row, place, item):
    """False where a key of a message says that it is not learned, True where one says that it is, else None."""
    found = None
    for key in item:
        if key in _DETAILS and item[key]:
            raise UsageError(f'{place}: "{key}" marks parts of a message: only whole messages can be left out here')
        if key in LEARNED_IF or key in NOT_LEARNED_IF:
            value = truth(item[key])
            _note_fraction(row.table, item[key])
            learn = value if key in LEARNED_IF or value is None else not value
            found = False if False in (found, learn) else learn if learn is not None else found
    return found


def _note_keys(row, item, role_key, content_key):
    """Remember the keys of a message that nothing here reads."""
    known = {role_key, content_key, "function_call", "refusal", *_EXTRA, *LEARNED_IF, *NOT_LEARNED_IF, *_DETAILS}
    for key, value in item.items():
        if key not in known and value not in ("", [], {}):
            row.table.odd_keys[key] = True
