"""One submission graded: two kernels, nbval, points, messages. Hostile ones are in test_thirty_six.py and test_hostile.py."""

import dataclasses
import json

import pytest
from grade.answers import POINTS, RIGHT, instead
from grade.submissions import Notebook

from ftlab.course import catalogue
from ftlab.errors import NotHeld
from ftlab.grade import one, rebuild

SECRET = "the instructor's"

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
ONLY_HIDDEN = instead("cost_of_call", 'assert "FTLAB_PROBE_SEED" in __import__("os").environ')

# name: (code by exercise, expected status by exercise, kinds of flags that must be raised). Not named: the right answer, full.
CASES = {
    "cells that do not run": (
        {"decode_float": "def decode_float(:\n    pass", "cost_of_call": "%%nosuchmagic\n" + RIGHT["cost_of_call"]},
        {"decode_float": "error", "cost_of_call": "error"}, set()),
    "fitted to the check": (
        {"decode_float": FITTED, "cost_of_call": ONLY_HIDDEN, "break_even": PICKLE},
        {"decode_float": "error", "cost_of_call": "partial", "break_even": "wrong"}, {"check_without_probe"}),
    "an endless loop at the cell's top": ({"cost_of_call": RIGHT["cost_of_call"] + "while True: pass"}, {}, set()),
    "odd results": (
        {"decode_float": "def decode_float(*arguments):\n    value = 1.0\n    for _ in range(900):\n        value = [value]\n"
                         "    return value\n",
         "cost_of_call": instead("cost_of_call", "return '<script>alert(1)</script>'"),
         "break_even": instead("break_even", "raise ValueError(chr(0xD800) + chr(0))")},
        {"decode_float": "wrong", "cost_of_call": "wrong", "break_even": "error"}, set()),
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


SLOW = ("an endless loop at the cell's top",)  # a loop in a function is quick


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
    first, again, other = (one.reference(quick_lab, secret, walls) for secret in ("a", "a", "b"))
    assert first == again and first != other


def test_a_reference_that_another_process_found_does_the_same(quick_lab, walls, tmp_path, monkeypatch):
    secret = "one of this test's own"
    assert one.records(quick_lab, secret) is None
    first = one.own_reference(quick_lab, secret, walls, one.own_packages(quick_lab)["hidden"][quick_lab])
    known = one.records(quick_lab, secret)
    monkeypatch.setitem(one._OWN, "references", {})
    for damaged in ([], {}, {"break_even": 1}, "x"):
        one.take_records(quick_lab, secret, damaged)
        assert one.records(quick_lab, secret) is None
    one.take_records(quick_lab, secret, json.loads(json.dumps(known)))
    monkeypatch.setattr(one, "reference", None)
    again = one.own_reference(quick_lab, secret, walls, None)
    assert [cell.outputs for cell in again.cells] == [cell.outputs for cell in first.cells]
    result = one.grade_one(Notebook(quick_lab, RIGHT).save(tmp_path / "x.ipynb"), "ada", quick_lab, secret, walls)
    assert result["points"] == result["max_points"] and result["walls"] == walls.mode
