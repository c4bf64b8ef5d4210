"""Several models side by side: one prompt, each one's answer in a column of its own.

It computes nothing: answers come from a callable. How it appears is said in `ftlab.show.shown`.
"""

from ftlab.show import style
from ftlab.show.prefixes import SwapView


class SideBySide(SwapView):
    """See `side_by_side`. Attributes as of SwapView."""

    name = "one prompt, several models side by side"

    def __init__(self, models, answer, prompts, note=None):
        super().__init__(list(models), answer, prompts, note)
        self.captions = dict(models)

    def html(self):
        """A column a model, its caption above, its answer and what is said of it below."""
        columns = []
        for name in self.names:
            text, note = self.answers.get(name, ("", "not asked yet"))
            edge = style.BLUE if name in self.answers else style.LINE_CSS
            columns.append(
                f'<div style="flex:1 1 200px;min-width:180px;max-width:420px;border-top:3px solid {edge};padding:4px 10px;'
                f'background:{style.CARD_CSS}"><div style="font-weight:600">{style.escape(name)}</div>'
                f'<div style="color:{style.FAINT_CSS};font-size:12px;min-height:2.6em">{style.escape(self.captions[name])}'
                f'</div><div style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4;font-size:13px;'
                f'min-height:4em">{style.escape(text)}</div><div style="color:{style.FAINT_CSS};font-size:12px;'
                f'padding-top:4px">{style.escape(note)}</div></div>')
        return (f'<div style="display:flex;flex-wrap:wrap;gap:8px;color:{style.INK_CSS};padding-top:6px">'
                f'{"".join(columns)}</div>')


def side_by_side(models, answer, prompts, note=None):
    """Several models in columns: choose or type a prompt, ask one of them or all, compare.

    models: {name: what it is, in a line}. answer(prompt, name) -> text. prompts: texts to choose from; note(prompt,
    answer) -> a line about the answer, or None.
    """
    return SideBySide(models, answer, prompts, note)
