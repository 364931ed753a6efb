"""`thresher status` as a person sees it: nothing is cut off, whatever there is to show."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from thresher.cli.status_table import status_table
from thresher_serving.rollout import ServerStatus, VersionStatus

LONG = "a-very-long-model-name-that-somebody-chose-for-production.text"
VERSION = VersionStatus(
    model="digits",
    version=3,
    state="READY",
    reason="",
    serves=True,
    aliases=("champion",),
    proof="ok",
    requests=98_765,
    failures=4,
    has_own_requests=False,
    mean_ms=1.234,
    queue_ms=0.12,
    batch_size=3.4,
    rows=None,
    positive_rates=None,
)
STATUS = ServerStatus(
    url="127.0.0.1:8001",
    server="triton 2.51.0",
    versions=(),
    published={},
    previous={},
    rolling_out=(),
    warnings=(),
    supervisor="",
    left_out={},
    notes=(),
)


def shown(found: ServerStatus, width: int, **options: Any) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(status_table(found, width=width, **options))
    assert all(len(line) <= width for line in text.getvalue().splitlines())
    return text.getvalue()


def test_a_server_without_models_says_so() -> None:
    assert "No model is loaded" in shown(STATUS, 80)


@pytest.mark.parametrize("width", [80, 120, 200])
@pytest.mark.parametrize("is_watched", [False, True])
def test_no_figure_is_cut_off_however_many_models_and_long_names(
    width: int, *, is_watched: bool
) -> None:
    many = replace(
        STATUS,
        versions=(
            replace(
                VERSION,
                model=LONG,
                version=12_345,
                aliases=("champion", "candidate", "production-eu-west"),
                requests=123_456_789,
                failures=12_345,
                mean_ms=2651.3,
                has_own_requests=True,
            ),
            VERSION,
            replace(VERSION, version=4, serves=False, requests=0, mean_ms=None),
            replace(VERSION, model="other", proof="foreign", mean_ms=7.654),
            replace(VERSION, model="bad", state="UNAVAILABLE", serves=False, reason="no ONNX"),
        ),
        warnings=("digits: version 3 answers, and another is named",),
        supervisor="the server was started again 2 times: signal 11",
        left_out={"crasher": "its load ended the server twice"},
        rolling_out=("digits.5",),
    )
    text = shown(many, width, before=many if is_watched else None, every_s=2 * is_watched)
    for whole in (
        "98,765" if width >= 120 else "99 k",
        "12345",
        "12,345",
        "2,651",
        "1.23",
        "7.65",
        "foreign",
        "failed",
    ):
        assert whole in text
    assert ("123,456,789" if width >= 120 else "123 M") in text
    assert "".join(text.split()).count("digits") >= 2
    flat = " ".join(text.split())
    assert "WARNING: digits: version 3 answers, and another is named" in flat
    assert "the server was started again 2 times: signal 11" in flat
    assert "crasher is left out: its load ended the server twice" in flat
    assert "digits.5 is being checked by a rollout" in flat
    assert "bad version 3: no ONNX" in flat
    assert "may include warm-up" in flat
    assert ("/s" in text) == is_watched


def test_fifty_labels_are_summed_up_or_all_listed() -> None:
    rates = {f"label {k}": k / 50 for k in range(50)}
    one = replace(STATUS, versions=(replace(VERSION, rows=1000, positive_rates=rates),))
    flat = " ".join(shown(one, 80).split())
    assert "digits/3, yes in 1,000 rows: label 49 98.0%, label 48 96.0%, label 47 94.0%" in flat
    assert "47 more (--labels)" in flat
    every = shown(one, 80, every_label=True)
    assert all(f"label {k} " in every for k in range(50))


def test_what_a_rollback_brings_back_is_said() -> None:
    found = replace(
        STATUS, versions=(VERSION,), published={"digits": (1, 2, 3)}, previous={"digits": 2}
    )
    assert "also published: 1, 2; thresher rollback digits brings version 2 back" in " ".join(
        shown(found, 80).split()
    )
