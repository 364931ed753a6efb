"""What benchmarks write into a page of the documentation, between its markers."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["put", "table"]


def put(path: Path, marker: str, text: str) -> None:
    """Replace what stands between ``<!-- begin: MARKER -->`` and ``<!-- end: MARKER -->``.

    Args:
        path: A page; nothing happens where it lacks the markers.
        marker: Their name.
        text: What stands between them from now on.
    """
    begin, end = (f"<!-- {at}: {marker} -->" for at in ("begin", "end"))
    page = path.read_text(encoding="utf-8")
    found = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", flags=re.DOTALL)
    path.write_text(found.sub(lambda _: f"{begin}\n{text}\n{end}", page), encoding="utf-8")


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose first column is text and all others numbers."""
    marks = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, marks, *rows))
