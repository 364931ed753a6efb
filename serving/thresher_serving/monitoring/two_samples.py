"""Two samples, of any sizes: is what gave them the same? All functions take many pairs at once.

Where p-values of rates and distributions are small, they are the exact ones or larger, so that a
share of alpha for each test keeps the rate of false alarms below alpha, whatever depends on what.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = [
    "binomial_limits",
    "difference_limits",
    "distribution_test",
    "mean_test",
    "normal_shift",
    "rate_shift",
    "rate_test",
]

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

_MOST_SHIFT = 8.0
"""Standard deviations; the distance of two samples that do not overlap says no more."""


def binomial_limits(
    positives_L: npt.ArrayLike, num_rows: int, alpha: float
) -> tuple[Floats, Floats]:
    """Return limits of rates that hold each with at least 1 - alpha, [L] each.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case
    of the binomial", Biometrika 26 (1934).

    Example:
        >>> lower, upper = binomial_limits([0], 100, 0.05)
        >>> float(lower[0]), round(float(upper[0]), 4)
        (0.0, 0.0362)
    """
    k = np.asarray(positives_L, dtype=np.float64)
    if not num_rows:
        return np.zeros_like(k), np.ones_like(k)
    with np.errstate(invalid="ignore"):
        lower = np.where(k == 0, 0.0, stats.beta.ppf(alpha / 2, k, num_rows - k + 1))
        upper = np.where(k == num_rows, 1.0, stats.beta.isf(alpha / 2, k + 1, num_rows - k))
    return lower, upper


def rate_test(before_L: Counts, num_before: int, now_L: Counts, num_now: int) -> Floats:
    """Return two-sided p-values of equal rates, [L]: twice the smaller side of Fisher's exact test.

    Args:
        before_L: Positives in the first sample.
        num_before: Its rows.
        now_L: Positives in the second.
        num_now: Its rows.

    Source: Fisher, "Statistical Methods for Research Workers" (1934), section 21.02.
    """
    both_L, total = before_L + now_L, num_before + num_now
    fewer_L = stats.hypergeom.cdf(now_L, total, both_L, num_now)
    more_L = stats.hypergeom.sf(now_L - 1, total, both_L, num_now)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(fewer_L, more_L)))


def difference_limits(
    before_L: Counts, num_before: int, now_L: Counts, num_now: int, alpha: float
) -> tuple[Floats, Floats]:
    """Return limits of the differences of rates, second less first, [L] each.

    Clopper and Pearson's limits of both rates, squared and added. They take in 0 wherever
    `rate_test` finds no difference at alpha, so that verdict and picture agree.

    Source: Newcombe, "Interval estimation for the difference between independent proportions",
    Statistics in Medicine 17 (1998), method 10, with other limits; Zou and Donner, "Construction
    of confidence limits about effect measures", Statistics in Medicine 27 (2008).

    Example:
        >>> lower, upper = difference_limits(np.array([10]), 100, np.array([60]), 200, 0.01)
        >>> bool(0 < lower[0] < 0.2 < upper[0])
        True
    """
    low_b, high_b = binomial_limits(before_L, num_before, alpha)
    low_n, high_n = binomial_limits(now_L, num_now, alpha)
    rate_b, rate_n = before_L / max(1, num_before), now_L / max(1, num_now)
    found = rate_n - rate_b
    lower = found - np.hypot(rate_n - low_n, high_b - rate_b)
    upper = found + np.hypot(high_n - rate_n, rate_b - low_b)
    is_same = rate_test(before_L, num_before, now_L, num_now) > alpha
    lower = np.where(is_same, np.minimum(lower, 0.0), lower)
    upper = np.where(is_same, np.maximum(upper, 0.0), upper)
    return np.clip(lower, -1.0, 1.0), np.clip(upper, -1.0, 1.0)


def rate_shift(before_L: Floats, now_L: Floats) -> Floats:
    """Return Cohen's h of two rates, [L]: about the difference in standard deviations of a row.

    Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences" (1988), chapter 6.

    Example:
        >>> rate_shift(np.array([0.2]), np.array([0.5])).round(2).tolist()
        [0.64]
    """
    return np.asarray(2 * np.arcsin(np.sqrt(now_L)) - 2 * np.arcsin(np.sqrt(before_L)))


def distribution_test(before_LB: Counts, now_LB: Counts) -> tuple[Floats, Floats]:
    """Return signed distances of the cumulative shares and p-values of equal distributions, [L].

    Kolmogorov and Smirnov's test at the edges of the bins. Rows in one bin are ties, which make
    the distance smaller and never larger; the limiting distribution is used for any size of
    sample, where the exact p-value is smaller.

    Args:
        before_LB: Counts of rows by bin, in order.
        now_LB: Those of the second sample.

    Returns:
        Distances in [-1, 1], positive where the second sample is larger; p-values.

    Source: Smirnov, "Table for estimating the goodness of fit of empirical distributions", Annals
    of Mathematical Statistics 19 (1948).

    Example:
        >>> before, now = np.array([[50, 50, 0]]), np.array([[0, 50, 50]])
        >>> distance, p = distribution_test(before, now)
        >>> float(distance[0]), bool(p[0] < 1e-9)
        (0.5, True)
    """
    before_L, now_L = before_LB.sum(axis=1), now_LB.sum(axis=1)
    some_b, some_n = np.maximum(before_L, 1), np.maximum(now_L, 1)
    apart_LB = np.cumsum(before_LB, axis=1) / some_b[:, None]
    apart_LB -= np.cumsum(now_LB, axis=1) / some_n[:, None]
    at_L = np.abs(apart_LB).argmax(axis=1)
    distance_L = np.take_along_axis(apart_LB, at_L[:, None], axis=1)[:, 0]
    size_L = before_L * (now_L / (some_b + some_n))
    p_L = stats.kstwobign.sf(np.sqrt(size_L) * np.abs(distance_L))
    return distance_L, np.where((before_L == 0) | (now_L == 0), 1.0, p_L)


def normal_shift(distance_L: Floats) -> Floats:
    """Return how many standard deviations a normal distribution moves to be so far from itself.

    Args:
        distance_L: Distances of cumulative shares, as `distribution_test` gives them.

    Example:
        >>> normal_shift(np.array([0.0, 0.38292])).round(3).tolist()
        [0.0, 1.0]
    """
    apart_L = 2 * stats.norm.ppf((1 + np.abs(distance_L)) / 2)
    return np.asarray(np.copysign(np.minimum(apart_L, _MOST_SHIFT), distance_L))


def mean_test(
    before_F: Floats,
    deviation_before_F: Floats,
    num_before: int,
    now_F: Floats,
    deviation_now_F: Floats,
    num_now: int,
) -> Floats:
    """Return p-values of equal means, [F], where variances may differ; 1 where they are unknown.

    Source: Welch, "The generalization of Student's problem when several different population
    variances are involved", Biometrika 34 (1947).
    """
    if min(num_before, num_now) < 2:
        return np.ones_like(before_F)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = stats.ttest_ind_from_stats(
            before_F,
            deviation_before_F,
            num_before,
            now_F,
            deviation_now_F,
            num_now,
            equal_var=False,
        )
    return np.asarray(np.nan_to_num(found.pvalue, nan=1.0))
