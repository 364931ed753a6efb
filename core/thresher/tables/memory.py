"""Tables in memory as rows: Arrow tables, pandas and Polars frames, dicts and lists of dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from thresher.errors import DataError, MissingExtraError
from thresher.tables.rows import Rows, check_columns
from thresher.tables.views import without_views, without_views_type

__all__ = ["is_table", "memory_rows"]


def is_table(data: object) -> bool:
    """Return whether an object is a table with named columns that `memory_rows` takes."""
    if isinstance(data, Mapping) or _is_frame(data) or hasattr(data, "__arrow_c_stream__"):
        return True
    return isinstance(data, Sequence) and bool(data) and all(isinstance(r, Mapping) for r in data)


def _is_frame(data: object) -> bool:
    return hasattr(data, "iloc") and hasattr(data, "columns")


def memory_rows(
    data: Any, *, chunk_rows: int = 1 << 16, where: str = "the table"
) -> tuple[dict[str, Any], Iterator[Rows]]:
    """Return a table's Arrow types by name, and its rows; None is the type of Python objects.

    Args:
        data: A `pyarrow.Table` or record batch, a pandas or Polars frame, a dict of columns
            (sequences or arrays of one length), or a list of dicts, one a row.
        chunk_rows: The most rows at once, of Arrow tables and frames.
        where: What it is, for messages.

    Raises:
        DataError: If it is none of these, names repeat, or columns differ in length.
    """
    if isinstance(data, Mapping):
        return _of_columns(data, where)
    if isinstance(data, Sequence) and data and all(isinstance(row, Mapping) for row in data):
        names = list(dict.fromkeys(name for row in data for name in row))
        return _of_columns({name: [row.get(name) for row in data] for name in names}, where)
    table = _arrow_table(data, where)
    check_columns((), table.schema.names, where)

    def rows() -> Iterator[Rows]:
        start = 0
        for batch in table.to_batches(max_chunksize=chunk_rows):
            cells = map(without_views, batch.columns)
            columns = dict(zip(batch.schema.names, cells, strict=True))
            yield Rows(columns=columns, num_rows=batch.num_rows, first_row=start)
            start += batch.num_rows

    return {field.name: without_views_type(field.type) for field in table.schema}, rows()


def _of_columns(data: Mapping[str, Any], where: str) -> tuple[dict[str, Any], Iterator[Rows]]:
    """Return columns of Python objects or arrays as rows; a lone value is a column of one row."""
    columns: dict[str, list[Any]] = {}
    for name, given in data.items():
        if isinstance(given, np.ndarray):
            columns[str(name)] = list(given) if given.ndim else [given.item()]
        elif hasattr(given, "to_pylist"):
            columns[str(name)] = given.to_pylist()
        elif isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            columns[str(name)] = list(given)
        elif isinstance(given, np.generic):
            columns[str(name)] = [given.item()]
        elif hasattr(given, "tolist"):  # a pandas Series
            columns[str(name)] = given.tolist()
        else:
            columns[str(name)] = [given]
    lengths = {name: len(cells) for name, cells in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{where}: columns differ in length: {lengths}")
    num_rows = next(iter(lengths.values()), 0)
    return dict.fromkeys(columns), iter([Rows(columns=columns, num_rows=num_rows)])


def _arrow_table(data: Any, where: str) -> Any:
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"{where} is a {type(data).__name__}, which needs pyarrow: pip install "
            "'thresher[tables]'; a dict of columns or a list of dicts does not"
        ) from None
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if _is_frame(data):
        names = [str(name) for name in data.columns]
        check_columns((), names, where)
        try:
            return pa.Table.from_pandas(data, preserve_index=False)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"{where}: a column mixes kinds, or holds one that Arrow has not: "
                + "; ".join(str(part) for part in error.args)
                if isinstance(error, pa.ArrowException)
                else f"{where}: a column cannot be read: {error}"
            ) from error
    if hasattr(data, "__arrow_c_stream__"):
        try:
            return pa.table(data)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"{where} is a {type(data).__name__}, which has no named columns: {error}"
            ) from error
    raise DataError(
        f"{where} is a {type(data).__name__}, expected an Arrow table, a pandas frame, a dict of "
        "columns or a list of dicts"
    )
