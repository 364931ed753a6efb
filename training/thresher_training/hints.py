"""What stands next to the figures: what each row was chosen for, and what would serve better."""

from __future__ import annotations

from thresher.decision import FloatArray
from thresher_training.decisions import TunedDecision, parse_objective
from thresher_training.decisions.tune import shared_objective
from thresher_training.metrics import metrics

__all__ = ["chosen_for", "hints"]

_BETTER_BY = 0.01
"""A figure on validation that another row has so much better is worth a line."""

_OBJECTIVES = {"micro_f1": "micro_f1", "macro_f1": "f1", "subset_accuracy": "example_f1"}
"""Figures that are shown, and what makes each as large as thresholds can."""

_WORDS = {"at_0.5": "0.5 for every label", "shared": "one threshold for all labels"}
_MOST_NAMED = 5


def chosen_for(tuned: TunedDecision) -> dict[str, str]:
    """Return what the thresholds of each compared decision were chosen for, by its name.

    Args:
        tuned: The outcome.

    Example:
        ``{"at_0.5": "nothing", "shared": "micro_f1", "tuned": "f1"}``
    """
    objectives = [parse_objective(row.objective) for row in tuned.report]
    own = list(dict.fromkeys(row.objective for row in tuned.report))
    rest = f" and {len(own) - 2} more" if len(own) > 2 else ""
    return {
        "at_0.5": "nothing",
        "shared": f"micro_{shared_objective(objectives).text}",
        "tuned": ", ".join(own[:2]) + rest,
    }


def hints(tuned: TunedDecision, logits_NL: FloatArray, targets_NL: FloatArray) -> tuple[str, ...]:
    """Return a line each for what the tuned rows speak against.

    That is an objective that would serve the figures shown better, and labels that are given to
    many rows though they are mostly wrong.

    Args:
        tuned: The outcome.
        logits_NL: float32 [N, L], what was tuned on.
        targets_NL: float32 [N, L] of 0 and 1; NaN where unknown.
    """
    found = {
        which: metrics(targets_NL, decision.apply(logits_NL)[1]).to_dict()
        for which, decision in tuned.compared.items()
    }
    lines = []
    objectives = {row.objective for row in tuned.report}
    for name, objective in _OBJECTIVES.items():
        which = max(_WORDS, key=lambda other: found[other][name])
        better, own = found[which][name], found["tuned"][name]
        if better - own > _BETTER_BY and objectives != {objective}:
            lines.append(
                f"On the rows tuned on, {_WORDS[which]} has the better "
                f"{name.replace('_', ' ').replace(' f1', '-F1')}, {better:.3f} against {own:.3f}: "
                f"if that is what counts, tune with --objective {objective}"
            )
            break
    warned = [row for row in tuned.report if row.is_given_too_often]
    if warned:
        warned.sort(key=lambda row: row.f1)
        named = "; ".join(
            f'"{row.label}" has F1 {row.f1:.2f} and is given to {row.share:.0%} of rows'
            for row in warned[:_MOST_NAMED]
        )
        more = f"; and {len(warned) - _MOST_NAMED} more" if len(warned) > _MOST_NAMED else ""
        lines.append(f"Warning: {named}{more}")
    return tuple(lines)
