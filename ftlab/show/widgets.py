"""Things to play with: a next-token explorer, a tokenizer to type into, attention to hover, predictions, buttons.

They compute nothing: callables and data come from outside. How they appear is said in `ftlab.show.shown`.
"""

import random

from ftlab.profile import headless
from ftlab.show import style
from ftlab.show.aligned import frontier_view, token_rewards_view
from ftlab.show.bits import bit_flipper
from ftlab.show.costs import cost_calculator
from ftlab.show.dashboard import AlignPlot, Panel
from ftlab.show.explorer import sweep_explorer
from ftlab.show.live import LivePlot, run_live_button
from ftlab.show.lowrank import rank_view
from ftlab.show.methods import Column, method_table
from ftlab.show.prefixes import prefix_attention_view, swap_view
from ftlab.show.pruned import sparsity_view
from ftlab.show.quantised import memory_explorer, quantiser
from ftlab.show.rating import rating_view
from ftlab.show.shown import Shown, display_widget, error_html, guarded
from ftlab.show.stages import side_by_side
from ftlab.show.terminal import TextProgress
from ftlab.show.tuned import answers_view, loss_mask_view

__all__ = ["AlignPlot", "Column", "LivePlot", "Panel", "TextProgress", "answers_view", "attention_view", "bit_flipper",
           "cost_calculator", "frontier_view", "loss_mask_view", "memory_explorer", "method_table", "next_token_explorer",
           "prediction", "prefix_attention_view", "quantiser", "rank_view", "rating_view", "run_live_button", "side_by_side",
           "sparsity_view", "swap_view", "sweep_explorer", "token_rewards_view", "tokenizer_box"]

ROW = 32  # pixels a candidate takes: a button's height and its margins


def _html(value="", **layout):
    import ipywidgets

    return ipywidgets.HTML(value=value, layout=ipywidgets.Layout(margin="0", **layout))


def _button(text, action, tooltip="", width="auto", style_name=""):
    import ipywidgets

    button = ipywidgets.Button(description=text, tooltip=tooltip, button_style=style_name,
                               layout=ipywidgets.Layout(width=width, min_width="0"))
    button.on_click(lambda _: action())
    return button


def chips(pairs, limit=400, newest=None, ids=True):
    """Tokens as HTML: a tinted box each, its id below (where `ids`), the index `newest` underlined.

    pairs: [(piece, id), ...]; beyond `limit` only the last ones are shown, after a note.
    """
    hidden = max(0, len(pairs) - limit)
    tints = (style.SKY, style.ORANGE, style.GREEN, style.PURPLE)
    out = [f'<div style="font-family:{style.MONO_CSS};font-size:13px;line-height:1.3;color:{style.INK_CSS};'
           'white-space:pre-wrap;overflow-wrap:anywhere">']
    if hidden:
        out.append(f'<span style="color:{style.FAINT_CSS}">… {hidden} tokens before … </span>')
    for i, (piece, number) in list(enumerate(pairs))[hidden:]:
        edge = f";border-bottom:2px solid {style.VERMILLION}" if i == newest else ""
        label = f'<span style="font-size:10px;color:{style.FAINT_CSS}">{number}</span>' if ids else ""
        out.append(f'<span title="token {i}: id {number}" style="display:inline-flex;flex-direction:column;'
                   f"align-items:center;max-width:100%;margin:1px;padding:1px 4px;border-radius:3px;"
                   f'background:{style.rgba(tints[i % 4], 0.28)}{edge}"><span>{style.escape(style.visible(piece))}'
                   f"</span>{label}</span>")
        if "\n" in piece:
            out.append("<br>")
    return "".join(out) + "</div>"


