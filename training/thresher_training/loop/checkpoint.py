"""Checkpoints: one file, replaced as a whole, so that there is always one that is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from thresher.errors import NotFoundError, TrainingError

__all__ = ["CHECKPOINTS", "Checkpoints"]

CHECKPOINTS = Path(".thresher") / "checkpoints"
"""Where runs keep theirs, from the working folder; each in a folder named by its id."""

_FILE = "checkpoint.pt"
_FORMAT = 1


class Checkpoints:
    """The checkpoint of one run, or of one network of it.

    Args:
        run_id: The MLflow run's id.
        about: What the run is of; kept in each checkpoint, for whoever resumes it to compare.
        fold: Which network of a run that cross-fits, from 0; each has a file of its own.
        root: The folder that holds the folders of all runs.
    """

    def __init__(
        self,
        run_id: str,
        about: Mapping[str, Any] | None = None,
        *,
        fold: int = 0,
        root: Path = CHECKPOINTS,
    ) -> None:
        self.run_id = run_id
        self.about = dict(about or {})
        self.folder = root / run_id
        self.path = self.folder / (f"checkpoint-{fold}.pt" if fold else _FILE)

    @property
    def exists(self) -> bool:
        """Whether there is one."""
        return self.path.is_file()

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint.

        The new one is on the disk before it takes the place of the old one: whenever the process
        or the machine dies, one of the two is there, complete.

        Raises:
            TrainingError: If the disk does not take it.
        """
        partial = self.path.with_name(f"{self.path.name}.partial")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                torch.save({**state, "about": self.about, "format": _FORMAT}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
            _sync_folder(self.folder)
        except (OSError, RuntimeError) as error:  # torch's own writer gives RuntimeError
            raise TrainingError(
                f"{self.folder}: the checkpoint cannot be written: {error}; the one before it is "
                "kept"
            ) from error

    def load(self) -> dict[str, Any]:
        """Return the state that `save` was given, with what it was about under ``"about"``.

        Raises:
            NotFoundError: If there is none; lists the runs that have one.
            TrainingError: If it cannot be read.
        """
        path = self.path
        if not path.is_file():
            kept = sorted(other.parent.name for other in self.folder.parent.glob(f"*/{_FILE}"))
            there = f"there are checkpoints of: {', '.join(kept)}" if kept else "there are none"
            raise NotFoundError(
                f"run {self.run_id} has no checkpoint in {self.folder} ({there}). Checkpoints lie "
                "in the working folder of the training, and go when its version is registered"
            )
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise TrainingError(f"{path}: not a checkpoint that can be read: {error}") from error
        if not isinstance(state, dict) or state.get("format") != _FORMAT:
            raise TrainingError(f"{path}: a checkpoint of another version of Thresher")
        return state

    def remove(self) -> None:
        """Remove the run's checkpoints, of all folds; nothing happens where there are none."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Have the renaming itself on the disk, where the system knows such a thing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
