"""What the checks look at: a copy of the network, and some real rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from thresher_training.data import DataSet, Split
from thresher_training.loop import as_tensor
from thresher_training.loop.batches import trimmed
from thresher_training.prepare import Prepared

__all__ = ["Case", "open_case", "rows_of", "spread_rows", "unchanged_buffers"]

_NUM_ROWS, _NUM_ROWS_OF_LARGE = 128, 32
"""Train rows that the quick checks give to the network; fewer where it is large, and slow."""

_LARGE = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A network to be examined."""

    prepared: Prepared
    network: nn.Module
    """A copy: whatever a check does to it, the user's network stays as it was."""

    inputs: Mapping[str, Tensor]
    """Train rows by input name."""

    targets_NL: Tensor
    """Their targets."""

    @property
    def is_large(self) -> bool:
        """Whether the network is so large that each row counts."""
        return _is_large(self.network)


def open_case(prepared: Prepared, network: nn.Module) -> Case:
    """Return the network's case, with train rows spread evenly over the split.

    Args:
        prepared: What is examined.
        network: A copy of its network.
    """
    train = prepared.data.splits["train"]
    rows = spread_rows(len(train), _NUM_ROWS_OF_LARGE if _is_large(network) else _NUM_ROWS)
    return Case(
        prepared=prepared,
        network=network,
        inputs=rows_of(prepared.data, train, rows),
        targets_NL=as_tensor(train.targets_NL[rows]),
    )


def _is_large(network: nn.Module) -> bool:
    return sum(parameter.numel() for parameter in network.parameters()) > _LARGE


def spread_rows(num_rows: int, at_most: int) -> npt.NDArray[np.intp]:
    """Return row numbers from first to last, evenly spread, each once.

    Example:
        >>> spread_rows(10, 4).tolist()
        [0, 3, 6, 9]
    """
    return np.unique(np.linspace(0, num_rows - 1, min(num_rows, at_most)).astype(np.intp))


def rows_of(data: DataSet, split: Split, rows: npt.NDArray[np.intp]) -> dict[str, Tensor]:
    """Return some rows' inputs as tensors, padding cut off as in training."""
    inputs = {name: as_tensor(array[rows]) for name, array in split.inputs.items()}
    return inputs if data.trim_by is None else trimmed(inputs, data.trim_by)


@contextmanager
def unchanged_buffers(network: nn.Module) -> Iterator[None]:
    """Put buffers (a norm's running statistics) and modes back as they were at the end."""
    modes = {module: module.training for module in network.modules()}
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                buffer.copy_(before[name])
        for module, mode in modes.items():
            module.training = mode