class NextTokenExplorer(Shown):
    """See `next_token_explorer`. Attributes: ids (the tokens so far), rows (the candidates on show)."""

    name = "next-token explorer"

    def __init__(self, next_probs, pieces, start_ids, decode, end_id=None, candidates=10, temperature=1.0, top_k=0,
                 top_p=1.0, seed=0):
        self.next_probs, self.pieces, self.decode, self.end_id = next_probs, pieces, decode, end_id
        self.start, self.ids, self.candidates = list(start_ids), list(start_ids), candidates
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.random, self.rows, self.kept = random.Random(seed), [], []

    def look_up(self):
        """Ask the callable for the present distribution."""
        rows = [tuple(row) for row in self.next_probs(list(self.ids), self.temperature, self.top_k or None, self.top_p)]
        self.kept = [row for row in rows if row[3] > 0]
        self.rows = sorted(rows, key=lambda row: -row[2])[: self.candidates]
        self.rest = tuple(_left_over(row[k] for row in self.rows) for k in (2, 3))

    @property
    def ended(self):
        """Whether the text ends with the end token."""
        return self.end_id is not None and len(self.ids) > len(self.start) and self.ids[-1] == self.end_id

    def picture(self):
        """The bars of the present state."""
        from ftlab.show import plots

        self.look_up()
        return plots.next_tokens(self.rows, self.decode(self.ids), shown=self.candidates)

    # What the buttons do.

    def append(self, token_id):
        """Append one token and redraw."""
        if not self.ended:
            self.ids.append(token_id)
        self.redraw()

    def choose(self, place):
        """Append the candidate at `place` of the list on show."""
        if place < len(self.rows):
            self.append(self.rows[place][0])

    def sample(self, count=1):
        """Append `count` tokens drawn from the filtered probabilities, or fewer when the text ends."""
        for _ in range(count):
            if self.ended or not self.kept:
                break
            row = self.random.choices(self.kept, weights=[row[3] for row in self.kept])[0]
            self.ids.append(row[0])
            self.look_up()
        self.redraw(fresh=False)

    def greedy(self):
        """Append the likeliest token."""
        if self.kept:
            self.append(max(self.kept, key=lambda row: row[3])[0])

    def undo(self):
        """Take the last token back."""
        if len(self.ids) > len(self.start):
            self.ids.pop()
        self.redraw()

    def restart(self):
        """Back to the start."""
        self.ids = list(self.start)
        self.redraw()

    # What is drawn.

    def build(self):
        """Buttons beside bars; a redraw changes values and makes no new widget."""
        import ipywidgets as w

        self.status, self.text, self.bars = _html(), _html(), _html(flex="1 1 auto", min_width="200px")
        run = lambda action: guarded(self.status, action)  # noqa: E731
        self.buttons = [
            w.Button(description=" ", layout=w.Layout(width="150px", height="28px", margin="2px 0"))
            for _ in range(self.candidates)]
        for place, button in enumerate(self.buttons):
            button.on_click(run(lambda _, place=place: self.choose(place)))
        wide = {"style": {"description_width": "90px"}, "layout": w.Layout(width="290px")}
        self.sliders = {
            "temperature": w.FloatSlider(value=self.temperature, min=0.1, max=2.0, step=0.05,
                                         description="temperature", readout_format=".2f", **wide),
            "top_k": w.IntSlider(value=self.top_k, min=0, max=50, description="top-k (0: off)", **wide),
            "top_p": w.FloatSlider(value=self.top_p, min=0.05, max=1.0, step=0.05, description="top-p (1: off)",
                                   readout_format=".2f", **wide)}
        for name, slider in self.sliders.items():
            slider.observe(run(lambda change, name=name: self.set(name, change["new"])), names="value")
        actions = [("Sample", lambda: self.sample(), "draw one token from the dark bars"),
                   ("Sample 10", lambda: self.sample(10), "draw ten tokens, one after another"),
                   ("Greedy", self.greedy, "take the likeliest token"),
                   ("Undo", self.undo, "take the last token back"),
                   ("Restart", self.restart, "back to the start")]
        self.actions = {text: _button(text, run(action), tip) for text, action, tip in actions}
        rest = _html(f'<div style="line-height:{ROW}px;text-align:center;color:{style.FAINT_CSS}">all others</div>')
        guarded(self.status, self.redraw)()
        flow = w.Layout(flex_flow="row wrap")
        return w.VBox([
            self.text, w.HBox(list(self.actions.values()), layout=flow),
            w.HBox(list(self.sliders.values()), layout=flow),
            w.HBox([w.VBox([*self.buttons, rest]), self.bars]), self.status], layout=w.Layout(max_width="900px"))

    def set(self, name, value):
        """Take a slider's new value and redraw."""
        setattr(self, name, value)
        self.redraw()

    def redraw(self, fresh=True):
        """Show the present state: two HTML values, and what changed on the buttons."""
        if fresh:
            self.look_up()
        pairs = list(zip(self.pieces(self.ids), self.ids, strict=True))
        newest = len(pairs) - 1 if len(self.ids) > len(self.start) else None
        note = " The text has ended: undo or restart." if self.ended else ""
        self.text.value = (
            f'<div style="color:{style.FAINT_CSS};font-size:12px;line-height:1.5">{len(self.ids)} tokens so far. Click '
            f"a candidate to append it.{note}</div>" + _window(chips(pairs, limit=300, newest=newest, ids=False)))
        self.bars.value = _bars_html(self.rows, self.rest)
        for place, button in enumerate(self.buttons):
            row = self.rows[place] if place < len(self.rows) else None
            label = style.visible(row[1]) if row else "–"
            label = label if len(label) <= 16 else label[:15] + "…"
            tip = f"{label}: {style.percent(row[2])} raw, {style.percent(row[3])} after the filters" if row else ""
            with button.hold_sync():
                button.description, button.tooltip = label, tip
                button.disabled = row is None or self.ended


