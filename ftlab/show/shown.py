"""What every widget shares: how it appears in a notebook, and how its errors do.

Convention. A widget is an object that shows itself, as a cell's last expression or by `.show()`:
- in a live kernel as an ipywidgets widget with one line of plain text behind it (GitHub and viewers show that line);
- under FTLAB_HEADLESS=1 as its static picture, a PNG; no widget is even made, so notebooks carry no widget state.
Only what ipywidgets 7.7 (Colab) and 8 share is used.
"""

from ftlab.errors import UsageError
from ftlab.profile import headless
from ftlab.show import style

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


class Shown:
    """An interactive thing with a static picture. Subclasses give `build()` and `picture()` and `name`."""

    name = "a widget"
    _widget = None

    def build(self):
        """Make the ipywidgets widget; called once, when it is first needed."""
        raise NotImplementedError

    def picture(self):
        """The static picture (a plots.Picture) of the present state, or None."""
        return None

    @property
    def widget(self):
        """The ipywidgets widget, made on first use."""
        if self._widget is None:
            self._widget = self.build()
        return self._widget

    def show(self):
        """Display it here, when it is not a cell's last expression."""
        self._ipython_display_()

    def _ipython_display_(self):
        from IPython.display import display

        if not headless():
            display_widget(self.widget, f"[{self.name}: run this cell to use it]")
            return
        picture = self.picture()
        if picture is None:
            display({"text/plain": f"[{self.name}]"}, raw=True)
        else:
            picture._ipython_display_()


def display_widget(widget, text):
    """Display a widget with `text` as its plain-text form, the same way under ipywidgets 7 and 8."""
    from IPython.display import display

    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    display({WIDGET_VIEW: view, "text/plain": text}, raw=True)


def one_line(error):
    """An exception as one line: our own errors as they stand, others with their class."""
    text = " ".join(str(error).split()) or "no message"
    text = text if len(text) <= 400 else text[:399] + "…"
    return text if isinstance(error, UsageError) else f"{type(error).__name__}: {text}"


def error_html(error):
    """One red-edged line that says what went wrong."""
    return (f'<div role="alert" style="border-left:3px solid {style.VERMILLION};padding:2px 8px;color:{style.INK_CSS};'
            f'line-height:1.4">{style.escape(one_line(error))}</div>')


def boxed(heading, content, edge, height):
    """A text under its heading, edged on the left. content: HTML; edge: a CSS colour; height: the least, such as "2em"."""
    return (f'<div style="color:{style.FAINT_CSS};font-size:12px">{heading}</div>'
            f'<div style="border-left:3px solid {edge};padding:4px 10px;margin:4px 0;white-space:pre-wrap;'
            f'line-height:1.45;color:{style.INK_CSS};min-height:{height}">{content}</div>')


def guarded(status, function):
    """`function` as a widget callback: an error appears in the HTML widget `status`, since nobody sees the log."""

    def call(*args):
        try:
            result = function(*args)
        except Exception as error:  # whatever a student's function raises belongs on the screen
            status.value = error_html(error)
            return None
        if status.value:
            status.value = ""
        return result

    return call
