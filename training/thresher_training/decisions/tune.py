"""From logits and targets to a decision: calibration, a cut for each label, fallbacks, a report.

Labels with too few positives take one threshold shared by all, and the report says so. Nothing is
decided silently: rows without any label are counted in a note, and an objective that cannot be met
is an error that says what can be had.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from thresher.decision import Decision, FloatArray
from thresher.errors import ConfigError, DataError, DecisionError, unknown_name
from thresher_training.decisions.calibration import calibration_warnings, fit_calibration
from thresher_training.decisions.checked import check_thresholds
from thresher_training.decisions.cuts import Cuts, Progress, best_cuts, check_shapes
from thresher_training.decisions.joint import (
    best_example_cuts,
    best_micro_cuts,
    cuts_at,
    shared_cut,
)
from thresher_training.decisions.objectives import Objective, parse_objective
from thresher_training.decisions.report import LabelReport, TunedDecision
from thresher_training.decisions.room import clear_of_scores, clear_of_served, off_the_grid

if TYPE_CHECKING:  # the recipe checks its objectives with this package
    from thresher_training.recipe import DecisionConfig

__all__ = ["choose_cuts", "resolve_objectives", "shared_objective", "tune_decision"]

_BoolArray = npt.NDArray[np.bool_]
_ROWS = 8192
_MOST_NAMED = 10


def tune_decision(
    labels: Sequence[str],
    logits_NL: FloatArray,
    targets_NL: FloatArray,
    config: DecisionConfig,
    *,
    served_logits_NL: FloatArray | None = None,
    progress: Progress | None = None,
) -> TunedDecision:
    """Return the decision with the best value of each label's objective on a split.

    A label with fewer than ``config.min_positives`` known positives, or without a known negative,
    takes the shared threshold: the one with the best micro-F over all labels' scores pooled.
    A fixed threshold needs no positives.

    Args:
        labels: L names.
        logits_NL: float32 [N, L] of the validation split.
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        config: The recipe's section.
        served_logits_NL: float32 [N, L], what the model that is served gives for the same rows,
            where ``logits_NL`` comes of other networks (cross-fitting). It chooses nothing, but
            thresholds keep clear of its scores too, within their gaps.
        progress: Called with labels done and all labels, in each pass over the labels.

    Raises:
        ConfigError: If an objective names an unknown label.
        DataError: If a logit is NaN or infinite, or a target is not 0, 1 or NaN; names the label.
        DecisionError: If a label's objective cannot be met; says the best that can be had.
    """
    labels = tuple(labels)
    objectives = resolve_objectives(labels, config)
    _check_logits(labels, logits_NL)
    logits_NL, targets_NL = check_shapes(logits_NL, targets_NL)
    scale_L, bias_L = fit_calibration(logits_NL, targets_NL, config.calibration)
    half = Decision(labels=labels, thresholds=np.full(len(labels), 0.5), scale=scale_L, bias=bias_L)
    probabilities_NL = np.empty(logits_NL.shape, dtype=np.float32)
    for row in range(0, len(logits_NL), _ROWS):
        rows = slice(row, row + _ROWS)
        probabilities_NL[rows] = half.probabilities(logits_NL[rows])
    own = best_cuts(
        probabilities_NL,
        targets_NL,
        [_of_one_label(objective) for objective in objectives],
        band=config.band,
        progress=progress,
        labels=labels,
    )
    reasons = _fallback_reasons(own, objectives, config.min_positives)
    free_L = np.array([not reason for reason in reasons])
    _check_met(labels, own, objectives, free_L)
    # labels that fall back on it get room of their own; a threshold that all want needs it itself
    wants_shared = any(objective.kind == "shared" for objective in objectives)
    shared = shared_cut(
        probabilities_NL,
        targets_NL,
        shared_objective(objectives),
        band=config.band if wants_shared else 0.0,
    )
    cuts = choose_cuts(
        probabilities_NL,
        targets_NL,
        objectives,
        own,
        shared,
        free_L,
        band=config.band,
        progress=progress,
    )
    checked = None
    if config.shrinkage or config.intervals:
        checked = check_thresholds(
            probabilities_NL,
            targets_NL,
            objectives,
            cuts.thresholds_L,
            float(shared.thresholds_L[0]),
            free_L,
            config,
            shared_objective=shared_objective(objectives),
            joint=partial(_joint_thresholds, objectives, free_L),
        )
        if checked.shrunk_L.any():
            single = [_of_one_label(objective) for objective in objectives]
            cuts = cuts.replace(
                checked.shrunk_L,
                cuts_at(probabilities_NL, targets_NL, checked.thresholds_L, single),
            )
    may_move_L = np.array([each.kind not in {"fixed", "shared"} for each in objectives])
    thresholds_L = off_the_grid(logits_NL, cuts.thresholds_L, scale_L, bias_L, where_L=may_move_L)
    if served_logits_NL is not None:
        thresholds_L = clear_of_served(
            probabilities_NL,
            half.probabilities(served_logits_NL),
            thresholds_L,
            band=config.band,
            where_L=may_move_L,
        )
    cuts = dataclasses.replace(cuts, thresholds_L=thresholds_L)
    decision = Decision(labels=labels, thresholds=thresholds_L, scale=scale_L, bias=bias_L)
    report = [
        _label_report(label, cuts.at(at), objectives[at], reasons[at], band=config.band)
        for at, label in enumerate(labels)
    ]
    if checked:
        report = [checked.complete(at, row) for at, row in enumerate(report)]
    notes = (
        *calibration_warnings(labels, targets_NL, scale_L, config.calibration),
        *(checked.notes if checked else ()),
        *_room_notes(report, config.band),
        *_notes(decision, probabilities_NL, targets_NL),
    )
    return TunedDecision(
        decision=decision,
        shared=Decision(
            labels=labels,
            thresholds=np.full(len(labels), shared.thresholds_L[0]),
            scale=scale_L,
            bias=bias_L,
        ),
        report=tuple(report),
        notes=notes,
    )


def resolve_objectives(labels: Sequence[str], config: DecisionConfig) -> list[Objective]:
    """Return each label's objective; a joint one stands at every label that it is over.

    Raises:
        ConfigError: If ``config.objectives`` names a label that does not exist.
    """
    for name in config.objectives:
        if name not in labels:
            raise ConfigError(f"decision.objectives: {unknown_name('label', name, labels)}")
    return [parse_objective(config.objectives.get(label, config.objective)) for label in labels]


def shared_objective(objectives: Sequence[Objective]) -> Objective:
    """Return what the shared threshold is chosen for: the labels' F-beta if they agree, else F1."""
    betas = {objective.beta for objective in objectives if _is_f(objective)}
    return parse_objective(f"f{betas.pop()}" if len(betas) == 1 else "f1")


