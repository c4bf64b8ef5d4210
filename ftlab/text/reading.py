"""What every reader of tables shares: columns found by any of their names, rows that cannot be used, and what is said of them.

A row that cannot be used is passed over and counted; a table of which most rows cannot be used is refused. Columns that
were not read are named, so that nothing is lost without a word.
"""

import collections
import dataclasses
import functools
import os
import re

from ftlab.errors import UsageError
from ftlab.text import sources, tables
from ftlab.text.tables import MAX_BYTES, TornLine, Unusable, columns_of, kind, table_rows, text_of, written

NAMED = 3  # so many of the rows passed over are named
# What people and pandas write where a cell of a CSV has no value; in JSON it is null, and such a word is meant.
_NO_VALUE = ("nan", "null", "none", "<na>", "n/a", "#n/a")
_NAN = ("NaN", "nan", "<NA>", "#N/A")  # in a column that must have a value the others may be an answer
_NO_INPUT = ("<noinput>", "<no input>")  # of the self-instruct data


class LeftOut(Exception):
    """A row that its own columns keep out of what is learned. The message says by which: "label false"."""


class NoForm(UsageError):
    """A row whose columns are of no known form."""


@dataclasses.dataclass
class Row:
    """A row of a table. where: "line 3". cells: {column's name in small letters: value}."""

    where: str
    cells: dict
    table: "Table"

    def find(self, names):
        """The first of `names` under which this row has a value, or None; it counts as read."""
        found = next((name for name in names if self.cells.get(name) is not None), None)
        known = found or next((name for name in names if name in self.table.names), None)
        if known is not None:
            self.table.used.add(known)
        return found

    def get(self, names):
        """The value under the first of `names` that has one, or None."""
        found = self.find(names)
        return None if found is None else self.cells[found]

    def place(self, name):
        """'line 3, column "Answer"', for messages."""
        return f'{self.where}, column "{self.table.names.get(name, name)}"'

    def text(self, name, needed=True):
        """The text in column `name`; a number is its text. needed=False: "" where it holds none."""
        value = written(self.cells[name])
        if not needed and (value is None or isinstance(value, str) and self._says_nothing(value)):
            return ""
        value = "" if self.table.is_csv and value in _NAN else value
        return text_of(self.place(name), value, needed)

    def optional(self, names):
        """The text under the first of `names` that has some, or ""."""
        found = self.find(names)
        return "" if found is None else self.text(found, needed=False)

    def _says_nothing(self, text):
        text = text.strip().lower()
        return text in _NO_INPUT or self.table.is_csv and text in _NO_VALUE

    def columns(self):
        """The names of the row's columns as the file spells them, for messages."""
        return columns_of([self.table.names.get(name, name) for name in self.cells])


class Table:
    """All rows of a source, and what is known of its columns.

    names: {name in small letters: as the file spells it}. used: those that were read. odd_keys: keys inside of messages
    that were not. notes: sentences about what was read otherwise than it is written. masked: how many of the assistant's
    messages are not learned. torn: the error about a last line that is cut off, or None.
    """

    def __init__(self, source, rows):
        self.source, self.names, self.used, self.odd_keys, self.notes = os.fspath(source), {}, set(), {}, {}
        self.is_csv = sources.suffix_of(self.source) in (".csv", ".tsv")
        self.unnamed, self.masked, self.rows, self.torn = 0, 0, [], None
        self.label_kind, self.different = None, {}  # what `forms` finds out of whole columns, once
        try:
            for where, row in rows:
                if isinstance(row, dict) and row and all(value is None for value in row.values()):
                    continue  # what a spreadsheet's empty last rows become in Parquet and JSON
                self.rows.append(self._row(where, row))
        except TornLine as error:
            self.torn = error

    @classmethod
    def read(cls, source, max_bytes=MAX_BYTES, say=lambda line: None, warn=None):
        """The table in `source`, as `tables.table_rows` takes it. Raises UsageError."""
        return cls(source, table_rows(source, max_bytes, say, warn))

    def _row(self, where, row):
        if isinstance(row, list) and row and all(isinstance(m, dict) and any(k in m for k in tables._SPEAKERS) for m in row):
            row = {"messages": row}  # a talk on a line of its own
        if not isinstance(row, dict):
            return where, row
        cells = {}
        for name, value in row.items():
            if name == "":
                self.unnamed += 1
                continue
            short = small(name)
            if short not in cells or name == short:
                cells[short] = value
            if short not in self.names or name == short:
                self.names[short] = name
        return where, Row(where, cells, self)

    def values(self, name):
        """The values of a column that are not null."""
        found = (row.cells.get(name) for _, row in self.rows if isinstance(row, Row))
        return [value for value in found if value is not None]


@functools.lru_cache(maxsize=4096)
def small(name) -> str:
    """A column's name as it is compared: " System Prompt" and "systemPrompt" are "system_prompt"."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name).strip())
    return re.sub(r"[\s\-]+", "_", parted).lower()


def collect(table, build, noun, example, say, warn, needed="examples"):
    """The results of `build(row)`, a list each, over the rows of a table.

    build raises LeftOut or UsageError for a row that gives none. noun: of what there are results. example: a row as it
    should be, for the error about one that is no object. say, warn: called with the lines described above.
    Raises UsageError where there is no row, no result, or where most rows cannot be used.
    """
    if table.torn is not None:
        raise table.torn
    found, bad, left = [], [], collections.Counter()
    for where, row in table.rows:
        try:
            if isinstance(row, Unusable):
                raise UsageError(f"{where} {row.why}")
            if not isinstance(row, Row):
                raise UsageError(f"{where} is {kind(row)}, not an object with columns: write one {example} a row")
            found += build(row)
        except LeftOut as reason:
            left[str(reason)] += 1
        except UsageError as error:
            bad.append(error)
    total = len(table.rows)
    if not total:
        raise UsageError(f"{table.source}: holds no rows: give a file with {needed} in it")
    if 2 * len(bad) > total or not found and bad:
        more = f" ({len(bad):,} of {total:,} rows cannot be used)" if total > 1 else ""
        raise type(bad[0])(f"{table.source}: {bad[0]}{more}")
    reasons = ", ".join(f"{reason}: {count:,}" for reason, count in left.most_common())
    if not found:
        raise UsageError(f"{table.source}: nothing to learn from: every row is left out ({reasons})")
    _report(table, found, bad, left, reasons, noun, say, warn)
    return found


def _report(table, found, bad, left, reasons, noun, say, warn):
    used = [name for short, name in table.names.items() if short in table.used]
    unused = [str(name) for short, name in table.names.items() if short not in table.used]
    unused += [f'"{key}" in messages' for key in table.odd_keys]
    unused += ["columns without a name"] * bool(table.unnamed)
    line = f"{len(found):,} {noun if len(found) != 1 else noun.removesuffix('s')}"
    line += f" from {', '.join(map(str, used))}" if used else ""
    if unused:
        warn(f"{line}; not used: {', '.join(unused)}")
    else:
        say(line)
    if bad:
        rows = "1 row that cannot be used" if len(bad) == 1 else f"{len(bad):,} rows that cannot be used"
        warn(f"passed over {rows}, of {len(table.rows):,}: {'; '.join(map(str, bad[:NAMED]))}"
             + ("; …" if len(bad) > NAMED else ""))
    if left:
        count = sum(left.values())
        warn(f"left out {count:,} {'row' if count == 1 else 'rows'} of {len(table.rows):,}, not to be learned ({reasons})")
    if table.masked:
        say(f"{table.masked:,} messages of the assistant are not learned, as their rows or keys say")
    for note in table.notes:
        warn(note)
