"""The thirty-six kinds of submission graded as one class by `ftlab grade`: what each gets, and that nothing of it survives.

The fast tests grade those that are marked `quick`; the others are graded in full only. The thirty-sixth, a worker that is
killed, is a class of its own.
"""

import csv
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from grade.answers import LAB, POINTS, RIGHT
from grade.submissions import Notebook
from grade.thirty_six import CASES, Place, write_case

from ftlab import profile
from ftlab.files import read_json
from ftlab.grade import processes

WORTH = {"full": 1.0, "partial": 0.75}
SECRET = "nobody knows this one"
OUT = {".gitignore", ".cache", "grades.csv", "gradebook.csv", "canvas.csv", "moodle.csv", "feedback", "report.html", "run.json"}


def start(folder, *more):
    """`ftlab grade class --out out` in `folder`, with small limits and a temporary folder of its own; a Popen."""
    if not shutil.which("bwrap"):
        pytest.skip("no sandbox without bubblewrap: apt-get install bubblewrap")
    (folder / "tmp").mkdir()
    (folder / "secret").write_text(SECRET)
    command = [sys.executable, "-m", "grade.adopt", folder / "left.json", sys.executable, "-m", "grade.small_limits", "grade",
               folder / "class", "--out", folder / "out", "--secret", folder / "secret", *more]  # fmt: skip
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
                            env=environment)  # fmt: skip


def groups():
    """Control groups that graders made and that nobody else holds."""
    return {path for path in pathlib.Path("/sys/fs/cgroup").rglob("ftlab-walls-*")}


def rows_of(out):
    """{student: {exercise: row of grades.csv}}; fails where one comes twice."""
    found = {}
    for row in csv.DictReader(io.StringIO((out / "grades.csv").read_text(encoding="utf-8"))):
        assert row["exercise"] not in found.setdefault(row["student"], {}), row
        found[row["student"]][row["exercise"]] = row
    return found


