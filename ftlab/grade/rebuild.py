"""From a submission to the two notebooks that are run: the release's own cells, with the student's solution cells put in.

*visible*: setup, exercises and checks, as the student ran them. *hidden*: setup, exercises and probes.
Everything but the exercises' code comes from the release, whatever the submission says: its checks, its points, its tags,
its other cells count for nothing. What counts is an exercise's own cell, and what it reads of the imports of installed
packages, definitions and constants in other cells (`ftlab.teach.names`). What else it reads is missing; the student is told so.

Which of a student's cells is an exercise's:
1. the cells that carry its id: nbgrader's grade_id, else ours (`metadata.ftlab.id`), else the cell's own id;
2. without one, or where that one is the untouched gap: the cells without a known id which begin with the exercise's heading
   or define what it asks for ("matched by content");
3. of several, those that are not the untouched gap; of these the last that defines all that is asked for, behind the ones
   above it that define what it reads (a cell that was split); where none does, all together in their order, when together
   they do, else the last.
"""

import ast
import copy
import dataclasses
import functools
import io
import re
import tokenize

from ftlab.course import catalogue
from ftlab.course.notebooks import lab_notebook, solution_notebook
from ftlab.course.source import read_lab, solution_of, stub_of
from ftlab.grade.notebook_file import conflict, read_notebook
from ftlab.grade.withheld import all_bound, bound, used
from ftlab.teach.display import PROBE_MIME
from ftlab.teach.names import taken_along, with_taken
from ftlab.teach.probe import probe_seed

MARKER = re.compile(r"(#[#\s]*)((?:NBVAL|PYTEST_VALIDATE)_[A-Z_]+)(\s*)")
SKIP = """try:
{body}
except (*(lambda errors: (errors.Withheld, errors.UsageError))(__import__('ftlab.errors', fromlist=['Withheld'])), NameError):
    pass"""
MISSING = "Missing when your code was graded; put it into the exercise's cell:"
# What a cell has to do with when it changes the machinery that shows and judges results.
MACHINERY = re.compile(
    r"ast_transformers|input_transformer|showtraceback|set_custom_exc|iopub|display_pub|displayhook|vnd\.ftlab|"
    r"PROBE_MIME|CHECK_MIME|ftlab\.teach|run_check|events\.register|sys\.settrace|sys\.setprofile"
)


@dataclasses.dataclass
class Staged:
    """Two notebooks ready to run, and what was seen on the way.

    visible, hidden: nbformat notebooks, or None where `problem` says why the submission cannot be graded.
    codes: {exercise id: the student's code, "" where no cell was found}; attempted: {exercise id: whether it is not the gap};
    taken: {exercise id: the lines of its code that come from other cells};
    solutions: ids of exercises for which the student took our solution; notes: {exercise id: line for the student}.
    """

    visible: object = None
    hidden: object = None
    flags: list = dataclasses.field(default_factory=list)
    codes: dict = dataclasses.field(default_factory=dict)
    attempted: dict = dataclasses.field(default_factory=dict)
    solutions: set = dataclasses.field(default_factory=set)
    notes: dict = dataclasses.field(default_factory=dict)
    taken: dict = dataclasses.field(default_factory=dict)
    problem: str | None = None

    def flag(self, kind, message, exercise=None):
        entry = {"kind": kind, "exercise": exercise, "message": message}
        if entry not in self.flags:
            self.flags.append(entry)


def staged(path, lab, secret="0", reference=None):
    """The Staged of the submission at `path`. Never raises for what a student can do; UsageError for an unknown lab.

    secret: the instructor's; it gives the seed that each probe's result must carry.
    reference: the hidden notebook of our solution with its outputs, which become the expected ones.
    """
    result, (cells, release, _) = Staged(), _release(read_lab, lab)
    submitted, result.problem = read_cells(path)
    if result.problem:
        return result
    _match(result, cells, {cell["id"] for cell in release.cells}, submitted)
    if not any(result.codes.values()):
        result.problem = "no cell of this notebook belongs to an exercise of the lab: is it another notebook?"
        return result
    _take_along(result, cells, submitted, {cell.source for cell in release.cells})
    _look_at_the_rest(result, lab, cells, {cell["id"]: cell for cell in release.cells}, submitted)
    sources = {cell.id: _source(result, cell) for cell in cells if cell.kind == "exercise"}
    result.visible = visible_notebook(lab, sources)
    result.hidden = hidden_notebook(lab, sources, secret)
    if reference is not None:
        expect(result.hidden, reference)
    return result


