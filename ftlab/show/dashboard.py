"""Alignment made visible while it runs: reward, true utility, KL, validity and length side by side, and a sample text.

A reward that rises says nothing by itself: the proxy can rise while what it stands for falls. So the panels stand
together. Drawing and manners are `LivePlot`'s.
"""

import dataclasses
import time

from ftlab.show import live, style
from ftlab.show.live import LivePlot
from ftlab.show.terminal import TextProgress, step_text

BOX = (420, 165, 46, 14, 22, 32)  # width, height, and margins left, right, top, bottom of a panel
DOTTED = 40  # points a line, up to which each is marked


@dataclasses.dataclass(frozen=True)
class Panel:
    """One measure: the metric's name, its heading with the unit, whether it is a share, and whether 0 is in sight."""

    metric: str
    heading: str
    share: bool = False
    from_zero: bool = False


# In this order; a panel appears when the run reports its metric.
PANELS = (
    Panel("reward", "reward (the proxy)"),
    Panel("utility", "true utility"),
    Panel("kl", "KL to the reference (nats per story)", from_zero=True),
    Panel("valid", "valid stories", share=True),
    Panel("length", "length (tokens)", from_zero=True),
    Panel("accuracy", "pairs ranked rightly", share=True),
    Panel("margin", "margin of the implicit rewards"),
    Panel("loss", "loss"),
)


class AlignPlot(LivePlot):
    """A callback that draws PPO, DPO or a reward model's training as it goes: a panel a metric, and a sample text.

    Events are dicts as `ftlab.train.loop` sends them (kind: start, step, eval, end; step, steps, eta_seconds) with
    "metrics", a dict of numbers, and "sample", a text, where there is one. Panels follow from the metrics' names (see
    PANELS); other metrics stand in the line below. Metrics may come at some steps only.
    marks: {metric: (value, text)}, drawn as dashed lines (where SFT stood, say). panels: other Panels instead.
    In a notebook the drawing is renewed at most every 0.7 s and a picture ends it; in a terminal lines of text are
    written to `stream` (default: stderr). Attributes: series ({metric: (steps, values)}), sample.
    """

    def __init__(self, title=None, marks=None, panels=PANELS, stream=None, clock=time.perf_counter):
        self.marks, self.panels = marks or {}, panels
        self._text = TextProgress(stream, clock=clock)
        super().__init__(title=title, clock=clock)

    def _clear(self):
        super()._clear()
        self.series, self.sample = {}, ""

    def __call__(self, event):
        """Take one event."""
        kind = event["kind"]
        if kind == "start":
            self._start(event)
        else:
            self._take(event)
        if self._in_terminal():
            self._text(event)
        if kind in ("step", "eval"):
            self._redraw_if_due()
        elif kind == "end":
            self._finish()

    def _start(self, event):
        self._clear()
        self.total = max(1, event["steps"])
        for past in getattr(event.get("history"), "evals", ()):  # a resumed run shows what came before
            self._add(past["step"], past)
        self._open_target()

    def _in_terminal(self):
        return not (style.in_kernel() or live._hosts)

    def _take(self, event):
        if event["kind"] == "step":
            self.steps.append(event["step"])
            self.last = event
        self._add(event["step"], event.get("metrics") or {})
        self.sample = event.get("sample") or self.sample

    def _add(self, step, metrics):
        for name, value in metrics.items():
            value = value.item() if hasattr(value, "item") else value  # of NumPy or torch
            if name != "step" and live._finite(value) and not isinstance(value, bool):
                steps, values = self.series.setdefault(name, ([], []))
                if steps[-1:] == [step]:  # an evaluation after the step's own metrics
                    values[-1] = value
                else:
                    steps.append(step)
                    values.append(value)
                self.metrics[name] = value

    def shown(self):
        """The Panels whose metric the run has reported."""
        return [panel for panel in self.panels if panel.metric in self.series]

    def _finish(self):
        if self.series:
            super()._finish()

    def figure(self):
        """The run as a static picture."""
        from ftlab.show import plots

        panels = [(p.heading, *self.series[p.metric], p.share, self.marks.get(p.metric)) for p in self.shown()]
        return plots.dashboard(panels, self.total, self.sample, self.title)

    def caption(self, over=False):
        """The step, the last metrics and the time left, over the sample text."""
        if not self.last:
            return ""
        line = (f"step {self.last['step']} of {self.total}  "
                + step_text({**self.last, "steps": self.total, "loss": None, "metrics": self.metrics}))
        text = (f'<div style="color:{style.FAINT_CSS};font-size:12px;padding-top:4px">a sample of this run</div>'
                f'<div style="border-left:3px solid {style.BLUE};padding:2px 10px;white-space:pre-wrap;line-height:1.45;'
                f'max-height:9em;overflow-y:auto;color:{style.INK_CSS}">{style.escape(self.sample)}</div>'
                if self.sample and not over else "")  # the picture holds it
        return (f'<div style="font-size:12px;line-height:1.5;color:{style.FAINT_CSS};white-space:pre-wrap">'
                f"{style.escape(line)}{'  done' if over else ''}</div>{text}")

    def svg(self):
        """The panels as HTML: two a row where there is room."""
        drawn = "".join(f'<div style="flex:1 1 340px;max-width:{BOX[0]}px">{self._panel(i, panel)}</div>'
                        for i, panel in enumerate(self.shown()))
        title = (f'<div style="color:{style.INK_CSS};font-weight:600;font-size:13px">{style.escape(self.title)}</div>'
                 if self.title else "")
        return f'{title}<div style="display:flex;flex-wrap:wrap;gap:0 12px;max-width:880px">{drawn}</div>'

    def _panel(self, number, panel):
        steps, values = live.thin(*self.series[panel.metric])
        mark, colour = self.marks.get(panel.metric), style.SERIES[number % 5]
        low, high = self._range(panel, values, mark)
        place = live._scale(self.total, low, high, BOX[1], BOX)
        text = (lambda v: f"{100 * v:.0f} %") if panel.share else (lambda v: f"{v:g}")
        out = live._frame(place, self.total, low, high, BOX[1], panel.heading, panel.heading, text, BOX)
        if mark:
            x, y = place(self.total, mark[0])
            out.append(live._path(place, [0, self.total], [mark[0]] * 2, style.INK_CSS, 1.2, "6 4"))
            out.append(f'<text x="{x - 4:.1f}" y="{y - 4:.1f}" text-anchor="end">{style.escape(mark[1])}</text>')
        out.append(live._path(place, steps, values, colour))
        if len(steps) <= DOTTED:
            for s, v in zip(steps, values, strict=True):
                x, y = place(s, v)
                out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>step {s}: {text(v)}</title>'
                           "</circle>")
        x, y = place(steps[-1], values[-1])
        last = style.percent(values[-1]) if panel.share else style.number(values[-1])
        out.append(f'<text x="{BOX[0] - BOX[3]}" y="12" text-anchor="end" style="font-weight:600">{last}</text>')
        return "".join(out) + "</svg>"

    def _range(self, panel, values, mark):
        if panel.share:
            return 0.0, 1.0
        known = [*values, *([mark[0]] if mark else []), *([0.0] if panel.from_zero else [])]
        pad = 0.1 * (max(known) - min(known)) or 0.5
        return min(known) - (0 if panel.from_zero and min(known) == 0 else pad), max(known) + pad
