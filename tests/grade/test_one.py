"""Submissions, honest and hostile, graded as they are in a class: two kernels, nbval, points. The sandbox has its own tests."""

import dataclasses
import json
import time

import pytest
from grade.submissions import Notebook

from ftlab.course import catalogue
from ftlab.errors import NotHeld
from ftlab.grade import one, rebuild

SECRET = "the instructor's"
POINTS = {"decode_float": 5.0, "cost_of_call": 3.0, "break_even": 3.0}

# Right answers, written as somebody else would.
RIGHT = {
    "decode_float": """
def decode_float(bits, exponent_bits, mantissa_bits):
    negative, exponent, mantissa = bits[0] == "1", bits[1:exponent_bits + 1], bits[exponent_bits + 1:]
    fraction = sum(int(bit) * 2.0 ** -place for place, bit in enumerate(mantissa, start=1))
    bias = 2 ** (exponent_bits - 1) - 1
    if "0" not in exponent:
        value = float("nan") if "1" in mantissa else float("inf")
    elif "1" in exponent:
        value = (1 + fraction) * 2.0 ** (int(exponent, 2) - bias)
    else:
        value = fraction * 2.0 ** (1 - bias)
    return -value if negative else value
""",
    "cost_of_call": """
def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):
    counts = {"cached": cached_tokens, "read": prompt_tokens - cached_tokens, "written": new_tokens}
    return sum(counts[kind] * prices[kind] / 1_000_000 for kind in counts)
""",
    "break_even": """
def break_even(upfront, cost_before, cost_after):
    saving = cost_before - cost_after
    return None if saving <= 0 else -int(-upfront // saving)
""",
}
WRONG = {
    "decode_float": "def decode_float(bits, exponent_bits, mantissa_bits):\n    return 1.0\n",
    "cost_of_call": "def cost_of_call(prompt_tokens, new_tokens, prices, cached_tokens=0):\n    return 1.0\n",
    "break_even": "def break_even(upfront, cost_before, cost_after):\n    return 1\n",
}
NOISE = """
import sys
import warnings
warnings.warn("an old torch")
for step in range(50):
    print(f"\\r{step} of 50", end="", file=sys.stderr)
print("<script>alert(1)</script>")
!{sys.executable} -m pip install --no-index nothing-of-this-name
"""
FITTED = """
def decode_float(bits, exponent_bits, mantissa_bits):
    return known.decode_float(bits, exponent_bits, mantissa_bits)
"""
PICKLE = """
import pickle
class Bomb:
    def __reduce__(self):
        return (eval, ("1 / 0",))
def break_even(upfront, cost_before, cost_after):
    return pickle.dumps(Bomb())
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


def instead(id, line):
    """The function of exercise `id` with `line` as its first one."""
    head, rest = RIGHT[id].split(":\n", 1)
    return f"{head}:\n    {line}\n{rest}"


ONLY_HIDDEN = instead("cost_of_call", 'assert "FTLAB_PROBE_SEED" in __import__("os").environ')
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
LOUD = "for _ in range(60):\n    print('x' * 1_000_000)\n"

# name: (code by exercise, expected status by exercise, kinds of flags that must be raised). Not named: the right answer, full.
CASES = {
    "honest, with warnings, a progress bar and pip": ({"break_even": RIGHT["break_even"] + NOISE}, {}, set()),
    "untouched": (dict.fromkeys(POINTS), dict.fromkeys(POINTS, "not_attempted"), set()),
    "cells that do not run": (
        {"decode_float": "def decode_float(:\n    pass", "cost_of_call": "%%nosuchmagic\n" + RIGHT["cost_of_call"]},
        {"decode_float": "error", "cost_of_call": "error"}, set()),
    "functions that stop": (
        {"decode_float": EQUAL, "cost_of_call": instead("cost_of_call", "import sys; sys.exit()"),
         "break_even": instead("break_even", "upfront = input()")},
        {"decode_float": "wrong", "cost_of_call": "error", "break_even": "error"}, set()),
    "fitted to the check": (
        {"decode_float": FITTED, "cost_of_call": ONLY_HIDDEN, "break_even": PICKLE},
        {"decode_float": "error", "cost_of_call": "partial", "break_even": "wrong"}, {"check_without_probe"}),
    "an endless loop": ({"cost_of_call": instead("cost_of_call", "while True: pass")}, {"cost_of_call": "timeout"}, set()),
    "an endless loop at the cell's top": (
        {"cost_of_call": RIGHT["cost_of_call"] + "while True: pass"}, {}, set()),
    "interrupts ignored": (
        {"cost_of_call": instead("cost_of_call", "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
                                 "    while True: pass")},
        {"cost_of_call": "timeout", "break_even": "partial"}, set()),
    "os._exit": ({"cost_of_call": instead("cost_of_call", "import os; os._exit(0)")},
                 {"cost_of_call": "kernel_died", "break_even": "not_run"}, set()),
    "a segmentation fault": ({"cost_of_call": instead("cost_of_call", "import ctypes; ctypes.string_at(0)")},
                             {"cost_of_call": "kernel_died", "break_even": "not_run"}, set()),
    "errors made silent": (
        {"decode_float": SILENT + instead("decode_float", "raise ValueError"), "cost_of_call": WRONG["cost_of_call"]},
        {"decode_float": "error", "cost_of_call": "wrong"}, {"patches_machinery"}),
    "checks emptied": ({"decode_float": EMPTIED}, dict.fromkeys(POINTS, "error"), {"patches_machinery"}),
    "idle faked": ({"cost_of_call": FAKE_IDLE, "decode_float": WRONG["decode_float"]},
                   {"cost_of_call": "error", "decode_float": "wrong"}, {"patches_machinery"}),
    "results forged": ({**WRONG, "decode_float": WRONG["decode_float"] + FORGED}, dict.fromkeys(POINTS, "wrong"),
                       {"patches_machinery", "forged_display", "check_without_probe"}),
    "comparison patched": ({**WRONG, "decode_float": WRONG["decode_float"] + PATCHED}, dict.fromkeys(POINTS, "wrong"),
                           {"patches_machinery", "check_without_probe"}),
    "borrowed from the package": (
        BORROWED, {"decode_float": "wrong", "cost_of_call": "error", "break_even": "not_attempted"},
        {"withheld_import", "solution_used"}),
    "odd results": (
        {"decode_float": "def decode_float(*arguments):\n    value = 1.0\n    for _ in range(900):\n        value = [value]\n"
                         "    return value\n",
         "cost_of_call": instead("cost_of_call", "return '<script>alert(1)</script>'"),
         "break_even": instead("break_even", "raise ValueError(chr(0xD800) + chr(0))")},
        {"decode_float": "wrong", "cost_of_call": "wrong", "break_even": "error"}, set()),
    "files written, much said": (
        {"break_even": WRONG["break_even"] + WRITES, "cost_of_call": RIGHT["cost_of_call"] + LOUD},
        {"break_even": "wrong"}, set()),
}  # fmt: skip


@pytest.fixture(scope="module")
def graded(quick_lab, walls, tmp_path_factory):
    """Grades the notebook with `code` in its exercises; the result dict, kept by name."""
    results = {}

    def grade(name, code):
        if name not in results:
            notebook = Notebook(quick_lab, {id: text for id, text in (RIGHT | code).items() if text})
            path = notebook.save(tmp_path_factory.mktemp("submission") / f"{quick_lab}.ipynb")
            results[name] = one.grade_one(path, "ada", quick_lab, SECRET, walls)
        return results[name]

    return grade


SLOW = ("files written, much said", "an endless loop at the cell's top")  # their kin are quick


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.full) if n in SLOW else n for n in CASES])
def test_each_submission_gets_what_it_earns(name, graded):
    code, expected, flags = CASES[name]
    result = graded(name, code)
    rows = {row["exercise"]: row for row in result["exercises"]}
    statuses = {id: row["status"] for id, row in rows.items()}
    assert statuses == dict.fromkeys(POINTS, "full") | expected, json.dumps(result, indent=1)
    worth = {"full": 1.0, "partial": 0.75}
    assert {id: row["points"] for id, row in rows.items()} == {
        id: worth.get(row["status"], 0.0) * POINTS[id] for id, row in rows.items()}  # fmt: skip
    assert (result["points"], result["max_points"]) == (sum(row["points"] for row in rows.values()), 11.0)
    kinds = {flag["kind"] for flag in result["flags"]}
    assert kinds >= flags and (flags or kinds == set()), result["flags"]
    json.dumps(result, allow_nan=False)


def test_messages_help_and_give_no_hidden_input_away(graded):
    for name in [name for name in CASES if name not in SLOW]:
        for row in graded(name, CASES[name][0])["exercises"]:
            assert row["status"] == "full" or row["message"], (name, row)
            if row["hidden"]["status"] == "wrong" and row["visible"]["status"] == "right":
                assert row["message"] == one.OTHER_INPUTS
    rows = {row["exercise"]: row for row in graded("cells that do not run", {})["exercises"]}
    assert "SyntaxError" in rows["decode_float"]["message"]
    rows = {row["exercise"]: row for row in graded("borrowed from the package", {})["exercises"]}
    assert "ftlab.measure.formats.decode_float" in rows["decode_float"]["message"]
    rows = {row["exercise"]: row for row in graded("functions that stop", {})["exercises"]}
    assert "exit()" in rows["cost_of_call"]["message"]


def test_a_memory_bomb_is_told_as_such(quick_lab, walls, tmp_path):
    if not getattr(walls, "mode", None) or walls.mode == "unsafe":
        pytest.skip("no sandbox here: memory is not bounded")
    bomb = instead("cost_of_call", "hoard = []\n    while True: hoard.append(bytearray(64 << 20))")
    path = Notebook(quick_lab, RIGHT | {"cost_of_call": bomb}).save(tmp_path / "x.ipynb")
    rows = {row["exercise"]: row for row in one.grade_one(path, "ada", quick_lab, SECRET, walls)["exercises"]}
    assert (rows["decode_float"]["status"], rows["cost_of_call"]["status"]) == ("full", "oom")
    assert rows["break_even"]["status"] == "not_run" and "memory" in rows["cost_of_call"]["message"]


def test_the_death_of_a_kernel_is_seen_within_three_seconds(graded, quick_lab, walls):
    dead, honest = (graded(name, CASES[name][0])["seconds"] for name in ("os._exit", "untouched"))
    assert dead < honest + 2 * 3


def test_a_mistake_is_named(quick_lab, walls, tmp_path):
    from labs.test_labs import wrong_answers

    name, code = next(iter(wrong_answers(quick_lab)["break_even"].items()))
    path = Notebook(quick_lab, RIGHT | {"break_even": code}).save(tmp_path / "x.ipynb")
    row = one.grade_one(path, "ada", quick_lab, SECRET, walls)["exercises"][-1]
    assert (row["visible"]["mistake"], row["status"]) == (name, "wrong")
    assert catalogue.exercises(quick_lab)["break_even"].mistakes[name] in row["message"]


def test_what_is_no_notebook_is_malformed_and_has_a_row_for_each_exercise(quick_lab, walls, tmp_path):
    (tmp_path / "x.ipynb").write_text("{")
    result = one.grade_one(tmp_path / "x.ipynb", "ada", quick_lab, SECRET, walls)
    assert result["status"] == "malformed" and "JSON" in result["message"]
    assert [row["status"] for row in result["exercises"]] == ["malformed"] * 3 and result["max_points"] == 11.0


def test_a_setup_that_fails_is_no_student_s_fault(quick_lab, walls, tmp_path, monkeypatch):
    reference = one.reference(quick_lab, SECRET, walls)
    path = Notebook(quick_lab, RIGHT).save(tmp_path / "x.ipynb")
    cells = [dataclasses.replace(cell, source="import nothing_of_this_name") if cell.kind == "setup" else cell
             for cell in rebuild.read_lab(quick_lab)]  # fmt: skip
    monkeypatch.setattr(rebuild, "read_lab", lambda lab: cells)
    with pytest.raises(NotHeld, match="nothing_of_this_name"):
        one.grade_one(path, "ada", quick_lab, SECRET, walls, reference)


def test_the_reference_follows_the_secret(quick_lab, walls):
    began = time.monotonic()
    first, again, other = (one.reference(quick_lab, secret, walls) for secret in ("a", "a", "b"))
    assert first == again and first != other
    assert time.monotonic() - began < 60
