"""Some rows of a part, as Arrow columns, and those that are no rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thresher.errors import DataError, unknown_name

__all__ = ["Reject", "Rows", "check_names", "named_columns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that cannot be scored."""

    row: int | None
    """In its file, from 0; None where the whole file, or a line that is no row, is meant."""
    reason: str
    column: str | None = None
    line: int | None = None
    """Of a CSV file, from 1, for a line that is no row."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Some rows of a part."""

    columns: Mapping[str, Any]
    """Arrow arrays by name, all of one length."""
    num_rows: int
    first_row: int
    """In its file."""
    rejects: Sequence[Reject] = field(default=())
    """Lines that are no rows, and so are in no column."""


def check_names(columns: Iterable[str], held: Collection[str], path: str) -> None:
    """Raise DataError for the first column that a file does not hold."""
    for name in columns:
        if name not in held:
            raise DataError(f"{path}: {unknown_name('column', name, held)}")


def named_columns(batch: Any, columns: Sequence[str], path: str) -> dict[str, Any]:
    """Return columns of a record batch by name; DataError where one is not there."""
    check_names(columns, batch.schema.names, path)
    return {name: batch.column(name) for name in columns}