def visible_notebook(lab, sources):
    """Setup, exercises and checks of `lab` as a notebook without outputs. sources: {exercise id: code}."""
    _, release, _ = _release(read_lab, lab)
    return _notebook(release, ("setup", "exercise", "check"), sources, "visible")


def hidden_notebook(lab, sources=None, secret="0"):
    """Setup, exercises and probes of `lab`. sources: {exercise id: code}, default our solutions.

    A setup cell goes statement by statement: one that needs what is withheld is left out, and so is what builds on it.
    """
    cells, _, solution = _release(read_lab, lab)
    if sources is None:
        sources = {cell.id: solution_of(cell) for cell in cells if cell.kind == "exercise"}
    notebook = _notebook(solution, ("setup", "exercise", "probe"), sources, "hidden")
    for cell in notebook.cells:
        if cell.metadata.ftlab.kind == "setup":
            cell.source = guarded(cell.source)
        elif cell.metadata.ftlab.kind == "probe":
            cell.metadata.ftlab["seed"] = probe_seed(cell.metadata.ftlab.id, secret)
    return notebook


@functools.lru_cache(maxsize=4)
def _release(read, lab):
    """(cells, the student's notebook, the solution's) of a lab, read by `read` once; not to be changed."""
    cells = read(lab)
    return cells, lab_notebook(lab, cells), solution_notebook(lab, cells)


def expect(hidden, reference):
    """Give the probe cells of the notebook `hidden` the outputs of those in `reference` as what is expected."""
    known = {cell["id"]: cell for cell in reference.cells}
    for cell in hidden.cells:
        if cell.metadata.ftlab.kind == "probe":
            cell.outputs = known[cell["id"]].outputs
            cell.execution_count = 1


def record_output(record):
    """A probe's record as the output of its cell."""
    from nbformat.v4 import new_output

    return new_output("display_data", data={PROBE_MIME: record, "text/plain": f"probe {record['id']}"})


def guarded(source):
    """The source of a setup cell in which a statement that meets withheld code is skipped."""
    parts = []
    for node in ast.parse(source).body:
        text = ast.unparse(node)
        if not isinstance(node, (ast.FunctionDef, ast.Import, ast.ImportFrom)):
            text = SKIP.format(body="\n".join(f"    {line}" for line in text.split("\n")))
        parts.append(text)
    return "\n".join(parts)


def _notebook(notebook, kinds, sources, tier):
    """A copy of `notebook` with cells of `kinds`, exercises filled from `sources`; without nbgrader's metadata and tags."""
    exercises = catalogue.exercises(notebook.metadata.ftlab.lab)
    kept = [cell for cell in notebook.cells if cell.metadata.ftlab.kind in kinds]
    notebook = copy.deepcopy(type(notebook)({**notebook, "cells": kept}))
    for cell in notebook.cells:
        ours = cell.metadata.ftlab
        cell.metadata = type(cell.metadata)(ftlab=type(cell.metadata)({"kind": ours.kind}))
        if "id" in ours:
            cell.metadata.ftlab["id"] = ours.id
            cell.metadata.ftlab["points"] = float(exercises[ours.id].points)
        if ours.kind == "exercise":
            cell.source = sources[ours.id]
        cell.outputs, cell.execution_count = [], None
    notebook.metadata.ftlab["tier"] = tier
    return notebook


# Reading a submission


@dataclasses.dataclass
class Given:
    """A cell of a submission: its type, source, id, metadata (a dict, whatever was there), and whose cell it says to be."""

    type: str
    source: str
    id: str
    metadata: dict
    name: str = ""  # "layer", "layer-check", "setup-1a2b3c4d": the release's cell that it is; "" for one of the student's own


def read_cells(path):
    """([Given, ...], None) of a notebook file, or ([], one line that says why it cannot be read)."""
    raw, problem = read_notebook(path)
    if problem:
        return [], problem
    return [_given(cell) for cell in raw["cells"] if isinstance(cell, dict)], None


def _given(cell):
    source = cell.get("source", "")
    if isinstance(source, list):
        source = "".join(line for line in source if isinstance(line, str))
    source = source if isinstance(source, str) else ""
    source = source.encode("utf-8", "replace").decode("utf-8")  # JSON can hold half of a surrogate pair, UTF-8 cannot
    metadata = cell.get("metadata") if isinstance(cell.get("metadata"), dict) else {}
    return Given(str(cell.get("cell_type")), source, str(cell.get("id", "")), metadata)


