"""Cross-fitting: networks that each leave out a fold, so that every row can choose thresholds.

Where rows are few, a validation split is too small to choose thresholds on, and dear: its rows
train nothing. With K folds each row trains K - 1 networks and is scored by the one that is left.

Source: L. Breiman, "Bagging predictors", 1996, and "Stacked regressions", 1996, for the mean of
networks and for scores of rows that a network has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from thresher_training.data import DataSet, Split
from thresher_training.loop import EpochMetrics, FitResult
from thresher_training.stratify import IntArray, stratify
from thresher_training.wrapping import Wrapper

__all__ = ["Folds", "MeanOfNetworks", "mean_of_folds"]

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Folds:
    """The train and validation rows of a data set, shared out among folds."""

    rows: Split
    """All of them, train first."""

    fold_N: IntArray
    """The fold of each row, from 0."""

    data_sets: tuple[DataSet, ...]
    """One a fold: its rows are the validation split, all other rows the train split."""

    @classmethod
    def of(cls, data: DataSet, num_folds: int, *, seed: int) -> Folds:
        """Return a data set's rows in folds that are alike in every label.

        Raises:
            DataError: If there are too few rows, or a train target is between 0 and 1: a row to
                be scored must have known labels.
        """
        first, second = data.splits["train"], data.splits["validation"]
        inputs = {k: np.concatenate([array, second.inputs[k]]) for k, array in first.inputs.items()}
        targets_NL = np.concatenate([first.targets_NL, second.targets_NL])
        rows = Split(inputs=inputs, targets_NL=targets_NL)
        fold_N = stratify(rows.targets_NL, [1 / num_folds] * num_folds, seed=seed)
        found = []
        for fold in range(num_folds):
            train, held_out = _rows(rows, fold_N != fold), _rows(rows, fold_N == fold)
            splits = {**data.splits, "train": train, "validation": held_out}
            found.append(replace(data, splits=splits))
        return cls(rows=rows, fold_N=fold_N, data_sets=tuple(found))


def _rows(split: Split, chosen_N: BoolArray) -> Split:
    inputs = {name: array[chosen_N] for name, array in split.inputs.items()}
    return Split(inputs=inputs, targets_NL=split.targets_NL[chosen_N])


class MeanOfNetworks(Wrapper):
    """The mean of several networks' logits; ``forward`` takes the same inputs as each.

    Args:
        networks: Each takes the same inputs and gives float32 logits [N, L].
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__(networks[0])
        self.networks = nn.ModuleList(networks)

    def logits(self, *inputs: Any, **named: Any) -> Tensor:
        """Return the mean logits [N, L]."""
        each_KNL = torch.stack([network(*inputs, **named) for network in self.networks])
        return each_KNL.mean(dim=0)


def mean_of_folds(results: Sequence[FitResult]) -> FitResult:
    """Return how training went on average: the mean of each figure, epoch by epoch.

    Args:
        results: One a fold; epochs that not all of them reached are left out.
    """
    epochs = tuple(
        _mean_epoch(each) for each in zip(*(result.epochs for result in results), strict=False)
    )
    best_epoch = round(float(np.mean([result.best_epoch for result in results])))
    return FitResult(best_epoch=min(best_epoch, len(epochs)), epochs=epochs)


def _mean_epoch(epochs: Sequence[EpochMetrics]) -> EpochMetrics:
    numbers = {
        name: float(np.mean([getattr(epoch, name) for epoch in epochs]))
        for name in (field.name for field in fields(EpochMetrics))
        if name not in {"epoch", "validation"}
    }
    validation = {
        name: float(np.mean([epoch.validation[name] for epoch in epochs]))
        for name in epochs[0].validation
    }
    return EpochMetrics(epoch=epochs[0].epoch, validation=validation, **numbers)
