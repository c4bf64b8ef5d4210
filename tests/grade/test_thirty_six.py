"""Thirty-six kinds of submission, honest and hostile, graded as one class by `ftlab grade`, each with what it must get.

The class is graded by a process that adopts whatever its descendants leave behind, in a temporary folder of its own: so
afterwards the test sees every process, file and connection that survived. Hostile code runs in the sandbox and aims only at
what the test made: a server on loopback, files in its folder.
"""

import csv
import dataclasses
import io
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import zipfile

import pytest
from grade.submissions import Notebook
from grade.test_one import (
    BORROWED,
    EMPTIED,
    EQUAL,
    FAKE_IDLE,
    FORGED,
    NOISE,
    PATCHED,
    PICKLE,
    POINTS,
    RIGHT,
    SILENT,
    WRITES,
    WRONG,
    instead,
)

from ftlab.course import catalogue

pytestmark = pytest.mark.full
LAB = "00_lifecycle"
LIMITS = {"cell_seconds": 5, "memory_mib": 512, "processes": 48, "scratch_mib": 64, "files": 500}
# The process that grades: a subreaper, so that orphans come to it, and not to the machine's first process.
GRADER = """
import ctypes, json, os, pathlib, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
folder, out, limits = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
from ftlab import cli
from ftlab.grade import kernel, one
kernel.Limits.__init__.__defaults__ = tuple(limits.get(name, value) for name, value in
    zip(kernel.Limits.__dataclass_fields__, kernel.Limits.__init__.__defaults__))
status = cli.main(["grade", folder, "--out", out, "--secret", sys.argv[4]])
one._sessions().close()
time.sleep(0.5)
children = pathlib.Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
children = [pathlib.Path(f"/proc/{pid}/cmdline").read_text() for pid in children]
links = [os.readlink(path) for path in pathlib.Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()]
sockets = [link for link in links if link.startswith("socket")]
print("FOUND" + json.dumps({"status": status, "children": children, "sockets": sockets}))
"""


@dataclasses.dataclass
class Case:
    """make(notebook, place) edits a right notebook in which `code` stands, or returns the path of what it wrote instead.

    expected: {exercise: status, or a tuple of those that may be}; others are "full". flags: kinds that must be raised.
    malformed: the whole submission is for review.
    """

    code: dict = dataclasses.field(default_factory=dict)
    expected: dict = dataclasses.field(default_factory=dict)
    flags: set = dataclasses.field(default_factory=set)
    make: object = None
    malformed: bool = False


def costs(line):
    """The right cost_of_call, which does `line` first."""
    return {"cost_of_call": instead("cost_of_call", line)}


def edit(method, *arguments):
    return lambda notebook, place: getattr(notebook, method)(*arguments) and None


def file(name, data):
    """In place of a notebook, a file of these bytes."""

    def make(notebook, place):
        (place.folder / name).write_bytes(data)
        return place.folder / name

    return make


def huge(notebook, place):
    path = place.folder / f"{LAB}.ipynb"
    with open(path, "wb") as handle:
        handle.truncate(500_000_000)
    return path


def bomb(notebook, place):
    path = place.folder / "submission.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{LAB}.ipynb", bytes(300 * 2**20))
    return path


def split(notebook, place):
    head, rest = RIGHT["break_even"].strip().split("\n", 1)
    notebook.write("break_even", "import math\nlimit = 0")
    notebook.add("break_even", RIGHT["break_even"].replace("saving <= 0", "saving <= limit"))


def call_home(notebook, place):
    notebook.write("cost_of_call", instead("cost_of_call", f"import socket; socket.create_connection({place.server!r}, 2)"))


def read_others(notebook, place):
    paths = [str(path) for path in (place.secret, place.out / "grades.csv", place.class_folder / "01-correct" / f"{LAB}.ipynb",
                                    catalogue.SOLUTIONS / f"{LAB}.py", catalogue.ANSWERS / f"{LAB}.json")]  # fmt: skip
    lines = (f"found = []\n    for path in {paths!r}:\n        try: found.append(open(path).read())\n"
             "        except OSError: pass\n    assert found, 'nothing there'")  # fmt: skip
    notebook.write("cost_of_call", instead("cost_of_call", lines))


