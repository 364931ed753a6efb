"""Progress of training on stderr: a bar on a terminal, else one line per epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from thresher_training.loop import EpochMetrics

__all__ = ["show_progress"]


@contextmanager
def show_progress(name: str, num_epochs: int) -> Iterator[Callable[[EpochMetrics], None]]:
    """Give a function that shows an epoch.

    Args:
        name: What is trained.
        num_epochs: How many epochs there will be, at most.
    """
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield lambda epoch: console.print(
            f"{name}: epoch {epoch.epoch}/{num_epochs}  {_figures(epoch)}", soft_wrap=True
        )
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"train {name}", total=num_epochs, figures="")
        yield lambda epoch: progress.update(
            task, completed=epoch.epoch, figures=_figures(epoch), refresh=True
        )


def _figures(epoch: EpochMetrics) -> str:
    return (
        f"loss {epoch.train_loss:.4f}, validation {epoch.validation_loss:.4f}, "
        f"macro-F1 at 0.5 {epoch.validation_macro_f1:.4f}"
    )
