"""How checks, hints and claims appear: a short box in a notebook, plain lines elsewhere, JSON for programs.

A box is told apart by a word and a symbol, never by colour alone, and takes its background from the theme.
"""

import html
import sys

CHECK_MIME = "application/vnd.ftlab.check+json"
CLAIM_MIME = "application/vnd.ftlab.claim+json"
PROBE_MIME = "application/vnd.ftlab.probe+json"

# Okabe and Ito's palette: told apart by the colour-blind, on a light and a dark ground.
GREEN, ORANGE, RED, BLUE, GREY = "#009E73", "#E69F00", "#D55E00", "#56B4E9", "#888888"
MARKS = {
    "right": ("✔", "Right", GREEN),
    "mistake": ("➜", "A known mistake", ORANGE),
    "wrong": ("✘", "Not right yet", RED),
    "error": ("⚠", "Your code stopped", RED),
    "not attempted": ("○", "Not attempted", GREY),
    "hint": ("💡", "Hint", BLUE),
    "note": ("ℹ", "Note", BLUE),
    "holds": ("✔", "Holds", GREEN),
    "fails": ("✘", "Does not hold", RED),
    "report": ("ℹ", "Reported", BLUE),
}


def show_box(mark, title, text, data=None, mime=None):
    """Display a box: symbol and word of `mark`, `title`, then `text` (its lines are kept); `data` goes out as JSON."""
    symbol, word, colour = MARKS[mark]
    head = f"{symbol} {word}" + (f" · {title}" if title else "")
    plain = head + ("\n" + text if text else "")
    body = f'<div style="white-space:pre-wrap;margin-top:2px">{html.escape(text)}</div>' if text else ""
    bundle = {
        "text/plain": plain,
        "text/html": (
            f'<div style="border-left:6px solid {colour};padding:4px 10px;margin:4px 0;max-width:60em;'
            f'overflow-x:auto"><b>{html.escape(head)}</b>{body}</div>'
        ),
    }
    if mime:
        bundle[mime] = data
    publish(bundle)


def publish(bundle):
    """Send a MIME bundle to the notebook; print its plain text where there is none."""
    shell = shell_or_none()
    if shell is None:
        print(bundle["text/plain"])
        return
    from IPython.display import display

    display(bundle, raw=True)


def shell_or_none():
    """The running IPython shell, or None outside IPython. Does not import IPython."""
    if "IPython" not in sys.modules:
        return None
    return sys.modules["IPython"].get_ipython()


def table(header, rows):
    """(plain text, HTML) of a small table; cells are text."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]

    def line(row, tag):
        cells = (f'<{tag} style="text-align:left">{html.escape(cell)}</{tag}>' for cell in row)
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return "\n".join(map(str.rstrip, lines)), f"<table>{line(header, 'th')}{body}</table>"


class Points:
    """What `lab.check` returns. Its plain text is the bare number, which is what nbgrader reads as the grade."""

    def __init__(self, points, max_points):
        self.points, self.max_points = points, max_points

    def __repr__(self):
        return f"{self.points:g}"

    def _repr_html_(self):
        return f"<small>{self.points:g} of {self.max_points:g} points</small>"
