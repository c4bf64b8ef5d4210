"""Pictures: every function takes numbers that others computed and returns a figure that displays itself.

In a notebook a figure as a cell's last expression shows as a PNG; elsewhere use `.savefig`. Values with an interval are
tuples (value, low, high). Shares are given in [0, 1] and drawn in per cent where `percent=True`.
"""

import base64
import functools
import io
import math
import textwrap

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

from ftlab.profile import headless
from ftlab.show import style


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook as one PNG, whatever the backend; pyplot never sees it."""

    alt = ""
    colours = 128  # enough for lines and text, at a third of the bytes; a colour map takes 256

    def png(self, dpi=style.DPI):
        """The picture as PNG bytes, the same bytes each time."""
        from PIL import Image

        raw, packed = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(style.RC):
            self.savefig(raw, format="png", dpi=dpi)
        Image.open(raw).convert("RGB").quantize(self.colours).save(packed, format="PNG", optimize=True)
        return packed.getvalue()

    def bundle(self):
        """(data, metadata) for IPython's display(raw=True), with the alternative text.

        It is in the image's metadata, where nbconvert's classic template, nbsphinx and others read it, and is the plain text.
        JupyterLab and nbconvert's default template read no metadata of an image but its size. For them there is HTML
        beside the PNG, except in stored notebooks (FTLAB_HEADLESS): GitHub may show no picture that is inside of HTML.
        """
        width, height = (round(inches * style.SCREEN_DPI) for inches in self.get_size_inches())
        png, text = self.png(), self.alt or "a picture"
        data = {"image/png": png, "text/plain": text}
        if not headless():
            data["text/html"] = image_html(png, text, width)
        return data, {"image/png": {"width": width, "height": height, "alt": text}}

    def show(self, warn=True):
        """Display it here, when it is not a cell's last expression."""
        self._ipython_display_()

    def _ipython_display_(self):
        from IPython.display import display

        data, metadata = self.bundle()
        display(data, metadata=metadata, raw=True)


def image_html(png: bytes, alt: str, width: int) -> str:
    """An <img> that holds a PNG, with its alternative text; width: in CSS pixels, less where there is less room."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{style.escape(alt)}" style="max-width:{width}px;width:100%" src="data:image/png;base64,{data}">'


def _styled(function):
    """Draw under our settings, without touching anybody else's."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(style.RC):
            return function(*args, **kwargs)

    return wrapper


def _figure(width=style.WIDTH, height=style.HEIGHT, alt="", rows=1, columns=1, **kwargs):
    """(figure, axes), laid out so that no text leaves the figure."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.alt = alt
    return figure, figure.subplots(rows, columns, **kwargs)


_BACK = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8}  # behind text that may cross a line


def _name(text):
    """Text that matplotlib shows as it stands: no mathematics, only characters its font has."""
    charmap = _charmap()
    return "".join(c if c == "\n" or ord(c) in charmap else "□" for c in str(text)).replace("$", r"\$")


@functools.lru_cache(1)
def _charmap():
    from matplotlib import font_manager, ft2font

    return ft2font.FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()


def _series(data):
    """(xs, ys) from a History, a pair, or a list of values counted from 1."""
    if hasattr(data, "losses"):
        return list(data.steps), list(data.losses)
    if isinstance(data, tuple) and len(data) == 2 and hasattr(data[0], "__len__"):
        return list(data[0]), list(data[1])
    return list(range(1, len(data) + 1)), list(data)


def _triple(value):
    """(value, low, high); low and high None where no interval is known."""
    if isinstance(value, (tuple, list)):
        value, low, high = value
        return value, low, high
    return value, None, None


def _smooth(values, window):
    """Running mean over about `window` values, centred so that it does not lag; narrower towards both ends."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    out = []
    for i in range(len(values)):
        half = min(window // 2, i, len(values) - 1 - i)
        out.append((sums[i + half + 1] - sums[i - half]) / (2 * half + 1))
    return out


def _style_of(i):
    return {
        "color": style.SERIES[i % len(style.SERIES)],
        "linestyle": style.DASHES[i % len(style.DASHES)],
        "marker": style.MARKERS[i % len(style.MARKERS)],
    }


def _end_labels(figure, axes, entries):
    """Write each (x, y, text, colour) right of its point, moved apart where two would touch; makes room for them."""
    entries = [e for e in entries if e[1] is not None and math.isfinite(e[1])]
    if not entries:
        return
    line = 12.5 / 72 * figure.dpi
    half = [line * (1 + text.count("\n")) / 2 for _, _, text, _ in entries]
    box = axes.get_window_extent()
    spots = sorted((min(max(axes.transData.transform((x, y))[1], box.y0), box.y1), i)
                   for i, (x, y, _, _) in enumerate(entries))
    placed = []
    for y, i in spots:
        low = placed[-1][0] + half[placed[-1][1]] + half[i] if placed else y
        placed.append([max(y, low), i])
    roof = box.y1 + line / 2
    for spot in reversed(placed):  # a crowd pushed out at the top moves down again
        spot[0] = min(spot[0], roof - half[spot[1]] + line / 2)
        roof = spot[0] - half[spot[1]] - line / 2
    for y, i in placed:
        x0, y0, text, colour = entries[i]
        shift = (y - axes.transData.transform((x0, y0))[1]) / figure.dpi * 72
        axes.annotate(_name(text), (x0, y0), xytext=(7, shift), textcoords="offset points", color=colour,
                      va="center", fontsize=8.5, annotation_clip=False)


def _label_ends(figure, axes, entries):
    figure.draw_without_rendering()  # so that the data's pixels are known
    _end_labels(figure, axes, entries)


def _shares(axes, which="y"):
    getattr(axes, f"{which}axis").set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=0))