def _window(content, height=78):
    """`content` in a box of fixed height that stays scrolled to its end, so that what stands below never jumps."""
    return (f'<div style="height:{height}px;overflow-y:auto;display:flex;flex-direction:column-reverse">'
            f'<div style="margin-bottom:auto">{content}</div></div>')


def _left_over(shares):
    """What shares leave of 1, rounding errors apart."""
    left = 1 - sum(shares)
    return left if left > 1e-6 else 0.0


def _bars_html(rows, rest):
    """A pair of bars a row, raw over kept, on a common scale from 0 to 100 %; the rest of the vocabulary last."""
    out = [f'<div style="color:{style.INK_CSS};font-size:12px;line-height:1.2;padding-left:8px">']
    for label, raw, kept in [(style.visible(r[1]), r[2], r[3]) for r in rows] + [("all others", *rest)]:
        arrow = f"{style.percent(raw)} → {style.percent(kept) if kept > 0 else 'dropped'}"
        ink = style.INK_CSS if kept > 0 else style.FAINT_CSS
        bars = "".join(
            f'<div style="width:{100 * p:.2f}%;min-width:{1 if p > 0 else 0}px;height:9px;margin:1px 0;'
            f'background:{colour};border-radius:0 2px 2px 0"></div>'
            for p, colour in ((raw, style.SKY), (kept, style.BLUE)))
        # The note stands right behind the longer bar; the track leaves room for it at 100 %.
        out.append(
            f'<div title="{style.escape(label)}: {arrow}" style="height:{ROW}px;display:flex;align-items:center;'
            f'margin-right:120px"><div style="flex:1 1 auto;position:relative;border-left:1px solid {style.LINE_CSS}">'
            f'{bars}<div style="position:absolute;left:{100 * max(raw, kept):.2f}%;top:3px;padding-left:8px;'
            f'white-space:nowrap;color:{ink}">{arrow}</div></div></div>')
    out.append(f'<div style="color:{style.FAINT_CSS};padding-top:4px">upper bar: the model\'s own probability · lower '
               "bar: after temperature, top-k and top-p · full width is 100 %</div></div>")
    return "".join(out)


def next_token_explorer(next_probs, pieces, start_ids, decode, end_id=None, candidates=10, temperature=1.0, top_k=0,
                        top_p=1.0, seed=0):
    """Write a text token by token: click a candidate, or sample, and see the probabilities change.

    next_probs(ids, temperature, top_k, top_p) -> [(token_id, piece, p_raw, p_kept), ...] for the token after `ids`;
    top_k is None when off, top_p 1.0; p_raw is the model's own probability, p_kept the one after temperature and
    filters (0 where dropped). Rows may come in any order, and must hold every token with p_kept > 0 (sampling draws
    from them). pieces(ids) -> [str] names tokens, decode(ids) -> str. With end_id the text can end.
    """
    return NextTokenExplorer(next_probs, pieces, start_ids, decode, end_id, candidates, temperature, top_k, top_p, seed)


