"""Compares a window with validation: what moved, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, counted
from thresher.observations import Observations
from thresher.scores import ScoreHistograms, bin_edges
from thresher_serving.monitoring.features import is_resolved, moments, paired_features
from thresher_serving.monitoring.two_samples import (
    difference_limits,
    distribution_test,
    mean_test,
    normal_shift,
    rate_shift,
    rate_test,
)
from thresher_serving.monitoring.window import Window

__all__ = ["Drift", "Finding", "Kind", "compare", "counts_of"]

Kind = Literal["rate", "scores", "feature", "rejects"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was tested."""

    kind: Kind
    """``rate``, ``scores``, ``feature`` or ``rejects``."""
    name: str
    """The label's or feature's; empty for rejects."""
    before: float
    """In validation: a rate, the median logit, or a feature's mean."""
    now: float
    shift: float
    """In standard deviations: Cohen's h of rates; else how far a normal distribution moves to be
    so far from itself; with a sign where the direction is known."""
    p_value: float
    """Adjusted for all that was tested: moved where it is at most alpha."""
    moved: bool
    interval: tuple[float, float] | None = None
    """Of the difference of rates, together with all other rates."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Drift:
    """What became of a window."""

    window: Window
    baseline: Window
    alpha: float
    findings: tuple[Finding, ...]
    """All that was tested: what moved first, the largest shift first."""
    num_tests: dict[Kind, int]
    """How many of each kind; each has an equal share of alpha, and in it each test again."""
    notes: tuple[str, ...] = ()

    @property
    def moved(self) -> tuple[Finding, ...]:
        """What moved, the largest shift first."""
        return tuple(finding for finding in self.findings if finding.moved)

    def alpha_of(self, kind: Kind) -> float:
        """Return the share of alpha that each test of a kind has."""
        return self.alpha / len(self.num_tests) / self.num_tests[kind]

    def of(self, kind: Kind) -> tuple[Finding, ...]:
        """Return the findings of a kind, in their order."""
        return tuple(finding for finding in self.findings if finding.kind == kind)

    def to_dict(self) -> dict[str, Any]:
        """Return all for JSON."""
        window, baseline = self.window, self.baseline
        return {
            "model": window.model,
            "version": window.version,
            "window": window.name,
            "drift": bool(self.moved),
            "alpha": self.alpha,
            "rows": {
                "scored": window.num_rows,
                "rejected": window.num_rejected,
                "in_histograms": window.observations.num_sampled,
            },
            "baseline": {"name": baseline.name, "rows": baseline.num_rows},
            "tests": {
                kind: {"number": number, "alpha_of_each": self.alpha_of(kind)}
                for kind, number in self.num_tests.items()
            },
            "notes": list(self.notes),
            "findings": [_plain(finding) for finding in self.findings],
        }


def _plain(finding: Finding) -> dict[str, Any]:
    told: dict[str, Any] = {
        "kind": finding.kind,
        "name": finding.name,
        "moved": finding.moved,
        "validation": finding.before,
        "window": finding.now,
        "shift": finding.shift,
        "p_value": finding.p_value,
    }
    if finding.interval is not None:
        told["difference"] = finding.now - finding.before
        told["interval"] = list(finding.interval)
    return told


def compare(window: Window, baseline: Window, *, alpha: float = 0.01) -> Drift:
    """Return what moved between validation and a window.

    If both are drawn from the same distribution, row by row, the probability that anything is
    found to have moved is at most alpha: alpha is shared equally by the kinds of things that are
    tested (rates, scores, features, rejects), and the share of a kind by its tests (Bonferroni).

    Args:
        window: The window.
        baseline: Validation's rows, of the same version.
        alpha: The rate of false alarms, of all tests of the window together.

    Raises:
        DataError: If versions or labels differ, the baseline has no rows, or alpha is not between
            0 and 1.

    Example:
        >>> from thresher.observations import Observations
        >>> rng = np.random.default_rng(0)
        >>> def rows(shift):
        ...     z = (rng.normal(size=(500, 2)) + shift).astype(np.float32)
        ...     seen = Observations.of(z, z > 1, {})
        ...     return Window(
        ...         name="rows", model="m", version=1, labels=("rain", "fog"), observations=seen
        ...     )
        >>> drift = compare(rows([0, 1]), rows([0, 0]))
        >>> [(finding.kind, finding.name) for finding in drift.moved]
        [('scores', 'fog'), ('rate', 'fog')]
    """
    baseline.check_alike(window)
    if not 0 < alpha < 1:
        raise DataError(f"alpha is {alpha}, expected a number between 0 and 1, such as 0.01")
    if not baseline.num_rows:
        raise DataError(f"{baseline.name} of {baseline.title}: no rows")
    seen, known = window.observations, baseline.observations
    pairs = paired_features(known, seen)
    has_rows = bool(window.num_rows)
    num_tests: dict[Kind, int] = {}
    if has_rows:
        num_tests |= {"rate": len(window.labels), "scores": len(window.labels)}
    if has_rows and pairs:
        num_tests["feature"] = len(pairs)
    num_tests["rejects"] = 1
    found = _Findings(alpha / len(num_tests), len(num_tests))
    if has_rows:
        found.rates(
            "rate",
            window.labels,
            known.positives_L,
            known.num_rows,
            seen.positives_L,
            seen.num_rows,
        )
        found.scores(window.labels, known.scores, seen.scores)
        found.features(pairs, known, seen)
    found.rates(
        "rejects",
        ("",),
        np.array([baseline.num_rejected]),
        baseline.num_read,
        np.array([window.num_rejected]),
        window.num_read,
    )
    ranked = sorted(found, key=lambda finding: (not finding.moved, -abs(finding.shift)))
    return Drift(
        window=window,
        baseline=baseline,
        alpha=alpha,
        findings=tuple(ranked),
        num_tests=num_tests,
        notes=(*window.notes, *_notes(window, baseline, len(pairs))),
    )


class _Findings:
    """Collects findings; all tests of a kind come at once and share alpha."""

    def __init__(self, alpha: float, num_kinds: int) -> None:
        self._alpha, self._num_kinds = alpha, num_kinds
        self._found: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        return iter(self._found)

    def rates(
        self,
        kind: Kind,
        names: tuple[str, ...],
        before_L: npt.NDArray[np.int64],
        num_before: int,
        now_L: npt.NDArray[np.int64],
        num_now: int,
    ) -> None:
        p_L = rate_test(before_L, num_before, now_L, num_now)
        each = self._alpha / len(names)
        lower_L, upper_L = difference_limits(before_L, num_before, now_L, num_now, each)
        rate_b, rate_n = before_L / max(1, num_before), now_L / max(1, num_now)
        intervals = zip(lower_L.tolist(), upper_L.tolist(), strict=True)
        self._add(kind, names, rate_b, rate_n, rate_shift(rate_b, rate_n), p_L, list(intervals))

    def scores(
        self, labels: tuple[str, ...], known: ScoreHistograms, seen: ScoreHistograms
    ) -> None:
        before_LB, now_LB = counts_of(known), counts_of(seen)
        distance_L, p_L = distribution_test(before_LB, now_LB)
        medians = (_medians(before_LB), _medians(now_LB))
        self._add("scores", labels, *medians, normal_shift(distance_L), p_L)

    def features(
        self, pairs: list[tuple[str, int, int]], known: Observations, seen: Observations
    ) -> None:
        """Compare features by their histograms; those that no histogram resolves by their means."""
        if not pairs:
            return
        names = tuple(name for name, _, _ in pairs)
        at_b, at_n = [b for _, b, _ in pairs], [n for _, _, n in pairs]
        distance_F, p_F = distribution_test(
            counts_of(known.features)[at_b], counts_of(seen.features)[at_n]
        )
        mean_b, deviation_b = (values[at_b] for values in moments(known))
        mean_n, deviation_n = (values[at_n] for values in moments(seen))
        by_means = mean_test(
            mean_b,
            deviation_b,
            known.features.num_rows,
            mean_n,
            deviation_n,
            seen.features.num_rows,
        )
        resolved = is_resolved(mean_b, deviation_b, known.features.num_bins)
        spread = np.where(deviation_b > 0, deviation_b, 1.0)
        shift_F = np.where(resolved, normal_shift(distance_F), (mean_n - mean_b) / spread)
        self._add("feature", names, mean_b, mean_n, shift_F, np.where(resolved, p_F, by_means))

    def _add(
        self,
        kind: Kind,
        names: tuple[str, ...],
        before_L: npt.NDArray[np.float64],
        now_L: npt.NDArray[np.float64],
        shift_L: npt.NDArray[np.float64],
        p_L: npt.NDArray[np.float64],
        intervals: list[tuple[float, float]] | None = None,
    ) -> None:
        each = self._alpha / len(names)
        adjusted_L = np.minimum(1.0, p_L * (len(names) * self._num_kinds))
        self._found += [
            Finding(
                kind=kind,
                name=name,
                before=float(before_L[at]),
                now=float(now_L[at]),
                shift=float(shift_L[at]),
                p_value=float(adjusted_L[at]),
                moved=bool(p_L[at] <= each),
                interval=None if intervals is None else intervals[at],
            )
            for at, name in enumerate(names)
        ]


def counts_of(histograms: ScoreHistograms) -> npt.NDArray[np.int64]:
    """Return int64 [L, B]: rows by bin, whatever their targets are."""
    return np.asarray(histograms.counts_LKB.sum(axis=1, dtype=np.int64))


def _medians(counts_LB: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the middle of the bin in which each label's median lies."""
    edges = bin_edges(counts_LB.shape[1]).astype(np.float64)
    highs = np.append(edges[1:], edges[-1])
    lows = np.concatenate([edges[1:2], edges[1:]])
    at_L = (np.cumsum(counts_LB, axis=1) * 2 >= counts_LB.sum(axis=1)[:, None]).argmax(axis=1)
    return np.asarray((lows[at_L] + highs[at_L]) / 2)


def _notes(window: Window, baseline: Window, num_paired: int) -> Iterator[str]:
    known, seen = baseline.observations, window.observations
    if not window.num_rows:
        yield "no row was scored; only the rejects are compared"
        return
    missing = int(np.count_nonzero(known.positives_L == 0))
    if missing:
        yield (
            f"{counted(missing, 'label')} given to no row of validation: what is given now is "
            "found only where it is more often than chance would hide there"
        )
    apart = len(known.feature_names) + len(seen.feature_names) - 2 * num_paired
    if apart:
        yield (f"{counted(apart, 'input feature')} known on one side alone, and not compared")
