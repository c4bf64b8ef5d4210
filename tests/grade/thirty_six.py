"""The thirty-six kinds of submission that grading must survive, as notebooks, each with what it must get.

Hostile code aims only at what the test made: a server on loopback, and the files of `Place`. It runs in the sandbox only.
"""

import dataclasses
import pathlib
import zipfile

from grade.answers import LAB, POINTS, RIGHT, WRONG, instead
from grade.submissions import Notebook

from ftlab.course import catalogue


@dataclasses.dataclass
class Place:
    """Where the class lies and where its grades go; victim: a folder in which nothing may come to be; server: (host, port)
    of a server that nobody may reach; folder: that of the submission which is written."""

    class_folder: pathlib.Path
    out: pathlib.Path
    secret: pathlib.Path
    victim: pathlib.Path
    server: tuple
    folder: pathlib.Path = None


@dataclasses.dataclass
class Case:
    """A submission. The notebook has `code` in its exercises (the right answers where it has none; None: the untouched gap).

    make(notebook, place) edits it, or returns True after it wrote another file instead.
    expected: {exercise: status, or a tuple of those that may be}, "full" for those that are not named.
    flags: kinds that must be raised; without any no flag may be.
    malformed: a text that the reason must hold, where the whole submission is for review.
    said: {exercise: a text that the student's message must hold}. quick: whether it is in the class of the fast tests.
    """

    code: dict = dataclasses.field(default_factory=dict)
    expected: dict = dataclasses.field(default_factory=dict)
    flags: set = dataclasses.field(default_factory=set)
    make: object = None
    malformed: str = ""
    said: dict = dataclasses.field(default_factory=dict)
    quick: bool = False


def write_case(name, place):
    """Write the submission of the student `name`."""
    case, place = CASES[name], dataclasses.replace(place, folder=place.class_folder / name)
    place.folder.mkdir(parents=True)
    notebook = Notebook(LAB, {id: text for id, text in (RIGHT | case.code).items() if text})
    if not (case.make and case.make(notebook, place)):
        notebook.save(place.folder / f"{LAB}.ipynb")


def costs(*lines):
    """The right cost_of_call, which does `lines` first."""
    return {"cost_of_call": instead("cost_of_call", "\n    ".join(lines))}


# Code

NOISE = """
import sys
import warnings
warnings.warn("an old torch")
for step in range(50):
    print(f"\\r{step} of 50", end="", file=sys.stderr)
print("<script>alert(1)</script>")
!{sys.executable} -m pip install --no-index nothing-of-this-name
"""
EQUAL = """
class Everything(float):
    def __eq__(self, other): return True
    def __sub__(self, other): return 0.0
    __rsub__ = __sub__
    def __abs__(self): return 0.0
    __hash__ = float.__hash__
def decode_float(bits, exponent_bits, mantissa_bits):
    return Everything(0)
"""
FAKE_IDLE = """
kernel = get_ipython().kernel
kernel.session.send(kernel.iopub_socket, "status", {"execution_state": "idle"}, parent=kernel.get_parent("shell"))
raise RuntimeError("after the idle")
"""
FORGED = """
from IPython.display import display
def show(mime, record):
    display({mime: record, "text/plain": "Right"}, raw=True)
CHECK, PROBE = "application/vnd.ftlab.check+json", "application/vnd.ftlab.probe+json"
lab.check = lambda id, *objects: show(CHECK, {"id": id, "status": "right", "mistake": None, "message": ""})
lab.probe = lambda id, value: show(PROBE, {"id": id, "seed": lab.probe_seed(id), "value": [1.0]})
show(PROBE, {"id": "break_even", "seed": lab.probe_seed("break_even"), "value": [1, 1]})
"""
EMPTIED = """
import ast
class Empty(ast.NodeTransformer):
    def visit_Module(self, node):
        node.body = []
        return node
get_ipython().ast_transformers.append(Empty())
"""
SILENT = "get_ipython().showtraceback = lambda *a, **k: None\nget_ipython()._showtraceback = lambda *a, **k: None\n"
PATCHED = """
import builtins
import ftlab.teach.check
import ftlab.teach.compare
for module in (ftlab.teach.check, ftlab.teach.compare):
    module.difference = lambda *arguments, **options: None
builtins.abs = lambda x: 0
"""
BORROWED = {
    "decode_float": "from ftlab.measure import formats\n"
                    "def decode_float(bits, exponent_bits, mantissa_bits):\n"
                    "    return formats.decode_float(bits, exponent_bits, mantissa_bits)\n",
    "cost_of_call": "def cost_of_call(*arguments, **options):\n    return known.cost_of_call(*arguments, **options)\n",
    "break_even": 'lab.use_solution("break_even")\n',
}
WRITES = """
import json, os, pathlib
for name in ("result.json", "../result.json", "grades.csv", "hidden.ipynb", "visible.ipynb", "junit.xml"):
    try:
        pathlib.Path(name).write_text(json.dumps({"exercises": [{"exercise": "break_even", "points": 3, "max_points": 3}]}))
    except OSError:
        pass
"""
FORK_BOMB = ("import os", "while True:", "    try: os.fork()", "    except OSError: pass")
MEMORY_BOMB = ("hoard = []", "while True: hoard.append(bytearray(64 << 20))")
PROCESSES = """
import os, subprocess, time
subprocess.Popen(["sleep", "300"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(300)
    os._exit(0)
"""
THREADS = """
import threading, time
for daemon in (True, False):
    threading.Thread(target=time.sleep, args=(300,), daemon=daemon).start()
"""
FILL = """
try:
    for number in range(1000):
        with open(f"fill{number}", "wb", 0) as file:
            file.write(bytes(2**20))
except OSError:
    pass
"""
# It needs a helper that stands in a cell which does not run.
HELPED = RIGHT["break_even"].replace("saving = ", "saving = same(").replace("cost_after\n", "cost_after)\n", 1)


