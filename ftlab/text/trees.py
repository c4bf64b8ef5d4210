"""Talks that a table spreads over several rows, one message each, put together: OpenAssistant's trees of messages."""

from ftlab.text.forms import ROLES, truth
from ftlab.text.reading import Row, Table

_TREE = ("message_id", "parent_id", "text", "role")


def joined(table: Table) -> Table:
    """The table, or where its rows are messages that name their parents, one with a talk a row.

    Each branch is a talk; a message that two branches share is learned once. Messages marked as deleted end a branch.
    """
    if not all(name in table.names for name in _TREE):
        return table
    rows = {row.cells["message_id"]: row for _, row in table.rows
            if isinstance(row, Row) and row.cells.get("message_id") is not None and not truth(row.cells.get("deleted"))}
    parents = {row.cells.get("parent_id") for row in rows.values()}
    made, learned = [], set()
    for id, row in rows.items():
        if id in parents:
            continue  # not the end of a branch
        branch = _branch(rows, row)
        while branch and ROLES.get(str(branch[-1].cells.get("role")).lower()) != "assistant":
            branch.pop()  # a question without an answer
        messages = [{"role": r.cells.get("role"), "content": r.cells.get("text"), "train": r.cells["message_id"] not in learned}
                    for r in branch]
        learned |= {r.cells["message_id"] for r in branch}
        if messages:
            made.append((row.where, {"messages": messages}))
    new = Table(table.source, made)
    new.names = table.names
    new.used = {*_TREE, "deleted"}
    return new


def _branch(rows, row):
    """The messages from the first one to `row`."""
    found = []
    while row is not None and row not in found:
        found.append(row)
        row = rows.get(row.cells.get("parent_id"))
    return found[::-1]
