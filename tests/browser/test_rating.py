"""The rating widget in a real JupyterLab: by buttons and by keys, through a restart of the kernel, to a file of pairs."""

import json

import pytest
from browser.harness import PATIENCE
from browser.test_harness import write
from browser.test_labs import ALL

from ftlab.align.preferences import read_preferences
from ftlab.align.ratings import Ratings
from ftlab.world.preference import Pair

PAIRS = [(f"Prompt {i}", f"first text {i}", f"second text {i}") for i in range(8)]
CELL = f"""
from ftlab.align.ratings import Ratings
from ftlab.show.widgets import rating_view
from ftlab.world.preference import Pair
rating_view([Pair(*texts, margin=1.0) for texts in {PAIRS}], Ratings("ratings.jsonl"), "margin")
"""
FIELD = "keys"


def as_headings(path):
    """Turn the cells that are headings into Markdown: there JupyterLab's arrow keys go from heading to heading."""
    notebook = json.loads(path.read_text())
    notebook["cells"] = [
        {"cell_type": "markdown", "id": c["id"], "metadata": {}, "source": c["source"]} if c["source"] == "# Heading" else c
        for c in notebook["cells"]]
    path.write_text(json.dumps(notebook))


def field(nb):
    return nb._control(FIELD).locator("input").first


def press(nb, *keys):
    """Real keys, one after another; each pair stays in sight long enough to count."""
    for key in keys:
        nb.page.wait_for_timeout(400)
        nb.page.keyboard.press(key)
        nb.wait_idle()


def shown(nb, cell, text):
    nb.output(cell).get_by_text(text).first.wait_for()
    return nb.output_text(cell)


@pytest.mark.browser
@pytest.mark.skipif(not ALL, reason="runs with the labs' drives: `make test-browser`")
def test_rating_by_buttons_and_keys_through_a_restart(server, open_notebook):
    name = "rating.ipynb"
    write(server.work / name, "# Heading", CELL, "# Heading")
    as_headings(server.work / name)
    nb = open_notebook(name)
    nb.run_all()
    nb.assert_clean()
    cell = "rating_view("
    assert "0 of 8 rated" in nb.output_text(cell) and "ratings.jsonl" in nb.output_text(cell)
    nb.screenshot("rating", cell)
    cells = [(c["code"], c["source"]) for c in nb.cells()]

    # Buttons, by mouse and by Tab and Space.
    nb.page.wait_for_timeout(400)
    nb.click("Left is better (q)")
    shown(nb, cell, "1 of 8 rated")
    nb.button("Tie (t)").focus()
    press(nb, "Space")
    assert "2 of 8 rated, 1 tie" in shown(nb, cell, "2 of 8 rated")

    # Letters. The field keeps the focus while the texts change, and JupyterLab's own shortcuts stay out.
    field(nb).click()
    press(nb, "p", "q", "s", "u")
    text = shown(nb, cell, "Taken back")
    assert "Prompt 4" in text and "4 of 8 rated" in text
    press(nb, "s")
    assert "5 of 8 rated, 1 tie, 1 skipped" in shown(nb, cell, "5 of 8 rated")

    # Arrows, which JupyterLab takes for itself elsewhere in a notebook with headings. Letters do no harm there.
    nb.output(cell).locator(".noUi-handle").click()
    press(nb, "ArrowRight")
    shown(nb, cell, "6 of 8 rated")
    press(nb, *"qptsuppss")
    assert "6 of 8 rated" in nb.output_text(cell)
    assert [(c["code"], c["source"]) for c in nb.cells()] == cells and nb.cell(cell).is_visible()
    nb.screenshot("rating_under_way", cell)
    before = Ratings(server.work / "ratings.jsonl")
    made = ["left", "tie", "right", "left", "skip", "undo", "skip", "right"]
    assert [r["rating"] for r in before.records] == made

    # The kernel is restarted; what was rated is not asked again.
    nb._js("(app) => app.shell.currentWidget.sessionContext.session.kernel.restart()")
    nb._wait_js("panel?.sessionContext?.session?.kernel?.status === 'idle'", PATIENCE)
    nb.run_cell(nb.index(cell))
    assert "Prompt 6" in shown(nb, cell, "6 of 8 rated")
    nb.output(cell).locator(".noUi-handle").click()
    press(nb, "ArrowLeft")
    assert "Prompt 7" in shown(nb, cell, "7 of 8 rated")
    field(nb).click()
    nb.page.wait_for_timeout(400)
    for _ in range(8):  # a key that is held repeats: one rating, and the end
        nb.page.keyboard.down("q")
    nb.page.keyboard.up("q")
    nb.wait_idle()
    assert "You agree with the known utility on" in shown(nb, cell, "All 8 pairs are rated")
    nb.screenshot("rating_done", cell)
    nb.assert_clean()

    # What a person did there is a file of preferences.
    sides = [before.sides(Pair(*texts)) for texts in PAIRS]
    decided = {0: 1, 2: -1, 3: 1, 5: -1, 6: 1, 7: 1}  # 1: left
    assert read_preferences(server.work / "ratings.jsonl") == [
        Pair(PAIRS[i][0], *sides[i][::way]) for i, way in decided.items()]
