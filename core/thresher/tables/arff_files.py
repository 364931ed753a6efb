"""ARFF files, dense and sparse, as Arrow columns.

Source: the format at https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thresher.errors import DataError
from thresher.tables.cells import as_number
from thresher.tables.rows import Rows, check_columns

__all__ = ["ArffHeader", "arff_header", "arff_rows", "unescaped"]


_PARSED_ROWS = 512


_PARSED_ROWS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ArffHeader:
    """What an ARFF file says of its columns."""

    columns: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    """Of nominal attributes: the values that they may take."""
    texts: tuple[str, ...]
    """The attributes that hold texts."""
    is_sparse: bool

    def arrow_types(self) -> dict[str, Any]:
        """Return the Arrow type of each column: float64, string, or dictionary.

        The last of nominal attributes whose values are no numbers: categories by themselves.
        """
        import pyarrow as pa

        nominal = pa.dictionary(pa.int32(), pa.string())
        return {
            name: pa.string()
            if name in self.texts
            else pa.float64()
            if _are_numbers(self.values.get(name, ()))
            else nominal
            for name in self.columns
        }


def arff_header(path: str, system: Any) -> ArffHeader:
    """Return an ARFF file's header.

    Raises:
        DataError: If it is none; names the line.
    """
    with _opened(path, system) as file:
        attributes = file.load(is_sparse=False)["attributes"]
        first = next((row for line in file if (row := line.strip()) and row[0] != "%"), "")
    columns = tuple(unescaped(name) for name, _ in attributes)
    check_columns((), columns, path)
    kinds = dict(zip(columns, (kind for _, kind in attributes), strict=True))
    return ArffHeader(
        columns=columns,
        values={n: tuple(unescaped(v) for v in k) for n, k in kinds.items() if isinstance(k, list)},
        texts=tuple(name for name, kind in kinds.items() if kind in ("STRING", "DATE")),
        is_sparse=first.startswith("{"),
    )


class _Lines:
    """A file's lines, counted, and what the package liac-arff makes of them as they come."""

    def __init__(self, path: str, source: Any) -> None:
        self.number = 0
        self._path, self._source = path, source
        self._lines = io.TextIOWrapper(source, encoding="utf-8-sig")

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.number += 1
            yield line

    def load(self, *, is_sparse: bool) -> dict[str, Any]:
        """Return the header, and an iterator of the rows.

        Raises:
            DataError: If the header is wrong.
        """
        import arff  # type: ignore[import-untyped]

        with self.named_errors():
            kind = arff.LOD_GEN if is_sparse else arff.DENSE_GEN
            found: dict[str, Any] = arff.load(iter(self), encode_nominal=True, return_type=kind)
        return found

    @contextlib.contextmanager
    def named_errors(self) -> Iterator[None]:
        """Say in which line something is wrong."""
        import arff

        try:
            yield
        except UnicodeDecodeError as error:
            # the text is decoded some lines ahead of the line that was asked for
            self._source.seek(0)
            content = bytes(self._source.read())
            line = content.count(b"\n", 0, content.find(error.object[error.start : error.end])) + 1
            raise DataError(
                f"{self._path}, line {line} is not UTF-8 text: {error.reason}"
            ) from None
        except arff.ArffException as error:
            error.line = self.number
            raise DataError(f"{self._path}, line {self.number}: {error}") from error
        except (ValueError, KeyError, IndexError) as error:
            raise DataError(f"{self._path}, line {self.number}: no ARFF: {error}") from error


@contextlib.contextmanager
def _opened(path: str, system: Any) -> Iterator[_Lines]:
    with system.open_input_file(path) as source:
        yield _Lines(path, source)


def arff_rows(path: str, system: Any, columns: Sequence[str], *, chunk_rows: int) -> Iterator[Rows]:
    """Yield a file's rows; what a sparse row leaves out is 0, or a nominal attribute's first value.

    Raises:
        DataError: If the file is broken; names the line.
    """
    import pyarrow as pa

    header = arff_header(path, system)
    check_columns(columns, header.columns, path)
    start = 0
    with _opened(path, system) as file:
        content = iter(file.load(is_sparse=header.is_sparse)["data"])
        while True:
            with file.named_errors():
                # Python's own numbers take four times the room of an array's
                some = list(itertools.islice(content, min(chunk_rows, _PARSED_ROWS)))
                cells_NC, texts = _matrix(header, some)
            if not some:
                return
            found = {
                name: pa.array(texts[name], pa.string())
                if name in texts
                else _column(header, name, cells_NC[:, header.columns.index(name)])
                for name in columns
            }
            yield Rows(columns=found, num_rows=len(some), first_row=start)
            start += len(some)


def _matrix(header: ArffHeader, rows: Sequence[Any]) -> tuple[Any, dict[str, list[str | None]]]:
    """Return the cells of some rows, and the columns of texts.

    The former are float64 [n, columns]: numbers, of nominal attributes positions in their values,
    NaN where one is missing. What sparse rows leave out is 0 in both.
    """
    texts: dict[str, list[str | None]] = {name: [] for name in header.texts}
    places = {name: header.columns.index(name) for name in header.texts}
    for row in rows:
        for name, place in places.items():
            cell = row.pop(place, None) if header.is_sparse else row[place]
            texts[name].append(None if cell is None else unescaped(str(cell)))
            if not header.is_sparse:
                row[place] = None
    if not header.is_sparse:
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(header.columns)), texts
    cells_NC = np.zeros((len(rows), len(header.columns)))
    for at, row in enumerate(rows):
        cells_NC[at, list(row)] = np.array([*row.values()], dtype=np.float64)
    return cells_NC, texts


def _column(header: ArffHeader, name: str, cells_N: Any) -> Any:
    """Return a column as an Arrow array."""
    import pyarrow as pa

    if name not in header.values:
        return pa.array(cells_N, from_pandas=True)
    values = header.values[name]
    present = ~np.isnan(cells_N)
    positions = pa.array(np.where(present, cells_N, 0).astype(np.int64), mask=~present)
    if _are_numbers(values):
        return pa.array([float(as_number(value)) for value in values], pa.float64()).take(positions)
    return pa.array(values, pa.string()).take(positions)


def _are_numbers(values: Sequence[str]) -> bool:
    try:
        for value in values:
            as_number(value)
    except ValueError:
        return False
    return True


def unescaped(name: str) -> str:
    r"""Return a name without the backslashes that Mulan writes, such as dise\~no in delicious."""
    return re.sub(r"\\(.)", r"\1", name)
