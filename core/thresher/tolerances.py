"""How far two engines may lie apart, and how near a threshold rounding may flip a decision.

The tolerances are fixed before anything is measured, one set per precision of the body. The band
around a threshold is measured: it is what the error of the logits, as found on these very rows,
can do to a probability that lies at the threshold, and never more than the tolerance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher.errors import ConfigError, unknown_name

__all__ = [
    "Tolerances",
    "band_half_widths",
    "probability_rounding",
    "tolerances_for",
    "widest",
]

_MARGIN = 2.0
"""The band is this many times what the measured error explains: the next row's may be larger."""

_HEAD_ROUNDING = 2.0**-21
"""What two float32 sigmoids may differ by, in probability (4.8e-7).

Measured over [-30, 30] against NumPy: ONNX Runtime 1.31 on a CPU 1.8e-7, torch 2.13 6e-8.
"""

_NEAR = 4.0
"""Logits this near to the threshold's count for the band: an error that is larger fails anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """How far two engines may lie apart; the defaults are those of an FP32 body.

    FP32 sums taken in another order differ by some 1e-6 of their size, and a logit's error reaches
    the probability at a quarter at most (the sigmoid's steepest slope), so what passes the logit
    tolerance in the body of the range and fails the probability tolerance is a wrong head.
    """

    logits_atol: float = 1e-4
    logits_rtol: float = 1e-4
    probabilities_atol: float = 1e-5
    """Also the most that the band's half-width around a threshold can be."""
    f1_change: float = 1e-3
    """How far a label's F1 may move."""
    f1_rows: int = 1
    """Or as far as so many rows can move it, where that is further (a rare label)."""


_PRECISIONS: Mapping[str, Tolerances] = {
    "fp32": Tolerances(),
    # A product's factors keep 11 significant bits: each is off by up to 2**-11 = 5e-4 of itself.
    # Sums stay FP32, so errors add up over layers as noise does; a sixth of FP16's.
    "tf32": Tolerances(logits_atol=5e-3, logits_rtol=5e-3, probabilities_atol=2e-3, f1_change=5e-3),
    # 11 significant bits in weights, activations and sums: 5e-4 each time, over some tens of
    # layers. A logit tolerance of 0.02 reaches a probability as 0.02 / 4.
    "fp16": Tolerances(logits_atol=2e-2, logits_rtol=1e-2, probabilities_atol=5e-3, f1_change=1e-2),
    # 8 significant bits, 3 fewer than FP16: torch's own logits are that much coarser.
    "bf16": Tolerances(logits_atol=0.15, logits_rtol=8e-2, probabilities_atol=4e-2, f1_change=1e-2),
    # 8 bits: half a step is 1/254 of a tensor's whole range, in weights and in activations, layer
    # after layer: several tenths of a logit. Values alone cannot tell a coarse body from a wrong
    # one here; the bound on each label's F1 does.
    "int8": Tolerances(
        logits_atol=0.5, logits_rtol=0.1, probabilities_atol=0.125, f1_change=2e-2, f1_rows=3
    ),
}


def tolerances_for(precision: str) -> Tolerances:
    """Return the tolerances for a precision: fp32, tf32, fp16, bf16 or int8.

    Raises:
        ConfigError: If there is no such precision.

    Example:
        >>> tolerances_for("fp32").probabilities_atol
        1e-05
    """
    if precision not in _PRECISIONS:
        raise ConfigError(unknown_name("precision", precision, _PRECISIONS))
    return _PRECISIONS[precision]


def widest(a: Tolerances, b: Tolerances) -> Tolerances:
    """Return what either allows."""
    names = (field.name for field in dataclasses.fields(Tolerances))
    return Tolerances(**{name: max(getattr(a, name), getattr(b, name)) for name in names})


def band_half_widths(
    reference_NL: FloatArray,
    got_NL: FloatArray,
    decision: Decision,
    *,
    tolerances: Tolerances,
    of_logits: bool,
) -> npt.NDArray[np.float64]:
    """Return float64 [L]: half the width of the band in which rounding explains a flip.

    From logits: the label's largest error among rows whose logit lies within 4 of the threshold's
    (errors grow with the logit, and those far off flip nothing), times ``scale``, times the
    sigmoid's steepest slope within that error of the threshold, times a margin of 2; plus the
    rounding of the head's own float32 arithmetic. A wrong head has exact logits, hence a narrow
    band, and its flips lie outside.
    From probabilities, where an engine gives no logits: the label's largest error, times 2.
    Never more than ``tolerances.probabilities_atol``.

    Args:
        reference_NL: Logits or probabilities, float32 [N, L].
        got_NL: The same of the engine that is judged.
        decision: Calibration and thresholds.
        tolerances: Their cap.
        of_logits: Whether the arrays are logits.
    """
    reference, got = reference_NL.astype(np.float64), got_NL.astype(np.float64)
    scale, bias = decision.scale.astype(np.float64), decision.bias.astype(np.float64)
    threshold_L = np.clip(decision.thresholds.astype(np.float64), 1e-9, 1 - 1e-9)
    score_L = np.log(threshold_L) - np.log1p(-threshold_L)
    with np.errstate(invalid="ignore", over="ignore"):
        error_NL = np.abs(got - reference)
        counted_NL = np.isfinite(error_NL)
        if of_logits:
            counted_NL &= np.abs(reference - (score_L - bias) / scale) <= _NEAR
    error_L = np.where(counted_NL, error_NL, 0.0).max(axis=0, initial=0.0)
    if of_logits:
        error_L = error_L * scale
        error_L *= _slope(np.maximum(np.abs(score_L) - error_L, 0.0))
    steps_L = 2.0**-23 * (np.abs(score_L) + 2 * np.abs(bias)) * _slope(score_L)
    width_L = _MARGIN * error_L + steps_L + _HEAD_ROUNDING
    return np.asarray(np.minimum(width_L, tolerances.probabilities_atol))


def probability_rounding(
    logits_NL: FloatArray, rounding_NL: npt.NDArray[np.float64], decision: Decision
) -> npt.NDArray[np.float64]:
    """Return float64 [N, L]: how far a probability moves at most when its logit is rounded.

    Args:
        logits_NL: float32 [N, L].
        rounding_NL: float64 [N, L], how far rounding moves each of them.
        decision: Its calibration.
    """
    scale, bias = decision.scale.astype(np.float64), decision.bias.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        score_NL = logits_NL.astype(np.float64) * scale + bias
        error_NL = rounding_NL * np.abs(scale)
        moved_NL = error_NL * _slope(np.maximum(np.abs(score_NL) - error_NL, 0.0))
    return np.nan_to_num(np.minimum(moved_NL, 1.0), nan=0.0)


def _slope(score_L: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the sigmoid's derivative."""
    p_L = 1 / (1 + np.exp(-np.clip(score_L, -700, 700)))
    return np.asarray(p_L * (1 - p_L))
