"""The user's own examples: JSON lines, JSON, CSV, TSV, Parquet or a Hub dataset, read into a list of `Example`.

Columns: `instruction, response` (and `input`), or `prompt, completion`, or `text`, or `messages` (a list of
{"role", "content"}). Whatever is wrong is said in one line that names the file, the row and the column.
"""

import dataclasses
import os

from ftlab.errors import UsageError
from ftlab.text.tables import MAX_BYTES, ROLES, columns_of, kind, messages_of, table_rows, text_of

# Other names under which well-known data sets (Alpaca, Dolly) keep the same thing.
ALIASES = {"response": ("response", "output"), "input": ("input", "context")}
HOW = ('"instruction" and "response", or "prompt" and "completion", or "text", or "messages"')


@dataclasses.dataclass(frozen=True)
class Example:
    """What a model is to answer, and how.

    form: "instruction" (instruction, maybe input, response), "completion" (the prompt in `instruction`, its
    continuation in `response`; no template), "text" (all in `response`; no template), "messages" (`messages`, a tuple
    of (role, content)). source: (file, row, {field: column}), where it came from a file.

    Of messages only: learn: for each message whether its tokens are learned (empty: those of the assistant are).
    extra: for each message the other keys that a chat template reads, such as "tool_calls" or "reasoning_content"
    (empty: none). tools: JSON schemas of the functions that the assistant may call. template_options: further keyword
    arguments of `apply_chat_template`.
    """

    instruction: str = ""
    response: str = ""
    input: str = ""
    form: str = "instruction"
    messages: tuple = ()
    learn: tuple[bool, ...] = ()
    extra: tuple[dict, ...] = dataclasses.field(default=(), hash=False)
    tools: tuple[dict, ...] = dataclasses.field(default=(), hash=False)
    template_options: dict = dataclasses.field(default_factory=dict, hash=False)
    source: tuple | None = dataclasses.field(default=None, compare=False, repr=False)

    def as_messages(self):
        """The example as [{"role", "content"}, …]; an input follows its instruction as a section of its own."""
        if self.form == "messages":
            extra = self.extra or ({},) * len(self.messages)
            return [{"role": role, "content": content, **more}
                    for (role, content), more in zip(self.messages, extra, strict=True)]
        asked = f"{self.instruction}\n\n### Input:\n{self.input}" if self.input else self.instruction
        return [{"role": "user", "content": asked}, {"role": "assistant", "content": self.response}]

    def place(self):
        """"data.jsonl: line 3", for messages."""
        return f"{self.source[0]}: {self.source[1]}" if self.source else f"the example {self.instruction[:40]!r}"

    def longest_column(self):
        """The column that holds most of the text."""
        if self.form == "messages":
            return "messages"
        field = max(("instruction", "input", "response"), key=lambda name: len(getattr(self, name)))
        return (self.source[2] if self.source else {}).get(field, field)


def from_tasks(tasks):
    """Tasks of `ftlab.world.tasks` as examples."""
    return [Example(task.instruction, task.response, task.input) for task in tasks]


def read_examples(source, *, max_bytes=MAX_BYTES, progress=None):
    """The examples in `source`: a .jsonl, .json, .csv, .tsv or .parquet file, or a Hub dataset ("owner/name" or
    "owner/name:config", its split "train").

    The columns of the first row decide how all are read. progress: called with a line of text at the end.
    Raises UsageError, one line that says where and what to do.
    """
    source = os.fspath(source)
    say = progress or (lambda line: None)
    examples, reader = [], None
    for where, row in table_rows(source, max_bytes, say):
        if not isinstance(row, dict):
            raise UsageError(f"{source}: {where} is {kind(row)}, not an object with columns: write one "
                             '{"instruction": …, "response": …} a row')
        reader = reader or _reader(source, where, row)
        examples.append(reader(source, where, row))
    if not examples:
        raise UsageError(f"{source}: holds no rows: give a file with examples in it")
    say(f"{len(examples):,} examples")
    return examples


# ---- rows


def _reader(source, where, row):
    """The function (source, where, row) -> Example for the columns of the first row."""
    def column(field):
        return next((name for name in ALIASES.get(field, (field,)) if name in row), None)

    if "messages" in row:
        return _messages
    for form, asked, answer in (("instruction", "instruction", "response"), ("completion", "prompt", "completion")):
        if asked in row and column(answer):
            columns = {"instruction": asked, "response": column(answer)}
            if form == "instruction" and column("input"):
                columns["input"] = column("input")
            return lambda source, where, row: _fields(source, where, row, form, columns)
    if "text" in row:
        return lambda source, where, row: _fields(source, where, row, "text", {"response": "text"})
    lacking = next((f'"{answer}" beside "{asked}"' for asked, answer in (("instruction", "response"),
                    ("prompt", "completion")) if asked in row), "the columns to learn from")
    raise UsageError(f"{source}: {where} lacks {lacking} (its columns: {columns_of(row)}): name them {HOW}")


def _fields(source, where, row, form, columns):
    values = {}
    for field, column in columns.items():
        if field == "input" and row.get(column) is None:
            continue  # an input may be left out
        if column not in row:
            raise UsageError(f"{source}: {where} has no column \"{column}\" (its columns: {columns_of(row)}): add it or delete "
                             "the row")
        text = text_of(f"{source}: {where}, column \"{column}\"", row[column], field != "input")
        # A template puts its own line breaks around; a text or completion stands as it is.
        values[field] = text.strip() if form == "instruction" else text
    return Example(**values, form=form, source=(source, where, columns))


def _messages(source, where, row):
    place = f"{source}: {where}, column \"messages\""
    parts = messages_of(place, row.get("messages"))
    roles = [role for role, _ in parts]
    turns = roles[1:] if roles[0] == "system" else roles
    if turns[-1:] != ["assistant"] or any(role != ROLES[1 + i % 2] for i, role in enumerate(turns)):
        raise UsageError(f"{place}: the roles are {', '.join(roles)}: after an optional system message, user and "
                         "assistant must take turns, and the assistant ends")
    return Example(form="messages", messages=tuple(parts), source=(source, where, {}))