def remark(notebook, place):
    notebook.write("break_even", "# NBVAL_SKIP\n" + WRONG["break_even"])
    notebook.write("decode_float", "# NBVAL_RAISES_EXCEPTION\nraise ValueError")
    notebook.cell("break_even")["metadata"]["tags"] = ["nbval-skip", "raises-exception"]


def more_points(notebook, place):
    notebook.cell("break_even-check")["metadata"]["nbgrader"]["points"] = 300
    notebook.cell("break_even")["metadata"]["ftlab"]["points"] = 300


def as_text(notebook, place):
    notebook.cell("break_even")["cell_type"] = "markdown"
    notebook.cell("break_even").pop("outputs")


def other_notebook(notebook, place):
    notebook.strip_metadata()
    for cell in notebook.cells:
        cell["source"] = ["# nothing of the lab"]


FORK_BOMB = "import os\n    while True:\n        try: os.fork()\n        except OSError: pass"
MEMORY_BOMB = "hoard = []\n    while True: hoard.append(bytearray(64 << 20))"
DAEMONS = """
import os, threading, time, subprocess
threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
subprocess.Popen(["sleep", "300"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(300)
    os._exit(0)
"""
FILL = """
import os
try:
    for number in range(1000):
        with open(f"fill{number}", "wb", 0) as out:
            out.write(bytes(2**20))
except OSError:
    pass
os.path.islink("door") or os.symlink("/etc", "door")
try:
    open("door/ftlab-was-here", "w")
except OSError:
    pass
"""
STOPS = {"cost_of_call": ("error", "timeout", "kernel_died", "oom"), "break_even": ("full", "partial", "not_run")}

