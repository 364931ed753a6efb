"""What is found between validation and a window, and how often something is found for nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.windows import draw_window
from thresher import Decision
from thresher.errors import DataError
from thresher.evaluation import EvaluationSplit
from thresher.observations import Observations, feature_edges
from thresher_serving.monitoring import Drift, Window, compare, merged

RATES = np.geomspace(0.01, 0.5, 12)


def found(drift: Drift, kind: str) -> set[str]:
    return {finding.name for finding in drift.moved if finding.kind == kind}


def test_a_prior_shift_in_three_labels_is_found_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    now = RATES.copy()
    now[[2, 6, 11]] *= [4, 1.6, 0.75]
    drift = compare(draw_window(rng, 20_000, now), draw_window(rng, 4_000, RATES))
    assert found(drift, "rate") == {"label 2", "label 6", "label 11"}
    assert found(drift, "scores") <= {"label 2", "label 6", "label 11"}
    assert not found(drift, "feature")
    assert not found(drift, "rejects")
    for finding in drift.moved:
        assert (finding.shift > 0) == (finding.name != "label 11")
        if finding.kind == "rate":
            assert finding.interval is not None
            lower, upper = finding.interval
            at = int(finding.name.removeprefix("label "))
            assert lower <= now[at] - RATES[at] <= upper


def test_a_covariate_shift_is_found_in_the_feature_and_in_the_scores_that_it_bears_on() -> None:
    rng = np.random.default_rng(2)
    moved = draw_window(rng, 20_000, RATES, feature_shift=[0.5])
    drift = compare(moved, draw_window(rng, 4_000, RATES))
    assert found(drift, "feature") == {"feature 0"}
    assert found(drift, "scores") == set(moved.labels)
    assert not found(drift, "rate")
    first = drift.moved[0]
    assert (first.kind, first.name) == ("feature", "feature 0")
    assert first.shift == pytest.approx(0.5, abs=0.1)


def test_what_moved_comes_first_and_the_largest_shift_before_all() -> None:
    rng = np.random.default_rng(3)
    drift = compare(
        draw_window(rng, 5_000, RATES[::-1], feature_shift=[0, 0.3], num_rejected=500),
        draw_window(rng, 4_000, RATES),
    )
    shifts = [abs(finding.shift) for finding in drift.moved]
    assert shifts == sorted(shifts, reverse=True)
    flags = [finding.moved for finding in drift.findings]
    assert flags == sorted(flags, reverse=True)
    assert found(drift, "rejects") == {""}


@pytest.mark.parametrize(
    ("num_labels", "num_known", "num_rows", "num_features"),
    [(3, 150, 1_000, 6), (12, 400, 300, 2), (60, 800, 2_000, 20)],
)
def test_200_windows_without_drift_raise_no_more_alarms_than_stated(
    num_labels: int, num_known: int, num_rows: int, num_features: int
) -> None:
    """Each window has a validation of its own; the rarest label has one row in 2,000."""
    rng = np.random.default_rng(num_labels)
    rates = np.geomspace(5e-4, 0.5, num_labels)
    alpha, num_windows = 0.05, 200

    def draw(rows: int) -> Window:
        return draw_window(rng, rows, rates, num_features=num_features)

    alarms = sum(
        bool(compare(draw(num_rows), draw(num_known), alpha=alpha).moved)
        for _ in range(num_windows)
    )
    # of a rate of alpha itself so many, or more, are seen once in a thousand tries
    assert alarms <= stats.binom.isf(1e-3, num_windows, alpha)


def test_skewed_features_raise_no_more_alarms_than_stated_against_a_small_validation() -> None:
    rng = np.random.default_rng(21)

    def prices(rows: int) -> Window:
        z = rng.normal(size=(rows, 1)).astype(np.float32)
        x = np.exp(rng.normal(size=(rows, 20)) + np.linspace(-8, 14, 20)).astype(np.float32)
        seen = Observations.of(z, z > 0, {"x": x})
        return Window(name="w", model="m", version=1, labels=("rain",), observations=seen)

    alarms = sum(bool(compare(prices(1_500), prices(150), alpha=0.05).moved) for _ in range(200))
    assert alarms <= stats.binom.isf(1e-3, 200, 0.05)


@given(st.floats(-(2.0**34), 2.0**34, width=32))
@settings(deadline=None, max_examples=60)
def test_a_feature_falls_into_the_bin_whose_edges_hold_it(value: float) -> None:
    x = np.float32([[value]])
    counts = Observations.of(x * 0, x > 0, {"x": x}).features.counts_LKB.sum(axis=(0, 1))
    edges = feature_edges(len(counts))
    at = int(np.flatnonzero(counts)[0])
    margin = 1e-4 * abs(value) + 1e-6  # rounding of a logarithm in float32
    assert edges[at] <= value + margin
    if at + 1 < len(edges):
        assert value - margin <= edges[at + 1]


def test_adjusted_p_is_at_most_alpha_where_something_moved_and_nowhere_else() -> None:
    rng = np.random.default_rng(5)
    drift = compare(draw_window(rng, 900, RATES * 1.3), draw_window(rng, 900, RATES), alpha=0.05)
    for finding in drift.findings:
        assert finding.moved == (finding.p_value <= 0.05)
        if finding.interval is not None and finding.moved:
            assert not finding.interval[0] <= 0 <= finding.interval[1]
    shares = [drift.alpha_of(kind) * number for kind, number in drift.num_tests.items()]
    assert sum(shares) == pytest.approx(0.05)


def test_a_label_that_validation_never_gave_is_found_when_it_is_given_often() -> None:
    rng = np.random.default_rng(6)
    baseline = draw_window(rng, 500, [0.3, 0.0])
    assert any("1 label given to no row" in n for n in compare(baseline, baseline).notes)
    rare = compare(draw_window(rng, 5_000, [0.3, 0.002]), baseline)
    often = compare(draw_window(rng, 5_000, [0.3, 0.05]), baseline)
    assert found(rare, "rate") == set()
    assert found(often, "rate") == {"label 1"}


def test_a_feature_of_large_numbers_is_compared_by_its_mean() -> None:
    """The histogram's bins are far wider there than the feature's spread."""
    rng = np.random.default_rng(7)

    def kelvin(rows: int, mean: float) -> Window:
        z = rng.normal(size=(rows, 1)).astype(np.float32)
        x = (rng.normal(size=(rows, 1)) * 2 + mean).astype(np.float32)
        seen = Observations.of(z, z > 0, {"x": x}, {"x": ("kelvin",)})
        return Window(name="w", model="m", version=1, labels=("rain",), observations=seen)

    baseline = kelvin(1_000, 300)
    assert not compare(kelvin(2_000, 300), baseline).moved
    drift = compare(kelvin(2_000, 301), baseline)
    assert found(drift, "feature") == {"kelvin"}
    assert drift.moved[0].shift == pytest.approx(0.5, abs=0.1)


def test_a_constant_feature_raises_nothing() -> None:
    z = np.random.default_rng(8).normal(size=(500, 1)).astype(np.float32)
    for value in (0, 1e9, -7.25):
        x = np.full((500, 1), value, dtype=np.float32)
        seen = Observations.of(z, z > 0, {"x": x})
        window = Window(name="w", model="m", version=1, labels=("rain",), observations=seen)
        assert not compare(merged([window, window]), window).moved


def test_features_without_names_on_one_side_are_paired_by_position() -> None:
    rng = np.random.default_rng(9)
    z, x = (rng.normal(size=(400, k)).astype(np.float32) for k in (1, 2))
    known = Observations.of(z, z > 0, {"x": x})
    seen = Observations.of(z, z > 0, {"x": x}, {"x": ("wind", "sun")})
    other = Observations.of(z, z > 0, {"x": x}, {"x": ("wind", "moon")})
    windows = [
        Window(name="w", model="m", version=1, labels=("rain",), observations=each)
        for each in (known, seen, other)
    ]
    names = {finding.name for finding in compare(windows[1], windows[0]).of("feature")}
    assert names == {"wind", "sun"}
    drift = compare(windows[2], windows[1])
    assert [finding.name for finding in drift.of("feature")] == ["wind"]
    assert "2 input features known on one side alone, and not compared" in drift.notes


def test_merged_windows_are_the_window_of_all_rows() -> None:
    rng = np.random.default_rng(10)
    parts = [draw_window(rng, n, RATES, name=f"day {n}", num_rejected=1) for n in (100, 250)]
    both = merged(parts)
    assert (both.num_rows, both.num_rejected, both.name) == (350, 2, "day 100 to day 250")
    positives = sum(part.observations.positives_L for part in parts)
    np.testing.assert_array_equal(both.observations.positives_L, positives)


def test_a_window_whose_rows_were_all_rejected_is_judged_by_the_rejects() -> None:
    rng = np.random.default_rng(11)
    baseline = draw_window(rng, 500, RATES)
    window = dataclasses.replace(
        baseline, name="broken", observations=Observations.empty(12), num_rejected=40
    )
    drift = compare(window, baseline)
    assert [finding.kind for finding in drift.moved] == ["rejects"]
    assert drift.num_tests == {"rejects": 1}


def test_other_versions_labels_and_empty_windows_are_refused() -> None:
    rng = np.random.default_rng(12)
    baseline = draw_window(rng, 100, RATES, name="validation")
    with pytest.raises(DataError, match="window is of weather/2, validation of weather/1"):
        compare(draw_window(rng, 100, RATES, version=2), baseline)
    with pytest.raises(DataError, match=r"13 labels, validation has 12.*\(label 12\)"):
        compare(draw_window(rng, 100, [*RATES, 0.1]), baseline)
    turned = dataclasses.replace(baseline, labels=baseline.labels[::-1])
    with pytest.raises(DataError, match="or in another order"):
        compare(turned, baseline)
    with pytest.raises(DataError, match="0 rows were scored"):
        dataclasses.replace(baseline, observations=Observations.empty(12))
    with pytest.raises(DataError, match="of 12 labels, expected 2"):
        dataclasses.replace(baseline, labels=("a", "b"))
    with pytest.raises(DataError, match="alpha is 1, expected"):
        compare(baseline, baseline, alpha=1)


def test_baseline_has_the_logits_of_rows_that_were_new_and_no_broken_rows() -> None:
    x = np.float32([[0.5], [1.0], [np.nan], [2.0]])
    logits = np.float32([[9], [9], [9], [np.inf]])
    split = EvaluationSplit(
        inputs={"x": x},
        targets_NL=np.zeros((4, 1), dtype=np.float32),
        logits_NL=logits,
        held_out_logits_NL=np.float32([[-1], [2], [2], [np.inf]]),
    )
    seen = Observations.of_validation(split, Decision(labels=["rain"], thresholds=[0.5]))
    assert (seen.num_rows, seen.positives_L.tolist()) == (2, [1])
