"""Do two engines decide alike? Compares two sets of outputs on the same rows, in NumPy alone.

Export compares torch with ONNX Runtime, serving compares what came over the wire with either.
Values are judged by the tolerances of a precision; decisions by count: none may flip outside a band
around its threshold, which is derived from the error that was measured.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher.deviation import Deviation, deviation
from thresher.errors import DataError
from thresher.tolerances import (
    Tolerances,
    band_half_widths,
    probability_rounding,
    tolerances_for,
)

__all__ = [
    "Agreement",
    "ByLabel",
    "Deviation",
    "F1Change",
    "Flip",
    "Outputs",
    "Tolerances",
    "compare",
    "tolerances_for",
]

_MAX_FLIPS_LISTED = 100
_MAX_LABELS_NAMED = 6


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outputs:
    """What an engine gave for N rows.

    Args:
        probabilities_NL: float32 [N, L].
        labels_NL: bool [N, L].
        logits_NL: float32 [N, L], where the engine gives them.
    """

    probabilities_NL: FloatArray
    labels_NL: npt.NDArray[np.bool_]
    logits_NL: FloatArray | None = None

    @classmethod
    def of_logits(cls, logits_NL: FloatArray, decision: Decision) -> Outputs:
        """Return the reference: the decision applied to logits in NumPy."""
        probabilities_NL, labels_NL = decision.apply(logits_NL)
        return cls(probabilities_NL=probabilities_NL, labels_NL=labels_NL, logits_NL=logits_NL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One yes/no that differs between two engines."""

    row: int
    label: str
    reference: float
    """The reference's probability."""
    got: float
    threshold: float
    in_band: bool
    """Whether the reference's probability lies so near the threshold that rounding explains it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class F1Change:
    """A label whose F1 is another one by the other engine's decisions."""

    label: str
    reference: float
    got: float
    limit: float
    """How far it may move."""

    @property
    def is_beyond(self) -> bool:
        """Whether it moves further than it may."""
        return abs(self.got - self.reference) > self.limit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ByLabel:
    """Figures by label, each [L]."""

    band_half_width: npt.NDArray[np.float64]
    logit_error: npt.NDArray[np.float64]
    """The largest absolute difference, 0 where an engine gives no logits."""
    probability_error: npt.NDArray[np.float64]
    num_flips: npt.NDArray[np.int64]
    margin: npt.NDArray[np.float64]
    """The smallest distance of a reference probability from the threshold, 1 without rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The outcome of one comparison; `problems` is empty where two engines decide alike."""

    num_rows: int
    num_labels: int
    deviations: tuple[Deviation, ...]
    num_flips: int
    num_flips_outside_band: int
    num_inconsistent: int
    """Labels that are not ``probabilities >= thresholds`` of the very same answer, bit for bit."""
    band_half_width: float
    """The widest label's half of the band around its threshold."""
    by_label: ByLabel
    inconsistent_at: str = ""
    flips: tuple[Flip, ...] = field(default=())
    """The flips, those outside the band first, at most 100."""
    f1_changes: tuple[F1Change, ...] = field(default=())
    """Labels whose F1 moved, where targets are known."""

    def problems(self) -> list[str]:
        """Return what is wrong, a sentence each; empty where the engines agree."""
        found = [text for deviation in self.deviations if (text := deviation.problem())]
        if self.num_flips_outside_band:
            first = self.flips[0]
            found.append(
                f"{self.num_flips_outside_band} decisions flip; first: row {first.row}, label "
                f'"{first.label}": reference {first.reference:.9g}, got {first.got:.9g}, '
                f"threshold {first.threshold:.9g}"
            )
        if self.num_inconsistent:
            found.append(
                f"{self.num_inconsistent} labels are not (probability >= threshold) of their own "
                f"answer; first: {self.inconsistent_at}"
            )
        beyond = [change for change in self.f1_changes if change.is_beyond]
        beyond.sort(key=lambda change: -abs(change.got - change.reference))
        if beyond:
            moved = beyond[0]
            others = ", ".join(f'"{change.label}"' for change in beyond[1:_MAX_LABELS_NAMED])
            more = f"; and of {len(beyond) - 1} more ({others})" if others else ""
            found.append(
                f'F1 of label "{moved.label}" moves from {moved.reference:.4f} to '
                f"{moved.got:.4f}, more than {moved.limit:.4f}{more}"
            )
        return found

    @property
    def ok(self) -> bool:
        """Whether the engines agree."""
        return not self.problems()

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON, figures by label left out."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del content["by_label"]
        for name in ("deviations", "flips", "f1_changes"):
            content[name] = [dataclasses.asdict(each) for each in content[name]]
        return {**content, "ok": self.ok, "problems": self.problems()}

    def max_abs(self, output: str) -> float | None:
        """Return the largest absolute difference of an output, None where it was not compared."""
        return next((d.max_abs for d in self.deviations if d.output == output), None)


