"""A grader that needs no kernel: what a submission's cells say ("full", "wrong: merged_twice", ...) is what they get.

So a class can be written whose grades are known, and graded in a second; everything around the grader is the real thing.
"""

import json
import os
import pathlib
import signal
import time

from ftlab.course import catalogue

LAB = "06_lora"
GRADER, CONTENT = "grade.fake_class:grade", "grade.fake_class:content"


def write(folder, student, verdicts, lab=LAB, file=None, modified=None):
    """A submission: a notebook with one cell for each of {exercise: verdict}; returns its path."""
    path = pathlib.Path(folder) / student / (file or f"{lab}.ipynb")
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [
        {"cell_type": "code", "id": id, "metadata": {}, "source": verdict, "outputs": [], "execution_count": None}
        for id, verdict in verdicts.items()
    ]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}), encoding="utf-8")
    if modified is not None:
        os.utime(path, (modified, modified))
    return path


def content(path, lab):
    return {cell["id"]: cell["source"] for cell in json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["cells"]}


def grade(path, student, lab, secret, mode, hidden):
    """A result. Verdicts: a status, "mistake: ID", "boom" (the grader fails), "kill" (its process dies), "refuse".

    FTLAB_FAKE_SECONDS: how long it takes; FTLAB_FAKE_LOG: a file that gets a line at the beginning and the end of each.
    """
    verdicts = content(path, lab)
    _log("begin", verdicts)
    time.sleep(float(os.environ.get("FTLAB_FAKE_SECONDS", "0")))
    for verdict in verdicts.values():
        act(verdict)
    rows = [row(exercise, verdicts.get(id, "not_attempted")) for id, exercise in catalogue.exercises(lab).items()]
    _log("end", verdicts)
    return {"student": student, "lab": lab, "status": "graded", "message": "", "points": sum(r["points"] for r in rows),
            "max_points": sum(r["max_points"] for r in rows), "seconds": 1.5, "exercises": rows,
            "flags": [flag for id, verdict in verdicts.items() for flag in flags(id, verdict)],
            "versions": {"python": "3", "torch": "2", "ftlab": "0"}}  # fmt: skip


def act(verdict):
    if verdict.startswith("boom"):
        raise RuntimeError("boom")
    if verdict.startswith("refuse"):
        from ftlab.errors import UsageError

        raise UsageError("no sandbox works here: install bubblewrap")
    if verdict == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if verdict.startswith("kill once "):
        mark = pathlib.Path(verdict.removeprefix("kill once "))
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def row(exercise, verdict):
    status, _, mistake = verdict.partition("\n")[0].partition(": ")
    status, mistake = ("wrong", mistake) if status == "mistake" else (status, None)
    status = status if status in STATUSES else "full"
    points = {"full": exercise.points, "partial": 0.75 * exercise.points}.get(status, 0.0)
    message = {"full": "", "not_attempted": "The gap is as it was."}.get(status, f"It is {status}.")
    if mistake:
        message = exercise.mistakes[mistake]
    return {"exercise": exercise.id, "title": exercise.title, "points": float(points), "max_points": float(exercise.points),
            "status": status, "message": message,
            "visible": {"status": "mistake" if mistake else "right" if status == "full" else "wrong", "mistake": mistake,
                        "message": message},
            "hidden": {"status": "right" if points else "wrong", "message": "HIDDEN-INPUT 1234"}, "code": verdict}  # fmt: skip


STATUSES = ("full", "partial", "wrong", "not_attempted", "error", "timeout", "kernel_died", "oom", "not_run")


def flags(id, verdict):
    if "FLAG" in verdict:
        yield {"kind": "edited_check", "exercise": id, "message": f"INSTRUCTOR-ONLY {verdict}"}


def points_of(verdicts, lab=LAB):
    """What a submission of {exercise: verdict} is worth."""
    return sum(row(exercise, verdicts.get(id, "not_attempted"))["points"] for id, exercise in catalogue.exercises(lab).items())


def _log(what, verdicts):
    log = os.environ.get("FTLAB_FAKE_LOG")
    if log:
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(handle, (json.dumps([what, os.getpid(), "".join(verdicts.values())]) + "\n").encode())
        os.close(handle)
