"""Progress of training on stderr: a bar on a terminal, else one line per epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from thresher.terminal import console, printable
from thresher_training.loop import EpochMetrics, StepProgress

__all__ = ["Shown", "show_progress", "warn"]

_REFRESH_S = 0.1


class Shown:
    """Shows epochs and steps; the base shows a line per epoch."""

    def __init__(self, name: str, num_epochs: int, console: Console) -> None:
        self._name, self._num_epochs, self._console = printable(name), num_epochs, console
        self._seconds: list[float] = []

    def epoch(self, epoch: EpochMetrics) -> None:
        """Show a finished epoch."""
        self._console.print(self._line(epoch), soft_wrap=True)

    def step(self, step: StepProgress) -> None:
        """Show a finished step; only a terminal has a place for it."""

    def _line(self, epoch: EpochMetrics) -> str:
        self._seconds.append(epoch.seconds)
        left = self._num_epochs - epoch.epoch
        left_s = left * sum(self._seconds) / len(self._seconds)
        return (
            f"{self._name}: epoch {epoch.epoch}/{self._num_epochs}  "
            f"loss {epoch.train_loss:.4f}, validation {epoch.validation_loss:.4f}, "
            f"macro-F1 at 0.5 {epoch.validation['macro_f1']:.4f}, "
            f"{epoch.rows_per_s:,.0f} rows/s" + (f", {_duration(left_s)} left" if left else "")
        )


class _Bar(Shown):
    """Lines of finished epochs above a bar of the one in progress."""

    def __init__(self, name: str, num_epochs: int, progress: Progress) -> None:
        super().__init__(name, num_epochs, progress.console)
        self._progress, self._shown_at = progress, 0.0
        self._task: TaskID = progress.add_task(self._name, total=None, figures="")

    def epoch(self, epoch: EpochMetrics) -> None:
        super().epoch(epoch)
        # until the next epoch's first step there is nothing to count
        self._progress.update(self._task, completed=0, total=None, figures="", refresh=True)

    def step(self, step: StepProgress) -> None:
        now = time.monotonic()
        if now - self._shown_at < _REFRESH_S and step.step < step.num_steps:
            return
        self._shown_at = now
        validates = ", validation" if step.step == step.num_steps else ""
        self._progress.update(
            self._task,
            description=f"{self._name} {step.epoch}/{self._num_epochs}",
            completed=step.step,
            total=step.num_steps,
            figures=f"loss {step.loss:.4f}, {step.rows_per_s:,.0f} rows/s{validates}",
        )


@contextmanager
def show_progress(name: str, num_epochs: int) -> Iterator[Shown]:
    """Give what shows epochs and steps.

    Args:
        name: What is trained.
        num_epochs: How many epochs there will be, at most.
    """
    shown = console(stderr=True)
    if not shown.is_terminal or not num_epochs:
        yield Shown(name, num_epochs, shown)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Progress(*columns, console=shown, transient=True) as progress:
        yield _Bar(name, num_epochs, progress)


def warn(text: str) -> None:
    """Print a line for the person at the terminal (stderr)."""
    console(stderr=True).print(text, soft_wrap=True)


def _duration(seconds: float) -> str:
    """Return a duration as people say it.

    Example:
        >>> _duration(42), _duration(200), _duration(9000)
        ('42 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
