"""CSV files: cells, positions, line ends, encodings, and what is refused."""

import gzip
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from pyarrow import fs

from thresher.errors import ConfigError, DataError
from thresher.tables import csv_files, csv_streams
from thresher.tables.csv_files import CsvOptions, csv_columns, csv_rows, line_of

LOCAL = fs.LocalFileSystem()
QUOTED = CsvOptions()


def read(path: Path, options: CsvOptions = QUOTED, chunk_rows: int = 2) -> dict[int, Any]:
    """Return the cells of each row by its position; of a reject, the reason."""
    names = csv_columns(str(path), LOCAL, options)
    found: dict[int, Any] = {}
    for rows in csv_rows(str(path), LOCAL, names, chunk_rows=chunk_rows, options=options):
        for row in range(rows.num_rows):
            found[rows.position(row)] = [rows.columns[name][row].as_py() for name in names]
        found |= {reject.row: reject.reason for reject in rows.rejects}
    return found


def written(folder: Path, content: bytes | str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_nothing_is_null_and_quotes_around_nothing_are_an_empty_text(tmp_path: Path) -> None:
    assert read(written(tmp_path, 'a,b\n,""\n')) == {0: [None, b""]}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_of_all_systems_with_and_without_the_last(
    tmp_path: Path, end: str, last: bool
) -> None:
    content = end.join(["a,b", "1,2", "3,4"]) + (end if last else "")
    assert read(written(tmp_path, content)) == {0: [b"1", b"2"], 1: [b"3", b"4"]}


def test_a_header_alone_has_no_rows_with_and_without_its_line_end(tmp_path: Path) -> None:
    assert read(written(tmp_path, "a,b")) == read(written(tmp_path, "a,b\n")) == {}


def test_short_and_long_lines_are_rejects_at_their_positions(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1\n2,3\n\n4,5,6\n7,8\n9")
    assert read(path) == {
        0: "1 cells, expected 2",
        1: [b"2", b"3"],
        2: "3 cells, expected 2",
        3: [b"7", b"8"],
        4: "1 cells, expected 2",
    }
    assert [line_of(str(path), LOCAL, row, QUOTED) for row in range(5)] == [2, 3, 5, 6, 7]


def test_rejects_at_the_end_come_with_the_columns_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1\n")
    (rows,) = csv_rows(str(path), LOCAL, ["b"], chunk_rows=9, options=QUOTED)
    assert list(rows.columns) == ["b"]
    assert rows.num_rows == 0
    assert [reject.row for reject in rows.rejects] == [0]


def test_lines_are_counted_by_line_ends_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\none\u2028two,\x0b\nthree,\x1c\x85\n4,5\r\n6,7\n")
    lines = [line_of(str(path), LOCAL, row, QUOTED) for row in range(5)]
    assert lines == [2, 3, 4, 5, None]


@pytest.mark.parametrize("block_bytes", [1, 7, 20, 64])
def test_blocks_end_with_rows_however_cells_are_cut(tmp_path: Path, block_bytes: int) -> None:
    content = 'a,b\n"",""\n"11é","\n"\n"5\r\n5","6""\n6"\r\n"x\r",y\n'
    whole = read(written(tmp_path, content))
    assert whole[2] == [b"5\r\n5", b'6"\n6']
    with (
        mock.patch.object(csv_files, "_BLOCK_BYTES", block_bytes),
        mock.patch.object(csv_streams, "_STEP_BYTES", block_bytes),
    ):
        assert read(tmp_path / "rows.csv") == whole


def test_a_row_longer_than_a_block_is_read(tmp_path: Path) -> None:
    text = "x" * (9 << 20)
    assert read(written(tmp_path, f"a,b\n1,{text}\n2,3\n")) == {
        0: [b"1", text.encode()],
        1: [b"2", b"3"],
    }


def test_a_row_longer_than_any_is_refused_by_name(tmp_path: Path) -> None:
    with (
        mock.patch.object(csv_files, "_BLOCK_BYTES", 16),
        mock.patch.object(csv_streams, "_LONGEST_ROW_BYTES", 64),
        pytest.raises(DataError, match=r"rows\.csv: a row is longer than 64 bytes"),
    ):
        read(written(tmp_path, f"a,b\n1,{'x' * 999}\n"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_other_encodings_are_read_by_name_however_characters_are_cut(
    tmp_path: Path, encoding: str
) -> None:
    path = written(tmp_path, "a,b\n1,é€\n3,\ufeff\n".replace("\ufeff", "ÿ").encode(encoding))
    with mock.patch.object(csv_files, "_BLOCK_BYTES", 3):
        found = read(path, CsvOptions(encoding=encoding))
    assert found == {0: [b"1", "é€".encode()], 1: [b"3", "ÿ".encode()]}


def test_a_mark_within_the_text_is_part_of_it(tmp_path: Path) -> None:
    path = written(tmp_path, "\ufeffa,b\n1,\ufeffx\n".encode("utf-16-le"))
    with mock.patch.object(csv_files, "_BLOCK_BYTES", 2):
        found = read(path, CsvOptions(encoding="utf-16-le"))
    assert found == {0: [b"1", "\ufeffx".encode()]}


def test_half_a_character_at_the_end_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\n1,2\n".encode("utf-16-le") + b"x")
    with pytest.raises(DataError, match="not utf-16-le text"):
        read(path, CsvOptions(encoding="utf-16-le"))


def test_marks_of_other_encodings_are_named(tmp_path: Path) -> None:
    assert read(written(tmp_path, "\ufeffa,b\n1,2\n")) == {0: [b"1", b"2"]}
    with pytest.raises(DataError, match='encoding = "utf-16"'):
        read(written(tmp_path, "a,b\n1,2\n".encode("utf-16")))
    with pytest.raises(DataError, match="zero bytes"):
        read(written(tmp_path, "a,b\n1,2\n".encode("utf-16-le")))


@pytest.mark.parametrize("name", ["hex", "rot13", "no-such", "undefined"])
def test_what_is_no_encoding_of_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="encoding is"):
        CsvOptions(encoding=name)


def test_compressed_files_and_tabs(tmp_path: Path) -> None:
    path = written(tmp_path, gzip.compress(b"a\tb\n1\t2,5\n"), "rows.tsv.gz")
    assert read(path) == {0: [b"1", b"2,5"]}


def test_repeated_and_unknown_columns_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='repeated: "a"'):
        read(written(tmp_path, "a,a\n1,2\n"))
    path = written(tmp_path, "alpha,b\n1,2\n")
    with pytest.raises(DataError, match="alpha"):
        list(csv_rows(str(path), LOCAL, ["alpa"], chunk_rows=1, options=QUOTED))
