"""Pictures: they hold what they were given, stay small, read in both themes, and leave matplotlib's settings alone."""

import base64
import io
import itertools
import json
import math
import re
import subprocess
import sys

import matplotlib
import pytest
from PIL import Image

from ftlab.show import plots, style

STEPS = list(range(1, 401))
LOSSES = [1.1 + 4 * math.exp(-s / 50) + 0.03 * math.sin(7 * s) for s in STEPS]
TOKENS = ["<s>", " Once", " $x$", "\n", " fox", "🙂"] * 4
WEIGHTS = [[1 / (i + 1) if j <= i else 0.0 for j in range(len(TOKENS))] for i in range(len(TOKENS))]
ROWS = [(1, " fox", 0.6, 0.8), (2, "\n", 0.3, 0.2), (3, " $bear$", 0.1, 0.0)]


def every_picture():
    """One picture of each kind, on inputs of ordinary size."""
    return {
        "loss_curve": plots.loss_curve({"a": (STEPS, LOSSES), "b": LOSSES}, 1.05, {"held out": ([100, 400], [2, 1.2])}),
        "training": plots.training(STEPS, LOSSES, ([100, 400], [2, 1.2]), ([100, 400], [0.1, 0.9]), 1.05,
                                   share_label="kept"),
        "lines": plots.lines({"a": ([1, 2, 3], [1, 2, 4]), "b": ([1, 2, 3], [1, 1, 1], [0, 0, 0], [2, 2, 2])},
                             "length (tokens)", "time (ms)", hline=(2, "budget"), vline=(2, "here"), logx=True),
        "bars": plots.bars({"a": (0.8, 0.7, 0.9), "b": 0.1}, "share", percent=True, threshold=0.75),
        "heatmap": plots.heatmap([[w * (j % 7) / 7 for j, w in enumerate(row * 2)] for row in WEIGHTS * 2], TOKENS * 2,
                                 "layer 1, head 1"),
        "attention_grid": plots.attention_grid([[WEIGHTS] * 4] * 2, TOKENS, "all heads"),
        "scatter": plots.scatter({"a": ([1, 2], [3, 4]), "b": ([1], [2])}, "x (s)", "y (s)"),
        "frontier": plots.frontier({"temperature": [(0.1, 0.9, "0.3"), (0.8, 0.2, "1.5")]}, "distinct", "kept",
                                   percent_x=True, percent_y=True, best="better: up and right"),
        "u_curve": plots.u_curve({"full": ([1e-3, 1e-2, 1e-1], [2, 1, 1.5])}, diverged={"full": [0.3]}),
        "power_law": plots.power_law([1e12, 1e13, 1e14], [1.0, 0.7, 0.5], (63, 0.15), (4e14, 0.4, 0.35, 0.45),
                                     (4e14, 0.41)),
        "prediction": plots.prediction_vs_result(0.5, (0.8, 0.7, 0.9), "kept", percent=True),
        "choice": plots.prediction_vs_result("masked", {"causal": 0.8, "masked": 0.2}, "kept", percent=True),
        "next_tokens": plots.next_tokens(ROWS, "Once there was a $50 fox"),
        "tokens": plots.tokens([(piece, i) for i, piece in enumerate(TOKENS * 5)]),
    }


@pytest.fixture(scope="module")
def pictures():
    return {name: (figure, figure.png()) for name, figure in every_picture().items()}


def texts(figure):
    figure.draw_without_rendering()
    return " | ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text))


def test_pictures_are_small_white_cards(pictures):
    for name, (_, png) in pictures.items():
        assert len(png) < 60_000, name
        image = Image.open(io.BytesIO(png)).convert("RGB")
        assert image.getpixel((0, 0)) == (255, 255, 255), name
        assert 400 <= image.width <= 1200, name
        assert len(image.resize((60, 60)).getcolors(3600)) > 3, f"{name} is blank"


def test_axes_are_named(pictures):
    for name, (figure, _) in pictures.items():
        if name != "tokens":
            assert any(axes.get_xlabel() for axes in figure.axes) or figure.get_supxlabel(), name
        assert figure.alt, name


