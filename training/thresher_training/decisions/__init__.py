"""Thresholds and calibration on plain NumPy arrays; nothing here knows about torch."""

from thresher_training.decisions.report import LabelReport, TunedDecision
from thresher_training.decisions.tune import Cut, best_f1_cut, tune_decision

__all__ = ["Cut", "LabelReport", "TunedDecision", "best_f1_cut", "tune_decision"]
