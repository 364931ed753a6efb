"""The rows of a part as columns, a chunk at a time; nothing is read that is not needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from thresher.errors import DataError
from thresher.tables.arff_files import arff_header, arff_rows
from thresher.tables.csv_files import (
    CsvOptions,
    check_delimiter,
    csv_columns,
    csv_rows,
    line_of,
)
from thresher.tables.parts import Part
from thresher.tables.rows import Reject, Rows, check_columns
from thresher.tables.views import without_views, without_views_type

__all__ = ["FILE_COLUMN", "column_types", "describe", "read_rows"]

FILE_COLUMN = "file"
"""The column that holds the name of each picture in a folder of pictures."""


def column_types(part: Part, system: Any, csv: CsvOptions | None = None) -> dict[str, Any]:
    """Return the Arrow types of a part's columns by name; of CSV files binary, none if empty.

    Raises:
        DataError: If it cannot be read, or names repeat.
    """
    import pyarrow as pa

    partition = {key: pa.string() for key, _ in part.partition}
    with _broken(part):
        if part.form == "pictures":
            return {FILE_COLUMN: pa.string()}
        if part.form == "csv":
            names = csv_columns(part.path, system, csv or CsvOptions())
            check_delimiter(names, part.path, csv or CsvOptions())
            return dict.fromkeys(names, pa.binary()) | partition
        if part.form == "arff":
            return arff_header(part.path, system).arrow_types()
        if part.form in ("npz", "npy"):
            return {name: _array_type(array) for name, array in _arrays(part, system).items()}
        schema = part.schema if part.schema is not None else _schema(part, system)
        check_columns((), schema.names, part.path)
        return {field.name: without_views_type(field.type) for field in schema} | partition


def read_rows(
    part: Part,
    system: Any,
    columns: Sequence[str],
    *,
    chunk_rows: int,
    csv: CsvOptions | None = None,
) -> Iterator[Rows]:
    """Yield all rows of a part in order.

    Args:
        part: The part.
        system: Its file system.
        columns: Those that are read.
        chunk_rows: The most rows at once.
        csv: How CSV files are written.

    Raises:
        DataError: If the file is broken; what was yielded before is no longer to be used.
    """
    import pyarrow as pa

    partition = dict(part.partition)
    inside = [name for name in columns if name not in partition]
    csv = csv or CsvOptions()
    with _broken(part):
        if part.form == "csv":
            found = csv_rows(part.path, system, inside, chunk_rows=chunk_rows, options=csv)
        elif part.form == "arff":
            found = arff_rows(part.path, system, inside, chunk_rows=chunk_rows)
        else:
            found = _numbered(part, system, inside, chunk_rows)
        for rows in found:
            if not partition:
                yield rows
                continue
            held = dict(rows.columns)
            for name in columns:
                if name in partition:
                    held[name] = pa.repeat(pa.scalar(partition[name], pa.string()), rows.num_rows)
            yield Rows(
                columns=held,
                num_rows=rows.num_rows,
                first_row=rows.first_row,
                skipped=rows.skipped,
                rejects=rows.rejects,
            )


def describe(part: Part, system: Any, reject: Reject, csv: CsvOptions | None = None) -> str:
    """Return a reject as one line that names file, line or row, column and reason."""
    where = part.path
    line = reject.line
    if line is None and reject.row is not None and part.form == "csv":
        line = line_of(part.path, system, reject.row, csv or CsvOptions())
    if line is not None:
        where += f", line {line}"
    elif reject.row is not None:
        where += f", row {reject.row}"
    column = "" if reject.column is None else f'column "{reject.column}": '
    return f"{where}: {column}{reject.reason}"


@contextlib.contextmanager
def _broken(part: Part) -> Iterator[None]:
    """Say which file cannot be read."""
    import zipfile
    import zlib

    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        reason, _, _ = str(error).partition("\n")
        kind = {
            "parquet": "a Parquet file",
            "arrow": "an Arrow IPC file (Feather version 2)",
            "npz": "an NPZ file",
            "npy": "an NPY file",
        }.get(part.form, "a file of its kind")
        raise DataError(
            f"{part.path} cannot be read: it is not {kind}, or cut short: {reason}"
        ) from error


def _numbered(part: Part, system: Any, columns: list[str], chunk_rows: int) -> Iterator[Rows]:
    read = {
        "parquet": _parquet,
        "arrow": _arrow,
        "npz": _npz,
        "npy": _npz,
        "pictures": _pictures,
    }[part.form]
    row = part.first_row
    for held, num_rows in read(part, system, columns, chunk_rows):
        found = {name: without_views(cells) for name, cells in held.items()}
        yield Rows(columns=found, num_rows=num_rows, first_row=row)
        row += num_rows


_Chunks = Iterator[tuple[dict[str, Any], int]]


def _schema(part: Part, system: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with system.open_input_file(part.path) as file:
        if part.form == "parquet":
            return pq.read_schema(file)
        with pa.ipc.open_file(file) as opened:
            return opened.schema


def _parquet(part: Part, system: Any, columns: list[str], chunk_rows: int) -> _Chunks:
    import pyarrow.parquet as pq

    # small buffers instead of whole column chunks: row groups may be large
    options = {"buffer_size": 1 << 20, "pre_buffer": str(system.type_name) != "local"}
    with (
        system.open_input_file(part.path) as source,
        pq.ParquetFile(source, **options) as file,
    ):
        check_columns(columns, file.schema_arrow.names, part.path)
        groups = range(file.num_row_groups) if part.row_groups is None else part.row_groups
        for batch in file.iter_batches(
            batch_size=chunk_rows, columns=columns, row_groups=list(groups), use_threads=False
        ):
            yield {name: batch.column(name) for name in columns}, batch.num_rows


def _arrow(part: Part, system: Any, columns: list[str], chunk_rows: int) -> _Chunks:
    import pyarrow as pa

    with system.open_input_file(part.path) as source:
        with pa.ipc.open_file(source) as opened:
            held = opened.schema.names
        check_columns(columns, held, part.path)
        options = pa.ipc.IpcReadOptions(included_fields=[held.index(c) for c in columns])
        with pa.ipc.open_file(source, options=options) as opened:
            for at in range(opened.num_record_batches):
                whole = opened.get_batch(at)
                for start in range(0, whole.num_rows, chunk_rows):
                    batch = whole.slice(start, chunk_rows)
                    yield {name: batch.column(name) for name in columns}, batch.num_rows


def _array_type(array: Any) -> Any:
    import pyarrow as pa

    texts = {"S": pa.binary(), "U": pa.string()}
    kind = texts.get(array.dtype.kind) or pa.from_numpy_dtype(array.dtype.newbyteorder("="))
    for size in reversed(array.shape[1:]):
        kind = pa.list_(kind, size)
    return kind


def _arrays(part: Part, system: Any) -> dict[str, Any]:
    """Return the arrays of an NPZ or NPY file, a row each entry; mapped where that can be.

    Raises:
        DataError: If it is none, holds Python objects, or an array is shorter than it says.
    """
    from thresher.tables.array_files import open_arrays

    return {n: a for n, a in open_arrays(part.path, system).items() if a.ndim}


def _npz(part: Part, system: Any, columns: list[str], chunk_rows: int) -> _Chunks:
    import pyarrow as pa

    arrays = _arrays(part, system)
    check_columns(columns, [*arrays], part.path)
    counts = {name: len(arrays[name]) for name in columns}
    if len(set(counts.values())) > 1:
        raise DataError(f"{part.path}: its arrays differ in rows: {counts}")
    num_rows = next(iter(counts.values()), 0)
    for start in range(0, num_rows, chunk_rows):
        found = {}
        for name in columns:
            some = arrays[name][start : start + chunk_rows]
            some = np.ascontiguousarray(some, some.dtype.newbyteorder("="))
            cells = pa.array(some.reshape(-1))
            for size in reversed(some.shape[1:]):
                cells = pa.FixedSizeListArray.from_arrays(cells, size)
            found[name] = cells
        yield found, min(chunk_rows, num_rows - start)


def _pictures(part: Part, system: Any, columns: list[str], chunk_rows: int) -> _Chunks:
    import pyarrow as pa

    del system
    check_columns(columns, [FILE_COLUMN], part.path)
    for start in range(0, len(part.files), chunk_rows):
        some = part.files[start : start + chunk_rows]
        yield {FILE_COLUMN: pa.array(some, pa.string())}, len(some)