def test_no_text_leaves_the_picture(pictures):
    for name, (figure, _) in pictures.items():
        figure.draw_without_rendering()  # at the screen's resolution, not the file's
        frame = figure.bbox.padded(2)
        for axes in figure.axes:
            shown = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
            for text in [t for t in shown if axes.axison and t.get_text()]:
                box = text.get_window_extent()
                assert frame.contains(box.x0, box.y0) and frame.contains(box.x1, box.y1), (name, text.get_text(), box)


def test_end_labels_do_not_touch():
    names = {f"run {i}": ([1, 2], [2.0, 1.0 + 0.001 * i]) for i in range(5)}
    figure = plots.loss_curve(names)
    figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in figure.findobj(matplotlib.text.Annotation)), key=lambda b: b.y0)
    assert len(boxes) == 5
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_same_numbers_same_bytes():
    assert plots.bars({"a": 1}).png() == plots.bars({"a": 1}).png()


def test_settings_of_others_are_untouched():
    before = dict(matplotlib.rcParams)
    plots.loss_curve({"a": (STEPS, LOSSES)}).png()
    assert dict(matplotlib.rcParams) == before


def test_the_floor_is_drawn_and_named():
    figure = plots.loss_curve({"a": (STEPS, LOSSES)}, floor=1.05)
    assert "entropy of the source: 1.05" in texts(figure)
    assert any(list(line.get_ydata()) == [1.05, 1.05] for line in figure.axes[0].lines)
    low, high = figure.axes[0].get_ylim()
    assert low < 1.05 < high
    assert "entropy" not in texts(plots.loss_curve({"a": (STEPS, LOSSES)}))


def test_a_held_out_loss_that_rises_stays_in_the_picture():
    figure = plots.loss_curve({"training": (STEPS, LOSSES)}, evals={"held out": ([100, 400], [1.4, 9.0])})
    assert figure.axes[0].get_ylim()[1] > 9.0


def test_smoothing_keeps_length_level_and_ends():
    values = [5.0] * 30
    assert plots._smooth(values, 9) == pytest.approx(values)
    ramp = list(range(50))
    smooth = plots._smooth(ramp, 11)
    assert len(smooth) == 50 and smooth == pytest.approx(ramp)  # a centred mean does not lag behind a ramp


def test_prediction_shows_both_or_says_there_was_none():
    assert "you predicted 50 %" in texts(plots.prediction_vs_result(0.5, 0.8, "kept", percent=True))
    assert "measured 80 %" in texts(plots.prediction_vs_result(0.5, 0.8, "kept", percent=True))
    assert "no prediction was committed" in texts(plots.prediction_vs_result(None, 0.8, "kept", percent=True))
    assert "masked  ◆ your prediction" in texts(plots.prediction_vs_result("masked", {"masked": 0.1}, "kept"))


@pytest.mark.filterwarnings("error")
def test_text_with_dollars_and_odd_characters_is_drawn_as_it_stands():
    figure = plots.bars({"$a$ costs $5": 1.0, "雪🙂": 2.0})
    assert r"\$a\$ costs \$5" in texts(figure)
    assert len(figure.png()) > 1000
    assert "🙂" not in texts(figure)


def test_diverged_runs_and_best_rates_are_marked():
    figure = plots.u_curve({"full": ([1e-3, 1e-2, 1e-1], [2.0, 1.0, 1.5])}, diverged={"full": [0.3]})
    assert "best 0.01" in texts(figure) and "diverged" in texts(figure)


def test_labels_of_best_rates_at_one_place_do_not_overlap():
    rates = [1e-3, 1e-2, 1e-1]
    figure = plots.u_curve({"a": (rates, [2.0, 1.05, 1.5]), "b": (rates, [2.0, 1.0, 1.4])})
    figure.canvas.draw()
    one, other = (t.get_window_extent() for t in figure.axes[0].texts if t.get_text() == "best 0.01")
    assert not one.overlaps(other)


