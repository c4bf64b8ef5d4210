"""Two widgets of quantisation: a quantiser to drag, and the memory of fine-tuning for any model.

They compute nothing: what a setting gives comes from callables. How they appear is said in `ftlab.show.shown`.
"""

import math

from ftlab.show import style
from ftlab.show.shown import Shown, guarded

BOX, TOP, BOTTOM = (760, 250), 30, 205
PANELS = ((20, 390), (440, 745))  # x of the two histograms
BINS = 61
COLOURS = {"weights": style.BLUE, "optimizer": style.ORANGE, "activations": style.GREEN, "logits": style.SKY,
           "gradients": style.VERMILLION, "work": style.PURPLE}  # fmt: skip


def slider(name, options, value):
    """A slider over options, (text, value) pairs or values."""
    import ipywidgets as w

    return w.SelectionSlider(options=options, value=value, description=name, layout=w.Layout(width="360px"),
                             style={"description_width": "90px"})


def dropdown(name, options, value):
    """A list to choose from."""
    import ipywidgets as w

    return w.Dropdown(options=options, value=value, description=name, layout=w.Layout(width="300px"),
                      style={"description_width": "90px"})


class Explorer(Shown):
    """Controls over a drawing and a caption; subclasses give controls(), svg() and text()."""

    def set(self, name, value):
        """Take one setting and redraw."""
        self.settings[name] = value
        self.refresh()

    def build(self):
        """The controls over the drawing."""
        import ipywidgets as w

        self.status, self.drawing, self.caption = w.HTML(), w.HTML(), w.HTML()
        self.made = self.controls()
        for name, control in self.made.items():
            control.observe(guarded(self.status, lambda change, name=name: self.set(name, change["new"])), names="value")
        self.refresh()
        return w.VBox([w.HBox(list(self.made.values()), layout=w.Layout(flex_flow="row wrap")), self.drawing,
                       self.caption, self.status], layout=w.Layout(max_width="900px"))

    def refresh(self):
        """Look the present settings up; redraw two HTML values where a widget is on show."""
        self.look_up()
        if hasattr(self, "drawing"):
            self.drawing.value = self.svg()
            self.caption.value = f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.5">{self.text()}</div>'


# ---- a quantiser to drag


class Quantiser(Explorer):
    """See `quantiser`. Attributes: settings, seen (what the callable said of them)."""

    name = "a quantiser to drag"

    def __init__(self, look, codebooks, bits, block_sizes, settings):
        self.look, self.codebooks, self.bits, self.block_sizes = look, list(codebooks), list(bits), list(block_sizes)
        self.settings = dict(settings)
        self.look_up()
        self.widest = 2.0 * max(abs(e) for e in self.seen["errors"]) or 1.0  # the errors' axis stays as it is

    def look_up(self):
        """Ask the callable."""
        self.seen = self.look(**self.settings)

    def controls(self):
        """Codebook, bits, block size."""
        blocks = [(str(size) if size else "whole tensor", size or 0) for size in self.block_sizes]  # None is no value there
        return {"codebook": dropdown("codebook", self.codebooks, self.settings["codebook"]),
                "bits": slider("bits", self.bits, self.settings["bits"]),
                "block_size": slider("block size", blocks, self.settings["block_size"] or 0)}

    def set(self, name, value):
        """Take one setting and redraw; block size 0 is None, the whole tensor."""
        super().set(name, value or None)

    def text(self):
        """Levels, bits a weight and error, in words."""
        seen, block = self.seen, self.settings["block_size"]
        note = f' <span style="color:{style.FAINT_CSS}">{style.escape(seen["note"])}</span>' if seen.get("note") else ""
        return (f"{len(set(seen['levels']))} levels, a scale for {f'every {block} weights' if block else 'all weights'}: "
                f"<b>{seen['bits']:.2f}</b> bits a weight. Mean error <b>{seen['mean_abs']:.3g}</b>, root of the mean "
                f"square {seen['rms']:.3g}; that is {style.percent(seen['share'])} of the weights' own.{note}")

    def svg(self):
        """Both histograms."""
        out = [f'<svg role="img" aria-label="histograms of scaled weights and of errors" viewBox="0 0 {BOX[0]} {BOX[1]}" '
               f'style="max-width:{BOX[0]}px;width:100%;display:block;font:11px sans-serif;fill:{style.INK_CSS}">']
        out += self._panel(PANELS[0], self.seen["scaled"], 1.0, style.SKY, "weights over their scale, and the levels")
        a, b = PANELS[0]
        for level in self.seen["levels"]:
            if -1.001 <= level <= 1.001:
                x = a + (level + 1) / 2 * (b - a)
                out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{BOTTOM + 6}" style="stroke:'
                           f'{style.VERMILLION};stroke-width:1.2"/>')
        out += self._panel(PANELS[1], self.seen["errors"], self.widest, style.BLUE, "errors: what comes back, minus the weight")
        return "".join(out) + "</svg>"

    def _panel(self, where, values, widest, colour, title):
        (a, b), counts = where, histogram(values, widest)
        width, top = (b - a) / BINS, max(1, max(counts))
        out = [f'<text x="{a}" y="16" style="font-weight:600">{title}</text>',
               f'<line x1="{a}" x2="{b}" y1="{BOTTOM}" y2="{BOTTOM}" style="stroke:{style.LINE_CSS}"/>']
        for i, count in enumerate(counts):
            height = count / top * (BOTTOM - TOP)
            out.append(f'<rect x="{a + i * width:.1f}" y="{BOTTOM - height:.1f}" width="{max(width - 0.6, 0.6):.1f}" '
                       f'height="{height:.1f}" style="fill:{colour};opacity:0.75"/>')
        for share in (-1, -0.5, 0, 0.5, 1):
            x = a + (share + 1) / 2 * (b - a)
            out.append(f'<text x="{x:.1f}" y="{BOTTOM + 20}" text-anchor="middle">{share * widest:.3g}</text>')
        return out

    def picture(self):
        """The present setting's two histograms."""
        return _quantised_picture(self)