# Edits


def edit(method, *arguments):
    """An edit by a method of Notebook."""

    def make(notebook, place):
        getattr(notebook, method)(*arguments)

    return make


def instead_of_it(name, data):
    """In place of the notebook a file `name` of these bytes."""

    def make(notebook, place):
        return bool((place.folder / name).write_bytes(data))

    return make


def split(notebook, place):
    notebook.write("break_even", "import math\nlimit = 0")
    notebook.add("break_even", RIGHT["break_even"].replace("saving <= 0", "saving <= limit"))


def renamed(notebook, place):
    """Without metadata, and one exercise's function under another name: nothing tells whose cell it is."""
    notebook.write("break_even", RIGHT["break_even"].replace("break_even", "evens_out"))
    notebook.cell("break_even")["source"].pop(0)  # the heading
    notebook.strip_metadata()


def no_lab(notebook, place):
    notebook.strip_metadata()
    for cell in notebook.cells:
        cell["source"] = ["# nothing of the lab"]


def as_text(notebook, place):
    notebook.cell("break_even")["cell_type"] = "markdown"
    notebook.cell("break_even").pop("outputs")


def more_points(notebook, place):
    notebook.cell("break_even-check")["metadata"]["nbgrader"]["points"] = 300
    notebook.cell("break_even")["metadata"]["ftlab"]["points"] = 300


def marked(notebook, place):
    notebook.write("decode_float", "# NBVAL_RAISES_EXCEPTION\nraise ValueError")
    notebook.write("break_even", "# NBVAL_SKIP\n" + WRONG["break_even"])
    notebook.cell("break_even")["metadata"]["tags"] = ["nbval-skip", "raises-exception"]


def call_home(notebook, place):
    notebook.write("cost_of_call", costs(f"import socket; socket.create_connection({place.server!r}, 2)")["cost_of_call"])


def call_home_at_the_top(notebook, place):
    """Whether it went well is to be seen at the server only."""
    notebook.write("cost_of_call", "import socket\ntry: socket.create_connection("
                   f"{place.server!r}, 2)\nexcept OSError: pass\n" + RIGHT["cost_of_call"])


def read_others(notebook, place):
    """Right for who can read what is another's."""
    neighbour = place.class_folder / "01-correct" / f"{LAB}.ipynb"
    paths = [place.secret, place.out / "grades.csv", place.out / ".cache" / "journal.jsonl", neighbour, place.victim,
             catalogue.SOLUTIONS / f"{LAB}.ipynb", catalogue.ANSWERS / f"{LAB}.json"]  # fmt: skip
    paths = [*map(str, paths)]
    lines = (f"import os; found = [path for path in {paths!r} if os.path.exists(path)]", "assert found, 'not there'")
    notebook.write("cost_of_call", costs(*lines)["cost_of_call"])