def test_heatmap_says_what_it_cut():
    assert "first 10 of 24 tokens" in texts(plots.heatmap(WEIGHTS, TOKENS, max_tokens=10))


def test_empty_series_do_not_fail():
    assert plots.loss_curve({"a": ([], [])}, floor=1.0).png()
    assert plots.tokens([]).png()
    assert plots.next_tokens([], "").png()


@pytest.mark.parametrize("value, text", [
    (0, "0"), (12, "12"), (0.123456, "0.123"), (8200.5, "8200"), (12345, "12.3k"), (2.5e6, "2.5M"),
    (float("nan"), "nan"),
])
def test_numbers_as_text(value, text):
    assert style.number(value) == text


@pytest.mark.parametrize("p, text", [(0, "0"), (0.0004, "< 0.1 %"), (0.034, "3.4 %"), (0.34, "34 %"), (1, "100 %")])
def test_probabilities_as_text(p, text):
    assert style.percent(p) == text


@pytest.mark.parametrize("seconds, text", [(0, "0 s"), (59.4, "59 s"), (80, "1 min 20 s"), (7500, "2 h 05 min")])
def test_durations_as_text(seconds, text):
    assert style.duration(seconds) == text


def _linear(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def _lab(rgb):
    x, y, z = (sum(m * c for m, c in zip(row, rgb, strict=True)) for row in (
        (0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)))
    f = [v ** (1 / 3) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x / 0.9505, y, z / 1.089)]
    return 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])


# Viénot, Brettel and Mollon 1999: what protanopes and deuteranopes see, in linear RGB.
PROTAN = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTAN = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))
NORMAL = ((1, 0, 0), (0, 1, 0), (0, 0, 1))


@pytest.mark.parametrize("sight", [NORMAL, PROTAN, DEUTAN])
def test_the_first_series_are_told_apart_by_any_eye(sight):
    seen = [_lab([min(1, max(0, sum(m * c for m, c in zip(row, _linear(colour), strict=True)))) for row in sight])
            for colour in style.SERIES[:4]]
    distances = [math.dist(a, b) for i, a in enumerate(seen) for b in seen[i + 1:]]
    assert min(distances) > 12


def test_series_differ_in_marker_and_dash_too():
    assert len(set(style.MARKERS)) == len(set(map(str, style.DASHES))) == len(set(style.SERIES)) == 7


def test_importing_widgets_loads_nothing_heavy():
    code = ("import sys, ftlab.show.terminal, ftlab.show.widgets; "
            "print(sorted({'matplotlib', 'torch', 'ipywidgets'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_picture_carries_its_alternative_text_where_readers_look(pictures, monkeypatch):
    import nbformat
    from nbconvert import HTMLExporter

    figure, png = next(iter(pictures.values()))
    figure.alt = 'a & b "against" <step>'
    for value, kinds in (("1", {"image/png", "text/plain"}), ("0", {"image/png", "text/plain", "text/html"})):
        monkeypatch.setenv("FTLAB_HEADLESS", value)
        data, metadata = figure.bundle()
        assert set(data) == kinds and data["text/plain"] == metadata["image/png"]["alt"] == figure.alt
        data = data | {"image/png": base64.b64encode(data["image/png"]).decode()}
        output = nbformat.v4.new_output("display_data", data, metadata=metadata)
        cell = nbformat.v4.new_code_cell("figure", outputs=[output])
        for template in ("classic", *(["lab"] if value == "0" else [])):
            page, _ = HTMLExporter(template_name=template).from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
            assert re.search(r'<img[^>]* alt="a &amp; b &quot;against&quot; &lt;step&gt;"', page.replace("\n", " ")) or \
                re.search(r"<img[^>]* alt='a &amp; b \"against\" &lt;step&gt;'", page.replace("\n", " ")), template


def test_stored_pictures_have_an_alternative_text():
    from ftlab.course import catalogue

    for path in catalogue.SOLUTIONS.glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", ()):
                if "image/png" in output.get("data", {}):
                    assert output["metadata"]["image/png"]["alt"] == "".join(output["data"]["text/plain"]), path.name