class TokenizerBox(Shown):
    """See `tokenizer_box`."""

    name = "tokenizer box"

    def __init__(self, pieces_of, text, rows=3, limit=400):
        self.pieces_of, self.text, self.rows, self.limit = pieces_of, text, rows, limit

    def picture(self):
        """The tokens of the first text."""
        from ftlab.show import plots

        pairs = [(piece, number) for piece, number in self.pieces_of(self.text)]
        return plots.tokens(pairs, title=_counts(pairs, self.text))

    def html(self, text):
        """The tokens and counts of `text` as HTML."""
        pairs = [(piece, number) for piece, number in self.pieces_of(text)]
        shown = pairs[: self.limit]
        more = (f'<div style="color:{style.FAINT_CSS}">… and {len(pairs) - len(shown)} more tokens</div>'
                if len(shown) < len(pairs) else "")
        return (f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.6">{_counts(pairs, text)}</div>'
                + (chips(shown, limit=self.limit) if pairs else "") + more)

    def build(self):
        """A text area over the tokens."""
        import ipywidgets as w

        self.status, self.output = _html(), _html()
        self.area = w.Textarea(value=self.text, placeholder="type here", rows=self.rows, continuous_update=True,
                               layout=w.Layout(width="98%"))
        update = guarded(self.status, self.update)
        self.area.observe(lambda change: update(change["new"]), names="value")
        update(self.text)
        return w.VBox([self.area, self.output, self.status], layout=w.Layout(max_width="900px"))

    def update(self, text):
        """Show `text` cut into tokens."""
        self.text = text
        self.output.value = self.html(text)


def _counts(pairs, text):
    size = len(text.encode("utf-8", "surrogatepass"))
    ratio = f" · {len(text) / len(pairs):.2f} characters per token" if pairs else ""
    return f"{_many(len(pairs), 'token')} · {_many(len(text), 'character')} · {_many(size, 'byte')}{ratio}"


def _many(count, noun):
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def tokenizer_box(pieces_of, text="", rows=3):
    """A text area that shows its text cut into tokens as one types. pieces_of(text) -> [(piece, id), ...]."""
    return TokenizerBox(pieces_of, text, rows)


class AttentionView(Shown):
    """See `attention_view`. Attributes: layer, head, position (counted from 0)."""

    name = "attention view"

    def __init__(self, tokens, maps, layer=0, head=0, position=None, max_tokens=48, title=None):
        self.tokens, self.maps, self.title = list(tokens), maps, title
        self.count = min(len(self.tokens), max_tokens)
        self.layer, self.head = layer, head
        self.position = min(self.count - 1 if position is None else position, self.count - 1)

    def weights(self):
        """The rows of the present map, cut to what is shown, as floats."""
        chosen = self.maps[self.layer][self.head]
        return [[float(v) for v in row[: self.count]] for row in chosen[: self.count]]

    def picture(self):
        """The present map as a heat map."""
        from ftlab.show import plots

        title = self.title or f"layer {self.layer + 1}, head {self.head + 1}"
        return plots.heatmap(self.maps[self.layer][self.head], self.tokens, title, max_tokens=self.count)

    def build(self):
        """Sliders over the text line and the map."""
        import ipywidgets as w

        self.status, self.line, self.grid = _html(), _html(), _html()
        wide = {"style": {"description_width": "80px"}, "layout": w.Layout(width="280px")}
        self.sliders = {
            "layer": w.IntSlider(value=self.layer + 1, min=1, max=len(self.maps), description="layer", **wide),
            "head": w.IntSlider(value=self.head + 1, min=1, max=len(self.maps[0]), description="head", **wide),
            "position": w.IntSlider(value=self.position + 1, min=1, max=self.count, description="reading at", **wide)}
        for name, slider in self.sliders.items():
            slider.observe(guarded(self.status, lambda change, name=name: self.set(name, change["new"] - 1)),
                           names="value")
        self.redraw()
        return w.VBox([w.HBox(list(self.sliders.values()), layout=w.Layout(flex_flow="row wrap")), self.line,
                       self.grid, self.status], layout=w.Layout(max_width="900px"))

    def set(self, name, value):
        """Take a slider's value (counted from 0); only what depends on it is redrawn."""
        setattr(self, name, value)
        self.redraw(grid=name != "position")

    def redraw(self, grid=True):
        """Show the present map and the text as the chosen token reads it."""
        weights = self.weights()
        self.line.value = _reading_html(self.tokens[: self.count], weights[self.position], self.position)
        if grid:
            cut = f" (first {self.count} of {len(self.tokens)} tokens)" if self.count < len(self.tokens) else ""
            head = f"layer {self.layer + 1}, head {self.head + 1}{cut}"
            self.grid.value = _grid_html(self.tokens[: self.count], weights, head)


