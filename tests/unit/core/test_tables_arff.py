"""ARFF files: numbers as they are written, what sparse rows leave out, and texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import fs

from thresher.errors import DataError
from thresher.tables.arff_files import arff_header, arff_rows
from thresher.tables.numbers import number_array

LOCAL = fs.LocalFileSystem()
HEADER = """@relation test
@attribute id INTEGER
@attribute wet {0,1}

@attribute color {'dark red',green}
@attribute note string
@attribute size real
@data
"""


def read(folder: Path, rows: str) -> dict[str, Any]:
    path = folder / "rows.arff"
    path.write_text(HEADER + rows)
    columns = arff_header(str(path), LOCAL).columns
    (found,) = arff_rows(str(path), LOCAL, columns, chunk_rows=9)
    return dict(found.columns)


def test_whole_numbers_keep_their_last_digit(tmp_path: Path) -> None:
    cells = read(tmp_path, "9007199254740993,1,green,x,1\n?,0,green,x,1\n7,0,green,x,1\n")["id"]
    rejected: list[int] = []
    found = number_array(
        cells, "id", np.dtype(np.int64), lambda row, *_: rejected.append(row), fill=-1
    )
    assert found.tolist() == [9007199254740993, -1, 7]
    assert not rejected


def test_a_real_number_in_an_integer_attribute_is_not_cut(tmp_path: Path) -> None:
    assert read(tmp_path, "1.5,1,green,x,-0\n")["id"].to_pylist() == [1.5]


@pytest.mark.parametrize("text", ["1_0", "0x10", "\u0661", "one"])
def test_what_is_no_number_elsewhere_is_none_here(tmp_path: Path, text: str) -> None:
    cells = read(tmp_path, f"{text},1,green,x,1\n2,1,green,x,1\n")["id"]
    rejected: list[int] = []
    number_array(cells, "id", np.dtype(np.float32), lambda row, *_: rejected.append(row))
    assert rejected == [0]


def test_sparse_rows_leave_out_zeros_first_values_and_no_texts(tmp_path: Path) -> None:
    found = read(tmp_path, "{0 3, 3 'a, b'}\n{}\n{2 green, 4 0.5, 1 1}\n{0 ?}\n")
    assert {name: cells.to_pylist() for name, cells in found.items()} == {
        "id": [3, 0, 0, None],
        "wet": [0, 0, 1, 0],
        "color": ["dark red", "dark red", "green", "dark red"],
        "note": ["a, b", None, None, None],
        "size": [0, 0, 0.5, 0],
    }


@pytest.mark.parametrize("row", ["1,1,green,x", "1,1,blue,x,1", "{0 1, 9 2}"])
def test_broken_rows_refuse_the_file_and_name_the_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(DataError, match=r"rows\.arff, line 10"):
        read(tmp_path, f"1,1,green,x,1\n{row}\n" if "{" not in row else f"{{0 1}}\n{row}\n")
