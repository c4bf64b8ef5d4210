"""What becomes of a submission before anything runs: which cell counts, what is put back, what is flagged."""

import json

import nbformat
import pytest
from grade.submissions import Notebook, solutions

from ftlab.course import catalogue
from ftlab.course.notebooks import notebook_text
from ftlab.course.source import read_lab, stub_of
from ftlab.grade import rebuild, similarity

LAB = "00_lifecycle"
OURS = solutions(LAB)


@pytest.fixture
def correct():
    return Notebook(LAB, OURS)


def staged(notebook, tmp_path):
    return rebuild.staged(notebook.save(tmp_path / "x.ipynb"), LAB, "secret")


def sources(notebook):
    return {cell["id"]: cell.source for cell in notebook.cells}


def kinds(result):
    return {(flag["kind"], flag["exercise"]) for flag in result.flags}


def test_the_two_notebooks_hold_what_they_should(correct, tmp_path):
    result = staged(correct, tmp_path)
    assert result.problem is None and result.flags == [] and result.notes == {}
    for tier, kind in (("visible", "check"), ("hidden", "probe")):
        notebook = getattr(result, tier)
        nbformat.validate(notebook)
        assert {cell.metadata.ftlab.kind for cell in notebook.cells} == {"setup", "exercise", kind}
        assert [cell.metadata.ftlab.id for cell in notebook.cells if cell.metadata.ftlab.kind == kind] == list(OURS)
        assert all(OURS[id] in sources(notebook)[id] for id in OURS)
    assert "lab.probe" not in "".join(sources(result.visible).values())
    seeds = [cell.metadata.ftlab.seed for cell in result.hidden.cells if cell.metadata.ftlab.kind == "probe"]
    assert len(set(seeds)) == 3 and seeds != [
        cell.metadata.ftlab.seed for cell in rebuild.hidden_notebook(LAB, secret="other").cells if "seed" in cell.metadata.ftlab
    ]


def test_an_untouched_notebook_attempts_nothing(tmp_path):
    result = staged(Notebook(LAB), tmp_path)
    assert not any(result.attempted.values()) and result.flags == []


def edited_check(notebook):
    notebook.write("break_even-check", "print('right')")


def markdown_check(notebook):
    notebook.cell("break_even-check")["cell_type"] = "markdown"


def deleted_check(notebook):
    notebook.delete("break_even-check")


def more_points(notebook):
    notebook.cell("break_even-check")["metadata"]["nbgrader"]["points"] = 300
    notebook.cell("break_even")["metadata"]["ftlab"]["points"] = 300


def tagged(notebook):
    notebook.cell("break_even")["metadata"]["tags"] = ["nbval-skip"]


def as_text(notebook):
    notebook.cell("break_even")["cell_type"] = "markdown"
    notebook.cell("break_even").pop("outputs")


def duplicated(notebook):
    notebook.copy("break_even")


def stub_below(notebook):
    notebook.copy("break_even", Notebook(LAB).source("break_even"))


def setup_edited(notebook):
    notebook.cells[notebook.index("break_even") - 1]["source"] = "anything"


def stripped(notebook):
    notebook.strip_metadata()


EDITS = {  # a student's edit of a correct notebook: the flags that it must raise; none of them changes what runs
    edited_check: {("edited_check", "break_even")},
    markdown_check: {("edited_check", "break_even")},
    deleted_check: {("deleted_check", "break_even")},
    more_points: {("metadata_changed", "break_even")},
    tagged: {("nbval_marker", "break_even")},
    as_text: {("cell_type_changed", "break_even")},
    duplicated: {("duplicate_cell", "break_even")},
    stub_below: {("duplicate_cell", "break_even")},
    setup_edited: set(),
    stripped: {("matched_by_content", None)},
}


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_around_the_solutions_is_flagged_and_changes_nothing(edit, correct, tmp_path):
    want = staged(correct, tmp_path)
    edit(correct)
    result = staged(correct, tmp_path)
    assert kinds(result) == EDITS[edit]
    assert (result.visible, result.hidden) == (want.visible, want.hidden)
    assert all(result.attempted.values())


