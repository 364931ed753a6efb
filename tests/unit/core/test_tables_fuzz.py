"""Laws of the reader: what it gives is what other readers give, or it refuses and says why."""

import csv
import decimal
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thresher.errors import DataError
from thresher.tables import csv_files, csv_streams
from thresher.tables.address import address_of
from thresher.tables.cells import MISSING, as_dtype, as_number, is_missing
from thresher.tables.csv_files import CsvOptions
from thresher.tables.numbers import number_array
from thresher.tables.parts import find_parts
from thresher.tables.reading import column_types, read_rows

settings.register_profile("laws", derandomize=True, deadline=None, print_blob=False)
LAWS = settings.get_profile("laws")

KINDS = [np.dtype(k) for k in ("f2", "f4", "f8", "i4", "i8", "u8", "u1", "i1", "?")]
"""Kinds of models' inputs."""
BORDERS = [0, 1, 127, 128, 255, 256, 2048, 2049, 65504, 65505, 65520, 2**16]
BORDERS += [2**power + more for power in (24, 31, 32, 53, 60, 63, 64) for more in (-1, 0, 1)]
BORDERS += [2**60 + 2**36 + 1, 2**63 - 2**10]

wholes = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([sign * size for size in BORDERS for sign in (1, -1)]),
    st.integers(-(2**64), 2**65),
)
reals = st.one_of(
    st.floats(),
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, 5e-324, 1e-45, 65519.99, 3.4028235677973366e38, 1e39, 2.0**63]),
    wholes.map(float),
)
decimals = st.decimals(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30)


def _integers(kind: Any) -> st.SearchStrategy[int]:
    bounds = np.iinfo(kind.to_pandas_dtype())
    low, high = int(bounds.min), int(bounds.max)
    return wholes.map(lambda n: min(max(n, low), high))


def _decimal(kind: Any, number: int) -> decimal.Decimal:
    digits = abs(number) % 10**kind.precision
    return decimal.Decimal((number < 0, tuple(map(int, str(digits))), -kind.scale))


@st.composite
def number_columns(draw: st.DrawFn, max_size: int = 8) -> Any:
    """Draw an Arrow array of any kind of numbers, with nulls, perhaps a slice or a dictionary."""
    kind = draw(
        st.sampled_from(
            [
                *(pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32()),
                *(pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.bool_()),
                *(pa.decimal128(38, 0), pa.decimal128(20, 2), pa.decimal128(38, 20), pa.null()),
                *(pa.decimal256(76, 10), pa.decimal128(5, -3), pa.decimal32(9, 3)),
            ]
        )
    )
    cells: st.SearchStrategy[Any]
    if pa.types.is_integer(kind):
        cells = _integers(kind)
    elif pa.types.is_floating(kind):
        cells = reals.map(lambda x: _narrowed(x, kind))
    elif pa.types.is_boolean(kind):
        cells = st.booleans()
    elif pa.types.is_null(kind):
        cells = st.none()
    else:
        cells = wholes.map(lambda n: _decimal(kind, n * draw(st.sampled_from([1, 100, 10**20]))))
    held = draw(st.lists(st.one_of(cells, cells, cells, st.none()), max_size=max_size))
    array = pa.array(held, kind)
    has_dictionaries = kind not in (pa.null(), pa.float16(), pa.decimal32(9, 3))
    if has_dictionaries and draw(st.booleans()):
        array = array.dictionary_encode()
    return array[draw(st.integers(0, 2)) :]


def _narrowed(number: float, kind: Any) -> Any:
    with np.errstate(over="ignore"):
        return kind.to_pandas_dtype()(number)


number_texts = st.one_of(
    wholes.map(str),
    reals.map(repr),
    st.sampled_from(
        [*MISSING, "true", "FALSE", "inf", "-Infinity", "nAn", "nan(1)", "0x10", "0X1"]
    ),
    st.sampled_from(
        ["1_000", "1,5", "١٢", "１", "+1", "-0", "1.", ".5", ".", "1e5", "1E+05", "e5"]
    ),
    st.sampled_from(["00012", "0" * 40 + "9007199254740993", "1" * 320, "1" * 50, "1e400", "1f"]),
    st.text(alphabet="0123456789.+-eEinfa xX_", max_size=8),
).flatmap(
    lambda text: st.sampled_from([text, text, text, f" {text}", f"{text}\t", f"\xa0{text}\n"])
)


