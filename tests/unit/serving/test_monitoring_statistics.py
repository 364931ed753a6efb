"""The statistics of drift, against exact ones that SciPy knows for single pairs of samples."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from thresher.observations import Observations
from thresher_serving.monitoring import drift, two_samples
from thresher_serving.monitoring.two_samples import (
    binomial_limits,
    difference_limits,
    distribution_test,
    mean_test,
    normal_shift,
    rate_shift,
    rate_test,
)

alphas = st.sampled_from([0.05, 0.01, 1e-3, 1e-5])


def one(value: int) -> np.ndarray:
    return np.array([value], dtype=np.int64)


@pytest.mark.parametrize(("k", "n"), [(0, 40), (1, 40), (7, 300), (299, 300), (40, 40)])
def test_limits_of_a_rate_are_scipys_exact_ones(k: int, n: int) -> None:
    lower, upper = binomial_limits([k], n, 0.002)
    expected = stats.binomtest(k, n).proportion_ci(0.998, method="exact")
    assert (lower[0], upper[0]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("k", "n", "m", "rows"), [(0, 50, 9, 500), (3, 150, 200, 900), (20, 400, 1, 100)]
)
def test_rates_are_tested_as_fisher_did(k: int, n: int, m: int, rows: int) -> None:
    table = [[m, rows - m], [k, n - k]]
    sides = [stats.fisher_exact(table, side).pvalue for side in ("less", "greater")]
    found = rate_test(one(k), n, one(m), rows)[0]
    assert found == pytest.approx(min(1, 2 * min(sides)))


@given(
    n=st.integers(1, 400),
    rows=st.integers(1, 4000),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    alpha=alphas,
)
@settings(deadline=None, max_examples=150)
def test_interval_holds_the_difference_and_agrees_with_the_test(
    n: int, rows: int, shares: tuple[float, float], alpha: float
) -> None:
    k, m = round(shares[0] * n), round(shares[1] * rows)
    lower, upper = difference_limits(one(k), n, one(m), rows, alpha)
    assert -1 <= lower[0] <= m / rows - k / n <= upper[0] <= 1
    if lower[0] > 0 or upper[0] < 0:
        assert rate_test(one(k), n, one(m), rows)[0] <= alpha


@given(n=st.integers(2, 300), share=st.floats(0, 1), factor=st.integers(2, 20), alpha=alphas)
@settings(deadline=None, max_examples=100)
def test_more_rows_make_narrower_intervals(n: int, share: float, factor: int, alpha: float) -> None:
    k = round(share * n)
    few = difference_limits(one(k), n, one(k), n, alpha)
    many = difference_limits(one(factor * k), factor * n, one(factor * k), factor * n, alpha)
    window_alone = difference_limits(one(k), n, one(factor * k), factor * n, alpha)
    width = float(few[1][0] - few[0][0])
    assert float(many[1][0] - many[0][0]) < width
    assert float(window_alone[1][0] - window_alone[0][0]) < width


@pytest.mark.parametrize("alpha", [1e-2, 1e-4])
@pytest.mark.parametrize("rate", [1e-3, 0.03, 0.5])
@pytest.mark.parametrize(("n", "rows"), [(50, 1000), (150, 150), (300, 1200)])
def test_intervals_leave_out_zero_no_more_often_than_alpha_says(
    n: int, rows: int, rate: float, alpha: float
) -> None:
    """Summed over all outcomes of two samples of one rate: no simulation."""
    k = np.arange(n + 1)
    k = k[stats.binom.pmf(k, n, rate) > 1e-12]
    m = np.arange(rows + 1)
    m = m[stats.binom.pmf(m, rows, rate) > 1e-12]
    both_k, both_m = (grid.ravel() for grid in np.meshgrid(k, m))
    lower, upper = difference_limits(both_k, n, both_m, rows, alpha)
    weight = stats.binom.pmf(both_k, n, rate) * stats.binom.pmf(both_m, rows, rate)
    assert weight[(lower > 0) | (upper < 0)].sum() <= alpha


@pytest.mark.parametrize(("n", "rows"), [(30, 30), (150, 200), (40, 1000)])
@pytest.mark.parametrize("shift", [0.0, 0.4, 1.0])
def test_distributions_are_tested_as_kolmogorov_and_smirnov_did(
    n: int, rows: int, shift: float
) -> None:
    rng = np.random.default_rng(n)
    before, now = rng.normal(size=n), rng.normal(size=rows) + shift
    edges = np.sort(np.concatenate([before, now]))  # a bin for each row: no ties
    counts = [np.histogram(x, np.append(edges, np.inf))[0][None] for x in (before, now)]
    distance, p = distribution_test(counts[0], counts[1])
    expected = stats.ks_2samp(before, now, method="exact")
    assert abs(distance[0]) == pytest.approx(expected.statistic)
    assert p[0] >= expected.pvalue * (0.999 if expected.pvalue < 0.1 else 0.95)
    assert p[0] <= 2 * expected.pvalue or expected.pvalue < 1e-6


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=30))
@settings(deadline=None, max_examples=100)
def test_coarser_bins_never_make_samples_more_different(pairs: list[tuple[int, int]]) -> None:
    counts = np.array(pairs, dtype=np.int64).T
    fine = distribution_test(counts[:1], counts[1:])
    coarse = np.add.reduceat(counts, np.arange(0, counts.shape[1], 2), axis=1)
    rough = distribution_test(coarse[:1], coarse[1:])
    assert abs(rough[0][0]) <= abs(fine[0][0]) + 1e-12
    assert rough[1][0] >= fine[1][0] - 1e-12


def test_swapping_the_samples_turns_the_sign() -> None:
    a, b = np.array([[5, 20, 3]]), np.array([[1, 2, 40]])
    there, back = distribution_test(a, b), distribution_test(b, a)
    assert there[0][0] == -back[0][0] > 0
    assert there[1][0] == back[1][0]
    assert normal_shift(there[0])[0] == -normal_shift(back[0])[0]


def test_a_sample_without_rows_differs_from_nothing() -> None:
    _, p = distribution_test(np.zeros((1, 4), dtype=np.int64), np.array([[1, 2, 3, 4]]))
    assert p[0] == 1


def test_effects_are_in_standard_deviations() -> None:
    apart = stats.norm.cdf(0.35) - stats.norm.cdf(-0.35)
    assert normal_shift(np.array([apart]))[0] == pytest.approx(0.7)
    assert np.isfinite(normal_shift(np.array([1.0, -1.0]))).all()
    near = rate_shift(np.array([0.3]), np.array([0.31]))[0]
    assert near == pytest.approx(0.01 / np.sqrt(0.305 * 0.695), rel=1e-3)


def test_examples_in_docstrings_are_true() -> None:
    for module in (drift, two_samples):
        outcome = doctest.testmod(module)
        assert outcome.attempted
        assert not outcome.failed


def test_means_of_one_row_are_not_tested() -> None:
    values = np.array([1.0])
    assert mean_test(values, values, 1, values + 9, values, 100)[0] == 1


def test_observations_of_two_halves_add_up_to_those_of_all() -> None:
    rng = np.random.default_rng(0)
    z, x = (rng.normal(size=(300, k)).astype(np.float32) for k in (2, 3))
    whole = Observations.of(z, z > 0, {"x": x})
    halves = [Observations.of(z[s], z[s] > 0, {"x": x[s]}) for s in (slice(100), slice(100, 300))]
    both = halves[0] + halves[1]
    assert both.num_rows == whole.num_rows
    np.testing.assert_array_equal(both.positives_L, whole.positives_L)
    np.testing.assert_array_equal(both.scores.counts_LKB, whole.scores.counts_LKB)
    np.testing.assert_array_equal(both.features.counts_LKB, whole.features.counts_LKB)
    np.testing.assert_allclose(both.sums_F, whole.sums_F)
