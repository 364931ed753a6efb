"""Calibration that fits the head: an increasing straight line of the logit, label by label.

``"platt"`` fits a scale and a bias per label, ``"temperature"`` one scale for all labels, both by
likelihood on rows that the network has not learnt from. A normal prior around "no calibration"
(scale 1, bias 0) keeps labels with a handful of positives from running away. The scale is positive,
so the order of a label's scores, and with it what its threshold can reach, stays as it is.
NumPy only.

Source: J. Platt, "Probabilistic outputs for support vector machines", 1999 (a straight line of the
score, by likelihood; his smoothed targets are replaced by the prior here, since they pull a rare
label's slope towards 0); C. Guo et al., "On calibration of modern neural networks", ICML 2017
(temperature, expected calibration error).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import ConfigError, DataError

__all__ = [
    "MIN_SCALE",
    "CalibrationError",
    "Reliability",
    "calibration_error",
    "calibration_warnings",
    "fit_calibration",
]

MIN_SCALE = 0.01
"""No scale is smaller: a label whose logits fall where its targets rise is held here."""

_MAX_LOGIT = 100.0  # beyond it a sigmoid is 0 or 1 in float32; infinite logits are legal
_BLOCK = 1 << 19  # elements worked on at a time
_MAX_STEPS = 60

_Array = npt.NDArray[np.float64]


def fit_calibration(
    logits_NL: FloatArray,
    targets_NL: FloatArray,
    method: Literal["none", "platt", "temperature"],
    *,
    prior: float = 1.0,
) -> tuple[FloatArray, FloatArray]:
    """Return scale and bias, float32 [L] each, with every scale at least `MIN_SCALE`.

    With ``"platt"`` a label without known positives or without known negatives keeps scale 1 and
    bias 0. With ``"temperature"`` such labels are left out of the fit and get the one scale too.

    Args:
        logits_NL: float32 [N, L] of rows that the network was not trained on.
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown, which is left out.
        method: What to fit.
        prior: Precision of the normal prior of the scale around 1; the bias's around 0 has a
            tenth of it. Towards 0 the fit is that of maximum likelihood.

    Raises:
        ConfigError: If there is no such method or the prior is not above 0.
        DataError: If a logit with a known target is NaN, or the shapes differ.

    Example:
        >>> logits = np.float32([[-4], [-2], [2], [4]])
        >>> scale, bias = fit_calibration(logits, np.float32([[0], [1], [0], [1]]), "platt")
        >>> bool(0 < scale[0] < 0.5), bias.round(3).tolist()
        (True, [0.0])
    """
    if method not in {"none", "platt", "temperature"}:
        raise ConfigError(
            f'calibration is "{method}", expected one of "none", "platt", "temperature"'
        )
    if not prior > 0:
        raise ConfigError(f"prior is {prior!r}, expected a number above 0")
    if logits_NL.shape != targets_NL.shape or logits_NL.ndim != 2:
        raise DataError(
            f"logits have shape {list(logits_NL.shape)} and targets {list(targets_NL.shape)}, "
            "expected the same [N, L]"
        )
    num_labels = logits_NL.shape[1]
    scale_L, bias_L = np.ones(num_labels), np.zeros(num_labels)
    fitted_L = (targets_NL == 1).any(axis=0) & (targets_NL == 0).any(axis=0)
    if method == "platt" and fitted_L.any():
        scale_L[fitted_L], bias_L[fitted_L] = _platt(
            logits_NL[:, fitted_L], targets_NL[:, fitted_L], prior
        )
    elif method == "temperature" and fitted_L.any():
        scale_L[:] = _temperature(logits_NL[:, fitted_L], targets_NL[:, fitted_L], prior)
    return scale_L.astype(np.float32), bias_L.astype(np.float32)


def calibration_warnings(
    labels: Sequence[str],
    targets_NL: FloatArray,
    scale_L: FloatArray,
    method: Literal["none", "platt", "temperature"],
) -> tuple[str, ...]:
    """Return a sentence for each label whose calibration is not what its data asked for.

    Args:
        labels: L names.
        targets_NL: float32 [N, L], those of the fit.
        scale_L: float32 [L], what `fit_calibration` returned.
        method: The same as in the fit.
    """
    if method != "platt":
        return ()
    said = []
    for at, label in enumerate(labels):
        missing = [
            what
            for what, target in (("positives", 1), ("negatives", 0))
            if not (targets_NL[:, at] == target).any()
        ]
        if missing:
            said.append(f'"{label}" is not calibrated: no known {" and no ".join(missing)}')
        elif scale_L[at] == np.float32(MIN_SCALE):
            said.append(
                f'"{label}": higher logits do not mean more positives; '
                f"its scale is held at {MIN_SCALE:g}"
            )
    return tuple(said)


def _platt(logits_NL: FloatArray, targets_NL: FloatArray, prior: float) -> tuple[_Array, _Array]:
    """Return scale and bias [L] of the best penalised likelihood, block by block of labels."""
    num_rows, num_labels = logits_NL.shape
    width = max(1, _BLOCK // num_rows)
    scale_L, bias_L = np.empty(num_labels), np.empty(num_labels)
    for start in range(0, num_labels, width):
        block = slice(start, start + width)
        z_LN, y_LN, known_LN = _rows(logits_NL[:, block], targets_NL[:, block])
        free_L = np.ones(len(z_LN), dtype=bool)
        scale, bias = _newton(z_LN, y_LN, known_LN, prior, free_L)
        held_L = scale <= MIN_SCALE
        if held_L.any():  # the scale stays where it is held, the bias is fitted to it
            _, bias[held_L] = _newton(
                z_LN[held_L], y_LN[held_L], known_LN[held_L], prior, ~held_L[held_L]
            )
            scale[held_L] = MIN_SCALE
        scale_L[block], bias_L[block] = scale, bias
    return scale_L, bias_L


def _rows(logits_NL: FloatArray, targets_NL: FloatArray) -> tuple[_Array, _Array, _Array]:
    """Return logits, targets and whether they are known, as float64 [L, N] without NaN."""
    known_LN = ~np.isnan(targets_NL.T)
    if np.isnan(logits_NL.T[known_LN]).any():
        raise DataError("no calibration can be fitted on logits that are NaN")
    z_LN = np.where(known_LN, np.clip(logits_NL.T, -_MAX_LOGIT, _MAX_LOGIT), 0).astype(np.float64)
    return z_LN, np.where(known_LN, targets_NL.T, 0).astype(np.float64), known_LN.astype(np.float64)


def _newton(
    z_LN: _Array, y_LN: _Array, known_LN: _Array, prior: float, free_L: npt.NDArray[np.bool_]
) -> tuple[_Array, _Array]:
    """Return scale and bias [L]; the scale is `MIN_SCALE` where it is not free.

    Newton's method on a convex loss. A step that overshoots the least loss along its direction by
    much is halved and tried again: for convex losses that is enough to converge.
    """
    scale_L = np.where(free_L, 1.0, MIN_SCALE)
    bias_L = np.zeros(len(z_LN))
    active_L = np.arange(len(z_LN))
    step_L2 = np.zeros((len(z_LN), 2))
    slope_L = np.full(len(z_LN), -np.inf)  # along the step, where it set out
    for _ in range(_MAX_STEPS):
        z, y, known = z_LN[active_L], y_LN[active_L], known_LN[active_L]
        a, b, free = scale_L[active_L], bias_L[active_L], free_L[active_L]
        p = 1 / (1 + np.exp(np.clip(-(z * a[:, None] + b[:, None]), -700, 700)))
        rest, weight = (p - y) * known, p * (1 - p) * known
        gradient_a = np.where(free, np.einsum("ln,ln->l", rest, z) + prior * (a - 1), 0)
        gradient_b = rest.sum(axis=1) + 0.1 * prior * b
        along = gradient_a * step_L2[active_L, 0] + gradient_b * step_L2[active_L, 1]
        over = along > -0.5 * slope_L[active_L]
        weighted = weight * z
        h_aa = np.where(free, np.einsum("ln,ln->l", weighted, z) + prior, 1)
        h_ab = np.where(free, weighted.sum(axis=1), 0)
        h_bb = weight.sum(axis=1) + 0.1 * prior
        determinant = h_aa * h_bb - h_ab**2
        step = np.stack(
            [
                -(h_bb * gradient_a - h_ab * gradient_b) / determinant,
                -(h_aa * gradient_b - h_ab * gradient_a) / determinant,
            ],
            axis=1,
        )
        back = -0.5 * step_L2[active_L]
        slope_L[active_L] = np.where(
            over, 0.5 * slope_L[active_L], gradient_a * step[:, 0] + gradient_b * step[:, 1]
        )
        step_L2[active_L] = np.where(over[:, None], -back, step)
        move = np.where(over[:, None], back, step)
        scale_L[active_L] += move[:, 0]
        bias_L[active_L] += move[:, 1]
        active_L = active_L[np.abs(move).max(axis=1) > 1e-7]
        if not active_L.size:
            break
    return scale_L, bias_L


def _temperature(logits_NL: FloatArray, targets_NL: FloatArray, prior: float) -> float:
    """Return the one scale with the best penalised likelihood over all labels.

    The loss is convex in the scale and its slope is found by halving an interval on a log scale.
    """
    z_LN, y_LN, known_LN = _rows(logits_NL, targets_NL)
    known = known_LN > 0
    z, y = z_LN[known], y_LN[known]
    width = 1 << 16

    def slope(scale: float) -> float:
        total = prior * (scale - 1)
        for start in range(0, len(z), width):
            part = slice(start, start + width)
            p = 1 / (1 + np.exp(np.clip(-scale * z[part], -700, 700)))
            total += float(((p - y[part]) * z[part]).sum())
        return total

    low, high = np.log(MIN_SCALE), np.log(100.0)
    if slope(MIN_SCALE) >= 0:
        return MIN_SCALE
    for _ in range(34):  # to a relative 1e-9
        middle = (low + high) / 2
        low, high = (middle, high) if slope(float(np.exp(middle))) < 0 else (low, middle)
    return float(np.exp((low + high) / 2))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """A reliability diagram: in bins of equal width of probability, what was said and what was."""

    mean_probability_B: FloatArray
    """Mean probability in the bin; NaN where the bin is empty."""

    observed_rate_B: FloatArray
    """Share of positives in the bin; NaN where the bin is empty."""

    count_B: npt.NDArray[np.int64]
    """Known targets in the bin."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationError:
    """How far probabilities are from what comes true; smaller is better, 0 is perfect."""

    ece: float
    """Expected calibration error over all labels' known targets pooled."""

    ece_L: FloatArray
    """The same per label; NaN where no target is known."""

    brier: float
    """Mean squared difference of probability and target, over all known targets."""

    brier_L: FloatArray
    """The same per label; NaN where no target is known."""

    pooled: Reliability
    """The diagram over all labels."""

    reliability: tuple[Reliability, ...]
    """The diagram of each label."""