def histogram(values, widest):
    """Counts of BINS equal stretches of [-widest, widest]; what is beyond falls into the outermost."""
    counts = [0] * BINS
    for value in values:
        place = math.floor((value / widest + 1) / 2 * BINS)
        counts[min(max(place, 0), BINS - 1)] += 1
    return counts


def _quantised_picture(view):
    from ftlab.show import plots

    @plots._styled
    def draw():
        figure, (left, right) = plots._figure(height=2.7, columns=2, alt="scaled weights with the levels; errors")
        for axes, values, widest, colour in ((left, view.seen["scaled"], 1.0, style.SKY),
                                             (right, view.seen["errors"], view.widest, style.BLUE)):
            edges = [widest * (2 * (i + 0.5) / BINS - 1) for i in range(BINS)]
            axes.bar(edges, histogram(values, widest), width=2 * widest / BINS * 0.92, color=colour)
            axes.set_yticks([])
        left.set_xticks([-1, -0.5, 0, 0.5, 1])
        for level in view.seen["levels"]:
            left.axvline(level, color=style.VERMILLION, linewidth=1)
        block = view.settings["block_size"]
        plots._titles(left, f"{view.settings['codebook']}, {view.settings['bits']} bits, "
                      + (f"blocks of {block}" if block else "one scale"), "weight over its scale, and the levels", "")
        plots._titles(right, f"mean error {view.seen['mean_abs']:.3g}", "what comes back, minus the weight", "")
        return figure

    return draw()


def quantiser(look, codebooks, bits=tuple(range(2, 9)), block_sizes=(None, 1024, 256, 64, 32, 16), codebook=None,
              start_bits=4, block_size=64):
    """Drag bits and block size, choose a codebook, and see the levels and the errors.

    look(codebook, bits, block_size) -> dict(scaled, levels, errors: lists of floats; mean_abs, rms, share, bits: floats;
    note: text, or left out). block_size None: one scale for the whole tensor.
    """
    return Quantiser(look, codebooks, bits, block_sizes,
                     {"codebook": codebook or next(iter(codebooks)), "bits": start_bits, "block_size": block_size})


# ---- the memory of fine-tuning