def _is_f(objective: Objective) -> bool:
    return objective.kind == "f" or objective.is_joint


def _of_one_label(objective: Objective) -> Objective:
    """Return the objective of a label on its own: of a joint one, F with the same beta."""
    return parse_objective(f"f{objective.beta}") if objective.is_joint else objective


def choose_cuts(
    scores_NL: FloatArray,
    targets_NL: FloatArray,
    objectives: Sequence[Objective],
    own: Cuts,
    shared: Cuts,
    free_L: _BoolArray,
    *,
    band: float = 0.0,
    progress: Progress | None = None,
) -> Cuts:
    """Return the cuts of all labels: their own, the shared one, or the jointly best.

    Args:
        scores_NL: float32 [N, L] in [0, 1].
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
        objectives: One for each label; all joint ones are the same.
        own: Each label's best cut on its own.
        shared: The best cut for all labels, of length 1.
        free_L: bool [L], the labels that need not take the shared cut.
        band: The narrowest gap wanted; where a label that takes the shared cut has a score nearer
            to it, its own copy of the threshold moves off that score.
        progress: Called with labels done and all labels.
    """
    single = [_of_one_label(objective) for objective in objectives]
    threshold = shared.thresholds_L[0]
    everywhere = own
    joint_L = free_L & np.array([objective.is_joint for objective in objectives])
    joint = next((objective for objective in objectives if objective.is_joint), None)
    if not free_L.all() or joint:
        everywhere_L = np.full(len(own), threshold)
        if band and not (joint and joint.kind == "shared"):
            everywhere_L = clear_of_scores(
                scores_NL,
                targets_NL,
                everywhere_L,
                band=band,
                margin=band / 2,
                where_L=~free_L | joint_L,
            )
        everywhere = cuts_at(scores_NL, targets_NL, everywhere_L, single)
    cuts = own.replace(~free_L, everywhere)
    if joint and joint.kind == "shared":
        return cuts.replace(joint_L, everywhere)
    if joint:
        # micro-F first: it is what is asked for, or a start on the way to the example-based F
        micro, _ = best_micro_cuts(
            scores_NL, targets_NL, joint, cuts, joint_L, band=band, progress=progress
        )
        if joint.kind == "micro":
            return micro
        starts = [each.thresholds_L for each in (cuts, cuts.replace(joint_L, everywhere), micro)]
        thresholds_L, value = best_example_cuts(
            scores_NL, targets_NL, joint, starts, joint_L, band=band, progress=progress
        )
        best = cuts_at(scores_NL, targets_NL, thresholds_L, single)
        if band:  # what the room costs: how much better any cut from there would be
            _, free_value = best_example_cuts(scores_NL, targets_NL, joint, [thresholds_L], joint_L)
            loss_L = np.where(joint_L, (free_value - value) / np.count_nonzero(joint_L), 0.0)
            best = dataclasses.replace(best, loss_L=loss_L)
        return cuts.replace(joint_L, best)
    return cuts


