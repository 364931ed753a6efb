"""Batches: rows of arrays become tensors on the device, ahead of time where that takes time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thresher_training.data import Augment, Split
from thresher_training.loop.sampling import Rows, known_targets, slices

__all__ = [
    "Batch",
    "Inputs",
    "Piece",
    "Step",
    "Timed",
    "TrainBatches",
    "as_tensor",
    "is_mapped",
    "take",
    "trimmed",
]

Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """The rows that one process takes through the network at once."""

    rows: Rows
    share: float
    """What the piece's mean loss counts in its step: its share of the step's known targets."""

    epoch: int
    step: int
    at: int
    """Which piece of the step."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What one step of the optimizer is made of."""

    rows: Rows
    """Of all batches and processes."""

    known: int
    """How many targets of these rows are known."""

    pieces: list[Piece]
    """This process's part of each batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A piece's tensors, on the device."""

    inputs: dict[str, Tensor]
    targets_NL: Tensor
    share: float


class TrainBatches:
    """Makes the train split's batches, for one process of several.

    Args:
        split: The train split; its arrays may be memory-mapped.
        batch_size: Examples in one batch, over all processes.
        device: Where the tensors go.
        seed: Of augmentation.
        augment: Alters a batch's inputs at random.
        trim_by: The input whose trailing zeros say which columns are padding.
        rank: Which process this is.
        world_size: How many there are; each takes its part of every batch.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        device: torch.device,
        *,
        seed: int,
        augment: Augment | None,
        trim_by: str | None,
        rank: int,
        world_size: int,
    ) -> None:
        self._inputs = {name: as_tensor(array) for name, array in split.inputs.items()}
        self._targets_NL = as_tensor(split.targets_NL)
        self._known_N = known_targets(split.targets_NL)
        self._batch_size, self._device, self._seed = batch_size, device, seed
        self._augment, self._trim_by = augment, trim_by
        self._rank, self._world_size = rank, world_size
        self._ahead = device.type == "cuda" or any(map(is_mapped, split.inputs.values()))

    def steps(self, rows: Sequence[Rows], *, epoch: int) -> list[Step]:
        """Return an epoch's steps.

        Args:
            rows: The rows of each, in every process the same.
            epoch: Counted from 1.
        """
        return [self._step(each, epoch=epoch, step=at) for at, each in enumerate(rows)]

    def _step(self, rows: Rows, *, epoch: int, step: int) -> Step:
        known = int(self._known_N[rows].sum())
        pieces = []
        for at, part in enumerate(slices(len(rows), self._batch_size)):
            own = rows[part]
            if self._world_size > 1:
                own = np.array_split(own, self._world_size)[self._rank]
            share = int(self._known_N[own].sum()) / max(1, known)
            # no rows left for this process: it still takes part, with what counts for nothing
            pieces.append(Piece(own if len(own) else rows[part][:1], share, epoch, step, at))
        return Step(rows, known, pieces)

    def make(self, pieces: Iterable[Piece]) -> Iterator[Batch]:
        """Yield the batch of each piece; the next one is made meanwhile where that takes time."""
        return _made_ahead(self._make, pieces) if self._ahead else map(self._make, pieces)

    def _make(self, piece: Piece) -> Batch:
        rows = torch.from_numpy(piece.rows)
        inputs = {name: array.index_select(0, rows) for name, array in self._inputs.items()}
        if self._trim_by is not None:
            inputs = trimmed(inputs, self._trim_by)
        if self._augment is not None:
            place = (self._seed, piece.epoch, piece.step, piece.at, self._rank)
            (word,) = np.random.SeedSequence(place).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(word) % 2**63)
            inputs = self._augment(inputs, generator)
        targets_NL = self._targets_NL.index_select(0, rows)
        return Batch(
            {name: to_device(tensor, self._device) for name, tensor in inputs.items()},
            to_device(targets_NL, self._device),
            piece.share,
        )


class Timed(Iterator[Batch]):
    """Measures how long batches are waited for."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches, self._seconds = batches, 0.0

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = next(self._batches)
        self._seconds += time.perf_counter() - started
        return batch

    def take_seconds(self) -> float:
        """Return the seconds since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def _made_ahead(make: Callable[[Piece], Batch], pieces: Iterable[Piece]) -> Iterator[Batch]:
    """Yield what ``make`` gives, with one background thread a batch ahead."""
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        coming = None
        for piece in pieces:
            following = pool.submit(make, piece)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor on an array's memory, or on a copy where torch cannot use it as it is."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def take(inputs: Inputs, rows: Rows | slice) -> dict[str, Tensor]:
    """Return rows of arrays as tensors; no more of a memory-mapped array is read."""
    return {name: as_tensor(np.asarray(array[rows])) for name, array in inputs.items()}


def is_mapped(array: npt.NDArray[Any]) -> bool:
    """Tell whether an array, or what it is a view of, lies in a file."""
    holder: Any = array
    while isinstance(holder, np.ndarray):
        if isinstance(holder, np.memmap):
            return True
        holder = holder.base
    return False


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device; a GPU takes it from pinned memory while it goes on computing."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def trimmed(inputs: dict[str, Tensor], trim_by: str) -> dict[str, Tensor]:
    """Return a batch without the last columns that are padding in every row.

    Args:
        inputs: Tensors by name.
        trim_by: The one, [N, T], that is 0 where a row is padding; every input [N, T] is cut.
    """
    width = inputs[trim_by].shape[1]
    used = torch.nonzero((inputs[trim_by] != 0).any(dim=0))
    length = int(used[-1]) + 1 if len(used) else 1
    if length == width:
        return inputs
    return {
        name: tensor[:, :length].contiguous() if tensor.shape[1:] == (width,) else tensor
        for name, tensor in inputs.items()
    }
