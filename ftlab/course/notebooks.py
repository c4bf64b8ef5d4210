"""From a lab's source to its three products: the executed solution, the student's lab, the answers.

solutions/NN_name.py -> solutions/NN_name.ipynb, labs/NN_name.ipynb, ftlab/course/answers/NN_name.json
"""

import copy
import functools
import getpass
import hashlib
import json
import pathlib
import platform
import re

from ftlab.course import catalogue
from ftlab.course import repository as address
from ftlab.course.source import read_lab, solution_of, stub_of
from ftlab.errors import UsageError
from ftlab.files import atomic_write_text

HEAD_CELLS = 2  # the badge and the install cell
_BRANCH = "main"  # of the repository on GitHub
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/{branch}/labs/{lab}.ipynb)"
)
# On Colab torch, numpy and the rest stay as they are: the extra `colab` holds what is missing there, in versions that fit.
_ON_COLAB = """\
if "google.colab" in sys.modules and importlib.util.find_spec("ftlab") is None:{first}
    %pip install -q "{course}"
    %pip uninstall -q -y torchao  # Colab's is older than Colab's peft accepts, and nothing here needs it
"""
_UPLOADED = """
    if not pathlib.Path("{archive}").exists():
        raise FileNotFoundError("put {archive}, the course's archive, into the Files pane, then run this cell again")"""
# A release is a folder with the package beside the labs (a hub's shared folder, an unpacked archive).
_BESIDE = """\
if importlib.util.find_spec("ftlab") is None and (pathlib.Path.cwd().parent / "ftlab" / "__init__.py").exists():
    sys.path.insert(0, str(pathlib.Path.cwd().parent))  # the course's folder: the package lies beside the labs
"""
_ELSE_SAY = """\
if importlib.util.find_spec("ftlab") is None:
    raise ModuleNotFoundError("this Python has no ftlab: choose the kernel that has, or see the course's README.md")"""


def build(lab, execute=False, on_cell=None):
    """Write the products of `lab`; `execute` runs the solution anew, else outputs of unchanged cells are kept.

    Returns the names of the files that changed. Raises UsageError when the source breaks a rule, NotHeld when the
    solution does not run through.
    """
    cells = read_lab(lab)
    solution = solution_notebook(lab, cells)
    if execute:
        solution = _executed(lab, solution, on_cell)
    else:
        _keep_outputs(solution, _stored(lab))
    products = {
        catalogue.SOLUTIONS / f"{lab}.ipynb": notebook_text(solution),
        catalogue.ROOT / "labs" / f"{lab}.ipynb": notebook_text(lab_notebook(lab, cells)),
        catalogue.ANSWERS / f"{lab}.json": _json_text(answers(cells)),
    }
    changed = [path for path, text in products.items() if _text(path) != text]
    for path in changed:
        atomic_write_text(path, products[path])
    catalogue.labs_folder.cache_clear()
    return [str(path.relative_to(catalogue.ROOT)) for path in changed]


def drift(lab):
    """Lines that name each product of `lab` that is not what its source gives now; [] when all agree."""
    cells = read_lab(lab)
    expected, stored = solution_notebook(lab, cells), _stored(lab)
    problems = []
    if stored is None:
        problems.append(f"solutions/{lab}.ipynb is missing: run ftlab build --execute {lab}")
    elif notebook_text(_without_outputs(stored)) != notebook_text(expected):
        problems.append(f"solutions/{lab}.ipynb differs from solutions/{lab}.py: run ftlab build {lab}")
    if stored is not None and stored.metadata.get("ftlab", {}).get("executed") != code_hash(expected):
        problems.append(f"solutions/{lab}.ipynb holds outputs of other code: run ftlab build --execute {lab}")
    if _text(catalogue.ROOT / "labs" / f"{lab}.ipynb") != notebook_text(lab_notebook(lab, cells)):
        problems.append(f"labs/{lab}.ipynb differs from solutions/{lab}.py: run ftlab build {lab}")
    if _text(catalogue.ANSWERS / f"{lab}.json") != _json_text(answers(cells)):
        problems.append(f"ftlab/course/answers/{lab}.json differs from solutions/{lab}.py: run ftlab build {lab}")
    return problems


def solution_notebook(lab, cells):
    """The solution without outputs: every cell of the source, probes too."""
    return _copy(lab, cells, False)


def lab_notebook(lab, cells, head=None):
    """The student's notebook: gaps for solutions, no probes, no outputs.

    head: the cells before the source's, as `released_head` makes them; default those of the course's own repository.
    """
    return _copy(lab, [cell for cell in cells if cell.kind != "probe"], True, head)


def released_head(lab, repository=None, archive="course.zip"):
    """The first cells of a lab in a release. repository: OWNER/NAME on GitHub, where Colab finds it.

    Without one there is no badge, and on Colab the course comes from the release's `archive` beside the notebook.
    """
    if repository is None:
        uploaded = _ON_COLAB.format(first=_UPLOADED.format(archive=archive), course=f"./{archive}[colab]")
        return [_install_cell(_BESIDE, uploaded)]
    return [_badge_cell(lab, repository), _install_cell(_BESIDE, _from_github(repository))]


