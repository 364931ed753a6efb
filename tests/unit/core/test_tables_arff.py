"""ARFF files in chunks: dense and sparse ones alike, and what is wrong by its line."""

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from thresher.errors import DataError
from thresher.tables.arff_files import arff_header, arff_rows

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


def read(folder: Path, rows: list[str], chunk_rows: int) -> pa.Table:
    path = folder / "w.arff"
    path.write_text(HEAD + "\n".join(rows) + "\n")
    chunks = list(arff_rows(str(path), fs.LocalFileSystem(), COLUMNS, chunk_rows=chunk_rows))
    assert [chunk.first_row for chunk in chunks] == list(range(0, len(rows), chunk_rows))
    return pa.concat_tables([pa.table(dict(chunk.columns)) for chunk in chunks])


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
@pytest.mark.parametrize("rows", [DENSE, SPARSE])
def test_rows_are_the_same_in_both_forms_and_chunks_of_any_size(
    tmp_path: Path, rows: list[str], chunk_rows: int
) -> None:
    assert read(tmp_path, rows, chunk_rows).to_pydict() == {
        "t": [1.5, 0, None, 2],
        "dise~no": ["sunny", "very rainy", None, "sunny"],
        "n": [1, 0, None, 2.5],
        "s": ["a, b", "x", None, "y"],
    }


def test_attributes_of_words_are_dictionaries(tmp_path: Path) -> None:
    (tmp_path / "w.arff").write_text(HEAD)
    kinds = arff_header(str(tmp_path / "w.arff"), fs.LocalFileSystem()).arrow_types()
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
        ("a,sunny,1,x", r"w\.arff, line 1008: Invalid numerical value"),
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
        list(arff_rows(str(tmp_path / "w.arff"), fs.LocalFileSystem(), COLUMNS, chunk_rows=2_048))