class MemoryExplorer(Explorer):
    """See `memory_explorer`. Attributes: settings, seen ({method: {part: bytes}})."""

    name = "memory of fine-tuning, by formula"

    def __init__(self, look, choices, settings, cards):
        self.look, self.choices, self.settings, self.cards = look, choices, dict(settings), cards
        self.look_up()

    def look_up(self):
        """Ask the callable."""
        self.seen = self.look(**self.settings)

    def controls(self):
        """A list or slider a setting: numbers slide, names are chosen, yes or no is ticked."""
        import ipywidgets as w

        made = {}
        for name, options in self.choices.items():
            value = self.settings[name]
            if isinstance(value, bool):
                made[name] = w.Checkbox(value=value, description=name, layout=w.Layout(width="260px"))
            elif isinstance(value, str):
                made[name] = dropdown(name, options, value)
            else:
                made[name] = slider(name, options, value)
        return made

    def text(self):
        """The smallest card that holds each method."""
        parts = []
        for method, part in self.seen.items():
            need = sum(part.values())
            fits = next((name for name, size in self.cards.items() if size >= need), None)
            parts.append(f"{style.escape(method)} <b>{_gib(need)}</b>" + (f" ({style.escape(fits)})" if fits else " (no card)"))
        return "Peak, and the smallest card that holds it: " + " · ".join(parts)

    def svg(self):
        """A bar a method, its parts side by side."""
        left, right, row = 78, 745, 30
        needs = {method: sum(part.values()) for method, part in self.seen.items()}
        top, height = max(needs.values()), 56 + row * len(needs)
        out = [f'<svg role="img" aria-label="memory of each method" viewBox="0 0 760 {height}" style="max-width:760px;'
               f'width:100%;display:block;font:11px sans-serif;fill:{style.INK_CSS}">', self._key(left)]
        free = math.inf  # the largest card is named first; those whose names would lie on its name have a line only
        for name, size in sorted(self.cards.items(), key=lambda card: -card[1]):
            x = left + size / top * (right - left - 70)
            if size >= top:
                continue
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{height - 18}" style="stroke:{style.LINE_CSS};'
                       'stroke-dasharray:4 3"/>')
            if x + 40 <= free:
                free = x
                out.append(f'<text x="{x:.1f}" y="{height - 5}" text-anchor="middle">{style.escape(name)}</text>')
        for i, (method, part) in enumerate(self.seen.items()):
            x, y = left, 28 + i * row
            out.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end" style="font-weight:600">{method}</text>')
            for name, size in part.items():
                width = size / top * (right - left - 70)
                out.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="21" style="fill:{COLOURS[name]}">'
                           f"<title>{method}: {name} {_gib(size)}</title></rect>")
                x += width
            out.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{_gib(needs[method])}</text>')
        return "".join(out) + "</svg>"

    def _key(self, left):
        out, x = [], left
        for name, colour in COLOURS.items():
            if any(name in part for part in self.seen.values()):
                out.append(f'<rect x="{x}" y="5" width="10" height="10" style="fill:{colour}"/>'
                           f'<text x="{x + 14}" y="14">{name}</text>')
                x += 26 + 7 * len(name)
        return "".join(out)

    def picture(self):
        """The present setting as bars."""
        return _memory_picture(self)


def _gib(value):
    return f"{value / 2**30:.1f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _memory_picture(view):
    from ftlab.show import plots

    @plots._styled
    def draw():
        figure, axes = plots._figure(height=1.3 + 0.4 * len(view.seen), alt="memory of each method, by part")
        named = set()
        for i, part in enumerate(view.seen.values()):
            left = 0.0
            for name, size in part.items():
                axes.barh(i, size / 2**30, left=left, height=0.62, color=COLOURS[name],
                          label=None if name in named else name)
                named.add(name)
                left += size / 2**30
            axes.annotate(_gib(left * 2**30), (left, i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_yticks(range(len(view.seen)), list(view.seen))
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.legend(ncols=6, loc="lower left", bbox_to_anchor=(0, 1.0), fontsize=8, handlelength=1, columnspacing=1)
        words = ", ".join(value if isinstance(value, str) else f"{name} {value}" for name, value in view.settings.items()
                          if value is not False)
        plots._titles(axes, None, f"GiB at the peak: {words}", "")
        return figure

    return draw()


CARDS = {"8 GB": 8e9, "16 GB": 16e9, "24 GB": 24e9, "48 GB": 48e9, "80 GB": 80e9}


def memory_explorer(look, choices, settings, cards=None):
    """What each method needs, as bars of its parts, for a model and setting to choose.

    look(**settings) -> {method: {part: bytes}}; parts are those of `ftlab.measure.cost.Memory`. choices: {setting: its
    options}; settings: {setting: first value}; a text makes a list, a number a slider, True or False a box to tick.
    """
    return MemoryExplorer(look, choices, settings, cards or CARDS)