def without_ids(notebook):
    """As Colab saves: no ids, metadata of its own."""
    for cell in notebook.cells:
        cell.pop("id")
        cell["metadata"] = {"id": "x"}
    notebook.raw["nbformat_minor"] = 0
    return notebook


def test_an_editor_that_drops_ids_is_one_note(correct, tmp_path):
    result = staged(without_ids(correct), tmp_path)
    assert [(flag["kind"], flag["exercise"]) for flag in result.flags] == [("matched_by_content", None)]
    assert "saved without ids by its editor" in result.flags[0]["message"] and all(result.attempted.values())


def test_ids_lost_of_some_cells_are_one_note_with_their_names(correct, tmp_path):
    for name in ("break_even", "cost_of_call", "cost_of_call-check"):
        correct.cell(name)["metadata"] = {}
        correct.cell(name)["id"] = f"pasted-{name}"
    [flag] = staged(correct, tmp_path).flags
    assert (flag["kind"], flag["exercise"]) == ("matched_by_content", None)
    assert all(flag["message"].count(name) == 1 for name in ("break_even", "cost_of_call"))


def test_a_check_without_its_id_is_found_edited_or_deleted_by_what_it_holds(correct, tmp_path):
    correct.cell("break_even-check")["source"] = ["lab.check(\n", "    'break_even',\n", "    break_even,  # mine\n", ")"]
    correct.cell("cost_of_call-check")["source"] = ["lab.check('cost_of_call', lambda *given: 1)"]
    correct.delete("decode_float-check")
    result = staged(without_ids(correct), tmp_path)
    assert kinds(result) == {("matched_by_content", None), ("edited_check", "cost_of_call"), ("deleted_check", "decode_float")}


def test_a_check_that_an_editor_laid_out_anew_is_not_flagged_and_one_with_more_in_it_is(correct, tmp_path):
    correct.cell("break_even-check")["source"] = ["lab.check('break_even',\n", "          break_even)"]
    assert staged(correct, tmp_path).flags == []
    correct.cell("break_even-check")["source"] += ["\n", "print(1)"]
    assert kinds(staged(correct, tmp_path)) == {("edited_check", "break_even")}


def test_metadata_that_an_editor_dropped_is_no_change(correct, tmp_path):
    for key in ("points", "locked"):
        correct.cell("break_even-check")["metadata"]["nbgrader"].pop(key)
    assert staged(correct, tmp_path).flags == []


def test_conflict_markers_in_a_cell_are_named_and_the_others_go_on(correct, tmp_path):
    merged = f"<<<<<<< HEAD\n{OURS['break_even']}\n=======\npass\n>>>>>>> origin/main\n"
    result = staged(correct.write("break_even", merged), tmp_path)
    assert kinds(result) == {("conflict_markers", "break_even")} and "conflict markers" in result.notes["break_even"]
    correct = Notebook(LAB, OURS)
    for mark in (">>>>>>> remote", "=======", "<<<<<<< local"):  # as nbdime leaves them, in cells of their own
        correct.add("break_even", f"{mark}\n")
    assert kinds(staged(correct, tmp_path)) == {("conflict_markers", None)}


def test_a_split_cell_is_put_together(correct, tmp_path):
    lines = OURS["break_even"].split("\n")
    correct.write("break_even", "import math as m\nfactor = 1")
    correct.add("break_even", "\n".join(lines))
    result = staged(correct, tmp_path)
    assert result.codes["break_even"].endswith(OURS["break_even"]) and ("duplicate_cell", "break_even") in kinds(result)
    again = Notebook(LAB, OURS).write("break_even", "factor = 1").copy("break_even", OURS["break_even"] + "\n# factor")
    assert staged(again, tmp_path).codes["break_even"].endswith("# factor")


