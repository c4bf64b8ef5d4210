"""One submission graded: staged, run by nbval in a pytest session of its own, and told in one JSON dict.

`reference` runs our solution on the secret inputs, which gives what is expected; it depends on the lab, the secret and the
versions of what is installed, and on no submission.
"""

import atexit
import contextlib
import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import tempfile
import threading
import time

import ftlab
from ftlab.course import catalogue
from ftlab.errors import NotHeld
from ftlab.files import atomic_write_text, read_json
from ftlab.grade import rebuild, similarity, withheld
from ftlab.grade.sessions import Sessions
from ftlab.teach.display import PROBE_MIME

# What each graded kernel is told. FTLAB_FAST: setup cells prepare experiments that are not run.
ENVIRONMENT = {"FTLAB_HEADLESS": "1", "FTLAB_FAST": "1", "FTLAB_PROFILE": "cpu", "FTLAB_BASE": "", "PYTHONHASHSEED": "0"}
CUT_OFF = ("timeout", "oom", "kernel_died")
OTHER_INPUTS = ("The check passes, but on other inputs your code gives other results than what is asked for. Does it do what "
                "the text says, or only what fits the check's examples?")  # fmt: skip
ON_OTHER_INPUTS = {
    "timeout": "On other inputs than the check's your code did not end in time: is there a loop that never ends?",
    "oom": "On other inputs than the check's your code needed more memory than there is.",
    "kernel_died": "On other inputs than the check's your code ended the kernel.",
}
NOT_RUN = "An earlier exercise used up the time or ended the kernel, so this one could not be judged: mend that one first."
NO_CHECK = "Your code is right on other inputs than the check's; the check itself did not run to its end."
STOPS = "The check passes, but on other inputs your code stops with an error. Which inputs does it not allow for?"
USES_WITHHELD = "Your code uses a part of the course's package that this exercise asks you to write yourself{name}."


def grade_one(path, student, lab, secret, walls, reference=None, packages=None):
    """The result dict of one submission. Never raises for what a student can do.

    walls: a context of `ftlab.grade.kernel.Walls`, entered. reference: the notebook of `reference(lab, ...)`, packages: the
    dict of `withheld.packages`; where they are not given they are made once in a process. Raises NotHeld where the machinery
    itself fails (no kernel starts, pytest dies): then nothing is known of the submission.
    """
    began = time.monotonic()
    packages = packages or own_packages(lab)
    walls.kernel_name(package=packages["visible"], environment=ENVIRONMENT)  # at the first time it is copied: before we wait
    reference = reference or own_reference(lab, secret, walls, packages["hidden"][lab])
    staged = rebuild.staged(path, lab, secret, reference)
    if staged.problem:
        return malformed(student, lab, staged.problem)
    _name_kernels(staged, lab, secret, walls, packages)
    found = _run({"visible": staged.visible, "hidden": staged.hidden}, walls)
    rows = [_row(exercise, staged, found) for exercise in catalogue.exercises(lab).values()]
    flags = staged.flags + found["flags"] + [flag for row in rows for flag in row.pop("flags")] + _pasted(lab, staged)
    return {"student": student, "lab": lab, "status": "graded", "message": "",
            "points": sum(row["points"] for row in rows), "max_points": sum(row["max_points"] for row in rows),
            "seconds": round(time.monotonic() - began, 2), "exercises": rows, "flags": flags,
            "versions": versions(), "walls": walls.mode}  # fmt: skip


def malformed(student, lab, problem, flags=()):
    """The result of a submission that cannot be graded as it stands: no points yet, for the instructor to look at."""
    empty = {"status": "not_run", "message": problem}
    rows = [
        {"exercise": id, "title": exercise.title, "points": 0.0, "max_points": float(exercise.points), "status": "malformed",
         "message": problem, "visible": empty | {"mistake": None}, "hidden": dict(empty), "code": ""}
        for id, exercise in (catalogue.exercises(lab).items() if lab in catalogue.lab_names() else ())
    ]  # fmt: skip
    return {"student": student, "lab": lab, "status": "malformed", "message": problem, "points": 0.0,
            "max_points": sum(row["max_points"] for row in rows), "seconds": 0.0, "exercises": rows,
            "flags": [*flags, {"kind": "malformed", "exercise": None, "message": problem}], "versions": versions()}  # fmt: skip


