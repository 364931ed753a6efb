"""Do two engines decide alike? Compares two sets of outputs on the same rows, in NumPy alone.

Export compares torch with ONNX Runtime, serving compares what came over the wire with either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher.errors import DataError

__all__ = ["Agreement", "Deviation", "Flip", "Outputs", "Tolerances", "compare"]

_MAX_FLIPS_LISTED = 100


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
class Tolerances:
    """How far two engines may lie apart.

    FP32 sums taken in another order differ by some 1e-6 of their size, and a logit's error reaches
    the probability at a quarter at most (the sigmoid's steepest slope), so what passes the logit
    tolerance in the body of the range and fails the probability tolerance is a wrong head.
    """

    logits_atol: float = 1e-4
    logits_rtol: float = 1e-4
    probabilities_atol: float = 1e-5
    """Also the half-width of the band around a threshold inside which a flip is tolerated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deviation:
    """Where one output differs most between two engines, and how often it differs too much."""

    output: str
    max_abs: float
    num_beyond: int
    num_nonfinite: int
    """Values that are NaN or infinite in one engine and not the same in the other."""
    row: int
    label: str
    reference: float
    got: float

    def problem(self) -> str | None:
        """Return what is wrong as a sentence, or None."""
        if not (self.num_beyond or self.num_nonfinite):
            return None
        return (
            f"{self.output} differ beyond tolerance in {self.num_beyond + self.num_nonfinite} "
            f'values; worst: row {self.row}, label "{self.label}": '
            f"reference {self.reference:.9g}, got {self.got:.9g}"
        )


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
class Agreement:
    """The outcome of one comparison; `problems` is empty where two engines decide alike."""

    num_rows: int
    num_labels: int
    deviations: tuple[Deviation, ...]
    num_flips: int
    num_flips_outside_band: int
    num_inconsistent: int
    """Labels that are not ``probabilities >= thresholds`` of the very same answer, bit for bit."""
    inconsistent_at: str = ""
    flips: tuple[Flip, ...] = field(default=())
    """The flips, those outside the band first, at most 100."""

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
        return found

    @property
    def ok(self) -> bool:
        """Whether the engines agree."""
        return not self.problems()

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values for JSON."""
        return {**dataclasses.asdict(self), "ok": self.ok, "problems": self.problems()}

    def max_abs(self, output: str) -> float | None:
        """Return the largest absolute difference of an output, None where it was not compared."""
        return next((d.max_abs for d in self.deviations if d.output == output), None)


def compare(
    reference: Outputs,
    got: Outputs,
    decision: Decision,
    *,
    tolerances: Tolerances | None = None,
    row_offset: int = 0,
) -> Agreement:
    """Return how far ``got`` agrees with ``reference`` on the same rows.

    Args:
        reference: What is taken as right.
        got: What is judged.
        decision: Names and thresholds; ``got.labels`` must follow from them bit for bit.
        tolerances: How far the outputs may lie apart; FP32's where left out.
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
    names = decision.labels
    deviations = []
    if reference.logits_NL is not None and got.logits_NL is not None:
        deviations.append(
            _deviation(
                "logits",
                reference.logits_NL,
                got.logits_NL,
                names,
                atol=tolerances.logits_atol,
                rtol=tolerances.logits_rtol,
                row_offset=row_offset,
            )
        )
    deviations.append(
        _deviation(
            "probabilities",
            reference.probabilities_NL,
            got.probabilities_NL,
            names,
            atol=tolerances.probabilities_atol,
            rtol=0.0,
            row_offset=row_offset,
        )
    )

    thresholds_L = decision.thresholds
    flipped_NL = reference.labels_NL != got.labels_NL
    near_NL = np.abs(reference.probabilities_NL - thresholds_L) <= tolerances.probabilities_atol
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
        deviations=tuple(deviations),
        num_flips=int(flipped_NL.sum()),
        num_flips_outside_band=int(outside_NL.sum()),
        num_inconsistent=len(wrong),
        inconsistent_at=where,
        flips=flips,
    )


def _deviation(
    output: str,
    reference_NL: FloatArray,
    got_NL: FloatArray,
    names: Sequence[str],
    *,
    atol: float,
    rtol: float,
    row_offset: int,
) -> Deviation:
    """Return the largest difference of one output; NaN and infinity count as such."""
    reference, got = reference_NL.astype(np.float64), got_NL.astype(np.float64)
    finite = np.isfinite(reference) & np.isfinite(got)
    same = (reference == got) | (np.isnan(reference) & np.isnan(got))
    nonfinite = ~finite & ~same
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(got - reference), 0.0)
        beyond = finite & (difference > atol + rtol * np.abs(reference))
    worst = nonfinite if nonfinite.any() else difference
    row, k = np.unravel_index(int(np.argmax(worst)), worst.shape) if worst.size else (0, 0)
    empty = not worst.size
    return Deviation(
        output=output,
        max_abs=float(difference.max()) if difference.size else 0.0,
        num_beyond=int(beyond.sum()),
        num_nonfinite=int(nonfinite.sum()),
        row=int(row) + row_offset,
        label=names[int(k)],
        reference=0.0 if empty else float(reference[row, k]),
        got=0.0 if empty else float(got[row, k]),
    )
