"""The widgets of LoRA: what they show follows rank, matrix, prompt and adapter."""

import pytest

from ftlab.show import widgets

MATRICES = {"q_proj": {"shape": (4, 6), "values": [3.0, 1.0, 0.0, 0.0], "picture": [[1.0, -2.0], [0.0, 0.5]]},
            "down_proj": {"shape": (4, 20), "values": [2.0, 2.0, 1.0, 1.0], "picture": [[1.0, 1.0], [1.0, 1.0]]}}


def view(**more):
    return widgets.rank_view(MATRICES, lambda name, rank: [[float(rank), 0.0], [0.0, 0.0]], [1, 2, 4], **more)


def test_rank_and_matrix_are_followed():
    shown = view(rank=1)
    assert shown.energy() == pytest.approx(0.9) and "1 · (4 + 6) = 10 numbers, 42 % of 24" in shown.text()
    shown.widget.children[1].value = 2
    assert shown.rank == 2 and "100 %" in shown.caption.value and "rank 2" in shown.drawing.value
    shown.widget.children[0].value = "down_proj"
    assert shown.chosen == "down_proj" and shown.energy() == pytest.approx(0.8)
    assert "80 %" in shown.caption.value and not shown.status.value
    assert shown.picture() is not None


def test_bars_within_the_rank_are_filled():
    assert view(rank=2).svg().split("ΔW")[1].count('fill="none"') == 2


def test_an_error_becomes_a_line():
    def broken(name, rank):
        if rank == 4:
            raise ValueError("no such rank")
        return [[0.0]]

    shown = widgets.rank_view(MATRICES, broken, [1, 4], rank=1)
    shown.widget.children[1].value = 4
    assert "no such rank" in shown.status.value
