"""Which train rows make each step: drawn anew every epoch, from seed and epoch alone.

Nothing here has a state, so there is nothing that a resumption could lose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher_training.data import Split
from thresher_training.recipe import OptimizationConfig

__all__ = ["Rows", "Sampler", "known_targets", "row_blocks", "row_lengths", "slices"]

_WINDOW_STEPS = 50
_BLOCK_BYTES = 32 * 2**20

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Sampler:
    """Draws the rows of each step.

    A step's rows depend on ``batch_size * accumulate`` alone: the same gradients come from fewer
    examples at a time.
    """

    num_rows: int
    rows_per_step: int
    seed: int
    weights_N: npt.NDArray[np.float64] | None
    """How likely each row is to be drawn; each row comes once an epoch where None."""

    lengths_N: Rows | None
    """Each row's length in columns; rows of similar length share a step where given."""

    @classmethod
    def of(
        cls, split: Split, config: OptimizationConfig, *, seed: int, trim_by: str | None
    ) -> Sampler:
        """Return the sampler that a recipe asks for."""
        weights_N = None
        if config.sampler == "label_aware":
            from thresher_training.sampler import label_aware_weights

            weights_N = label_aware_weights(split.targets_NL)
        return cls(
            num_rows=len(split),
            rows_per_step=config.batch_size * config.accumulate,
            seed=seed,
            weights_N=weights_N,
            lengths_N=row_lengths(split.inputs[trim_by]) if trim_by else None,
        )

    @property
    def num_steps(self) -> int:
        """How many steps make an epoch."""
        return len(slices(self.num_rows, self.rows_per_step))

    def steps(self, epoch: int) -> list[Rows]:
        """Return the rows of each step of an epoch."""
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights_N is None:
            order = rng.permutation(self.num_rows)
        else:
            share_N = self.weights_N / self.weights_N.sum()
            order = rng.choice(self.num_rows, size=self.num_rows, p=share_N)
        if self.lengths_N is None:
            return [order[part] for part in slices(self.num_rows, self.rows_per_step)]
        # a large window is sorted, so that a step has little padding; what is in a window, and in
        # which order the steps come, stays random
        window = _WINDOW_STEPS * self.rows_per_step
        for start in range(0, self.num_rows, window):
            rows = order[start : start + window]
            order[start : start + window] = rows[np.argsort(self.lengths_N[rows], kind="stable")]
        steps = [order[part] for part in slices(self.num_rows, self.rows_per_step)]
        return [steps[at] for at in rng.permutation(len(steps))]


def slices(num_rows: int, size: int) -> list[slice]:
    """Return slices of a size; a last one of a single row joins the one before.

    A batch-norm has nothing to normalise in a single row, and refuses it.

    Example:
        >>> [(part.start, part.stop) for part in slices(9, 4)]
        [(0, 4), (4, 9)]
    """
    starts = list(range(0, num_rows, size))
    if not starts:
        return []
    if size > 1 < len(starts) and num_rows - starts[-1] == 1:
        del starts[-1]
    return [slice(a, b) for a, b in zip(starts, [*starts[1:], num_rows], strict=True)]


def row_lengths(mask_NT: npt.NDArray[Any]) -> Rows:
    """Return how many columns each row needs, int64 [N]: up to the last that is not 0; at least 1.

    Args:
        mask_NT: [N, T], 0 where a row is padding.
    """
    columns_T = np.arange(1, mask_NT.shape[1] + 1)
    lengths = [((mask_NT[rows] != 0) * columns_T).max(axis=1) for rows in row_blocks(mask_NT)]
    lengths_N: Rows = np.maximum(np.concatenate(lengths), 1).astype(np.int64)
    return lengths_N


def row_blocks(array: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows, a few megabytes each: an array may be larger than memory."""
    step = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        yield slice(start, start + step)


def known_targets(targets_NL: FloatArray) -> Rows:
    """Return how many of each row's targets are known, int64 [N]."""
    return np.concatenate(
        [(~np.isnan(targets_NL[rows])).sum(axis=1) for rows in row_blocks(targets_NL)]
    )