@pytest.mark.parametrize("above", ["import math as m\nfactor = 1", "from math import floor as m", "def m():\n    pass"])
def test_the_part_of_a_split_cell_that_the_rest_reads_comes_with_it(above, tmp_path):
    rest = OURS["break_even"] + "\nprint(m)"
    split = Notebook(LAB, OURS).write("break_even", above).copy("break_even", "unread = 1", id="b").copy("b", rest, id="c")
    found = staged(split, tmp_path).codes["break_even"]
    assert found.endswith(rest) and above in found and "unread" not in found


def test_the_last_whole_cell_of_several_counts(correct, tmp_path):
    correct.copy("break_even", OURS["break_even"] + "\n# second").copy("break_even", "print('a trial')", id="third")
    assert staged(correct, tmp_path).codes["break_even"].endswith("# second")


def test_a_solution_in_a_cell_below_the_untouched_gap_is_found(correct, tmp_path):
    untouched = Notebook(LAB, {id: code for id, code in OURS.items() if id != "break_even"})
    untouched.add("break_even", OURS["break_even"])
    result = staged(untouched, tmp_path)
    assert result.codes["break_even"] == OURS["break_even"] and result.attempted["break_even"]
    assert ("matched_by_content", "break_even") in kinds(result)


def test_a_deleted_exercise_is_told_and_the_others_go_on(correct, tmp_path):
    result = staged(correct.delete("break_even"), tmp_path)
    assert result.codes["break_even"] == "" and "not in your notebook" in result.notes["break_even"]
    stub = next(stub_of(cell) for cell in read_lab(LAB) if (cell.kind, cell.id) == ("exercise", "break_even"))
    assert sources(result.visible)["break_even"] == stub
    assert result.attempted == {"decode_float": True, "cost_of_call": True, "break_even": False}


def test_another_notebook_is_for_review(tmp_path):
    other = Notebook("09_shootout", solutions("09_shootout"))
    assert "another notebook" in staged(other, tmp_path).problem


def test_markers_become_plain_comments_and_lines_stay(correct, tmp_path):
    code = "# NBVAL_SKIP\ntext = '''\n# NBVAL_SKIP\n'''\n" + OURS["break_even"] + "  # fine\n#PYTEST_VALIDATE_IGNORE_OUTPUT"
    correct.write("break_even", code)
    result = staged(correct, tmp_path)
    source = sources(result.hidden)["break_even"]
    from nbval.plugin import find_comment_markers

    assert len(source.split("\n")) == len(code.split("\n")) + 1
    assert source.count("# NBVAL_SKIP") == 1 and "'''\n# NBVAL_SKIP\n'''" in source  # a string is not changed
    assert len(list(find_comment_markers(source))) == 1  # the one in the string: our plugin looks at none
    assert ("nbval_marker", "break_even") in kinds(result)


def test_our_solution_taken_is_zero_points_and_the_rest_goes_on(tmp_path):
    gave_up = Notebook(LAB, {"decode_float": OURS["decode_float"]})
    gave_up.add("cost_of_call", 'lab.use_solution("cost_of_call")')
    gave_up.write("break_even", 'lab.use_solution("break_even")')
    result = staged(gave_up, tmp_path)
    assert result.solutions == {"cost_of_call", "break_even"}
    assert "raise NotImplementedError" not in sources(result.visible)["cost_of_call"]


def test_what_other_cells_define_is_taken_along_and_the_rest_is_told(correct, tmp_path):
    helpers = "import math as m\ndef quotient(a, b):\n    return a / b\none = len(dir(lab)) ** 0"
    correct.add("cost_of_call-check", helpers)
    code = "def break_even(upfront, before, after):\n    return m.ceil(quotient(upfront, before - after)) * one"
    correct.write("break_even", code)
    result = staged(correct, tmp_path)
    assert result.taken == {"break_even": ["import math as m", "def quotient(a, b):\n    return a / b"]}
    assert result.codes["break_even"] == "\n".join([*result.taken["break_even"], correct.source("break_even")])
    assert result.notes == {"break_even": f"{rebuild.MISSING}\n`one` comes from another cell (a variable computed there)"}


WITHHELD = ("ftlab.measure.formats.decode",)


