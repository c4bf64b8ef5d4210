"""The quantiser to drag and the memory explorer: what their controls ask for, and what they draw of it."""

import re

import pytest

from ftlab.errors import UsageError
from ftlab.show import quantised, widgets

asked = []


def look(codebook, bits, block_size):
    if codebook == "broken":
        raise UsageError("no such codebook")
    asked.append((codebook, bits, block_size))
    step = 2 / 2**bits
    return {"scaled": [-1.0, -0.3, 0.0, 0.4, 1.0], "levels": [-1 + step * i for i in range(2**bits + 1)],
            "errors": [-step / 9, step / 8, 0.0], "mean_abs": step / 10, "rms": step / 8, "share": step,
            "bits": bits + 32 / (block_size or 1e9), "note": "a note" if codebook == "fp4" else ""}  # fmt: skip


@pytest.fixture
def view():
    asked.clear()
    made = widgets.quantiser(look, ["nf", "fp4", "broken"])
    assert made.widget is made.widget
    return made


def test_each_control_asks_for_its_setting_and_redraws_both_histograms(view):
    before = view.drawing.value
    assert asked[-1] == ("nf", 4, 64) and "<b>4.50</b> bits a weight" in view.caption.value
    view.made["bits"].value = 3
    assert asked[-1] == ("nf", 3, 64) and view.drawing.value != before
    assert before.count("<line") - view.drawing.value.count("<line") == 8
    view.made["block_size"].value = 0
    assert asked[-1] == ("nf", 3, None) and "a scale for all weights" in view.caption.value
    view.made["codebook"].value = "fp4"
    assert asked[-1] == ("fp4", 3, None) and "a note" in view.caption.value


def test_every_stop_of_every_slider_draws(view):
    for bits in view.bits:
        for size in view.block_sizes:
            view.made["bits"].value, view.made["block_size"].value = bits, size or 0
            assert view.status.value == "" and "nan" not in view.drawing.value


def test_an_error_is_shown_and_gone_again(view):
    view.made["codebook"].value = "broken"
    assert "no such codebook" in view.status.value
    view.made["codebook"].value = "nf"
    assert view.status.value == ""


def test_histogram_counts_all_and_puts_what_is_beyond_into_the_ends():
    counts = quantised.histogram([-9.0, -1.0, 0.0, 1.0, 9.0], 1.0)
    assert sum(counts) == 5 and counts[0] == counts[-1] == 2 and counts[quantised.BINS // 2] == 1


def test_the_picture_shows_the_setting(view):
    left, right = view.picture().axes
    assert left.get_title(loc="left") == "nf, 4 bits, blocks of 64" and "mean error" in right.get_title(loc="left")
    assert len(view.picture().png()) > 5000


def memory_look(size, batch, checkpointing):
    small = 0.5 if checkpointing else 1.0
    return {"full": {"weights": 4.0 * size * 2**30, "gradients": 40.0 * 2**30},
            "qlora": {"weights": 0.5 * size * 2**30, "activations": small * batch * 2**30}}  # fmt: skip


@pytest.fixture
def memory():
    choices = {"size": [1, 7, 70], "batch": [1, 2, 4], "checkpointing": [True, False]}
    made = widgets.memory_explorer(memory_look, choices, {"size": 7, "batch": 1, "checkpointing": False})
    assert made.widget is made.widget
    return made


def test_bars_and_cards_follow_the_controls(memory):
    assert "full <b>68.0 GiB</b> (80 GB)" in memory.caption.value and "qlora <b>4.5 GiB</b> (8 GB)" in memory.caption.value
    memory.made["batch"].value = 4
    assert "qlora <b>7.5 GiB</b> (16 GB)" in memory.caption.value
    memory.made["checkpointing"].value = True
    assert "qlora <b>5.5 GiB</b>" in memory.caption.value
    memory.made["size"].value = 70
    assert "full <b>320.0 GiB</b> (no card)" in memory.caption.value
    assert memory.drawing.value.count("<rect") == 3 + 4 and "optimizer" not in memory.drawing.value


def test_its_picture_has_a_bar_a_method(memory):
    picture = memory.picture()
    assert [tick.get_text() for tick in picture.axes[0].get_yticklabels()] == ["full", "qlora"]
    assert len(picture.png()) > 5000


def test_names_of_cards_do_not_lie_on_each_other(memory):
    memory.made["size"].value = 70
    places = [float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*>\d+ GB<', memory.drawing.value)]
    assert memory.drawing.value.count("<line") == 5 and places and sorted(places) == places[::-1]
    assert all(left - right >= 40 for left, right in zip(places, places[1:]))
