"""`ftlab bench grade`: grading a class against `nbgrader autograde` and plain `pytest --nbval-lax`, on the CPU.

All grade the same submissions of one lab, of all labs the one that runs quickest, which favours the peers: they start a cold
kernel for each notebook and run all of it. Peers grade without a sandbox; ours stands in one, and judges each exercise twice.
One torch thread a kernel and FTLAB_FAST=1 for all, and one process that grades, but for the row with --jobs 2: the peers have
no such option.

1. Submissions a minute, the peers on the whole notebook and on the reduced one that ours runs (setup, exercises, checks). The
   peers' commands take a half of the class each, in turn with ours, which grades the whole class each time: its start (the
   warmed process, the packages, the reference) is the same for 24 submissions and for 240, and counts in full.
2. Ours on two Dask workers against one, a local cluster of processes: once their walls stand, and with what that takes.
3. Peak memory of the grader, the process and its pytest server, for a class ten times as large.

nbgrader comes in an environment of its own, made once under build/. Where it cannot be made, its rows are left out and a row
says so.
"""

import ast
import functools
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time

from ftlab import profile
from ftlab.bench.common import against, alone, take_turns, tell
from ftlab.course import catalogue
from ftlab.course.notebooks import lab_notebook, notebook_text
from ftlab.course.source import read_lab, solution_of
from ftlab.errors import NotHeld, UsageError
from ftlab.files import read_json

LAB = "09_shootout"
NBGRADER, VERSION = "nbgrader autograde", "0.9.6"
NBVAL = "plain nbval (pytest --nbval-lax)"
REDUCED = ("setup", "exercise", "check")
SECRET = "a bench's secret"
GROWTH = 1.10  # the most by which the grader's memory may grow from a class to one of ten times its size
ENVIRONMENT = {"FTLAB_FAST": "1", "FTLAB_HEADLESS": "1", "FTLAB_PROFILE": "cpu", "OMP_NUM_THREADS": "1"}


def run(report=None, quick=False):
    """All rows; some twenty-five minutes on two cores. Raises UsageError where no sandbox can be made."""
    count, rounds = (2, 1) if quick else (24, 2)
    with tempfile.TemporaryDirectory(prefix="ftlab-bench-") as folder:
        folder = pathlib.Path(folder)
        rows = peers(folder / "peers", count, rounds, report) + workers(folder / "workers", count, rounds, report)
        rows += memory(folder / "memory", count, 2 * count if quick else 10 * count, report)
    return {"machine": profile.machine(measure=not quick), "rows": rows}


# -- Submissions


def write_class(folder, students, kinds=None):
    """Submissions of LAB, `folder`/<student>/LAB.ipynb, no two alike; returns their paths. students: numbers, which are seeds.

    Most exercises are solved; one in eight is left as the gap, one in eight gives None. kinds: of cells that are kept.
    """
    cells, paths = read_lab(LAB), []
    text = notebook_text(lab_notebook(LAB, cells))
    for number in students:
        rng, raw = random.Random(number), json.loads(text)
        raw["cells"] = [cell for cell in raw["cells"] if kinds is None or cell["metadata"]["ftlab"]["kind"] in kinds]
        by_id = {cell["id"]: cell for cell in raw["cells"]}
        for cell in cells:
            if cell.kind == "exercise" and (chance := rng.random()) < 7 / 8:
                heading = "".join(by_id[cell.id]["source"]).split("\n")[0]
                by_id[cell.id]["source"] = f"{heading}\n{_answer(cell, chance < 1 / 8)}\n# Written by student {number}."
        path = folder / f"student{number:03}" / f"{LAB}.ipynb"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(raw), encoding="utf-8")
        paths.append(path)
    return paths


def _answer(cell, wrong):
    code = solution_of(cell)
    functions = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    return code + "".join(f"\n{name} = lambda *given, **named: None" for name in functions if wrong)


# -- 1: against the peers


