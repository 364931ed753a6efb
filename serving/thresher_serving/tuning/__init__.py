"""Finds how Triton serves a model fastest within a latency limit, by measuring here."""

from thresher_serving.tuning.load import Load, LoadGenerator
from thresher_serving.tuning.search import Tuned, tune_serving
from thresher_serving.tuning.settings import Objective, Settings, parse_objective

__all__ = [
    "Load",
    "LoadGenerator",
    "Objective",
    "Settings",
    "Tuned",
    "parse_objective",
    "tune_serving",
]
