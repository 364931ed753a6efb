"""What each step tells, read without making a GPU wait."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from thresher_training.loop.processes import Team

__all__ = ["Readings", "Told"]

_LAG = 2  # steps: a GPU is kept this far ahead


@dataclass(frozen=True, slots=True)
class Told:
    """What one step told; the same in every process."""

    step: int
    loss: float
    stop: bool
    """Whether a process was asked to stop."""

    save: bool
    """Whether the main process wants a checkpoint."""


class Readings:
    """Takes each step's loss, and gives it back as a number: at once on a CPU, soon on a GPU.

    To ask a GPU for a number is to wait until it has done all its work. Here the number is copied
    while the next steps go on.
    """

    def __init__(self, device: torch.device, team: Team) -> None:
        self._device, self._team = device, team
        self._coming: deque[tuple[int, Tensor, torch.cuda.Event]] = deque()

    def put(self, step: int, loss: Tensor, *, stop: bool, save: bool) -> list[Told]:
        """Take a step's figures; return those that can be told now.

        Args:
            step: Which step of the epoch.
            loss: This process's part of the step's loss.
            stop: Whether this process was asked to stop.
            save: Whether this process wants a checkpoint; only the main one's wish counts.
        """
        if self._team.world_size == 1 and self._device.type == "cpu":
            return [Told(step, loss.item(), stop, save)]
        asked = torch.tensor([float(stop), float(save and self._team.is_main)])
        figures = torch.cat([loss.reshape(1), asked.to(self._device, non_blocking=True)])
        if self._team.world_size > 1:
            dist.all_reduce(figures)
        if self._device.type == "cpu":
            return [_told(step, figures)]
        copy = torch.empty(3, pin_memory=True).copy_(figures, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._coming.append((step, copy, done))
        return self._read(_LAG)

    def rest(self) -> list[Told]:
        """Return what has not been told yet, after waiting for it."""
        return self._read(0)

    def _read(self, lag: int) -> list[Told]:
        told = []
        while len(self._coming) > lag:
            step, copy, done = self._coming.popleft()
            done.synchronize()
            told.append(_told(step, copy))
        return told


def _told(step: int, figures: Tensor) -> Told:
    loss, stop, save = figures.tolist()
    return Told(step, loss, stop > 0, save > 0)
