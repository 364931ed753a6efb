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

from thresher.errors import DataError, MissingExtraError
from thresher.tables.cells import ROUNDED, as_number
from thresher.tables.rows import Rows, check_columns

__all__ = ["ArffHeader", "arff_header", "arff_rows", "unescaped"]


_NUMBERS = re.compile(r"^(\s*@attribute\s.*\s)(?:numeric|real|integer)[ \t\r\n]*$", re.IGNORECASE)
_UNSURE = re.compile(r"[^\x00-\x7f]|[0-9]_|[0-9]{16}")
"""Numbers of which liac-arff or float64 may make others: 1_0, Arabic digits, long whole ones."""
_PARSED_ROWS = 1_024
"""At once: Python's own numbers take four times the room of an array's."""


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

        def kind(name: str) -> Any:
            if name in self.texts:
                return pa.string()
            if _as_numbers(self.values.get(name, ())) is not None:
                return pa.float64()
            return pa.dictionary(pa.int32(), pa.string())

        return {name: kind(name) for name in self.columns}


def arff_header(path: str, system: Any) -> ArffHeader:
    """Return an ARFF file's header.

    Raises:
        DataError: If it is none; names the line.
    """
    with _lines_of(path, system) as lines:
        head = _head(lines)
        attributes = _load(path, head, [], is_sparse=False)["attributes"]
        _, first = next(_rows_of(lines), (0, ""))
    columns = tuple(unescaped(name) for name, _ in attributes)
    check_columns((), columns, path)
    kinds = dict(zip(columns, (kind for _, kind in attributes), strict=True))
    return ArffHeader(
        columns=columns,
        values={n: tuple(unescaped(v) for v in k) for n, k in kinds.items() if isinstance(k, list)},
        texts=tuple(name for name, kind in kinds.items() if kind in ("STRING", "DATE")),
        is_sparse=first.lstrip().startswith("{"),
    )


_Lines = Iterator[tuple[int, str]]
"""A file's lines with their numbers, from 1."""


@contextlib.contextmanager
def _lines_of(path: str, system: Any) -> Iterator[_Lines]:
    with system.open_input_file(path) as source:
        try:
            yield enumerate(io.TextIOWrapper(source, encoding="utf-8-sig"), 1)
        except UnicodeDecodeError as error:
            # the text is decoded some lines ahead of the line that was asked for
            source.seek(0)
            content = bytes(source.read())
            line = content.count(b"\n", 0, content.find(error.object[error.start : error.end])) + 1
            raise DataError(f"{path}, line {line} is not UTF-8 text: {error.reason}") from None


def _head(lines: _Lines) -> list[tuple[int, str]]:
    """Return the lines up to the one with @data."""
    head = []
    for number, line in lines:
        head.append((number, line))
        if line.lstrip().lower().startswith("@data"):
            break
    return head


def _rows_of(lines: _Lines) -> _Lines:
    return ((number, line) for number, line in lines if (row := line.strip()) and row[0] != "%")


def _load(
    path: str,
    head: Sequence[tuple[int, str]],
    rows: Sequence[tuple[int, str]],
    *,
    is_sparse: bool,
    numbers: str = "real",
) -> dict[str, Any]:
    """Return what liac-arff makes of a header and some rows.

    Args:
        path: For messages.
        head: The header's lines.
        rows: The rows' lines.
        is_sparse: Whether rows are sparse.
        numbers: Stands for the type of numeric attributes: it would cut 1.5 to an integer 1.
    """
    try:
        import arff  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"{path}: ARFF files need liac-arff. Run: pip install 'thresher[tables]'"
        ) from None

    lines = [*((n, _NUMBERS.sub(rf"\1{numbers}", line)) for n, line in head), *rows]
    kind = arff.LOD if is_sparse else arff.DENSE
    try:
        found: dict[str, Any] = arff.load(
            (line for _, line in lines), encode_nominal=True, return_type=kind
        )
    except arff.BadNumericalValue:
        return _load(path, head, rows, is_sparse=is_sparse, numbers="string")
    except arff.ArffException as error:
        error.line = lines[min(error.line, len(lines)) - 1][0] if lines else 1
        raise DataError(f"{path}, line {error.line}: {error}") from error
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path} cannot be read as ARFF: {error}") from error
    return found


