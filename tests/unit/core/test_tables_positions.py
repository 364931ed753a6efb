"""Rows keep their position in the file, and lists their shape, whatever stands between them."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from thresher.errors import DataError
from thresher.tables.address import address_of
from thresher.tables.csv_files import CsvOptions, csv_rows, line_of
from thresher.tables.lists import list_arrays
from thresher.tables.parts import find_parts

LOCAL = fs.LocalFileSystem()


@pytest.mark.parametrize("chunk_rows", [1, 7, 10_000])
@pytest.mark.parametrize("seed", range(4))
def test_positions_and_lines_are_those_of_pythons_own_reader(
    tmp_path: Path, chunk_rows: int, seed: int
) -> None:
    rng = random.Random(seed)
    rows = []
    for at in range(200):
        cells = [f"{at}", rng.choice(["x", "two\nlines", "a,b", 'q"q', "\x0c", "\u2028"]), "z"]
        rows.append(cells[: rng.choice([1, 2, 3, 3, 3, 3])] + ["more"] * (rng.random() < 0.1))
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=rng.choice(["\n", "\r\n"]))
        writer.writerow(["id", "b", "c"])
        for row in rows:
            writer.writerow(row)
            file.write("\n" * rng.choice([0, 0, 0, 2]))
    found: dict[int, str] = {}
    rejected: dict[int, int | None] = {}
    for chunk in csv_rows(str(path), LOCAL, ["id"], chunk_rows=chunk_rows, options=CsvOptions()):
        at = chunk.positions(np.arange(chunk.num_rows)).tolist()
        found |= dict(zip(at, map(bytes.decode, chunk.columns["id"].to_pylist()), strict=True))
        rejected |= {r.row: r.line for r in chunk.rejects if r.row is not None}
    fine = {at: row[0] for at, row in enumerate(rows) if len(row) == 3}
    assert found == fine
    assert sorted(rejected) == [at for at, row in enumerate(rows) if len(row) != 3]
    with path.open(newline="", encoding="utf-8") as file:
        reader, lines, before = csv.reader(file), [], 0
        for cells in reader:
            lines += [before + 1] if cells else []
            before = reader.line_num
    assert rejected == {at: lines[at + 1] for at in rejected}
    assert line_of(str(path), LOCAL, 150, CsvOptions()) == lines[151]


def test_a_txt_file_is_read_by_its_name_and_passed_over_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n")
    (tmp_path / "README.txt").write_text("about")
    assert [part.path for part in find_parts(address_of(tmp_path))] == [f"{tmp_path}/rows.csv"]
    for given in (tmp_path / "README.txt", f"{tmp_path}/*.txt"):
        assert [part.form for part in find_parts(address_of(given))] == ["csv"]


@pytest.mark.parametrize("kind", ["fixed", "list", "large", "view of some"])
def test_lists_that_are_all_there_are_read_as_those_with_gaps(kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    values[4, 1, 2] = np.nan
    types = {
        "fixed": pa.list_(pa.list_(pa.float32(), 3), 2),
        "list": pa.list_(pa.list_(pa.float32())),
        "large": pa.large_list(pa.large_list(pa.float32())),
        "view of some": pa.list_(pa.list_(pa.float32(), 3), 2),
    }
    cells = pa.array(values.tolist(), types[kind])
    cells = cells.slice(2, 5) if kind == "view of some" else cells
    whole = values[2:7] if kind == "view of some" else values
    rejects: list[tuple[int, str]] = []
    found, lengths = list_arrays(
        cells,
        "x",
        (2, 3),
        np.dtype(np.float32),
        lambda row, reason, _: rejects.append((row, reason)),
    )
    assert rejects == [
        (2 if kind == "view of some" else 4, "missing, expected a number (in a list)")
    ]
    np.testing.assert_array_equal(found, np.nan_to_num(whole))
    assert lengths.tolist() == [6] * len(whole)


def test_several_free_axes_take_the_sizes_of_arrays_and_refuse_lists() -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2)
    flat = pa.array(values.reshape(-1))
    fixed = flat
    for size in (2, 2, 3):
        fixed = pa.FixedSizeListArray.from_arrays(fixed, size)
    found, _ = list_arrays(fixed, "x", (3, -1, -1), np.dtype(np.uint8), print)
    np.testing.assert_array_equal(found, values)
    with pytest.raises(DataError, match="expected arrays of one size"):
        list_arrays(pa.array(values.tolist()), "x", (3, -1, -1), np.dtype(np.uint8), print)
