"""A number, bit by bit: flip a bit, see the value; choose a format, see what is lost.

It computes nothing: what bits mean comes from a callable. How it appears is said in `ftlab.show.shown`.
"""

from ftlab.show import style
from ftlab.show.shown import Shown, guarded

COLOURS = (style.VERMILLION, style.BLUE, style.GREEN, style.PURPLE)  # of the fields; their names stand beside them
LOOKS = ("danger", "info", "success", "warning")  # the button styles next to them
ROLE = {"sign": 0, "exponent": 1, "mantissa": 2}  # any other field is the last


def _colour(name, looks=COLOURS):
    return looks[ROLE.get(name, 3)]


class BitFlipper(Shown):
    """See `bit_flipper`. Attributes: chosen (the format's name), bits (a string), seen (what the callable said)."""

    name = "a number to flip bit by bit"

    def __init__(self, formats, look, encode, start, chosen=None):
        self.formats, self.look, self.encode = {name: list(fields) for name, fields in formats.items()}, look, encode
        self.start, self.chosen = start, chosen or next(iter(self.formats))
        self.bits = self.encode(start, self.chosen)
        self.seen = self.look(self.bits, self.chosen)

    def parts(self):
        """[(field's name, its bits, place of its first bit), ...]."""
        made, place = [], 0
        for name, width in self.formats[self.chosen]:
            made.append((name, self.bits[place:place + width], place))
            place += width
        return made

    # What the controls do.

    def flip(self, place):
        """Turn one bit over."""
        self.set_bits(self.bits[:place] + ("0" if self.bits[place] == "1" else "1") + self.bits[place + 1:])

    def set_bits(self, bits):
        """Other bits in the same format."""
        self.bits, self.seen = bits, self.look(bits, self.chosen)
        self.redraw()

    def choose(self, name):
        """Another format: the number that was typed last, as that format holds it."""
        self.chosen = name
        self.set_bits(self.encode(self.start, name))

    def type(self, text):
        """Write a number: the nearest one of the format appears. Raises UsageError where it is no number."""
        from ftlab.errors import UsageError

        try:
            self.start = float(text.replace(",", "."))
        except ValueError:
            raise UsageError(f"{text!r} is no number: write something like 0.1, -3 or 6e4") from None
        self.set_bits(self.encode(self.start, self.chosen))

    def step(self, direction):
        """To the next number of the format, below (−1) or above (1)."""
        value = self.seen["below"] if direction < 0 else self.seen["above"]
        if value is not None:
            self.set_bits(self.encode(value, self.chosen))

    # What is drawn.

    def build(self):
        """A list of formats, a box for a number, a button a bit, the value below."""
        import ipywidgets as w

        self.status, self.output = w.HTML(), w.HTML()
        run = lambda action: guarded(self.status, action)  # noqa: E731
        self.list = w.Dropdown(options=list(self.formats), value=self.chosen, description="format",
                               layout=w.Layout(width="240px"), style={"description_width": "60px"})
        self.list.observe(run(lambda change: self.choose(change["new"])), names="value")
        self.box = w.Text(value=f"{self.start:g}", description="number", continuous_update=False,
                          layout=w.Layout(width="220px"), style={"description_width": "60px"})
        self.box.observe(run(lambda change: self.type(change["new"])), names="value")
        self.steps = {}
        for text, direction, tip in (("next below", -1, "to the next smaller number of the format"),
                                     ("next above", 1, "to the next larger number of the format")):
            self.steps[text] = w.Button(description=text, tooltip=tip, layout=w.Layout(width="auto"))
            self.steps[text].on_click(run(lambda _, direction=direction: self.step(direction)))
        widest = max(sum(width for _, width in fields) for fields in self.formats.values())
        self.buttons = [w.Button(layout=w.Layout(width="24px", min_width="0", padding="0", margin="2px 1px"))
                        for _ in range(widest)]
        for place, button in enumerate(self.buttons):
            button.on_click(run(lambda _, place=place: self.flip(place)))
        self.row = w.HBox([], layout=w.Layout(flex_flow="row wrap"))
        self.redraw()
        return w.VBox([w.HBox([self.list, self.box, *self.steps.values()], layout=w.Layout(flex_flow="row wrap")),
                       self.row, self.output, self.status], layout=w.Layout(max_width="900px"))

    def redraw(self):
        """Show the present bits; where no widget is on show, nothing."""
        if not hasattr(self, "row"):
            return
        import ipywidgets as w

        groups, laid = [], tuple(self.formats[self.chosen])
        for name, bits, first in self.parts():
            for place, bit in enumerate(bits, first):
                button = self.buttons[place]
                with button.hold_sync():
                    button.description, button.tooltip = bit, f"{name}: flip this bit"
                    button.button_style = _colour(name, LOOKS) if bit == "1" else ""
            if laid != getattr(self, "laid", None):
                caption = w.HTML(f'<div style="border-bottom:3px solid {_colour(name)};color:{style.FAINT_CSS};'
                                 f'font-size:12px;line-height:1.4;margin-right:6px">{style.escape(name)}</div>')
                groups.append(w.VBox([caption, w.HBox(self.buttons[first:first + len(bits)])]))
        if groups:
            self.row.children, self.laid = groups, laid
        self.output.value = self.html()

    def html(self):
        """Value, formula, neighbours."""
        lines = "".join(f'<div style="padding:1px 0">{style.escape(line)}</div>' for line in self.seen["lines"])
        return (f'<div style="color:{style.INK_CSS};line-height:1.5"><div style="font-size:19px;font-weight:600">'
                f'{style.escape(self.seen["value"])}</div><div style="font-size:13px">{lines}</div></div>')

    def picture(self):
        """The number that was typed, in every format."""
        rows = []
        for name, fields in self.formats.items():
            bits = self.encode(self.start, name)
            rows.append((name, fields, bits, self.look(bits, name)["value"]))
        return _bits_picture(rows, self.start)