def arff_rows(path: str, system: Any, columns: Sequence[str], *, chunk_rows: int) -> Iterator[Rows]:
    """Yield a file's rows; what a sparse row leaves out is 0, or a nominal attribute's first value.

    A text that a sparse row leaves out is missing. Numbers are float64, and texts in chunks in
    which one is no number, or a whole one that float64 may round.

    Raises:
        DataError: If the file is broken; names the line.
    """
    header = arff_header(path, system)
    check_columns(columns, header.columns, path)
    places = {name: header.columns.index(name) for name in columns}
    numbers_of = {name: _as_numbers(header.values.get(name, ())) for name in columns}
    first_row = 0
    with _lines_of(path, system) as lines:
        head, rows = _head(lines), _rows_of(lines)
        while some := list(itertools.islice(rows, min(chunk_rows, _PARSED_ROWS))):
            unsure = any(_UNSURE.search(line) for _, line in some)
            content = _load(
                path,
                head,
                some,
                is_sparse=header.is_sparse,
                numbers="string" if unsure else "real",
            )
            kinds = [kind for _, kind in content["attributes"]]
            texts = [at for at, kind in enumerate(kinds) if kind in ("STRING", "DATE")]
            cells_NC, texts_of = _matrix(header, content["data"], texts)
            found = {
                name: _column(name, header, numbers_of[name], texts_of.get(at), cells_NC[:, at])
                for name, at in places.items()
            }
            yield Rows(columns=found, num_rows=len(some), first_row=first_row)
            first_row += len(some)


def _matrix(
    header: ArffHeader, rows: Sequence[Any], text_columns: Sequence[int]
) -> tuple[Any, dict[int, list[str | None]]]:
    """Return the cells of some rows, and the columns of texts, each by its place.

    The former are float64 [n, columns]: numbers, of nominal attributes positions in their values,
    NaN where one is missing. What sparse rows leave out is 0 in both.
    """
    texts: dict[int, list[str | None]] = {at: [] for at in text_columns}
    for row in rows:
        for at in text_columns:
            left_out = None if header.columns[at] in header.texts else "0"
            texts[at].append(row.pop(at, left_out) if header.is_sparse else row[at])
            if not header.is_sparse:
                row[at] = None
    if not header.is_sparse:
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(header.columns)), texts
    cells_NC = np.zeros((len(rows), len(header.columns)))
    for number, row in enumerate(rows):
        cells_NC[number, list(row)] = np.array([*row.values()], dtype=np.float64)
    return cells_NC, texts


def _column(
    name: str,
    header: ArffHeader,
    numbers: Any,
    texts: Sequence[str | None] | None,
    cells_N: Any,
) -> Any:
    """Return a column as an Arrow array.

    Args:
        name: The column.
        header: The file's header.
        numbers: Those that are a nominal attribute's values; None where these are none.
        texts: The cells of a column of texts.
        cells_N: The cells of others.
    """
    import pyarrow as pa

    if texts is not None:
        found = pa.array([None if t is None else unescaped(t) for t in texts], pa.string())
        return found if name in header.texts else _numbers(found)
    if name not in header.values:
        return pa.array(cells_N, from_pandas=True)
    missing = np.isnan(cells_N)
    positions = np.where(missing, 0, cells_N).astype(np.int64)
    if numbers is not None:
        return pa.array(numbers[positions], mask=missing)
    return pa.array(header.values[name], pa.string()).take(pa.array(positions, mask=missing))


def _numbers(texts: Any) -> Any:
    """Return texts as float64, or as they are where one would lose a digit or is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        found = pc.cast(pc.utf8_trim_whitespace(texts), pa.float64())
    except pa.ArrowInvalid:
        return texts
    is_sure = pc.all(pc.less(pc.abs(found), ROUNDED)).as_py()
    return found if is_sure is not False else texts


def _as_numbers(values: Sequence[str]) -> Any:
    """Return a nominal attribute's values as numbers, None where one is none."""
    try:
        return np.array([as_number(value) for value in values], dtype=np.float64)
    except ValueError:
        return None


def unescaped(name: str) -> str:
    r"""Return a name without the backslashes that Mulan writes, such as dise\~no in delicious."""
    return re.sub(r"\\(.)", r"\1", name)
