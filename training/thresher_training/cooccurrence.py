"""Labels that go together in the data, against what a model says of them.

Three counts of each pair of labels: how often both are present (observed), how often both would be
if labels were independent given the input (expected: the products of the probabilities, summed up),
and how often the model decides for both (predicted). NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError
from thresher_training.spreadsheet import write_csv

__all__ = [
    "Cooccurrence",
    "Pair",
    "cooccurrence",
    "pairs",
    "write_cooccurrence_table",
]

_ROWS = 1 << 14

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cooccurrence:
    """Counts of pairs over the rows where both targets are known; each array float64 [L, L].

    The diagonals hold each label's own counts.
    """

    labels: tuple[str, ...]
    known_LL: _Array
    """Rows where both targets are known."""

    observed_LL: _Array
    """Rows with both labels."""

    expected_LL: _Array
    """Sum of the products of both probabilities."""

    predicted_LL: _Array
    """Rows where the model decides for both."""

    chance_LL: _Array
    """Rows with both if the labels, each as frequent as it is, were unrelated."""

    predicted_chance_LL: _Array
    """The same for the decisions."""

    surprise_LL: _Array
    """Observed less expected, in standard deviations of the count that independent labels with the
    model's probabilities would give; NaN where that has no spread.

    Large and positive: the labels go together more than the probabilities can tell one by one,
    which is what a correlation head can learn. Large and negative: the probabilities are too high
    together, or the labels exclude each other."""

    @property
    def lift_LL(self) -> _Array:  # noqa: N802 -- shape suffix
        """How many times as often as by chance both occur; NaN where one label never does."""
        return _over(self.observed_LL, self.chance_LL)

    @property
    def predicted_lift_LL(self) -> _Array:  # noqa: N802 -- shape suffix
        """The same for the decisions."""
        return _over(self.predicted_LL, self.predicted_chance_LL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two labels; the fields are those of `Cooccurrence`."""

    first: str
    second: str
    known: int
    observed: float
    expected: float
    predicted: int
    lift: float
    predicted_lift: float
    surprise: float


def cooccurrence(
    labels: Sequence[str],
    targets_NL: FloatArray,
    probabilities_NL: FloatArray,
    decided_NL: npt.NDArray[np.bool_],
) -> Cooccurrence:
    """Return how often labels go together, in the data and by the model.

    Args:
        labels: L names.
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        probabilities_NL: float32 [N, L], calibrated ones where there is a calibration.
        decided_NL: bool [N, L].

    Raises:
        DataError: If the shapes differ.

    Example:
        >>> targets = np.float32([[1, 1], [1, 1], [0, 0], [0, 0]])
        >>> half = np.full((4, 2), 0.5, np.float32)
        >>> found = cooccurrence(["rain", "cloud"], targets, half, half >= 0.5)
        >>> [float(a[0, 1]) for a in (found.observed_LL, found.expected_LL, found.lift_LL)]
        [2.0, 1.0, 2.0]
    """
    shape = (len(targets_NL), len(labels))
    for name, array in (
        ("targets", targets_NL),
        ("probabilities", probabilities_NL),
        ("decisions", decided_NL),
    ):
        if array.shape != shape:
            raise DataError(f"{name} have shape {list(array.shape)}, expected {list(shape)}")
    size = len(labels)
    known, present, said, squared, decided = np.zeros((5, size, size))
    present_known, decided_known = np.zeros((2, size, size))
    for start in range(0, len(targets_NL), _ROWS):
        rows = slice(start, start + _ROWS)
        known_NL = ~np.isnan(targets_NL[rows])
        k_NL = known_NL.astype(np.float32)
        t_NL = np.where(known_NL, targets_NL[rows], 0).astype(np.float32)
        p_NL = np.where(known_NL, probabilities_NL[rows], 0).astype(np.float64)
        d_NL = (decided_NL[rows] & known_NL).astype(np.float32)
        known += k_NL.T @ k_NL
        present += t_NL.T @ t_NL
        present_known += t_NL.T @ k_NL
        said += p_NL.T @ p_NL
        squared += (p_NL**2).T @ p_NL**2
        decided += d_NL.T @ d_NL
        decided_known += d_NL.T @ k_NL
    spread = np.sqrt(np.maximum(said - squared, 0.0))
    surprise = np.where(spread > 1e-6, (present - said) / np.maximum(spread, 1e-6), np.nan)
    np.fill_diagonal(surprise, np.nan)  # a label with itself: p and not p * p
    return Cooccurrence(
        labels=tuple(labels),
        known_LL=known,
        observed_LL=present,
        expected_LL=said,
        predicted_LL=decided,
        chance_LL=present_known * present_known.T / np.maximum(known, 1),
        predicted_chance_LL=decided_known * decided_known.T / np.maximum(known, 1),
        surprise_LL=surprise,
    )


def pairs(found: Cooccurrence, *, at_most: int = 1000) -> tuple[Pair, ...]:
    """Return the pairs that occur or are predicted, the most surprising first.

    Args:
        found: What `cooccurrence` returned.
        at_most: How many; L labels have L (L - 1) / 2 pairs.
    """
    first_K, second_K = np.triu_indices(len(found.labels), k=1)
    seen_K = (found.observed_LL + found.predicted_LL)[first_K, second_K] > 0
    first_K, second_K = first_K[seen_K], second_K[seen_K]
    lift_LL, predicted_lift_LL = found.lift_LL, found.predicted_lift_LL
    surprise_K = np.nan_to_num(np.abs(found.surprise_LL[first_K, second_K]), nan=-1.0)
    order = np.argsort(-surprise_K, kind="stable")[:at_most]
    return tuple(
        Pair(
            first=found.labels[at[0]],
            second=found.labels[at[1]],
            known=int(found.known_LL[at]),
            observed=float(found.observed_LL[at]),
            expected=float(found.expected_LL[at]),
            predicted=int(found.predicted_LL[at]),
            lift=float(lift_LL[at]),
            predicted_lift=float(predicted_lift_LL[at]),
            surprise=float(found.surprise_LL[at]),
        )
        for at in zip(first_K[order], second_K[order], strict=True)
    )


def write_cooccurrence_table(found: Cooccurrence, path: Path, *, at_most: int = 1000) -> None:
    """Write the pairs as CSV, the most surprising first; a cell is empty where there is no number.

    Args:
        found: What `cooccurrence` returned.
        path: The file.
        at_most: How many pairs.
    """
    write_csv(
        path,
        [field.name for field in fields(Pair)],
        [[_cell(value) for value in astuple(pair)] for pair in pairs(found, at_most=at_most)],
    )


def _over(counts_LL: _Array, chance_LL: _Array) -> _Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(chance_LL > 0, counts_LL / chance_LL, np.nan)


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else f"{value:.6g}"
