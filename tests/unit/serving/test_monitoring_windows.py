"""Windows read from what `thresher score` wrote, what is refused, and the page of the findings."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from support.scoring import score_into, table, weather_version
from support.versions import LABELS
from support.windows import draw_window
from thresher.errors import DataError, NotFoundError, PublishError
from thresher.observations import BASELINE_FILE, Observations
from thresher_serving.monitoring import (
    compare,
    drift_page,
    published_baseline,
    read_window,
    write_record,
)
from thresher_serving.scoring import ScoredVersion


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    return weather_version(tmp_path_factory.mktemp("models"))


@pytest.fixture
def scored(version: ScoredVersion, tmp_path: Path) -> Path:
    """The output folder of a job of 200 rows, one of which was rejected."""
    rows = table(200).to_pandas()
    rows.loc[7, "sun"] = np.nan
    rows.to_parquet(tmp_path / "rows.parquet")
    score_into(version, tmp_path / "rows.parquet", tmp_path / "scored")
    return tmp_path / "scored"


def test_a_folder_and_the_report_in_it_are_the_same_window(scored: Path) -> None:
    for given in (scored, f"{scored}/", scored / "_report.json", scored.as_uri()):
        window = read_window(given)
        assert (window.num_rows, window.num_rejected, window.labels) == (199, 1, LABELS)
        assert window.title == "weather/1"
        assert window.name.endswith("/scored")
        assert window.observations.feature_names == ("wind", "sun", "cloud")
    labels = [row["labels"] for row in pq.read_table(scored / "rows.parquet").to_pylist()]
    counts = [sum(label in given for given in labels) for label in LABELS]
    assert read_window(scored).observations.positives_L.tolist() == counts


def test_a_job_that_is_not_done_has_no_window(scored: Path) -> None:
    (scored / "_report.json").unlink()
    with pytest.raises(NotFoundError, match=r"no _report\.json; expected the output folder"):
        read_window(scored)
    with pytest.raises(NotFoundError, match="no such file or folder"):
        read_window(scored / "elsewhere")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        ("{}", "no 'rows'"),
        ('{"rows": {"scored": 3}}', "no 'model'"),
    ],
)
def test_what_is_no_report_is_refused(scored: Path, content: str, said: str) -> None:
    (scored / "_report.json").write_text(content)
    with pytest.raises(
        DataError, match=rf"_report\.json: not a report of `thresher score`: {said}"
    ):
        read_window(scored)


def test_missing_and_broken_observations_are_named(scored: Path) -> None:
    path = scored / "_observations.npz"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(NotFoundError, match=r"_observations\.npz: no such file; score the rows"):
        read_window(scored)
    rng = np.random.default_rng(0)
    for at in [0, len(whole) // 3, len(whole) // 2, len(whole) - 40]:
        path.write_bytes(whole[:at])
        with pytest.raises(DataError, match=r"_observations\.npz: not observations"):
            read_window(scored)
    for _ in range(60):  # a flipped byte is noticed, or changes nothing
        broken = bytearray(whole)
        broken[rng.integers(len(whole))] ^= 0xFF
        path.write_bytes(broken)
        try:
            window = read_window(scored)
        except DataError:
            continue
        assert window.observations.num_rows == 199


def test_observations_of_another_job_are_refused(scored: Path) -> None:
    z = np.zeros((5, 3), dtype=np.float32)
    (scored / "_observations.npz").write_bytes(Observations.of(z, z > 0, {}).to_bytes())
    with pytest.raises(DataError, match="tells of 5 rows, _report.json of 199"):
        read_window(scored)


def test_a_window_of_no_rows_is_refused(version: ScoredVersion, tmp_path: Path) -> None:
    pq.write_table(table(0), tmp_path / "empty.parquet")
    score_into(version, tmp_path / "empty.parquet", tmp_path / "scored")
    with pytest.raises(DataError, match="0 rows were scored; there is nothing to compare"):
        read_window(tmp_path / "scored")


def test_the_baseline_lies_beside_the_published_version(tmp_path: Path) -> None:
    weather_version(tmp_path)
    with pytest.raises(NotFoundError, match=r"no baseline\.npz.*thresher export models:/weather/1"):
        published_baseline(tmp_path, "weather", 1)
    z = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    path = tmp_path / "weather/1" / BASELINE_FILE
    path.write_bytes(Observations.of(z, z > 0, {}).to_bytes())
    assert published_baseline(tmp_path, "weather", 1).num_rows == 50
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"baseline\.npz: not observations"):
        published_baseline(tmp_path, "weather", 1)
    path.write_bytes(Observations.of(z[:, :2], z[:, :2] > 0, {}).to_bytes())
    with pytest.raises(DataError, match="observations of 2 labels, expected 3"):
        published_baseline(tmp_path, "weather", 1)


def test_the_record_is_a_page_that_needs_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rates = [0.1, 0.3]
    baseline = draw_window(rng, 2_000, rates)
    moved = draw_window(rng, 2_000, [0.2, 0.3], feature_shift=[1], name="<b>Monday</b> & co")
    drifts = [compare(moved, baseline), compare(draw_window(rng, 2_000, rates), baseline)]
    paths = write_record(drifts, tmp_path / "deep" / "folder")
    assert {path.name for path in paths} == {
        "drift.json",
        "drift.html",
        *("rates-1.png", "scores-1.png", "features-1.png", "rates-2.png", "scores-2.png"),
    }
    for path in paths:
        assert path.suffix != ".png" or path.read_bytes().startswith(b"\x89PNG")
    told = json.loads(paths[0].read_text())
    assert [window["drift"] for window in told["windows"]] == [True, False]
    assert told["windows"][0]["findings"][0]["moved"]
    page = paths[1].read_text()
    assert "&lt;b&gt;Monday&lt;/b&gt; &amp; co" in page
    assert "<b>Monday" not in page
    assert "In 1 of 2 windows something moved" in page
    assert not re.search(r"https?:|src=\"(?!data:)|@import|<script", page)


def test_a_single_window_has_a_page_without_an_overview() -> None:
    rng = np.random.default_rng(1)
    baseline = draw_window(rng, 500, [0.2])
    page = drift_page([compare(baseline, baseline)], [{}])
    assert "Nothing moved, of 7 things that were tested" in page
    assert "window-0" not in page


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    baseline = draw_window(rng, 100, [0.2])
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishError, match=r"file.*: (File exists|Not a directory)"):
        write_record([compare(baseline, baseline)], tmp_path / "file")


def test_many_labels_and_one_label_can_be_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for num_labels in (1, 80):
        rates = np.geomspace(0.001, 0.5, num_labels)
        drift = compare(draw_window(rng, 300, rates), draw_window(rng, 90, rates))
        assert len(write_record([drift], tmp_path)) >= 4
