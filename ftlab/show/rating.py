"""A widget to rate pairs of texts by hand: left, right, tie or skip, by buttons or by keys, each rating on disk at once.

It computes nothing but counts; the journal is `ftlab.align.ratings.Ratings`. How it appears is said in `ftlab.show.shown`.
"""

import time

from ftlab.align.ratings import pair_key
from ftlab.show import style
from ftlab.show.shown import Shown, boxed, guarded

# key, action, the button's text, what it does. The keys are none that JupyterLab takes for a command (a inserts a cell, d d
# deletes one, r makes it raw): pressed with the focus beside the field, they do no harm.
ACTIONS = (("q", "left", "Left is better", "rates the left text as the better one"),
           ("p", "right", "Right is better", "rates the right text as the better one"),
           ("t", "tie", "Tie", "rates both as equally good"),
           ("s", "skip", "Skip", "rates nothing, and goes on"),
           ("u", "undo", "Undo", "takes the last rating back"))
KEYS = {key: action for key, action, _, _ in ACTIONS}
SHORTEST = 0.3  # seconds: nobody has read a pair sooner; a held key and a double click are not two ratings


class RatingView(Shown):
    """See `rating_view`. Attributes: pairs, ratings, pair (on show; None when all are rated)."""

    name = "pairs of texts to rate"

    def __init__(self, pairs, ratings, utility=None, clock=time.monotonic):
        # Once each; two texts that are the same leave nothing to rate.
        self.pairs = list({pair_key(p.prompt, p.chosen, p.rejected): p for p in pairs if p.chosen != p.rejected}.values())
        self.ratings, self.utility, self.clock = ratings, utility, clock
        self.told, self.note, self.texts = False, "", None
        self._go_on()

    # What is known.

    def counts(self):
        """{"left": how many of these pairs are rated so, …}, without the choices that nobody made."""
        made = {}
        for record in filter(None, map(self.ratings.rating_of, self.pairs)):
            made[record["rating"]] = made.get(record["rating"], 0) + 1
        return made

    def progress(self):
        """"12 of 40 rated, 3 of them skipped"."""
        made = self.counts()
        more = [f"{made[name]} {word}" for name, word in (("tie", "ties" if made.get("tie", 0) > 1 else "tie"),
                                                          ("skip", "skipped")) if name in made]
        return ", ".join([f"{sum(made.values())} of {len(self.pairs)} rated", *more])

    def agreement(self):
        """(pairs where the rater agrees with the known utility, pairs that both decide)."""
        agreed = decided = 0
        for pair in self.pairs:
            record = self.ratings.rating_of(pair)
            known = self._known(pair) if record and "chosen" in record else 0
            if known:
                decided += 1
                agreed += (record["chosen"] == pair.chosen) == (known > 0)
        return agreed, decided

    def _known(self, pair):
        """What the known utility says of a pair: above 0 where `chosen` is better."""
        if self.utility == "margin":
            return pair.margin
        return self.utility(pair.chosen) - self.utility(pair.rejected)

    # What the rater does.

    def act(self, action):
        """Rate the pair on show ("left", "right", "tie", "skip"), or "undo" the last rating."""
        now = self.clock()
        if now - self.since < SHORTEST:
            self.note = "That was too quick to have read it: not counted."
        elif action == "undo":
            self._undo()
        elif self.pair is not None:
            self.ratings.add(self.pair.prompt, *self.ratings.sides(self.pair), action, now - self.since)
            self.note = ""
            self._go_on()
        self.redraw()

    def _undo(self):
        record = self.ratings.undo(self.pairs)
        self.note = "Taken back: rate this pair again." if record else "There is nothing to take back."
        if record:
            key = pair_key(record["prompt"], record["a"], record["b"])
            self._show(next(p for p in self.pairs if pair_key(p.prompt, p.chosen, p.rejected) == key))

    def _go_on(self):
        self._show(next((pair for pair in self.pairs if self.ratings.rating_of(pair) is None), None))

    def _show(self, pair):
        self.pair, self.since, self.told = pair, self.clock(), pair is None

    def tell(self):
        """Show the agreement so far, until the next rating."""
        self.told = True
        self.redraw()

    def _slid(self, change):
        """An arrow key on the slider, or a click beside its handle; the handle then goes back to the middle."""
        if change["new"] == 0:
            return
        try:
            self.act("left" if change["new"] < 0 else "right")
        finally:
            self.slider.value = 0

    def _typed(self, change):
        """A key in the field: only what was put in counts, and one key a time, since the next pair was not read yet."""
        keys = [KEYS[letter] for letter in inserted(change["old"], change["new"]).lower() if letter in KEYS]
        if keys:
            self.act(keys[0])

    # What is drawn.

    def build(self):
        """The texts over buttons, a field for keys, and the counts."""
        import ipywidgets as w

        self.status, self.texts, self.line = w.HTML(), w.HTML(), w.HTML()
        self.buttons = {}
        for key, action, text, what in ACTIONS:
            button = w.Button(description=f"{text} ({key})", tooltip=f"{what}; key: {key}", layout=w.Layout(width="auto"))
            button.on_click(guarded(self.status, lambda _, action=action: self.act(action)))
            self.buttons[action] = button
        self.field = w.Text(value="", description="keys", continuous_update=True,
                            placeholder="click here, then q, p, t, s or u", layout=w.Layout(width="320px"))
        self.field.observe(guarded(self.status, self._typed), names="value")
        # Of ipywidgets' controls the slider alone keeps the arrow keys: from radio buttons and lists JupyterLab takes them.
        self.slider = w.IntSlider(value=0, min=-1, max=1, description="arrows", readout=False,
                                  layout=w.Layout(width="240px"))
        self.slider.observe(guarded(self.status, self._slid), names="value")
        row = [self.field, self.slider]
        if self.utility is not None:
            self.agree = w.Button(description="Agreement so far", tooltip="with the known utility",
                                  layout=w.Layout(width="auto"))
            self.agree.on_click(guarded(self.status, lambda _: self.tell()))
            row.append(self.agree)
        self.since = self.clock()
        self.redraw()
        flow = w.Layout(flex_flow="row wrap")
        return w.VBox([self.texts, w.HBox(list(self.buttons.values()), layout=flow), w.HBox(row, layout=flow), self.line,
                       self.status], layout=w.Layout(max_width="900px"))

    def redraw(self):
        """Show the present pair and the counts."""
        if self.texts is None:
            return  # not built yet
        self.texts.value, self.line.value = self.html(), self.caption()
        for action, button in self.buttons.items():
            button.disabled = self.pair is None and action != "undo"

    def html(self):
        """The prompt over the two texts."""
        if self.pair is None:
            return (f'<div style="color:{style.INK_CSS};font-size:15px;line-height:2;padding:16px 0">'
                    f"All {len(self.pairs)} pairs are rated. Thank you.</div>")
        left, right = self.ratings.sides(self.pair)
        sides = []
        for heading, text in (("left: key q, or ←", left), ("right: key p, or →", right)):
            said = boxed(heading, style.escape(text) or "<i>(nothing)</i>", style.BLUE, "9em")
            sides.append(f'<div style="flex:1 1 320px;min-width:0">{said}</div>')
        return (boxed("prompt", style.escape(self.pair.prompt), style.LINE_CSS, "2em")
                + f'<div style="display:flex;flex-wrap:wrap;gap:4px 20px">{"".join(sides)}</div>')

    def caption(self):
        """Counts, keys, agreement where it is told, and where the ratings are."""
        faint = f'<div style="color:{style.FAINT_CSS};font-size:12px;line-height:1.5">'
        keys = ", ".join(f"{key}: {action}" for key, action in KEYS.items())
        mended = f" ({self.ratings.mended})" if self.ratings.mended else ""
        lines = [f'<div role="status" style="color:{style.INK_CSS};font-size:13px;line-height:1.6">'
                 f"<b>{self.progress()}</b> {style.escape(self.note)}</div>"]
        if self.told and self.utility is not None:
            agreed, decided = self.agreement()
            share = f" ({style.percent(agreed / decided)})" if decided else ""
            lines.append(f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.6">You agree with the known '
                         f"utility on {agreed} of {decided} pairs that you both decide{share}.</div>")
        lines.append(f"{faint}In the field “keys”: {keys}. On the slider “arrows”: ← left, → right. Or Tab to a button and "
                     "press Space. Which text stands left is drawn at random. Ratings are in "
                     f"<code>{style.escape(str(self.ratings.path))}</code>{style.escape(mended)}.</div>")
        return "".join(lines)

    def picture(self):
        """The pair on show, or the last one where all are rated."""
        from ftlab.show import plots

        pair = self.pair or (self.pairs[-1] if self.pairs else None)
        if pair is None:
            return None
        left, right = self.ratings.sides(pair)
        return plots.side_by_side(pair.prompt, ("left", left), ("right", right), self.progress())


def inserted(old, new):
    """The letters put into a text field between two states of it."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return new[start:len(new) - end]


def rating_view(pairs, ratings, utility=None):
    """Rate pairs by hand: prompt, two texts side by side, left / right / tie / skip / undo by buttons or keys.

    pairs: of `Pair`; which text was "chosen" is hidden, the order drawn by the journal's seed. ratings: a `Ratings`;
    what it holds already is not asked again, and `read_preferences(ratings.path)` reads what was decided.
    utility: to compare with, told on demand and at the end, so that it does not lead: "margin" (the pairs' own) or a
    function from a text to its worth.
    """
    return RatingView(pairs, ratings, utility)
