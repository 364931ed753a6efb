"""Some rows of a table as columns, and the rows that cannot be read, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, unknown_name

__all__ = ["ColumnsError", "Reject", "RejectRow", "Rows", "check_columns"]

RejectRow = Callable[[int, str, "str | None"], None]
"""Takes the row's position among the rows at hand, the reason, and the column."""


class ColumnsError(DataError):
    """A table can be read, and its columns are not those that are needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot be used."""

    row: int | None
    """Its position in its file, from 0, unreadable rows counted; None for the whole file."""
    reason: str
    column: str | None = None
    line: int | None = None
    """In a CSV or ARFF file, from 1, where it is known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Some rows of a file or of a table in memory."""

    columns: Mapping[str, Any]
    """Arrow arrays by name, all of one length; lists of Python objects for rows in memory."""
    num_rows: int
    first_row: int = 0
    """Position of the first row in its file, rows that cannot be read counted."""
    skipped: npt.NDArray[np.int64] | None = None
    """int64: for each row, how many unreadable ones stand between the first row and it; None
    where there are none."""
    rejects: Sequence[Reject] = field(default=())
    """Rows that cannot be read, and so are in no column."""

    def position(self, row: int) -> int:
        """Return a row's position in its file, from 0."""
        return self.first_row + row + (0 if self.skipped is None else int(self.skipped[row]))

    def positions(self, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the positions of some rows in their file, int64 [n]."""
        found = rows_N + self.first_row
        return found if self.skipped is None else found + self.skipped[rows_N]


def check_columns(columns: Iterable[str], held: Sequence[str], where: str) -> None:
    """Refuse columns that a table does not hold, and a table whose column names repeat.

    Raises:
        ColumnsError: Names the table, the column, and the nearest that it holds.
    """
    if len(set(held)) < len(held):
        repeated = sorted({name for name in held if list(held).count(name) > 1})
        raise ColumnsError(
            f"{where}: column names must differ; repeated: "
            + ", ".join(f'"{name}"' for name in repeated[:5])
        )
    for name in columns:
        if name not in held:
            raise ColumnsError(f"{where}: {unknown_name('column', name, held)}")