def _reading_html(tokens, row, position):
    """The text with each token shaded by how much the token at `position` attends to it."""
    top = max(max(row), 1e-9)
    out = [f'<div style="font-family:{style.MONO_CSS};font-size:13px;line-height:1.9;color:{style.INK_CSS};'
           'overflow-wrap:anywhere;padding:4px 0">']
    for j, (token, weight) in enumerate(zip(tokens, row, strict=True)):
        ring = f";outline:2px solid {style.VERMILLION}" if j == position else ""
        out.append(f'<span title="{weight:.3f}" style="display:inline-block;line-height:1.4;padding:2px 3px;'
                   f'margin:1px;border-radius:3px;background:{style.rgba(style.SHADE, 0.85 * (weight / top) ** 0.7)}'
                   f'{ring}">{style.escape(style.visible(token))}</span>')
    best = max(range(len(row)), key=row.__getitem__)
    out.append(f'</div><div style="color:{style.FAINT_CSS};font-size:12px;line-height:1.5">the ringed token reads the '
               f"shaded ones, most of all “{style.escape(style.visible(tokens[best]))}” with weight {row[best]:.2f}"
               "</div>")
    return "".join(out)


def _grid_html(tokens, weights, head):
    """The map as an HTML grid: hover a cell to read the pair and its weight. CSS and `title` only, no script."""
    top, count = max(max(map(max, weights)), 1e-9), len(tokens)
    side = 16 if count <= 32 else 12
    names = [style.escape(style.visible(token)) for token in tokens]
    tall = min(90, 10 + 7 * max(len(style.visible(token)) for token in tokens))
    rule = (f".ftatt{{font:11px {style.MONO_CSS};color:{style.INK_CSS};overflow-x:auto;line-height:1}}"
            f".ftatt .r{{display:flex;align-items:center;height:{side}px;width:fit-content}}"
            f".ftatt .n{{flex:0 0 90px;text-align:right;padding-right:6px;overflow:hidden;white-space:nowrap}}"
            f".ftatt i{{flex:0 0 {side}px;height:{side}px;box-sizing:border-box;border:1px solid {style.LINE_CSS};"
            "border-width:0 1px 1px 0}"
            f".ftatt .r:hover{{outline:1px solid {style.VERMILLION}}}.ftatt .r:hover .n{{font-weight:bold}}"
            f".ftatt i:hover{{outline:2px solid {style.VERMILLION};outline-offset:-1px}}"
            f".ftatt .c{{flex:0 0 {side}px;height:{tall}px;writing-mode:vertical-rl;transform:rotate(180deg);"
            f"overflow:hidden;white-space:nowrap;line-height:{side}px}}")
    out = [f"<style>{rule}</style>",
           f'<div style="color:{style.FAINT_CSS};font-size:12px;line-height:1.6">{head}: each row is a token that '
           "reads, each column a token read from; hover for the pair and its weight</div>",
           '<div class="ftatt"><div style="display:flex;align-items:flex-start"><span class="n"></span>',
           *(f'<span class="c">{name}</span>' for name in names), "</div>"]
    for i, (name, row) in enumerate(zip(names, weights, strict=True)):
        cells = "".join(  # an earlier token has its number even where a sharp head gives it a weight of 0
            f'<i title="{name} reads {names[j]}: {weight:.3f}" style="background:'
            f'{style.rgba(style.SHADE, (weight / top) ** 0.7)}"></i>' if weight > 0 or j <= i else "<i></i>"
            for j, weight in enumerate(row))
        out.append(f'<div class="r"><span class="n">{name}</span>{cells}</div>')
    return "".join(out) + "</div>"


