"""What a scoring job refuses before its first row, and what it survives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.scoring import (
    COLUMNS,
    OPTIONS,
    engine_of,
    read_parts,
    read_rejects,
    score_into,
    table,
    weather_version,
    write_parts,
)
from thresher.errors import ConfigError, DataError, NotFoundError, PublishError, ThresherError
from thresher.published_models import PublishedModels
from thresher.tables.parts import Part
from thresher.tables.reading import read_rows
from thresher.tables.rows import Rows
from thresher_serving.scoring import (
    OnnxRuntimeEngine,
    OutputForm,
    ScoredVersion,
    ScoringOptions,
    score,
)
from thresher_serving.scoring.engines import Answers


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    return weather_version(tmp_path_factory.mktemp("models"))


def refused(
    version: ScoredVersion,
    given: Path | str,
    output: Path,
    options: ScoringOptions = OPTIONS,
    error: type[ThresherError] = DataError,
) -> str:
    """Return the message with which a job is refused; nothing is written then."""
    with pytest.raises(error) as raised:
        score_into(version, given, output, options)
    assert not output.exists() or not [*output.rglob("*.parquet")]
    return str(raised.value)


def test_a_column_that_is_missing_names_file_column_and_the_nearest(
    version: ScoredVersion, tmp_path: Path
) -> None:
    write_parts(tmp_path / "in", 2, 10)
    pq.write_table(
        table(10).rename_columns(["id", "c", "winds", *COLUMNS[1:]]), tmp_path / "in/x.parquet"
    )
    told = refused(version, tmp_path / "in", tmp_path / "out")
    assert "x.parquet" in told
    assert 'unknown column "wind"; did you mean "winds"?' in told


@pytest.mark.parametrize("kind", [pa.date32(), pa.struct([("a", pa.int8())]), pa.timestamp("ms")])
def test_a_column_of_a_kind_that_is_no_number(
    version: ScoredVersion, tmp_path: Path, kind: pa.DataType
) -> None:
    rows = table(5).set_column(2, "wind", pa.nulls(5, kind))
    pq.write_table(rows, tmp_path / "in.parquet")
    told = refused(version, tmp_path / "in.parquet", tmp_path / "out")
    assert f'in.parquet: column "wind" is {kind}, expected numbers' in told


def test_numbers_written_as_texts_are_read_and_words_rejected(
    version: ScoredVersion, tmp_path: Path
) -> None:
    rows = table(3).set_column(2, "wind", pa.array(["1.5", "gale", " -2e0 "]))
    pq.write_table(rows, tmp_path / "in.parquet")
    score_into(version, tmp_path / "in.parquet", tmp_path / "out")
    assert read_parts(tmp_path / "out")["row"].to_pylist() == [0, 2]
    assert [r["reason"] for r in read_rejects(tmp_path / "out")] == ['"gale" is no number']


def test_an_id_column_that_changes_its_kind_between_files(
    version: ScoredVersion, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(table(5), tmp_path / "in/a.parquet")
    pq.write_table(table(5).set_column(0, "id", pa.array(range(5))), tmp_path / "in/b.parquet")
    told = refused(version, tmp_path / "in", tmp_path / "out")
    assert 'b.parquet: column "id" is int64, in the files before it is string' in told


def test_nothing_guesses_which_columns_an_input_is_made_of(
    version: ScoredVersion, tmp_path: Path
) -> None:
    pq.write_table(table(5).select([*COLUMNS]), tmp_path / "in.parquet")
    told = refused(version, tmp_path / "in.parquet", tmp_path / "out", ScoringOptions())
    assert "nothing says which columns it is made of" in told
    assert "--features" in told
    few = ScoringOptions(features=("wind", "sun"))
    told = refused(version, tmp_path / "in.parquet", tmp_path / "out", few)
    assert "holds 3 numbers, got 2 columns: wind, sun" in told


def test_a_column_to_take_over_that_is_not_there(version: ScoredVersion, tmp_path: Path) -> None:
    pq.write_table(table(5), tmp_path / "in.parquet")
    options = ScoringOptions(features=COLUMNS, form=OutputForm(columns=("key",)))
    told = refused(version, tmp_path / "in.parquet", tmp_path / "out", options)
    assert 'no column "key" to take over; the columns are id, comment, wind, sun, cloud' in told


def test_a_column_that_the_output_has_already() -> None:
    with pytest.raises(ConfigError, match='has a column "row" of its own'):
        OutputForm(columns=("row",))


def test_inputs_that_are_not_there_or_of_several_kinds(
    version: ScoredVersion, tmp_path: Path
) -> None:
    refused(version, tmp_path / "none", tmp_path / "out", error=NotFoundError)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/readme.txt").write_text("")
    assert "no file to read" in refused(
        version, tmp_path / "in", tmp_path / "out", error=NotFoundError
    )
    pq.write_table(table(5), tmp_path / "in/a.parquet")
    (tmp_path / "in/b.csv").write_text("id\n")
    assert "several kinds (csv, parquet)" in refused(version, tmp_path / "in", tmp_path / "out")
    assert "no file system is known" in refused(version, "nowhere://x", tmp_path / "out")


def test_a_folder_that_holds_something_else_is_left_alone(
    version: ScoredVersion, tmp_path: Path
) -> None:
    pq.write_table(table(5), tmp_path / "in.parquet")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("years of work")
    told = refused(version, tmp_path / "in.parquet", tmp_path / "out")
    assert "holds something else (thesis.txt)" in told
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_another_job_does_not_go_on_in_the_same_folder(
    version: ScoredVersion, tmp_path: Path
) -> None:
    pq.write_table(table(5), tmp_path / "in.parquet")
    score_into(version, tmp_path / "in.parquet", tmp_path / "out")
    score_into(version, tmp_path / "in.parquet", tmp_path / "out")  # the same one does
    other = weather_version(tmp_path / "models", 2)
    changes = {
        "version was 1, is 2": (other, tmp_path / "in.parquet", OPTIONS),
        "options was": (version, tmp_path / "in.parquet", ScoringOptions(features=COLUMNS)),
    }
    for told, (who, given, options) in changes.items():
        with pytest.raises(DataError, match=told):
            score_into(who, given, tmp_path / "out", options)
    pq.write_table(table(6), tmp_path / "in.parquet")
    with pytest.raises(DataError, match="input_sha256 was"):
        score_into(version, tmp_path / "in.parquet", tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut short", "in the middle", "no Parquet at all"])
def test_a_corrupt_file_is_rejected_as_a_whole_and_the_rest_goes_on(
    version: ScoredVersion, tmp_path: Path, damage: str
) -> None:
    write_parts(tmp_path / "in", 3, 2000)
    bad = tmp_path / "in/part-001.parquet"
    content = bytearray(bad.read_bytes())
    if damage == "cut short":
        content = content[: len(content) // 2]
    elif damage == "in the middle":
        middle = len(content) // 2
        content[middle : middle + 2000] = b"\xff" * 2000
    else:
        content = bytearray(b"hello")
    bad.write_bytes(content)
    report = score_into(version, tmp_path / "in", tmp_path / "out")
    assert [str(bad) in told for told in report.tally.broken] == [True]
    assert pq.read_table(tmp_path / "out/part-001.parquet").num_rows == 0
    assert read_parts(tmp_path / "out").num_rows == 4000
    (reject,) = read_rejects(tmp_path / "out")
    assert reject["row"] is None
    assert "cannot be read" in reject["reason"]
    tally = report.tally
    assert tally.num_read == tally.num_scored + tally.num_rejected
    told = json.loads((tmp_path / "out/_report.json").read_text())
    assert len(told["broken_files"]) == 1


def test_a_file_that_was_out_of_reach_is_tried_again(
    version: ScoredVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = write_parts(tmp_path / "in", 3, 100)

    def out_of_reach(part: Part, *rest: Any, **more: Any) -> Iterator[Rows]:
        if part.name == "part-001.parquet":
            raise DataError(f"{part.path} cannot be read: the network is down")
        return read_rows(part, *rest, **more)

    monkeypatch.setattr("thresher_serving.scoring.job.read_rows", out_of_reach)
    first = score_into(version, tmp_path / "in", tmp_path / "out")
    assert (first.tally.num_scored, len(first.tally.broken)) == (200, 1)
    monkeypatch.undo()
    second = score_into(version, tmp_path / "in", tmp_path / "out")
    assert (second.tally.num_scored, second.tally.broken, second.num_taken_over) == (300, [], 2)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == rows["id"].to_pylist()
    assert read_rejects(tmp_path / "out") == []


class _NanForLargeWinds(OnnxRuntimeEngine):
    """What a network does whose numbers run over."""

    def answer(self, inputs: Mapping[str, Any], *, with_logits: bool) -> Answers:
        found = super().answer(inputs, with_logits=with_logits)
        assert found.logits_NL is not None
        large = inputs["features"][:, :1] > 1
        return Answers(
            probabilities_NL=np.where(large, np.nan, found.probabilities_NL),
            labels_NL=found.labels_NL,
            logits_NL=np.where(large, np.nan, found.logits_NL),
        )


def test_a_row_for_which_the_network_gives_nan_is_rejected(version: ScoredVersion) -> None:
    rows = table(200)
    large = rows["wind"].to_numpy() > 1
    engine = _NanForLargeWinds(version, threads=1, batch_rows=16, device="cpu")
    found = score(version, rows, engine, OPTIONS)
    assert found.rejects["row"].to_pylist() == np.flatnonzero(large).tolist() != []
    assert set(found.rejects["reason"].to_pylist()) == {"the network gave NaN"}
    assert found.table["id"].to_pylist() == rows["id"].to_numpy()[~large].tolist()
    assert found.tally.num_scored + found.tally.num_rejected == 200


def test_two_jobs_do_not_write_one_folder(version: ScoredVersion, tmp_path: Path) -> None:
    from thresher.tables.address import address_of
    from thresher_serving.scoring.folder import OutputFolder

    pq.write_table(table(5), tmp_path / "in.parquet")
    with OutputFolder(address_of(tmp_path / "out", must_exist=False)).alone():
        told = refused(version, tmp_path / "in.parquet", tmp_path / "out", error=PublishError)
    assert "another job writes here" in told


def test_a_version_that_is_not_what_was_proven_scores_nothing(tmp_path: Path) -> None:
    version = weather_version(tmp_path)
    with version.file.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ThresherError, match="other bytes"):
        ScoredVersion.published(PublishedModels(tmp_path), "weather", 1)
    assert ScoredVersion.published(PublishedModels(tmp_path), "weather", 1, unproven=True)


def test_what_is_no_table_is_refused(version: ScoredVersion) -> None:
    with pytest.raises(DataError, match="is a int, expected an Arrow table, a pandas frame"):
        score(version, 3, engine_of(version), OPTIONS)
