"""The training loop: AdamW, warm-up and cosine, the best epoch by validation, early stopping.

The same seed gives the same weights on the same machine, and no global random state is left
changed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from thresher.decision import FloatArray, sigmoid
from thresher.errors import TrainingError
from thresher_training.data import Split
from thresher_training.metrics import metrics
from thresher_training.recipe import OptimizationConfig

__all__ = ["EpochMetrics", "FitResult", "as_tensor", "fit", "predict_logits", "seeded"]

_EVALUATION_BATCH = 256

Loss = Callable[[Tensor, Tensor], Tensor]
Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochMetrics:
    """What one epoch gave."""

    epoch: int
    """Counted from 1."""

    train_loss: float
    validation_loss: float
    validation_macro_f1: float
    """At 0.5, like micro-F1."""

    validation_micro_f1: float
    learning_rate: float
    """At the end of the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """How training went; the network holds the best epoch's weights."""

    best_epoch: int
    epochs: tuple[EpochMetrics, ...]


def fit(
    network: nn.Module,
    train: Split,
    validation: Split,
    loss: Loss,
    config: OptimizationConfig,
    *,
    seed: int,
    on_epoch: Callable[[EpochMetrics], None] = lambda _: None,
) -> FitResult:
    """Return how training went, and leave the best epoch's weights in the network.

    Args:
        network: Takes the inputs by name, gives float32 logits [N, L]; changed in place.
        train: What the weights are fitted to.
        validation: What picks the epoch.
        loss: Of logits and targets, both [N, L].
        config: The recipe's section.
        seed: Of shuffling and dropout.
        on_epoch: Called after every epoch.

    Raises:
        TrainingError: If the loss or a validation logit is no longer a finite number.
    """
    inputs = {name: as_tensor(array) for name, array in train.inputs.items()}
    targets_NL = as_tensor(train.targets_NL)
    num_batches = math.ceil(len(train) / config.batch_size)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, _warmup_cosine(config.epochs * num_batches, config.warmup_fraction)
    )
    shuffle = torch.Generator().manual_seed(seed)
    epochs: list[EpochMetrics] = []
    best: EpochMetrics | None = None
    best_weights = copy.deepcopy(network.state_dict())
    with seeded(seed):
        for epoch in range(1, config.epochs + 1):
            network.train()
            total = 0.0
            order = torch.randperm(len(train), generator=shuffle)
            for start in range(0, len(train), config.batch_size):
                rows = order[start : start + config.batch_size]
                logits_NL = network(**{name: array[rows] for name, array in inputs.items()})
                batch_loss = loss(logits_NL, targets_NL[rows])
                optimizer.zero_grad()
                batch_loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                total += batch_loss.item() * len(rows)
                if not math.isfinite(total):
                    raise TrainingError(
                        f"the training loss is {batch_loss.item()} in epoch {epoch}; the learning "
                        f"rate of {config.learning_rate:g} may be too high, or inputs may be huge"
                    )
            now = _evaluate(
                network,
                validation,
                loss,
                epoch=epoch,
                train_loss=total / len(train),
                learning_rate=float(schedule.get_last_lr()[0]),
            )
            epochs.append(now)
            if best is None or _goodness(now, config.best_by) > _goodness(best, config.best_by):
                best = now
                best_weights = copy.deepcopy(network.state_dict())
            on_epoch(now)
            patience = config.early_stopping_patience
            if patience is not None and epoch - best.epoch >= patience:
                break
    network.load_state_dict(best_weights)
    # the plain layout: a pt2 file takes no other, and its logits are then these very logits
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    assert best is not None  # the first epoch is always the best so far
    return FitResult(best_epoch=best.epoch, epochs=tuple(epochs))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator, and put it back as it was at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def as_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor on an array's memory, or on a copy where torch cannot use it as it is."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def predict_logits(network: nn.Module, inputs: Inputs) -> FloatArray:
    """Return float32 [N, L]: the network's logits in evaluation mode.

    Args:
        network: Takes the inputs by name; left in the mode it was in.
        inputs: Arrays [N, ...] by name.
    """
    tensors = {name: as_tensor(array) for name, array in inputs.items()}
    num_rows = len(next(iter(tensors.values())))
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            batches = [
                network(**{n: t[start : start + _EVALUATION_BATCH] for n, t in tensors.items()})
                for start in range(0, num_rows, _EVALUATION_BATCH)
            ]
    finally:
        network.train(was_training)
    logits_NL: FloatArray = torch.cat(batches).numpy()
    return logits_NL


def _evaluate(
    network: nn.Module,
    validation: Split,
    loss: Loss,
    *,
    epoch: int,
    train_loss: float,
    learning_rate: float,
) -> EpochMetrics:
    logits_NL = predict_logits(network, validation.inputs)
    broken = ~np.isfinite(logits_NL).all(axis=1)
    if broken.any():
        raise TrainingError(
            f"the network's logits are not finite for {int(broken.sum())} of {len(validation)} "
            f"validation rows (first: row {int(np.argmax(broken))}) after epoch {epoch}"
        )
    at_half = metrics(validation.targets_NL, sigmoid(logits_NL) >= np.float32(0.5))
    with torch.inference_mode():
        value = loss(torch.from_numpy(logits_NL), as_tensor(validation.targets_NL)).item()
    return EpochMetrics(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=value,
        validation_macro_f1=at_half.macro_f1,
        validation_micro_f1=at_half.micro_f1,
        learning_rate=learning_rate,
    )


def _goodness(epoch: EpochMetrics, best_by: str) -> float:
    """Return what picks the best epoch: larger is better."""
    if best_by == "loss":
        return -epoch.validation_loss
    return epoch.validation_macro_f1 if best_by == "macro_f1" else epoch.validation_micro_f1


def _warmup_cosine(num_steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Return the factor on the learning rate by step: a line up to 1, then half a cosine to 0."""
    num_warmup = max(1, round(num_steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor
