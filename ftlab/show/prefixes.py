"""Two widgets of adapters and prefixes: attention with a prefix before the text, and one base with several adapters.

They compute nothing: maps and answers come from outside. How they appear is said in `ftlab.show.shown`.
"""

import time

from ftlab.show import style
from ftlab.show.shown import Shown, guarded


def _html():
    import ipywidgets as w

    return w.HTML(layout=w.Layout(margin="0"))


# ---- attention with a prefix


class PrefixAttentionView(Shown):
    """See `prefix_attention_view`. Attributes: chosen (name of the prefix), layer, head, position (counted from 0)."""

    name = "attention to a prefix"

    def __init__(self, tokens, views, layer=0, head=0, position=None):
        self.tokens, self.views = list(tokens), dict(views)
        self.chosen, self.layer, self.head = next(iter(self.views)), layer, head
        self.position = len(self.tokens) - 1 if position is None else position

    def weights(self):
        """The rows of the present map: T rows of P + T floats."""
        return [[float(x) for x in row] for row in self.views[self.chosen][1][self.layer][self.head]]

    def labels(self):
        """A label for each of the P virtual tokens: their text where they began as one, else their number."""
        return [str(label) for label in self.views[self.chosen][0]]

    def share(self):
        """For each token the share of its attention that goes to the prefix."""
        before = len(self.labels())
        return [sum(row[:before]) for row in self.weights()]

    def picture(self):
        """The present map, the prefix's columns first."""
        from ftlab.show import plots

        title = f"{self.chosen}: layer {self.layer + 1}, head {self.head + 1}"
        return plots.prefix_heatmap(self.weights(), self.tokens, self.labels(), title)

    def build(self):
        """A list of prefixes and three sliders over two lines of text."""
        import ipywidgets as w

        self.status, self.output = _html(), _html()
        wide = {"style": {"description_width": "80px"}, "layout": w.Layout(width="280px")}
        layers = max(len(maps) for _, maps in self.views.values())
        heads = max(len(maps[0]) for _, maps in self.views.values())
        self.controls = {
            "chosen": w.Dropdown(options=list(self.views), value=self.chosen, description="prefix", **wide),
            "layer": w.IntSlider(value=self.layer + 1, min=1, max=layers, description="layer", **wide),
            "head": w.IntSlider(value=self.head + 1, min=1, max=heads, description="head", **wide),
            "position": w.IntSlider(value=self.position + 1, min=1, max=len(self.tokens), description="reading at",
                                    **wide)}
        for name, control in self.controls.items():
            control.observe(guarded(self.status, lambda change, name=name: self.set(
                name, change["new"] if name == "chosen" else change["new"] - 1)), names="value")
        self.output.value = self.html()
        return w.VBox([w.HBox(list(self.controls.values()), layout=w.Layout(flex_flow="row wrap")), self.output,
                       self.status], layout=w.Layout(max_width="900px"))

    def set(self, name, value):
        """Take a control's value and redraw."""
        setattr(self, name, value)
        self.output.value = self.html()

    def html(self):
        """The prefix and the text as the chosen token reads them, and under each token its share for the prefix."""
        labels, row, shares = self.labels(), self.weights()[self.position], self.share()
        top = max(max(row), 1e-9)
        before = len(labels)
        out = [_heading("the prefix, as the ringed token reads it")]
        out.append(_line(_cell(label, row[i] / top, f"{row[i]:.3f}") for i, label in enumerate(labels)))
        out.append(_heading("the text; below each token, how much of its attention goes to the prefix"))
        out.append(_line(
            _cell(token, row[before + j] / top, f"{row[before + j]:.3f}", ringed=j == self.position,
                  below=style.percent(shares[j])) for j, token in enumerate(self.tokens)))
        out.append(f'<div style="color:{style.FAINT_CSS};font-size:12px;line-height:1.5">token {self.position + 1} gives '
                   f"the prefix {100 * shares[self.position]:.0f} % of its attention; on average "
                   f"{100 * sum(shares) / len(shares):.0f} %</div>")
        return "".join(out)


def _heading(text):
    return f'<div style="color:{style.FAINT_CSS};font-size:12px;padding-top:6px">{style.escape(text)}</div>'


def _line(cells):
    return (f'<div style="font-family:{style.MONO_CSS};font-size:13px;color:{style.INK_CSS};display:flex;'
            f'flex-wrap:wrap">{"".join(cells)}</div>')


