"""Training made visible while it runs: a loss plot that redraws itself, and a button that runs something.

The live plot is a small drawing in SVG that costs well under a millisecond, so it can be redrawn often; when the run
ends, a matplotlib picture takes its place.
"""

import inspect
import math
import time

from ftlab.profile import headless
from ftlab.show import style
from ftlab.show.shown import Shown, error_html
from ftlab.show.terminal import metrics_text, step_text

INTERVAL = 0.7  # seconds between redraws, at least
SHARE = 0.05  # of the time that drawing may take, at most
POINTS = 240  # drawn points a line, at most

_hosts = []  # where a plot draws when a button runs it: the innermost run_live_button's area


class LivePlot:
    """A callback for `ftlab.train.train` that draws the training loss, the evaluations and the floor as they come.

    unit: of the loss. floor: in that unit, drawn as a dashed line. metric: the evaluation metric drawn with the loss
    ("loss" where it is left out). share: (metric, label) of a second panel in per cent, such as
    ("kept", "hero and object kept"). Outside a notebook, and under FTLAB_HEADLESS=1, nothing is drawn before the end; the
    final picture is displayed in both kinds of kernel, and `figure()` gives it anywhere. clock: seconds, for tests.
    """

    def __init__(self, floor=None, metric=None, share=None, title=None, floor_label="entropy of the source",
                 name="training", eval_name="held out", unit="nats per token", clock=time.perf_counter):
        self.unit = unit
        self.floor, self.metric, self.share, self.title = floor, metric, share, title
        self.floor_label, self.name, self.eval_name, self.clock = floor_label, name, eval_name, clock
        self.redraws = 0
        self._clear()

    def _clear(self):
        self.steps, self.losses, self.evals, self.total = [], [], [], 1
        self.last, self.metrics = {}, {}
        self._next, self._target = -math.inf, None

    def __call__(self, event):
        """Take one event of the training loop."""
        kind = event["kind"]
        if kind == "start":
            self._start(event)
        elif kind == "step":
            self.steps.append(event["step"])
            self.losses.append(event["loss"])
            self.last = event
            self._redraw_if_due()
        elif kind == "eval":
            self.metrics = dict(event.get("metrics") or {})
            self.evals.append({"step": event["step"], **self.metrics})
            self._redraw_if_due()
        elif kind == "end":
            self._finish()

    def _start(self, event):
        self._clear()
        self.total = max(1, event["steps"])
        history = event.get("history")
        if history is not None:  # a resumed run shows what came before
            self.steps, self.losses = list(history.steps), list(history.losses)
            self.evals = [dict(e) for e in history.evals]
        self._open_target()

    def _open_target(self):
        if not headless() and (style.in_kernel() or _hosts):
            self._target = _hosts[-1].slot() if _hosts else _DisplayTarget()
            self._redraw_if_due()

    def _redraw_if_due(self):
        began = self.clock()
        if self._target is None or began < self._next:
            return
        self._target.html(self.svg() + self.caption())
        self.redraws += 1
        ended = self.clock()
        self._next = ended + max(INTERVAL, (ended - began) * (1 - SHARE) / SHARE)

    def _finish(self):
        if not self.steps:
            return
        if self._target is not None:
            self._target.picture(self.figure(), self.caption(over=True))
        elif style.in_kernel():
            self.figure()._ipython_display_()

    def eval_series(self):
        """(name of the metric, steps, values) of the evaluation drawn with the loss; empty lists without one."""
        names = [self.metric] if self.metric else ["loss", "eval_loss", "valid_loss", "validation_loss"]
        for name in names:
            pairs = [(e["step"], e[name]) for e in self.evals if _finite(e.get(name))]
            if pairs:
                return name, [s for s, _ in pairs], [v for _, v in pairs]
        return None, [], []

    def share_series(self):
        """(steps, shares) of the second panel."""
        name = self.share[0] if self.share else None
        pairs = [(e["step"], e[name]) for e in self.evals if name and _finite(e.get(name))]
        return [s for s, _ in pairs], [v for _, v in pairs]

    def figure(self):
        """The run as a static picture."""
        from ftlab.show import plots

        _, steps, values = self.eval_series()
        return plots.training(self.steps, self.losses, (steps, values), self.share_series(), self.floor,
                              self.floor_label, self.share[1] if self.share else None, self.title, self.name,
                              self.eval_name, self.unit)

    def caption(self, over=False):
        """One or two lines of text under the plot: step, loss, tokens/s, time left; then the last metrics."""
        if not self.last:
            return ""
        head = f"step {self.last['step']} of {self.total}  " + step_text({**self.last, "steps": self.total}, self.floor)
        shown = metrics_text(self.metrics)
        note = f"last evaluation: {shown}" if shown else ""
        return (f'<div style="font-size:12px;line-height:1.5;color:{style.FAINT_CSS};white-space:pre-wrap">'
                f"{style.escape(head)}{'  done' if over else ''}<br>{style.escape(note)}</div>")

    def svg(self):
        """The present curves as SVG text."""
        _, steps, values = self.eval_series()
        out = [_panel(self.steps, self.losses, steps, values, self.total, self.floor, self.floor_label, self.title,
                      self.eval_name, self.unit)]
        if self.share:
            out.append(_share_panel(*self.share_series(), self.total, self.share[1]))
        return "".join(out)


