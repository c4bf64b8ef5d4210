"""The plugin by itself: how results are compared, what it writes, and the command line that the documentation names."""

import math
import os
import subprocess
import sys
import types
import xml.etree.ElementTree

import nbformat
import pytest
from grade.answers import RIGHT, WRONG
from grade.submissions import Notebook
from grade.test_one import SECRET

from ftlab.course import catalogue
from ftlab.course.notebooks import notebook_text
from ftlab.files import read_json
from ftlab.grade import nbval_plugin, one, rebuild
from ftlab.teach.display import PROBE_MIME

WANT = {"id": "gae", "seed": 7, "value": [1.0, 2, True, "a", None, {"x": [0.5]}]}


def shown(*records, mime=PROBE_MIME):
    return [{"output_type": "display_data", "data": {mime: record}} for record in records]


def compared(outputs, want=WANT):
    """(whether the outputs are as wanted, the line that says why not)."""
    ours = types.SimpleNamespace(id="gae", get={"seed": 7}.get)
    cell = types.SimpleNamespace(cell=types.SimpleNamespace(metadata=types.SimpleNamespace(ftlab=ours)))
    return nbval_plugin.GradedCell.compare_outputs(cell, outputs, shown(want)), "".join(cell.comparison_traceback)


def with_value(*value):
    return shown(WANT | {"value": list(value)})


def test_the_same_result_passes_and_so_does_one_within_the_tolerance():
    assert compared(shown(WANT)) == (True, "")
    assert compared(with_value(1.0004, 2, True, "a", None, {"x": [0.5]}))[0]
    assert compared([nbformat.v4.new_output("stream", text="noise"), *shown(WANT)])[0]


def deep(levels):
    value = 1.0
    for _ in range(levels):
        value = [value]
    return value


REFUSED = {
    "none shown": [],
    "two shown": shown(WANT, WANT),
    "another's": shown(WANT | {"id": "loss"}),
    "another seed": shown(WANT | {"seed": 8}),
    "a seed that equals": shown(WANT | {"seed": 7.0}),
    "a key more": shown(WANT | {"more": 1}),
    "no record": shown([1]),
    "beyond the tolerance": with_value(1.01, 2, True, "a", None, {"x": [0.5]}),
    "one for True": with_value(1.0, 2, 1, "a", None, {"x": [0.5]}),
    "True for one": with_value(True, 2, True, "a", None, {"x": [0.5]}),
    "a float for an int": with_value(1.0, 2.0, True, "a", None, {"x": [0.5]}),
    "text for a number": with_value("1.0", 2, True, "a", None, {"x": [0.5]}),
    "NaN": with_value(math.nan, 2, True, "a", None, {"x": [0.5]}),
    "NaN as text": with_value("nan", 2, True, "a", None, {"x": [0.5]}),
    "infinity": with_value(math.inf, 2, True, "a", None, {"x": [0.5]}),
    "a key missing": with_value(1.0, 2, True, "a", None, {}),
    "too deep": with_value(1.0, 2, True, "a", None, {"x": deep(3000)}),
    "only text": [nbformat.v4.new_output("stream", text="probe gae: [1.0, 2]")],
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_every_other_result_is_refused_with_a_reason(name):
    same, reason = compared(REFUSED[name])
    assert not same and reason


def test_a_result_nested_as_deep_as_ours_but_too_deep_to_compare_does_not_stop_the_session():
    want = WANT | {"value": deep(5000)}
    assert compared(shown(want), want)[0] is False


def check(**changes):
    return {"id": "gae", "status": "mistake", "mistake": "sign", "message": "You swapped."} | changes


def test_a_check_is_believed_only_in_its_own_form():
    found = nbval_plugin._checked("gae", [check()])
    assert (found.status, found.mistake, found.message) == ("mistake", "sign", "You swapped.")
    odd = ([], [check(), check()], [check(id="loss")], [check(status="full")], [check(status=["right"])], ["right"], [None])
    for shown_ in odd:
        assert nbval_plugin._checked("gae", shown_).status == "error"
    found = nbval_plugin._checked("gae", [check(message=["x"], mistake=3)])
    assert (found.mistake, found.message) == (None, "")
    assert len(nbval_plugin._checked("gae", [check(message="x" * 10**6)]).message) == 4000


@pytest.mark.parametrize("visible, hidden, points", [
    ("right", "right", 4.0), ("wrong", "right", 3.0), ("not_run", "right", 3.0), ("right", "wrong", 0.0),
    ("right", "error", 0.0), ("wrong", "wrong", 0.0), ("right", "not_run", 0.0),
])  # fmt: skip
def test_points_hang_on_the_hidden_tier(visible, hidden, points):
    assert nbval_plugin.points_of(visible, hidden, 4.0) == points


@pytest.fixture(scope="module")
def folder(quick_lab, walls, tmp_path_factory):
    """A folder with a submission's two notebooks, one answer of three wrong."""
    path = tmp_path_factory.mktemp("one")
    Notebook(quick_lab, RIGHT | {"break_even": WRONG["break_even"]}).save(path / "x.ipynb")
    staged = rebuild.staged(path / "x.ipynb", quick_lab, SECRET, one.reference(quick_lab, SECRET, walls))
    one._name_kernels(staged, quick_lab, SECRET, walls, one.own_packages(quick_lab))
    for tier in ("visible", "hidden"):
        (path / f"{tier}.ipynb").write_text(notebook_text(getattr(staged, tier)))
    return path


def test_one_submission_by_hand_gives_points_in_junit_and_in_json(folder):
    command = [sys.executable, "-m", "pytest", "-p", "ftlab.grade.nbval_plugin", "--nbval", "visible.ipynb", "hidden.ipynb",
               "--junitxml=junit.xml", "--ftlab-result=result.json"]  # fmt: skip
    places = [os.environ.get("PYTHONPATH", ""), str(catalogue.ROOT)]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(place for place in places if place))
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "cost_of_call: 3 of 3 points" in done.stdout and "break_even: 0 of 3 points" in done.stdout
    earned = {row["exercise"]: row["points"] for row in read_json(folder / "result.json")["exercises"]}
    assert earned == {"decode_float": 5.0, "cost_of_call": 3.0, "break_even": 0.0}
    cases = list(xml.etree.ElementTree.parse(folder / "junit.xml").iter("testcase"))
    assert {"check break_even", "probe break_even"} <= {case.get("name") for case in cases}  # cells go by what they are
    properties = [{item.get("name"): item.get("value") for item in case.iter("property")} for case in cases]
    assert {row["exercise"]: float(row["points"]) for row in properties if row} == earned


@pytest.mark.full
def test_a_gigabyte_of_output_leaves_our_memory_as_it_was(quick_lab, walls, tmp_path):
    def peak(code):
        path = Notebook(quick_lab, RIGHT | {"cost_of_call": RIGHT["cost_of_call"] + code}).save(tmp_path / "x.ipynb")
        staged = rebuild.staged(path, quick_lab, SECRET, one.reference(quick_lab, SECRET, walls))
        one._name_kernels(staged, quick_lab, SECRET, walls, one.own_packages(quick_lab))
        return one._run({"visible": staged.visible, "hidden": staged.hidden}, walls)

    quiet = peak("")
    for code in ("for _ in range(1000): print('x' * 1_000_000)", "print('x' * 1_000_000_000)",
                 "for _ in range(300): display('x' * 3_000_000)"):  # fmt: skip
        loud = peak("\n" + code)
        assert loud["peak_rss_mib"] < quiet["peak_rss_mib"] + 150, code
        assert loud["tiers"]["visible"]["decode_float"]["status"] == "right"