def _cell(text, share, title, ringed=False, below=""):
    ring = f";outline:2px solid {style.VERMILLION}" if ringed else ""
    under = f'<span style="font-size:10px;color:{style.FAINT_CSS}">{below}</span>' if below else ""
    return (f'<span title="{title}" style="display:inline-flex;flex-direction:column;align-items:center;margin:1px;'
            f'padding:1px 4px;border-radius:3px;background:{style.rgba(style.SHADE, 0.85 * share ** 0.7)}{ring}">'
            f"<span>{style.escape(style.visible(text))}</span>{under}</span>")


def prefix_attention_view(tokens, views, layer=0, head=0, position=None):
    """Where each token of a text looks, the virtual tokens of a prefix included.

    tokens: T pieces of the text. views: {name of a prefix: (P labels, maps)}, maps layers x heads x T x (P + T), as
    `PrefixedTransformer.attention_maps` gives them for one text; the first is on show. layer, head, position count from
    0 here and from 1 on screen.
    """
    return PrefixAttentionView(tokens, views, layer, head, position)


# ---- one base, several adapters


class SwapView(Shown):
    """See `swap_view`. Attributes: prompt (its text), answers ({name: (answer, note)} of that prompt)."""

    name = "one base, several adapters: swap and compare"

    def __init__(self, names, answer, prompts, note=None):
        self.names, self.answer, self.prompts, self.note = list(names), answer, list(prompts), note
        self.prompt, self.answers = self.prompts[0], {}

    def ask(self, name):
        """Ask the present prompt with the adapters `name`; keeps answer and time."""
        began = time.perf_counter()
        text = self.answer(self.prompt, name)
        seconds = time.perf_counter() - began
        said = self.note(self.prompt, text) if self.note else ""
        self.answers[name] = (text, f"{seconds:.2f} s" + (f" · {said}" if said else ""))

    def ask_all(self):
        """The present prompt to all, one after another."""
        for name in self.names:
            self.ask(name)

    def picture(self):
        """The first prompt with all answers."""
        from ftlab.show import plots

        # Times differ from run to run, so the picture, which is stored, leaves them out.
        stages = []
        for name in self.names:
            text = self.answer(self.prompt, name)
            stages.append((name, text, self.note(self.prompt, text) if self.note else ""))
        return plots.answers(self.prompt, stages)

    def html(self):
        """The answers so far, one under another."""
        out = []
        for name in self.names:
            text, note = self.answers.get(name, ("", "not asked yet"))
            edge = style.BLUE if name in self.answers else style.LINE_CSS
            out.append(f'<div style="color:{style.FAINT_CSS};font-size:12px">{style.escape(name)} · '
                       f'{style.escape(note)}</div><div style="border-left:3px solid {edge};padding:2px 10px;'
                       f'margin:2px 0 8px;min-height:1.5em;white-space:pre-wrap;line-height:1.45;'
                       f'color:{style.INK_CSS}">{style.escape(text)}</div>')
        return "".join(out)

    def build(self):
        """A list of prompts, a box to change one, a button for each set of adapters and one for all."""
        import ipywidgets as w

        self.status, self.output = _html(), _html()
        names = [(f"{i + 1}: {' '.join(p.split())[:80]}", i) for i, p in enumerate(self.prompts)]
        self.list = w.Dropdown(options=names, value=0, description="prompt", layout=w.Layout(width="98%"))
        self.area = w.Textarea(value=self.prompt, rows=4, layout=w.Layout(width="98%"))
        run = lambda action: guarded(self.status, action)  # noqa: E731
        self.list.observe(run(lambda change: setattr(self.area, "value", self.prompts[change["new"]])), names="value")
        self.area.observe(run(lambda change: self.change(change["new"])), names="value")
        self.buttons = {}
        for name in [*self.names, "all of them"]:
            button = w.Button(description=name, layout=w.Layout(width="auto"))
            button.on_click(run(lambda _, name=name: self.click(name)))
            self.buttons[name] = button
        self.output.value = self.html()
        return w.VBox([self.list, self.area, w.HBox(list(self.buttons.values()), layout=w.Layout(flex_flow="row wrap")),
                       self.output, self.status], layout=w.Layout(max_width="900px"))

    def change(self, prompt):
        """Another prompt: what was answered to the last one goes."""
        self.prompt, self.answers = prompt, {}
        self.output.value = self.html()

    def click(self, name):
        """Ask with one set, or with all."""
        self.ask_all() if name == "all of them" else self.ask(name)
        self.output.value = self.html()


def swap_view(names, answer, prompts, note=None):
    """One base with several sets of adapters: choose or type a prompt, click a set, compare the answers.

    names: of the sets, the base first. answer(prompt, name) -> text. prompts: texts to choose from; note(prompt, answer)
    -> a line about the answer, or None.
    """
    return SwapView(names, answer, prompts, note)
