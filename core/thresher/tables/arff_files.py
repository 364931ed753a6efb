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
            found: dict[str, Any] = arff.load(iter(self), return_type=kind)
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
    kinds = header.arrow_types()
    start = 0
    with _opened(path, system) as file:
        content = iter(file.load(is_sparse=header.is_sparse)["data"])
        while True:
            with file.named_errors():
                some = list(itertools.islice(content, chunk_rows))
                cells_NC = _matrix(header, some)
            if not some:
                return
            found = {}
            for name in columns:
                cells_N = cells_NC[:, header.columns.index(name)]
                if pa.types.is_floating(kinds[name]):
                    cells_N[cells_N == None] = np.nan  # noqa: E711 - each cell by itself
                    found[name] = pa.array(cells_N.astype(np.float64), from_pandas=True)
                else:
                    texts = [None if cell is None else unescaped(str(cell)) for cell in cells_N]
                    found[name] = pa.array(texts, pa.string())
            yield Rows(columns=found, num_rows=len(some), first_row=start)
            start += len(some)


def _matrix(header: ArffHeader, rows: Sequence[Any]) -> Any:
    """Return the cells of some rows, [n, columns] of Python objects; None where one is missing."""
    if not header.is_sparse:
        cells_NC = np.empty((len(rows), len(header.columns)), dtype=object)
        for at, row in enumerate(rows):
            cells_NC[at] = row
        return cells_NC
    left_out_C = np.empty(len(header.columns), dtype=object)
    left_out_C[:] = [header.values.get(name, (0.0,))[0] for name in header.columns]
    cells_NC = np.tile(left_out_C, (len(rows), 1))
    for at, row in enumerate(rows):
        cells_NC[at, list(row)] = np.array([*row.values(), None], dtype=object)[:-1]
    return cells_NC


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