def made(
    cells: Any, dtype: np.dtype[Any], fill: float | None = None, *, exact: bool = True
) -> tuple[bytes, set[int]]:
    """Return a column's bytes as a kind, and the rows that are rejected."""
    rejects: dict[int, str] = {}

    def reject(row: int, reason: str, column: str | None) -> None:
        assert column == "c"
        assert row not in rejects, "rejected twice"
        rejects[row] = reason

    found = number_array(cells, "c", dtype, reject, fill=fill, exact=exact)
    assert found.dtype == dtype
    assert found.shape == (len(cells),)
    found = found.copy()
    found[list(rejects)] = 0
    return found.tobytes(), set(rejects)


def by_definition(
    cells: Sequence[Any], dtype: np.dtype[Any], fill: float | None, *, exact: bool
) -> tuple[bytes, set[int]]:
    """Return what `thresher.tables.cells` says of each cell."""
    found, rejects = np.zeros(len(cells), dtype), set()
    for row, cell in enumerate(cells):
        try:
            if not is_missing(cell):
                found[row] = as_dtype(as_number(cell), dtype, exact=exact)
            elif fill is None:
                rejects.add(row)
            else:
                found[row] = as_dtype(fill, dtype)
        except ValueError:
            rejects.add(row)
    return found.tobytes(), rejects


kinds, fills = st.sampled_from(KINDS), st.sampled_from([None, 0, 1.0])


@settings(LAWS, max_examples=200)
@given(number_columns(), kinds, fills, st.booleans())
def test_arrow_numbers_are_taken_as_single_cells_are(
    cells: Any, dtype: np.dtype[Any], fill: float | None, exact: bool
) -> None:
    expected = by_definition(cells.to_pylist(), dtype, fill, exact=exact)
    assert made(cells, dtype, fill, exact=exact) == expected


TEXT_TYPES = [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), pa.binary_view()]


@settings(LAWS, max_examples=200)
@given(
    st.lists(st.one_of(number_texts, wholes.map(str), st.none()), max_size=6),
    st.sampled_from(TEXT_TYPES),
    st.booleans(),
    kinds,
    fills,
    st.booleans(),
)
def test_texts_are_taken_as_single_cells_are(
    texts: list[str | None],
    kind: Any,
    encoded: bool,
    dtype: np.dtype[Any],
    fill: float | None,
    exact: bool,
) -> None:
    held = [t if t is None or "string" in str(kind) else t.encode() for t in texts]
    cells = pa.array(held, kind)
    if encoded and "view" not in str(kind):
        cells = cells.dictionary_encode()
    expected = by_definition(texts, dtype, fill, exact=exact)
    assert made(cells, dtype, fill, exact=exact) == expected


@settings(LAWS, max_examples=200)
@given(st.one_of(wholes, reals), kinds)
def test_a_number_is_held_as_numpy_holds_it_or_refused(number: float, dtype: np.dtype[Any]) -> None:
    try:
        found = as_dtype(as_number(number), dtype)
    except ValueError:
        return
    if isinstance(number, int) or dtype.kind != "f":
        assert int(found) == number  # Python compares whole numbers and floats to the last digit
    else:
        assert found.tobytes() == np.float64(number).astype(dtype).tobytes()


# Files ------------------------------------------------------------------------------------------