def _joint_thresholds(
    objectives: Sequence[Objective],
    free_L: _BoolArray,
    scores_NL: FloatArray,
    targets_NL: FloatArray,
) -> FloatArray:
    """Return the thresholds that `tune_decision` would choose on these scores."""
    own = best_cuts(scores_NL, targets_NL, [_of_one_label(each) for each in objectives])
    shared = shared_cut(scores_NL, targets_NL, shared_objective(objectives))
    return choose_cuts(scores_NL, targets_NL, objectives, own, shared, free_L).thresholds_L


def _check_logits(labels: Sequence[str], logits_NL: FloatArray) -> None:
    """Refuse logits that are not finite, by label and row."""
    logits = np.asarray(logits_NL)
    if logits.ndim != 2 or logits.shape[1] != len(labels) or np.isfinite(logits).all():
        return  # shapes are the decision's to judge
    bad_NL = ~np.isfinite(logits)
    names = [f'"{labels[at]}"' for at in np.flatnonzero(bad_NL.any(axis=0)).tolist()]
    rows = np.flatnonzero(bad_NL.any(axis=1))
    raise DataError(
        f"no threshold can be chosen on logits that are NaN or infinite: {int(bad_NL.sum())} of "
        f"them, in {len(rows)} rows (first {', '.join(map(str, rows[:3]))}), "
        f"labels {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    )


def _fallback_reasons(own: Cuts, objectives: Sequence[Objective], min_positives: int) -> list[str]:
    """Return for each label why it takes the shared threshold; empty where it does not."""
    reasons = []
    for at, objective in enumerate(objectives):
        positives = int(own.tp_L[at] + own.fn_L[at])
        if objective.kind == "fixed":
            reasons.append("")
        elif positives < min_positives:
            reasons.append(f"{positives} positives in validation, fewer than {min_positives}")
        elif not own.fp_L[at] + own.tn_L[at]:
            reasons.append("no known negative in validation")
        else:
            reasons.append("")
    return reasons


def _check_met(
    labels: Sequence[str], own: Cuts, objectives: Sequence[Objective], free_L: _BoolArray
) -> None:
    """Refuse bounds that no cut meets, with the best that can be had."""
    missed = []
    for at in np.flatnonzero(free_L & ~own.feasible_L).tolist():
        counts = (own.tp_L[at], own.fp_L[at], own.fn_L[at], own.tn_L[at])
        bounded, other = objectives[at].tie_value(*counts), objectives[at].metric(*counts)
        wanted, _, bound = objectives[at].text.partition("@")
        bound = bound.partition(">=")[0]
        missed.append(
            f'"{labels[at]}": {objectives[at].text} cannot be met; '
            f"the best {bound} is {bounded:.4g}, with {wanted} {other:.4g}"
        )
    if missed:
        more = f"; and {len(missed) - 5} more labels" if len(missed) > 5 else ""
        raise DecisionError(f"{'; '.join(missed[:5])}{more}. Lower the bound in [decision]")


def _label_report(
    label: str, cut: dict[str, float], objective: Objective, reason: str, *, band: float
) -> LabelReport:
    tp, fp, fn, tn = (int(cut[name]) for name in ("tp", "fp", "fn", "tn"))
    warnings = []
    if tp + fn and not tp + fp:
        warnings.append("never predicted")
    if fp + tn and not fn + tn:
        warnings.append("predicted in every row")
    if objective.kind != "fixed" and tp + fp + fn + tn and cut["gap"] < band:
        warnings.append(f"the scores around the threshold are {cut['gap']:.1e} apart")
    shared = bool(reason) or objective.kind == "shared"
    row = LabelReport(
        label=label,
        objective=objective.text,
        threshold=float(str(np.float32(cut["thresholds"]))),
        origin="shared" if shared else "fixed" if objective.kind == "fixed" else "tuned",
        reason=reason or (f"objective {objective.text}" if shared else ""),
        gap=float(cut["gap"]),
        loss=float(cut["loss"]),
        value=float(objective.metric(tp, fp, fn, tn)),
        tp=tp,
        fp=fp,
        fn=fn,
        tn=tn,
    )
    if row.is_given_too_often:
        warnings.append(f"F1 {row.f1:.2f}, and given to {row.share:.0%} of rows")
    return dataclasses.replace(row, warnings=tuple(warnings))


def _room_notes(report: Sequence[LabelReport], band: float) -> tuple[str, ...]:
    """Return what room for rounding costs, and which labels have none."""
    notes = []
    costly = [row for row in report if row.loss > 0]
    if costly:
        most, total = max(costly, key=lambda row: row.loss), sum(row.loss for row in costly)
        what = f'at most {most.loss:.4f} of {most.objective} (label "{most.label}")'
        if parse_objective(most.objective).is_joint:
            what = f"at most {total:.6f} of {most.objective}"
        else:
            what += f", {total / len(report):.6f} in the mean of all labels"
        notes.append(
            f"room for rounding: {len(costly):,} of {len(report):,} labels take another cut than "
            f"the best, which lies between scores less than {band:g} apart; it costs {what}"
        )
    narrow = [
        row
        for row in report
        if row.origin != "fixed" and row.positives + row.negatives and row.gap < band
    ]
    if narrow:
        names = ", ".join(f'"{row.label}" ({row.gap:.1e})' for row in narrow[:_MOST_NAMED])
        more = f" and {len(narrow) - _MOST_NAMED} more" if len(narrow) > _MOST_NAMED else ""
        notes.append(
            f"no room for rounding: near the best cuts of {len(narrow):,} labels no scores are "
            f"{band:g} apart, the widest gap is taken: {names}{more}"
        )
    return tuple(notes)


def _notes(
    decision: Decision, probabilities_NL: FloatArray, targets_NL: FloatArray
) -> tuple[str, ...]:
    """Return how many rows get no label at all, if any do."""
    without, with_positives = 0, 0
    for row in range(0, len(probabilities_NL), _ROWS):
        rows = slice(row, row + _ROWS)
        none_N = ~decision.decide(probabilities_NL[rows]).any(axis=1)
        without += int(none_N.sum())
        with_positives += int((none_N & (targets_NL[rows] == 1).any(axis=1)).sum())
    if not without:
        return ()
    rows_said = f"{without:,} of {len(probabilities_NL):,} rows get no label at all"
    return (f"{rows_said}; {with_positives:,} of them have known positives",)