def _name(cell, exercises, names):
    """The release's cell that a submitted cell says to be, or ""."""
    nbgrader, ours = (cell.metadata.get(key) for key in ("nbgrader", "ftlab"))
    grade_id = nbgrader.get("grade_id") if isinstance(nbgrader, dict) else None
    if isinstance(grade_id, str) and grade_id in names:
        return grade_id
    if isinstance(ours, dict) and isinstance(ours.get("id"), str) and ours["id"] in exercises:
        suffix = {"exercise": "", "check": "-check"}.get(ours.get("kind"))
        if suffix is not None:
            return ours["id"] + suffix
    return cell.id if cell.id in names else ""


# Matching


def _match(result, cells, names, submitted):
    """Fill codes and attempted from the submitted cells, and name every one of them. names: of the release's cells."""
    exercises = {cell.id: cell for cell in cells if cell.kind == "exercise"}
    for given in submitted:
        given.name = _name(given, exercises, names)
    own = [given for given in submitted if not given.name]
    without_id = []
    for id, cell in exercises.items():
        stub, wanted = _plain(stub_of(cell)), _defined(solution_of(cell))
        carriers = [given for given in submitted if given.name == id]
        mine = carriers or [given for given in own if _heads(given, id)]
        written = [given for given in mine if not _is_stub(given.source, stub)]
        missing = wanted - set().union(*(_defined(given.source) for given in written))
        strangers = [given for given in own if given not in mine and _defined(given.source) & missing
                     and not _is_stub(given.source, stub)]  # fmt: skip
        if not carriers and (mine or strangers):
            without_id.append(id)
        elif strangers and not written:
            result.flag("matched_by_content", "the gap is as it was; the code was found in another cell", id)
        if len(mine) > 1 or (strangers and written):
            count = len(mine) + len(strangers)
            result.flag("duplicate_cell", f"{count} cells belong to this exercise; see the code for what was graded", id)
        written += strangers
        result.codes[id] = _chosen(written, wanted) if written else (mine[0].source if mine else "")
        result.attempted[id] = bool(written)
        if any(given.type != "code" for given in written or mine):
            result.flag("cell_type_changed", "the exercise's cell was no code cell any more", id)
        if not written and not mine:
            result.flags = [flag for flag in result.flags if flag["exercise"] != id]
    if without_id:  # one note for the notebook: it is the editor that drops ids, or pastes cells without them
        which = "its cells" if len(without_id) == len(exercises) else f"the cells of {', '.join(without_id)}"
        result.flag("matched_by_content", f"saved without ids by its editor: {which} were found by what they hold")


def _heads(given, id):
    """Whether a cell begins with the heading of exercise `id`."""
    return f'lab.hint("{id}")' in given.source.split("\n", 1)[0]


def _chosen(written, wanted):
    """The source that counts, of the cells that are not the untouched gap (rule 3 above)."""
    whole = [number for number, given in enumerate(written) if wanted <= _defined(given.source)]
    if whole and wanted:
        last = written[whole[-1]].source
        reads, _ = _names(last)
        above = [given.source for given in written[:whole[-1]] if reads & _names(given.source)[1]]
        return "\n".join([*above, last])
    joined = "\n".join(given.source for given in written)
    if len(written) > 1 and wanted and wanted <= _defined(joined):
        return joined
    return written[-1].source