CASES = {
    "01-correct": Case(),
    "02-untouched": Case(dict.fromkeys(POINTS), dict.fromkeys(POINTS, "not_attempted")),
    "03-syntax-error": Case({"decode_float": "def decode_float(:\n    pass"}, {"decode_float": "error"}),
    "04-edited-check": Case({"break_even": WRONG["break_even"]}, {"break_even": "wrong"}, {"edited_check"},
                            edit("write", "break_even-check", "print('Right')")),
    "05-deleted-check": Case(flags={"deleted_check"}, make=edit("delete", "break_even-check")),
    "06-duplicated-cell": Case(flags={"duplicate_cell"}, make=edit("copy", "break_even")),
    "06-split-cell": Case(make=split),
    "07-metadata-stripped": Case(flags={"matched_by_content"}, make=edit("strip_metadata")),
    "07-nothing-of-the-lab": Case(make=other_notebook, malformed=True),
    "08-cell-type-changed": Case(flags={"cell_type_changed"}, make=as_text),
    "09-points-raised": Case(flags={"metadata_changed"}, make=more_points),
    "10-nbval-markers": Case({}, {"break_even": "wrong", "decode_float": "error"}, {"nbval_marker"}, remark),
    "11-showtraceback-replaced": Case(
        {"decode_float": SILENT + instead("decode_float", "raise ValueError"), "cost_of_call": WRONG["cost_of_call"]},
        {"decode_float": "error", "cost_of_call": "wrong"}, {"patches_machinery"}),
    "12-checks-emptied": Case({"decode_float": EMPTIED}, dict.fromkeys(POINTS, "error"), {"patches_machinery"}),
    "13-idle-faked": Case({"cost_of_call": FAKE_IDLE}, {"cost_of_call": "error"}, {"patches_machinery"}),
    "13-results-forged": Case({**WRONG, "decode_float": WRONG["decode_float"] + FORGED}, dict.fromkeys(POINTS, "wrong"),
                              {"patches_machinery", "forged_display", "check_without_probe"}),
    "14-equal-to-everything": Case({"decode_float": EQUAL}, {"decode_float": "wrong"}),
    "15-comparison-patched": Case({**WRONG, "decode_float": WRONG["decode_float"] + PATCHED}, dict.fromkeys(POINTS, "wrong"),
                                  {"patches_machinery", "check_without_probe"}),
    "16-borrowed": Case(BORROWED, {"decode_float": "wrong", "cost_of_call": "error", "break_even": "not_attempted"},
                        {"withheld_import", "solution_used"}),
    "17-sys-exit": Case(costs("import sys; sys.exit()"), {"cost_of_call": "error"}),
    "18-os-exit": Case(costs("import os; os._exit(0)"), {"cost_of_call": "kernel_died", "break_even": "not_run"}),
    "18-segmentation-fault": Case(costs("import ctypes; ctypes.string_at(0)"),
                                  {"cost_of_call": "kernel_died", "break_even": "not_run"}),
    "19-endless-loop": Case(costs("while True: pass"), {"cost_of_call": "timeout"}),
    "20-interrupts-ignored": Case(
        costs("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n    while True: pass"),
        {"cost_of_call": "timeout", "break_even": "partial"}),
    "21-memory-bomb": Case(costs(MEMORY_BOMB), {"cost_of_call": "oom", "break_even": "not_run"}),
    "22-fork-bomb": Case(costs(FORK_BOMB), STOPS),
    "23-gigabyte-of-output": Case({"cost_of_call": RIGHT["cost_of_call"] + "for _ in range(1000): print('x' * 1_000_000)\n"},
                                  {"cost_of_call": ("full", "timeout", "error"), "break_even": ("full", "partial", "not_run")}),
    "24-daemons": Case({"cost_of_call": RIGHT["cost_of_call"] + DAEMONS}),
    "25-network": Case({}, {"cost_of_call": "error"}, make=call_home),
    "26-reading-others": Case({}, {"cost_of_call": "error"}, make=read_others),
    "27-writing-results": Case({"break_even": WRONG["break_even"] + WRITES}, {"break_even": "wrong"}),
    "28-pickle": Case({"break_even": PICKLE}, {"break_even": "wrong"}),
    "29-disk-filled": Case({"cost_of_call": RIGHT["cost_of_call"] + FILL}),
    "30-script": Case({"cost_of_call": instead("cost_of_call", "print('<script>alert(1)</script>')\n"
                                               "    return '<script>alert(2)</script>'")}, {"cost_of_call": "wrong"}),
    "31-corrupt-json": Case(make=file(f"{LAB}.ipynb", b'{"cells": ['), malformed=True),
    "31-half-a-gigabyte": Case(make=huge, malformed=True),
    "31-wrong-name": Case(make=file("homework.ipynb", b"{}"), malformed=True),
    "31-zip-bomb": Case(make=bomb, malformed=True),
    "32-noise": Case({"break_even": RIGHT["break_even"] + NOISE}),
    "33-input": Case(costs("prompt_tokens = input()"), {"cost_of_call": "error"}),
    "34-pip": Case({"cost_of_call": "!pip install nothing-of-this-name\nimport nothing_of_this_name\n" + RIGHT["cost_of_call"]},
                   {"cost_of_call": "error"}),
    "35-bad-magic": Case({"cost_of_call": "%%nosuchmagic\n" + RIGHT["cost_of_call"]}, {"cost_of_call": "error"}),
}  # fmt: skip


@dataclasses.dataclass
class Place:
    class_folder: pathlib.Path
    out: pathlib.Path
    secret: pathlib.Path
    server: tuple
    folder: pathlib.Path = None


