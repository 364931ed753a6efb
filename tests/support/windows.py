"""Windows of rows whose distribution is known, for tests of drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from thresher.observations import Observations
from thresher_serving.monitoring import Window

__all__ = ["draw_window", "names_of_labels"]


def names_of_labels(num_labels: int) -> tuple[str, ...]:
    """Return names of labels."""
    return tuple(f"label {at}" for at in range(num_labels))


def draw_window(
    rng: np.random.Generator,
    num_rows: int,
    rates: npt.ArrayLike,
    *,
    num_features: int = 4,
    feature_shift: Sequence[float] = (),
    name: str = "window",
    version: int = 1,
    num_rejected: int = 0,
) -> Window:
    """Return rows whose labels are yes at given rates; no row depends on another.

    The score of a row with the label is 3 higher, and feature 0 bears on the scores of all labels.
    """
    rates_L = np.asarray(rates, dtype=np.float64)
    shape = (num_rows, len(rates_L))
    x = rng.normal(size=(num_rows, num_features)).astype(np.float32)
    x[:, : len(feature_shift)] += np.float32(feature_shift)
    is_yes = rng.random(shape) < rates_L
    noise = np.tanh(rng.normal(size=shape) + 0.5 * x[:, :1])  # below 1 in size
    logits_NL = np.where(is_yes, 1.5, -1.5) + noise
    columns = {"x": tuple(f"feature {at}" for at in range(num_features))}
    return Window(
        name=name,
        model="weather",
        version=version,
        labels=names_of_labels(len(rates_L)),
        observations=Observations.of(
            logits_NL.astype(np.float32), logits_NL > 0, {"x": x}, columns
        ),
        num_rejected=num_rejected,
    )