def _finite(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def thin(xs, ys, points=POINTS):
    """At most about `points` points: means over equal stretches, so a noisy curve keeps its course."""
    if len(xs) <= points:
        return list(xs), list(ys)
    size = len(xs) / points
    cuts = [(int(i * size), int((i + 1) * size)) for i in range(points)]
    return [xs[b - 1] for _, b in cuts], [sum(ys[a:b]) / (b - a) for a, b in cuts]


_BOX = (640, 250, 52, 12, 20, 34)  # width, height, and margins left, right, top, bottom


def _scale(total, low, high, height, box=_BOX):
    width, _, left, right, top, bottom = box
    span = high - low or 1.0

    def place(x, y):
        y = min(max(y, low), high)
        return (left + (width - left - right) * x / total, top + (height - top - bottom) * (high - y) / span)

    return place


def _ticks(low, high, count=5):
    """Round positions between low and high."""
    raw = (high - low) / count or 1.0
    unit = 10 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, int(high / step + 1e-9) + 1)]


def _frame(place, total, low, high, height, title, ylabel, text, box=_BOX, xlabel="step"):
    """Axes, grid, ticks and their units."""
    width, _, left, right, top, bottom = box
    out = [f'<svg role="img" aria-label="{style.escape(title)}" viewBox="0 0 {width} {height}" style="max-width:'
           f'{width}px;width:100%;display:block;font:11px sans-serif;fill:{style.INK_CSS}">']
    for tick in _ticks(low, high, 6 if height > 200 else 4 if height > 160 else 3):
        x, y = place(0, tick)
        out.append(f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:{style.LINE_CSS};'
                   f'stroke-width:0.6"/><text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text(tick)}</text>')
    for tick in _ticks(0, total, 6):
        x, y = place(tick, low)
        out.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{tick:g}</text>')
    out.append(f'<text x="{(width + left) / 2}" y="{height - 4}" text-anchor="middle">{style.escape(xlabel)}</text>'
               f'<text x="{left}" y="12" style="font-weight:600">{style.escape(ylabel)}</text>')
    return out


def _path(place, xs, ys, colour, width=1.8, dash=""):
    points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(xs, ys, strict=True))
    dashed = f"stroke-dasharray:{dash};" if dash else ""
    return f'<polyline points="{points}" style="fill:none;stroke:{colour};stroke-width:{width};{dashed}"/>'