class Graded:
    """A class that was graded: rows, lines (of run.json, by student), kept (results, by student), said, place."""

    def __init__(self, place, said):
        self.place, self.said, self.rows = place, said, rows_of(place.out)
        run = read_json(place.out / "run.json")
        self.counts, self.lines = run["counts"], {line["student"]: line for line in run["submissions"]}
        self.kept = {}
        for who, attempts in read_json(place.out / ".cache" / "attempts.json").items():
            self.kept[who.split("\n")[0]] = read_json(place.out / ".cache" / f"{attempts[-1]['key']}.json")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The class graded, after it was seen that nobody reached the server and no group of control is left."""
    folder = tmp_path_factory.mktemp("class")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place(folder / "class", folder / "out", folder / "secret", folder / "victim", server.getsockname())
        place.victim.mkdir()
        for name, case in CASES.items():
            if case.quick or not profile.fast():
                write_case(name, place)
        process, made = start(folder), set()
        while process.poll() is None:
            ours = {path.name for path in (folder / "tmp").glob("ftlab-walls-*")}
            made |= {path for path in groups() if path.name in ours}
            time.sleep(1)
        said = process.stdout.read()
        assert process.returncode == 0, said[-3000:]
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert [path for path in made if path.exists()] == []
    return Graded(place, said)


@pytest.mark.parametrize("name", [n if case.quick else pytest.param(n, marks=pytest.mark.full) for n, case in CASES.items()])
def test_each_submission_gets_what_it_earns(name, graded):
    case, line, rows = CASES[name], graded.lines[name], graded.rows[name]
    if case.malformed:
        assert (line["status"], line["points"]) == ("malformed", None) and case.malformed in line["message"], line
        assert {row["status"] for row in rows.values()} == {"malformed"}
        return
    told = json.dumps([rows, graded.kept[name]], indent=1)
    statuses = {id: row["status"] for id, row in rows.items()}
    assert line["status"] == "graded" and list(statuses) == list(POINTS), told
    for id, status in statuses.items():
        expected = case.expected.get(id, "full")
        assert status in (expected if isinstance(expected, tuple) else (expected,)), told
    points = {id: WORTH.get(statuses[id], 0.0) * POINTS[id] for id in POINTS}
    assert {id: float(row["points"]) for id, row in rows.items()} == points
    assert (line["points"], line["max_points"]) == (sum(points.values()), sum(POINTS.values()))
    for id, row in rows.items():
        assert row["status"] == "full" or row["message"], told
        assert case.said.get(id, "") in row["message"], told
    kinds = {flag["kind"] for flag in graded.kept[name]["flags"]}
    assert kinds >= case.flags and (case.flags or not kinds), told


def test_each_has_its_rows_once_and_the_others_are_graded(graded):
    written = {path.name for path in graded.place.class_folder.iterdir()}
    assert set(graded.rows) == set(graded.lines) == written
    assert all(set(graded.rows[name]) == set(POINTS) for name in written - {"31-wrong-name"})
    assert graded.counts["failed"] == 0
    assert graded.counts["malformed"] == sum(bool(CASES[name].malformed) for name in written)
    assert f"{len(written)} submissions" in graded.said


def test_no_process_and_no_file_survives(graded):
    folder = graded.place.out.parent
    assert read_json(folder / "left.json") == []
    assert list((folder / "tmp").iterdir()) == []
    assert {path.name for path in graded.place.out.iterdir()} == OUT
    assert list(graded.place.victim.iterdir()) == []
    assert all(len(list(student.iterdir())) == 1 for student in graded.place.class_folder.iterdir())


def test_no_page_runs_what_a_student_wrote(graded):
    pages = {path: path.read_text(encoding="utf-8") for path in graded.place.out.rglob("*.html")}
    assert len(pages) == len(graded.lines) + 1
    for page, html in pages.items():
        assert "<script" not in html.lower() and "default-src 'none'" in html, page
        assert "not run: the kernel was gone" not in html, page  # the grader's word, not the student's
    assert "&lt;script&gt;alert(2)" in pages[graded.place.out / graded.lines["30-script"]["feedback"]]


@pytest.mark.full
def test_a_gigabyte_of_output_needs_no_memory(graded):
    [peak] = [float(line.split()[1]) for line in graded.said.splitlines() if line.startswith("peak: ")]
    assert 20 < peak < 500  # MiB
    assert len(json.dumps(graded.kept["23-gigabyte-of-output"])) < 100_000


@pytest.mark.full
def test_36_a_worker_killed_in_mid_job(tmp_path):
    """Two workers, one killed while it grades: its submission is graded again, each has one row, nothing is lost or left."""
    pytest.importorskip("distributed")
    names = [f"student{number}" for number in range(8)]
    for name in names:
        code = RIGHT | {"break_even": f"{RIGHT['break_even']}\n# by {name}"}
        Notebook(LAB, code).save(tmp_path / "class" / name / f"{LAB}.ipynb")
    process, journal = start(tmp_path, "--jobs", "2"), tmp_path / "out" / ".cache" / "journal.jsonl"
    while not (journal.exists() and '"graded"' in journal.read_text()):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    os.kill(worker_of(process), signal.SIGKILL)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said[-3000:]
    rows, counts = rows_of(tmp_path / "out"), read_json(tmp_path / "out" / "run.json")["counts"]
    assert (set(rows), counts["graded"], counts["failed"]) == (set(names), len(names), 0)
    assert {(row["status"], float(row["points"])) for rows_ in rows.values() for row in rows_.values()} == {
        ("full", points) for points in POINTS.values()}  # fmt: skip
    graded = [line for line in journal.read_text().splitlines() if '"graded"' in line]
    assert len(graded) == len(set(graded)) == len(names)
    assert read_json(tmp_path / "left.json") == []
    # A worker that is killed cannot tidy its temporary folder; the next one of its walls does (test_sandbox.py).
    left = {path.name.split("-")[1] for path in (tmp_path / "tmp").iterdir()}
    assert left <= {"walls", "packages", "job", "grade", "cell", "scratch"}


def worker_of(process):
    """The number of a worker process that grades: it has started a sandbox."""
    for pid in processes.tree(process.pid):
        below = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if any("bwrap" in pathlib.Path(f"/proc/{child}/comm").read_text() for child in below):
            return pid
    raise AssertionError("no worker has a sandbox")
