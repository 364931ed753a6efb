"""A training loop and scores with nothing in them but what `questions.py` varies.

AdamW, warm-up and cosine, one thread; the epoch with the best validation mAP is kept, since mAP
needs no threshold and favours no loss. Thresholds are tuned on validation rows, test rows report.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from real_data import RealData, load
from scipy import sparse
from sklearn.metrics import accuracy_score, average_precision_score, f1_score
from torch import Tensor, nn

from thresher.decision import Decision, FloatArray, sigmoid
from thresher_training import DecisionConfig
from thresher_training.decisions import tune_decision
from thresher_training.decisions.calibration import calibration_error, fit_calibration

__all__ = [
    "Fitted",
    "Rows",
    "Task",
    "calibration_scores",
    "fitted",
    "logits_of",
    "mean_average_precision",
    "mlp",
    "scores",
    "task",
]

VALIDATION_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Inputs and targets of one split."""

    features: Tensor
    targets_NL: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A data set: official test rows; the official train rows split at random by seed."""

    labels: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A network with the best epoch's weights, in evaluation mode."""

    network: nn.Module
    goodness: float
    epoch: int
    """Counted from 1."""

    learning_rate: float


def task(name: str, *, seed: int) -> Task:
    """Return a Mulan set, the train rows split by seed into those to fit and those to tune on."""
    data = _loaded(name)
    train, test = (
        np.asarray(each.toarray() if sparse.issparse(each) else each, dtype=np.float32)
        for each in (data.train_inputs, data.test_inputs)
    )
    order = np.random.default_rng(seed).permutation(len(train))
    held_out, fitted_on = np.split(order, [round(VALIDATION_SHARE * len(train))])
    if not sparse.issparse(data.train_inputs):
        mean, spread = train[fitted_on].mean(axis=0), train[fitted_on].std(axis=0) + 1e-6
        train, test = (train - mean) / spread, (test - mean) / spread
    return Task(
        labels=data.labels,
        train=_rows(train, data.train_targets_NL, fitted_on),
        validation=_rows(train, data.train_targets_NL, held_out),
        test=_rows(test, data.test_targets_NL, np.arange(len(test))),
    )


@cache
def _loaded(name: str) -> RealData:
    return load(name)


def _rows(features: npt.NDArray, targets_NL: FloatArray, at: npt.NDArray) -> Rows:
    return Rows(features=torch.from_numpy(features[at]), targets_NL=targets_NL[at])


def mlp(
    num_features: int, num_labels: int, hidden: int, *, last: nn.Module | None = None
) -> nn.Module:
    """Return one hidden layer with dropout, or none: logistic regression."""
    layers: list[nn.Module] = []
    if hidden:
        layers = [nn.Linear(num_features, hidden), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(
        *layers, nn.Linear(hidden or num_features, num_labels), last or nn.Identity()
    )


def fitted(
    make: Callable[[], nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor],
    train: Rows,
    goodness: Callable[[nn.Module], float],
    *,
    seed: int,
    epochs: int,
    learning_rate: float = 2e-3,
    targets: Tensor | None = None,
    draw: npt.NDArray | None = None,
) -> Fitted:
    """Return the network of the best epoch.

    Args:
        make: Makes the network; called with torch seeded.
        loss: Of the network's output and targets.
        train: The rows to fit.
        goodness: Of the network after an epoch; the largest is kept.
        seed: Of weights, order and dropout.
        epochs: Passes over the rows.
        learning_rate: The highest.
        targets: Instead of ``train.targets_NL``.
        draw: Shares with which rows are drawn; each once an epoch where left out.
    """
    torch.manual_seed(seed)
    network = make()
    targets = torch.from_numpy(train.targets_NL) if targets is None else targets
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=1e-2)
    steps = epochs * math.ceil(len(targets) / 64)
    warm_up = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda at: min((at + 1) / warm_up, 0.5 + 0.5 * math.cos(math.pi * min(1, at / steps))),
    )
    best, best_epoch, kept = -math.inf, 0, None
    for epoch in range(1, epochs + 1):
        network.train()
        for rows in _order(len(targets), draw).split(64):
            optimizer.zero_grad()
            loss(network(train.features[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
        network.eval()
        now = goodness(network)
        if now > best:
            best, best_epoch, kept = now, epoch, copy.deepcopy(network.state_dict())
    network.load_state_dict(kept)
    return Fitted(network=network, goodness=best, epoch=best_epoch, learning_rate=learning_rate)


def _order(num_rows: int, draw: npt.NDArray | None) -> Tensor:
    if draw is None:
        return torch.randperm(num_rows)
    return torch.multinomial(torch.from_numpy(draw), num_rows, replacement=True)


def logits_of(network: nn.Module, rows: Rows) -> FloatArray:
    """Return float32 [N, L]."""
    with torch.inference_mode():
        return network(rows.features).numpy()


def mean_average_precision(logits_NL: FloatArray, targets_NL: FloatArray) -> float:
    """Return macro mAP over the labels with positives."""
    has_L = targets_NL.any(axis=0)
    return float(average_precision_score(targets_NL[:, has_L], logits_NL[:, has_L]))


def scores(data: Task, validation_NL: FloatArray, test_NL: FloatArray) -> dict[str, float]:
    """Return test figures at 0.5, at one shared threshold, and at thresholds per label."""
    tuned = tune_decision(
        data.labels, validation_NL, data.validation.targets_NL, DecisionConfig(min_positives=1)
    )
    half = Decision(labels=data.labels, thresholds=np.full(len(data.labels), 0.5))
    found = {"mAP": mean_average_precision(test_NL, data.test.targets_NL)}
    truth = data.test.targets_NL == 1
    for at, decision in (("0.5", half), ("shared", tuned.shared), ("tuned", tuned.decision)):
        _, yes = decision.apply(test_NL)
        found[f"subset accuracy at {at}"] = float(accuracy_score(truth, yes))
        for name, average in (("macro", "macro"), ("micro", "micro"), ("example", "samples")):
            found[f"{name}-F1 at {at}"] = float(
                f1_score(truth, yes, average=average, zero_division=0)
            )
    return found


def calibration_scores(
    data: Task,
    validation_NL: FloatArray,
    test_NL: FloatArray,
    log_pos_weight_L: FloatArray | None = None,
) -> dict[str, float]:
    """Return ECE on test, in points of 100: as it is, after Platt, and moved by log pos_weight."""
    targets_NL = data.test.targets_NL
    scale_L, bias_L = fit_calibration(validation_NL, data.validation.targets_NL, "platt")
    found = {"ECE": test_NL, "ECE after Platt": test_NL * scale_L + bias_L}
    if log_pos_weight_L is not None:
        found["ECE less log pos_weight"] = test_NL - log_pos_weight_L
    return {
        name: 100 * calibration_error(sigmoid(logits_NL), targets_NL).ece
        for name, logits_NL in found.items()
    }
