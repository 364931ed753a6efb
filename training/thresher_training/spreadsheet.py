"""Tables of a report as CSV: people open them in a spreadsheet, which runs cells as formulas."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["write_csv"]

# also after what a spreadsheet may take for the end of a cell; the last four are their wide forms
_FORMULA = re.compile("(^|[;\t\r\n])([ \t\r\n]*)(?=[=+\\-@\uff1d\uff0b\uff0d\uff20])")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+|inf)(e[+-]?[0-9]+)?")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for people, in which no text is run as a formula.

    Texts that begin with ``=``, ``+``, ``-`` or ``@`` get an apostrophe before that; numbers stay
    what they are. Nothing of ours reads such a file: the JSON and NPZ files next to it hold the
    exact names.

    Args:
        path: The file.
        columns: The names of the columns.
        rows: A value for each column; None is an empty cell.

    Source: OWASP, "CSV Injection".
    """
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)  # ends lines with \r\n, so a \r in a cell is quoted
        writer.writerow(columns)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> object:
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    text = _FORMULA.sub(r"\1\2'", value)
    return f"'{text}" if text[:1] in {"\t", "\r", "\n"} else text
