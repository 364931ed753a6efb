"""How often each row is drawn, so that rare labels come up more often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher_training.weights import label_counts

__all__ = ["label_aware_weights"]

_ROWS = 1 << 16


def label_aware_weights(
    targets_NL: FloatArray, *, frequency: float | None = None, cap: float = 10.0
) -> npt.NDArray[np.float64]:
    """Return each row's share of the draws, float64 [N]; they add up to 1.

    A label that is rarer than ``frequency`` f repeats its rows ``sqrt(f / its own frequency)``
    times, at most ``cap`` times; a row is repeated as its rarest label asks, or once. Labels that
    sit in the same rows are repeated along, so the sampler changes label frequencies and with them
    what probabilities mean: calibrate, or tune thresholds on rows drawn as usual.

    Args:
        targets_NL: float32 [N, L] in [0, 1] of the train split; NaN where unknown. A soft target t
            repeats a row by t of what the label asks for.
        frequency: In (0, 1]; the median of the labels' frequencies where left out.
        cap: No row is drawn more than this times as often as another.

    Source: A. Gupta et al., "LVIS: a dataset for large vocabulary instance segmentation", CVPR
    2019, repeat factor sampling (there f = 0.001 and no cap).

    Example:
        >>> label_aware_weights(np.float32([[1, 0], [1, 0], [1, 0], [1, 1]]), frequency=1.0)
        array([0.2, 0.2, 0.2, 0.4])
    """
    positives_L, negatives_L = label_counts(targets_NL)
    has_L = positives_L > 0
    weights_N = np.ones(len(targets_NL))
    if not has_L.any():
        return weights_N / max(1, len(weights_N))
    share_L = positives_L[has_L] / (positives_L + negatives_L)[has_L]
    wanted = float(np.median(share_L)) if frequency is None else frequency
    more_L = np.clip(np.sqrt(wanted / share_L), 1.0, cap) - 1.0
    for start in range(0, len(weights_N), _ROWS):  # the array may be larger than memory
        rows = np.nan_to_num(np.asarray(targets_NL[start : start + _ROWS])[:, has_L])
        weights_N[start : start + _ROWS] += (rows * more_L).max(axis=1)
    found: npt.NDArray[np.float64] = weights_N / weights_N.sum()
    return found
