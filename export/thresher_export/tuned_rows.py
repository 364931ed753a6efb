"""Whether decisions hold on the very rows that thresholds were chosen on.

A flip inside the parity band is rounding, and allowed where a threshold was set by hand. A tuned
threshold was put where it is because of these rows: if one of them flips, what was validated is
not what would be served, and tuning with more room mends it.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision
from thresher.errors import ParityError
from thresher.evaluation import EvaluationSplit
from thresher.registry import TUNED_ON, ModelVersion
from thresher_export.parity import ParityReport

__all__ = ["check_tuned_rows"]

_FIXED = "fixed="
_MOST_LABELS = 5
_MOST_ROWS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flips:
    """A label's rows that flip."""

    label: str
    threshold: float
    rows: list[int]

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.rows[:_MOST_ROWS]))
        more = f" and {len(self.rows) - _MOST_ROWS} more" if len(self.rows) > _MOST_ROWS else ""
        rows = "row" if len(self.rows) == 1 else "rows"
        return f'"{self.label}" at {self.threshold:.9g} ({rows} {shown}{more})'


def check_tuned_rows(
    version: ModelVersion,
    decision: Decision,
    validation: EvaluationSplit,
    report: ParityReport,
    *,
    is_exact: bool,
) -> ParityReport:
    """Return the report with remarks on the flips that are allowed; refuse those that are not.

    Args:
        version: Whose settings say which thresholds were tuned, and on what.
        decision: What it decides.
        validation: The rows that thresholds are chosen on, unless the version says otherwise.
        report: All comparisons.
        is_exact: Whether network and body both compute in FP32; flips of coarser ones are bounded
            by the tolerances alone.

    Raises:
        ParityError: If a decision of a tuned threshold flips on a row that it was chosen on.
    """
    flipped_NL = report.flipped.get("validation")
    if flipped_NL is None or not flipped_NL.any():
        return report
    settings = version.decision_settings()
    was_seen = TUNED_ON not in version.tags and validation.held_out_logits_NL is None
    known_NL = flipped_NL & ~np.isnan(validation.targets_NL)
    tuned_L = _tuned(decision, settings) if is_exact and was_seen else np.zeros(0, np.bool_)
    refused = _by_label(known_NL & tuned_L, decision) if tuned_L.any() else []
    if refused:
        band = _measured_band(report, {flips.label for flips in refused})
        first = refused[0]
        again = (
            "Choose the thresholds again, with the room that was measured: thresher tune "
            f"{version.uri} --band {band:g}"
        )
        if settings.get("band") == band:
            again = (
                f"They were chosen with --band {band:g} already: the scores of these labels leave "
                "no room anywhere near the best threshold, as those of a network that tells rows "
                "hardly apart. Train it longer or scale its inputs (thresher doctor says more); or "
                f"take another objective: thresher tune {version.uri} --objective OBJECTIVE"
            )
        raise ParityError(
            f"{version.uri}: {sum(len(flips.rows) for flips in refused)} decisions flip on the "
            "validation rows that their thresholds were chosen on, since scores there are closer "
            f"together than rounding: {_listing(refused)}. Nothing was published. {again}; "
            "or keep one where it is, set by hand: "
            f"--set {shlex.quote(f'{first.label}={first.threshold:.9g}')}"
        )
    listed = _by_label(flipped_NL, decision)
    count = sum(len(flips.rows) for flips in listed)
    lines = [f"{count} validation decisions flip inside the band: {_listing(listed)}"]
    if not is_exact and was_seen:
        lines.append(
            "To choose thresholds on the converted model's own scores: "
            f"thresher tune {version.uri} --precision {report.precision}"
        )
    return replace(report, notes=(*report.notes, *lines), remarks=tuple(lines))


def _tuned(decision: Decision, settings: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """Return bool [L]: which labels' thresholds were tuned; none where nothing is recorded."""
    own, objective = settings.get("objectives", {}), str(settings.get("objective", "f1"))
    texts = [str(own.get(label, objective)).replace(" ", "") for label in decision.labels]
    return np.array([bool(settings) and not text.startswith(_FIXED) for text in texts])


def _by_label(flipped_NL: npt.NDArray[np.bool_], decision: Decision) -> list[_Flips]:
    return [
        _Flips(
            label=decision.labels[k],
            threshold=float(decision.thresholds[k]),
            rows=np.flatnonzero(flipped_NL[:, k]).tolist(),
        )
        for k in np.flatnonzero(flipped_NL.any(axis=0)).tolist()
    ]


def _listing(found: list[_Flips]) -> str:
    more = f" and {len(found) - _MOST_LABELS} more labels" if len(found) > _MOST_LABELS else ""
    return ", ".join(map(str, found[:_MOST_LABELS])) + more


def _measured_band(report: ParityReport, labels: set[str]) -> float:
    """Return the widest band that was measured for some labels, rounded up to two digits."""
    width = 2 * max(row.band_half_width for row in report.labels() if row.label in labels)
    step = 10.0 ** (math.floor(math.log10(width)) - 1)
    return float(f"{math.ceil(width / step) * step:.2g}")