def write_case(name, place):
    case = CASES[name]
    place = dataclasses.replace(place, folder=place.class_folder / name)
    place.folder.mkdir(parents=True)
    notebook = Notebook(LAB, {id: text for id, text in (RIGHT | case.code).items() if text})
    if not (case.make and case.make(notebook, place)):
        notebook.save(place.folder / f"{LAB}.ipynb")


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """The class graded: {"rows": {student: {exercise: row of grades.csv}}, "run", "left", "place", "said"}."""
    if not shutil.which("bwrap"):
        pytest.skip("no sandbox without bubblewrap: apt-get install bubblewrap")
    folder = tmp_path_factory.mktemp("c")
    temporary = tmp_path_factory.mktemp("t")
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place(folder / "class", folder / "out", folder / "secret", server.getsockname())
        place.secret.write_text("nobody knows")
        for name in CASES:
            write_case(name, place)
        before = groups()
        done = subprocess.run(
            [sys.executable, "-c", GRADER, str(place.class_folder), str(place.out), json.dumps(LIMITS), str(place.secret)],
            capture_output=True, text=True, env=os.environ | {"TMPDIR": str(temporary)}, cwd=folder)  # fmt: skip
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()  # nobody called
    found = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    rows = {}
    for row in csv.DictReader(io.StringIO((place.out / "grades.csv").read_text(encoding="utf-8"))):
        rows.setdefault(row["student"], {})[row["exercise"]] = row
    left = json.loads(found[0].removeprefix("FOUND")) | {
        "files": sorted(path.name for path in temporary.iterdir()), "groups": sorted(groups() - before)}  # fmt: skip
    return {"rows": rows, "run": json.loads((place.out / "run.json").read_text()), "left": left, "place": place,
            "said": done.stdout + done.stderr}  # fmt: skip


def groups():
    """Control groups that a grader made."""
    return {str(path) for path in pathlib.Path("/sys/fs/cgroup").rglob("ftlab*")}


@pytest.mark.parametrize("name", CASES)
def test_each_gets_what_it_earns(name, graded):
    case = CASES[name]
    (line,) = [line for line in graded["run"]["submissions"] if line["student"] == name]
    rows = graded["rows"].get(name, {})
    if case.malformed:
        assert line["status"] == "malformed" and line["message"], line
        assert all(row["status"] == "malformed" and row["points"] in ("", "0", "0.0") for row in rows.values())
        return
    assert line["status"] == "graded" and line["max_points"] == sum(POINTS.values())
    statuses = {id: row["status"] for id, row in rows.items()}
    for id, status in statuses.items():
        allowed = case.expected.get(id, "full")
        assert status in ((allowed,) if isinstance(allowed, str) else allowed), (id, rows)
    worth = {"full": 1.0, "partial": 0.75}
    points = {id: float(row["points"]) for id, row in rows.items()}
    assert points == {id: worth.get(statuses[id], 0.0) * POINTS[id] for id in POINTS}
    assert line["points"] == sum(points.values())
    assert flags_of(graded, name) >= case.flags


def flags_of(graded, student):
    """Kinds of flags of a student's result, as kept."""
    journal = (graded["place"].out / ".cache" / "attempts.json").read_text(encoding="utf-8")
    (attempt,) = json.loads(journal)[f"{student}\n{LAB}"]
    kept = json.loads((graded["place"].out / ".cache" / f"{attempt['key']}.json").read_text(encoding="utf-8"))
    return {flag["kind"] for flag in kept["flags"]}


def test_nothing_survives_the_class(graded):
    left = graded["left"]
    assert left["status"] == 0
    assert (left["children"], left["sockets"], left["files"], left["groups"]) == ([], [], [], [])


def test_nothing_was_written_where_it_must_not_be(graded):
    place = graded["place"]
    assert not pathlib.Path("/etc/ftlab-was-here").exists()
    assert {path.name for path in place.out.iterdir()} <= {
        ".cache", "grades.csv", "gradebook.csv", "canvas.csv", "moodle.csv", "feedback", "report.html", "run.json"}  # fmt: skip
    assert sorted(path.name for path in place.class_folder.iterdir()) == sorted(CASES)
    for name in CASES:
        assert len(list((place.class_folder / name).iterdir())) == 1


def test_no_page_runs_what_a_student_wrote(graded):
    pages = list((graded["place"].out / "feedback").rglob("*.html")) + [graded["place"].out / "report.html"]
    assert len(pages) > len(CASES) / 2
    for page in pages:
        assert "<script" not in page.read_text(encoding="utf-8").lower()
    assert "alert(" in "".join(page.read_text(encoding="utf-8") for page in pages)  # as text


def test_one_row_an_exercise_and_a_summary(graded):
    assert set(graded["rows"]) >= {name for name, case in CASES.items() if not case.malformed}
    assert all(set(rows) == set(POINTS) for name, rows in graded["rows"].items() if not CASES[name].malformed)
    assert f"{len(CASES)} submissions" in graded["said"]
