"""A scoring job's report: what a run did, kept when there is nothing left to do, and escaped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.scoring import score_into, weather_version, write_parts
from thresher_serving.scoring import ScoredVersion
from thresher_serving.scoring.page import report_page


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    return weather_version(tmp_path_factory.mktemp("models"))


def test_a_job_run_again_keeps_the_figures_of_the_run_that_did_it(
    version: ScoredVersion, tmp_path: Path
) -> None:
    write_parts(tmp_path / "in", 2, 60)
    report, page = tmp_path / "out/_report.json", tmp_path / "out/_report.html"
    score_into(version, tmp_path / "in", tmp_path / "out")
    first, first_page = json.loads(report.read_text()), page.read_text()
    assert first["run"]["rows_per_s"] > 0
    score_into(version, tmp_path / "in", tmp_path / "out")
    assert json.loads(report.read_text()) == first
    assert page.read_text() == first_page
    assert "rows a second" in first_page


def test_without_an_earlier_report_no_rate_is_shown(version: ScoredVersion, tmp_path: Path) -> None:
    write_parts(tmp_path / "in", 2, 60)
    report = tmp_path / "out/_report.json"
    score_into(version, tmp_path / "in", tmp_path / "out")
    for content in (None, "{", "[]", "{}"):
        report.unlink()
        if content is not None:
            report.write_text(content)
        score_into(version, tmp_path / "in", tmp_path / "out")
        told = json.loads(report.read_text())["run"]
        assert (told["rows_read"], told["rows_per_s"]) == (0, None)
        assert "rows a second" not in (tmp_path / "out/_report.html").read_text()


def test_the_page_escapes_what_others_wrote() -> None:
    hostile = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)> \" '"
    page = report_page(
        {
            "model": hostile,
            "version": 1,
            "input": hostile,
            "parts": 1,
            "rows": {"read": 1, "scored": 1, "rejected": 1},
            "reject_reasons": {hostile: 1},
            "broken_files": [hostile],
            "labels": [{"label": hostile, "count": 1, "rate": 1.0}],
            "run": {"rows_per_s": None},
        }
    )
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</style>") == 1
    assert page.count("alert(1)") == 2 * 6  # title, heading, input, broken file, reason, label
