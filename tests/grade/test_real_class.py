"""A class of sixty with a known key, graded for real through a Dask scheduler: the grader and one of two workers are killed.

As an administrator starts them: `dask scheduler`, two `dask worker`s, and `ftlab grade --scheduler ADDRESS`, each a process of
its own. Every student's exercises are right, wrong in a way that the check knows, or left as they were; the key says which.
"""

import csv
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from grade.submissions import Notebook, solutions
from labs.test_labs import wrong_answers

from ftlab.course import catalogue
from ftlab.files import read_json

pytestmark = pytest.mark.full
LABS = ("00_lifecycle", "05_learning_rate", "09_shootout")  # no exercise of theirs calls an earlier one
STUDENTS = 60


def write_class(folder):
    """Write the class; its key: {(student, lab): {exercise: (status, the mistake's message or "")}}."""
    key, rng = {}, random.Random(60)
    for number in range(STUDENTS):
        student, lab = f"student{number:02}", LABS[number % len(LABS)]
        right, wrong, code, said = solutions(lab), wrong_answers(lab), {}, {}
        for id, exercise in catalogue.exercises(lab).items():
            chance = rng.random()
            if chance < 0.6:
                code[id], said[id] = f"{right[id]}\n# by {student}", ("full", "")
            elif chance < 0.85:
                mistake = rng.choice(sorted(set(wrong[id]) & set(exercise.mistakes)))
                code[id], said[id] = f"{wrong[id][mistake]}\n# by {student}", ("wrong", exercise.mistakes[mistake])
            else:
                said[id] = ("not_attempted", "")
        Notebook(lab, code).save(folder / student / f"{lab}.ipynb")
        key[student, lab] = said
    return key


class Processes:
    """Processes of a test, ended with it."""

    def __init__(self, folder):
        self.folder, self.running = folder, []
        self.environment = os.environ | {"FTLAB_FAST": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def start(self, name, *command):
        log = open(self.folder / f"{name}.log", "a")
        process = subprocess.Popen([sys.executable, "-m", *map(str, command)], stdout=log, stderr=log, env=self.environment,
                                   cwd=self.folder)  # fmt: skip
        self.running.append(process)
        return process

    def end(self):
        """The last first: a Dask worker whose scheduler goes at the same moment may wait for it for ever."""
        for process in reversed(self.running):
            if process.poll() is None:
                process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def processes(tmp_path):
    if not shutil.which("bwrap"):
        pytest.skip("no sandbox without bubblewrap: apt-get install bubblewrap")
    pytest.importorskip("distributed")
    started = Processes(tmp_path)
    yield started
    started.end()


def wait_for(what, process, seconds=600):
    until = time.monotonic() + seconds
    while not what():
        assert process.poll() is None, f"it ended with status {process.returncode}"
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.2)


def graded(out):
    """Keys of the results saved so far, in their order."""
    journal = out / ".cache" / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
    return [json.loads(line)["graded"] for line in lines if '"graded"' in line]


def test_sixty_come_out_as_the_key_though_a_worker_and_the_grader_are_killed(processes, tmp_path):
    key, out, address = write_class(tmp_path / "class"), tmp_path / "out", tmp_path / "scheduler.json"
    scheduler = processes.start("scheduler", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                                "--scheduler-file", address)  # fmt: skip
    wait_for(address.exists, scheduler)
    worker = ("dask", "worker", "--scheduler-file", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
    workers = [processes.start(name, *worker, "--name", name) for name in ("worker0", "worker1")]
    (tmp_path / "secret").write_text("nobody knows")
    command = ("ftlab", "grade", tmp_path / "class", "--out", out, "--scheduler", read_json(address)["address"], "--secret",
               tmp_path / "secret")  # fmt: skip

    grader = processes.start("grader", *command)
    wait_for(lambda: len(graded(out)) >= STUDENTS // 4, grader)
    grader.send_signal(signal.SIGKILL)
    grader.wait(30)
    before = len(graded(out))
    assert before < STUDENTS

    grader = processes.start("grader", *command)
    wait_for(lambda: len(graded(out)) >= STUDENTS // 2, grader)
    workers[0].send_signal(signal.SIGKILL)
    assert grader.wait(900) == 0, (tmp_path / "grader.log").read_text()[-2000:]
    assert workers[1].poll() is None and len(set(graded(out))) == len(graded(out)) == STUDENTS

    run = read_json(out / "run.json")
    assert run["finished"] and run["counts"] == {
        "submissions": STUDENTS, "graded": STUDENTS - before, "reused": before, "identical": 0, "malformed": 0, "failed": 0}
    rows = list(csv.DictReader(io.StringIO((out / "grades.csv").read_text(encoding="utf-8"))))
    assert len(rows) == sum(map(len, key.values()))
    for row in rows:
        status, message = key[row["student"], row["lab"]][row["exercise"]]
        assert row["status"] == status and message in row["message"], row
        most = catalogue.exercises(row["lab"])[row["exercise"]].points
        assert (float(row["points"]), float(row["max_points"])) == (most if status == "full" else 0.0, most)
    assert {(line["student"], line["lab"]) for line in run["submissions"]} == set(key)