def peers(folder, count, rounds, report=None):
    """Rows of submissions a minute against nbgrader and nbval, on the whole and on the reduced notebook."""
    folder.mkdir()
    block = count // rounds  # of a peer's command
    whole = write_class(folder / "ours", range(count))
    runners = {"ours": functools.partial(_seconds, _ours, folder / "ours", whole),
               "ours, --jobs 2": functools.partial(_seconds, _ours, folder / "ours", whole, jobs=2)}  # fmt: skip
    try:
        python, missing = nbgrader_python(report), None
    except UsageError as error:
        tell(report, str(error))
        python, missing = None, error
    for name, kinds in (("whole notebook", None), ("reduced notebook", REDUCED)):
        if python:
            course = NbgraderCourse(folder / f"nbgrader {name}", python)
            course.release(kinds)
            blocks = course.folder / "blocks"
            runners[f"{NBGRADER}, {name}"] = functools.partial(_next_block, blocks, block, course.grade, kinds)
        runners[f"{NBVAL}, {name}"] = functools.partial(_next_block, folder / f"nbval {name}", block, _nbval, kinds)
    seconds = take_turns(runners, rounds, report, "grading, seconds, round")
    rate = {name: 60 * (count if name.startswith("ours") else block) * rounds / sum(found) for name, found in seconds.items()}
    rows = [against(f"grade, {count} submissions, against {name}", rate["ours"], rate[name], "submissions/min")
            for name in runners if not name.startswith("ours")]  # fmt: skip
    both = rate["ours, --jobs 2"]
    rows += [against(f"grade --jobs 2, {count} submissions, against {name}", both, rate[name], "submissions/min")
             for name in runners if name.endswith("whole notebook")]  # fmt: skip
    if missing:
        rows.append(alone(f"grade, {count} submissions, not against {NBGRADER}: {missing}", rate["ours"], "submissions/min"))
    return rows


def _next_block(folder, size, grade, kinds=None):
    """Write the next `size` submissions and grade them; the seconds of the latter."""
    done = len(list(folder.iterdir())) if folder.exists() else 0
    block = folder / f"block{done}"
    return _seconds(grade, block, write_class(block, range(done * size, (done + 1) * size), kinds))


def _seconds(grade, *arguments, **named):
    began = time.perf_counter()
    grade(*arguments, **named)
    return time.perf_counter() - began


def _ours(block, paths, jobs=1):
    with tempfile.TemporaryDirectory(prefix="ftlab-bench-out-") as out:
        command = [sys.executable, "-m", "ftlab", "grade", str(block), "--out", out, "--labs", LAB, "--jobs", str(jobs)]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment())
        if done.returncode:
            raise NotHeld(f"ftlab grade ended with status {done.returncode}: {done.stderr[-800:]}")
        _check_counts(read_json(pathlib.Path(out, "run.json")), paths)


def _check_counts(run, paths):
    if run["counts"]["graded"] != len(paths):
        raise NotHeld(f"of {len(paths)} submissions {run['counts']['graded']} were graded: {run['counts']}")


def _in_process(block, paths, **where):
    from ftlab.grade.batch import grade_class

    with tempfile.TemporaryDirectory(prefix="ftlab-bench-out-") as out:
        _check_counts(grade_class(block, out, [LAB], secret=SECRET, **where), paths)


def _nbval(block, paths):
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-p", "no:cacheprovider", "-c", os.devnull,
               f"--rootdir={block}", *map(str, paths)]  # fmt: skip
    done = subprocess.run(command, cwd=block, capture_output=True, text=True, env=_environment())
    if done.returncode not in (0, 1):  # 1: some checks failed, as they should
        raise NotHeld(f"nbval ended with status {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")


def _environment():
    return dict(os.environ, PYTHONPATH=str(catalogue.ROOT), **ENVIRONMENT)


def nbgrader_python(report=None):
    """The Python of an environment with nbgrader, made when it is not there yet. Raises UsageError where it cannot be."""
    folder = catalogue.ROOT / "build" / f"nbgrader-{VERSION}-{sys.version_info[0]}.{sys.version_info[1]}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (folder / "made").exists():
        tell(report, f"installing nbgrader {VERSION} in an environment of its own")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"nbgrader=={VERSION}"]
        done = subprocess.run(install, capture_output=True, text=True)
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
            raise UsageError(f"no environment with nbgrader {VERSION} can be made here: {reason[:150]}")
        (folder / "made").write_text(VERSION)
    return python


# Our labs have their gaps already: ClearSolutions would empty whole cells. The rest is nbgrader's own list.
CONFIG = """
from nbgrader.preprocessors import CheckCellMetadata, ClearOutput, ComputeChecksums, LockCells, SaveCells

c = get_config()
c.CourseDirectory.course_id = "ftlab"
c.GenerateAssignment.preprocessors = [LockCells, ClearOutput, CheckCellMetadata, ComputeChecksums, SaveCells]
c.ExecutePreprocessor.timeout = 600
"""


