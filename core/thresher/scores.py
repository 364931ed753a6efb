"""Score histograms per label: from a stream of rows, mergeable, of a fixed size.

Each logit z falls into one of B bins by ``u = sign(z) * (1 - 8 / (8 + |z|))``, cut evenly between
-1 and 1: a bin is 16 / B wide in the logit around 0 and widens with ``(1 + |z| / 8)^2``, so the
tails, where a sigmoid is flat, keep their resolution out to infinity. Every step of the formula
rounds monotonely, so bins never disagree with the order of the logits.

Counts are whole numbers: merging is exact, and associative, whoever counted what first. Training
chooses thresholds on them, serving compares a day's scores with the validated ones.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError

__all__ = ["NEGATIVE", "POSITIVE", "UNKNOWN", "ScoreHistograms", "bin_edges"]

NEGATIVE, POSITIVE, UNKNOWN = 0, 1, 2
"""Positions on the middle axis of ``counts_LKB``: what a row's target is."""

_SCALE = np.float32(8)
_MAX_ROWS = 2**32 - 1
_MAX_BINS = 2**14  # three kinds of them are told apart in 16 bits
_CHUNK = 1 << 23  # logits counted at a time; 2 bytes each
_SMALL = 1 << 17  # logits put into bins at a time


@cache
def bin_edges(num_bins: int) -> FloatArray:
    """Return the lowest finite float32 logit of each bin, ascending; that of bin 0 is the lowest.

    Args:
        num_bins: An even number of bins.

    Example:
        >>> [round(float(edge)) for edge in bin_edges(4)[1:]]
        [-8, 0, 8]
    """
    # bisection over all float32 in order, for all bins at once: signed magnitude bits are in order
    low_B = np.full(num_bins, -0x7F7FFFFF, dtype=np.int64)
    high_B = np.full(num_bins, 0x7F7FFFFF, dtype=np.int64)
    wanted_B = np.arange(num_bins)
    while (low_B < high_B).any():
        middle_B = (low_B + high_B) // 2
        magnitude_B = np.abs(middle_B).astype(np.uint32).view(np.float32)
        reached_B = _bins(np.copysign(magnitude_B, middle_B).astype(np.float32), num_bins)
        is_reached_B = reached_B >= wanted_B
        high_B = np.where(is_reached_B, middle_B, high_B)
        low_B = np.where(is_reached_B, low_B, np.minimum(middle_B + 1, high_B))
    edges_B = np.copysign(np.abs(high_B).astype(np.uint32).view(np.float32), high_B)
    edges_B = edges_B.astype(np.float32) + np.float32(0)  # -0 is 0
    edges_B.setflags(write=False)
    return edges_B


