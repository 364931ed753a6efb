"""NumPy files that lie about themselves, and partitions in folders' names."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from thresher.errors import DataError
from thresher.tables.address import address_of
from thresher.tables.parts import find_parts
from thresher.tables.reading import column_types, read_rows


def columns_of(path: Path, chunk_rows: int = 2) -> dict[str, list[Any]]:
    """Return all cells of a path's columns, and check that their types are those promised."""
    address = address_of(path)
    found: dict[str, list[Any]] = {}
    for part in find_parts(address):
        types = column_types(part, address.system)
        for rows in read_rows(part, address.system, list(types), chunk_rows=chunk_rows):
            for name, cells in rows.columns.items():
                assert cells.type == types[name]
                found.setdefault(name, []).extend(cells.to_pylist())
    return found


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(3, 2),
        np.asfortranarray(np.arange(6).reshape(3, 2)),
        np.arange(3, dtype=">f4"),
        np.arange(3, dtype=">i8") + 2**60,
        np.array([1.5, -0.0], np.float16),
        np.array([True, False]),
        np.array(["a", "é"]),
        np.array([b"a", b"\xe9"]),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "x.npy", array)
    assert columns_of(tmp_path / "x.npy") == {"x": array.tolist()}
    np.savez_compressed(tmp_path / "y.npz", x=array, z=np.arange(len(array)))
    assert columns_of(tmp_path / "y.npz")["x"] == array.tolist()


@pytest.mark.parametrize(
    "array",
    [
        np.array([1, "a"], object),
        np.zeros(2, [("x", "f4"), ("y", "i4")]),
        np.array([1 + 2j]),
        np.zeros((2, 0)),
    ],
)
def test_arrays_that_are_no_columns_are_refused(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"x\.npy"):
        columns_of(tmp_path / "x.npy")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000, 2)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': 3}",
        "{'descr': '<f8'",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "(" * 500,
        "",
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, header: str) -> None:
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    (tmp_path / "x.npy").write_bytes(start + bytes(64))
    with pytest.raises(DataError, match=r"x\.npy is no NumPy file"):
        columns_of(tmp_path / "x.npy")


def test_a_password_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(3))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[6] |= 1
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match="encrypted"):
        columns_of(tmp_path / "x.npz")


def test_a_zip_file_without_arrays_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match="no NumPy file"):
        columns_of(tmp_path / "x.npz")


def test_partitions_are_decoded_and_win_over_a_column_of_their_name(tmp_path: Path) -> None:
    folder = tmp_path / "day=2026-01-01" / "city=S%C3%A3o%2FPaulo" / "x=__HIVE_DEFAULT_PARTITION__"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1, 2], "y": [3, 4]}), folder / "a.parquet")
    assert columns_of(tmp_path) == {
        "x": [None, None],
        "y": [3, 4],
        "day": ["2026-01-01"] * 2,
        "city": ["São/Paulo"] * 2,
    }


def test_a_loop_of_links_names_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "data" / "a.parquet")
    (tmp_path / "data" / "loop").symlink_to(tmp_path)
    (tmp_path / "data" / "gone.parquet").symlink_to("/no/such/file")
    assert columns_of(tmp_path) == {"x": [1]}


def test_names_with_dots_are_columns_of_their_own(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a.b": [1], "a": [2]}), tmp_path / "x.parquet")
    assert columns_of(tmp_path / "x.parquet") == {"a.b": [1], "a": [2]}
