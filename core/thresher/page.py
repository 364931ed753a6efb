"""The frame of the pages that people open: one HTML file each, light and dark, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from string import Template

__all__ = ["figures_html", "html_page"]

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --back: #fbfbfa; --card: #ffffff; --text: #1d2126;
  --soft: #5d6670; --line: #dfe3e7; --first: #1f6fb2; --second: #b45f06; --good: #1b7f4b;
  --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --card: #1c2025; --text: #e6e9ec;
  --soft: #9aa4ae; --line: #343b43; --first: #6db3f2; --second: #f0a35b; --good: #63c796;
  --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1040px; padding: 28px 20px 60px; background: var(--back);
  color: var(--text); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 34px 0 6px; }
p { margin: 6px 0; overflow-wrap: anywhere; } .soft { color: var(--soft); }
.verdict { font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: 10px;
  margin: 18px 0; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 12px; overflow-wrap: anywhere; } .figure b { display: block; font-size: 19px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; } th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
$style</style>
</head>
<body>
$body
</body>
</html>
""")


def html_page(title: str, body: str, *, style: str = "") -> str:
    """Return a page.

    Args:
        title: Of the window; plain text.
        body: HTML.
        style: CSS on top of what all pages have.
    """
    return _PAGE.substitute(title=escape(title), body=body, style=style)


def figures_html(figures: Iterable[tuple[str, str]]) -> str:
    """Return a row of boxes.

    Args:
        figures: A value, and below it what it is; plain texts.
    """
    boxes = (
        f'<div class="figure"><b>{escape(value)}</b>{escape(what)}</div>' for value, what in figures
    )
    return f'<div class="figures">{"".join(boxes)}</div>'