def _panel(steps, losses, eval_steps, evals, total, floor, floor_label, title, eval_name, unit):
    height = _BOX[1]
    kept = [(s, v) for s, v in zip(steps, losses, strict=True) if math.isfinite(v)]
    xs, ys = thin([s for s, _ in kept], [v for _, v in kept])
    values = [*ys, *evals, *([floor] if floor is not None else [])] or [0.0, 1.0]
    low, high = min(values), max(values)
    pad = 0.06 * (high - low) or 0.5
    low, high = low - 2 * pad, high + pad  # the floor's name stands below its line
    place = _scale(total, low, high, height)
    heading = f"{title}: loss ({unit})" if title else f"loss ({unit})"
    out = _frame(place, total, low, high, height, heading, heading, lambda v: f"{v:g}")
    if floor is not None:
        x, y = place(total, floor)
        out.append(_path(place, [0, total], [floor, floor], style.INK_CSS, 1.2, "6 4"))
        out.append(f'<text x="{x - 4:.1f}" y="{y + 13:.1f}" text-anchor="end">{style.escape(floor_label)}: {floor:.2f}'
                   "</text>")
    out.append(_path(place, xs, ys, style.BLUE))
    if evals:
        out.append(_path(place, eval_steps, evals, style.VERMILLION, 1))
        for s, v in zip(eval_steps, evals, strict=True):
            x, y = place(s, v)
            out.append(f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{style.VERMILLION}">'
                       f"<title>step {s}: {v:.3f}</title></rect>")
    out.append(_key([("training", style.BLUE, "line")] + ([(eval_name, style.VERMILLION, "square")] if evals else [])))
    return "".join(out) + "</svg>"


def _key(entries):
    """The names of the lines, right of the heading."""
    out, x = [], _BOX[0] - _BOX[3]
    for name, colour, kind in reversed(entries):
        x -= 7 * len(name) + 26
        mark = (f'<rect x="{x + 6}" y="5" width="7" height="7" fill="{colour}"/>' if kind == "square" else
                f'<line x1="{x}" x2="{x + 16}" y1="8" y2="8" style="stroke:{colour};stroke-width:2.5"/>')
        out.append(f'{mark}<text x="{x + 20}" y="12">{style.escape(name)}</text>')
    return "".join(out)


def _share_panel(steps, shares, total, label):
    height = 150
    place = _scale(total, 0.0, 1.0, height)
    out = _frame(place, total, 0.0, 1.0, height, label, label, lambda v: f"{100 * v:.0f} %")
    out.append(_path(place, steps, shares, style.GREEN))
    for s, v in zip(steps, shares, strict=True):
        x, y = place(s, v)
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{style.GREEN}"><title>step {s}: {100 * v:.0f} %'
                   "</title></circle>")
    if shares:
        x, y = place(steps[-1], shares[-1])
        out.append(f'<text x="{min(x, _BOX[0] - 40):.1f}" y="{y - 7 if y > 34 else y + 17:.1f}" text-anchor="middle">'
                   f"{100 * shares[-1]:.0f} %</text>")
    return "".join(out) + "</svg>"


class _DisplayTarget:
    """A cell's own output: HTML that is replaced in place, and by the picture at the end."""

    def __init__(self):
        self.handle = None

    def html(self, text):
        bundle = {"text/html": text, "text/plain": "[training runs]"}
        self._show(bundle, {})

    def picture(self, figure, _caption):
        self._show(*figure.bundle())

    def _show(self, data, metadata):
        from IPython.display import display

        if self.handle is None:
            self.handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self.handle.update(data, metadata=metadata, raw=True)


class _Host:
    """A button's area: plots draw into HTML widgets here, since an Output widget cannot update what it holds."""

    def __init__(self, box):
        self.box = box

    def slot(self):
        import ipywidgets as w

        return _BoxTarget(self, w.HTML(layout=w.Layout(margin="0")))

    def add(self, widget):
        self.box.children = (*self.box.children, widget)


