"""The training loop: epochs of steps, the best epoch by validation, early stopping, checkpoints.

The same seed gives the same weights on the same machine, interrupted or not, and no global random
state is left changed. That holds on a CPU; a GPU adds in any order unless
`torch.use_deterministic_algorithms(True)` and CUBLAS_WORKSPACE_CONFIG=:4096:8 are set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thresher.decision import FloatArray
from thresher.errors import TrainingError
from thresher_training.data import Augment, Split
from thresher_training.loop.batches import Step, Timed, TrainBatches, take
from thresher_training.loop.checkpoint import Checkpoints
from thresher_training.loop.evaluate import predict_logits, validation_figures
from thresher_training.loop.faults import explained, non_finite_loss
from thresher_training.loop.place import Place
from thresher_training.loop.precision import find_device
from thresher_training.loop.processes import ALONE, Team
from thresher_training.loop.randomness import random_state, seeded, set_random_state
from thresher_training.loop.readings import Readings, Told
from thresher_training.loop.result import EpochMetrics, FitResult, StepProgress
from thresher_training.loop.sampling import Sampler
from thresher_training.loop.steps import Stepper
from thresher_training.loop.stopping import Stop
from thresher_training.recipe import OptimizationConfig

__all__ = ["fit"]

Loss = Callable[[Tensor, Tensor], Tensor]


def fit(
    network: nn.Module,
    train: Split,
    validation: Split,
    loss: Loss,
    config: OptimizationConfig,
    *,
    seed: int,
    augment: Augment | None = None,
    trim_by: str | None = None,
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None,
    on_step: Callable[[StepProgress], None] | None = None,
    checkpoints: Checkpoints | None = None,
    resume_from: Mapping[str, Any] | None = None,
    team: Team = ALONE,
    stop: Stop | None = None,
) -> FitResult:
    """Return how training went, and leave the best epoch's weights in the network, on the CPU.

    Args:
        network: Takes the inputs by name, gives float32 logits [N, L]; changed in place.
        train: What the weights are fitted to.
        validation: What picks the epoch.
        loss: Of logits and targets, both [N, L]; the mean over known targets.
        config: The recipe's section.
        seed: Of sampling, augmentation and dropout.
        augment: Alters each train batch.
        trim_by: An input [N, T], 0 where a row is padding, which is cut off each batch.
        on_epoch: Called after every epoch, in the main process.
        on_step: Called after every step, in the main process.
        checkpoints: Where the state is kept; nowhere if None.
        resume_from: What a checkpoint of the same run held, to go on from there.
        team: This process among those that train together.
        stop: Asked after every step.

    Raises:
        TrainingError: If the loss or a validation logit is no longer a finite number, memory does
            not suffice, or the network fails.
        ConfigError: If the device cannot do what the recipe asks for.
        Interrupted: If `stop` was requested; there is a checkpoint then.
    """
    stop = stop or Stop()
    result = FitResult(best_epoch=0, epochs=())
    if config.epochs > 0:
        device = find_device(config, local_rank=team.local_rank)
        network.to(device)
        if isinstance(loss, nn.Module):
            loss.to(device)
        # processes draw different dropout; the main one draws what one process alone would
        with seeded(seed + team.rank), stop.at_the_next_step():
            run = _Run(
                *(network, train, validation, loss, config, seed, augment, trim_by),
                *(on_epoch, on_step, checkpoints, team, stop, device),
            )
            result = run.to_the_end(resume_from)
        network.cpu()
    # the plain layout: a pt2 file takes no other, and its logits are then these very logits
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return result


@dataclass(slots=True)
class _Run:
    """One call of `fit`; its first fields are the call's arguments."""

    network: nn.Module
    train: Split
    validation: Split
    loss: Loss
    config: OptimizationConfig
    seed: int
    augment: Augment | None
    trim_by: str | None
    on_epoch: Callable[[EpochMetrics], None]
    on_step: Callable[[StepProgress], None] | None
    checkpoints: Checkpoints | None
    team: Team
    stop: Stop
    device: torch.device
    sampler: Sampler = field(init=False)
    batches: TrainBatches = field(init=False)
    stepper: Stepper = field(init=False)
    readings: Readings = field(init=False)
    place: Place = field(default_factory=Place)
    saved_at: float = field(default_factory=time.monotonic)
    resumed_at: float = 0.0

    def __post_init__(self) -> None:
        self.sampler = Sampler.of(self.train, self.config, seed=self.seed, trim_by=self.trim_by)
        self.batches = TrainBatches(
            *(self.train, self.config.batch_size, self.device),
            seed=self.seed,
            augment=self.augment,
            trim_by=self.trim_by,
            rank=self.team.rank,
            world_size=self.team.world_size,
        )
        self.stepper = Stepper(
            *(self.network, self.loss, self.config),
            num_steps=self.config.epochs * self.sampler.num_steps,
            device=self.device,
            team=self.team,
            example=take(self.train.inputs, slice(0, 2)),
        )
        self.readings = Readings(self.device, self.team)

    def to_the_end(self, resume_from: Mapping[str, Any] | None) -> FitResult:
        """Train all epochs that are left; leave the best weights in the network."""
        if resume_from is None:
            self._save()
        else:
            self._restore(resume_from)
        while not self.place.finished:
            with explained(self.network, self.config, self._where):
                self._train_epoch()
            self._evaluate_epoch()
        self.network.load_state_dict(self.place.best_weights)
        return FitResult(best_epoch=self.place.best_epoch, epochs=tuple(self.place.history))

    def _train_epoch(self) -> None:
        """Take the steps of this epoch that are left."""
        place = self.place
        steps = self.batches.steps(self.sampler.steps(place.epoch), epoch=place.epoch)
        left = steps[place.step :]
        batches = Timed(self.batches.make([piece for step in left for piece in step.pieces]))
        norms: list[Tensor] = []
        self.network.train()
        self.resumed_at = time.perf_counter()
        for step in left:
            loss = self.stepper.gradients(batches, len(step.pieces))
            told = self.readings.put(
                place.step, loss, stop=self.stop.requested, save=self._is_due()
            )
            self._take_in(told, steps)
            norms.append(self.stepper.update())
            place.step += 1
            place.tally.rows += len(step.rows)
            if self.on_step is not None and self.team.is_main:
                self._show(self.on_step, len(steps))
            if any(each.stop or each.save for each in told):
                self._settle(batches, norms, steps)
                self._save()
                if any(each.stop for each in told):
                    raise self.stop.interruption(
                        f" after step {place.step} of {len(steps)} in epoch {place.epoch}"
                    )
        self._settle(batches, norms, steps)

    def _take_in(self, told: list[Told], steps: list[Step]) -> None:
        """Add up losses, and refuse one that is not finite."""
        for each in told:
            step = steps[each.step]
            if not math.isfinite(each.loss):
                raise non_finite_loss(
                    *(self.network, self.train, step.rows, self.config),
                    loss=each.loss,
                    epoch=self.place.epoch,
                    step=each.step + 1,
                    learning_rate=self.stepper.learning_rate,
                )
            self.place.tally.loss += each.loss * step.known
            self.place.tally.known += step.known

    def _settle(self, batches: Timed, norms: list[Tensor], steps: list[Step]) -> None:
        """Bring the tally up to the last step."""
        self._take_in(self.readings.rest(), steps)
        tally = self.place.tally
        if norms:
            norm_S = torch.stack(norms).double()
            finite_S = norm_S[norm_S.isfinite()]  # fp16's scaler skips the steps of the others
            tally.norm += float(finite_S.sum())
            tally.num_norms += len(finite_S)
            norms.clear()
        tally.wait_s += batches.take_seconds()
        tally.train_s += time.perf_counter() - self.resumed_at
        self.resumed_at = time.perf_counter()

    def _evaluate_epoch(self) -> None:
        """Take the epoch's figures and decide what they mean; leave a checkpoint."""
        place, network = self.place, self.stepper.evaluated
        started = time.perf_counter()
        self.team.share_buffers(network)
        with explained(self.network, self.config, lambda: f"validation of epoch {place.epoch}"):
            logits_NL = predict_logits(
                network,
                self.validation.inputs,
                trim_by=self.trim_by,
                team=self.team,
                between=self._end_if_asked,
            )
        found = self.team.on_main(lambda: self._figures(logits_NL, started))
        place.close_epoch(
            found,
            network,
            best_by=self.config.best_by,
            num_epochs=self.config.epochs,
            patience=self.config.early_stopping_patience,
        )
        self._save()
        if self.team.is_main:
            self.on_epoch(found)

    def _figures(self, logits_NL: FloatArray, started: float) -> EpochMetrics:
        epoch, tally = self.place.epoch, self.place.tally
        value, figures = validation_figures(
            logits_NL, self.validation, self.loss, self.device, epoch=epoch
        )
        return EpochMetrics(
            epoch=epoch,
            train_loss=tally.loss / max(1, tally.known),
            validation_loss=value,
            validation=figures,
            learning_rate=self.stepper.learning_rate,
            gradient_norm=tally.norm / max(1, tally.num_norms),
            rows_per_s=tally.rows / max(1e-9, tally.train_s),
            data_wait_fraction=tally.wait_s / max(1e-9, tally.train_s),
            seconds=tally.train_s + time.perf_counter() - started,
        )

    def _end_if_asked(self) -> None:
        """End in the middle of an evaluation, which is then done anew; alone, for all or none."""
        if self.stop.requested and self.team.world_size == 1:
            self._save()
            raise self.stop.interruption(f" in the validation of epoch {self.place.epoch}")

    def _is_due(self) -> bool:
        waited_s = time.monotonic() - self.saved_at
        return self.checkpoints is not None and waited_s >= 60 * self.config.checkpoint_minutes

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        random_states = self.team.gather(random_state())
        if self.team.is_main:
            place, stepper = self.place.state(), self.stepper.state()
            self.checkpoints.save({"place": place, "steps": stepper, "random": random_states})
        self.saved_at = time.monotonic()
        self.resumed_at = time.perf_counter()

    def _restore(self, state: Mapping[str, Any]) -> None:
        try:
            self.stepper.restore(state["steps"])
            self.place = Place.restored(state["place"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"the checkpoint does not fit this network: {error}") from error
        set_random_state(state["random"][self.team.rank % len(state["random"])])

    def _show(self, on_step: Callable[[StepProgress], None], num_steps: int) -> None:
        place, tally = self.place, self.place.tally
        train_s = tally.train_s + time.perf_counter() - self.resumed_at
        on_step(
            StepProgress(
                epoch=place.epoch,
                step=place.step,
                num_steps=num_steps,
                loss=tally.loss / max(1, tally.known),
                rows_per_s=tally.rows / max(1e-9, train_s),
            )
        )

    def _where(self) -> str:
        return f"epoch {self.place.epoch}, step {self.place.step + 1}"