def pickled(notebook, place):
    """Who loads it makes a folder."""
    notebook.write("break_even", f"""
import os, pickle
class Bomb:
    def __reduce__(self):
        return (os.mkdir, ({str(place.victim / "pickle")!r},))
def break_even(upfront, cost_before, cost_after):
    return pickle.dumps(Bomb())
""")


def links_out(notebook, place):
    notebook.write("cost_of_call", f"""
import os
os.path.islink("door") or os.symlink({str(place.victim)!r}, "door")
for name in ("door/link", {str(place.victim / "link")!r}, {str(place.out / "grades.csv")!r}):
    try:
        open(name, "w").close()
    except OSError:
        pass
""" + RIGHT["cost_of_call"])


def is_a_link(notebook, place):
    (place.folder / f"{LAB}.ipynb").symlink_to(place.class_folder / "01-correct" / f"{LAB}.ipynb")
    return True


def half_a_gigabyte(notebook, place):
    with open(place.folder / f"{LAB}.ipynb", "wb") as file:
        return bool(file.truncate(500_000_000))


def zip_bomb(notebook, place):
    with zipfile.ZipFile(place.folder / f"{LAB}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open(f"{LAB}.ipynb", "w") as file:
            for _ in range(300):
                file.write(bytes(2**20))
    return True


# The class

DIED = {"cost_of_call": "kernel_died", "break_even": "not_run"}
PATCHES = {"patches_machinery"}
CASES = {
    "01-correct": Case(quick=True),
    "02-untouched": Case(dict.fromkeys(POINTS), dict.fromkeys(POINTS, "not_attempted")),
    "03-syntax-error": Case(
        {"decode_float": "def same(value): return value\ndef decode_float(:\n    pass", "break_even": HELPED},
        {"decode_float": "error", "break_even": "error"},
        said={"decode_float": "SyntaxError", "break_even": "same"}, quick=True),
    "04-edited-check": Case({"break_even": WRONG["break_even"]}, {"break_even": "wrong"}, {"edited_check"},
                            edit("write", "break_even-check", "print('Right')")),
    "05-deleted-check": Case({"break_even": WRONG["break_even"]}, {"break_even": "wrong"}, {"deleted_check"},
                             edit("delete", "break_even-check")),
    "06-duplicated-cell": Case(flags={"duplicate_cell"}, make=edit("copy", "break_even")),
    "06-split-cell": Case(flags={"duplicate_cell"}, make=split),
    "07-metadata-stripped": Case(flags={"matched_by_content"}, make=edit("strip_metadata")),
    "07-not-to-be-matched": Case(flags={"matched_by_content", "missing_cell"}, make=renamed,
                                 expected={"break_even": "malformed"}),
    "07-nothing-of-the-lab": Case(make=no_lab, malformed="another notebook"),
    "08-cell-type-changed": Case(flags={"cell_type_changed"}, make=as_text),
    "09-points-raised": Case(flags={"metadata_changed"}, make=more_points),
    "10-nbval-markers": Case({}, {"break_even": "wrong", "decode_float": "error"}, {"nbval_marker"}, marked),
    "11-showtraceback-replaced": Case(
        {"decode_float": SILENT + instead("decode_float", "raise ValueError"), "cost_of_call": WRONG["cost_of_call"]},
        {"decode_float": "error", "cost_of_call": "wrong"}, PATCHES, quick=True),
    "12-checks-emptied": Case({"decode_float": EMPTIED}, dict.fromkeys(POINTS, "error"), PATCHES, quick=True),
    "13-idle-faked": Case({"cost_of_call": FAKE_IDLE, "decode_float": WRONG["decode_float"]},
                          {"cost_of_call": "error", "decode_float": "wrong"}, PATCHES, quick=True),
    "13-results-forged": Case({**WRONG, "decode_float": WRONG["decode_float"] + FORGED}, dict.fromkeys(POINTS, "wrong"),
                              PATCHES | {"forged_display", "check_without_probe"}, quick=True),
    "14-equal-to-everything": Case({"decode_float": EQUAL}, {"decode_float": "wrong"}),
    "15-comparison-patched": Case({**WRONG, "decode_float": WRONG["decode_float"] + PATCHED}, dict.fromkeys(POINTS, "wrong"),
                                  PATCHES | {"check_without_probe"}, quick=True),
    "16-borrowed": Case(BORROWED, {"decode_float": "wrong", "cost_of_call": "error", "break_even": "not_attempted"},
                        {"withheld_import", "solution_used"},
                        said={"decode_float": "ftlab.measure.formats.decode_float"}, quick=True),
    "17-sys-exit": Case(costs("import sys; sys.exit()"), {"cost_of_call": "error"}, said={"cost_of_call": "exit()"}),
    "17-sys-exit-at-the-top": Case({"cost_of_call": "import sys\nsys.exit()\n" + RIGHT["cost_of_call"]},
                                   {"cost_of_call": "error"}, said={"cost_of_call": "called exit()"}),
    # A death that is not seen at once would be a timeout.
    "18-os-exit": Case(costs("import os; os._exit(0)"), DIED, quick=True),
    "18-segmentation-fault": Case(costs("import ctypes; ctypes.string_at(0)"), DIED),
    "19-endless-loop": Case(costs("while True: pass"), {"cost_of_call": "timeout"}, quick=True),
    "20-interrupts-ignored": Case(
        costs("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)", "while True: pass"),
        {"cost_of_call": "timeout", "break_even": "partial"}, quick=True),
    "21-memory-bomb": Case(costs(*MEMORY_BOMB), {"cost_of_call": "oom", "break_even": "not_run"},
                           said={"cost_of_call": "memory"}, quick=True),
    # What comes after depends on whether the kernel heeds the interrupt: its check did not run, or did.
    "22-fork-bomb": Case(costs(*FORK_BOMB), {"cost_of_call": "timeout", "break_even": ("partial", "full")}),
    # A kernel keeps what its reader has not taken yet: that may be more than the memory that it has.
    "23-gigabyte-of-output": Case({"cost_of_call": RIGHT["cost_of_call"] + "for _ in range(10_000): print('x' * 100_000)\n"},
                                  {"cost_of_call": ("oom", "full"), "break_even": ("not_run", "full")}),
    "24-threads": Case({"cost_of_call": RIGHT["cost_of_call"] + THREADS}),
    "24-processes": Case({"cost_of_call": RIGHT["cost_of_call"] + PROCESSES}, quick=True),
    "25-network": Case({}, {"cost_of_call": "error"}, make=call_home, said={"cost_of_call": "Connection"}, quick=True),
    "25-network-at-the-top": Case(make=call_home_at_the_top),
    "26-reading-others": Case({}, {"cost_of_call": "error"}, make=read_others, said={"cost_of_call": "not there"}, quick=True),
    "27-writing-results": Case({"break_even": WRONG["break_even"] + WRITES}, {"break_even": "wrong"}),
    "28-pickle": Case({}, {"break_even": "wrong"}, make=pickled),
    "29-disk-filled": Case({"cost_of_call": RIGHT["cost_of_call"] + FILL}),
    "29-links-out": Case(make=links_out),
    "29-is-a-link": Case(make=is_a_link, malformed="a link", quick=True),
    "30-script": Case(costs("print('<script>alert(1)</script>')", "raise ValueError('<script>alert(2)</script>')"),
                      {"cost_of_call": "error"}, said={"cost_of_call": "<script>alert(2)</script>"}, quick=True),
    "31-corrupt-json": Case(make=instead_of_it(f"{LAB}.ipynb", b'{"cells": ['), malformed="JSON", quick=True),
    "31-half-a-gigabyte": Case(make=half_a_gigabyte, malformed="500 MB", quick=True),
    "31-wrong-name": Case(make=instead_of_it("homework.ipynb", b'{"nbformat": 4, "cells": []}'), malformed="names no lab",
                          quick=True),
    "31-zip-bomb": Case(make=zip_bomb, malformed="MB"),
    "32-noise": Case({"break_even": RIGHT["break_even"] + NOISE}),
    "33-input": Case(costs("prompt_tokens = input()"), {"cost_of_call": "error"}, said={"cost_of_call": "input"}),
    "34-pip": Case({"cost_of_call": "!pip install nothing-of-this-name\nimport nothing_of_this_name\n" + RIGHT["cost_of_call"]},
                   {"cost_of_call": "error"}, said={"cost_of_call": "pip installs nothing here"}),
    "35-bad-magic": Case({"cost_of_call": "%%nosuchmagic\n" + RIGHT["cost_of_call"]}, {"cost_of_call": "error"},
                         said={"cost_of_call": "nosuchmagic"}),
}  # fmt: skip