def calibration_error(
    probabilities_NL: FloatArray, targets_NL: FloatArray, num_bins: int = 15
) -> CalibrationError:
    """Return expected calibration error, Brier score and reliability bins.

    Args:
        probabilities_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown, which is left out.
        num_bins: Bins of equal width; the last holds probability 1 too.

    Raises:
        DataError: If the probability of a known target is not in [0, 1].

    Example:
        >>> error = calibration_error(np.float32([[0.25], [0.75]]), np.float32([[0], [1]]))
        >>> error.ece, error.brier
        (0.25, 0.0625)
    """
    num_labels = probabilities_NL.shape[1]
    row_K, label_K = np.nonzero(~np.isnan(targets_NL))
    p_K = probabilities_NL[row_K, label_K].astype(np.float64)
    y_K = targets_NL[row_K, label_K].astype(np.float64)
    if not ((p_K >= 0) & (p_K <= 1)).all():
        raise DataError("probabilities must be in [0, 1], got a number outside or NaN")
    at_K = label_K * num_bins + np.minimum((p_K * num_bins).astype(np.int64), num_bins - 1)
    size, shape = num_labels * num_bins, (num_labels, num_bins)
    count_LB = np.bincount(at_K, minlength=size).reshape(shape)
    said_LB = np.bincount(at_K, weights=p_K, minlength=size).reshape(shape)
    true_LB = np.bincount(at_K, weights=y_K, minlength=size).reshape(shape)
    brier_L = np.bincount(label_K, weights=(p_K - y_K) ** 2, minlength=num_labels)
    known_L = count_LB.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return CalibrationError(
            ece=_ece(count_LB.sum(axis=0), said_LB.sum(axis=0), true_LB.sum(axis=0)),
            ece_L=(np.abs(said_LB - true_LB).sum(axis=1) / known_L).astype(np.float32),
            brier=float(brier_L.sum() / max(1, known_L.sum())) if p_K.size else float("nan"),
            brier_L=(brier_L / known_L).astype(np.float32),
            pooled=_reliability(count_LB.sum(axis=0), said_LB.sum(axis=0), true_LB.sum(axis=0)),
            reliability=tuple(
                _reliability(count_LB[at], said_LB[at], true_LB[at]) for at in range(num_labels)
            ),
        )


def _ece(count_B: npt.NDArray[np.int64], said_B: _Array, true_B: _Array) -> float:
    known = int(count_B.sum())
    return float(np.abs(said_B - true_B).sum() / known) if known else float("nan")


def _reliability(count_B: npt.NDArray[np.int64], said_B: _Array, true_B: _Array) -> Reliability:
    with np.errstate(invalid="ignore"):
        return Reliability(
            mean_probability_B=(said_B / count_B).astype(np.float32),
            observed_rate_B=(true_B / count_B).astype(np.float32),
            count_B=count_B.astype(np.int64),
        )
