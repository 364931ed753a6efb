"""ARFF files: numbers as they are written, what sparse rows leave out, and texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
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


HEAD = """% a comment
@relation w
@attribute t numeric
@attribute 'dise\\~no' {sunny,'very rainy'}
@attribute n {0,1,2.5}
@attribute s string
@data
"""
DENSE = ["1.5,sunny,1,'a, b'", "0,'very rainy',0,x", "?,?,?,?", "2,sunny,2.5,y"]
SPARSE = [
    "{0 1.5,2 1,3 'a, b'}",
    "{1 'very rainy',3 x}",
    "{0 ?,1 ?,2 ?,3 ?}",
    "{0 2,2 2.5,3 y}",
]
COLUMNS = ("t", "dise~no", "n", "s")


def read_chunks(folder: Path, rows: list[str], chunk_rows: int) -> pa.Table:
    path = folder / "w.arff"
    path.write_text(HEAD + "\n".join(rows) + "\n")
    chunks = list(arff_rows(str(path), LOCAL, COLUMNS, chunk_rows=chunk_rows))
    assert [chunk.first_row for chunk in chunks] == list(range(0, len(rows), chunk_rows))
    return pa.concat_tables([pa.table(dict(chunk.columns)) for chunk in chunks])


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("rows", [DENSE, SPARSE])
def test_rows_are_the_same_in_both_forms_and_chunks_of_any_size(
    tmp_path: Path, rows: list[str], chunk_rows: int
) -> None:
    assert read_chunks(tmp_path, rows, chunk_rows).to_pydict() == {
        "t": [1.5, 0, None, 2],
        "dise~no": ["sunny", "very rainy", None, "sunny"],
        "n": [1, 0, None, 2.5],
        "s": ["a, b", "x", None, "y"],
    }


def test_attributes_of_words_are_dictionaries(tmp_path: Path) -> None:
    (tmp_path / "w.arff").write_text(HEAD)
    kinds = arff_header(str(tmp_path / "w.arff"), LOCAL).arrow_types()
    assert [str(kind).partition("<")[0] for kind in kinds.values()] == [
        "double",
        "dictionary",
        "double",
        "string",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,sunny,1", r"w\.arff, line 1008: Bad @DATA instance format"),
        ("1,cloudy,1,x", r"w\.arff, line 1008: .*cloudy.* not found in nominal"),
        ("1,sunny,1,\xff", r"w\.arff, line 1008 is not UTF-8 text"),
    ],
)
def test_a_wrong_row_far_into_a_file_is_named_by_its_line(
    tmp_path: Path, row: str, message: str
) -> None:
    content = HEAD + "\n".join([*(DENSE[:2] * 500), row, *DENSE * 1000]) + "\n"
    (tmp_path / "w.arff").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        list(arff_rows(str(tmp_path / "w.arff"), LOCAL, COLUMNS, chunk_rows=2_048))