def _plain_log_ticks(axis):
    """Ticks of a log axis as plain numbers where they are few digits long."""
    axis.set_major_formatter(FuncFormatter(lambda v, _: _log_tick(v)))
    axis.set_minor_formatter(NullFormatter())


def _log_tick(value):
    if value <= 0:
        return ""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10**exponent
    digits = str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}" if abs(mantissa - 1) < 1e-6 else f"{mantissa:g}·10{digits}"


def _titles(axes, title, xlabel, ylabel):
    if title:
        axes.set_title(_name(title))
    axes.set_xlabel(_name(xlabel))
    axes.set_ylabel(_name(ylabel))


@_styled
def loss_curve(histories, floor=None, evals=None, title=None, xlabel="step", ylabel="loss (nats per token)",
               floor_label="entropy of the source", smooth=None, ylim=None):
    """Loss against steps, one line a run, with the floor as a dashed line.

    histories: {name: History | (steps, losses)}; drawn faint, and smoothed over `smooth` steps (default: a fortieth of
    the run). evals: {name: (steps, losses)} of evaluations, drawn as marked points. floor: nats per token, or None.
    """
    figure, axes = _figure(alt=f"loss against {xlabel}: {', '.join(map(str, histories))}")
    ends, lowest, highest = _draw_losses(axes, histories, evals or {}, smooth)
    _titles(axes, title, xlabel, ylabel)
    axes.margins(x=0.01)
    _floor(axes, floor, floor_label, lowest, highest, ylim)
    _label_ends(figure, axes, ends)
    return figure


