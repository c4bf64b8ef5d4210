"""The table of methods without a browser: what sorts, what filters, and what stands in its place."""

import pytest

from ftlab.show import widgets
from ftlab.show.widgets import Column

ROWS = {"full": {"score": 0.9, "bytes": 1000, "peak": 30},
        "<lora>": {"score": 0.85, "bytes": 40, "peak": 25},
        "prompt": {"score": 0.4, "bytes": 8, "peak": 26},
        "worse": {"score": 0.3, "bytes": 50, "peak": 40}}  # fmt: skip
COLUMNS = [Column("score", "score", lambda r: f"{r['score']:.2f}", high_is_good=True),
           Column("bytes", "file, B", lambda r: f"{r['bytes']:,}", filtered=True),
           Column("peak", "peak, MiB", lambda r: f"{r['peak']}", filtered=True)]


def front(points):
    return [n for n, (c, s) in points.items()
            if not any(d <= c and t >= s and (d, t) != (c, s) for d, t in points.values())]


@pytest.fixture
def view():
    made = widgets.method_table(ROWS, COLUMNS, front)
    made.widget  # noqa: B018
    return made


def test_sorts_by_what_is_chosen_and_best_comes_first(view):
    assert view.shown() == ["full", "<lora>", "prompt", "worse"]
    view.controls["by"].value = "bytes"
    assert view.shown() == ["prompt", "<lora>", "worse", "full"]
    html = view.output.value
    assert html.index("prompt") < html.index("&lt;lora&gt;") < html.index("full") and "<lora>" not in html
    assert "file, B ▾" in html and "4 of 4 methods" in html


def test_limits_filter_and_an_empty_table_says_what_to_do(view):
    assert [text for text, _ in view.controls["bytes"].options] == ["8", "40", "50", "1,000", "any"]
    view.controls["bytes"].value = 50
    assert view.shown() == ["<lora>", "prompt", "worse"] and "(1 filtered out)" in view.output.value
    view.controls["peak"].value = 25
    assert view.shown() == ["<lora>"]
    view.controls["bytes"].value = 8
    assert view.shown() == [] and "nobody fits: loosen a limit" in view.output.value


def test_the_front_is_that_of_either_limited_column(view):
    view.controls["only_front"].value = True
    assert view.shown() == ["full", "<lora>", "prompt"]
    assert "only_front" not in _controls_without_front()


def _controls_without_front():
    made = widgets.method_table(ROWS, COLUMNS)
    made.widget  # noqa: B018
    return made.controls


def test_an_error_of_the_students_front_is_on_the_screen():
    made = widgets.method_table(ROWS, COLUMNS, lambda points: 1 / 0)
    made.widget  # noqa: B018
    made.controls["only_front"].value = True
    assert "ZeroDivisionError" in made.status.value


def test_the_stored_notebook_has_the_table_itself(monkeypatch):
    shown = []
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    made = widgets.method_table(ROWS, COLUMNS)
    made.show()
    assert made._widget is None and "&lt;lora&gt;" in shown[0]["text/html"]
    assert shown[0]["text/plain"].splitlines()[0].split() == ["method", "score", "file,", "B", "peak,", "MiB"]