def _bits_picture(rows, start):
    from ftlab.show import plots

    @plots._styled
    def draw():
        figure, axes = plots._figure(height=0.4 * len(rows) + 0.55, alt=f"the bits of {start:g} in {len(rows)} formats")
        for y, (name, fields, bits, value) in enumerate(rows):
            axes.text(-0.6, y + 0.45, name, ha="right", va="center", fontsize=8.5)
            place = 0
            for field, width in fields:
                for bit in bits[place:place + width]:
                    axes.add_patch(plots.Rectangle((place, y + 0.1), 0.88, 0.7, facecolor=_colour(field), linewidth=0,
                                                   alpha=0.85 if bit == "1" else 0.18))
                    axes.text(place + 0.44, y + 0.46, bit, ha="center", va="center", fontsize=7,
                              color="white" if bit == "1" else style.INK)
                    place += 1
            axes.text(place + 0.5, y + 0.45, value, va="center", fontsize=8.5)
        for x, field in ((0, "sign"), (4, "exponent"), (11, "mantissa")):
            axes.text(x, -0.35, field, fontsize=8.5, color=_colour(field), weight="bold")
        axes.text(18, -0.35, f"{start:g} in each format, and what it becomes", fontsize=8.5)
        axes.set_xlim(-8.2, 44)
        axes.set_ylim(len(rows), -0.8)
        axes.axis("off")
        return figure

    return draw()


def bit_flipper(formats, look, encode, start=0.1, chosen=None):
    """A number as its bits: click one to flip it, type a number, choose a format, go to the neighbour.

    formats: {name: [(field, bits), ...]}. encode(number, format's name) -> a string of 0 and 1. look(bits, name) ->
    dict(value: text, lines: texts below it, below, above: the neighbours, floats or None).
    """
    return BitFlipper(formats, look, encode, start, chosen)
