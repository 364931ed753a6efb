"""ARFF files, dense and sparse, as Arrow columns.

Source: the format at https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from thresher.errors import DataError
from thresher.tables.cells import as_number
from thresher.tables.rows import Rows, check_columns

__all__ = ["ArffHeader", "arff_header", "arff_rows", "unescaped"]


_NUMBERS = re.compile(
    r"^(\s*@attribute\s.*\s)(?:numeric|real|integer)[ \t\r]*$", re.IGNORECASE | re.MULTILINE
)
_EXACT = 2.0**53
"""From here on, float64 does not hold every whole number."""


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
        """Return the Arrow type of each column: float64, or string where values are no numbers."""
        import pyarrow as pa

        return {
            name: pa.string()
            if name in self.texts or not _are_numbers(self.values.get(name, ()))
            else pa.float64()
            for name in self.columns
        }


def arff_header(path: str, system: Any) -> ArffHeader:
    """Return an ARFF file's header.

    Raises:
        DataError: If it is none; names the line.
    """
    head, first = _head(path, system)
    content = _load(path, head + ("@data\n" if "@data" not in head.lower() else ""), sparse=False)
    columns = tuple(unescaped(name) for name, _ in content["attributes"])
    check_columns((), columns, path)
    kinds = dict(zip(columns, (kind for _, kind in content["attributes"]), strict=True))
    return ArffHeader(
        columns=columns,
        values={n: tuple(unescaped(v) for v in k) for n, k in kinds.items() if isinstance(k, list)},
        texts=tuple(name for name, kind in kinds.items() if kind in ("STRING", "DATE")),
        is_sparse=first.startswith("{"),
    )


def _head(path: str, system: Any) -> tuple[str, str]:
    """Return the lines up to the one with @data, and the first row."""
    head: list[str] = []
    in_data = False
    for line in _text(path, system).splitlines(keepends=True):
        row = line.strip()
        if in_data and row and not row.startswith("%"):
            return "".join(head), row
        if not in_data:
            head.append(line)
        in_data = in_data or row.lower().startswith("@data")
    return "".join(head), ""


def _text(path: str, system: Any) -> str:
    with system.open_input_stream(path) as source:
        content = bytes(source.read())
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line} is not UTF-8 text: {error.reason}") from None


def _load(path: str, text: str, *, sparse: bool) -> dict[str, Any]:
    import arff  # type: ignore[import-untyped]

    try:
        found: dict[str, Any] = arff.loads(text, return_type=arff.LOD if sparse else arff.DENSE)
    except arff.ArffException as error:
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
    import pyarrow as pa

    header = arff_header(path, system)
    check_columns(columns, header.columns, path)
    kinds = header.arrow_types()
    head, _ = _head(path, system)
    rows = _text(path, system)[len(head) :]
    # as texts: liac-arff rounds large whole numbers, cuts 1.5 to an integer 1 and takes 1_0
    content = _load(path, _NUMBERS.sub(r"\1string", head) + rows, sparse=header.is_sparse)["data"]
    for start in range(0, len(content), chunk_rows):
        cells_NC = _matrix(header, content[start : start + chunk_rows])
        found = {}
        for name in columns:
            cells_N = cells_NC[:, header.columns.index(name)]
            texts = [None if cell is None else unescaped(str(cell)) for cell in cells_N]
            found[name] = pa.array(texts, pa.string())
            if not pa.types.is_string(kinds[name]):
                found[name] = _numbers(found[name])
        yield Rows(columns=found, num_rows=len(cells_NC), first_row=start)


def _numbers(texts: Any) -> Any:
    """Return texts as float64, or as they are where one would lose a digit or is no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        found = pc.cast(pc.utf8_trim_whitespace(texts), pa.float64())
    except pa.ArrowInvalid:
        return texts
    is_sure = pc.all(pc.less(pc.abs(found), _EXACT)).as_py()
    return found if is_sure is not False else texts


def _matrix(header: ArffHeader, rows: Sequence[Any]) -> Any:
    """Return the cells of some rows, [n, columns] of Python objects; None where one is missing."""
    if not header.is_sparse:
        cells_NC = np.empty((len(rows), len(header.columns)), dtype=object)
        for at, row in enumerate(rows):
            cells_NC[at] = row
        return cells_NC
    left_out_C = np.empty(len(header.columns), dtype=object)
    left_out_C[:] = [
        None if name in header.texts else header.values.get(name, ("0",))[0]
        for name in header.columns
    ]
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
