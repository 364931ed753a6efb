"""What a version saw and said, in a fixed size: rates of yes, histograms of scores and inputs.

Observations of two sets of rows can be added. Export keeps those of validation beside the model
(``baseline.npz``); scoring keeps those of each job; the comparison of both is drift.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher.errors import DataError
from thresher.evaluation import EvaluationSplit
from thresher.scores import ScoreHistograms, bin_edges

__all__ = ["BASELINE_FILE", "Observations", "described", "feature_edges"]

BASELINE_FILE = "baseline.npz"

NUM_BINS = 512
"""Of each histogram; 6 KB for each label and each feature."""

_MAX_FEATURES = 4_096
_PLACES = 256
_MASKS = ("attention_mask", "ngram_mask")
_FINEST = 2.0**-13
_OCTAVES = 48
"""Features are told apart from 2^-13 to 2^35, and each sign by as many bins in every octave."""


def feature_edges(num_bins: int) -> npt.NDArray[np.float64]:
    """Return the lowest value of each bin of a feature's histogram, ascending.

    Example:
        >>> edges = feature_edges(512)
        >>> round(float(edges[400] / edges[399]) - 1, 2)  # wherever: a bin is 14 % of a value wide
        0.14
    """
    z_B = bin_edges(num_bins).astype(np.float64)
    octaves_B = _OCTAVES * np.abs(z_B) / (8 + np.abs(z_B))
    return np.asarray(np.copysign(_FINEST * (np.exp2(octaves_B) - 1), z_B))


def _as_scores(features_NF: FloatArray) -> FloatArray:
    """Return numbers that fall into a score histogram's bins evenly by their logarithms."""
    with np.errstate(over="ignore"):
        t = np.abs(features_NF)
        t *= np.float32(1 / _FINEST)
        t += np.float32(1)
    np.log(t, out=t)
    t *= np.float32(1 / (_OCTAVES * np.log(2)))
    np.minimum(t, np.float32(0.999), out=t)
    t *= np.float32(8) / (np.float32(1) - t)
    return np.copysign(t, features_NF, out=t)