def reference(lab, secret, walls, package=None):
    """The hidden notebook of our solution, with its probes' outputs for `secret`, run on the lab's hidden `package`.

    Raises NotHeld, with the exercises' names, where our own solution does not run through.
    """
    package = package or own_packages(lab)["hidden"][lab]
    notebook = rebuild.hidden_notebook(lab, secret=secret)
    notebook.metadata["kernelspec"] = _kernelspec(walls, package, ENVIRONMENT | {"FTLAB_PROBE_SEED": secret})
    found = _run({"hidden": notebook}, walls, "--ftlab-record")
    failed = {id: one["message"] for id, one in found["tiers"]["hidden"].items() if one["status"] != "right"}
    if failed:
        raise NotHeld(f"our own solution of {lab} does not run where its answers are withheld: {failed}")
    return _with_records(notebook, found["records"])


def _with_records(notebook, records):
    """The hidden `notebook` of our solution with the probes' `records` ({exercise id: record}) as their outputs."""
    for cell in notebook.cells:
        if cell.metadata.ftlab.kind == "probe":
            cell.outputs, cell.execution_count = [rebuild.record_output(records[cell.metadata.ftlab.id])], 1
    return notebook


@functools.cache
def versions():
    """What results depend on: {"python": ..., "torch": ..., "ftlab": ...}."""
    try:
        torch = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        torch = ""
    return {"python": platform.python_version(), "torch": torch, "ftlab": ftlab.__version__}


# The process's own packages, reference and pytest server

_OWN = {"lock": threading.RLock(), "folder": None, "packages": {}, "references": {}}
_THREAD = threading.local()


def own_packages(lab):
    """The packages for `lab`, made in a temporary folder that goes with this process."""
    with _OWN["lock"]:
        if _OWN["folder"] is None:
            _OWN["folder"] = tempfile.TemporaryDirectory(prefix="ftlab-packages-")
            os.chmod(_OWN["folder"].name, 0o755)  # the sandbox's user reads it
            atexit.register(_OWN["folder"].cleanup)
        if lab not in _OWN["packages"]:
            _OWN["packages"][lab] = withheld.packages(_OWN["folder"].name, [lab])
        return _OWN["packages"][lab]


def own_reference(lab, secret, walls, package):
    """`reference`, kept for this process."""
    with _OWN["lock"]:
        if (lab, secret) not in _OWN["references"]:
            _OWN["references"][lab, secret] = reference(lab, secret, walls, package)
        return _OWN["references"][lab, secret]


def records(lab, secret):
    """What this process's reference expects, JSON: {exercise id: its probe's record}; None while there is no reference."""
    notebook = _OWN["references"].get((lab, secret))
    return notebook and {
        cell.metadata.ftlab.id: cell.outputs[0]["data"][PROBE_MIME]
        for cell in notebook.cells if cell.metadata.ftlab.kind == "probe"
    }  # fmt: skip


def take_records(lab, secret, known):
    """Keep a reference for this process from `records` that another one found; what is none of `lab` is passed over."""
    with _OWN["lock"]:
        if (lab, secret) not in _OWN["references"]:
            with contextlib.suppress(KeyError, TypeError):
                _OWN["references"][lab, secret] = _with_records(rebuild.hidden_notebook(lab, secret=secret), known)


def _sessions():
    """This thread's server of pytest sessions; a forked process gets one of its own."""
    if getattr(_THREAD, "pid", None) != os.getpid():
        _THREAD.pid, _THREAD.sessions = os.getpid(), Sessions()
        atexit.register(_THREAD.sessions.close)
    return _THREAD.sessions


# Running


def _name_kernels(staged, lab, secret, walls, packages):
    staged.visible.metadata["kernelspec"] = _kernelspec(walls, packages["visible"], ENVIRONMENT)
    environment = ENVIRONMENT | {"FTLAB_PROBE_SEED": secret}
    staged.hidden.metadata["kernelspec"] = _kernelspec(walls, packages["hidden"][lab], environment)


def _kernelspec(walls, package, environment):
    name = walls.kernel_name(package=package, environment=environment)
    return {"name": name, "display_name": name, "language": "python"}


