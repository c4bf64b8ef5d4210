"""The frame of the pages that grading writes: one file, no script, nothing fetched, readable on a phone and on paper."""

import html
import re

# The page may use its own style sheet and nothing else: what a student wrote stays text even if an escape were forgotten.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { --ink: #222; --faint: #5f6368; --line: #d8dbe0; --card: #f6f7f9; --ground: #fff; --good: #00714f; --bad: #b34700;
  --warn: #8a5a00; --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --faint: #a6abb3; --line: #3b4048; --card: #1f2329;
  --ground: #14171b; --good: #4cc9a0; --bad: #ff9a5c; --warn: #f0b84d; --bar: #56b4e9; } }
@media print { :root { --ink: #000; --faint: #444; --line: #bbb; --card: #fff; --ground: #fff; --good: #00603f; --bad: #8f3900;
  --warn: #6b4600; --bar: #0072b2; } section, tr { break-inside: avoid; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 1.2rem 1rem 3rem; color: var(--ink); background: var(--ground);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2rem 0 .6rem; }
p { margin: .4rem 0; }
.faint { color: var(--faint); }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.total { font-size: 1.6rem; font-weight: 650; margin: .8rem 0 .2rem; font-variant-numeric: tabular-nums; }
section { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem .8rem; margin: 1rem 0; }
section h2 { margin: 0; display: flex; justify-content: space-between; gap: 1rem; }
.points { white-space: nowrap; font-weight: 500; font-variant-numeric: tabular-nums; }
.said { white-space: pre-wrap; margin: .5rem 0; }
.note { border-left: 4px solid var(--bar); padding: .15rem .7rem; margin: .6rem 0; white-space: pre-wrap; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .7rem; margin: .5rem 0 0;
  overflow-x: auto; font: .85rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: normal; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: 34rem; font-size: .92rem; overflow-wrap: break-word; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; max-width: 46rem; }
svg text { fill: var(--faint); font-size: 12px; font-family: inherit; }
@media print { table { min-width: 0; } pre { white-space: pre-wrap; overflow-wrap: anywhere; } body { max-width: none; } }
"""
# Characters that hide in a text, or turn its direction so that it reads as something else.
_HIDDEN = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def page(title, body):
    """A whole HTML page. title: plain text; body: HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def text(value, longest=4000):
    """A text from outside as HTML: escaped, cut, hidden characters shown by their number."""
    value = str(value)
    if len(value) > longest:
        value = value[:longest] + f"\n... ({len(value) - longest} more characters)"
    return html.escape(_HIDDEN.sub(lambda match: f"[U+{ord(match[0]):04X}]", value), quote=True)


def table(header, rows, numbers=()):
    """A table. header: plain texts; rows: lists of HTML; numbers: the columns that are right-aligned."""
    def line(cells, tag):
        return "".join(f'<{tag}{" class=n" if i in numbers else ""}>{cell}</{tag}>' for i, cell in enumerate(cells))

    body = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    head = line(map(text, header), "th")
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
