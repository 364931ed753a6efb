"""What the explorer's page shows, binned so that a thousand labels fit into a few megabytes.

A bin is ``[edge, next edge)`` and the last one has no upper end, so the counts at a threshold that
is an edge are sums of bins and exact. The page offers edges only. Every label has the edges of two
drawing grids (even in the probability, even in its logit), its validated, its shared threshold and
0.5, and further ones where its positives are: there its precision-recall curve bends.
"""

from __future__ import annotations

import html
import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError
from thresher_training.decisions.objectives import parse_objective
from thresher_training.decisions.report import LabelReport, TunedDecision

__all__ = ["explorer_data", "write_explorer"]

_BINS_OF_ALL_LABELS = 96_000
_MOST_BINS, _FEWEST_BINS = 180, 48


def write_explorer(
    path: Path,
    *,
    title: str,
    probabilities_NL: FloatArray,
    targets_NL: FloatArray,
    tuned: TunedDecision,
) -> None:
    """Write the explorer as one HTML file that asks for nothing else.

    Args:
        path: The file.
        title: What the page is about, such as the model and the rows it was tuned on.
        probabilities_NL: float32 [N, L] in [0, 1], calibrated; NaN is never a yes.
        targets_NL: float32 [N, L] of 0, 1 or NaN; unknown targets are left out of all counts.
        tuned: What tuning found on these rows.

    Raises:
        DataError: If the arrays do not fit each other or the decision, or hold other values.
    """
    content = explorer_data(
        title=title, probabilities_NL=probabilities_NL, targets_NL=targets_NL, tuned=tuned
    )
    # "<" could end the script element early; ASCII because a name may be half a surrogate pair
    data = json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    folder = files("thresher_training.explorer")
    parts = {
        "TITLE": html.escape(title.encode("utf-8", "replace").decode()),
        "STYLE": (folder / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": (folder / "page.js").read_text(encoding="utf-8"),
        "DATA": data,
    }
    page = (folder / "page.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], page)
    path.write_text(page, encoding="utf-8")


def explorer_data(
    *,
    title: str,
    probabilities_NL: FloatArray,
    targets_NL: FloatArray,
    tuned: TunedDecision,
) -> dict[str, Any]:
    """Return what the page holds, as plain values; arguments as of `write_explorer`.

    Raises:
        DataError: If the arrays do not fit each other or the decision, or hold other values.
    """
    probabilities_NL = np.asarray(probabilities_NL, dtype=np.float32)
    targets_NL = np.asarray(targets_NL)
    _check(probabilities_NL, targets_NL, tuned)
    num_bins = _BINS_OF_ALL_LABELS // tuned.decision.num_labels
    num_bins = min(_MOST_BINS, max(_FEWEST_BINS, num_bins))
    linear, logit = _grids(num_bins)
    base = np.union1d(linear, logit)
    columns = zip(probabilities_NL.T, targets_NL.T, strict=True)
    return {
        "title": title,
        "rows": len(targets_NL),
        "notes": list(tuned.notes),
        "decision": tuned.decision.to_dict(),
        "shared": [_short(x) for x in tuned.shared.thresholds],
        "linear": [_short(x) for x in linear],
        "logit": [_short(x) for x in logit],
        "reports": [_report(row) for row in tuned.report],
        "bins": [
            _bins(
                p_N,
                t_N,
                base=base,
                kept=(tuned.decision.thresholds[at], tuned.shared.thresholds[at]),
                num_bins=num_bins,
            )
            for at, (p_N, t_N) in enumerate(columns)
        ],
    }


def _check(probabilities_NL: FloatArray, targets_NL: FloatArray, tuned: TunedDecision) -> None:
    expected = (len(targets_NL), tuned.decision.num_labels)
    for what, array in (("probabilities", probabilities_NL), ("targets", targets_NL)):
        if array.shape != expected:
            raise DataError(
                f"{what} have shape {list(array.shape)}, expected {list(expected)} "
                f"for {expected[1]} labels"
            )
    is_score_NL = np.isnan(probabilities_NL) | ((probabilities_NL >= 0) & (probabilities_NL <= 1))
    is_target_NL = np.isnan(targets_NL) | (targets_NL == 0) | (targets_NL == 1)
    wanted = "a number in [0, 1] (logits go through Decision.probabilities)"
    legal = {
        "probability": (probabilities_NL, is_score_NL, wanted),
        "target": (targets_NL, is_target_NL, "0, 1 or NaN"),
    }
    for what, (array, is_legal_NL, expected_value) in legal.items():
        if not is_legal_NL.all():
            row, column = np.argwhere(~is_legal_NL)[0]
            raise DataError(
                f'{what} of row {row}, label "{tuned.decision.labels[column]}" is '
                f"{array[row, column]}, expected {expected_value}"
            )


def _grids(num_bins: int) -> tuple[FloatArray, FloatArray]:
    """Return the edges to draw at: even in the probability, and even in its logit."""
    fine = num_bins >= 150
    linear = np.linspace(0, 1, 51 if fine else 21, dtype=np.float32).round(3)
    steps = np.arange(-9, 9.1, 0.5 if fine else 1)
    logit = [float(f"{1 / (1 + np.exp(-z)):.2g}") for z in steps[steps < 0]]
    mirrored = [float(f"{1 - x:.7g}") for x in reversed(logit)]
    return linear, np.array([0, *logit, 0.5, *mirrored, 1], dtype=np.float32)


def _bins(
    probabilities_N: FloatArray,
    targets_N: npt.NDArray[Any],
    *,
    base: FloatArray,
    kept: tuple[np.float32, np.float32],
    num_bins: int,
) -> dict[str, Any]:
    """Return a label's own edges and its counts between all its edges."""
    unscored_N = np.isnan(probabilities_N)
    positives = np.sort(probabilities_N[(targets_N == 1) & ~unscored_N])
    negatives = np.sort(probabilities_N[(targets_N == 0) & ~unscored_N])
    fixed = np.union1d(base, np.array(kept, dtype=np.float32))
    edges = np.union1d(fixed, _edges_at_scores(positives, negatives, num_bins - len(fixed)))
    counts = [len(x) - np.searchsorted(x, edges, side="left") for x in (positives, negatives)]
    in_bins = [(-np.diff(count, append=0)).tolist() for count in counts]
    return {
        "edges": [_short(x) for x in np.setdiff1d(edges, base)],
        "positives": in_bins[0],
        "negatives": in_bins[1],
        # known, yet never a yes: the probability is NaN
        "unscored": [int((unscored_N & (targets_N == t)).sum()) for t in (1, 0)],
    }


def _edges_at_scores(positives: FloatArray, negatives: FloatArray, room: int) -> FloatArray:
    """Return up to ``room`` thresholds just below scores: positives first, then hard negatives."""
    if not room or not len(positives):
        return np.empty(0, dtype=np.float32)
    hard = negatives[negatives >= positives[len(positives) // 20]]
    chosen = _quantiles(positives, max(room - len(hard), room * 2 // 3))
    chosen = np.union1d(chosen, _quantiles(hard, room - len(chosen)))
    scores = np.unique(np.concatenate([positives, negatives]))
    at = np.searchsorted(scores, chosen)
    below = np.where(at > 0, scores[np.maximum(at - 1, 0)], np.float32(0))
    return _round_between(below, chosen)


def _quantiles(sorted_scores: FloatArray, count: int) -> FloatArray:
    """Return at most ``count`` distinct scores, spread evenly by rank."""
    distinct = np.unique(sorted_scores)
    if len(distinct) <= count:
        return distinct
    ranks = np.linspace(0, len(sorted_scores) - 1, count).round().astype(int)
    return np.unique(sorted_scores[ranks])


def _round_between(below: FloatArray, upto: FloatArray) -> FloatArray:
    """Return numbers in ``(below, upto]`` near the middle, with as few decimals as can be."""
    middle = (below.astype(np.float64) + upto) / 2
    found, is_open = upto.copy(), np.ones(len(upto), dtype=bool)
    for decimals in range(2, 10):
        tried = middle.round(decimals).astype(np.float32)
        fits = is_open & (tried > below) & (tried < upto)
        found[fits] = tried[fits]
        is_open &= ~fits
    return found


def _report(row: LabelReport) -> dict[str, Any]:
    return {
        "objective": row.objective,
        "metric": parse_objective(row.objective).metric_name,
        "origin": row.origin,
        "reason": row.reason,
        "gap": _finite(row.gap),
        "value": _finite(row.value),
        "interval": _finite_pair(row.value_interval),
        "thresholdInterval": _finite_pair(row.threshold_interval),
        "optimism": _finite(row.optimism),
        "warnings": list(row.warnings),
    }


def _finite(value: float | None) -> float | None:
    """Return 5 significant digits, or None for what JSON has no number for."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")


def _finite_pair(pair: tuple[float, float] | None) -> list[float] | None:
    low, high = (None, None) if pair is None else map(_finite, pair)
    return None if low is None or high is None else [low, high]


def _short(value: np.float32) -> float:
    """Return the shortest decimal that reads back as the very same float32."""
    return float(str(value))
