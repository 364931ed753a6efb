"""Scoring files and tables: every row is scored as NumPy says, or rejected with a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from support.scoring import (
    COLUMNS,
    OPTIONS,
    engine_of,
    expected,
    names_of,
    read_parts,
    read_rejects,
    score_into,
    table,
    weather_version,
    write_parts,
)
from support.versions import LABELS
from thresher.tables.csv_files import CsvOptions
from thresher_serving.scoring import OutputForm, ScoredVersion, ScoringOptions, score


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    return weather_version(tmp_path_factory.mktemp("models"))


def test_each_row_of_a_folder_gets_what_numpy_says(version: ScoredVersion, tmp_path: Path) -> None:
    rows = write_parts(tmp_path / "in", 3, 100)
    report = score_into(version, tmp_path / "in", tmp_path / "out")
    found = read_parts(tmp_path / "out")
    probabilities, labels = expected(version, rows)
    assert found["id"].to_pylist() == rows["id"].to_pylist()
    assert found["row"].to_pylist() == [*range(100)] * 3
    assert found["labels"].to_pylist() == names_of(labels)
    np.testing.assert_allclose(
        np.stack(found["probabilities"].to_numpy()), probabilities, atol=1e-6
    )
    assert (report.tally.num_read, report.tally.num_scored, report.tally.num_rejected) == (
        300,
        300,
        0,
    )
    assert not (tmp_path / "out" / "_rejects").exists()


@pytest.mark.parametrize("labels", ["names", "multihot", "both"])
@pytest.mark.parametrize("probabilities", ["all", "positive", "top5", "none"])
def test_each_form_says_the_same(
    version: ScoredVersion, tmp_path: Path, labels: str, probabilities: str
) -> None:
    rows = table(70)
    pq.write_table(rows, tmp_path / "in.parquet")
    form = OutputForm(labels=labels, probabilities=probabilities)  # type: ignore[arg-type]
    score_into(
        version,
        tmp_path / "in.parquet",
        tmp_path / "out",
        ScoringOptions(features=COLUMNS, form=form),
    )
    found = read_parts(tmp_path / "out")
    p_NL, yes_NL = expected(version, rows)
    assert ("labels" in found.column_names) == (labels != "multihot")
    assert ("multihot" in found.column_names) == (labels != "names")
    if labels != "multihot":
        assert found["labels"].to_pylist() == names_of(yes_NL)
    if labels != "names":
        assert found["multihot"].to_pylist() == yes_NL.tolist()
    if probabilities == "positive":
        flat = [p for row in found["probabilities"].to_pylist() for p in row]
        np.testing.assert_allclose(flat, p_NL[yes_NL], atol=1e-6)
    if probabilities == "top5":
        order = np.argsort(-p_NL, axis=1)
        assert found["top_labels"].to_pylist() == [[LABELS[at] for at in row] for row in order]
    assert found.num_rows == 70


def test_the_file_says_which_version_scored_it(version: ScoredVersion, tmp_path: Path) -> None:
    pq.write_table(table(3), tmp_path / "in.parquet")
    score_into(version, tmp_path / "in.parquet", tmp_path / "out")
    told = pq.read_schema(tmp_path / "out" / "in.parquet").metadata
    assert told[b"thresher.model"] == b"weather"
    assert told[b"thresher.version"] == b"1"
    assert told[b"thresher.certificate_sha256"].decode() == version.certificate_sha256 != ""
    assert json.loads(told[b"thresher.labels"]) == list(LABELS)


def test_rows_that_cannot_be_scored_are_kept_with_their_reason(
    version: ScoredVersion, tmp_path: Path
) -> None:
    rows = table(50).to_pydict()
    rows["wind"][3] = None
    rows["sun"][7] = float("nan")
    rows["cloud"][11] = float("inf")
    rows["sun"][49] = 1e300
    rows["sun"] = np.array([np.nan if v is None else v for v in rows["sun"]], dtype=np.float64)
    pq.write_table(pa.table(rows), tmp_path / "in.parquet")
    report = score_into(version, tmp_path / "in.parquet", tmp_path / "out")
    found, rejects = read_parts(tmp_path / "out"), read_rejects(tmp_path / "out")
    assert [(r["row"], r["column"], r["reason"], r["id"]) for r in rejects] == [
        (3, "wind", "missing, expected a number", "row 3"),
        (7, "sun", "missing, expected a number", "row 7"),
        (11, "cloud", "infinite", "row 11"),
        (49, "sun", "1e+300 is too large for float32", "row 49"),
    ]
    kept = [at for at in range(50) if at not in {3, 7, 11, 49}]
    assert found["row"].to_pylist() == kept
    assert found["labels"].to_pylist() == names_of(expected(version, pa.table(rows).take(kept))[1])
    assert report.tally.num_read == report.tally.num_scored + report.tally.num_rejected == 50


def test_csv_cells_cost_a_row_and_broken_lines_are_told(
    version: ScoredVersion, tmp_path: Path
) -> None:
    lines = ["id,wind,sun,cloud", "a,1,2,3", "b,1,x,3", "c,1,2", "d,,2,3", "e,-1,-2,-3"]
    (tmp_path / "in.csv").write_bytes("\n".join(lines).encode() + b"\nf\xff,1,2,\xfe\n")
    report = score_into(version, tmp_path / "in.csv", tmp_path / "out")
    assert read_parts(tmp_path / "out")["id"].to_pylist() == ["a", "e"]
    found = [(r["id"], r["row"], r["line"], r["reason"]) for r in read_rejects(tmp_path / "out")]
    assert found == [
        ("b", 1, None, '"x" is no number'),
        (None, 2, 4, "3 cells, expected 4"),
        ("d", 3, None, "missing, expected a number"),
        ("f�", 5, None, "not UTF-8: invalid start byte at byte 0"),
    ]
    assert read_parts(tmp_path / "out")["row"].to_pylist() == [0, 4]
    assert (report.tally.num_read, report.tally.num_rejected) == (6, 4)


def test_a_file_of_nothing_but_broken_lines(version: ScoredVersion, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,wind,sun,cloud\na,1\nb\n")
    report = score_into(version, tmp_path / "in.csv", tmp_path / "out")
    assert [row["line"] for row in read_rejects(tmp_path / "out")] == [2, 3]
    assert (report.tally.num_read, report.tally.num_rejected) == (2, 2)


def test_a_tsv_file_without_header_and_with_lone_quotes_is_read(
    version: ScoredVersion, tmp_path: Path
) -> None:
    (tmp_path / "in.tsv").write_text('say "hi\t1\t2\t3\nb\t4\t5\t6\n')
    options = ScoringOptions(
        features=COLUMNS,
        form=OutputForm(columns=("id",)),
        csv=CsvOptions(columns=("id", *COLUMNS), quoting=False),
    )
    score_into(version, tmp_path / "in.tsv", tmp_path / "out", options)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == ['say "hi', "b"]


def test_every_format_gives_the_same_labels(version: ScoredVersion, tmp_path: Path) -> None:
    rows = table(200)
    values = np.stack([rows[name].to_numpy() for name in COLUMNS], axis=1)
    lists = pa.table(
        {"id": rows["id"], "features": pa.array(values.tolist(), pa.list_(pa.float32()))}
    )
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    pq.write_table(rows, tmp_path / "a.parquet")
    feather.write_feather(rows, tmp_path / "b.arrow", compression="uncompressed")
    pacsv.write_csv(rows, tmp_path / "c.csv")
    pq.write_table(lists, tmp_path / "d.parquet")
    pq.write_table(pa.table({"id": rows["id"], "features": tensor}), tmp_path / "e.parquet")
    raw = pa.Array.from_buffers(pa.binary(12), 200, [None, pa.py_buffer(values)])
    pq.write_table(pa.table({"id": rows["id"], "features": raw}), tmp_path / "g.parquet")
    np.savez(tmp_path / "f.npz", id=np.arange(200), features=values)
    told = names_of(expected(version, rows)[1])
    for name in ("a.parquet", "b.arrow", "c.csv", "d.parquet", "e.parquet", "f.npz", "g.parquet"):
        by_name = name in ("d.parquet", "e.parquet", "f.npz", "g.parquet")
        options = ScoringOptions(form=OPTIONS.form) if by_name else OPTIONS
        out = tmp_path / f"out-{name}"
        score_into(version, tmp_path / name, out, options)
        assert read_parts(out)["labels"].to_pylist() == told, name


def test_lists_of_another_length_are_rejected(version: ScoredVersion, tmp_path: Path) -> None:
    cells = [[1.0, 2, 3], [1.0], None, [1.0, 2, float("nan")], [0.0, 0, 0], [1.0, None, 2]]
    rows = pa.table({"features": pa.array(cells, pa.list_(pa.float64()))})
    pq.write_table(rows, tmp_path / "in.parquet")
    score_into(version, tmp_path / "in.parquet", tmp_path / "out", ScoringOptions())
    assert read_parts(tmp_path / "out")["row"].to_pylist() == [0, 4]
    assert {r["row"]: r["reason"] for r in read_rejects(tmp_path / "out")} == {
        1: "a list of 1 numbers, expected 3",
        2: "missing, expected a list of numbers",
        3: "missing, expected a number (in a list)",
        5: "missing, expected a number (in a list)",
    }


def test_folders_that_name_a_value_are_a_column(version: ScoredVersion, tmp_path: Path) -> None:
    rows = table(40)
    days = pa.array(["mon"] * 15 + ["tue"] * 25)
    pads.write_dataset(
        rows.append_column("day", days),
        tmp_path / "in",
        format="parquet",
        partitioning=pads.partitioning(pa.schema([("day", pa.string())]), flavor="hive"),
    )
    options = ScoringOptions(features=COLUMNS, form=OutputForm(columns=("id", "day")))
    score_into(version, tmp_path / "in", tmp_path / "out", options)
    found = read_parts(tmp_path / "out")
    assert found["day"].to_pylist() == days.to_pylist()
    assert (tmp_path / "out" / "day=mon").is_dir()


def test_a_glob_takes_what_it_names_and_nothing_below(
    version: ScoredVersion, tmp_path: Path
) -> None:
    write_parts(tmp_path / "in", 3, 10)
    write_parts(tmp_path / "in" / "deep", 1, 10)
    report = score_into(version, f"{tmp_path}/in/part-*[02].parquet", tmp_path / "out")
    assert report.tally.num_read == 20
    assert score_into(version, f"{tmp_path}/in/**", tmp_path / "all").tally.num_read == 40


def test_large_files_are_cut_at_their_row_groups(
    version: ScoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thresher.tables.parts._PART_ROWS", 100)
    rows = write_parts(tmp_path / "in", 1, 300)
    report = score_into(version, tmp_path / "in", tmp_path / "out")
    assert report.num_parts == 4  # 37 rows a group, two groups a part
    found = read_parts(tmp_path / "out")
    assert found["id"].to_pylist() == rows["id"].to_pylist()
    assert found["row"].to_pylist() == [*range(300)]


@pytest.mark.parametrize("kind", ["parquet", "csv", "nothing at all"])
def test_an_empty_input_gives_an_empty_valid_output(
    version: ScoredVersion, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / ("in.parquet" if kind == "parquet" else "in.csv")
    if kind == "parquet":
        pq.write_table(table(0), place)
    else:
        place.write_text("" if kind == "nothing at all" else "id,wind,sun,cloud\n")
    options = OPTIONS if kind != "nothing at all" else ScoringOptions(features=COLUMNS)
    report = score_into(version, place, tmp_path / "out", options)
    found = read_parts(tmp_path / "out")
    assert (found.num_rows, report.tally.num_read) == (0, 0)
    assert {"row", "labels", "probabilities"} <= set(found.column_names)
    assert json.loads((tmp_path / "out/_report.json").read_text())["rows"]["read"] == 0


def test_the_report_holds_counts_that_add_up_and_rates_by_label(
    version: ScoredVersion, tmp_path: Path
) -> None:
    rows = write_parts(tmp_path / "in", 2, 60)
    score_into(version, tmp_path / "in", tmp_path / "out")
    told = json.loads((tmp_path / "out" / "_report.json").read_text())
    counts = expected(version, rows)[1].sum(axis=0)
    assert told["rows"] == {"read": 120, "scored": 120, "rejected": 0}
    assert [(x["label"], x["count"], x["rate"]) for x in told["labels"]] == [
        (name, count, count / 120) for name, count in zip(LABELS, counts.tolist(), strict=True)
    ]
    assert (told["model"], told["version"]) == ("weather", 1)


def test_a_finished_job_that_is_run_again_keeps_how_fast_it_was(
    version: ScoredVersion, tmp_path: Path
) -> None:
    write_parts(tmp_path / "in", 2, 60)
    score_into(version, tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "_report.json").read_bytes()
    score_into(version, tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out" / "_report.json").read_bytes() == before
    assert json.loads(before)["run"]["rows_per_s"] > 0


def test_tables_and_frames_in_memory(version: ScoredVersion) -> None:
    rows = table(90)
    told = names_of(expected(version, rows)[1])
    for given in (rows, rows.to_pandas(), rows.combine_chunks().to_batches()[0]):
        found = score(version, given, engine_of(version), OPTIONS)
        assert found.table["labels"].to_pylist() == told
        assert found.rejects.num_rows == 0
    frame = pd.DataFrame({"id": ["a", "b"], "wind": [1.0, None], "sun": [1, 2], "cloud": [0, 0]})
    found = score(version, frame, engine_of(version), OPTIONS)
    assert found.table["id"].to_pylist() == ["a"]
    assert found.rejects.to_pylist()[0]["reason"] == "missing, expected a number"
    assert found.tally.num_read == 2


def test_a_stream_of_tables_is_answered_table_by_table(version: ScoredVersion) -> None:
    tables = [table(at, seed=at) for at in (5, 0, 40)]
    found = [*score(version, iter(tables), engine_of(version), OPTIONS)]
    assert [each.table.num_rows for each in found] == [5, 0, 40]
    for each, rows in zip(found, tables, strict=True):
        assert each.table["labels"].to_pylist() == names_of(expected(version, rows)[1])


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("batch_rows", [1, 7, 1024])
def test_batches_and_threads_change_nothing(
    version: ScoredVersion, threads: int, batch_rows: int
) -> None:
    rows = table(333)
    engine = engine_of(version, threads=threads, batch_rows=batch_rows)
    found = score(version, rows, engine, OPTIONS).table
    once = score(version, rows, engine_of(version, batch_rows=333), OPTIONS).table
    assert found.equals(once)
