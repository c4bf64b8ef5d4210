"""Widgets without a browser: what their buttons do, what they show, what they escape, what they ask of ipywidgets."""

import ast
import pathlib
import random

import pytest

import ftlab.show
from ftlab.errors import UsageError
from ftlab.show import live, shown, style, widgets

WORDS = [" a", " fox", " <b>", "\n", " $", " 🙂", "</s>"]
RAW = [0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02]


def built(thing):
    """Make the ipywidgets widget behind it, as displaying does."""
    assert thing.widget is thing.widget


def pieces(ids):
    return [WORDS[i] for i in ids]


class Model:
    """Keeps the likeliest `top_k`; remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, ids, temperature, top_k, top_p):
        self.asked.append((list(ids), temperature, top_k, top_p))
        kept = RAW[:top_k] if top_k else RAW
        return [(i, WORDS[i], p, p / sum(kept) if i < len(kept) else 0.0) for i, p in enumerate(RAW)][::-1]


@pytest.fixture
def explorer():
    model = Model()
    made = widgets.next_token_explorer(model, pieces, [0], lambda ids: "".join(pieces(ids)), end_id=6, candidates=4)
    made.model = model
    built(made)
    return made


def test_a_click_appends_the_candidate_beside_it(explorer):
    assert [b.description for b in explorer.buttons] == ["␣a", "␣fox", "␣<b>", "⏎"]
    explorer.buttons[1].click()
    assert explorer.ids == [0, 1] and explorer.model.asked[-1] == ([0, 1], 1.0, None, 1.0)
    assert "2 tokens" in explorer.text.value


def test_candidates_are_sorted_and_the_rest_is_summed(explorer):
    assert [row[0] for row in explorer.rows] == [0, 1, 2, 3]
    assert explorer.rest == pytest.approx((0.1, 0.1))


def test_sliders_reach_the_callable_and_drop_candidates(explorer):
    explorer.sliders["temperature"].value = 0.5
    explorer.sliders["top_k"].value = 2
    explorer.sliders["top_p"].value = 0.9
    assert explorer.model.asked[-1] == ([0], 0.5, 2, 0.9)
    assert explorer.bars.value.count("dropped") >= 2
    explorer.sliders["top_k"].value = 0
    assert explorer.model.asked[-1][2] is None


def test_sample_draws_from_what_is_kept(explorer):
    explorer.sliders["top_k"].value = 2
    for _ in range(5):
        explorer.actions["Sample 10"].click()
    assert len(explorer.ids) == 51 and set(explorer.ids[1:]) == {0, 1}


def test_sampling_follows_the_probabilities(explorer):
    explorer.end_id = None
    explorer.sample(2000)
    assert explorer.ids[1:].count(0) / 2000 == pytest.approx(0.4, abs=0.05)


def test_greedy_undo_restart(explorer):
    for name in ("Greedy", "Greedy"):
        explorer.actions[name].click()
    assert explorer.ids == [0, 0, 0]
    explorer.actions["Undo"].click()
    assert explorer.ids == [0, 0]
    explorer.actions["Restart"].click()
    explorer.actions["Undo"].click()
    assert explorer.ids == [0]


def test_the_text_ends_at_the_end_token(explorer):
    explorer.append(6)
    assert explorer.ended and all(b.disabled for b in explorer.buttons) and "has ended" in explorer.text.value
    explorer.actions["Sample"].click()
    explorer.buttons[0].click()
    assert explorer.ids == [0, 6]
    explorer.actions["Undo"].click()
    assert not any(b.disabled for b in explorer.buttons)


def test_a_click_sends_little(explorer, monkeypatch):
    sent = []
    for part in [explorer.text, explorer.bars, explorer.status, *explorer.buttons]:
        monkeypatch.setattr(part, "send_state", lambda *args, part=part, **kw: sent.append(part))
    children = explorer.widget.children
    explorer.buttons[0].click()
    assert explorer.widget.children is children
    assert len(sent) <= 2 + len(explorer.buttons)


def test_failures_appear_and_go_away(explorer):
    good = explorer.next_probs

    def bad(*args):
        raise ValueError("shape (3,) <b>")

    explorer.next_probs = bad
    explorer.buttons[0].click()
    assert "ValueError: shape (3,) &lt;b&gt;" in explorer.status.value
    explorer.next_probs = good
    explorer.actions["Restart"].click()
    assert explorer.status.value == ""


@pytest.mark.parametrize("text", ["", " ", "<script>alert(1)</script> & \"q\" 'x'", "🙂 é 雪", "a\n\n\tb", "\ud800",
                                  "\0", "word " * 3000])
def test_tokenizer_box_takes_any_text(text):
    box = widgets.tokenizer_box(lambda s: [(c, i % 100) for i, c in enumerate(s)], "start")
    built(box)
    assert "5 tokens" in box.output.value and "1.00 characters per token" in box.output.value
    box.area.value = text
    assert box.status.value == ""
    assert f"{len(text):,} token" in box.output.value
    assert "<script" not in box.output.value
    assert box.output.value.count("title=") <= 400
    box.output.value.encode("utf-8")


def test_tokenizer_box_counts_bytes():
    box = widgets.tokenizer_box(lambda s: [(s, 1)], "é🙂")
    assert "1 token · 2 characters · 6 bytes · 2.00 characters per token" in box.html("é🙂")


MAPS = [[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [h / 4, layer / 4, 1 - (h + layer) / 4]] for h in range(2)]
        for layer in range(2)]


def test_attention_view_shows_the_chosen_head():
    view = widgets.attention_view(["<s>", " a", '"b"'], MAPS)
    built(view)
    assert "layer 1, head 1" in view.grid.value
    view.sliders["head"].value, view.sliders["layer"].value = 2, 2
    assert (view.layer, view.head) == (1, 1) and "layer 2, head 2" in view.grid.value
    assert 'title="&quot;b&quot; reads &lt;s&gt;: 0.250"' in view.grid.value
    assert "<s>" not in view.grid.value and "<s>" not in view.line.value


def test_attention_view_tells_weights_of_zero_for_earlier_tokens_only():
    view = widgets.attention_view(["<s>", "a", "b"], [[[[1, 0, 0], [0, 1, 0], [0, 0, 1]]]])
    built(view)
    assert 'title="a reads &lt;s&gt;: 0.000"' in view.grid.value and view.grid.value.count(" reads ") == 6


def test_attention_view_moves_the_reader_without_redrawing_the_map():
    view = widgets.attention_view(["<s>", " a", " b"], MAPS)
    built(view)
    before = view.grid.value
    view.sliders["position"].value = 1
    assert "most of all “&lt;s&gt;” with weight 1.00" in view.line.value
    assert view.grid.value is before


def test_attention_view_cuts_long_texts():
    size = 60
    row = [1 / size] * size
    view = widgets.attention_view([f"t{i}" for i in range(size)], [[[row] * size]], max_tokens=20)
    built(view)
    assert "first 20 of 60 tokens" in view.grid.value and "t20" not in view.grid.value
    assert len(view.grid.value) < 100_000


def test_hovering_needs_no_script():
    view = widgets.attention_view(["<s>", " a", " b"], MAPS)
    built(view)
    assert "<script" not in view.grid.value and "onmouse" not in view.grid.value and ":hover" in view.grid.value


def test_prediction_is_committed_once():
    got = []
    made = widgets.prediction("How many?", 0, 10, 1, "steps", on_commit=got.append)
    built(made)
    made.control.value = 7
    made.button.click()
    assert got == [7] and made.committed == 7 and made.button.disabled and made.control.disabled
    assert "You predicted 7 steps" in made.answer.value


def test_prediction_in_per_cent_is_a_share():
    got = []
    made = widgets.prediction("What share?", percent=True, on_commit=got.append)
    built(made)
    made.control.value = 80
    made.button.click()
    assert got == [0.8] and "80 %" in made.answer.value


def test_prediction_of_a_choice_waits_for_one():
    got = []
    made = widgets.prediction("Which?", choices=["a", "b"], on_commit=got.append)
    built(made)
    made.button.click()
    assert got == [] and "choose" in made.answer.value
    made.control.value = "b"
    made.button.click()
    assert got == ["b"]


def test_a_prediction_that_cannot_be_stored_stays_open():
    def fail(value):
        raise UsageError("the work folder is read-only; choose another")

    made = widgets.prediction("How many?", on_commit=fail)
    built(made)
    made.button.click()
    assert made.committed is None and not made.button.disabled
    assert "the work folder is read-only" in made.status.value and "UsageError" not in made.status.value


def test_earlier_predictions_come_back_locked():
    made = widgets.prediction("How many?", committed=0.25)
    built(made)
    assert made.control.value == 0.25 and made.button.disabled and "0.25" in made.answer.value


def test_run_button_runs_once_and_says_so():
    calls = []
    made = widgets.run_live_button("Run", lambda: calls.append(made.button.disabled) or made.click() or "42 <b>")
    built(made)
    made.button.click()
    assert calls == [True] and not made.button.disabled and made.result == "42 <b>"
    assert "done in" in made.status.value
    assert "42 &lt;b&gt;" in made.area.children[-1].value


@pytest.mark.parametrize("error, text", [
    (ValueError("bad\nthing"), "ValueError: bad thing"), (UsageError("give a file"), ">give a file<"),
    (KeyboardInterrupt(), "stopped")])
def test_run_button_turns_errors_into_one_line(error, text):
    def fail():
        raise error

    made = widgets.run_live_button("Run", fail)
    built(made)
    made.button.click()
    assert text in made.status.value and not made.button.disabled and not live._hosts


def test_run_button_reports_and_hosts_plots(tmp_path):
    def run(report):
        report("rate 1 of 2")
        said.append(made.status.value)
        plot = widgets.LivePlot(floor=1.0)
        plot({"kind": "start", "step": 0, "steps": 3})
        for step in (1, 2, 3):
            plot({"kind": "step", "step": step, "steps": 3, "loss": 2.0 / step})
        seen.append(made.area.children[0].value)
        plot({"kind": "end", "step": 3, "steps": 3})

    said, seen = [], []
    made = widgets.run_live_button("Run", run)
    built(made)
    made.button.click()
    assert "rate 1 of 2" in said[0] and "<svg" in seen[0]
    assert "data:image/png;base64," in made.area.children[0].value


def display_of(thing, monkeypatch):
    """The mime bundles that a thing displays of itself."""
    from IPython import display as module

    bundles = []
    monkeypatch.setattr(module, "display", lambda data, **kwargs: bundles.append(data))
    thing._ipython_display_()
    return bundles


def all_widgets():
    return [
        widgets.next_token_explorer(Model(), pieces, [0], lambda ids: "".join(pieces(ids))),
        widgets.tokenizer_box(lambda s: [(c, 1) for c in s], "a fox"),
        widgets.attention_view(["<s>", " a", " b"], MAPS), widgets.prediction("How many?"),
        widgets.run_live_button("Run", lambda: None), widgets.loss_mask_view({"one": [(" a", True), (" b", False)]}),
        widgets.answers_view(["How?"], ["before", "after"], [["no", "yes"]]),
        widgets.frontier_view({"DPO": [{"beta": 0.1, "kl": 2.0, "utility": 0.5}]}),
        widgets.token_rewards_view([" a", " fox"], [0.5, -0.1])]


def test_live_a_widget_with_one_light_line(monkeypatch):
    monkeypatch.delenv("FTLAB_HEADLESS", raising=False)
    for thing in all_widgets():
        (bundle,) = display_of(thing, monkeypatch)
        assert set(bundle) == {shown.WIDGET_VIEW, "text/plain"}
        assert bundle[shown.WIDGET_VIEW]["model_id"] == thing.widget.model_id
        assert len(bundle["text/plain"]) < 120


def test_headless_a_picture_and_no_widget(monkeypatch):
    monkeypatch.setenv("FTLAB_HEADLESS", "1")
    for thing in all_widgets():
        (bundle,) = display_of(thing, monkeypatch)
        assert shown.WIDGET_VIEW not in bundle and thing._widget is None
        if not isinstance(thing, (widgets.Prediction, live.RunLive)):
            assert bundle["image/png"].startswith(b"\x89PNG")


# What ipywidgets 7.7 and 8 share, of what we use: class -> arguments beyond layout and style.
COMMON = {
    "HTML": {"value"}, "Label": {"value"}, "Button": {"description", "tooltip", "button_style", "icon"},
    "Checkbox": {"value", "description", "indent"},
    "FloatSlider": {"value", "min", "max", "step", "description", "readout_format"},
    "IntSlider": {"value", "min", "max", "description", "readout"}, "RadioButtons": {"options", "value"},
    "SelectionSlider": {"options", "value", "description"},
    "Text": {"value", "description", "placeholder", "continuous_update"},
    "Textarea": {"value", "placeholder", "rows", "continuous_update"}, "VBox": set(), "HBox": set(), "Output": set(),
    "Image": {"value", "format"}, "Dropdown": {"options", "value", "description"},
    "Layout": {"width", "height", "margin", "min_width", "max_width", "flex", "flex_flow"},
}


def test_only_what_both_versions_of_ipywidgets_know_is_used():
    used = set()
    for path in pathlib.Path(ftlab.show.__path__[0]).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) \
                    and isinstance(node.func.value, ast.Name) and node.func.value.id in ("w", "ipywidgets"):
                name = node.func.attr
                used.add(name)
                assert name in COMMON, f"{path.name}: {name} is not on the list of common widgets"
                names = {k.arg for k in node.keywords if k.arg} - {"layout", "style"}
                assert names <= COMMON[name], f"{path.name}: {name}({', '.join(names - COMMON[name])})"
    assert {"HTML", "Button", "FloatSlider", "Output"} <= used


def test_html_takes_its_ink_from_the_theme(explorer):
    for html in (explorer.text.value, explorer.bars.value, shown.error_html(ValueError("x"))):
        assert "var(--jp-ui-font-color" in html and "color:#000" not in html


def test_long_random_bytes_never_break_out_of_html():
    dice = random.Random(0)
    for _ in range(200):
        text = "".join(chr(dice.choice([34, 38, 39, 60, 62, 0, 10, 0x1F600, 0xD800, dice.randrange(0x11000)]))
                       for _ in range(20))
        html = style.escape(text)
        assert not set(html) & set("<>\"'\0")
        html.encode("utf-8")
