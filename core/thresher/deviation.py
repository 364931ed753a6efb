"""How far one output of two engines lies apart: absolute, relative, and in float32 steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray

__all__ = ["Deviation", "deviation", "ulp_distance"]


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
    max_ulp: int = 0
    """The largest distance in float32 steps, of values that are finite in both."""
    median_ulp: float = 0.0

    def problem(self) -> str | None:
        """Return what is wrong as a sentence, or None."""
        if not (self.num_beyond or self.num_nonfinite):
            return None
        return (
            f"{self.output} differ beyond tolerance in {self.num_beyond + self.num_nonfinite} "
            f'values; worst: row {self.row}, label "{self.label}": '
            f"reference {self.reference:.9g}, got {self.got:.9g}"
        )


def ulp_distance(a: FloatArray, b: FloatArray) -> npt.NDArray[np.int64]:
    """Return how many float32 values lie between ``a`` and ``b``, plus one where they differ.

    Args:
        a: float32, any shape, not NaN.
        b: The same.

    Example:
        >>> one = np.float32(1)
        >>> int(ulp_distance(one, np.nextafter(one, np.float32(2))))
        1
        >>> int(ulp_distance(np.float32(-0.0), np.float32(0.0)))
        0
    """

    def place(x: FloatArray) -> npt.NDArray[np.int64]:
        bits = np.asarray(x, dtype=np.float32).view(np.int32).astype(np.int64)
        return np.asarray(np.where(bits < 0, -(bits & 0x7FFFFFFF), bits))

    return np.asarray(np.abs(place(a) - place(b)))


def deviation(
    output: str,
    reference_NL: FloatArray,
    got_NL: FloatArray,
    names: Sequence[str],
    *,
    atol: float,
    rtol: float,
    rounding_NL: npt.NDArray[np.float64] | None = None,
    row_offset: int = 0,
) -> Deviation:
    """Return the largest difference of one output; NaN and infinity count as such.

    Args:
        output: Its name, for messages.
        reference_NL: float32 [N, L].
        got_NL: float32 [N, L].
        names: The L labels.
        atol: Absolute tolerance.
        rtol: Tolerance relative to the reference.
        rounding_NL: float64 [N, L], added to the tolerance, value by value.
        row_offset: Added to the row number.
    """
    reference, got = reference_NL.astype(np.float64), got_NL.astype(np.float64)
    finite = np.isfinite(reference) & np.isfinite(got)
    same = (reference == got) | (np.isnan(reference) & np.isnan(got))
    nonfinite = ~finite & ~same
    added = 0.0 if rounding_NL is None else rounding_NL
    with np.errstate(invalid="ignore"):
        difference = np.where(finite, np.abs(got - reference), 0.0)
        beyond = finite & (difference > atol + rtol * np.abs(reference) + added)
    if nonfinite.any():
        worst = nonfinite.astype(np.float64)
    else:
        worst = np.where(beyond, difference, 0.0) if beyond.any() else difference
    row, k = np.unravel_index(int(np.argmax(worst)), worst.shape) if worst.size else (0, 0)
    empty = not worst.size
    steps = ulp_distance(reference_NL[finite], got_NL[finite])
    return Deviation(
        output=output,
        max_abs=float(difference.max()) if difference.size else 0.0,
        num_beyond=int(beyond.sum()),
        num_nonfinite=int(nonfinite.sum()),
        row=int(row) + row_offset,
        label=names[int(k)],
        reference=0.0 if empty else float(reference[row, k]),
        got=0.0 if empty else float(got[row, k]),
        max_ulp=int(steps.max()) if steps.size else 0,
        median_ulp=float(np.median(steps)) if steps.size else 0.0,
    )
