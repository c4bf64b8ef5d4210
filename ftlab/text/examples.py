"""The user's own examples: a table of theirs, or a Hub dataset, read into a list of `Example` or of documents.

Columns: `instruction, response` (and `input`), or `prompt, completion`, or `text`, or `messages` (a list of
{"role", "content"}), and what else `ftlab.text.forms` knows (docs/data.md). Whatever is wrong is said in one line that
names the file, the row and the column.
"""

import dataclasses

from ftlab.errors import UsageError
from ftlab.text import forms
from ftlab.text.reading import NoForm, Row, Table, collect
from ftlab.text.tables import MAX_BYTES
from ftlab.text.trees import joined


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
            return (self.source[2] if self.source else {}).get("messages", "messages")
        field = max(("instruction", "input", "response"), key=lambda name: len(getattr(self, name)))
        return (self.source[2] if self.source else {}).get(field, field)


def from_tasks(tasks):
    """Tasks of `ftlab.world.tasks` as examples."""
    return [Example(task.instruction, task.response, task.input) for task in tasks]


def read_examples(source, *, max_bytes=MAX_BYTES, progress=None, warn=None) -> list[Example]:
    """The examples in `source`: a .jsonl, .json, .csv, .tsv, .parquet or .arrow file (also compressed), a folder of such
    files, or a Hub dataset ("owner/name" or "owner/name:config", its split "train").

    Rows may have different forms. Rows that cannot be used are passed over, those that say so are left out of what is
    learned. progress: called with lines of text; warn (default: progress): with those that name what was not used.
    Raises UsageError, one line that says where and what to do, also where most rows cannot be used.
    """
    say = progress or (lambda line: None)
    table = joined(Table.read(source, max_bytes, say, warn or say))
    return collect(table, lambda row: [Example(**forms.fields_of(row))], "examples",
                   '{"instruction": …, "response": …}', say, warn or say)


PROSE = 20  # a column of no known name holds documents from so many characters a row on; shorter ones are names and labels


def read_documents(source, *, max_bytes=MAX_BYTES, progress=None, warn=None) -> list[str]:
    """The rows of a table or of a Hub dataset as plain texts: of "text" or "content", else all that an example says, else
    of the column that holds the longest texts.

    The arguments are those of `read_examples`. Raises UsageError; a `NoForm` where no column holds text.
    """
    say = progress or (lambda line: None)
    table = joined(Table.read(source, max_bytes, say, warn or say))
    table.rows = [(where, _text_row(where, row, table)) for where, row in table.rows]
    longest = _longest_column(table)
    texts = collect(table, lambda row: [_document(row, longest)], "rows", '{"text": …}', say, warn or say, "text")
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise UsageError(f"{table.source}: every row's text is empty: name a file with text in it")
    return texts


_DOCUMENTS = (forms.Form("text", (forms.TEXT,), forms.document), *forms.FORMS)


def _document(row, longest):
    try:
        example = Example(**forms.fields_of(row, _DOCUMENTS))
    except NoForm:
        if longest is not None and row.find((longest,)):
            return row.text(longest, needed=False)
        have = ", ".join(str(row.table.names.get(name, name)) for name in row.cells) or "nothing"
        if row.table.names and not any(isinstance(value, str) for value in row.cells.values()):
            raise NoForm(f"{row.where}: no column holds text (it has: {have}): name other data") from None
        raise NoForm(f'{row.where} has no string in a "text" column (it has: {have}): rename one') from None
    if example.form == "completion":
        return example.instruction + example.response
    parts = _said(example, row) if example.form == "messages" else [example.instruction, example.input, example.response]
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _said(example, row):
    """The contents of messages without those answers that a mark keeps out. (What a prompt holds is only its context.)"""
    learn = example.learn if example.learn and "completion" not in row.cells else (True,) * len(example.messages)
    return [content for (role, content), seen in zip(example.messages, learn, strict=True) if seen or role != "assistant"]


def _text_row(where, row, table):
    """A row that is a string alone as a row with a text."""
    if isinstance(row, str):
        return Row(where, {"text": row}, table)
    return Row(where, {type(row).__name__: None}, table) if isinstance(row, (int, float, list, type(None))) else row


def _longest_column(table):
    """The column with the longest texts, where they are long enough for prose; else None."""
    lengths = {name: [len(value) for value in table.values(name) if isinstance(value, str)] for name in table.names}
    means = {name: sum(found) / len(found) for name, found in lengths.items() if found}
    name = max(means, key=lambda n: means[n], default=None)
    return name if name is not None and means[name] >= PROSE else None
