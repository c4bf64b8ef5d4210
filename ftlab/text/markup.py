"""The text in files whose format is not plain text but well known: web pages and Jupyter's notebooks."""

import html.parser
import json
import re

from ftlab.text.sources import PassedOver

_SILENT = ("script", "style", "head", "template", "noscript", "svg", "math")
_BLOCKS = ("p", "div", "section", "article", "li", "ul", "ol", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre",
           "blockquote", "header", "footer", "nav", "main", "aside", "figure", "figcaption",
           "dl", "dt", "dd", "form")  # fmt: skip


class _Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.parts, self.silent, self.exact = [], 0, 0

    def handle_starttag(self, tag, attrs):
        self.silent += tag in _SILENT
        self.exact += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n\n" if tag not in ("li", "tr", "dt", "dd") else "\n")
        elif tag in ("br", "hr"):
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_endtag(self, tag):
        self.silent = max(0, self.silent - (tag in _SILENT))
        self.exact = max(0, self.exact - (tag == "pre"))
        if tag in _BLOCKS and tag not in ("li", "tr", "dt", "dd"):
            self.parts.append("\n\n")

    def handle_data(self, data):
        if not self.silent:
            self.parts.append(data if self.exact else re.sub(r"\s+", " ", data))


def page_text(text) -> str:
    """The text of a web page: no tags, scripts or styles; blocks are parted by empty lines."""
    page = _Page()
    page.feed(text)
    page.close()
    lines = [line.rstrip() if line.startswith("  ") else line.strip() for line in "".join(page.parts).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def notebook_texts(path, text) -> list[str]:
    """What the cells of a notebook say, Markdown and code in their order, as one document; outputs are not read.

    Raises PassedOver where it is no notebook.
    """
    try:
        notebook = json.loads(text)
        cells = notebook["cells"] if "cells" in notebook else [c for s in notebook["worksheets"] for c in s["cells"]]
        sources = [cell.get("source", cell.get("input", "")) for cell in cells]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        raise PassedOver("damaged notebooks", f"{path}: no notebook, or a damaged one: save it again in Jupyter") from None
    sources = ["".join(source) if isinstance(source, list) else str(source) for source in sources]
    return ["\n\n".join(source.strip() for source in sources if source.strip())]
