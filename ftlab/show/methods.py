"""A table of methods that one can sort and filter. It computes nothing; how it appears is said in `ftlab.show.shown`."""

import dataclasses
from collections.abc import Callable

from ftlab.show import style
from ftlab.show.shown import Shown, guarded

ANY = float("inf")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of `method_table`: its key in the rows, its heading, and how a row's cell reads.

    high_is_good: whether sorting puts large values first. filtered: whether a slider limits it ("at most").
    """

    key: str
    heading: str
    text: Callable
    high_is_good: bool = False
    filtered: bool = False


class MethodTable(Shown):
    """See `method_table`. Attributes: by (key of the column that sorts), limits ({key: at most}), only_front."""

    name = "the methods, to sort and to filter"

    def __init__(self, rows, columns, front=None, score="score"):
        self.rows, self.columns, self.front, self.score = dict(rows), list(columns), front, score
        self.by, self.limits = self.columns[0].key, {c.key: ANY for c in self.columns if c.filtered}
        self.only_front = False

    def column(self, key):
        """The Column with this key."""
        return next(c for c in self.columns if c.key == key)

    def shown(self):
        """Names of the rows that pass the filters, as sorted."""
        names = [name for name, row in self.rows.items() if all(row[key] <= most for key, most in self.limits.items())]
        if self.only_front and names:
            kept = set()
            for key in self.limits:
                kept |= set(self.front({name: (self.rows[name][key], self.rows[name][self.score]) for name in names}))
            names = [name for name in names if name in kept]
        sign = -1 if self.column(self.by).high_is_good else 1
        return sorted(names, key=lambda name: sign * self.rows[name][self.by])

    def set(self, name, value):
        """Take a control's value and redraw."""
        if name in self.limits:
            self.limits[name] = value
        else:
            setattr(self, name, value)
        self.output.value = self.html()

    def build(self):
        """A list to sort by, a slider a limit, a box for the front, over the table."""
        import ipywidgets as w

        self.status, self.output = w.HTML(), w.HTML()
        look = {"style": {"description_width": "130px"}, "layout": w.Layout(width="380px")}
        self.controls = {"by": w.Dropdown(options=[(c.heading, c.key) for c in self.columns], value=self.by,
                                          description="sort by", **look)}
        for key in self.limits:
            column, values = self.column(key), sorted({row[key] for row in self.rows.values()})
            texts = [column.text(next(row for row in self.rows.values() if row[key] == value)) for value in values]
            self.controls[key] = w.SelectionSlider(options=[*zip(texts, values, strict=True), ("any", ANY)], value=ANY,
                                                   description=f"{column.heading} ≤", **look)
        if self.front:
            self.controls["only_front"] = w.Checkbox(value=False, description="only what is on a front", indent=False)
        for name, control in self.controls.items():
            control.observe(guarded(self.status, lambda change, name=name: self.set(name, change["new"])), names="value")
        self.output.value = self.html()
        return w.VBox([w.HBox(list(self.controls.values()), layout=w.Layout(flex_flow="row wrap")), self.output,
                       self.status], layout=w.Layout(max_width="900px"))

    def html(self):
        """The rows on show; the score's cell is filled as far as the score goes."""
        names = self.shown()
        edge = f"border-bottom:1px solid {style.LINE_CSS};padding:4px 10px"
        head = "".join(f'<th style="text-align:{self._side(c)};{edge};font-weight:{700 if c.key == self.by else 500}">'
                       f"{style.escape(c.heading)}{' ▾' if c.key == self.by else ''}</th>" for c in self.columns)
        body = []
        for name in names:
            cells = "".join(f'<td style="text-align:{self._side(c)};{edge}{self._fill(c, self.rows[name])}">'
                            f"{style.escape(c.text(self.rows[name]))}</td>" for c in self.columns)
            body.append(f'<tr><th style="text-align:left;{edge}">{style.escape(name)}</th>{cells}</tr>')
        gone = len(self.rows) - len(names)
        note = f"{len(names)} of {len(self.rows)} methods" + ("; nobody fits: loosen a limit" if not names else "")
        return (f'<table style="border-collapse:collapse;color:{style.INK_CSS};font-size:13px;margin-top:6px"><tr>'
                f'<th style="text-align:left;{edge}">method</th>{head}</tr>{"".join(body)}</table>'
                f'<div style="color:{style.FAINT_CSS};font-size:12px;padding-top:4px">{note}'
                f'{f" ({gone} filtered out)" if gone else ""}</div>')

    def _side(self, column):
        return "left" if column.key == self.score else "right"

    def _fill(self, column, row):
        if column.key != self.score:
            return ""
        share = 100 * min(max(row[self.score], 0), 1)
        return f";background:linear-gradient(90deg,{style.rgba(style.SHADE, 0.35)} {share:.0f}%,transparent {share:.0f}%)"

    def picture(self):
        """The whole table as it is sorted at first."""
        return _StoredTable(["method", *(c.heading for c in self.columns)],
                            [[name, *(c.text(self.rows[name]) for c in self.columns)] for name in self.shown()])


class _StoredTable:
    """A table as plain text and HTML, for notebooks that are read and not run."""

    def __init__(self, header, rows):
        self.header, self.rows = header, rows

    def _ipython_display_(self):
        from IPython.display import display

        from ftlab.teach.display import table

        plain, markup = table(self.header, self.rows)
        display({"text/plain": plain, "text/html": markup}, raw=True)


def method_table(rows, columns, front=None, score="score"):
    """Methods in a table: choose what sorts it, drag limits, keep those on a Pareto front.

    rows: {method: {key: number}}. columns: Columns; the first one sorts at the start. score: the key whose cells are
    filled as bars, in [0, 1]. front({method: (cost, score)}) -> names that nobody dominates, asked for each limited
    column; None: no box for it.
    """
    return MethodTable(rows, columns, front, score)