def _run(notebooks, walls, *more):
    """Run notebooks {tier: notebook} by nbval, in their order; what the plugin found, a dict. Raises NotHeld."""
    from ftlab.course.notebooks import notebook_text

    limits = walls.limits
    cells = sum(len(notebook.cells) for notebook in notebooks.values())
    with tempfile.TemporaryDirectory(prefix="ftlab-grade-") as folder:
        folder = pathlib.Path(folder)
        files = [folder / f"{tier}.ipynb" for tier in notebooks]
        for file, notebook in zip(files, notebooks.values(), strict=True):
            atomic_write_text(file, notebook_text(notebook))
        result, log = folder / "result.json", folder / "log.txt"
        status = _sessions().run(
            ["--nbval", "-q", "--tb=short", "--color=no", f"--rootdir={folder}", "-c", os.devnull, f"--ftlab-result={result}",
             f"--ftlab-cell-seconds={limits.cell_seconds}", f"--ftlab-notebook-seconds={5 * limits.cell_seconds}",
             f"--ftlab-output-bytes={limits.output_bytes}", f"--junitxml={folder / 'junit.xml'}", *more, *files],
            folder, log, seconds=180 + 12 * limits.cell_seconds + cells)  # fmt: skip
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        if not result.exists() or status not in (0, 1):
            raise NotHeld(f"pytest ended with status {status} and no result: {tail}")
        found = read_json(result)
    judged = [len(found["tiers"][tier]) for tier in notebooks]
    if found["broken"] or min(judged) == 0:
        raise NotHeld(found["broken"] or f"no cell was run: {tail}")
    return found


# Telling


def _row(exercise, staged, found):
    """The result of one exercise; its own flags under "flags"."""
    id = exercise.id
    visible, hidden = (found["tiers"][tier].get(id, {"status": "not_run", "message": ""}) for tier in ("visible", "hidden"))
    mistake = visible.get("mistake") if visible.get("mistake") in exercise.mistakes else None
    status, message, flags = _verdict(exercise, staged, visible, hidden)
    earned = {row["exercise"]: row["points"] for row in found["exercises"]}.get(id, 0.0)
    note = staged.notes.get(id)
    return {
        "exercise": id, "title": exercise.title, "points": earned if status in ("full", "partial") else 0.0,
        "max_points": float(exercise.points), "status": status,
        "message": "\n".join(line for line in (message, note if status != "full" else None) if line),
        "visible": {"status": visible["status"], "mistake": mistake, "message": visible["message"]},
        "hidden": {"status": hidden["status"], "message": hidden["message"]},
        "code": staged.codes[id], "taken": staged.taken.get(id, []), "flags": flags,
    }  # fmt: skip


def _verdict(exercise, staged, visible, hidden):
    """(status, message for the student, flags) of an exercise. The message holds nothing that a hidden kernel said."""
    id, (seen, unseen) = exercise.id, (visible["status"], hidden["status"])
    if id in staged.solutions:
        return "not_attempted", "With our solution: zero points.", []
    if not staged.codes[id]:
        return "malformed", "", []
    if not staged.attempted[id]:
        return "not_attempted", f'The gap is as it was. For a nudge: lab.hint("{id}")', []
    if unseen == "right":
        message = NO_CHECK if seen in ("not_run", *CUT_OFF) else visible["message"]
        return ("full", "", []) if seen == "right" else ("partial", message, [])
    if seen in CUT_OFF:
        return seen, visible["message"], []
    if seen in ("right", "not_run") and unseen in CUT_OFF:
        return unseen, ON_OTHER_INPUTS[unseen], []
    if "not_run" in (seen, unseen):
        return "not_run", NOT_RUN, []
    if seen != "right":
        return {"not attempted": "not_attempted", "error": "error"}.get(seen, "wrong"), visible["message"], []
    return _hidden_failed(exercise, hidden)


def _hidden_failed(exercise, hidden):
    """The verdict on code that passes the check and nothing more."""
    id, unseen = exercise.id, hidden["status"]
    if hidden["message"].startswith("Withheld:"):
        # The kernel said so, and what it says must not reach the student: only a name that is on our own list does.
        named = [name for name in exercise.withheld if re.search(rf"\b{re.escape(name)}\b", hidden["message"])]
        text = USES_WITHHELD.format(name=f" ({named[0]})" if named else "")
        return "wrong", text, [_flag("withheld_import", id, f"withheld code was called: {hidden['message']}")]
    flag = _flag("check_without_probe", id, f"the check passes, the hidden inputs do not: {hidden['message']}")
    return ("wrong", OTHER_INPUTS, [flag]) if unseen == "wrong" else ("error", STOPS, [flag])


def _pasted(lab, staged):
    flags = []
    for id, code in staged.codes.items():
        if staged.attempted[id] and id not in staged.solutions:
            for name, house, share in similarity.pasted(lab, code, id):
                flags.append(_flag("pasted_source", id, f"{name} has {share:.0%} of its shape from {house}"))
    return flags


def _flag(kind, id, message):
    return {"kind": kind, "exercise": id, "message": message}