class NbgraderCourse:
    """An nbgrader course in a folder, its kernels run by this Python with this package."""

    def __init__(self, folder, python):
        self.folder, self.python = folder, python
        spec = folder / "jupyter" / "kernels" / "python3"
        spec.mkdir(parents=True)
        (spec / "kernel.json").write_text(json.dumps({
            "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Python 3 (ipykernel)", "language": "python"}))  # fmt: skip
        (folder / "nbgrader_config.py").write_text(CONFIG)
        self.environment = _environment() | {
            "JUPYTER_PATH": str(folder / "jupyter"), "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "IPYTHONDIR": str(folder / "ipython"),
            "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),
        }  # fmt: skip

    def nbgrader(self, *arguments):
        """(exit status, what was said) of an nbgrader command."""
        done = subprocess.run([str(self.python), "-m", "nbgrader", *map(str, arguments)], cwd=self.folder,
                              capture_output=True, text=True, env=self.environment)  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def put(self, text, *where):
        """Write a file of the course; returns its path."""
        path = self.folder.joinpath(*where)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def release(self, kinds=None):
        """Make the assignment LAB of the lab's cells of `kinds` (all when None)."""
        notebook = lab_notebook(LAB, read_lab(LAB))
        notebook.cells = [cell for cell in notebook.cells if kinds is None or cell.metadata.ftlab.kind in kinds]
        self.put(notebook_text(notebook), "source", LAB, f"{LAB}.ipynb")
        self._ask("generate_assignment", LAB)

    def grade(self, block, paths):
        """Autograde submissions, of students that are new to the course, by one command."""
        shutil.rmtree(self.folder / "submitted", ignore_errors=True)
        for path in paths:
            to = self.folder / "submitted" / path.parent.name / LAB
            to.mkdir(parents=True)
            shutil.copy(path, to)
        self._ask("autograde", LAB)

    def _ask(self, *arguments):
        status, said = self.nbgrader(*arguments)
        if status:
            raise NotHeld(f"nbgrader {arguments[0]} ended with status {status}: {said[-800:]}")


# -- 2: Dask workers


def workers(folder, count, rounds, report=None):
    """Rows of two Dask workers against one, on the same submissions."""
    paths, starts = write_class(folder, range(count)), {1: [], 2: []}
    runners = {f"{number} workers": functools.partial(_on_workers, folder, paths, number, starts[number]) for number in (1, 2)}
    found = take_turns(runners, rounds, report, "workers, seconds, round")
    grading = {number: sum(found[f"{number} workers"]) for number in (1, 2)}
    whole = {number: grading[number] + sum(starts[number]) for number in (1, 2)}
    return [against(f"grade, {count} submissions, two Dask workers against one{what}",
                    *(60 * count * rounds / seconds[number] for number in (2, 1)), "submissions/min")
            for what, seconds in (("", grading), (", the start of their walls counted", whole))]  # fmt: skip


def _on_workers(folder, paths, number, starts):
    """Seconds of grading by `number` workers; `starts` gets those in which their walls were put up and each graded one."""
    import distributed

    from ftlab.grade import batch, cache, on_dask

    order = json.dumps({"secret": SECRET, "mode": "auto", "grader": batch.GRADER, "hidden": [], "lab": LAB,
                        "release": cache.release(LAB)})  # fmt: skip
    with on_dask.local_cluster(distributed, number) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        began = time.perf_counter()
        client.wait_for_workers(number)
        jobs = [client.submit(batch.work, order, paths[0].read_bytes(), workers=[name], pure=False)
                for name in client.scheduler_info()["workers"]]  # fmt: skip
        for reply in map(json.loads, client.gather(jobs)):
            if "result" not in reply:
                raise NotHeld(f"a worker could not grade: {reply}")
        starts.append(time.perf_counter() - began)
        return _seconds(_in_process, folder, paths, scheduler=cluster)


# -- 3: the grader's memory


def memory(folder, few, many, report=None):
    """Rows of the grader's peak memory for a class of `few` and of `many`, and of their ratio."""
    peak = {}
    for number in (few, many):
        write_class(folder / f"class{number}", range(number))
        tell(report, f"the memory of grading {number} submissions")
        command = [sys.executable, "-m", "ftlab.bench.grade", str(folder / f"class{number}"), str(number)]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment())
        if done.returncode:
            raise NotHeld(f"grading {number} submissions failed: {done.stderr[-800:]}")
        peak[number] = float(done.stdout.split()[-1])
    growth = alone(f"grade, memory of the grader, {many} submissions to {few}", peak[many] / peak[few], "ratio", GROWTH)
    return [alone(f"grade, peak memory of the grader, {number} submissions", peak[number], "MiB") for number in peak] + [growth]


def _peak_of_grading(folder, number):
    """Grade the class in `folder`; the peak memory in MiB of this process and of its pytest server, without the kernels."""
    from ftlab.grade import one

    _in_process(folder, range(number))
    return sum(_peak_mib(pid) for pid in (os.getpid(), one._sessions()._started().pid))


def _peak_mib(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    print(f"{_peak_of_grading(pathlib.Path(sys.argv[1]), int(sys.argv[2])):.1f}")
