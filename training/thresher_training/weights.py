"""What labels and their positives weigh in a loss, by name, counted on the train split alone.

| name | as ``pos_weight`` | as ``weight`` |
| --- | --- | --- |
| ``neg_over_pos`` | negatives / positives | the same |
| ``max_over_count`` | the largest label's positives / this label's | the same |
| ``inverse_frequency`` | known targets / positives | the same |
| ``effective_number`` | E(negatives) / E(positives) | 1 / E(positives) |
| ``given`` | ``[loss.given]``, 1 where left out | the same |

E(n) = (1 - b^n) / (1 - b) is the effective number of n examples, b = 0.999. A soft target t counts
as t of a positive and 1 - t of a negative. A label without positives or without negatives weighs 1:
there is nothing to balance. ``weight`` is scaled to a mean of 1 over the other labels.

Source: Y. Cui et al., "Class-balanced loss based on effective number of samples", CVPR 2019,
equation 2 and section 4 (scaled so that the weights add up to their number).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thresher.decision import FloatArray
from thresher.errors import ConfigError, unknown_name
from thresher_training.recipe import LossConfig, Weighting
from thresher_training.spreadsheet import write_csv

__all__ = [
    "EFFECTIVE_BETA",
    "WEIGHTINGS",
    "WeightRow",
    "effective_number",
    "label_counts",
    "label_weights",
    "weight_rows",
    "write_weight_table",
]

EFFECTIVE_BETA = 0.999
"""The b of ``"effective_number"``: counts beyond a thousand or so are all the same to it."""

_ROWS = 1 << 16

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRow:
    """What one label weighs, and why."""

    label: str
    positives: float
    """In the train split; soft targets count by their value."""

    negatives: float
    pos_weight: float
    """What a positive weighs against a negative of this label."""

    weight: float
    """What this label weighs against the others."""


def label_counts(targets_NL: FloatArray) -> tuple[_Array, _Array]:
    """Return positives and negatives per label, float64 [L] each; soft targets count by value.

    Args:
        targets_NL: float32 [N, L] in [0, 1]; NaN where unknown.

    Example:
        >>> label_counts(np.float32([[1, 0.25], [0, np.nan], [0, 1]]))
        (array([1.  , 1.25]), array([2.  , 0.75]))
    """
    positives_L = np.zeros(targets_NL.shape[1])
    known_L = np.zeros(targets_NL.shape[1])
    for start in range(0, len(targets_NL), _ROWS):  # the array may be larger than memory
        rows = np.asarray(targets_NL[start : start + _ROWS])
        positives_L += np.nansum(rows, axis=0, dtype=np.float64)
        known_L += (~np.isnan(rows)).sum(axis=0)
    return positives_L, np.maximum(known_L - positives_L, 0.0)


def effective_number(counts_L: _Array, *, beta: float = EFFECTIVE_BETA) -> _Array:
    """Return the effective number of so many examples, float64 [L]: (1 - beta^n) / (1 - beta).

    Args:
        counts_L: n, [L].
        beta: In [0, 1); 0 makes every count 1, towards 1 it is the count itself.

    Example:
        >>> effective_number(np.array([1.0, 2.0, 1e9]), beta=0.9).round(6).tolist()
        [1.0, 1.9, 10.0]
    """
    # expm1 keeps the digits that 1 - beta^n loses for beta close to 1
    power = counts_L * np.log(beta) if beta else np.where(counts_L > 0, -np.inf, 0.0)
    found: _Array = -np.expm1(power) / (1.0 - beta)
    return found


def label_weights(
    config: LossConfig, targets_NL: FloatArray, labels: Sequence[str]
) -> tuple[Tensor | None, Tensor | None]:
    """Return ``weight`` and ``pos_weight``, float32 [L] each; None where every label weighs 1.

    Args:
        config: The recipe's section.
        targets_NL: float32 [N, L] of the train split alone.
        labels: L names.

    Raises:
        ConfigError: If a given weight names an unknown label or exceeds its cap.
    """
    if config.weight == config.pos_weight == "none":
        return None, None
    weight_L, pos_weight_L = _weights(config, *label_counts(targets_NL), labels)
    return (
        None if config.weight == "none" else torch.from_numpy(weight_L.astype(np.float32)),
        None if config.pos_weight == "none" else torch.from_numpy(pos_weight_L.astype(np.float32)),
    )


def weight_rows(
    config: LossConfig, targets_NL: FloatArray, labels: Sequence[str]
) -> tuple[WeightRow, ...]:
    """Return what each label weighs, with the counts behind it.

    Args:
        config: The recipe's section.
        targets_NL: float32 [N, L] of the train split alone.
        labels: L names.

    Raises:
        ConfigError: If a given weight names an unknown label or exceeds its cap.
    """
    positives_L, negatives_L = label_counts(targets_NL)
    weight_L, pos_weight_L = _weights(config, positives_L, negatives_L, labels)
    return tuple(
        WeightRow(
            label=label,
            positives=float(positives_L[at]),
            negatives=float(negatives_L[at]),
            pos_weight=float(pos_weight_L[at]),
            weight=float(weight_L[at]),
        )
        for at, label in enumerate(labels)
    )


def write_weight_table(rows: Sequence[WeightRow], path: Path) -> None:
    """Write the table as CSV, one row per label.

    Args:
        rows: What `weight_rows` returned, at least one.
        path: The file.
    """
    lines = [
        [value if isinstance(value, str) else f"{value:.6g}" for value in astuple(row)]
        for row in rows
    ]
    write_csv(path, [field.name for field in fields(WeightRow)], lines)


def _weights(
    config: LossConfig, positives_L: _Array, negatives_L: _Array, labels: Sequence[str]
) -> tuple[_Array, _Array]:
    """Return weight and pos_weight, float64 [L] each."""
    balanced_L = (positives_L > 0) & (negatives_L > 0)  # the labels where there is what to balance

    def raw(name: Weighting, cap: float, key: str) -> _Array:
        if name == "none":
            return np.ones(len(positives_L))
        if name == "given":
            return _given(config.given, labels, cap=cap, key=key)
        each_L = np.ones(len(positives_L))
        with np.errstate(over="ignore"):  # a soft count may be next to nothing; capped afterwards
            each_L[balanced_L] = WEIGHTINGS[name](
                positives_L[balanced_L], negatives_L[balanced_L], key == "pos_weight"
            )
        return each_L

    pos_weight_L = np.minimum(
        raw(config.pos_weight, config.pos_weight_cap, "pos_weight"), config.pos_weight_cap
    )
    weight_L = raw(config.weight, config.weight_cap, "weight")
    counted_L = balanced_L if config.weight != "given" else np.ones_like(balanced_L)
    if config.weight != "none" and counted_L.any():
        counted = weight_L[counted_L]
        counted = np.minimum(counted, config.weight_cap * counted.min())
        weight_L[counted_L] = counted / counted.mean()
    return weight_L, pos_weight_L


def _given(
    given: dict[str, float], labels: Sequence[str], *, cap: float, key: str
) -> npt.NDArray[np.float64]:
    for label in given:
        if label not in labels:
            raise ConfigError(f"loss.given: {unknown_name('label', label, labels)}")
    weight_L = np.array([float(given.get(label, 1.0)) for label in labels])
    over_L = weight_L / (weight_L.min() if key == "weight" else 1.0)
    if over_L.max() > cap:
        at = int(np.argmax(over_L))
        than = " times the lightest label" if key == "weight" else ""
        raise ConfigError(
            f'loss.given: "{labels[at]}" weighs {over_L[at]:g}{than}, above {key}_cap of {cap:g}; '
            f"lower the weight or raise loss.{key}_cap"
        )
    return weight_L


def _neg_over_pos(positives_L: _Array, negatives_L: _Array, _: bool) -> _Array:
    return negatives_L / positives_L


def _max_over_count(positives_L: _Array, _negatives_L: _Array, _: bool) -> _Array:
    found: _Array = positives_L.max(initial=0.0) / positives_L
    return found


def _inverse_frequency(positives_L: _Array, negatives_L: _Array, _: bool) -> _Array:
    return (positives_L + negatives_L) / positives_L


def _effective_number(positives_L: _Array, negatives_L: _Array, of_positives: bool) -> _Array:
    against = effective_number(negatives_L) if of_positives else np.ones_like(negatives_L)
    return against / effective_number(positives_L)


WEIGHTINGS: dict[str, Callable[[_Array, _Array, bool], _Array]] = {
    "neg_over_pos": _neg_over_pos,
    "max_over_count": _max_over_count,
    "inverse_frequency": _inverse_frequency,
    "effective_number": _effective_number,
}
"""Weightings by name: of positives, negatives, and whether positives are weighed (not labels)."""