def answers(cells):
    """{exercise id: dict(solution, stub)} for `lab.use_solution` and `lab.reset`."""
    return {
        cell.id: {"solution": solution_of(cell), "stub": stub_of(cell)} for cell in cells if cell.kind == "exercise"
    }


def code_hash(notebook):
    """A short hash of all code in `notebook`: outputs belong to it. The install cell shows nothing and does not count."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not _is_head(cell)]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def checksum(cell):
    """nbgrader's checksum of a cell (as `nbgrader.utils.compute_checksum`, version 0.9)."""
    meta = cell["metadata"]["nbgrader"]
    grade, solution = meta["grade"], meta["solution"]
    locked = not solution and (grade or meta["locked"])
    parts = [cell["source"], cell["cell_type"], str(grade), str(solution), str(locked), meta["grade_id"]]
    if grade:
        parts.append(str(float(meta["points"])))
    return hashlib.md5("".join(parts).encode("utf-8")).hexdigest()


def notebook_text(notebook):
    """A notebook as the text of its file: the same for the same content."""
    import nbformat

    return nbformat.writes(notebook) + "\n"


def leaks(notebook):
    """Lines that name what must not be in a built notebook: paths of a machine, people, widget state, stderr."""
    found = ["widget state in the notebook's metadata"] if "widgets" in notebook.metadata else []
    sources = "\n".join(cell.source for cell in notebook.cells)
    # A user or a machine may be called as a word of the course is.
    names = [name for name in (getpass.getuser(), platform.node()) if len(name) > 3 and name not in sources]
    ours = re.compile("|".join(map(re.escape, [str(catalogue.ROOT), *names])))
    for number, cell in enumerate(notebook.cells, 1):
        outputs = "\n".join(_output_texts(cell))
        matches = [*_PATH.finditer(cell.source), *_PATH.finditer(outputs), *_WARNING.finditer(outputs)]
        found += [f"cell {number}: {match.group(0)!r}" for match in [*matches, *ours.finditer(outputs)]]
        for output in cell.get("outputs", ()):
            if output.get("name") == "stderr" or output.output_type == "error":
                found.append(f"cell {number}: an error or text on stderr")
            if WIDGET_VIEW in output.get("data", {}):
                found.append(f"cell {number}: a widget's view")
    return found


_PATH = re.compile(r"(?<![\w.:/~])/(?:home|root|Users|tmp|var/folders)/[\w.-]+|\bC:\\")
_WARNING = re.compile(r"\b\w*Warning: ")


def _head(lab, repository):
    """The cells that no source has: the badge that opens the lab on Colab, and what makes the package importable."""
    return [_badge_cell(lab, repository), _install_cell(_from_github(repository))]


def _badge_cell(lab, repository):
    from nbformat.v4 import new_markdown_cell

    return _described(new_markdown_cell(_BADGE.format(repository=repository, branch=_BRANCH, lab=lab)), "generated", "badge")


def _from_github(repository):
    return _ON_COLAB.format(first="", course=f"ftlab[colab] @ https://github.com/{repository}/archive/{_BRANCH}.zip")


def _install_cell(*parts):
    from nbformat.v4 import new_code_cell

    code = "".join(parts) + _ELSE_SAY
    modules = "".join(f"import {name}\n" for name in ("importlib.util", "pathlib", "sys") if f"{name}." in code)
    first = "# On Colab this installs the course beside Colab's own torch. Where ftlab is there, it does nothing.\n"
    return _described(new_code_cell(f"{first}{modules}\n{code}"), "generated", "install")


def _is_head(cell):
    return cell.metadata.get("ftlab", {}).get("kind") == "generated"


def _copy(lab, cells, gaps, head=None):
    """A notebook of one's own, made once for the same cells and exercises: grading needs each many times."""
    exercises = catalogue.exercises(lab)
    described = tuple((id, exercise.points, exercise.summary()) for id, exercise in exercises.items())
    made = copy.deepcopy(_notebook(lab, tuple(cells), gaps, described))
    if head is not None:
        made.cells[:HEAD_CELLS] = head
    return made


@functools.lru_cache(maxsize=8)
def _notebook(lab, cells, gaps, described):
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    exercises = catalogue.exercises(lab)
    built = _head(lab, address.read())
    taken = {"badge", "install"}
    for cell in cells:
        source = stub_of(cell) if gaps and cell.kind == "exercise" else cell.source
        if cell.kind == "exercise":
            source = f"# {exercises[cell.id].summary()}\n{source}"
        node = (new_code_cell if cell.type == "code" else new_markdown_cell)(source)
        name = _cell_name(cell, taken)
        node = _described(node, cell.kind, name, exercises.get(cell.id))
        if cell.id:
            node.metadata.ftlab["id"] = cell.id
        if cell.claim:
            node.metadata.ftlab["claim"] = cell.claim
        if cell.tags:
            node.metadata["tags"] = list(cell.tags)
        built.append(node)
    metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "ftlab": {"lab": lab},
    }
    return new_notebook(cells=built, metadata=metadata)


