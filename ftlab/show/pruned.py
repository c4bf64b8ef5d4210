"""The sparsity slider: a matrix with what is pruned left blank, its weights by size, and what the model loses.

It computes nothing: masks and counts come from a callable, losses from runs that were made before. How it appears is
said in `ftlab.show.shown`.
"""

from ftlab.show import style
from ftlab.show.lowrank import captioned, grid
from ftlab.show.quantised import Explorer, dropdown, slider

PLOT = (300, 150)  # pixels of the histogram and of the curve
LEFT, RIGHT, BOTTOM = 34, 20, 20  # of them for the axes' numbers


class SparsityView(Explorer):
    """See `sparsity_view`. Attributes: settings (matrix, method, sparsity), seen (what the callable said of them)."""

    name = "a sparsity slider"

    def __init__(self, look, matrices, curves, sparsities, settings, dense):
        self.look, self.matrices, self.curves, self.sparsities = look, list(matrices), curves, list(sparsities)
        self.settings, self.dense = dict(settings), dense
        self.look_up()

    def look_up(self):
        """Ask the callable."""
        self.seen = self.look(**self.settings)

    def controls(self):
        """Matrix, way of pruning, share."""
        shares = [(style.percent(s) if s else "0 %", s) for s in self.sparsities]
        return {"matrix": dropdown("matrix", self.matrices, self.settings["matrix"]),
                "method": dropdown("pruned by", list(self.curves), self.settings["method"]),
                "sparsity": slider("sparsity", shares, self.settings["sparsity"])}

    def loss(self):
        """The model's held-out loss at the setting on show, or None where no run was made there."""
        xs, ys = self.curves[self.settings["method"]]
        return dict(zip(xs, ys)).get(self.settings["sparsity"])

    def text(self):
        """Counts and loss in words."""
        kept, gone = sum(self.seen["kept"]), sum(self.seen["pruned"])
        loss = self.loss()
        known = "" if loss is None else (f" With every matrix pruned so, the held-out loss is <b>{loss:.2f}</b> nats per "
                                         f"token; dense it was {self.dense:.2f}.")
        return (f"{style.escape(self.settings['matrix'])}: {gone:,} of {kept + gone:,} weights go.{known}")

    def svg(self):
        """The corner of the matrix, the histogram and the curve, side by side."""
        picture = self.seen["picture"]
        limit = max(abs(v) for row in picture for v in row) or 1
        return ('<div style="display:flex;flex-wrap:wrap;gap:18px;align-items:flex-end">'
                + captioned("a corner of the matrix (blank: pruned)", grid(picture, limit))
                + captioned("weights by size |w|: filled stay, hollow go", self._histogram())
                + captioned("held-out loss against sparsity", self._curve()) + "</div>")

    def _histogram(self):
        kept, pruned, (width, height) = self.seen["kept"], self.seen["pruned"], PLOT
        top, step = max(k + p for k, p in zip(kept, pruned)) or 1, width / len(kept)
        out = [_open("weights by size, kept and pruned")]
        for i, (k, p) in enumerate(zip(kept, pruned)):
            tall, hollow = (height - BOTTOM) * k / top, (height - BOTTOM) * p / top
            for y, part, fill in ((height - BOTTOM - tall, tall, style.BLUE),
                                  (height - BOTTOM - tall - hollow, hollow, "none")):
                if part:
                    colour = style.BLUE if fill != "none" else style.VERMILLION
                    out.append(f'<rect x="{i * step + 0.5:.1f}" y="{y:.1f}" width="{step - 1:.1f}" height="{part:.1f}" '
                               f'fill="{fill}" stroke="{colour}" stroke-width="0.8"/>')
        largest = self.seen["edges"][-1]
        for share in (0, 0.5, 1):
            anchor = {0: "start", 1: "end"}.get(share, "middle")
            out.append(f'<text x="{share * width:.0f}" y="{height - 5}" text-anchor="{anchor}">{share * largest:.2g}</text>')
        return "".join(out) + "</svg>"

    def _curve(self):
        width, height = PLOT
        low = self.dense
        high = max(y for _, ys in self.curves.values() for y in ys)

        def place(x, y):
            return (LEFT + x * (width - LEFT - RIGHT),
                    height - BOTTOM - (y - low) / ((high - low) or 1) * (height - BOTTOM - 8))

        out = [_open("held-out loss against sparsity")]
        for value in (low, (low + high) / 2, high):
            y = place(0, value)[1]
            out.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" style="stroke:{style.LINE_CSS}"/>'
                       f'<text x="0" y="{y + 4:.1f}">{value:.2f}</text>')
        for share in (0, 0.5, 1):
            out.append(f'<text x="{place(share, low)[0]:.0f}" y="{height - 5}" text-anchor="middle">'
                       f'{100 * share:.0f} %</text>')
        for i, (name, (xs, ys)) in enumerate(self.curves.items()):
            points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in zip(xs, ys))
            shown, dash = name == self.settings["method"], "" if i == 0 else "stroke-dasharray:5 3;"
            out.append(f'<polyline points="{points}" style="fill:none;{dash}stroke:{style.SERIES[i]};'
                       f'stroke-width:{2 if shown else 1}"/>'
                       f'<text x="{LEFT + 6}" y="{22 + 14 * i}" style="fill:{style.SERIES[i]}">{style.escape(name)}</text>')
        if self.loss() is not None:
            x, y = place(self.settings["sparsity"], self.loss())
            colour = style.SERIES[list(self.curves).index(self.settings["method"])]
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>')
        return "".join(out) + "</svg>"

    def picture(self):
        """The curves, with the sparsity on show."""
        from ftlab.show import plots

        share = self.settings["sparsity"]
        return plots.lines(self.curves, "sparsity", "held-out loss (nats per token)",
                           title=f"pruned in one shot; {self.settings['method']} at {style.percent(share)}",
                           vline=(share, style.percent(share)), hline=(self.dense, f"dense: {self.dense:.2f}"))


def _open(label):
    return (f'<svg role="img" aria-label="{label}" width="{PLOT[0]}" height="{PLOT[1]}" '
            f'style="font:11px sans-serif;fill:{style.INK_CSS}">')


def sparsity_view(look, matrices, curves, sparsities, dense, method=None, sparsity=None):
    """A matrix pruned to a share that one drags.

    look(matrix, method, sparsity) -> {"picture": rows of numbers of a corner, 0 where pruned; "edges": of the histogram's
    bins; "kept", "pruned": weights by bin}. matrices: names. curves: {method: (sparsities, held-out losses)} of runs made
    before; sparsities: what may be chosen; dense: the loss with nothing pruned, in nats per token.
    """
    sparsities = list(sparsities)
    settings = {"matrix": next(iter(matrices)), "method": next(iter(curves)) if method is None else method,
                "sparsity": sparsities[len(sparsities) // 2] if sparsity is None else sparsity}
    return SparsityView(look, matrices, curves, sparsities, settings, dense)