def described(
    inputs: Mapping[str, npt.NDArray[Any]], columns: Mapping[str, tuple[str, ...]] | None = None
) -> tuple[tuple[str, ...], FloatArray]:
    """Return numbers that tell how inputs are distributed: names, and float32 [N, F].

    An input [N, D] of real numbers is its D features. Of a mask the sum is taken, which is the
    length; of larger arrays the mean and the standard deviation of each row; ids are left out.

    Args:
        inputs: By name, [N, ...].
        columns: The names of an input's features, where they are known.

    Example:
        >>> described({"x": np.float32([[1, 2]])}, {"x": ("wind", "rain")})[0]
        ('wind', 'rain')
    """
    names: list[str] = []
    found: list[FloatArray] = []
    has_mask = any(name in inputs for name in _MASKS)
    for name, array in sorted(inputs.items()):
        num_rows = len(array)
        flat = array.reshape(num_rows, -1)
        if name in _MASKS:
            names.append("length")
            found.append(flat.sum(axis=1, dtype=np.float32)[:, None])
        elif has_mask and array.dtype.kind in "iu":
            continue  # ids have no order
        elif array.ndim <= 2 and flat.shape[1] <= _MAX_FEATURES:
            held = (columns or {}).get(name, ())
            is_named = len(held) == flat.shape[1]
            names += held if is_named else [f"{name}[{at}]" for at in range(flat.shape[1])]
            found.append(flat.astype(np.float32, copy=False))
        else:
            names += [f"{name}: mean", f"{name}: standard deviation"]
            # the same few hundred places of each row tell as much as all of a picture's pixels
            step = max(1, flat.shape[1] // _PLACES)
            values = flat[:, ::step].astype(np.float32)
            found.append(np.stack([values.mean(axis=1), values.std(axis=1)], axis=1))
    if not found:
        rows = len(next(iter(inputs.values()), ()))
        return (), np.empty((rows, 0), dtype=np.float32)
    return tuple(names), np.concatenate(found, axis=1) if len(found) > 1 else found[0]


@dataclass(slots=True, kw_only=True, eq=False)
class Observations:
    """Counts over some rows of L labels and F features.

    Args:
        num_rows: The rows that were scored.
        positives_L: int64 [L]: the rows to which each label was given.
        scores: Histograms of the logits, of all rows or of a sample of ``num_sampled``.
        feature_names: F names.
        features: Histograms of the features, over the same rows, in the bins of `feature_edges`.
        sums_F: float64 [F]: sum of each feature over those rows.
        squares_F: float64 [F]: sum of its squares.

    Raises:
        DataError: If they are not of the same labels and features.
    """

    num_rows: int
    positives_L: npt.NDArray[np.int64]
    scores: ScoreHistograms
    feature_names: tuple[str, ...]
    features: ScoreHistograms
    sums_F: npt.NDArray[np.float64]
    squares_F: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        labels = {self.positives_L.shape, (self.scores.num_labels,)}
        features = {self.sums_F.shape, self.squares_F.shape, (self.features.num_labels,)}
        if len(labels) > 1 or len(features | {(len(self.feature_names),)}) > 1:
            raise DataError(
                f"counts of {len(self.positives_L)} labels and {len(self.feature_names)} features "
                f"with histograms of {self.scores.num_labels} and {self.features.num_labels}"
            )

    @classmethod
    def empty(cls, num_labels: int, feature_names: tuple[str, ...] = ()) -> Observations:
        """Return observations of no rows."""
        return cls(
            num_rows=0,
            positives_L=np.zeros(num_labels, dtype=np.int64),
            scores=ScoreHistograms.empty(num_labels, num_bins=NUM_BINS),
            feature_names=feature_names,
            features=ScoreHistograms.empty(len(feature_names), num_bins=NUM_BINS),
            sums_F=np.zeros(len(feature_names)),
            squares_F=np.zeros(len(feature_names)),
        )

    @property
    def num_sampled(self) -> int:
        """The rows that the histograms count."""
        return self.scores.num_rows

    @classmethod
    def of(
        cls,
        logits_NL: FloatArray,
        labels_NL: npt.NDArray[np.bool_],
        inputs: Mapping[str, npt.NDArray[Any]],
        columns: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Observations:
        """Return observations of some rows.

        Args:
            logits_NL: float32 [N, L].
            labels_NL: bool [N, L].
            inputs: By name, each [N, ...].
            columns: The names of an input's features, where they are known.
        """
        seen = cls.for_inputs(labels_NL.shape[1], inputs, columns)
        seen.count(labels_NL)
        seen.observe(logits_NL, inputs)
        return seen

    @classmethod
    def for_inputs(
        cls,
        num_labels: int,
        inputs: Mapping[str, npt.NDArray[Any]],
        columns: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Observations:
        """Return observations of no rows, for rows with inputs such as these."""
        names, _ = described({name: array[:1] for name, array in inputs.items()}, columns)
        return cls.empty(num_labels, names)

    @classmethod
    def of_validation(
        cls,
        split: EvaluationSplit,
        decision: Decision,
        columns: Mapping[str, tuple[str, ...]] | None = None,
    ) -> Observations:
        """Return what later rows are compared with: logits of rows that were new to the network.

        Args:
            split: The rows of validation; those with NaN or infinity are left out, as scoring
                rejects them.
            decision: Gives their labels.
            columns: The names of an input's features, where they are known.
        """
        fine_N = np.isfinite(split.unseen_logits_NL).all(axis=1)
        fine_N &= np.isfinite(described(split.inputs)[1]).all(axis=1)
        logits_NL = split.unseen_logits_NL[fine_N]
        inputs = {name: array[fine_N] for name, array in split.inputs.items()}
        return cls.of(logits_NL, decision.apply(logits_NL)[1], inputs, columns)

    def count(self, labels_NL: npt.NDArray[np.bool_]) -> None:
        """Count the labels of some rows, bool [N, L]."""
        self.num_rows += len(labels_NL)
        # several times as fast as a sum of bools along the other axis, where most are no
        num_labels = labels_NL.shape[1]
        at = np.flatnonzero(labels_NL) % max(1, num_labels)
        self.positives_L += np.bincount(at, minlength=num_labels)

    def observe(self, logits_NL: FloatArray, inputs: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put some rows, or a sample of those that are counted, into the histograms.

        Args:
            logits_NL: float32 [N, L]; a row that is not finite is left out.
            inputs: By name, each [N, ...].
        """
        if not np.isfinite(logits_NL).all():
            logits_NL = logits_NL[np.isfinite(logits_NL).all(axis=1)]
        self.scores.update(logits_NL)
        _, features_NF = described(inputs)
        if not features_NF.size:
            return
        features_NF = features_NF[np.isfinite(features_NF).all(axis=1)]
        self.features.update(_as_scores(features_NF))
        values = features_NF.astype(np.float64)
        self.sums_F += values.sum(axis=0)
        self.squares_F += (values * values).sum(axis=0)

    def __add__(self, other: Observations) -> Observations:
        """Return the observations of both sets of rows.

        Raises:
            DataError: If labels or features differ.
        """
        if self.feature_names != other.feature_names:
            raise DataError("observations of different features cannot be added")
        if self.positives_L.shape != other.positives_L.shape:
            raise DataError("observations of different labels cannot be added")
        return Observations(
            num_rows=self.num_rows + other.num_rows,
            positives_L=self.positives_L + other.positives_L,
            scores=self.scores + other.scores,
            feature_names=self.feature_names,
            features=self.features + other.features,
            sums_F=self.sums_F + other.sums_F,
            squares_F=self.squares_F + other.squares_F,
        )

    def to_bytes(self) -> bytes:
        """Return a compressed NPZ file that `from_bytes` reads."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            allow_pickle=False,
            num_rows=np.int64(self.num_rows),
            positives=self.positives_L,
            scores=self.scores.counts_LKB,
            feature_names=np.array(json.dumps(self.feature_names)),
            features=self.features.counts_LKB,
            sums=self.sums_F,
            squares=self.squares_F,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str = "observations") -> Observations:
        """Return what `to_bytes` gave; nothing pickled is read.

        Raises:
            DataError: If the content is something else.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                return cls(
                    num_rows=int(file["num_rows"]),
                    positives_L=file["positives"],
                    scores=ScoreHistograms(counts_LKB=file["scores"]),
                    feature_names=tuple(json.loads(str(file["feature_names"]))),
                    features=ScoreHistograms(counts_LKB=file["features"]),
                    sums_F=file["sums"],
                    squares_F=file["squares"],
                )
        except Exception as error:  # noqa: BLE001 -- zipfile and NumPy raise a dozen kinds
            raise DataError(f"{where}: not observations: {error}") from None

    @classmethod
    def baseline(cls, folder: Path) -> Observations | None:
        """Return those of validation that lie beside a published version, None where none do.

        Raises:
            DataError: If the file cannot be read.
        """
        path = folder / BASELINE_FILE
        return cls.from_bytes(path.read_bytes(), where=str(path)) if path.is_file() else None
