"""Tables on disk as a stream of record batches: Parquet, Arrow IPC (Feather) and CSV or TSV.

Cells of CSV files arrive as text and become numbers here, so an error can name the very cell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from thresher.errors import DataError, unknown_name
from thresher_training.sources.dialect import Dialect
from thresher_training.sources.files import find_files

__all__ = ["MAX_ROWS", "Batch", "Table", "numbers", "open_table"]

_BLOCK_BYTES = 1 << 22
MAX_ROWS = 2_048
_MISSING = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some rows of a table: the columns as Arrow arrays, and where the rows stand."""

    columns: dict[str, Any]
    path: Path
    first_row: int
    """In its file, from 0."""

    dialect: Dialect | None

    def where(self, row: int) -> str:
        """Return the place of a row of this batch: file and line, or file and row from 0."""
        at = self.first_row + row
        if self.dialect is not None:
            for index, (line, _) in enumerate(self.dialect.rows(self.path)):
                if index == at:
                    return f"{self.path}, line {line}"
        return f"{self.path}, row {at}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Files with the same columns, read one after the other."""

    files: tuple[Path, ...]
    columns: tuple[str, ...]
    kinds: dict[str, Any]
    """Arrow type of each column of the first file."""

    dialect: Dialect | None
    """None for Parquet and Arrow files."""

    def check_columns(self, columns: Sequence[str]) -> None:
        """Refuse a column that does not exist."""
        for column in columns:
            if column not in self.columns:
                raise DataError(f"{self.files[0]}: {unknown_name('column', column, self.columns)}")

    def batches(self, columns: Sequence[str], *, max_rows: int = MAX_ROWS) -> Iterator[Batch]:
        """Yield all rows in order, with these columns only.

        Args:
            columns: Their names.
            max_rows: No batch has more rows.

        Raises:
            DataError: If a file is broken or lacks a column; names file and line.
        """
        self.check_columns(columns)
        names = list(dict.fromkeys(columns))
        for path in self.files:
            first_row = 0
            for read in _read(path, names, self.dialect):
                for start in range(0, read.num_rows, max_rows):
                    batch = read.slice(start, max_rows)
                    found = {name: batch.column(name) for name in names}
                    yield Batch(columns=found, path=path, first_row=first_row, dialect=self.dialect)
                    first_row += batch.num_rows


def open_table(path: str | Path, *, dialect: Dialect | None, suffixes: Sequence[str]) -> Table:
    """Return a table, its header read and no row.

    Args:
        path: A file, folder or glob.
        dialect: For CSV and TSV files; None where the files are Parquet or Arrow.
        suffixes: Of the files that are taken from a folder.

    Raises:
        DataError: If there is no file, one is broken, or column names repeat.
    """
    files = find_files(path, suffixes=suffixes)
    kinds = _header(files[0], dialect)
    repeated = sorted({name for name, _ in kinds if [n for n, _ in kinds].count(name) > 1})
    if repeated:
        raise DataError(f"{files[0]}: column names must differ; repeated: {', '.join(repeated)}")
    return Table(
        files=tuple(files),
        columns=tuple(name for name, _ in kinds),
        kinds=dict(kinds),
        dialect=dialect,
    )


