"""The examination: all checks in their order, on a copy of the network."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from thresher.errors import ThresherError, TrainingError
from thresher_training.doctor.case import Case, open_case
from thresher_training.doctor.deep import check_gradients, check_overfitting, measure_gradients
from thresher_training.doctor.diagnosis import Diagnosis, Finding, LayerGradient, RangeTest
from thresher_training.doctor.inputs import check_inputs
from thresher_training.doctor.network import (
    check_evaluation,
    check_label_names,
    check_outputs,
    check_scale,
)
from thresher_training.doctor.objective import check_loss, check_start
from thresher_training.doctor.range_test import check_learning_rate, measure_range
from thresher_training.doctor.refusal import as_finding
from thresher_training.doctor.targets import check_targets
from thresher_training.loop import seeded
from thresher_training.preflight import check_network
from thresher_training.prepare import Prepared, prepare
from thresher_training.recipe import Recipe
from thresher_training.trial_rows import largest_ids

__all__ = ["examine", "examine_recipe"]

_AT_NETWORK: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    check_outputs,
    check_label_names,
    check_scale,
    check_evaluation,
)
_BROKEN = {
    "integer-targets",
    "loss-fails",
    "loss-not-finite",
    "loss-without-sigmoid",
    "non-finite-features",
}
"""Where one of these is found, no loss can be computed."""

T = TypeVar("T")


def examine(prepared: Prepared, *, deep: bool = False, fits: bool = False) -> Diagnosis:
    """Return why this network would not train well on these data with this loss.

    The network's weights and buffers, its modes and torch's random state are left as they are. A
    check that fails itself is told as a note and stops nothing.

    Args:
        prepared: What a recipe names.
        deep: Whether copies of the network are also trained for a few dozen steps (about half a
            minute at most): gradients by layer, one batch to overfit, learning-rate range test.
        fits: Whether `check_network` has passed already; it is not made again then.
    """
    started = time.monotonic()
    findings: list[Finding] = []
    gradients: tuple[LayerGradient, ...] = ()
    range_test: RangeTest | None = None
    with seeded(prepared.recipe.seed):
        for check in (check_targets, check_inputs, check_loss):
            findings += _guarded(check, prepared)
        trainable = not _BROKEN & {finding.code for finding in findings}
        case = _case(prepared, findings, fits=fits)
        if case is not None:
            for look in _AT_NETWORK:
                findings += _guarded(look, case)
            # with no epochs, the network is kept as it came
            trainable = trainable and prepared.recipe.optimization.epochs > 0
            if trainable:
                findings += _guarded(check_start, case)
            if deep and trainable:
                gradients, range_test = _train_copies(case, findings)
    return Diagnosis(
        name=prepared.recipe.name,
        findings=tuple(findings),
        deep=deep,
        seconds=time.monotonic() - started,
        range_test=range_test,
        gradients=gradients,
    )


def examine_recipe(
    recipe: Recipe, *, recipe_folder: Path | None = None, deep: bool = False
) -> Diagnosis:
    """Return the diagnosis of a recipe; what cannot even be prepared is a finding too.

    Args:
        recipe: What would be trained.
        recipe_folder: Searched first for the modules that the recipe names.
        deep: See `examine`.
    """
    started = time.monotonic()
    try:
        prepared = prepare(recipe, recipe_folder=recipe_folder)
    except ThresherError as error:
        return Diagnosis(
            name=recipe.name,
            findings=(as_finding(error),),
            deep=deep,
            seconds=time.monotonic() - started,
        )
    return examine(prepared, deep=deep)


def _case(prepared: Prepared, findings: list[Finding], *, fits: bool) -> Case | None:
    """Return the case of a network that can be run at all; else what is wrong is added."""
    is_trained = prepared.recipe.optimization.epochs > 0
    try:
        network = copy.deepcopy(prepared.network)
    except Exception as error:  # noqa: BLE001 -- torch raises several kinds here
        findings.append(_failed("a copy of the network", error))
        return None
    try:
        if not fits:
            check_network(
                network,
                prepared.data.splits["train"],
                trim_by=prepared.data.trim_by,
                largest=largest_ids(prepared.data),
                is_trained=is_trained,
            )
    except TrainingError as error:
        findings.append(as_finding(error))
        return None
    return open_case(prepared, network)


def _train_copies(
    case: Case, findings: list[Finding]
) -> tuple[tuple[LayerGradient, ...], RangeTest | None]:
    """Return what the deep checks measured, and add what they found."""
    gradients: list[LayerGradient] = []
    range_tests: list[RangeTest] = []

    def look_at_gradients(case: Case) -> Iterable[Finding]:
        gradients.extend(measure_gradients(case))
        return check_gradients(case, gradients)

    def look_at_learning_rate(case: Case) -> Iterable[Finding]:
        range_tests.append(measure_range(case))
        return check_learning_rate(case, range_tests[0])

    for look in (look_at_gradients, check_overfitting, look_at_learning_rate):
        findings += _guarded(look, case)
    return tuple(gradients), next(iter(range_tests), None)


def _guarded(check: Callable[[T], Iterable[Finding]], subject: T) -> list[Finding]:
    """Return a check's findings; if the check itself fails, that is a note."""
    findings: list[Finding] = []
    try:
        findings.extend(check(subject))
    except Exception as error:  # noqa: BLE001 -- a check must never be what stops a training run
        findings.append(_failed(check.__name__, error))
    return findings


def _failed(what: str, error: Exception) -> Finding:
    return Finding(
        level="note",
        code="check-failed",
        what="A check could not be made; nothing is known of what it looks for.",
        evidence=f"{what}: {type(error).__name__}: {error}",
        fix="Training may still work. Please report it, with the network's code.",
    )
