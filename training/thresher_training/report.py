"""What a finished training leaves behind as files: decision, evaluation rows, table and plots."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_FILE
from thresher_training.data import DataSet
from thresher_training.decisions import TunedDecision
from thresher_training.examples import choose_rows, picture_input, write_examples
from thresher_training.loop import FitResult
from thresher_training.metrics import label_table
from thresher_training.plots import label_chart, picture_sheet, training_curves
from thresher_training.tuning_report import write_tuning_report

__all__ = ["EXAMPLES_FOLDER", "Outcome", "write_report"]

EXAMPLES_FOLDER = "examples"

_SHEET_PICTURES = 24
_COLUMNS = (
    *("label", "support", "threshold", "precision", "recall", "f1", "f1_at_0.5"),
    *("average_precision", "validation_positives", "fell_back", "gap"),
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Everything that a report is made of."""

    name: str
    data: DataSet
    fitted: FitResult
    tuned: TunedDecision
    evaluations: Mapping[str, EvaluationSplit]
    """The splits ``"validation"`` and ``"test"`` with the network's logits."""


def write_report(outcome: Outcome, folder: Path, *, num_examples: int) -> None:
    """Write every file of the report into a folder, as they lie in the run's artifacts.

    Args:
        outcome: What the training gave.
        folder: An existing folder.
        num_examples: Example pictures to write; 0 for none.
    """
    outcome.tuned.decision.save(folder / DECISION_FILE)
    (folder / "evaluation").mkdir()
    for name, split in outcome.evaluations.items():
        split.save(folder / "evaluation" / f"{name}.npz")
    (folder / "plots").mkdir()
    _write_table(outcome, folder)
    validation = outcome.evaluations["validation"]
    (folder / "thresholds").mkdir()
    write_tuning_report(
        outcome.tuned,
        validation.logits_NL,
        validation.targets_NL,
        folder / "thresholds",
        title=f"{outcome.name}: thresholds on the validation split",
    )
    epochs = outcome.fitted.epochs
    training_curves(
        [epoch.epoch for epoch in epochs],
        train_loss=[epoch.train_loss for epoch in epochs],
        validation_loss=[epoch.validation_loss for epoch in epochs],
        validation_scores={
            "micro-F1 at 0.5": [epoch.validation_micro_f1 for epoch in epochs],
            "macro-F1 at 0.5": [epoch.validation_macro_f1 for epoch in epochs],
        },
        best_epoch=outcome.fitted.best_epoch,
        path=folder / "plots" / "training.png",
    )
    if (picture := picture_input(outcome.data.splits["test"].inputs)) is not None:
        _write_pictures(outcome, picture, folder, num_examples=num_examples)


def _write_table(outcome: Outcome, folder: Path) -> None:
    """Write ``labels.csv`` and its chart: each label on the test split, tuned and at 0.5."""
    test, tuned = outcome.evaluations["test"], outcome.tuned.decision
    probabilities_NL = tuned.probabilities(test.logits_NL)
    rows = label_table(test.targets_NL, probabilities_NL, tuned)
    at_half = label_table(test.targets_NL, probabilities_NL, outcome.tuned.compared["at_0.5"])
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row, half, tuning in zip(rows, at_half, outcome.tuned.report, strict=True):
            fell_back = str(tuning.origin == "shared").lower()
            figures = (row.precision, row.recall, row.f1, half.f1, row.average_precision)
            writer.writerow(
                (
                    *(row.label, row.support, row.threshold),
                    *(f"{x:.4f}" for x in figures),
                    *(tuning.positives, fell_back, f"{tuning.gap:.3g}"),
                )
            )
    label_chart(
        tuned.labels,
        [row.support for row in rows],
        scores={
            "threshold 0.5": [row.f1 for row in at_half],
            "tuned threshold": [row.f1 for row in rows],
        },
        path=folder / "plots" / "labels.png",
        title=f"{outcome.name}: F1 of each label on the test split",
    )


def _write_pictures(outcome: Outcome, picture: str, folder: Path, *, num_examples: int) -> None:
    test, tuned = outcome.evaluations["test"], outcome.tuned.decision
    _, predicted_NL = tuned.apply(test.logits_NL)

    def shown(at: int) -> tuple[list[str], list[str]]:
        return _names(test.targets_NL[at] == 1, tuned), _names(predicted_NL[at], tuned)

    typical = choose_rows(test.targets_NL, _SHEET_PICTURES // 2)
    missed_NL = (predicted_NL != (test.targets_NL == 1)) & ~np.isnan(test.targets_NL)
    wrong = [int(at) for at in np.flatnonzero(missed_NL.any(axis=1)) if at not in typical]
    rows = typical + wrong[: _SHEET_PICTURES // 2]
    true_labels, predicted_labels = zip(*map(shown, rows), strict=True)
    picture_sheet(
        test.inputs[picture][rows],
        true_labels,
        predicted_labels,
        folder / "plots" / "pictures.png",
        f"{outcome.name}: {len(typical)} test pictures, then {len(rows) - len(typical)} that went "
        f"wrong (of {int(missed_NL.any(axis=1).sum())} among {len(test)})",
    )
    if num_examples:
        chosen = choose_rows(test.targets_NL, num_examples)
        write_examples(
            test.inputs[picture][chosen],
            [shown(at)[0] for at in chosen],
            folder / EXAMPLES_FOLDER,
        )


def _names(yes_L: npt.NDArray[np.bool_], decision: Decision) -> list[str]:
    return [label for label, yes in zip(decision.labels, yes_L, strict=True) if yes]
