"""What changes between two versions, label by label, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError
from thresher.registry import ModelVersion

__all__ = ["LabelDifference", "diff_versions"]

_NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDifference:
    """One label under two versions."""

    label: str
    thresholds: tuple[float, float]
    f1: tuple[float, float]
    change: float
    """F1 of the second less that of the first."""

    interval: tuple[float, float]
    """95 % bootstrap interval of the change, over rows."""

    to_yes: int
    """Rows where the first says no and the second yes."""

    to_no: int
    """Rows where the first says yes and the second no."""


def diff_versions(
    first: ModelVersion, second: ModelVersion, *, split: str = "test", seed: int = 0
) -> list[LabelDifference]:
    """Return what changes between two versions, for each label of both.

    Args:
        first: One version.
        second: Another, with the same labels and the same rows.
        split: ``"test"`` or ``"validation"``.
        seed: Of the bootstrap.

    Raises:
        DataError: If labels or rows differ, so that there is nothing to compare row by row.
    """
    decisions = first.decision(), second.decision()
    rows = first.evaluation(split), second.evaluation(split)
    if decisions[0].labels != decisions[1].labels:
        gone = set(decisions[0].labels) ^ set(decisions[1].labels)
        raise DataError(
            f"{first.uri} and {second.uri} have other labels or another order of them "
            f"(in one only: {', '.join(sorted(gone)[:5]) or 'none'})"
        )
    targets_NL = rows[0].targets_NL
    if not np.array_equal(targets_NL, rows[1].targets_NL, equal_nan=True):
        raise DataError(
            f"{first.uri} and {second.uri} were not evaluated on the same {split} rows, so flips "
            "cannot be counted; train both on the same data"
        )
    before_NL, after_NL = (
        decision.apply(part.logits_NL)[1] for decision, part in zip(decisions, rows, strict=True)
    )
    rng = np.random.default_rng(seed)
    return [
        _label_difference(
            label,
            (float(decisions[0].thresholds[k]), float(decisions[1].thresholds[k])),
            targets_NL[:, k],
            before_NL[:, k],
            after_NL[:, k],
            rng,
        )
        for k, label in enumerate(decisions[0].labels)
    ]


def _label_difference(
    label: str,
    thresholds: tuple[float, float],
    targets_N: npt.NDArray[np.float32],
    before_N: npt.NDArray[np.bool_],
    after_N: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> LabelDifference:
    known_N = ~np.isnan(targets_N)
    # a row is one of eight kinds: target, first's answer, second's answer
    kind_N = 4 * (targets_N[known_N] == 1) + 2 * before_N[known_N] + after_N[known_N]
    counts = np.bincount(kind_N.astype(np.int64), minlength=8)
    f1 = _f1(counts)
    total = int(counts.sum())
    low = high = 0.0
    if total:
        drawn = rng.multinomial(total, counts / total, size=_NUM_RESAMPLES)
        changes = _f1(drawn)[1] - _f1(drawn)[0]
        low, high = (float(x) for x in np.quantile(changes, (0.025, 0.975)))
    return LabelDifference(
        label=label,
        thresholds=thresholds,
        f1=(float(f1[0]), float(f1[1])),
        change=float(f1[1] - f1[0]),
        interval=(low, high),
        to_yes=int((~before_N & after_N).sum()),
        to_no=int((before_N & ~after_N).sum()),
    )


def _f1(counts: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return both versions' F1 from counts [..., 8] of the kinds of rows; 0 where there is none."""
    positives = counts[..., 4:].sum(axis=-1)
    scores = []
    for says_yes in ((2, 3, 6, 7), (1, 3, 5, 7)):
        yes = counts[..., says_yes].sum(axis=-1)
        hits = counts[..., [k for k in says_yes if k >= 4]].sum(axis=-1)
        scores.append(2 * hits / np.maximum(yes + positives, 1))
    return scores[0], scores[1]
