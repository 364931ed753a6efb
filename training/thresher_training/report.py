"""What a finished training leaves behind as files: decision, evaluation rows, tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_FILE
from thresher_training.cooccurrence import cooccurrence, write_cooccurrence_table
from thresher_training.cooccurrence_plot import cooccurrence_chart
from thresher_training.data import DataSet
from thresher_training.decisions import TunedDecision
from thresher_training.examples import choose_rows, picture_input, write_examples
from thresher_training.hints import chosen_for
from thresher_training.loop import FitResult
from thresher_training.mistakes import (
    confident_mistakes,
    write_mistake_pictures,
    write_mistake_table,
    write_mistake_texts,
)
from thresher_training.plots import label_chart, picture_sheet, training_curves
from thresher_training.recipe import Recipe
from thresher_training.report_tables import side_by_side, write_label_tables, write_side_by_side
from thresher_training.tuning_report import write_tuning_report
from thresher_training.weights import weight_rows, write_weight_table

__all__ = ["EXAMPLES_FOLDER", "Outcome", "write_report"]

EXAMPLES_FOLDER = "examples"

_SHEET_PICTURES = 24


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Everything that a report is made of."""

    name: str
    data: DataSet
    fitted: FitResult
    tuned: TunedDecision
    evaluations: Mapping[str, EvaluationSplit]
    """The splits ``"validation"`` and ``"test"`` with the network's logits."""

    recipe: Recipe
    """Tells what each label weighed."""


def write_report(outcome: Outcome, folder: Path, *, num_examples: int) -> None:
    """Write every file of the report into a folder, as they lie in the run's artifacts.

    Args:
        outcome: What the training gave.
        folder: An existing folder.
        num_examples: Example pictures to write; 0 for none.
    """
    tuned, evaluations = outcome.tuned, outcome.evaluations
    tuned.decision.save(folder / DECISION_FILE)
    for made in ("evaluation", "plots", "thresholds"):
        (folder / made).mkdir()
    for name, split in evaluations.items():
        split.save(folder / "evaluation" / f"{name}.npz")
    _write_labels(outcome, folder)
    validation = evaluations["validation"]
    write_tuning_report(
        tuned,
        validation.unseen_logits_NL,
        validation.targets_NL,
        folder / "thresholds",
        title=f"{outcome.name}: thresholds on the validation split",
    )
    write_side_by_side(
        side_by_side(tuned, evaluations),
        folder / "thresholds",
        title=f"{outcome.name}: thresholds side by side",
        chosen_for=chosen_for(tuned),
    )
    _write_curves(outcome, folder / "plots" / "training.png")
    _write_mistakes(outcome, folder)
    if (picture := picture_input(outcome.data.splits["test"].inputs)) is not None:
        _write_pictures(outcome, picture, folder, num_examples=num_examples)


def _write_labels(outcome: Outcome, folder: Path) -> None:
    """Write the tables of labels, F1 against support, weights, and labels that go together."""
    tuned, data, test = outcome.tuned, outcome.data, outcome.evaluations["test"]
    rows, at_half = write_label_tables(tuned, outcome.evaluations, folder)
    label_chart(
        data.labels,
        [row.support for row in rows],
        scores={
            "threshold 0.5": [row.f1 for row in at_half],
            "tuned threshold": [row.f1 for row in rows],
        },
        path=folder / "plots" / "labels.png",
        title=f"{outcome.name}: F1 of each label on the test split",
    )
    if data.num_labels > 1:
        probabilities_NL, yes_NL = tuned.decision.apply(test.logits_NL)
        together = cooccurrence(data.labels, test.targets_NL, probabilities_NL, yes_NL)
        cooccurrence_chart(together, folder / "plots" / "cooccurrence.png")
        write_cooccurrence_table(together, folder / "cooccurrence.csv")
    weights = weight_rows(outcome.recipe.loss, data.splits["train"].targets_NL, data.labels)
    write_weight_table(weights, folder / "weights.csv")


def _write_curves(outcome: Outcome, path: Path) -> None:
    epochs = outcome.fitted.epochs
    if not epochs:
        return  # a network that came trained
    shown = {
        "micro-F1 at 0.5": "micro_f1",
        "macro-F1 at 0.5": "macro_f1",
        "mAP (macro)": "mean_average_precision",
    }
    training_curves(
        [epoch.epoch for epoch in epochs],
        train_loss=[epoch.train_loss for epoch in epochs],
        validation_loss=[epoch.validation_loss for epoch in epochs],
        validation_scores={
            words: [epoch.validation[name] for epoch in epochs] for words, name in shown.items()
        },
        best_epoch=outcome.fitted.best_epoch,
        path=path,
        learning_rate=[epoch.learning_rate for epoch in epochs],
        gradient_norm=[epoch.gradient_norm for epoch in epochs],
    )


def _write_mistakes(outcome: Outcome, folder: Path) -> None:
    """Write the surest mistakes on the test split: a table, and pictures or texts."""
    test, tuned = outcome.evaluations["test"], outcome.tuned.decision
    split = outcome.data.splits["test"]
    mistakes = confident_mistakes(test.targets_NL, test.logits_NL, tuned)
    true = [_names(test.targets_NL[mistake.row] == 1, tuned) for mistake in mistakes]
    write_mistake_table(mistakes, true, folder / "mistakes.csv", texts=split.texts)
    title = f"{outcome.name}: the surest mistakes on the test split"
    if split.texts is not None:
        write_mistake_texts(mistakes, true, split.texts, folder / "mistakes.html", title=title)
    elif mistakes and (picture := picture_input(split.inputs)) is not None:
        path = folder / "plots" / "mistakes.png"
        write_mistake_pictures(mistakes, split.inputs[picture], path, title=title)


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
