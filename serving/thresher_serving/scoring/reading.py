"""The rows of a part as Arrow columns, a chunk at a time; nothing is read that is not needed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from thresher.errors import DataError
from thresher_serving.scoring.csv_files import CsvForm, csv_chunks, open_csv
from thresher_serving.scoring.parts import Part
from thresher_serving.scoring.rows import Reject, Rows, check_names, named_columns

__all__ = ["FILE_COLUMN", "columns_of", "rows_of"]

FILE_COLUMN = "file"
"""The column that holds the name of each picture in a folder of pictures."""


def columns_of(part: Part, system: Any, csv: CsvForm) -> dict[str, Any]:
    """Return the Arrow types of a part's columns by name.

    Raises:
        DataError: If it cannot be read.
    """
    import pyarrow as pa

    kinds = {key: pa.string() for key, _ in part.partition}
    with _broken(part):
        if part.form == "pictures":
            return {FILE_COLUMN: pa.string()}
        if part.schema is not None:
            return kinds | {field.name: field.type for field in part.schema}
        if part.form == "csv" and not part.num_bytes:
            return kinds  # not even a header: no rows
        if part.form == "csv":
            with open_csv(part, system, None, csv, []) as reader:
                return kinds | {name: pa.string() for name in reader.schema.names}
        if part.form == "npz":
            with _open_npz(part, system) as file:
                return {n: _array_kind(a.dtype, a.shape) for n, a in file.items()}
        schema = _schema(part, system)
        return kinds | {field.name: field.type for field in schema}


def rows_of(
    part: Part,
    system: Any,
    columns: Sequence[str],
    *,
    chunk_rows: int,
    csv: CsvForm,
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
    readers: dict[str, Callable[[Part, Any, list[str], int], Iterator[_Chunk]]] = {
        "parquet": _parquet,
        "arrow": _arrow,
        "csv": partial(csv_chunks, csv=csv),
        "npz": _npz,
        "pictures": _pictures,
    }
    read = readers[part.form]
    constant = dict(part.partition)
    inside = [name for name in columns if name not in constant]
    row = part.first_row
    with _broken(part):
        for found, num_rows, rejects in read(part, system, inside, chunk_rows):
            import pyarrow as pa

            for name in columns:
                if name in constant:
                    found[name] = pa.repeat(constant[name], num_rows)
            yield Rows(columns=found, num_rows=num_rows, first_row=row, rejects=rejects)
            row += num_rows


@contextlib.contextmanager
def _broken(part: Part) -> Iterator[None]:
    """Say which file cannot be read."""
    import zipfile
    import zlib

    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        told = str(error).partition("\n")[0]
        raise DataError(f"{part.path} cannot be read: {told}") from error


_Chunk = tuple[dict[str, Any], int, Sequence[Reject]]


def _schema(part: Part, system: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with system.open_input_file(part.path) as file:
        if part.form == "parquet":
            return pq.read_schema(file)
        with pa.ipc.open_file(file) as opened:
            return opened.schema


def _parquet(part: Part, system: Any, columns: list[str], chunk_rows: int) -> Iterator[_Chunk]:
    import pyarrow.parquet as pq

    # small buffers instead of whole column chunks: row groups may be large
    options = {"buffer_size": 1 << 20, "pre_buffer": not _is_local(system)}
    with (
        system.open_input_file(part.path) as source,
        pq.ParquetFile(source, **options) as file,
    ):
        check_names(columns, file.schema_arrow.names, part.path)
        groups = range(file.num_row_groups) if part.row_groups is None else part.row_groups
        for batch in file.iter_batches(
            batch_size=chunk_rows, columns=columns, row_groups=list(groups), use_threads=False
        ):
            yield named_columns(batch, columns, part.path), batch.num_rows, ()


def _is_local(system: Any) -> bool:
    return str(system.type_name) == "local"


def _arrow(part: Part, system: Any, columns: list[str], chunk_rows: int) -> Iterator[_Chunk]:
    import pyarrow as pa

    with system.open_input_file(part.path) as source:
        with pa.ipc.open_file(source) as opened:
            held = opened.schema.names
        check_names(columns, held, part.path)
        options = pa.ipc.IpcReadOptions(included_fields=[held.index(c) for c in columns])
        with pa.ipc.open_file(source, options=options) as opened:
            for at in range(opened.num_record_batches):
                whole = opened.get_batch(at)
                for start in range(0, whole.num_rows, chunk_rows):
                    batch = whole.slice(start, chunk_rows)
                    yield named_columns(batch, columns, part.path), batch.num_rows, ()


def _array_kind(dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    import pyarrow as pa

    kind = pa.from_numpy_dtype(dtype)
    size = int(np.prod(shape[1:]))
    return kind if len(shape) == 1 else pa.list_(kind, size)


@contextlib.contextmanager
def _open_npz(part: Part, system: Any) -> Iterator[dict[str, Any]]:
    with system.open_input_file(part.path) as source:
        try:
            with np.load(source, allow_pickle=False) as file:
                held = {name: file[name] for name in file.files}
                yield {name: array for name, array in held.items() if array.ndim}
        except ValueError as error:
            raise DataError(f"{part.path} cannot be read: {error}") from None


def _npz(part: Part, system: Any, columns: list[str], chunk_rows: int) -> Iterator[_Chunk]:
    import pyarrow as pa

    with _open_npz(part, system) as arrays:
        check_names(columns, arrays, part.path)
        counts = {name: len(arrays[name]) for name in columns}
        if len(set(counts.values())) > 1:
            raise DataError(f"{part.path}: its arrays differ in rows: {counts}")
        num_rows = next(iter(counts.values()), 0)
        for start in range(0, num_rows, chunk_rows):
            found = {}
            for name in columns:
                some = np.ascontiguousarray(arrays[name][start : start + chunk_rows])
                flat = pa.array(some.reshape(-1))
                found[name] = (
                    flat
                    if some.ndim == 1
                    else pa.FixedSizeListArray.from_arrays(flat, int(np.prod(some.shape[1:])))
                )
            yield found, min(chunk_rows, num_rows - start), ()


def _pictures(part: Part, system: Any, columns: list[str], chunk_rows: int) -> Iterator[_Chunk]:
    import pyarrow as pa

    del system
    check_names(columns, [FILE_COLUMN], part.path)
    for start in range(0, len(part.files), chunk_rows):
        some = part.files[start : start + chunk_rows]
        yield {FILE_COLUMN: pa.array(some, pa.string())}, len(some), ()
