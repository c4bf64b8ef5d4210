"""Two widgets of alignment: the frontier of reward against KL, and the implicit reward of each token.

They compute nothing: points, texts and values come from outside. How they appear is said in `ftlab.show.shown`.
"""

from ftlab.errors import UsageError
from ftlab.show import live, style
from ftlab.show.dashboard import PANELS
from ftlab.show.shown import Shown, boxed, guarded

# ---- the frontier

BOX = (560, 300, 56, 16, 24, 36)  # width, height, and margins left, right, top, bottom
STRENGTHS = {"DPO": "beta", "PPO": "kl_coef"}
_HEADINGS = {panel.metric: (panel.heading, panel.share) for panel in PANELS}


class FrontierView(Shown):
    """See `frontier_view`. Attribute: chosen ({method: place of the point on show, from 0})."""

    name = "the frontier: true utility against KL"

    def __init__(self, curves, strengths=None, x="kl", y="utility", title=None):
        self.strengths = STRENGTHS | (strengths or {})
        self.curves = {name: list(points) for name, points in curves.items() if points}
        self.x, self.y, self.title = x, y, title
        if not self.curves:
            raise UsageError("a frontier needs a method with at least one point")
        for name, points in self.curves.items():
            for key in (self._strength(name), x, y):
                if any(not live._finite(point.get(key)) for point in points):
                    raise UsageError(f"a point of {name} has no number called {key!r}")
        self.chosen = {name: len(points) // 2 for name, points in self.curves.items()}

    def _strength(self, name):
        return self.strengths.get(name, "strength")

    def point(self, name):
        """The point of a method that is on show."""
        return self.curves[name][self.chosen[name]]

    def label(self, name, point):
        """"beta 0.1"."""
        return f"{self._strength(name)} {point[self._strength(name)]:g}"

    def picture(self):
        """Every point of every method, labelled with its strength."""
        from ftlab.show import plots

        series = {f"{name} ({self._strength(name)})": [(p[self.x], p[self.y], f"{p[self._strength(name)]:g}")
                                                       for p in points] for name, points in self.curves.items()}
        return plots.frontier(series, heading(self.x), heading(self.y), self.title, best="better: up and to the left")

    def build(self):
        """A slider a method over the drawing; below it a card a method."""
        import ipywidgets as w

        self.status, self.output = w.HTML(), w.HTML()
        look = {"style": {"description_width": "110px"}, "layout": w.Layout(width="380px")}
        self.sliders = {}
        for name, points in self.curves.items():
            key = self._strength(name)
            self.sliders[name] = w.SelectionSlider(options=[(f"{p[key]:g}", i) for i, p in enumerate(points)],
                                                   value=self.chosen[name], description=f"{name}: {key}", **look)
            self.sliders[name].observe(
                guarded(self.status, lambda change, name=name: self.set(name, change["new"])), names="value")
        self.output.value = self.html()
        return w.VBox([w.HBox(list(self.sliders.values()), layout=w.Layout(flex_flow="row wrap")), self.output,
                       self.status], layout=w.Layout(max_width="900px"))

    def set(self, name, place):
        """Take a slider's value and redraw."""
        self.chosen[name] = place
        self.output.value = self.html()

    def html(self):
        """The drawing and, for each method, the chosen point's metrics and sample."""
        cards = "".join(f'<div style="flex:1 1 320px;min-width:0">{self._card(i, name)}</div>'
                        for i, name in enumerate(self.curves))
        return f'{self.svg()}<div style="display:flex;flex-wrap:wrap;gap:4px 20px">{cards}</div>'

    def _card(self, number, name):
        point, colour = self.point(name), style.SERIES[number % len(style.SERIES)]
        lines = "".join(f"<tr><td style='padding:0 12px 0 0'>{style.escape(heading(key))}</td><td style='text-align:right'>"
                        f"{style.escape(worded(key, value))}</td></tr>" for key, value in point.items()
                        if key != self._strength(name) and live._finite(value) and not isinstance(value, bool))
        table = f'<table style="color:{style.INK_CSS};font-size:12px;line-height:1.5;border-collapse:collapse">{lines}</table>'
        sample = boxed("a sample", style.escape(point["sample"]), colour, "3em") if point.get("sample") else ""
        return boxed(style.escape(f"{name}, {self.label(name, point)}"), table, colour, "1em") + sample

    def svg(self):
        """All points, a line a method; the chosen ones ringed and labelled."""
        points = [p for ps in self.curves.values() for p in ps]
        right = max(p[self.x] for p in points) * 1.06 or 1.0
        ys = [p[self.y] for p in points]
        pad = 0.12 * (max(ys) - min(ys)) or 0.5
        low, high = min(ys) - pad, max(ys) + pad
        place = live._scale(right, low, high, BOX[1], BOX)
        out = live._frame(place, right, low, high, BOX[1], self.title or heading(self.y), heading(self.y),
                          lambda v: f"{v:g}", BOX, heading(self.x))
        for i, (name, line) in enumerate(self.curves.items()):
            out += self._line(i, name, [place(p[self.x], p[self.y]) for p in line])
        return "".join(out) + "</svg>"

    def _line(self, number, name, spots):
        colour, dash = style.SERIES[number % len(style.SERIES)], ("", "6 3", "2 2")[number % 3]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        out = [f'<polyline points="{path}" style="fill:none;stroke:{colour};stroke-width:1.6;stroke-dasharray:'
               f'{dash or "none"}"/>']
        for point, (x, y) in zip(self.curves[name], spots, strict=True):
            title = f"<title>{style.escape(f'{name}, {self.label(name, point)}')}: {point[self.y]:.3g}</title>"
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{title}</circle>' if number % 2 == 0 else
                       f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}">{title}</rect>')
        x, y = spots[self.chosen[name]]
        end = x > 0.7 * BOX[0]
        out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8.5" style="fill:none;stroke:{style.INK_CSS};stroke-width:2"/>'
                   f'<text x="{x + (-12 if end else 12):.1f}" y="{y + (16 if number % 2 else -8):.1f}" '
                   f'text-anchor="{"end" if end else "start"}" style="font-weight:600">'
                   f"{style.escape(f'{name}, {self.label(name, self.point(name))}')}</text>")
        return out


