"""The sparsity slider: what it shows follows matrix, way of pruning and share."""

import pytest

from ftlab.show import widgets

CURVES = {"magnitude": ([0.0, 0.5, 0.9], [0.5, 0.7, 8.0]), "wanda": ([0.0, 0.5], [0.5, 0.6])}


def look(matrix, method, sparsity):
    if matrix == "broken":
        raise ValueError("no such matrix")
    gone = round(100 * sparsity)
    return {"picture": [[1.0, 0.0], [-0.5, 0.2]], "edges": [0.0, 0.1, 0.2], "kept": [0, 100 - gone], "pruned": [gone, 0]}


def view(**more):
    return widgets.sparsity_view(look, ["q_proj", "broken"], CURVES, [0.0, 0.5, 0.9], dense=0.5, **more)


def controls(shown):
    return dict(zip(("matrix", "method", "sparsity"), shown.widget.children[0].children, strict=True))


def test_share_and_method_are_followed():
    shown = view(sparsity=0.5)
    assert "50 of 100 weights go" in shown.text() and "0.70</b>" in shown.text()
    controls(shown)["method"].value = "wanda"
    assert "0.60</b>" in shown.caption.value
    controls(shown)["sparsity"].value = 0.9
    assert shown.loss() is None and "90 of 100" in shown.caption.value and "held-out loss is" not in shown.caption.value
    controls(shown)["method"].value = "magnitude"
    assert "8.00</b>" in shown.caption.value and "<circle" in shown.drawing.value and not shown.status.value


def test_bars_of_what_goes_are_hollow():
    assert view(sparsity=0.5).svg().count('stroke="#D55E00"') == 1
    assert 'stroke="#D55E00"' not in view(sparsity=0.0).svg()


def test_it_leaves_a_picture():
    assert view().picture() is not None


def test_an_error_becomes_a_line():
    shown = view()
    controls(shown)["matrix"].value = "broken"
    assert "no such matrix" in shown.status.value


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
def test_every_part_has_a_name_for_readers(sparsity):
    assert view(sparsity=sparsity).svg().count('role="img"') == 3
