"""Input features: which of two sides are the same, and how well their histograms show them."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from thresher.observations import Observations, feature_edges

__all__ = ["is_resolved", "moments", "paired_features"]

_UNNAMED = re.compile(r"\w+\[\d+\]")


def paired_features(known: Observations, seen: Observations) -> list[tuple[str, int, int]]:
    """Return name, position in the first and position in the second of the features of both.

    Where one side only knows positions (``features[3]``), positions count.
    """
    before, now = known.feature_names, seen.feature_names
    if len(before) == len(now) and all(
        a == b or _UNNAMED.fullmatch(a) or _UNNAMED.fullmatch(b)
        for a, b in zip(before, now, strict=True)
    ):
        names = [b if _UNNAMED.fullmatch(a) else a for a, b in zip(before, now, strict=True)]
        return [(name, at, at) for at, name in enumerate(names)]
    places = {name: at for at, name in enumerate(now)}
    return [(name, at, places[name]) for at, name in enumerate(before) if name in places]


def moments(seen: Observations) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return mean and standard deviation of each feature."""
    rows = max(1, seen.features.num_rows)
    mean_F = seen.sums_F / rows
    variance_F = np.maximum(seen.squares_F / rows - mean_F * mean_F, 0.0)
    variance_F[variance_F < 1e-14 * mean_F * mean_F] = 0.0  # what rounding leaves of a constant
    return mean_F, np.sqrt(variance_F * (rows / max(1, rows - 1)))


def is_resolved(
    mean_F: npt.NDArray[np.float64], deviation_F: npt.NDArray[np.float64], num_bins: int
) -> npt.NDArray[np.bool_]:
    """Return whether bins at the mean are no wider than a standard deviation; or it is constant."""
    edges = feature_edges(num_bins)
    widths = np.append(np.diff(edges), np.inf)
    widths[0] = np.inf
    at_F = np.searchsorted(edges, mean_F, side="right") - 1
    return np.asarray((widths[np.maximum(at_F, 0)] <= deviation_F) | (deviation_F == 0))