def _draw_losses(axes, histories, evals, smooth=None):
    """Draw runs and evaluations; returns (labels for the ends, low values, high values)."""
    ends, lowest, highest = [], [], []
    for i, (name, data) in enumerate(histories.items()):
        steps, losses = _series(data)
        if not steps:
            continue
        look = _style_of(i)
        window = smooth or max(1, len(steps) // 40)
        line = _smooth(losses, window)
        if window > 1:
            axes.plot(steps, losses, color=look["color"], alpha=0.22, linewidth=0.8)
        axes.plot(steps, line, color=look["color"], linestyle=look["linestyle"])
        ends.append((steps[-1], line[-1], f"{name}  {line[-1]:.2f}", look["color"]))
        lowest.append(min(line))
        highest.append(line[0])
    for i, (name, (steps, losses)) in enumerate(evals.items(), start=len(histories)):
        if not len(steps):
            continue
        look = _style_of(i)
        axes.plot(list(steps), list(losses), color=look["color"], marker=look["marker"], linewidth=1)
        ends.append((steps[-1], losses[-1], f"{name}  {losses[-1]:.2f}", look["color"]))
        lowest.append(min(losses))
        highest.append(losses[-1])  # a held-out loss that rises stays in the picture
    return ends, lowest, highest


def _floor(axes, floor, label, lowest, highest, ylim):
    """Draw the floor and choose limits that show it without squeezing the curves."""
    if floor is not None:
        axes.axhline(floor, color=style.INK, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.annotate(_name(f"{label}: {floor:.2f}"), (0.01, floor), xycoords=("axes fraction", "data"),
                      xytext=(0, -4), textcoords="offset points", fontsize=8.5, va="top")
        lowest = [*lowest, floor]
    if ylim:
        axes.set_ylim(*ylim)
    elif lowest and highest and math.isfinite(max(highest)):
        span = max(max(highest) - min(lowest), 1e-6)
        axes.set_ylim(min(lowest) - 0.12 * span, max(highest) + 0.05 * span)


@_styled
def training(steps, losses, evals=None, shares=None, floor=None, floor_label="entropy of the source",
             share_label=None, title=None, name="training", eval_name="held out", unit="nats per token"):
    """One run: its loss with the floor and, where there is one, a second panel with a share in per cent.

    evals: (steps, losses) of evaluations; shares: (steps, shares in [0, 1]) for the second panel, named `share_label`.
    """
    if not share_label:
        return loss_curve({name: (steps, losses)}, floor, {eval_name: evals} if evals else None, title,
                          ylabel=f"loss ({unit})", floor_label=floor_label)
    figure, (axes, below) = _figure(height=4.9, rows=2, sharex=True, height_ratios=(3, 1.7),
                                    alt=f"loss and {share_label} against step")
    ends, lowest, highest = _draw_losses(axes, {name: (steps, losses)}, {eval_name: evals} if evals else {})
    _titles(axes, title, "", f"loss ({unit})")
    for panel in (axes, below):
        panel.margins(x=0.01)
    _floor(axes, floor, floor_label, lowest, highest, None)
    below.plot(list(shares[0]), list(shares[1]), color=style.GREEN, marker="^")
    _shares(below)
    below.set_ylim(-0.03, 1.05)
    below.set_title(_name(share_label), fontsize=9.5)
    _titles(below, None, "step", "share")
    figure.draw_without_rendering()
    _end_labels(figure, axes, ends)
    if len(shares[0]):
        _end_labels(figure, below, [(shares[0][-1], shares[1][-1], style.percent(shares[1][-1]), style.GREEN)])
    return figure


@_styled
def lines(series, xlabel, ylabel, title=None, percent=False, logx=False, logy=False, labels=True, ylim=None,
          hline=None, vline=None):
    """Lines with markers, one a name, intervals as bands.

    series: {name: (xs, ys)} or {name: (xs, ys, lows, highs)}. hline, vline: (position, text), or None.
    """
    figure, axes = _figure(alt=f"{ylabel} against {xlabel}: {', '.join(map(str, series))}")
    ends = []
    for i, (name, data) in enumerate(series.items()):
        xs, ys = list(data[0]), list(data[1])
        look = _style_of(i)
        axes.plot(xs, ys, **look)
        if len(data) == 4:
            axes.fill_between(xs, list(data[2]), list(data[3]), color=look["color"], alpha=0.18, linewidth=0)
        if xs:
            ends.append((xs[-1], ys[-1], name, look["color"]))
    _scales(axes, logx, logy)
    if percent:
        _shares(axes)
    if ylim:
        axes.set_ylim(*ylim)
    elif percent:
        axes.set_ylim(-0.02, max(1.02, axes.get_ylim()[1]))
    _titles(axes, title, xlabel, ylabel)
    _guides(axes, hline, vline)
    if labels:
        _label_ends(figure, axes, ends)
    return figure


def _scales(axes, logx, logy):
    if logx:
        axes.set_xscale("log")
        _plain_log_ticks(axes.xaxis)
    if logy:
        axes.set_yscale("log")
        _plain_log_ticks(axes.yaxis)


def _guides(axes, hline, vline):
    if hline:
        axes.axhline(hline[0], color=style.INK, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.annotate(_name(hline[1]), (0.01, hline[0]), xycoords=("axes fraction", "data"), xytext=(0, 3),
                      textcoords="offset points", fontsize=8.5, va="bottom")
    if vline:
        axes.axvline(vline[0], color=style.INK, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.annotate(_name(vline[1]), (vline[0], 0.99), xycoords=("data", "axes fraction"), xytext=(4, 0),
                      textcoords="offset points", fontsize=8.5, va="top")


@_styled
def bars(values, xlabel="", title=None, percent=False, threshold=None, threshold_label="threshold"):
    """Horizontal bars with their values written beside them, intervals as whiskers.

    values: {name: value | (value, low, high)}. threshold: a position drawn as a dashed line, or None.
    """
    count = max(1, len(values))
    figure, axes = _figure(height=1.15 + 0.36 * count, alt=f"{xlabel}: {', '.join(map(str, values))}")
    text = style.percent if percent else style.number
    for i, value in enumerate(values.values()):
        middle, low, high = _triple(value)
        axes.barh(i, middle, height=0.62, color=style.BLUE, zorder=2)
        note = text(middle)
        if low is not None:
            axes.errorbar(middle, i, xerr=[[max(0, middle - low)], [max(0, high - middle)]], color=style.INK,
                          capsize=3, linewidth=1.3, zorder=3)
            note += f"  ({text(low)} to {text(high)})"
        end = max(v for v in (middle, high, 0) if v is not None)
        axes.annotate(_name(note), (end, i), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
                      annotation_clip=False, bbox=_BACK, zorder=5)
    axes.set_yticks(range(len(values)), [_name(name) for name in values])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.axvline(0, color="#555555", linewidth=0.8)
    if percent:
        _shares(axes, "x")
        axes.set_xlim(min(0, axes.get_xlim()[0]), max(1.0, axes.get_xlim()[1]))
    if threshold is not None:
        axes.axvline(threshold, color=style.INK, linestyle=(0, (5, 3)), linewidth=1.2, zorder=4)
        axes.annotate(_name(f"{threshold_label} {text(threshold)}"), (threshold, 1.0),
                      xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points", ha="center",
                      fontsize=8.5, va="bottom")
    _titles(axes, title, xlabel, "")
    if title and threshold is not None:
        axes.set_title(_name(title), pad=16)
    return figure


@_styled
def heatmap(attention, tokens, title=None, max_tokens=40):
    """One attention map: row i says how much of token i's reading goes to each token j; rows sum to 1.

    attention: T rows of T weights; tokens: T pieces. Beyond `max_tokens` the map is cut, and the title says so.
    """
    count = min(len(tokens), max_tokens)
    weights = [[float(v) for v in row[:count]] for row in attention[:count]]
    size = min(max(3.4, 0.19 * count + 1.6), 7.4)
    figure, axes = _figure(width=size + 0.9, height=size, alt=f"attention map, {count} tokens")
    figure.colours = 256
    image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=max(max(map(max, weights), default=0), 1e-9))
    names = [_name(_short(style.visible(t), 12)) for t in tokens[:count]]
    font = 8.5 if count <= 24 else 6.5
    axes.set_xticks(range(count), names, rotation=90, fontsize=font)
    axes.set_yticks(range(count), names, fontsize=font)
    axes.grid(visible=False)
    note = f" (first {count} of {len(tokens)} tokens)" if count < len(tokens) else ""
    _titles(axes, (title or "") + note, "token read from", "token that reads")
    bar = figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    bar.set_label("attention weight")
    bar.outline.set_visible(False)
    return figure


@_styled
def prefix_heatmap(weights, tokens, labels, title=None, max_tokens=40):
    """An attention map whose first columns are a prefix, set off by a line; weights: T rows of P + T.

    tokens: T pieces; labels: P names of virtual tokens. Of each at most `max_tokens` are drawn.
    """
    before = len(labels)
    rows, columns = min(len(tokens), max_tokens), min(before, max_tokens)
    kept = [[*map(float, row[:columns]), *map(float, row[before:before + rows])] for row in weights[:rows]]
    side = 0.17
    figure, axes = _figure(width=side * (columns + rows) + 1.6, height=side * rows + 1.7,
                           alt=f"attention of {len(tokens)} tokens to a prefix of {before} and to each other")
    figure.colours = 256
    axes.imshow(kept, cmap="Blues", vmin=0, aspect="equal", interpolation="nearest")
    axes.axvline(columns - 0.5, color=style.VERMILLION, linewidth=1.4)
    names = [_name(_short(style.visible(text), 12)) for text in [*labels[:columns], *tokens[:rows]]]
    axes.set_xticks(range(columns + rows), names, rotation=90, fontsize=7)
    axes.set_yticks(range(rows), names[columns:], fontsize=7)
    axes.tick_params(length=0)
    axes.grid(False)
    _titles(axes, title, f"read from: the prefix ({before}), then the text", "token that reads")
    return figure


def _short(text, length):
    return text if len(text) <= length else text[: length - 1] + "…"


@_styled
def attention_grid(maps, tokens, title=None):
    """Every head of every layer as a small map, layers down, heads across; maps: layers x heads x T x T."""
    rows, columns = len(maps), max(map(len, maps))
    side = min(1.5, 6.6 / columns)
    figure, axes = _figure(width=side * columns + 0.6, height=side * rows + 0.75, rows=rows, columns=columns,
                           alt=f"attention of {rows} layers, {columns} heads each", squeeze=False)
    figure.colours = 256
    for i, layer in enumerate(maps):
        for j, head in enumerate(layer):
            cell = axes[i][j]
            cell.imshow([list(map(float, row)) for row in head], cmap="Blues", vmin=0)
            cell.set_xticks([])
            cell.set_yticks([])
            cell.grid(visible=False)
            if i == 0:
                cell.set_title(f"head {j + 1}", fontsize=8.5, loc="center")
            if j == 0:
                cell.set_ylabel(f"layer {i + 1}", fontsize=8.5)
    figure.supxlabel(f"token read from (of {len(tokens)})", fontsize=8.5)
    figure.supylabel("token that reads", fontsize=8.5)
    if title:
        figure.suptitle(_name(title), fontsize=10.5, x=0.01, ha="left")
    return figure


@_styled
def scatter(groups, xlabel, ylabel, title=None, percent_x=False, percent_y=False, logx=False, logy=False):
    """Points, a colour and a marker a group; groups: {name: (xs, ys)}. The legend stands above the points."""
    figure, axes = _figure(alt=f"{ylabel} against {xlabel}")
    for i, (name, (xs, ys)) in enumerate(groups.items()):
        look = _style_of(i)
        axes.scatter(list(xs), list(ys), color=look["color"], marker=look["marker"], s=26, alpha=0.8, linewidths=0,
                     label=_name(name))
    _finish_points(axes, title, xlabel, ylabel, percent_x, percent_y, logx, logy, legend=len(groups) if len(groups) > 1 else 0)
    return figure


def _finish_points(axes, title, xlabel, ylabel, percent_x, percent_y, logx, logy, legend):
    _scales(axes, logx, logy)
    if percent_x:
        _shares(axes, "x")
    if percent_y:
        _shares(axes)
    _titles(axes, title, xlabel, ylabel)
    if legend:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2, handletextpad=0.4)
        if title:
            axes.set_title(_name(title), pad=10 + 14 * -(-int(legend) // 4))  # above all of the legend's rows


@_styled
def frontier(series, xlabel, ylabel, title=None, percent_x=False, percent_y=False, best=None):
    """Two things that trade against each other: a line a way, each point labelled with its setting.

    series: {name: [(x, y, text), ...]} in the order of the setting; best: text saying which corner is good, such as
    "better: up and to the right", written under the title.
    """
    figure, axes = _figure(height=4.2, alt=f"{ylabel} against {xlabel}: {', '.join(map(str, series))}")
    for i, (name, points) in enumerate(series.items()):
        look = _style_of(i)
        axes.plot([p[0] for p in points], [p[1] for p in points], **look, label=_name(name))
        above = 1 if i % 2 == 0 else -1
        for x, y, text in points:
            axes.annotate(_name(text), (x, y), xytext=(4, 5 * above), textcoords="offset points", fontsize=7.5,
                          color=look["color"], va="bottom" if above > 0 else "top", bbox=_BACK)
    axes.margins(x=0.08, y=0.1)
    _finish_points(axes, title, xlabel, ylabel, percent_x, percent_y, False, False, legend=len(series))
    if best:
        axes.annotate(_name(best), (1, 1), xycoords="axes fraction", ha="right", va="bottom", xytext=(0, 4),
                      textcoords="offset points", fontsize=8.5, color=style.GREY)
    return figure


@_styled
def u_curve(series, xlabel="peak learning rate", ylabel="final loss (nats per token)", title=None, diverged=None,
            mark_best=True, ylim=None):
    """Final loss against a rate on a log axis, the lowest point of each line marked.

    series: {name: (xs, ys)} or {name: (xs, ys, lows, highs)}; diverged: {name: xs} of runs without a usable loss,
    drawn as crosses at the top edge.
    """
    figure, axes = _figure(alt=f"{ylabel} against {xlabel}: {', '.join(map(str, series))}")
    ends, marked = [], []
    for i, (name, data) in enumerate(series.items()):
        xs, ys = list(data[0]), list(data[1])
        look = _style_of(i)
        axes.plot(xs, ys, **look)
        if len(data) == 4:
            axes.fill_between(xs, list(data[2]), list(data[3]), color=look["color"], alpha=0.18, linewidth=0)
        if mark_best and ys:
            best = min(range(len(ys)), key=ys.__getitem__)
            axes.plot(xs[best], ys[best], marker="o", markersize=12, markerfacecolor="none", color=look["color"])
            marked.append((ys[best], xs[best], look["color"]))
        if xs:
            ends.append((xs[-1], ys[-1], name, look["color"]))
    for i, (y, x, color) in enumerate(sorted(marked)):
        higher = sum(other == x for _, other, _ in sorted(marked)[:i])  # of several at one rate, the lowest is told below
        axes.annotate(_name(f"best {_log_tick(x)}"), (x, y), xytext=(0, 12 * higher if higher else -13),
                      textcoords="offset points", ha="center", va="bottom" if higher else "top", fontsize=8.5, color=color,
                      bbox=_BACK)
    axes.set_xscale("log")
    _plain_log_ticks(axes.xaxis)
    axes.margins(y=0.18)
    if ylim:
        axes.set_ylim(*ylim)
    for i, name in enumerate(series):
        gone = list((diverged or {}).get(name, ()))
        axes.plot(gone, [0.97 - 0.05 * i] * len(gone), "x", color=style.SERIES[i % len(style.SERIES)], markersize=8,
                  transform=axes.get_xaxis_transform())
        if gone:
            axes.annotate("diverged", (gone[-1], 0.97 - 0.05 * i), xycoords=("data", "axes fraction"), xytext=(8, 0),
                          textcoords="offset points", va="center", fontsize=8.5, annotation_clip=False)
    _titles(axes, title, xlabel, ylabel)
    _label_ends(figure, axes, ends)
    return figure


@_styled
def small_multiples(panels, xlabel, ylabel, title=None, logx=False, logy=False, columns=2):
    """A panel a name, all on the same axes; panels: {name: {line: (xs, ys)}}. Each has its own legend."""
    rows = -(-len(panels) // columns)
    figure, axes = _figure(height=2.5 * rows + 0.3, rows=rows, columns=columns, squeeze=False, sharex=True, sharey=True,
                           alt=f"{ylabel} against {xlabel}, a panel each for {', '.join(map(str, panels))}")
    for place, (name, series) in zip(axes.flat, panels.items(), strict=False):
        for i, (label, (xs, ys)) in enumerate(series.items()):
            place.plot(list(xs), list(ys), **_style_of(i), label=_name(label), markersize=4)
        place.set_title(_name(name), fontsize=9.5)
        place.legend(fontsize=7.5, handlelength=2.6, labelspacing=0.25)
        _scales(place, logx, logy)
        if logy:
            place.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for place in list(axes.flat)[len(panels):]:
        place.axis("off")
    figure.supxlabel(_name(xlabel), fontsize=9.5)
    figure.supylabel(_name(ylabel), fontsize=9.5)
    if title:
        figure.suptitle(_name(title), fontsize=10.5, x=0.01, ha="left")
    return figure


@_styled
def power_law(xs, ys, fit, predicted=None, measured=None, xlabel="compute (FLOPs)",
              ylabel="excess loss L − H (nats per token)", title=None):
    """Points on log–log axes with the fitted line y = a·x^(−b) carried on to the prediction.

    fit: (a, b). predicted: (x, y) or (x, y, low, high). measured: (x, y) at the same place, or None before it is known.
    """
    figure, axes = _figure(alt=f"{ylabel} against {xlabel}, with a power law fitted and carried on")
    a, b = fit
    axes.plot(list(xs), list(ys), "o", color=style.BLUE, label=f"{len(xs)} runs")
    far = max([*xs, *(p[0] for p in (predicted, measured) if p)])
    near = min(xs)
    for start, end, dash in ((near, max(xs), "-"), (max(xs), far, (0, (2, 1.5)))):
        axes.plot([start, end], [a * start**-b, a * end**-b], color=style.INK, linewidth=1.2, linestyle=dash)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        _plain_log_ticks(axis)
    if predicted:
        x, y, *interval = predicted
        if interval:
            axes.errorbar(x, y, yerr=[[y - interval[0]], [interval[1] - y]], color=style.VERMILLION, capsize=4)
        axes.plot(x, y, "D", color=style.VERMILLION, markersize=8, markerfacecolor="white", markeredgewidth=1.8,
                  label=f"predicted {style.number(y)}")
    if measured:
        axes.plot(*measured, "*", color=style.GREEN, markersize=12, label=f"measured {style.number(measured[1])}")
    _two_ticks_at_least(axes)
    axes.plot([], [], color=style.INK, linewidth=1.2, label=_name(f"{a:.3g} · x^(−{b:.3g})"))
    axes.legend(loc="lower left")
    _titles(axes, title, xlabel, ylabel)
    return figure


def _two_ticks_at_least(axes):
    """A log axis that spans less than a decade would show one number or none: label the 1, 2 and 5 of each decade."""
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if high / low < 100:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))


@_styled
def prediction_vs_result(predicted, result, label="", unit="", percent=False, title=None):
    """What the student predicted beside what was measured.

    predicted: a number, a choice, or None (nothing committed). result: a number, (value, low, high), or, where the
    prediction was a choice, {choice: value | (value, low, high)} with the measured value of each.
    """
    if isinstance(result, dict):
        return _choice_vs_result(predicted, result, label, percent, title)
    figure, axes = _figure(height=1.75, alt=f"prediction and result: {label}")
    value, low, high = _triple(result)
    text = style.percent if percent else style.number
    unit = f" {unit}" if unit else ""
    if low is not None:
        axes.plot([low, high], [0, 0], color=style.BLUE, linewidth=6, alpha=0.35, solid_capstyle="butt")
    axes.plot(value, 0, "o", color=style.BLUE, markersize=10)
    axes.annotate(_name(f"measured {text(value)}{unit}"), (value, 0), xytext=(0, -11), textcoords="offset points",
                  ha="center", va="top", fontsize=8.5, color=style.BLUE)
    points = [v for v in (value, low, high) if v is not None]
    if predicted is not None:
        axes.plot(predicted, 0, "D", color=style.VERMILLION, markersize=10, markerfacecolor="none",
                  markeredgewidth=2)
        axes.annotate(_name(f"you predicted {text(predicted)}{unit}"), (predicted, 0), xytext=(0, 11),
                      textcoords="offset points", ha="center", va="bottom", fontsize=8.5, color=style.VERMILLION)
        points.append(predicted)
    _number_line(axes, points, percent)
    _titles(axes, title or ("" if predicted is not None else "no prediction was committed"),
            f"{label} ({unit.strip()})" if unit else label, "")
    return figure


def _number_line(axes, points, percent):
    span = max(points) - min(points) or abs(points[0]) or 1.0
    low, high = min(points) - 0.3 * span, max(points) + 0.3 * span
    if percent:
        low, high = min(0.0, low) if min(points) < 0 else 0.0, max(1.0, high) if max(points) > 1 else 1.0
        axes.set_xlim(low - 0.06 * (high - low), high + 0.06 * (high - low))
        _shares(axes, "x")
    else:
        axes.set_xlim(low, high)
    axes.set_ylim(-1, 1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axhline(0, color="#999999", linewidth=0.8, zorder=0)


def _choice_vs_result(predicted, result, label, percent, title):
    marked = {(f"{name}  ◆ your prediction" if name == predicted else str(name)): value
              for name, value in result.items()}
    title = title or ("" if predicted is not None else "no prediction was committed")
    return bars(marked, xlabel=label, title=title, percent=percent)


@_styled
def next_tokens(rows, text="", title=None, shown=12):
    """The next token's probabilities as bars: the model's own beside those after temperature, top-k and top-p.

    rows: [(token_id, piece, p_raw, p_kept), ...]; the likeliest `shown` are drawn.
    """
    rows = sorted(rows, key=lambda row: -row[2])[:shown]
    figure, axes = _figure(height=1.3 + 0.3 * len(rows), alt=f"probabilities of the next token after: {text}")
    for i, (_, _, raw, kept) in enumerate(rows):
        axes.barh(i - 0.19, raw, height=0.34, color=style.SKY)
        axes.barh(i + 0.19, kept, height=0.34, color=style.BLUE if kept > 0 else "none")
        note = f"{style.percent(raw)} → {style.percent(kept)}" if kept > 0 else f"{style.percent(raw)} → dropped"
        axes.annotate(note, (max(raw, kept), i), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8,
                      annotation_clip=False)
    axes.set_yticks(range(len(rows)), [_name(_short(style.visible(row[1]), 16)) for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    _shares(axes, "x")
    top = max([max(row[2], row[3]) for row in rows] or [1.0])
    axes.set_xlim(0, min(1.0, top * 1.02) or 1.0)
    tail = "…" + text[-70:] if len(text) > 70 else text
    _titles(axes, title or style.visible(tail, " "),
            "probability: the model's own (upper bar), after the filters (lower bar)", "next token")
    return figure


@_styled
def loss_mask(pairs, title=None, max_tokens=240):
    """Tokens as text, those that the loss sees in a filled box with a thick lower edge; pairs: [(piece, seen), ...]."""
    edge = 92.0
    spots, rows = _flow([piece for piece, _ in pairs[:max_tokens]], edge)
    figure, axes = _figure(height=0.24 * rows + 0.55, alt=f"{title}: {style.seen_count(pairs)}")
    for (x, y, width, label), (_, seen) in zip(spots, pairs, strict=False):
        if seen:
            axes.add_patch(Rectangle((x, y + 0.08), width, 0.74, facecolor=style.SKY, alpha=0.4, linewidth=0))
            axes.plot([x, x + width], [y + 0.86] * 2, color=style.BLUE, linewidth=2, solid_capstyle="butt")
        axes.text(x + width / 2, y + 0.47, _name(label), ha="center", va="center", fontsize=7,
                  family="DejaVu Sans Mono", color=style.INK if seen else style.GREY,
                  weight="bold" if seen else "normal")
    axes.set_xlim(0, edge)
    axes.set_ylim(rows, -0.1)
    axes.axis("off")
    more = f", first {max_tokens} drawn" if len(pairs) > max_tokens else ""
    axes.set_title(_name(f"{title}: " if title else "") + f"{style.seen_count(pairs)}{more} (boxed)", fontsize=9)
    return figure


def _flow(pieces, edge):
    """([(x, y, width, label), …], rows): tokens set as text in lines of `edge` letters."""
    spots, x, y = [], 0.0, 0
    for piece in pieces:
        label = _short(style.visible(piece), 24)
        width = len(label) + 0.8
        if x + width > edge and x > 0:
            x, y = 0.0, y + 1
        spots.append((x, y, width, label))
        x += width + 0.2
        if "\n" in piece:
            x, y = 0.0, y + 1
    return spots, (spots[-1][1] if spots else 0) + 1


@_styled
def token_values(texts, title=None, max_tokens=160):
    """Tokens as text, each shaded by its value: blue over a solid edge above 0, vermillion over a dotted one below.

    texts: {heading: (pieces, values)}; all share one scale.
    """
    edge, top = 92.0, max([abs(v) for _, values in texts.values() for v in values] or [0.0]) or 1.0
    laid = {name: _flow(pieces[:max_tokens], edge) for name, (pieces, _) in texts.items()}
    lines = sum(rows + 1.3 for _, rows in laid.values())
    figure, axes = _figure(height=0.24 * lines + 0.45, alt=f"{title}: {'; '.join(texts)}")
    below = 0.0
    for name, (spots, rows) in laid.items():
        axes.text(0, below + 0.5, _name(name), va="center", fontsize=8.5, weight="bold")
        for (x, y, width, label), value in zip(spots, texts[name][1], strict=False):
            y, colour = y + below + 1, style.BLUE if value >= 0 else style.VERMILLION
            axes.add_patch(Rectangle((x, y + 0.08), width, 0.74, facecolor=colour, linewidth=0,
                                     alpha=0.6 * min(1, abs(value) / top)))
            axes.plot([x, x + width], [y + 0.86] * 2, color=colour, linewidth=1.2, solid_capstyle="butt",
                      linestyle="-" if value >= 0 else ":")
            axes.text(x + width / 2, y + 0.47, _name(label), ha="center", va="center", fontsize=7,
                      family="DejaVu Sans Mono")
        below += rows + 1.3
    axes.set_xlim(0, edge)
    axes.set_ylim(lines, -0.1)
    axes.axis("off")
    axes.set_title(_name(title or ""), fontsize=9.5)
    return figure


@_styled
def side_by_side(prompt, left, right, title=None):
    """A prompt over two texts; left, right: (heading, text)."""
    top = _wrapped(prompt, 8, 105)
    columns = [[heading, *_wrapped(text, 24, 50)] for heading, text in (left, right)]
    count = len(top) + 1 + max(map(len, columns))
    figure, axes = _figure(height=0.17 * count + 0.5, alt=f"{left[0]} or {right[0]}, for: {prompt[:80]}")
    for i, text in enumerate(top):
        axes.text(0, i + 0.5, _name(text), va="center", fontsize=8)
    for place, column in enumerate(columns):
        for i, text in enumerate(column):
            axes.text(0.51 * place, len(top) + 1.5 + i, _name(text), va="center", fontsize=8,
                      color=style.INK if i else style.BLUE, weight="normal" if i else "bold")
    axes.set_xlim(0, 1)
    axes.set_ylim(count, 0)
    axes.axis("off")
    if title:
        axes.set_title(_name(title), fontsize=9.5)
    return figure


@_styled
def dashboard(panels, total, sample="", title=None, columns=2):
    """Several measures of one run, a panel each, and a text below.

    panels: [(heading, steps, values, share, mark), …]; share: whether values are shares in [0, 1]; mark: (position,
    text) of a dashed line, or None. total: steps of the run. sample: a text of the run.
    """
    rows = -(-len(panels) // columns) or 1
    text = _wrapped(f"sample: {sample}", 8, 95) if sample else []
    figure, axes = _figure(height=1.75 * rows + 0.17 * len(text) + 0.3, rows=rows + bool(text), columns=columns,
                           squeeze=False, height_ratios=[1.75] * rows + [0.17 * len(text)] * bool(text),
                           alt=f"{title or 'a run'}: {', '.join(panel[0] for panel in panels)} against step")
    for i, (place, (heading, steps, values, share, mark)) in enumerate(zip(axes.flat, panels, strict=False)):
        place.plot(steps, values, color=style.SERIES[i % 5], marker=style.MARKERS[i % 5] if len(steps) <= 30 else None,
                   markersize=3.5, linewidth=1.4)
        place.set_title(_name(heading), fontsize=9)
        place.set_xlim(0, total)
        if share:
            place.set_ylim(-0.03, 1.05)
            _shares(place)
        _guides(place, mark, None)
        if i >= len(panels) - columns:
            place.set_xlabel("step", fontsize=8.5)
    for place in list(axes.flat)[len(panels):]:
        place.axis("off")
    for i, line in enumerate(text):
        axes[-1][0].text(0, 1 - (i + 0.5) / len(text), _name(line), transform=axes[-1][0].transAxes, fontsize=8,
                         va="center").set_in_layout(False)
    if title:
        figure.suptitle(_name(title), fontsize=10.5, x=0.01, ha="left")
    return figure


@_styled
def answers(prompt, stages):
    """A prompt and its answers at several stages, as text; stages: [(when, answer, note), ...]."""
    lines = [(text, style.INK, "normal") for text in _wrapped(prompt)] + [("", style.INK, "normal")]
    for when, answer, note in stages:
        lines.append((f"{when}" + (f"   ({_short(note, 90)})" if note else ""), style.BLUE, "bold"))
        lines += [("   " + text, style.INK, "normal") for text in _wrapped(answer or "(nothing)", 6)]
    figure, axes = _figure(height=0.17 * len(lines) + 0.3, alt=f"answers to: {prompt[:80]}")
    for i, (text, colour, weight) in enumerate(lines):
        axes.text(0, i + 0.5, _name(text), va="center", fontsize=8, color=colour, weight=weight)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(lines), 0)
    axes.axis("off")
    return figure


def _wrapped(text, most=12, width=100):
    lines = [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " …"]


@_styled
def tokens(pairs, title=None, max_tokens=120):
    """A text cut into tokens, each in a box over its id; pairs: [(piece, id), ...]."""
    shown = pairs[:max_tokens]
    spots, x, y, edge = [], 0.0, 0, 78.0
    for piece, number in shown:
        label = _short(style.visible(piece), 24)
        width = max(len(label), len(str(number)) * 0.8) + 1.0
        if x + width > edge and x > 0:
            x, y = 0.0, y + 1
        spots.append((x, y, width, label, number))
        x += width + 0.25
        if "\n" in piece:
            x, y = 0.0, y + 1
    rows = (spots[-1][1] if spots else 0) + 1
    figure, axes = _figure(height=0.42 * rows + 0.45, alt=f"{len(pairs)} tokens")
    for i, (x, y, width, label, number) in enumerate(spots):
        colour = (style.SKY, style.ORANGE, style.GREEN, style.PURPLE)[i % 4]
        axes.add_patch(Rectangle((x, y), width, 0.56, facecolor=colour, alpha=0.35))
        axes.text(x + width / 2, y + 0.3, _name(label), ha="center", va="center", fontsize=8,
                  family="DejaVu Sans Mono")
        axes.text(x + width / 2, y + 0.74, str(number), ha="center", va="center", fontsize=6.5, color="#555555")
    axes.set_xlim(0, edge)
    axes.set_ylim(rows, -0.1)
    axes.axis("off")
    more = f" (first {len(shown)} drawn)" if len(shown) < len(pairs) else ""
    axes.set_title(_name(title or f"{len(pairs)} tokens{more}"))
    return figure
