"""An explorer of committed runs: drag the rate and one other factor, and see the run that was made with them.

It looks up and draws; it runs nothing, so a move costs a few milliseconds.
"""

import math

from ftlab.show import style
from ftlab.show.shown import Shown, guarded

BOX = (760, 300)  # width and height of the drawing
TOP, BOTTOM = 26, 258  # of both panels
LEFT, RIGHT = (52, 440), (500, 748)  # x of the panels: loss against steps, end against rate
FAINT, STRONG = (style.GREY, 1.4, "5 3"), (style.BLUE, 2.2, "")  # colour, width, dashes: the base, the run on show
LOWEST = 0.02  # nats above the floor; what is lower is drawn there


class SweepExplorer(Shown):
    """See `sweep_explorer`. Attributes: rate, and `way`, a dict of the other factors' values."""

    name = "explorer of learning-rate runs"

    def __init__(self, data, labels=None):
        self.base, self.rates, self.factors = dict(data["base"]), list(data["rates"]), data["factors"]
        self.floor, self.labels = data["floor"], labels or {}
        self.runs = {self._key(run["rate"], run): run for run in data["runs"]}
        self.way = dict(self.base)
        self.rate = self.best(self.base)["rate"]
        self.highest = 2 * max(run["start"] - self.floor for run in data["runs"])  # what is higher is drawn there
        self.redraws, self._moving = 0, False

    def _key(self, rate, way):
        return (rate, *(way[name] for name in self.factors))

    # What is looked up.

    def run(self, rate=None, way=None):
        """The committed run of a rate and a way (default: those on show)."""
        return self.runs[self._key(self.rate if rate is None else rate, way or self.way)]

    def line(self, way):
        """The runs of a way at all rates, from the lowest."""
        return [self.run(rate, way) for rate in self.rates]

    def best(self, way):
        """The run of a way that ends lowest."""
        return min((run for run in self.line(way) if not lost(run)), key=lambda run: run["final"])

    def excess(self, run):
        """Nats per token above the floor at a run's end, None where it diverged."""
        return None if lost(run) else run["final"] - self.floor

    def label(self, name, value):
        """How a value of a factor is shown."""
        return self.labels.get(name, str)(value)

    def words(self, way):
        """A way in words: "cosine, warmup 5 %, batch 256, Muon"."""
        return ", ".join(self.label(name, way[name]) for name in self.factors)

    # What moves.

    def set(self, name, value):
        """Take the rate or one other factor. Runs exist for one factor at a time: the others go back to the base."""
        if name == "rate":
            self.rate = value
        elif value == self.base[name]:
            self.way = dict(self.base)
        else:
            self.way = self.base | {name: value}
        self.redraw()

    def build(self):
        """A slider a factor over the drawing."""
        import ipywidgets as w

        layout, wide = w.Layout(width="360px"), {"description_width": "80px"}
        self.status, self.drawing, self.caption = w.HTML(), w.HTML(), w.HTML()
        self.sliders = {"rate": w.SelectionSlider(
            options=[(f"{rate:g}", rate) for rate in self.rates], value=self.rate, description="rate", layout=layout,
            style=wide)}
        for name, values in self.factors.items():
            self.sliders[name] = w.SelectionSlider(
                options=[(self.label(name, value), value) for value in values], value=self.way[name], description=name,
                layout=layout, style=wide)
        for name, slider in self.sliders.items():
            slider.observe(guarded(self.status, lambda change, name=name: self._moved(name, change["new"])),
                           names="value")
        self.redraw()
        return w.VBox([w.HBox(list(self.sliders.values()), layout=w.Layout(flex_flow="row wrap")), self.drawing,
                       self.caption, self.status], layout=w.Layout(max_width="900px"))

    def _moved(self, name, value):
        if self._moving:
            return  # a slider that we moved ourselves
        self.set(name, value)
        self._moving = True
        try:
            for other, slider in self.sliders.items():
                slider.value = self.rate if other == "rate" else self.way[other]
        finally:
            self._moving = False

    def redraw(self):
        """Show the present run: two HTML values."""
        self.redraws += 1
        self.drawing.value = self.svg()
        self.caption.value = f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.5">{self.text()}</div>'

    # What is drawn.

    def text(self):
        """The present run in two lines of HTML."""
        run, best = self.run(), self.best(self.way)
        if lost(run):
            end = "became no number" if run["final"] is None else "diverged"
            end += f" at step {run['diverged_at']}" if run["diverged_at"] else ""
        else:
            end = f"ends <b>{self.excess(run):.3f}</b> nats above the floor after {run['steps']} steps"
            end += f" (it diverged at step {run['diverged_at']}, and came back)" if run["diverged_at"] else ""
        return (f"Rate {self.rate:g}, {style.escape(self.words(self.way))}: {end}.<br>"
                f'<span style="color:{style.FAINT_CSS}">Best rate of this setting: {best["rate"]:g}, with '
                f"{self.excess(best):.3f}. Grey: {style.escape(self.words(self.base))}. Runs were made for one factor "
                "at a time; moving a second one puts the first back.</span>")

    def svg(self):
        """Both panels as SVG text."""
        run, reference = self.run(), self.best(self.base)
        return "".join([
            f'<svg role="img" aria-label="loss of the run at rate {self.rate:g}" viewBox="0 0 {BOX[0]} {BOX[1]}" '
            f'style="max-width:{BOX[0]}px;width:100%;display:block;font:11px sans-serif;fill:{style.INK_CSS}">',
            self._frame(run["steps"]), self._curve(reference, *FAINT), self._curve(run, *STRONG),
            self._ends(self.base, *FAINT), self._ends(self.way, *STRONG), self._here(run), "</svg>"])

    def _y(self, excess):
        share = math.log(min(max(excess, LOWEST), self.highest) / LOWEST) / math.log(self.highest / LOWEST)
        return BOTTOM - share * (BOTTOM - TOP)

    def _x_rate(self, rate):
        share = math.log(rate / self.rates[0]) / math.log(self.rates[-1] / self.rates[0])
        return RIGHT[0] + 10 + share * (RIGHT[1] - RIGHT[0] - 20)

    def _frame(self, steps):
        """Grid, ticks and their names; both panels share the vertical axis."""
        out = []
        for value in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50):
            if LOWEST <= value <= self.highest:
                y = self._y(value)
                out += [f'<line x1="{a}" x2="{b}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:{style.LINE_CSS};'
                        'stroke-width:0.6"/>' for a, b in (LEFT, RIGHT)]
                out += [f'<text x="{a - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
                        for a, _ in (LEFT, RIGHT)]
        for i in range(5):
            x = LEFT[0] + i / 4 * (LEFT[1] - LEFT[0])
            out.append(f'<text x="{x:.1f}" y="{BOTTOM + 15}" text-anchor="middle">{i * steps // 4}</text>')
        for i, rate in enumerate(self.rates):
            if i % 2 == 0:
                x = self._x_rate(rate)
                out.append(f'<text x="{x:.1f}" y="{BOTTOM + 15}" text-anchor="middle">{rate:g}</text>')
        out += [f'<text x="{(a + b) / 2:.0f}" y="{BOX[1] - 8}" text-anchor="middle">{name}</text>'
                for (a, b), name in ((LEFT, "step"), (RIGHT, "peak learning rate"))]
        out += [f'<text x="{a}" y="13" style="font-weight:600">{name}</text>' for (a, _), name in (
            (LEFT, "training loss above the floor (nats per token)"),
            (RIGHT, "held-out loss at the end, above the floor"))]
        return "".join(out)

    def _curve(self, run, colour, width, dash):
        """One run's loss against its steps, as far as it is a number."""
        count = len(run["losses"])
        whole = max(count, min(run["steps"], self.points()))
        xs = [LEFT[0] + (i + 0.5) / whole * (LEFT[1] - LEFT[0]) for i in range(count)]
        ys = [self._y(loss - self.floor) for loss in run["losses"]]
        return _path(list(zip(xs, ys, strict=True)), colour, width, dash)

    def points(self):
        """How many points a whole committed curve has."""
        return max(len(run["losses"]) for run in self.runs.values())

    def _ends(self, way, colour, width, dash):
        """The ends of a way's runs against their rates; crosses at the top edge for those that diverged."""
        runs = self.line(way)
        kept = [(self._x_rate(run["rate"]), self._y(self.excess(run))) for run in runs if not lost(run)]
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>' for x, y in kept)
        crosses = "".join(
            f'<text x="{self._x_rate(run["rate"]):.1f}" y="{TOP + 8}" text-anchor="middle" style="fill:{colour};'
            'font-weight:700">×</text>' for run in runs if lost(run))
        return _path(kept, colour, width, dash) + dots + crosses

    def _here(self, run):
        """A ring around the run on show."""
        x, y = self._x_rate(run["rate"]), TOP + 4 if lost(run) else self._y(self.excess(run))
        note = "diverged" if lost(run) else f"{self.excess(run):.3f}"
        side, shift = ("end", -11) if x > sum(RIGHT) / 2 else ("start", 11)
        ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" style="fill:none;stroke:{style.VERMILLION};stroke-width:2.2"/>'
        x += shift
        return ring + (f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="{side}" style="font-weight:600">{note}</text>')

    def picture(self):
        """Every line of the sweep: end against rate, a panel a factor."""
        from ftlab.show import plots

        panels = {}
        for name, values in self.factors.items():
            lines = {}
            for value in values:
                runs = self.line(self.base | {name: value})
                label = self.label(name, value) + (" (base)" if value == self.base[name] else "")
                lines[label] = ([run["rate"] for run in runs if not lost(run)],
                                [max(self.excess(run), LOWEST) for run in runs if not lost(run)])
            panels[name] = lines
        title = f"{len(self.runs)} runs, one factor at a time around {self.words(self.base)}"
        return plots.small_multiples(panels, "peak learning rate", "end above the floor (nats per token)", logx=True,
                                     logy=True, title=title)


def lost(run):
    """Whether a run diverged and did not come back: no final loss, or one above the start."""
    return run["final"] is None or run["final"] > run["start"]


def _path(points, colour, width, dash):
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f"stroke-dasharray:{dash};" if dash else ""
    return f'<polyline points="{text}" style="fill:none;stroke:{colour};stroke-width:{width};{dashed}"/>'


def sweep_explorer(data, labels=None):
    """Drag the rate, and one other factor at a time, through runs that were made before.

    data: {"base": {factor: value}, "rates": [...], "factors": {factor: [values]}, "floor": nats per token,
    "runs": [...]}, as `ftlab.train.sweeps` writes it. A run holds its rate and factors, "start" (its first loss),
    "losses" over equal stretches of its "steps", "final" and "diverged_at" (None where it did not).
    labels: {factor: function of a value that gives its text}.
    """
    return SweepExplorer(data, labels)