def _bins(logits: FloatArray, num_bins: int) -> npt.NDArray[np.uint16]:
    """Return each logit's bin, uint16 of the same shape; no NaN."""
    half = np.float32(num_bins // 2)
    u = np.abs(logits)
    u += _SCALE
    np.divide(_SCALE, u, out=u)
    np.subtract(np.float32(1), u, out=u)
    np.copysign(u, logits, out=u)
    u *= half
    u += half
    np.minimum(u, np.float32(num_bins - 1), out=u)
    return u.astype(np.uint16)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreHistograms:
    """Counts of rows by label, known target and bin of the logit.

    Args:
        counts_LKB: uint32 [L, 3, B]: rows whose target is 0, 1, or unknown, by bin.

    Raises:
        DataError: If the array is not of that shape and type, or B is odd or above 2^14.

    Example:
        >>> monday, tuesday = ScoreHistograms.empty(2), ScoreHistograms.empty(2)
        >>> monday.update(np.float32([[0.5, -1]]), np.float32([[1, np.nan]]))
        >>> tuesday.update(np.float32([[2, 3]]))
        >>> (monday + tuesday).num_rows
        2
    """

    counts_LKB: npt.NDArray[np.uint32]

    def __post_init__(self) -> None:
        counts = self.counts_LKB
        if counts.dtype != np.uint32 or counts.ndim != 3 or counts.shape[1] != 3:
            raise DataError(
                f"histogram counts are {counts.dtype} {list(counts.shape)}, "
                "expected uint32 [L, 3, B]"
            )
        if self.num_bins % 2 or not 2 <= self.num_bins <= _MAX_BINS:
            raise DataError(f"{self.num_bins} bins, expected an even number from 2 to {_MAX_BINS}")

    @classmethod
    def empty(cls, num_labels: int, *, num_bins: int = 4096) -> ScoreHistograms:
        """Return histograms without rows; 12 bytes for each label and bin."""
        return cls(counts_LKB=np.zeros((num_labels, 3, num_bins), dtype=np.uint32))

    @property
    def num_labels(self) -> int:
        """The number of labels, L."""
        return int(self.counts_LKB.shape[0])

    @property
    def num_bins(self) -> int:
        """The number of bins, B."""
        return int(self.counts_LKB.shape[2])

    @property
    def num_rows(self) -> int:
        """The rows counted so far."""
        return int(self.counts_LKB[0].sum(dtype=np.int64)) if self.num_labels else 0

    def update(
        self, logits_NL: FloatArray, targets_NL: npt.NDArray[np.generic] | None = None
    ) -> None:
        """Count some rows.

        Args:
            logits_NL: float32 [N, L].
            targets_NL: [N, L] of 0 and 1, NaN where unknown; all unknown where left out.

        Raises:
            DataError: If shapes do not fit, a logit is NaN or infinite (says how many, and which
                rows), a target is not 0, 1 or NaN, or there would be 2^32 rows. Nothing of these
                rows is counted then.
        """
        logits = np.asarray(logits_NL, dtype=np.float32)
        if logits.ndim != 2 or logits.shape[1] != self.num_labels:
            raise DataError(f"logits are {list(logits.shape)}, expected [N, {self.num_labels}]")
        targets = None if targets_NL is None else np.asarray(targets_NL)
        if targets is not None and targets.shape != logits.shape:
            raise DataError(f"targets are {list(targets.shape)}, logits {list(logits.shape)}")
        if self.num_rows + len(logits) > _MAX_ROWS:
            raise DataError(f"{self.num_rows + len(logits):,} rows, expected fewer than 2^32")
        rows = max(1, _SMALL // max(1, self.num_labels))
        for row in range(0, len(logits), rows):
            few = slice(row, row + rows)
            _check(logits[few], None if targets is None else targets[few], row)
        chunk = max(1, _CHUNK // max(1, self.num_labels))
        for row in range(0, len(logits), chunk):
            some = slice(row, row + chunk)
            self._count(logits[some], None if targets is None else targets[some], rows)

    def _count(
        self, logits: FloatArray, targets: npt.NDArray[np.generic] | None, rows: int
    ) -> None:
        """Count checked rows, so few of them at a time that they stay in the cache."""
        cell_LN = np.empty(logits.shape[::-1], dtype=np.uint16)
        for row in range(0, len(logits), rows):
            few = slice(row, row + rows)
            kind: npt.NDArray[np.uint16] | int = UNKNOWN
            if targets is not None:
                known = targets[few]
                if known.dtype.kind == "f":
                    known = np.nan_to_num(known, nan=UNKNOWN)
                kind = known.astype(np.uint16)
            cell_LN[:, few] = (_bins(logits[few], self.num_bins) + kind * self.num_bins).T
        for cells_C, cell_N in zip(
            self.counts_LKB.reshape(self.num_labels, -1), cell_LN, strict=True
        ):
            if len(cell_N) * 8 < self.num_bins:  # few rows: touch no more cells than they need
                np.add.at(cells_C, cell_N, np.uint32(1))
            else:
                found = np.bincount(cell_N)
                counted = cells_C[: len(found)]
                np.add(counted, found, out=counted, casting="unsafe")

    def __add__(self, other: ScoreHistograms) -> ScoreHistograms:
        """Return the histograms of both sets of rows.

        Raises:
            DataError: If labels or bins differ, or there would be 2^32 rows.
        """
        if self.counts_LKB.shape != other.counts_LKB.shape:
            shapes = [list(each.counts_LKB.shape) for each in (self, other)]
            raise DataError(f"histograms of {shapes[0]} and {shapes[1]} counts cannot be merged")
        if self.num_rows + other.num_rows > _MAX_ROWS:
            raise DataError(f"{self.num_rows + other.num_rows:,} rows, expected fewer than 2^32")
        return ScoreHistograms(counts_LKB=self.counts_LKB + other.counts_LKB)

    def to_bytes(self) -> bytes:
        """Return the counts as a compressed NPZ file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, counts=self.counts_LKB)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str = "histograms") -> ScoreHistograms:
        """Return the histograms in what `to_bytes` gave; nothing pickled is read.

        Raises:
            DataError: If the content is something else.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                counts = file["counts"]
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{where}: not score histograms: {error}") from None
        return cls(counts_LKB=counts)


def _check(logits: FloatArray, targets: npt.NDArray[np.generic] | None, start: int) -> None:
    """Refuse rows that cannot be counted; ``start`` is the first one's number."""
    finite = np.isfinite(logits)
    if not finite.all():
        raise DataError(_said("logits are NaN or infinite", ~finite, start))
    if targets is None or targets.dtype.kind == "b":
        return
    if targets.dtype.kind == "u" and targets.max(initial=0) <= 1:
        return
    if targets.dtype.kind not in "uif":
        raise DataError(f"targets are {targets.dtype}, expected numbers 0 and 1 (or NaN)")
    bad = (targets != 0) & (targets != 1)
    if bad.any() and targets.dtype.kind == "f":
        bad &= ~np.isnan(targets.astype(np.float64))
    if bad.any():
        raise DataError(_said("targets are not 0, 1 or NaN", bad, start))


def _said(what: str, bad: npt.NDArray[np.bool_], start: int) -> str:
    rows = start + np.flatnonzero(bad.any(axis=1))
    labels = np.flatnonzero(bad.any(axis=0))
    return (
        f"{int(bad.sum())} {what}: {len(rows)} rows, the first {rows[0]}, "
        f"in {len(labels)} labels, the first {labels[0]}"
    )