def numbers(batch: Batch, column: str, *, what: str = "a number") -> npt.NDArray[Any]:
    """Return a column's numbers, [n]: float64 with NaN for missing cells, or its own whole numbers.

    Args:
        batch: The rows.
        column: Text, numbers or bool.
        what: What a cell should be, for the error.

    Raises:
        DataError: If a cell is none; names file, line and column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = _plain(batch.columns[column])
    if _is_text(cells.type):
        cells = pc.utf8_trim_whitespace(cells)
        missing = pc.is_in(cells, value_set=pa.array(_MISSING, type=cells.type))
        filled = pc.if_else(missing, pa.scalar(None, cells.type), cells)
        try:
            cells = pc.cast(filled, pa.float64())
        except pa.ArrowInvalid:
            cells = _flags(batch, filled, column=column, what=what)
    elif pa.types.is_boolean(cells.type):
        cells = pc.cast(cells, pa.uint8())
    elif pa.types.is_decimal(cells.type) or pa.types.is_null(cells.type):
        cells = pc.cast(cells, pa.float64())
    elif not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type)):
        raise DataError(f'{batch.path}: the column "{column}" is {cells.type}, expected numbers')
    found: npt.NDArray[Any] = cells.to_numpy(zero_copy_only=False)  # nulls of integers become NaN
    return found


def _flags(batch: Batch, cells: Any, *, column: str, what: str) -> Any:
    """Return texts such as "true" and "False" as 0 and 1; pandas writes bool columns so."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(pc.cast(cells, pa.bool_()), pa.float64())
    except pa.ArrowInvalid:
        for row, cell in enumerate(cells.to_pylist()):
            try:
                float(cell or 0)
            except ValueError:
                raise DataError(
                    f'{batch.where(row)}: column "{column}" holds "{cell}", expected {what}'
                ) from None
        raise


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _plain(cells: Any) -> Any:
    """Return an array without dictionary encoding or views, which few Arrow functions take."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(cells.type):
        cells = pc.cast(cells, cells.type.value_type)
    if pa.types.is_string_view(cells.type):
        cells = pc.cast(cells, pa.large_string())
    return cells


def _read(path: Path, columns: list[str], dialect: Dialect | None) -> Iterator[Any]:
    """Yield the record batches of one file."""
    import pyarrow as pa

    held = [name for name, _ in _header(path, dialect)]
    for column in columns:
        if column not in held:
            raise DataError(f"{path}: {unknown_name('column', column, held)}")
    try:
        if dialect is not None:
            yield from _open_csv(path, columns, dialect, held)
        elif _is_parquet(path):
            import pyarrow.parquet as pq

            # small buffers instead of whole column chunks: row groups may be large
            with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                yield from file.iter_batches(batch_size=MAX_ROWS, columns=columns)
        else:
            options = pa.ipc.IpcReadOptions(included_fields=[held.index(c) for c in columns])
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped, options=options) as f:
                for at in range(f.num_record_batches):
                    yield f.get_batch(at)
    except pa.ArrowInvalid as error:
        raise _broken(path, dialect, len(held), error) from error
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _header(path: Path, dialect: Dialect | None) -> list[tuple[str, Any]]:
    """Return names and types of a file's columns."""
    import pyarrow as pa

    if dialect is not None:
        names = dialect.columns
        if names is None:
            with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
                names = tuple(next((row for row in dialect.cells(lines) if row), ()))
            if not names:
                raise DataError(f"{path} is empty, expected a header line")
        return [(name, pa.string()) for name in names]
    try:
        if _is_parquet(path):
            import pyarrow.parquet as pq

            schema = pq.read_schema(path)
        else:
            with pa.memory_map(str(path)) as mapped, pa.ipc.open_file(mapped) as file:
                schema = file.schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is neither a Parquet nor an Arrow file, or it is cut short: {error}"
        ) from error
    return [(field.name, field.type) for field in schema]


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _open_csv(path: Path, columns: list[str], dialect: Dialect, held: list[str]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.csv as pacsv

    with _empty_file_ends_quietly(path):
        reader = pacsv.open_csv(
            path,
            read_options=pacsv.ReadOptions(
                block_size=_BLOCK_BYTES,
                use_threads=False,
                column_names=dialect.columns,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char='"' if dialect.quoting else False,
                newlines_in_values=dialect.quoting,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=dict.fromkeys(held, pa.string()),
                include_columns=columns,
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
        with reader:
            yield from reader


@contextmanager
def _empty_file_ends_quietly(path: Path) -> Iterator[None]:
    """A file with no row is an empty split, which is said later and better."""
    import pyarrow as pa

    try:
        yield
    except pa.ArrowInvalid as error:
        if "Empty CSV file" not in str(error) and path.stat().st_size:
            raise


def _broken(path: Path, dialect: Dialect | None, num_columns: int, error: Exception) -> DataError:
    """Return what is wrong with a file, with the line where it can be found."""
    if dialect is None:
        return DataError(f"{path} is broken: {error}")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as wrong:
                return DataError(f"{path}, line {number} is not UTF-8 text: {wrong}")
    hint = "" if not dialect.quoting else "; where cells hold lone quotes, set quoting = false"
    for line_number, cells in dialect.rows(path):
        if len(cells) != num_columns:
            return DataError(
                f"{path}, line {line_number} has {len(cells)} cells, expected {num_columns}{hint}"
            )
    return DataError(f"{path} cannot be read: {error}{hint}")