def _cell_name(cell, taken):
    """A cell id that stays when other cells change; it is nbgrader's grade_id too."""
    name = {"exercise": cell.id, "check": f"{cell.id}-check", "probe": f"{cell.id}-probe"}.get(cell.kind)
    name = name or f"{cell.kind}-" + hashlib.sha256(cell.source.encode()).hexdigest()[:8]
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}-{number}", number + 1
    taken.add(unique)
    return unique


def _described(node, kind, name, exercise=None):
    """`node` with its id, our metadata and nbgrader's: exercises to solve, checks to grade, all else read-only."""
    node["id"] = name
    node.metadata["ftlab"] = {"kind": kind}
    if kind == "exercise":
        node.metadata["ftlab"] |= {key: getattr(exercise, key) for key in ("points", "minutes", "difficulty")}
    grade, solution = kind == "check", kind == "exercise"
    meta = {"schema_version": 3, "grade_id": name, "grade": grade, "solution": solution, "locked": not solution,
            "task": False, "cell_type": node.cell_type}  # fmt: skip
    if grade:
        meta["points"] = exercise.points
        node.metadata["editable"] = False
    if grade or solution:
        node.metadata["deletable"] = False
    node.metadata["nbgrader"] = meta
    node.metadata["nbgrader"]["checksum"] = checksum(node)
    return node


def _executed(lab, notebook, on_cell):
    from ftlab.course.runner import execute
    from ftlab.errors import NotHeld

    # What is stored is the shipped bases', wherever it is built.
    outcome = execute(notebook, on_cell=on_cell, fast=False, environment={"FTLAB_PROFILE": "cpu", "FTLAB_BASE": ""})
    if outcome["error"]:
        raise NotHeld(f"{lab}: {outcome['error']}")
    clean(notebook)
    notebook.metadata["ftlab"]["executed"] = code_hash(notebook)
    return notebook


def clean(notebook):
    """Take out of an executed notebook all that differs from machine to machine, or that GitHub cannot show."""
    notebook.metadata["language_info"] = {"name": "python"}
    notebook.metadata.pop("widgets", None)
    count = 0
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in map(_clean_output, _merged(cell.outputs)) if output is not None]
        count += 1
        cell.execution_count = count
        for output in cell.outputs:
            if "execution_count" in output:
                output["execution_count"] = count


def _merged(outputs):
    merged = []
    for output in outputs:
        last = merged[-1] if merged else None
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            last["text"] += output["text"]
        else:
            merged.append(output)
    return merged


def _clean_output(output):
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        # A line redrawn with carriage returns is shown as it ended.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in output["text"].split("\n")]
        output["text"] = _clean_text("\n".join(lines))
        return output if output["text"].strip() else None
    data = output.get("data")
    if data is not None:
        if WIDGET_VIEW in data:
            return None
        for mime, value in data.items():
            if isinstance(value, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
                data[mime] = _clean_text(value)
    return output


def _clean_text(text):
    text = text.replace(str(catalogue.ROOT), ".")
    home = str(pathlib.Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?=/)", "~", text)
    return re.sub(r"\bat 0x[0-9a-f]{6,}", "at 0x...", text)


def _keep_outputs(notebook, stored):
    """Give the cells of `notebook` the outputs of the cells in `stored` that have the same id and source.

    The install cell keeps its number when it was written anew: it shows nothing.
    """
    if stored is None:
        return
    old = {cell["id"]: cell for cell in stored.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell["id"] in old and (_is_head(cell) or old[cell["id"]].source == cell.source):
            cell.outputs, cell.execution_count = old[cell["id"]].outputs, old[cell["id"]].execution_count
    if "executed" in stored.metadata.get("ftlab", {}):
        notebook.metadata["ftlab"]["executed"] = stored.metadata["ftlab"]["executed"]


def _without_outputs(notebook):
    import copy

    bare = copy.deepcopy(notebook)
    bare.metadata.get("ftlab", {}).pop("executed", None)
    for cell in bare.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return bare


def _stored(lab):
    import nbformat

    path = catalogue.SOLUTIONS / f"{lab}.ipynb"
    if not path.exists():
        return None
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise UsageError(f"solutions/{lab}.ipynb is damaged ({error}): delete it and build with --execute") from None


def _output_texts(cell):
    for output in cell.get("outputs", ()):
        if "text" in output:
            yield output["text"]
        for mime, value in output.get("data", {}).items():
            if not mime.startswith("image/") or mime == "image/svg+xml":
                yield value if isinstance(value, str) else json.dumps(value)


def _json_text(value):
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _text(path):
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
