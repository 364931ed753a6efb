"""Several processes, started by torchrun, that train one network together.

Gloo carries what lies in memory, NCCL what lies on GPUs. A process that dies closes its
connections, which is an error in the others, and torchrun ends what is left.
"""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from thresher.decision import FloatArray
from thresher.errors import ThresherError

__all__ = ["ALONE", "Team", "team_of_processes"]

_TIMEOUT = datetime.timedelta(hours=2)  # the main process tunes and reports while the others wait

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Team:
    """This process among those that train together; most often it is alone."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """Which of this machine's processes this is."""

    @property
    def is_main(self) -> bool:
        """Whether this is the process that talks to MLflow and writes files."""
        return self.rank == 0

    def on_main(self, action: Callable[[], T]) -> T:
        """Return in every process what an action gives in the main one; so with its error.

        Args:
            action: Runs in the main process alone; gives something that can be pickled.
        """
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = action()
            except ThresherError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Return every process's value, in order of rank; plain values and tensors."""
        if self.world_size == 1:
            return [value]
        own = io.BytesIO()
        torch.save(value, own)  # a plain pickle of a tensor is not always read back
        packed: list[Any] = [None] * self.world_size
        dist.all_gather_object(packed, own.getvalue())
        return [torch.load(io.BytesIO(each), weights_only=True) for each in packed]

    def gather_rows(self, part_NL: FloatArray, num_rows: int) -> FloatArray:
        """Return the rows of all processes, one after the other.

        Args:
            part_NL: float32, this process's part of ``num_rows``, as ``numpy.array_split`` cuts.
            num_rows: How many there are in all.
        """
        if self.world_size == 1:
            return part_NL
        sizes = [len(part) for part in np.array_split(np.arange(num_rows), self.world_size)]
        padded = torch.zeros(max(sizes), part_NL.shape[1])
        padded[: len(part_NL)] = torch.from_numpy(part_NL)
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        rows: FloatArray = torch.cat(
            [part[:size] for part, size in zip(parts, sizes, strict=True)]
        ).numpy()
        return rows

    def share_buffers(self, network: nn.Module) -> None:
        """Give every process the main one's buffers: the running figures of norms differ."""
        if self.world_size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    def wrap(self, network: nn.Module, device: torch.device, *, has_unused: bool) -> nn.Module:
        """Return the network such that a backward pass averages gradients over all processes.

        Args:
            network: On the device.
            device: Where it computes.
            has_unused: Whether some parameters take no part in the loss.
        """
        return nn.parallel.DistributedDataParallel(
            network,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=has_unused,
        )


ALONE = Team()


@contextmanager
def team_of_processes() -> Iterator[Team]:
    """Join the processes that torchrun started, as its environment variables say; else be alone."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1 or dist.is_initialized():
        yield ALONE if world_size == 1 else _this_process()
        return
    has_gpus = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if has_gpus and local_rank < torch.cuda.device_count():
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo", timeout=_TIMEOUT)
    try:
        yield _this_process()
    finally:
        dist.destroy_process_group()


def _this_process() -> Team:
    return Team(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))
