"""Each lab's solution, from top to bottom in a real JupyterLab, and its widgets driven as a person would."""

import importlib.util
import os
import pathlib

import pytest
from browser.harness import ROOT, without_outputs

from ftlab.profile import fast

DRIVES = pathlib.Path(__file__).with_name("drives")
LABS = sorted(path.stem for path in (ROOT / "solutions").glob("[0-9][0-9]_*.py"))
# A drive takes a minute, and `make test` has fifteen for the whole course: it leaves them to `make test-browser`.
ALL = not fast() or os.environ.get("FTLAB_NEED_BROWSER") == "1"
DRIVEN = [lab if ALL else pytest.param(lab, marks=pytest.mark.full) for lab in LABS]


def drive_of(lab):
    """The `drive(page, nb)` of drives/LAB.py, or None."""
    path = DRIVES / f"{lab}.py"
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location(f"drive_{lab}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.drive


@pytest.mark.parametrize("lab", LABS)
def test_labs_with_widgets_have_a_drive(lab):
    source = (ROOT / "solutions" / f"{lab}.py").read_text(encoding="utf-8")
    if 'ftlab="play"' in source:
        assert drive_of(lab), f"{lab} has widgets: write tests/browser/drives/{lab}.py (see README.md there)"


@pytest.mark.browser
@pytest.mark.parametrize("lab", DRIVEN)
def test_lab_runs_and_its_widgets_answer(lab, course, open_notebook):
    """The solution from top to bottom, in the JupyterLab that `make lab` opens."""
    without_outputs(ROOT / "solutions" / f"{lab}.ipynb", course.work / f"solved_{lab}.ipynb")
    notebook = open_notebook(f"solved_{lab}.ipynb", on=course)
    notebook.run_all()
    notebook.assert_clean()
    notebook.screenshot(lab)
    drive = drive_of(lab)
    if drive:
        drive(notebook.page, notebook)
        notebook.assert_clean()


@pytest.mark.browser
@pytest.mark.parametrize("lab", LABS[:1] if fast() else LABS)
def test_student_opens_the_lab(lab, course, open_notebook):
    """The student's own copy lies in the work folder; it opens, and its first code cell (the set-up) runs."""
    notebook = open_notebook(f"{lab}.ipynb", on=course)
    first = next(cell["index"] for cell in notebook.cells() if cell["code"])
    notebook.run_cell(first)
    notebook.assert_clean()
    assert notebook.cells()[first]["count"]
    properties = course.api("/lab/api/settings/@jupyterlab/apputils-extension:notification")["schema"]["properties"]
    asked = {name: properties[name]["default"] for name in ("fetchNews", "checkForUpdates")}
    assert asked == {"fetchNews": "false", "checkForUpdates": False}, "a newcomer is asked about JupyterLab's news"
