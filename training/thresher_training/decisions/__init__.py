"""Thresholds and calibration on plain NumPy arrays; nothing here knows about torch."""

from thresher_training.decisions.cuts import Cuts, best_cuts
from thresher_training.decisions.objectives import Objective, parse_objective
from thresher_training.decisions.report import LabelReport, TunedDecision
from thresher_training.decisions.tune import tune_decision

__all__ = [
    "Cuts",
    "LabelReport",
    "Objective",
    "TunedDecision",
    "best_cuts",
    "parse_objective",
    "tune_decision",
]
