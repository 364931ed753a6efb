"""Quotes that would swallow rows refuse a file, whatever its line ends."""

from pathlib import Path

import pytest
from pyarrow import fs

from thresher.errors import DataError
from thresher.tables.csv_files import CsvOptions, csv_rows
from thresher.tables.quotes import QuoteCheck

LOCAL = fs.LocalFileSystem()


def checked(content: str, *, num_columns: int = 3, cut: int = 0) -> None:
    """Look at a file's bytes, in two blocks where ``cut`` says so."""
    check = QuoteCheck("rows.csv", ",", num_columns)
    data = content.encode()
    for block in (data[:cut], data[cut:]):
        check.block(block)
    check.end()


@pytest.mark.parametrize(
    "content",
    [
        'a,b,c\n1,"2",3\n',
        'a,b,c\n"x ""y"" z","",""""\n',
        'a,b,c\n"two\nlines",2,3\n',
        'a,b,c\n5" disk,6 "x" y,7\n',
        'a,b,c\n1,2,"last"',
        'a,b,c\r"two\rlines",2,3\r',
    ],
)
def test_quotes_that_pair_up_pass_however_the_file_is_cut(content: str) -> None:
    for cut in range(len(content.encode()) + 1):
        checked(content, cut=cut)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a,b,c", '"5 inch,1,2', "3,4,5"], "never closed"),
        (["a,b,c", '"5 inch,1,2', "3,4,5", '6,",7', "8,9,0"], "1 whole lines of 3 cells"),
        (["a,b,c", '"5 inch,1,2', "3,4,5", '6,"'], "1 whole lines of 3 cells"),
        (["a,b,c", '"x" y,1,2'], "behind its closing quote"),
        (["a,b,c", '"5 inch,1,2', '"6 inch,3,4'], "behind its closing quote"),
    ],
)
def test_quotes_that_swallow_rows_are_refused_however_the_file_is_cut(
    end: str, lines: list[str], reason: str
) -> None:
    for content in (end.join(lines), end.join([*lines, ""])):
        for cut in range(len(content) + 1):
            with pytest.raises(DataError, match=reason):
                checked(content, cut=cut)


def test_the_line_of_the_opening_quote_is_named() -> None:
    with pytest.raises(DataError, match=r"rows\.csv, line 3: .*quoting = false"):
        checked('a,b,c\n1,2,3\n"5 inch,4,5\n6,7,8\n', cut=20)


def test_without_quoting_quotes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('a,b\n"5 inch,1\n6",2\n')
    options = CsvOptions(quoting=False)
    (rows,) = csv_rows(str(path), LOCAL, ["a"], chunk_rows=9, options=options)
    assert rows.columns["a"].to_pylist() == [b'"5 inch', b'6"']
