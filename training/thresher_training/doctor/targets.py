"""Checks of the targets alone: what kind of task they make, and what can be learned from them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher_training.data import Split
from thresher_training.doctor.diagnosis import Finding, Level, listed
from thresher_training.prepare import Prepared

__all__ = ["check_targets", "is_single_label"]

_WITHOUT_POSITIVE = 0.02
"""Expected share of batches with no positive at all, from which on it is told."""

_ONE_SIDED = {
    "train": (
        "the network can only learn to say the same everywhere",
        (
            "Get examples of them, or leave these labels out. Look at the split first: a "
            "stratified one keeps rare labels in every part."
        ),
    ),
    "validation": (
        "no threshold can be chosen for them",
        "Stratify the split; until then they take the threshold that all labels share.",
    ),
    "test": (
        "their test figures say nothing",
        "Stratify the split, or read the averages without them.",
    ),
}

_SHIFT_SIGMAS = 6.0
_SHIFT_ODDS = 4.0


def check_targets(prepared: Prepared) -> Iterator[Finding]:
    """Yield what the targets of all splits show."""
    data = prepared.data
    for name, split in data.splits.items():
        yield from _one_sided(name, split, data.labels)
    yield from _shifted(prepared)
    yield from _empty_batches(prepared)


def is_single_label(targets_NL: FloatArray) -> bool:
    """Return whether every row adds up to one label: one-hot, or a distribution over labels.

    Args:
        targets_NL: float32 [N, L]; rows with unknown targets tell nothing.

    Example:
        >>> is_single_label(np.float32([[0, 1], [1, 0]]))
        True
        >>> is_single_label(np.float32([[0, 1], [1, 1]]))
        False
    """
    sums_N = targets_NL.sum(axis=1)
    known_N = np.isfinite(sums_N)
    if targets_NL.shape[1] < 2 or known_N.sum() < 2:
        return False
    return bool((np.abs(sums_N[known_N] - 1) < 1e-3).all())


def _one_sided(name: str, split: Split, labels: tuple[str, ...]) -> Iterator[Finding]:
    """Yield labels that are never, or always, on in a split."""
    for code, word, value in (("no-positives", "positives", 0), ("no-negatives", "negatives", 1)):
        targets = split.targets_NL
        has_any_L = np.any(np.isfinite(targets) & (targets != value), axis=0)
        lacking = [label for label, has in zip(labels, has_any_L.tolist(), strict=True) if not has]
        if not lacking:
            continue
        level: Level = "note" if name == "test" else "warning"
        if name == "train" and len(lacking) == len(labels):
            level = "error"
        meaning, fix = _ONE_SIDED[name]
        yield Finding(
            level=level,
            code=code,
            what=f"Labels have no {word} in the {name} split: {meaning}.",
            evidence=f"{len(lacking)} of {len(labels)} labels: {listed(lacking)}.",
            fix=fix,
        )


def _shifted(prepared: Prepared) -> Iterator[Finding]:
    """Yield splits in which labels are far more or less frequent than in train."""
    data = prepared.data
    positives_L, known_L = _counts(data.splits["train"].targets_NL)
    for name in ("validation", "test"):
        other_L, other_known_L = _counts(data.splits[name].targets_NL)
        shifted = np.flatnonzero(_is_shifted(positives_L, known_L, other_L, other_known_L))
        if not len(shifted):
            continue
        before, after = positives_L / np.maximum(known_L, 1), other_L / np.maximum(other_known_L, 1)
        # the same frequencies at other labels: columns in another order, not another world
        order = shifted[np.argsort(before[shifted])], shifted[np.argsort(after[shifted])]
        matched = (
            (positives_L[order[0]], known_L[order[0]]),
            (other_L[order[1]], other_known_L[order[1]]),
        )
        reordered = len(shifted) > 1 and not _is_shifted(*matched[0], *matched[1]).any()
        shown = [
            f'"{data.labels[k]}" {before[k]:.1%} -> {after[k]:.1%}'
            for k in sorted(shifted, key=lambda k: -abs(after[k] - before[k]))[:4]
        ]
        yield Finding(
            level="warning",
            code="label-order" if reordered else "label-shift",
            what=(
                f"The {name} split looks as if its target columns were in another order than "
                "train's."
                if reordered
                else f"Labels are far more or less frequent in the {name} split than in train."
            ),
            evidence=f"{len(shifted)} of {data.num_labels} labels, "
            f"train -> {name}: {', '.join(shown)}.",
            fix=(
                "Build the targets of all splits from one list of label names, in one order."
                if reordered
                else "Find out why (another time, place or labelling?); where there is no reason, "
                "shuffle and stratify the split: thresholds chosen here hold only for alike data."
            ),
        )


def _counts(targets_NL: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return positives and known targets per label."""
    return np.nansum(targets_NL, axis=0, dtype=np.float64), np.isfinite(targets_NL).sum(0) * 1.0


def _is_shifted(
    positives_L: npt.NDArray[np.float64],
    known_L: npt.NDArray[np.float64],
    other_L: npt.NDArray[np.float64],
    other_known_L: npt.NDArray[np.float64],
) -> npt.NDArray[np.bool_]:
    """Return where two frequencies differ beyond chance, and by a factor that matters.

    Source: the two-proportion z-test, pooled.
    """
    n, m = np.maximum(known_L, 1), np.maximum(other_known_L, 1)
    pooled = (positives_L + other_L) / (n + m)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / n + 1 / m), 1e-12))
    sigmas = np.abs(positives_L / n - other_L / m) / spread
    odds = (positives_L + 0.5) / (n - positives_L + 0.5)
    other_odds = (other_L + 0.5) / (m - other_L + 0.5)
    factor = np.exp(np.abs(np.log(odds / other_odds)))
    found: npt.NDArray[np.bool_] = (sigmas > _SHIFT_SIGMAS) & (factor > _SHIFT_ODDS)
    return found


def _empty_batches(prepared: Prepared) -> Iterator[Finding]:
    """Yield how many of the batches will hold no positive at all."""
    config = prepared.recipe.optimization
    if config.sampler == "label_aware":
        return
    targets = prepared.data.splits["train"].targets_NL
    positive = int((targets > 0).any(axis=1).sum())
    if positive == 0:
        return  # told as labels without positives
    size = min(config.batch_size * config.accumulate, len(targets))
    share = _share_without(len(targets), positive, size)
    if share < _WITHOUT_POSITIVE:
        return
    yield Finding(
        level="warning",
        code="empty-batches",
        what="Many batches hold no positive of any label: they only teach the network to say no.",
        evidence=f"{positive:,} of {len(targets):,} train rows have a positive; of batches of "
        f"{size} rows, {share:.0%} are expected to have none.",
        fix="A larger optimization.batch_size (or accumulate), "
        'or optimization.sampler = "label_aware".',
    )


def _share_without(num_rows: int, num_positive: int, size: int) -> float:
    """Return the chance that ``size`` rows drawn without replacement are all negative.

    Source: the hypergeometric distribution at 0.
    """
    negative = num_rows - num_positive
    if size > negative:
        return 0.0

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    return math.exp(log_choose(negative, size) - log_choose(num_rows, size))