@pytest.mark.parametrize("code", [
    "from ftlab.measure.formats import decode", "from ftlab.measure import formats", "import ftlab.measure.formats as f",
    "decode_float = formats.decode", "import importlib\nf = importlib.import_module('ftlab.measure.formats').decode",
])  # fmt: skip
def test_reaching_for_what_is_withheld_is_seen(code):
    assert rebuild.withheld_imports(code, WITHHELD) == list(WITHHELD)


@pytest.mark.parametrize("code", ["bits.decode()", "decode = 1\ndecode", "import math", "x = 'ftlab'", "def f(:"])
def test_other_code_is_not(code):
    assert rebuild.withheld_imports(code, WITHHELD) == []


@pytest.mark.parametrize("code", [
    "lab.check = print", "import builtins", "get_ipython().ast_transformers.append(x)", "setattr(ftlab, 'x', 1)",
    "get_ipython().showtraceback = print",
])  # fmt: skip
def test_code_that_touches_the_machinery_is_flagged(code, correct, tmp_path):
    correct.write("break_even", OURS["break_even"] + "\n" + code)
    assert ("patches_machinery", "break_even") in kinds(staged(correct, tmp_path))


BROKEN = {
    "cut off": (b'{"cells": [', "JSON"), "not text": (b"\xfa\xfb\x00\x01", "UTF-8"), "a list": (b"[]", "format 4"),
    "of format 3": (b'{"nbformat": 3, "cells": []}', "format 4"), "deep": (b"[" * 200_000, "JSON"),
    "no cells": (b'{"nbformat": 4}', "format 4"), "empty": (b"", "empty"),
    "odd cells": (b'{"nbformat": 4, "cells": [1, null, {"cell_type": [], "source": {"a": 1}, "metadata": []}]}', "another"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_notebook_has_a_problem_in_one_line(name, tmp_path):
    content, word = BROKEN[name]
    (tmp_path / "x.ipynb").write_bytes(content)
    result = rebuild.staged(tmp_path / "x.ipynb", LAB)
    assert word in result.problem and "\n" not in result.problem and result.visible is None


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "x.ipynb", "wb") as file:
        file.truncate(500_000_000)
    assert "500 MB" in rebuild.staged(tmp_path / "x.ipynb", LAB).problem


def test_every_lab_is_staged_from_its_solution_and_from_its_release(tmp_path):
    for lab in catalogue.lab_names():
        for folder, attempted in (("solutions", True), ("labs", False)):
            result = rebuild.staged(catalogue.ROOT / folder / f"{lab}.ipynb", lab)
            assert result.problem is None and result.notes == {}, (lab, result.notes)
            assert set(result.attempted.values()) == {attempted}, lab
            assert kinds(result) == set(), (lab, folder, result.flags)


@pytest.mark.parametrize("code", [
    "x = '\ud800'", "\0", "x = " + "(" * 5000, "x = " + "-" * 20_000 + "1", "x" + ".a" * 20_000, "x = " + "1 + " * 20_000 + "1",
    "y = 1  # " + "NBVAL_SKIP " * 20_000, "def f():\n\tpass\n        pass", "a = 1\r\n# NBVAL_SKIP\r\nb = 2", "'" * 3,
], ids=range(10))  # fmt: skip
def test_odd_code_is_staged_as_it_is(code, correct, tmp_path):
    correct.cell("break_even")["source"] = [code]
    (tmp_path / "x.ipynb").write_text(json.dumps(correct.raw))
    result = rebuild.staged(tmp_path / "x.ipynb", LAB)
    assert result.problem is None and result.attempted["break_even"]
    notebook_text(result.visible).encode("utf-8")
    assert similarity.pasted(LAB, code, "break_even") == []


def test_odd_metadata_hurts_nobody(correct, tmp_path):
    for cell, metadata in zip(correct.cells, ([], None, {"nbgrader": 3}, {"nbgrader": {"grade_id": []}}, {"ftlab": {"id": {}}},
                                              {"tags": [3, None]}, {"ftlab": "x"})):  # fmt: skip
        cell["metadata"] = metadata
    correct.cells[0]["source"] = [1, None]
    assert staged(correct, tmp_path).problem is None