def compare(
    reference: Outputs,
    got: Outputs,
    decision: Decision,
    *,
    tolerances: Tolerances | None = None,
    targets_NL: FloatArray | None = None,
    rounding_NL: npt.NDArray[np.float64] | None = None,
    row_offset: int = 0,
) -> Agreement:
    """Return how far ``got`` agrees with ``reference`` on the same rows.

    Args:
        reference: What is taken as right.
        got: What is judged.
        decision: Names and thresholds; ``got.labels`` must follow from them bit for bit.
        tolerances: How far the outputs may lie apart; FP32's where left out.
        targets_NL: float32 [N, L] of 0, 1 and NaN (unknown): each label's F1 is compared too.
        rounding_NL: float64 [N, L], how far rounding alone may move each logit: where large
            terms cancel, that is more than the logit's own size tells. It is added to the
            tolerance of the logit, and what it does to the probability to that of the
            probability and to the band.
        row_offset: Added to row numbers in reports.

    Raises:
        DataError: If the two do not have the same shape, or not one column per label.
    """
    tolerances = tolerances or Tolerances()
    shape = reference.probabilities_NL.shape
    if got.probabilities_NL.shape != shape or shape[1:] != (decision.num_labels,):
        raise DataError(
            f"outputs of shape {list(got.probabilities_NL.shape)} cannot be compared with "
            f"{list(shape)}, expected [N, {decision.num_labels}]"
        )
    names, thresholds_L = decision.labels, decision.thresholds
    in_probability_NL = None
    if rounding_NL is not None and reference.logits_NL is not None:
        in_probability_NL = probability_rounding(reference.logits_NL, rounding_NL, decision)
    judged = [
        (
            "probabilities",
            (reference.probabilities_NL, got.probabilities_NL),
            (tolerances.probabilities_atol, 0.0, in_probability_NL),
        )
    ]
    if reference.logits_NL is not None and got.logits_NL is not None:
        pair = (reference.logits_NL, got.logits_NL)
        limits = (tolerances.logits_atol, tolerances.logits_rtol, rounding_NL)
        judged.insert(0, ("logits", pair, limits))
    deviations = tuple(
        deviation(
            output,
            *arrays,
            names,
            atol=atol,
            rtol=rtol,
            rounding_NL=added_NL,
            row_offset=row_offset,
        )
        for output, arrays, (atol, rtol, added_NL) in judged
    )
    has_logits = len(judged) == 2
    band_L = band_half_widths(*judged[0][1], decision, tolerances=tolerances, of_logits=has_logits)
    margin_NL = np.abs(reference.probabilities_NL.astype(np.float64) - thresholds_L)
    flipped_NL = reference.labels_NL != got.labels_NL
    near_NL = margin_NL <= (band_L if in_probability_NL is None else band_L + in_probability_NL)
    outside_NL = flipped_NL & ~near_NL
    at = np.argwhere(outside_NL).tolist() + np.argwhere(flipped_NL & near_NL).tolist()
    flips = tuple(
        Flip(
            row=row + row_offset,
            label=names[k],
            reference=float(reference.probabilities_NL[row, k]),
            got=float(got.probabilities_NL[row, k]),
            threshold=float(thresholds_L[k]),
            in_band=bool(near_NL[row, k]),
        )
        for row, k in at[:_MAX_FLIPS_LISTED]
    )
    wrong = np.argwhere(got.labels_NL != decision.decide(got.probabilities_NL))
    where = ""
    if len(wrong):
        row, k = wrong[0]
        where = (
            f'row {row + row_offset}, label "{names[k]}": probability '
            f"{got.probabilities_NL[row, k]:.9g}, threshold {thresholds_L[k]:.9g}, "
            f"answered {bool(got.labels_NL[row, k])}"
        )
    return Agreement(
        num_rows=shape[0],
        num_labels=shape[1],
        deviations=deviations,
        num_flips=int(flipped_NL.sum()),
        num_flips_outside_band=int(outside_NL.sum()),
        num_inconsistent=len(wrong),
        inconsistent_at=where,
        band_half_width=float(band_L.max()),
        by_label=ByLabel(
            band_half_width=band_L,
            logit_error=_largest(*judged[0][1]) if has_logits else np.zeros(shape[1]),
            probability_error=_largest(reference.probabilities_NL, got.probabilities_NL),
            num_flips=flipped_NL.sum(axis=0),
            margin=np.fmin.reduce(margin_NL, axis=0, initial=1.0),
        ),
        flips=flips,
        f1_changes=()
        if targets_NL is None
        else _f1_changes(reference, got, decision, targets_NL, tolerances),
    )


def _largest(reference_NL: FloatArray, got_NL: FloatArray) -> npt.NDArray[np.float64]:
    """Return float64 [L]: the largest difference of values that are finite in both."""
    with np.errstate(invalid="ignore"):
        difference_NL = np.abs(got_NL.astype(np.float64) - reference_NL)
    finite_NL = np.isfinite(difference_NL)
    return np.asarray(np.where(finite_NL, difference_NL, 0.0).max(axis=0, initial=0.0))


def _f1_changes(
    reference: Outputs,
    got: Outputs,
    decision: Decision,
    targets_NL: FloatArray,
    tolerances: Tolerances,
) -> tuple[F1Change, ...]:
    """Return the labels whose F1 moved.

    F1 is 2 TP / (predicted + support); one row's flip moves it by at most 2 / (predicted +
    support), and a rare label must be allowed a row or a few.
    """
    known_NL, true_NL = ~np.isnan(targets_NL), targets_NL == 1

    def parts(labels_NL: npt.NDArray[np.bool_]) -> tuple[Any, Any]:
        yes_NL = labels_NL & known_NL
        total_L = yes_NL.sum(axis=0) + true_NL.sum(axis=0)
        return 2 * (yes_NL & true_NL).sum(axis=0) / np.maximum(total_L, 1), total_L

    before_L, total_L = parts(reference.labels_NL)
    after_L, _ = parts(got.labels_NL)
    limit_L = np.maximum(tolerances.f1_change, 2 * tolerances.f1_rows / np.maximum(total_L, 1))
    return tuple(
        F1Change(
            label=decision.labels[k],
            reference=float(before_L[k]),
            got=float(after_L[k]),
            limit=float(limit_L[k]),
        )
        for k in np.flatnonzero(before_L != after_L)
    )
