"""The fitting of a run's networks, one or several: what is shown, kept, and said when it fails."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thresher.errors import TrainingError
from thresher_training.cross_fit import mean_of_folds
from thresher_training.loop import (
    Checkpoints,
    EpochMetrics,
    FitResult,
    Interrupted,
    NoMemoryError,
    NonFiniteLossError,
    Stop,
    Team,
    doubts,
    fit,
)
from thresher_training.prepare import Prepared
from thresher_training.progress import show_progress, warn
from thresher_training.tracking import log_epoch, log_report

__all__ = ["Fitting"]

_FAILURE_FILE = "failure/batch.npz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitting:
    """How a run's networks are fitted, one after the other."""

    members: Sequence[Prepared]
    """The networks, each with its data and loss; more than one where the recipe cross-fits."""

    about: dict[str, Any]
    """What the checkpoints say that they are of."""

    run_id: str
    team: Team
    stop: Stop

    @property
    def is_finished(self) -> bool:
        """Whether the checkpoints hold all networks as they are at the end."""
        last = self._checkpoints(self._folds[-1])
        return last.exists and bool(last.load()["place"]["finished"])

    @property
    def _folds(self) -> range:
        return range(len(self.members))

    def _checkpoints(self, fold: int) -> Checkpoints:
        return Checkpoints(self.run_id, self.about, fold=fold)

    def run(self, *, resumed: bool) -> FitResult:
        """Return how it went; each network then holds the weights of its best epoch.

        The epochs of several networks are logged as one sequence, and returned as their mean.

        Args:
            resumed: Whether each network goes on from its checkpoint, where it has one.

        Raises:
            TrainingError: If a loss is no longer finite or memory does not suffice.
            Interrupted: After SIGTERM or Ctrl-C; says how to go on.
        """
        # the main process says which there are: another could see one that is being begun
        exist = self.team.on_main(
            lambda: [resumed and self._checkpoints(fold).exists for fold in self._folds]
        )
        results = [
            self._fit(fold, self._checkpoints(fold).load() if exist[fold] else None)
            for fold in self._folds
        ]
        if self.team.is_main:
            self._warn(results)
        return mean_of_folds(results) if len(results) > 1 else results[0]

    def _warn(self, results: Sequence[FitResult]) -> None:
        for fold, (member, result) in enumerate(zip(self.members, results, strict=True)):
            for doubt in doubts(result, member.recipe.optimization.best_by):
                warn(f"{member.recipe.name}{self._which(fold)}: warning: {doubt}")

    def _which(self, fold: int) -> str:
        """Return what tells a network from the others, where there are several."""
        return f", network {fold + 1} of {len(self.members)}" if len(self.members) > 1 else ""

    def _fit(self, fold: int, checkpoint: dict[str, Any] | None) -> FitResult:
        member = self.members[fold]
        recipe, data = member.recipe, member.data
        num_before = fold * recipe.optimization.epochs

        def log(epoch: EpochMetrics) -> None:
            log_epoch(replace(epoch, epoch=num_before + epoch.epoch))

        with ExitStack() as stack:
            if self.team.is_main:
                name = f"{recipe.name}{self._which(fold)}"
                show = stack.enter_context(show_progress(name, recipe.optimization.epochs))
                for past in [] if checkpoint is None else checkpoint["place"]["history"]:
                    log(EpochMetrics(**past))  # those that the run has are left out

            def on_epoch(epoch: EpochMetrics) -> None:
                show.epoch(epoch)
                log(epoch)

            try:
                return fit(
                    member.network,
                    data.splits["train"],
                    data.splits["validation"],
                    member.loss,
                    recipe.optimization,
                    seed=recipe.seed,
                    augment=data.augment,
                    trim_by=data.trim_by,
                    on_epoch=on_epoch,
                    on_step=show.step if self.team.is_main else None,
                    checkpoints=self._checkpoints(fold),
                    resume_from=checkpoint,
                    team=self.team,
                    stop=self.stop,
                )
            except NonFiniteLossError as error:
                if self.team.is_main:
                    _keep_batch(error)
                raise TrainingError(
                    f"{error}. The step's rows, inputs, targets and logits are in the artifacts "
                    f"of run {self.run_id}: {_FAILURE_FILE}"
                ) from error
            except NoMemoryError as error:
                raise TrainingError(f"{error}{self.how_to_go_on('with these keys')}") from error
            except Interrupted as error:
                raise Interrupted(f"{error}{self.how_to_go_on()}", error.signal_number) from None

    def how_to_go_on(self, what: str = "", *, override: str = "") -> str:
        """Return the sentence that says how the run is resumed; none where there is nothing."""
        if not self._checkpoints(0).exists:
            return ""
        command = f"thresher train RECIPE --resume {self.run_id}{override}"
        return f". The checkpoint is kept; go on{f' {what}' if what else ''}: {command}"


def _keep_batch(error: NonFiniteLossError) -> None:
    """Log the step's arrays with the run."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / _FAILURE_FILE
        path.parent.mkdir()
        np.savez_compressed(path, **error.arrays)  # type: ignore[arg-type]  # names are free
        log_report(Path(temporary))