def _names(source):
    """(names that a cell reads and binds nowhere, names that its top level binds, imports too); none of no valid Python."""
    try:
        tree = ast.parse(source)
        return used(tree) - all_bound(tree), set().union(*map(bound, tree.body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(), set()


def _plain(source):
    """A source without comment lines, empty lines and trailing spaces: to see whether a gap is untouched."""
    lines = [line.rstrip() for line in source.split("\n")]
    return "\n".join(line for line in lines if line and not line.lstrip().startswith("#"))


def _is_stub(source, stub):
    plain = _plain(source)
    return not plain or plain == stub


def _defined(source):
    """The names that a cell's top level binds; found line by line where the cell is no valid Python."""
    try:
        statements = [node for node in ast.parse(source).body if not isinstance(node, (ast.Import, ast.ImportFrom))]
        return set().union(*(bound(node) for node in statements))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(re.findall(r"^(?:async\s+)?(?:def|class)\s+(\w+)", source, re.M)) | set(
            re.findall(r"^(\w+)\s*=[^=]", source, re.M))


def _is_part(source, code):
    """Whether an exercise's `code` was put together of this cell's source and others."""
    return bool(source.strip()) and f"\n{source}\n" in f"\n{code}\n"


def _take_along(result, cells, submitted, released):
    """Put before each exercise's code what it reads of definitions in other cells; note what else it reads of them.

    released: the sources of the release's cells. What one of these defines counts only where no cell of the student's does.
    """
    setup = [cell.source for cell in cells if cell.kind == "setup"]
    code_cells = [given for given in submitted if given.type == "code"]
    earlier = []
    for cell in cells:
        if cell.kind != "exercise":
            continue
        code = result.codes[cell.id]
        if result.attempted[cell.id]:
            parts = [number for number, given in enumerate(code_cells) if _is_part(given.source, code)]
            at = parts[-1] if parts else len(code_cells)
            others = [(number, given.source) for number, given in enumerate(code_cells) if number not in parts]
            own = [(number, source) for number, source in others if source not in released]
            above, below = ([source for number, source in own if (number < at) == side] for side in (True, False))
            found = taken_along(code, setup, earlier, above, [*(one for _, one in others if one in released), *below])
            if found.lines:
                result.taken[cell.id] = list(found.lines)
                result.codes[cell.id] = with_taken(found.lines, code)
            if found.missing:
                result.notes[cell.id] = f"{MISSING}\n{found.warning()}"
        earlier.append(code or stub_of(cell))


# What else a submission tells


def _look_at_the_rest(result, lab, cells, release, submitted):
    """Flags, notes for the student, and for which exercises our solution was taken. release: {id: the release's cell}."""
    exercises = catalogue.exercises(lab)
    _flag_checks(result, release, submitted, exercises)
    _flag_conflicts(result, submitted)
    _flag_metadata(result, release, submitted)
    everything = "\n".join(given.source for given in submitted if given.type == "code")
    taken = {id for id in exercises if re.search(rf"use_solution\(\s*['\"]{re.escape(id)}['\"]", everything)}
    for id in exercises:
        code = result.codes[id]
        if id in taken and ("use_solution" in code or not result.attempted[id]):
            result.solutions.add(id)
            result.flag("solution_used", "our solution was taken, for zero points", id)
        if result.codes[id] == "":
            result.notes[id] = "The cell of this exercise is not in your notebook; hand in the notebook with all its cells."
            result.flag("missing_cell", "the exercise's cell is not in the notebook, and none was found by what it holds", id)
        _look_at_code(result, id, code, exercises[id].withheld)


def _flag_checks(result, release, submitted, exercises):
    there = set().union(*(_statements(given.source) for given in submitted if given.type == "code"))
    for id in exercises:
        check = _statements(release[f"{id}-check"].source)
        own = [given for given in submitted if given.name == f"{id}-check"]
        calls = re.compile(rf"\blab\.check\(\s*['\"]{re.escape(id)}['\"]")
        if own and all(_statements(given.source) == check and given.type == "code" for given in own):
            continue
        if not own and check <= there:
            continue  # as released, in a cell that an editor left without its id
        if own or any(calls.search(given.source) for given in submitted):
            result.flag("edited_check", "the check's cell was edited; it was put back", id)
        else:
            result.flag("deleted_check", "the check's cell was not there; it was put back", id)


def _statements(source):
    """The top level's statements as text that no layout, quote or comment changes; of no valid Python its lines."""
    tree = _parsed(source)
    return {ast.dump(node) for node in tree.body} if tree else {line.strip() for line in source.split("\n") if line.strip()}


def _flag_conflicts(result, submitted):
    """Name the markers of a merge in git that was not finished, in an exercise's cell and beside it."""
    for id, code in result.codes.items():
        if conflict(code):
            result.flag("conflict_markers", "git's conflict markers (<<<<<<<) are in the cell: the merge was not finished", id)
            note = "Your cell holds git's conflict markers (<<<<<<<, =======, >>>>>>>): decide for one side and delete them."
            result.notes[id] = "\n".join(filter(None, (result.notes.get(id), note)))
    if conflict("\n".join(given.source for given in submitted)) and not any(map(conflict, result.codes.values())):
        result.flag("conflict_markers", "git's conflict markers (<<<<<<<) are in the notebook: the merge was not finished")


def _flag_metadata(result, release, submitted):
    for given in submitted:
        meta = given.metadata.get("nbgrader")
        if given.name in release and isinstance(meta, dict):
            want = release[given.name].metadata.nbgrader
            changed = [key for key in ("points", "grade", "solution", "locked") if key in meta and meta[key] != want.get(key)]
            if changed:
                exercise = given.name.removesuffix("-check")
                message = f"the cell's {', '.join(changed)} in nbgrader's metadata was changed; the release's counts"
                result.flag("metadata_changed", message, exercise if exercise in result.codes else None)
        tags = given.metadata.get("tags")
        if isinstance(tags, list) and any(isinstance(tag, str) and re.match(r"nbval|raises-exception", tag) for tag in tags):
            result.flag("nbval_marker", "a tag for nbval on a cell; it counts for nothing",
                        given.name if given.name in result.codes else None)  # fmt: skip


def _look_at_code(result, id, code, withheld):
    for imported in withheld_imports(code, withheld):
        result.flag("withheld_import", f"the code reaches for {imported}, which this exercise asks the student to write", id)
    if any(MARKER.fullmatch(comment.strip()) for comment in _comments(code)):
        result.flag("nbval_marker", "a marker for nbval in the code; it counts for nothing", id)
    found = MACHINERY.search(code) or re.search(r"\bbuiltins\b|__builtins__", code)
    if found or _patches(code):
        what = found.group(0) if found else "an attribute of ftlab, lab or known"
        result.flag("patches_machinery", f"the code touches what shows or judges results: {what}", id)


def _patches(code):
    """Whether the code assigns to an attribute of the course's own objects (`lab.check = ...`, `setattr(ftlab, ...)`)."""
    tree = _parsed(code)
    for node in ast.walk(tree) if tree else ():
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Attribute) and _root(target) in ("lab", "ftlab", "known", "measured", "display"):
                return True
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setattr" and node.args:
            if _root(node.args[0]) in ("lab", "ftlab", "known"):
                return True
    return False


def _root(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", None)


def withheld_imports(code, withheld):
    """The withheld house names that the code imports, names by a dotted path, or spells in a string."""
    found, tree = [], _parsed(code)
    for node in ast.walk(tree) if tree else ():
        reached = []
        if isinstance(node, ast.ImportFrom) and node.module:
            reached = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            reached = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute):
            reached = [_dotted(node)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            reached = [node.value] if node.value.startswith("ftlab.") else []
        found += [name for name in withheld for one in reached if _reaches(one, name)]
    return sorted(set(found))


def _dotted(node):
    """The text "library.merge" of that attribute of a name; a "?" stands for what is no name."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    names.append(getattr(node, "id", "?"))
    return ".".join(reversed(names))


def _reaches(reached, withheld):
    """Whether `ftlab.tune.lora` or `library.merge` reaches ftlab.tune.lora.merge: by its module, or by its last name."""
    module, _, last = withheld.rpartition(".")
    if reached.startswith("ftlab"):
        return reached == withheld or reached == module or reached.startswith(f"{withheld}.")
    return reached.count(".") == 1 and reached.split(".") in ([alias, last] for alias in ("library", module.split(".")[-1]))


def _parsed(code):
    """The code's syntax tree, or None: lines of magic stand in for `pass`."""
    try:
        return ast.parse(re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", code))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


# The code that runs


def _source(result, cell):
    """What runs in an exercise's place: the student's code without nbval's markers, ours where they took it, else the gap."""
    if cell.id in result.solutions:
        return solution_of(cell)
    code = result.codes[cell.id]
    return neutralised(code) if code else stub_of(cell)


def neutralised(code):
    """The code with nbval's markers made plain comments; every line keeps its number, strings are left as they are."""
    lines = code.split("\n")
    for token in _comment_tokens(code):
        row, column = token.start
        line = lines[row - 1]
        lines[row - 1] = line[:column] + MARKER.sub(r"\1(\2)\3", line[column:])
    return "\n".join(lines)


def _comments(code):
    return [token.string for token in _comment_tokens(code)]


def _comment_tokens(code):
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token.type == tokenize.COMMENT:
                tokens.append(token)
    except (tokenize.TokenError, SyntaxError, ValueError):
        pass  # no valid Python: what was found until there
    return tokens
