"""Colours, sizes and the kernel's manners: the one place that decides how ftlab looks.

Pictures are white cards, so they read the same in a light and in a dark theme. HTML takes its colours from JupyterLab's
variables, with fallbacks for Colab and others. No meaning hangs on colour alone: series differ in marker and dash too.
"""

import html

# Okabe and Ito's palette (2008): eight colours that people with any common colour blindness tell apart.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW, BLACK = "#E69F00", "#56B4E9", "#F0E442", "#000000"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (10, 3)), (0, (1, 1)), (0, (4, 1, 1, 1, 1, 1)))
GREY, INK = "#767676", "#222222"
SHADE = "#288CCD"  # of cells: a middle blue, to be seen on white and on black

WIDTH, HEIGHT, DPI = 6.6, 3.6, 144  # inches, inches, pixels an inch
SCREEN_DPI = 100  # a figure of WIDTH inches is shown WIDTH * SCREEN_DPI CSS pixels wide

RC = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "axes.titlesize": 10.5, "axes.labelsize": 9.5,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#555555", "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": "#444444", "ytick.color": "#444444", "xtick.labelsize": 8.5, "ytick.labelsize": 8.5,
    "axes.grid": True, "grid.color": "#E4E4E4", "grid.linewidth": 0.7, "axes.axisbelow": True,
    "lines.linewidth": 1.8, "lines.markersize": 5, "legend.frameon": False, "legend.fontsize": 8.5,
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white",
    "path.simplify": True, "axes.formatter.useoffset": False,
}

# What HTML may use. The fallbacks are for places without JupyterLab's variables.
INK_CSS = "var(--jp-ui-font-color1, var(--colab-primary-text-color, #222))"
FAINT_CSS = "var(--jp-ui-font-color2, var(--colab-secondary-text-color, #666))"
LINE_CSS = "var(--jp-border-color2, #bbb)"
CARD_CSS = "var(--jp-layout-color2, rgba(128, 128, 128, 0.1))"
MONO_CSS = "var(--jp-code-font-family, monospace)"


def in_kernel():
    """Whether a Jupyter kernel runs this process, so that display() reaches a notebook."""
    import sys

    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def rgba(colour, alpha):
    """A CSS colour from "#RRGGBB" and an opacity in [0, 1]."""
    r, g, b = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return f"rgba({r},{g},{b},{alpha:.3g})"


def visible(piece, space="␣"):
    """A token's piece with its white space shown: a leading space is otherwise invisible."""
    return piece.replace(" ", space).replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍") or "∅"


def escape(text):
    """Text made safe to stand in HTML, in attributes too; characters that no page can hold become U+FFFD."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd"), quote=True)


def percent(p):
    """A probability as a short text: 34 %, 3.4 %, 0.3 %, < 0.1 %."""
    if p <= 0:
        return "0"
    if p < 0.001:
        return "< 0.1 %"
    return f"{100 * p:.0f} %" if p >= 0.0995 else f"{100 * p:.1f} %"


def seen_count(pairs):
    """How many of [(piece, whether the loss sees it), ...] it sees, as text: 37 of 120 tokens carry a loss (31 %)."""
    seen = sum(s for _, s in pairs)
    return f"{seen:,} of {len(pairs):,} tokens carry a loss ({percent(seen / max(1, len(pairs)))})"


def duration(seconds):
    """Seconds as a short text: 8 s, 1 min 20 s, 2 h 05 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def number(value):
    """A number as a short text: three significant digits, thousands as 12.3k."""
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 100 or float(value).is_integer():
        return f"{value:.0f}"
    return f"{value:.3g}"