def heading(metric):
    """A metric's name with its unit, as the panels have it."""
    return _HEADINGS.get(metric, (metric.replace("_", " "), False))[0]


def worded(metric, value):
    """A metric's value as a short text."""
    return style.percent(value) if _HEADINGS.get(metric, ("", False))[1] else style.number(value)


def frontier_view(curves, strengths=None, x="kl", y="utility", title=None):
    """What strength buys at what distance: a slider a method over points (KL, true utility) of committed runs.

    curves: {method: [point, …]} in the order of the strength; a point is a dict of numbers that holds `x`, `y` and the
    strength, other metrics as you like, and maybe "sample", a text. strengths: {method: name of its strength}, by
    default "beta" for DPO and "kl_coef" for PPO.
    """
    return FrontierView(curves, strengths, x, y, title)


# ---- the implicit reward of each token

LIMIT = 400  # tokens of a text, at most


class TokenRewardsView(Shown):
    """See `token_rewards_view`."""

    name = "the implicit reward, token by token"

    def __init__(self, pieces, values, title=None, unit="nats"):
        if not isinstance(pieces, dict):
            pieces, values = {"text": pieces}, {"text": values}
        self.texts = {name: (list(pieces[name]), [float(v) for v in values[name]]) for name in pieces}
        self.title, self.unit = title or "beta (log pi − log ref) of each token", unit
        for name, (words, numbers) in self.texts.items():
            if len(words) != len(numbers):
                raise UsageError(f"{name}: {len(words)} tokens and {len(numbers)} values: give one value a token")

    def sum(self, name):
        """The reward of a whole text: the sum over its tokens."""
        return sum(self.texts[name][1])

    def headline(self, name):
        """"chosen: sum +1.24 over 57 tokens"."""
        return f"{name}: sum {signed(self.sum(name))} {self.unit} over {len(self.texts[name][0])} tokens"

    def picture(self):
        """The texts as one picture."""
        from ftlab.show import plots

        return plots.token_values({self.headline(name): text for name, text in self.texts.items()}, self.title)

    def build(self):
        """One HTML widget: there is nothing to set, but each token tells its value when hovered."""
        import ipywidgets as w

        return w.HTML(value=self.html(), layout=w.Layout(max_width="900px"))

    def html(self):
        """A key, and the texts one above the other on one scale."""
        top = max([abs(v) for _, values in self.texts.values() for v in values] or [0.0]) or 1.0
        key = " ".join(_chip(text, value, top, self.unit) for text, value in (
            (signed(-top), -top), ("0", 0.0), (signed(top), top)))
        out = [f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.8"><b>{style.escape(self.title)}</b> {key} '
               f'<span style="color:{style.FAINT_CSS}">solid edge: more likely than under the reference, dotted: less; '
               "hover a token for its value</span></div>"]
        for name, (pieces, values) in self.texts.items():
            chips = "".join(_chip(style.visible(piece), value, top, self.unit) + ("<br>" if "\n" in piece else "")
                            for piece, value in list(zip(pieces, values, strict=True))[:LIMIT])
            more = f" … and {len(pieces) - LIMIT} more" if len(pieces) > LIMIT else ""
            out.append(f'<div style="color:{style.INK_CSS};font-size:13px;font-weight:600;padding-top:8px">'
                       f'{style.escape(self.headline(name))}</div><div style="font-family:{style.MONO_CSS};font-size:13px;'
                       f'line-height:1.9;color:{style.INK_CSS};white-space:pre-wrap;overflow-wrap:anywhere">{chips}{more}'
                       "</div>")
        if len(self.texts) == 2:
            first, second = self.texts
            out.append(f'<div style="color:{style.INK_CSS};font-size:13px;padding-top:6px">{style.escape(first)} − '
                       f"{style.escape(second)}: <b>{signed(self.sum(first) - self.sum(second))}</b> {style.escape(self.unit)}"
                       "</div>")
        return "".join(out)


def signed(value, digits=2):
    """"+1.24" or "−0.31"."""
    return f"{value:+.{digits}f}".replace("-", "−")


def _chip(text, value, top, unit):
    colour, edge = (style.BLUE, "solid") if value >= 0 else (style.VERMILLION, "dotted")
    # At most 0.6 of the colour: the theme's ink stays legible on it, dark on light or light on dark.
    shade = style.rgba(colour, 0.6 * min(1, abs(value) / top))
    return (f'<span title="{signed(value, 3)} {style.escape(unit)}" style="display:inline-block;line-height:1.25;padding:0 3px;'
            f'margin:1px;border-radius:2px;background:{shade};border-bottom:2px {edge} {colour}">{style.escape(text)}</span>')


def token_rewards_view(pieces, values, title=None, unit="nats"):
    """Texts with each token shaded by its part of DPO's implicit reward, beta (log pi − log ref), one scale for all.

    pieces: {name: T pieces}, values: {name: T numbers}, such as {"chosen": …, "rejected": …}, shown one above the other
    with their sums and the difference; or one list each. Blue over a solid edge is above 0, vermillion over a dotted
    one below (Rafailov et al. 2023, eq. 5; per token as in Rafailov et al. 2024).
    """
    return TokenRewardsView(pieces, values, title, unit)
