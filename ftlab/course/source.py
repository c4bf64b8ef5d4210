"""Read a lab's one source, solutions/NN_name.py, into cells that know what they are."""

import dataclasses
import functools
import re

from ftlab.course import catalogue
from ftlab.errors import UsageError

KINDS = ("text", "setup", "exercise", "check", "probe", "experiment", "result", "play", "code")
NUMBERS = ("points", "minutes", "difficulty")
BEGIN, END, STUB = "### BEGIN SOLUTION", "### END SOLUTION", "### STUB:"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell. kind: one of KINDS; id: the exercise of an exercise, check or probe; claim: of a result."""

    kind: str
    type: str  # "code" or "markdown"
    source: str
    id: str | None = None
    claim: str | None = None
    tags: tuple = ()
    numbers: tuple = ()  # (name, value) of points, minutes, difficulty, where the header repeats them


def read_lab(lab):
    """The cells of lab `lab`. Raises UsageError, naming file and cell, when the source breaks a rule of the format."""
    path = catalogue.SOLUTIONS / f"{lab}.py"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"no solutions/{lab}.py: labs are built and run from a checkout of the repository") from None
    cells = list(_parsed(text, f"solutions/{lab}.py"))
    check_cells(cells, catalogue.exercises(lab), {claim.id for claim in catalogue.claims(lab)}, f"solutions/{lab}.py")
    return cells


@functools.lru_cache(maxsize=16)
def _parsed(text, name):
    """`parse`, once for the same text: grading reads a lab again for each submission."""
    return tuple(parse(text, name))


def parse(text, name):
    """The cells in the percent-format source `text`."""
    import jupytext

    notebook = jupytext.reads(text, fmt="py:percent")
    cells = []
    for number, raw in enumerate(notebook.cells, 1):
        meta = raw.metadata
        kind = meta.get("ftlab", "text" if raw.cell_type == "markdown" else "code")
        if raw.cell_type == "raw" or kind not in KINDS:
            raise UsageError(f"{name}, cell {number}: unknown kind {kind!r}; known are {', '.join(KINDS)}")
        if (kind == "text") != (raw.cell_type == "markdown"):
            raise UsageError(f"{name}, cell {number}: a text cell, and no other, is [markdown]")
        if kind in ("exercise", "check", "probe") and not meta.get("id"):
            raise UsageError(f'{name}, cell {number}: ftlab="{kind}" needs an id="..."')
        if kind == "result" and not meta.get("claim"):
            raise UsageError(f'{name}, cell {number}: ftlab="result" needs a claim="..."')
        unknown = set(meta) - {"ftlab", "id", "claim", "tags", "lines_to_next_cell", *NUMBERS}
        if unknown:
            raise UsageError(f"{name}, cell {number}: unknown {', '.join(sorted(unknown))} in the cell's header")
        if raw.source.strip():
            numbers = tuple((key, meta[key]) for key in NUMBERS if key in meta)
            tags = tuple(meta.get("tags", ()))
            cells.append(Cell(kind, raw.cell_type, raw.source, meta.get("id"), meta.get("claim"), tags, numbers))
    return cells


def check_cells(cells, exercises, claims, name):
    """Raise UsageError unless the cells and the lab's exercises and claims fit together."""
    problems, seen = [], []
    for kind in ("exercise", "check", "probe"):
        ids = [cell.id for cell in cells if cell.kind == kind]
        problems += [f"exercise {id!r} has no {kind} cell" for id in exercises if id not in ids]
        problems += [f"{kind} cell {id!r} has no Exercise" for id in ids if id not in exercises]
        problems += [f"{kind} cell {id!r} stands twice" for id in sorted({id for id in ids if ids.count(id) > 1})]
    for cell in cells:
        gap = BEGIN in cell.source
        if gap != (cell.kind == "exercise") or cell.source.count(BEGIN) != cell.source.count(END):
            name_of = cell.id or cell.source[:30]
            problems.append(f"{cell.kind} cell {name_of!r}: an exercise, and no other cell, has gaps")
        if cell.kind in ("check", "probe") and cell.id in exercises and cell.id not in seen:
            problems.append(f"{cell.kind} cell {cell.id!r} stands before its exercise")
        if cell.kind == "result" and cell.claim not in claims:
            problems.append(f"result cell {cell.claim!r} has no Claim")
        for key, value in cell.numbers:
            if cell.id in exercises and value != getattr(exercises[cell.id], key):
                problems.append(f"exercise {cell.id!r}: the header's {key} is not that of its Exercise")
        if cell.kind == "exercise":
            seen.append(cell.id)
    results = [cell.claim for cell in cells if cell.kind == "result"]
    problems += [f"claim {id!r} has no result cell" for id in sorted(claims) if id not in results]
    if problems:
        raise UsageError(f"{name}: " + "; ".join(problems))


def stub_of(cell):
    """The exercise cell's source as the student gets it: each gap replaced by its stub."""
    lines, inside, stub = [], False, []
    for line in cell.source.split("\n"):
        if BEGIN in line:
            inside, stub, indent = True, [], line[: len(line) - len(line.lstrip())]
        elif END in line:
            lines += stub or [f'{indent}raise NotImplementedError("exercise {cell.id}: your code goes here")']
            inside = False
        elif inside:
            if line.lstrip().startswith(STUB):
                text = line.lstrip()[len(STUB):]
                stub.append((indent + text.removeprefix(" ")).rstrip())
        else:
            lines.append(line)
    return "\n".join(lines)


def solution_of(cell):
    """The exercise cell's source with its gaps filled, without the markers."""
    return "\n".join(line for line in cell.source.split("\n") if not re.match(r"\s*### (BEGIN|END|STUB)", line))