class _BoxTarget:
    def __init__(self, host, area):
        self.host, self.area = host, area
        host.add(area)

    def html(self, text):
        self.area.value = text

    def picture(self, figure, caption):
        from ftlab.show.plots import image_html

        width = round(figure.get_size_inches()[0] * style.SCREEN_DPI)
        self.area.value = image_html(figure.png(), figure.alt, width) + caption


class RunLive(Shown):
    """See `run_live_button`. Attributes: result (of the last run), running."""

    name = "a button that runs this live"

    def __init__(self, label, run, picture=None, note=""):
        self.label, self.run, self._picture, self.note = label, run, picture, note
        self.result, self.running = None, False

    def picture(self):
        """The picture given for readers without a kernel."""
        return self._picture() if callable(self._picture) else self._picture

    def build(self):
        """The button, a line of text, an area for plots, an area for anything else."""
        import ipywidgets as w

        self.button = w.Button(description=self.label, icon="play", button_style="primary",
                               tooltip="runs in this kernel; interrupt the kernel to stop it",
                               layout=w.Layout(width="auto", max_width="100%"))
        self.button.on_click(lambda _: self.click())
        self.status = w.HTML(value=self._line(self.note))
        self.area, self.output = w.VBox([]), w.Output()
        return w.VBox([w.HBox([self.button, self.status], layout=w.Layout(flex_flow="row wrap")), self.area,
                       self.output])

    def _line(self, text):
        return f'<div style="color:{style.FAINT_CSS};line-height:1.5;padding:4px 8px">{style.escape(text)}</div>'

    def click(self):
        """Run once; a second click while it runs does nothing."""
        if self.running:
            return
        self.running, self.button.disabled = True, True
        self.area.children = ()
        self.output.clear_output()
        self.status.value = self._line("running …")
        began = time.perf_counter()
        _hosts.append(_Host(self.area))
        try:
            with self.output:
                error = self._call()  # an Output swallows what is raised in it, and prints a traceback
            if error is not None:
                raise error
            show_result(self.result, self.area)
            self.status.value = self._line(f"done in {style.duration(time.perf_counter() - began)}")
        except KeyboardInterrupt:
            self.status.value = self._line("stopped")
        except Exception as error:  # whatever the run raises becomes one line
            self.status.value = error_html(error)
        finally:
            _hosts.pop()
            self.running, self.button.disabled = False, False

    def _call(self):
        """Run; returns the exception that ended it, or None."""
        try:
            takes = [p for p in inspect.signature(self.run).parameters.values()
                     if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            self.result = self.run(self.report) if takes else self.run()
        except (Exception, KeyboardInterrupt) as error:
            return error
        return None

    def report(self, text):
        """What `run` may call to say where it is."""
        self.status.value = self._line(str(text))


def show_result(result, box):
    """Put a picture, or the text of anything else but None, at the end of `box`."""
    import ipywidgets as w

    if result is None:
        return
    if hasattr(result, "png"):
        from ftlab.show.plots import image_html

        # An Image widget has no alternative text.
        widget = w.HTML(value=image_html(result.png(), result.alt, round(result.get_size_inches()[0] * style.SCREEN_DPI)))
    elif isinstance(result, Shown):
        widget = result.widget
    else:
        widget = w.HTML(value=f'<pre style="color:{style.INK_CSS};white-space:pre-wrap;line-height:1.4">'
                              f"{style.escape(str(result))}</pre>")
    box.children = (*box.children, widget)


def run_live_button(label, run, picture=None, note=""):
    """A button that calls run() in this kernel, or run(report) where it takes an argument: report(text) shows a line.

    LivePlots that `run` makes draw under the button; prints appear below; what it returns (a picture, a widget of
    ours, text) is shown last. An error becomes one line. The button is disabled meanwhile. picture: a figure, or a
    function that makes one, shown instead of the button under FTLAB_HEADLESS=1.
    """
    return RunLive(label, run, picture, note)