def rows_of(
    path: Path, *, chunk_rows: int = 3, csv_options: CsvOptions | None = None
) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """Return a file's cells by position in the file, and the reasons of its rejects by position."""
    address = address_of(path)
    found: dict[int, dict[str, Any]] = {}
    rejects: dict[int, str] = {}
    for part in find_parts(address):
        columns = list(column_types(part, address.system, csv_options))
        for rows in read_rows(
            part, address.system, columns, chunk_rows=chunk_rows, csv=csv_options
        ):
            assert rows.num_rows <= chunk_rows
            cells = {name: rows.columns[name].to_pylist() for name in columns if rows.num_rows}
            for row in range(rows.num_rows):
                assert rows.position(row) not in found
                found[rows.position(row)] = {name: cells[name][row] for name in columns}
            for reject in rows.rejects:
                assert reject.row is not None
                assert reject.row not in rejects
                rejects[reject.row] = reject.reason
    assert sorted([*found, *rejects]) == list(range(len(found) + len(rejects))), "a row vanished"
    return found, rejects


cell_texts = st.text(
    alphabet=st.sampled_from(list("ab1,;\t\"' \\é\u2028\x0b\x1c€\U0001f600\x00")), max_size=6
)
lined_texts = st.lists(cell_texts, min_size=1, max_size=3).flatmap(
    lambda parts: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(parts))
)


@settings(LAWS, max_examples=100)
@given(
    st.lists(st.lists(st.one_of(cell_texts, lined_texts), min_size=2, max_size=2), max_size=6),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
    st.booleans(),
    st.integers(1, 200),
    st.integers(1, 4),
)
def test_cells_of_csv_files_are_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    table: list[list[str]],
    delimiter: str,
    line_end: str,
    quoting: Any,
    encoding: str,
    has_last_end: bool,
    block_bytes: int,
    chunk_rows: int,
) -> None:
    if any(end in cell for row in table for cell in row for end in "\r\n"):
        quoting = csv.QUOTE_ALL  # Python's writer leaves other line ends than its own unquoted
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([["first", "second"], *table])
    content = text.getvalue() if has_last_end else text.getvalue().removesuffix(line_end)
    path = tmp_path_factory.getbasetemp() / "written.csv"
    path.write_bytes(content.encode(encoding))
    options = CsvOptions(
        delimiter=delimiter, encoding="utf-8" if encoding == "utf-8-sig" else encoding
    )
    with (
        mock.patch.object(csv_files, "_BLOCK_BYTES", block_bytes),
        mock.patch.object(csv_streams, "_STEP_BYTES", max(block_bytes // 2, 1)),
    ):
        try:
            found, rejects = rows_of(path, chunk_rows=chunk_rows, csv_options=options)
        except DataError as error:
            assert "zero bytes" in str(error)  # noqa: PT017
            return
    assert not rejects
    read = [[(cell or b"").decode() for cell in found[row].values()] for row in range(len(found))]
    assert read == table


raw_pieces = st.sampled_from(
    [*'ab,,,""', '""', "\n", "\r\n", "\r", "é", "\u2028", ',"', '",', '\n"', '"\n', "x,y\n", "\n\n"]
)


@settings(LAWS, max_examples=200)
@given(
    st.lists(raw_pieces, max_size=40).map("".join),
    st.sampled_from(["a,b", "a,b,c"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.integers(1, 70),
)
def test_any_csv_file_is_read_as_python_reads_it_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    body: str,
    header: str,
    line_end: str,
    quoting: bool,
    block_bytes: int,
) -> None:
    content = header + line_end + body
    path = tmp_path_factory.getbasetemp() / "raw.csv"
    path.write_bytes(content.encode())
    options = CsvOptions(quoting=quoting)
    try:
        whole = rows_of(path, csv_options=options)
    except DataError:
        whole = None
    with (
        mock.patch.object(csv_files, "_BLOCK_BYTES", block_bytes),
        mock.patch.object(csv_streams, "_STEP_BYTES", max(block_bytes // 2, 1)),
    ):
        if whole is None:
            with pytest.raises(DataError):
                rows_of(path, csv_options=options)
            return
        assert rows_of(path, csv_options=options) == whole
    found, rejects = whole
    reader = csv.reader(
        io.StringIO(content, newline=""),
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
    )
    lines = [cells for cells in reader if cells][1:]
    width = header.count(",") + 1
    assert {row for row, cells in enumerate(lines) if len(cells) != width} == set(rejects)
    for row, cells in found.items():
        assert [(cell or b"").decode() for cell in cells.values()] == lines[row]
