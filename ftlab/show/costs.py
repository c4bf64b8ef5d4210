"""A calculator of what prompting, retrieval and fine-tuning cost, with the number of calls at which they break even.

It computes nothing: costs and break-evens come from a callable. How it appears is said in `ftlab.show.shown`.
"""

from ftlab.errors import UsageError
from ftlab.show import style
from ftlab.show.shown import Shown, guarded

BOX, LEFT, RIGHT, TOP, BOTTOM = (760, 300), 70, 590, 18, 255
POINTS = 61


class CostCalculator(Shown):
    """See `cost_calculator`. Attributes: settings, seen (what the callable said of them)."""

    name = "what prompting and fine-tuning cost"

    def __init__(self, look, settings, unit, labels):
        self.look, self.settings, self.unit, self.labels = look, dict(settings), unit, dict(labels or {})
        self.seen = self.look(**self.settings)

    def set(self, name, value):
        """Take one number and redraw. Raises UsageError for one below zero."""
        if not value >= 0:
            raise UsageError(f"{self.labels.get(name, name)} must be 0 or more, not {value:g}")
        seen = self.look(**self.settings | {name: value})
        self.settings[name], self.seen = value, seen
        self.refresh()

    def most(self):
        """The number of calls at the right edge: beyond every break-even, or ten times the up-front cost's worth."""
        found = [n for n in self.seen["break_even"].values() if n]
        if found:
            return max(2 * max(found), 10)
        dear = max(cost for _, cost in self.seen["ways"].values()) or 1.0
        return max(10, 10 * max(upfront for upfront, _ in self.seen["ways"].values()) / dear)

    def curves(self):
        """{way: ([calls], [total cost])} over a logarithmic axis of calls, from 1 on."""
        most = self.most()
        calls = [most ** (i / (POINTS - 1)) for i in range(POINTS)]
        return {name: (calls, [upfront + n * each for n in calls]) for name, (upfront, each) in self.seen["ways"].items()}

    def sentences(self):
        """One for each rival: from how many calls on fine-tuning is cheaper, or that it never is."""
        tuned = self.seen["tuned"]
        return [f"{tuned} pays from call {n:,} on against: {name}." if n is not None else
                f"{tuned} never pays against: {name}." for name, n in self.seen["break_even"].items()]

    # What is drawn.

    def build(self):
        """A box for each number beside the drawing."""
        import ipywidgets as w

        self.status, self.drawing, self.caption = w.HTML(), w.HTML(), w.HTML()
        self.boxes = {}
        for name, value in self.settings.items():
            box = w.FloatText(value=value, description=self.labels.get(name, name), continuous_update=False,
                              layout=w.Layout(width="400px"), style={"description_width": "270px"})
            box.observe(guarded(self.status, lambda change, name=name: self.set(name, change["new"])), names="value")
            self.boxes[name] = box
        self.refresh()
        return w.VBox([w.HBox(list(self.boxes.values()), layout=w.Layout(flex_flow="row wrap")), self.drawing, self.caption,
                       self.status], layout=w.Layout(max_width="900px"))

    def refresh(self):
        """Redraw two HTML values where a widget is on show."""
        if hasattr(self, "drawing"):
            self.drawing.value, self.caption.value = self.svg(), self.html()

    def html(self):
        """Cost of a call each way, and the break-evens."""
        ways = " · ".join(f"{style.escape(name)}: {_amount(each, self.unit)} a call"
                          + (f" after {_amount(upfront, self.unit)}" if upfront else "")
                          for name, (upfront, each) in self.seen["ways"].items())
        said = "".join(f"<div><b>{style.escape(line)}</b></div>" for line in self.sentences())
        return f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.6">{said}<div>{ways}</div></div>'

    def svg(self):
        """Total cost against the number of calls, both axes logarithmic."""
        curves = self.curves()
        x, y = self._axes(curves)
        out = [f'<svg role="img" aria-label="total cost against calls" viewBox="0 0 {BOX[0]} {BOX[1]}" style="max-width:'
               f'{BOX[0]}px;width:100%;display:block;font:11px sans-serif;fill:{style.INK_CSS}">']
        out += self._frame(x, y)
        ends = _apart([y(totals[-1]) for _, totals in curves.values()])
        for i, (name, (calls, totals)) in enumerate(curves.items()):
            colour, dash = style.SERIES[i % 7], ("", "7 3", "2 3", "7 3 2 3")[i % 4]
            path = " ".join(f"{x(n):.1f},{y(t):.1f}" for n, t in zip(calls, totals, strict=True))
            out.append(f'<polyline points="{path}" style="fill:none;stroke:{colour};stroke-width:2;stroke-dasharray:'
                       f'{dash}"/><text x="{RIGHT + 8}" y="{ends[i] + 4:.1f}" style="font-weight:600">'
                       f"{style.escape(name)}</text>"
                       f'<rect x="{RIGHT + 2}" y="{ends[i] - 4:.1f}" width="4" height="9" style="fill:{colour}"/>')
        for name, n in self.seen["break_even"].items():
            if n:
                upfront, each = self.seen["ways"][name]
                out.append(f'<circle cx="{x(n):.1f}" cy="{y(upfront + n * each):.1f}" r="5" style="fill:none;stroke:'
                           f'{style.INK_CSS};stroke-width:2"><title>{style.escape(name)}: from call {n:,} on'
                           "</title></circle>")
        return "".join(out) + "</svg>"

    def _axes(self, curves):
        import math

        most = self.most()
        totals = [t for _, ts in curves.values() for t in ts if t > 0] or [1.0]
        low, high = math.log(min(totals)), math.log(max(totals))
        span = (high - low) or 1.0
        self.range = (min(totals), max(totals), most)
        return (lambda n: LEFT + math.log(max(n, 1)) / math.log(most) * (RIGHT - LEFT),
                lambda t: BOTTOM - (math.log(max(t, min(totals))) - low) / span * (BOTTOM - TOP))

    def _frame(self, x, y):
        low, high, most = self.range
        line = f"stroke:{style.LINE_CSS};stroke-width:0.7"
        out = []
        for n in _powers(1, most):
            out.append(f'<line x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{TOP}" y2="{BOTTOM}" style="{line}"/><text x="{x(n):.1f}" '
                       f'y="{BOTTOM + 15}" text-anchor="middle">{_round(n)}</text>')
        for t in _powers(low, high):
            out.append(f'<line x1="{LEFT}" x2="{RIGHT}" y1="{y(t):.1f}" y2="{y(t):.1f}" style="{line}"/><text x="{LEFT - 6}" '
                       f'y="{y(t) + 4:.1f}" text-anchor="end">{_round(t)}</text>')
        return out + [f'<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 33}" text-anchor="middle">calls</text>',
                      f'<text x="{LEFT}" y="11">total cost, {style.escape(self.unit)}</text>']

    def picture(self):
        """The present setting."""
        from ftlab.show import plots

        found = [(n, name) for name, n in self.seen["break_even"].items() if n]
        title = "; ".join(self.sentences()[:1]) or None
        some = {name: (calls[::4], totals[::4]) for name, (calls, totals) in self.curves().items()}
        return plots.lines(some, "calls", f"total cost ({self.unit})", title=title, logx=True,
                           logy=all(total > 0 for _, totals in some.values() for total in totals),
                           vline=(found[0][0], "") if found else None)


def _apart(places, gap=14):
    """Places (of labels) moved down until each is `gap` from the one above."""
    order, moved, last = sorted(range(len(places)), key=places.__getitem__), list(places), -1e9
    for i in order:
        last = moved[i] = max(places[i], last + gap)
    return moved


def _powers(low, high):
    """Powers of ten within [low, high]; every other or third where there are many."""
    import math

    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**i for i in range(first, last + 1, max(1, (last - first) // 6))]


def _round(value):
    return f"{value:,.0f}" if 1 <= value < 1e6 else f"{value:g}"


def _amount(value, unit):
    return f"{style.number(value)} {unit}"


def cost_calculator(look, settings, unit="s", labels=None):
    """Numbers to edit, and what they make of prompting against fine-tuning: total cost against the number of calls.

    look(**settings) -> dict(ways: {name: (up-front cost, cost of a call)}, tuned: the name of the way that is compared,
    break_even: {name of a rival: calls or None}). settings: {name: first value, 0 or more}. labels: {name: words for it}.
    """
    return CostCalculator(look, settings, unit, labels)
