"""A widget of LoRA: an update, cut to a rank that one drags.

It computes nothing: matrices and singular values come from outside. How it appears is said in `ftlab.show.shown`.
"""

from ftlab.show import style
from ftlab.show.shown import Shown, guarded

CELLS = 32  # rows and columns that are drawn of a matrix


def _html():
    import ipywidgets as w

    return w.HTML(layout=w.Layout(margin="0"))


class RankView(Shown):
    """See `rank_view`. Attributes: chosen (name of the matrix), rank."""

    name = "an update cut to a rank"

    def __init__(self, matrices, approximate, ranks, rank=None):
        self.matrices, self.approximate, self.ranks = matrices, approximate, list(ranks)
        self.chosen, self.rank = next(iter(matrices)), self.ranks[len(self.ranks) // 2] if rank is None else rank

    def energy(self):
        """Share of Σ σ² that the first `rank` singular values of the matrix on show hold."""
        squares = [value ** 2 for value in self.matrices[self.chosen]["values"]]
        return sum(squares[:self.rank]) / (sum(squares) or 1)

    def text(self):
        """Counts and energy in words."""
        rows, columns = self.matrices[self.chosen]["shape"]
        thin, whole = self.rank * (rows + columns), rows * columns
        return (f"{self.chosen}, {rows} × {columns}: rank {self.rank} takes {self.rank} · ({rows} + {columns}) = {thin:,} "
                f"numbers, {style.percent(thin / whole)} of {whole:,}, and holds {style.percent(self.energy())} of the "
                "update's energy")

    def picture(self):
        """Singular values with the share that the rank on show holds."""
        from ftlab.show import plots

        values = self.matrices[self.chosen]["values"]
        return plots.lines({"singular value": (list(range(1, len(values) + 1)), values)}, "number", "singular value",
                           title=self.text().split(":")[0] + f", rank {self.rank} holds {style.percent(self.energy())}",
                           labels=False, vline=(self.rank, f"rank {self.rank}"))

    def svg(self):
        """Singular values as bars, those within the rank filled; beside them the update and its cut."""
        values = self.matrices[self.chosen]["values"]
        top, width = max(values) or 1, 320 / len(values)
        bars = "".join(
            f'<rect x="{i * width:.1f}" y="{110 - 100 * value / top:.1f}" width="{max(0.6, width - 0.6):.1f}" '
            f'height="{max(0.5, 100 * value / top):.1f}" fill="{style.BLUE if i < self.rank else "none"}" '
            f'stroke="{style.BLUE}" stroke-width="0.6"/>' for i, value in enumerate(values))
        limit = max(abs(v) for row in self.matrices[self.chosen]["picture"] for v in row) or 1
        return ('<div style="display:flex;flex-wrap:wrap;gap:18px;align-items:flex-end">'
                + captioned("singular values of ΔW (filled: within the rank)",
                             f'<svg width="320" height="112" role="img" aria-label="singular values">{bars}</svg>')
                + captioned("ΔW", grid(self.matrices[self.chosen]["picture"], limit))
                + captioned(f"ΔW cut to rank {self.rank}", grid(self.approximate(self.chosen, self.rank), limit))
                + "</div>")

    def build(self):
        """A list of matrices and a slider over the drawing."""
        import ipywidgets as w

        self.status, self.drawing, self.caption = _html(), _html(), _html()
        wide = {"style": {"description_width": "60px"}, "layout": w.Layout(width="98%", max_width="440px")}
        self.controls = {
            "chosen": w.Dropdown(options=list(self.matrices), value=self.chosen, description="matrix", **wide),
            "rank": w.SelectionSlider(options=self.ranks, value=self.rank, description="rank", **wide)}
        for name, control in self.controls.items():
            control.observe(guarded(self.status, lambda change, name=name: self.set(name, change["new"])), names="value")
        self.redraw()
        return w.VBox([*self.controls.values(), self.drawing, self.caption, self.status],
                      layout=w.Layout(max_width="900px"))

    def set(self, name, value):
        """Take a control's value and redraw."""
        setattr(self, name, value)
        self.redraw()

    def redraw(self):
        """Show the present matrix and rank: two HTML values."""
        self.drawing.value = self.svg()
        self.caption.value = f'<div style="color:{style.INK_CSS};font-size:13px">{style.escape(self.text())}</div>'


def captioned(text, drawing):
    """A drawing under a line of small text, as HTML."""
    return f'<div><div style="color:{style.FAINT_CSS};font-size:12px">{style.escape(text)}</div>{drawing}</div>'


def grid(rows, limit):
    """A matrix as small squares: blue above zero, vermillion below, the fuller the larger."""
    size, out = 4, []
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            share = min(1.0, abs(value) / limit)
            if share > 0.02:
                out.append(f'<rect x="{x * size}" y="{y * size}" width="{size}" height="{size}" '
                           f'fill="{style.rgba(style.BLUE if value > 0 else style.VERMILLION, share)}"/>')
    width, height = size * len(rows[0]), size * len(rows)
    return (f'<svg width="{width}" height="{height}" role="img" aria-label="matrix" '
            f'style="background:white;border:1px solid {style.LINE_CSS}">{"".join(out)}</svg>')


def rank_view(matrices, approximate, ranks, rank=None):
    """An update ΔW, its singular values, and what is left of it at a rank that one drags.

    matrices: {name: {"shape": (n, k), "values": singular values, largest first, "picture": rows of numbers, a corner of
    at most CELLS × CELLS}}; approximate(name, rank) -> the same corner of ΔW cut to the rank; ranks: what may be chosen.
    """
    return RankView(matrices, approximate, ranks, rank)
