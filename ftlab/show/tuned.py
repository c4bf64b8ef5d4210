"""Two widgets of fine-tuning: which tokens of an example the loss sees, and one prompt answered along a run.

They compute nothing: pieces, answers and scores come from outside. How they appear is said in `ftlab.show.shown`. What
is seen is told by a filled box with a thick lower edge, what is not by plain faint text, so nothing hangs on colour.
"""

from ftlab.show import style
from ftlab.show.shown import Shown, boxed, guarded

SEEN, UNSEEN = "the loss sees it", "context only"


def _html():
    import ipywidgets as w

    return w.HTML(layout=w.Layout(margin="0"))


# ---- which tokens the loss sees


class LossMaskView(Shown):
    """See `loss_mask_view`. Attribute: chosen (the name of the view on show)."""

    name = "tokens by whether the loss sees them"

    def __init__(self, views, limit=400):
        self.views, self.limit = {name: [(str(p), bool(s)) for p, s in pairs] for name, pairs in views.items()}, limit
        self.chosen = next(iter(self.views))

    def picture(self):
        """The view on show."""
        from ftlab.show import plots

        return plots.loss_mask(self.views[self.chosen], self.chosen)

    def html(self):
        """The view on show as HTML: a count, a key, the tokens."""
        pairs = self.views[self.chosen]
        out = [f'<div style="color:{style.INK_CSS};font-size:13px;line-height:1.7">'
               f'{style.escape(style.seen_count(pairs))} {_chip(SEEN, True)} {_chip(UNSEEN, False)}</div>'
               f'<div style="font-family:{style.MONO_CSS};font-size:13px;line-height:1.9;'
               f'color:{style.INK_CSS};white-space:pre-wrap;overflow-wrap:anywhere">']
        for piece, seen in pairs[: self.limit]:
            out.append(_chip(style.visible(piece), seen) + ("<br>" if "\n" in piece else ""))
        more = len(pairs) - self.limit
        return "".join(out) + (f"… and {more} more" if more > 0 else "") + "</div>"

    def build(self):
        """A list to choose from, over the tokens."""
        import ipywidgets as w

        self.status, self.output = _html(), _html()
        self.control = w.Dropdown(options=list(self.views), value=self.chosen, description="example",
                                  layout=w.Layout(width="98%", max_width="560px"))
        choose = guarded(self.status, self.choose)
        self.control.observe(lambda change: choose(change["new"]), names="value")
        choose(self.chosen)
        return w.VBox([self.control, self.output, self.status], layout=w.Layout(max_width="900px"))

    def choose(self, name):
        """Show another view."""
        self.chosen = name
        self.output.value = self.html()


def _chip(text, seen):
    look = (f"background:{style.rgba(style.SKY, 0.35)};border-bottom:3px solid {style.BLUE};font-weight:600" if seen
            else f"color:{style.FAINT_CSS};border-bottom:1px dotted {style.LINE_CSS}")
    return (f'<span title="{SEEN if seen else UNSEEN}" style="display:inline-block;line-height:1.25;padding:0 3px;'
            f'margin:1px;border-radius:2px;{look}">{style.escape(text)}</span>')


def loss_mask_view(views):
    """Examples cut into tokens, coloured by whether the loss sees them. views: {name: [(piece, seen), ...]}, the first
    on show; `ftlab.text.rows.shown` makes such a list."""
    return LossMaskView(views)


# ---- one prompt, answered along a run


class AnswersView(Shown):
    """See `answers_view`. Attributes: prompt, stage (indices of what is on show)."""

    name = "one prompt answered before, during and after fine-tuning"

    def __init__(self, prompts, stages, answers, notes=None):
        self.prompts, self.stages = list(prompts), [str(s) for s in stages]
        self.answers, self.notes = answers, notes
        self.prompt, self.stage = 0, 0

    def note(self, prompt, stage):
        """What is said of an answer, or nothing."""
        return self.notes[prompt][stage] if self.notes else ""

    def picture(self):
        """The prompt on show with its answers at up to five stages."""
        from ftlab.show import plots

        last = len(self.stages) - 1
        some = sorted({round(i * last / 4) for i in range(5)})
        return plots.answers(self.prompts[self.prompt],
                             [(self.stages[i], self.answers[self.prompt][i], self.note(self.prompt, i)) for i in some])

    def html(self):
        """Prompt, answer and note as HTML."""
        answer, note = self.answers[self.prompt][self.stage], self.note(self.prompt, self.stage)
        said = style.escape(answer) or "<i>(nothing)</i>"
        return (boxed("asked", style.escape(self.prompts[self.prompt]), style.LINE_CSS, "2em")
                + boxed(f"answered ({style.escape(self.stages[self.stage])})", said, style.BLUE, "6em")
                + f'<div style="color:{style.FAINT_CSS};font-size:13px">{style.escape(note)}</div>')

    def build(self):
        """A list of prompts, a slider over the stages, the text."""
        import ipywidgets as w

        self.status, self.output = _html(), _html()
        wide = {"style": {"description_width": "60px"}, "layout": w.Layout(width="98%", max_width="560px")}
        names = [(f"{i + 1}: {(p.splitlines() or [''])[0][:70]}", i) for i, p in enumerate(self.prompts)]
        self.controls = {
            "prompt": w.Dropdown(options=names, value=self.prompt, description="prompt", **wide),
            "stage": w.SelectionSlider(options=[(s, i) for i, s in enumerate(self.stages)], value=self.stage,
                                       description="when", **wide)}
        for name, control in self.controls.items():
            control.observe(guarded(self.status, lambda change, name=name: self.set(name, change["new"])),
                            names="value")
        self.output.value = self.html()
        return w.VBox([*self.controls.values(), self.output, self.status], layout=w.Layout(max_width="900px"))

    def set(self, name, index):
        """Take a control's value and redraw."""
        setattr(self, name, index)
        self.output.value = self.html()


def answers_view(prompts, stages, answers, notes=None):
    """One prompt answered before, during and after fine-tuning: choose the prompt, slide along the run.

    prompts: texts; stages: a label each, in order; answers[i][j]: the answer to prompt i at stage j; notes: the same
    shape, a line about each answer (its score, say), or None.
    """
    return AnswersView(prompts, stages, answers, notes)