def attention_view(tokens, maps, layer=0, head=0, position=None, max_tokens=48, title=None):
    """Attention maps to look through: choose layer and head, hover a cell, move the reading token along the text.

    tokens: T pieces; maps: layers x heads x T x T nested lists (or arrays). layer, head, position count from 0 here
    and from 1 on screen. Tokens beyond `max_tokens` are cut, and a note says so.
    """
    return AttentionView(tokens, maps, layer, head, position, max_tokens, title)


class Prediction(Shown):
    """See `prediction`. Attribute: committed (None until the student commits)."""

    name = "a prediction to make before the experiment"

    def __init__(self, question, low=0.0, high=1.0, step=None, unit="", choices=None, on_commit=None, committed=None,
                 percent=False):
        self.question, self.low, self.high, self.unit = question, low, high, unit
        self.step = step or (high - low) / 100
        self.choices = list(choices) if choices else None
        self.on_commit, self.committed, self.percent = on_commit, committed, percent

    def _ipython_display_(self):
        if not headless():
            display_widget(self.widget, f"[prediction: {self.question}]")
            return
        from IPython.display import display

        display({"text/plain": f"Predict first: {self.question}"}, raw=True)

    def build(self):
        """The question, a slider or choices, a button."""
        import ipywidgets as w

        self.status, self.answer = _html(), _html()
        question = _html(f'<div style="color:{style.INK_CSS};font-size:14px;line-height:1.5">'
                         f"<b>Predict first.</b> {style.escape(self.question)}</div>")
        if self.choices:
            # Descriptions of ToggleButtons are cut when long; radio buttons wrap.
            self.control = w.RadioButtons(options=self.choices, value=self.committed or None,
                                          layout=w.Layout(width="auto"))
        else:
            value = self.committed if self.committed is not None else self.low + (self.high - self.low) / 2
            scale = 100 if self.percent else 1
            self.control = w.FloatSlider(
                value=value * scale, min=self.low * scale, max=self.high * scale, step=self.step * scale,
                readout_format=_decimals(self.step * scale), layout=w.Layout(width="420px"))
        self.button = _button("Commit", guarded(self.status, self.commit), "fix this answer; it is not graded",
                              style_name="primary")
        unit = "%" if self.percent else self.unit
        row = [self.control, w.Label(value=unit)] if unit and not self.choices else [self.control]
        if self.committed is not None:
            self.lock()
        return w.VBox([question, w.HBox(row), w.HBox([self.button, self.answer]), self.status])

    def commit(self):
        """Take the answer, tell `on_commit`, lock the widget."""
        value = self.control.value
        if value is None:
            self.answer.value = _note("choose an answer first")
            return
        if self.percent and not self.choices:
            value /= 100
        if self.on_commit:
            self.on_commit(value)
        self.committed = value
        self.lock()

    def lock(self):
        """Show what was committed; it cannot be changed any more."""
        self.control.disabled = self.button.disabled = True
        value = self.committed
        if not self.choices:
            value = style.percent(value) if self.percent else f"{style.number(value)} {self.unit}".strip()
        self.answer.value = _note(f"You predicted {value}. It will be drawn beside the result.")


def _note(text):
    return f'<div style="color:{style.FAINT_CSS};line-height:32px;padding-left:8px">{style.escape(text)}</div>'


def _decimals(step):
    return ".0f" if step >= 1 else ".1f" if step >= 0.1 else ".2f" if step >= 0.01 else ".3f"


def prediction(question, low=0.0, high=1.0, step=None, unit="", choices=None, on_commit=None, committed=None,
               percent=False):
    """A prediction to commit before an experiment: a slider from low to high, or one of `choices`.

    on_commit(value) is called once, with a number (a share in [0, 1] where `percent`) or a choice. committed: an
    answer given earlier, shown locked.
    """
    return Prediction(question, low, high, step, unit, choices, on_commit, committed, percent)


def show_error(error):
    """Display an exception as one line, without its traceback."""
    from IPython.display import display

    display({"text/html": error_html(error), "text/plain": str(error)}, raw=True)
