"""Batch scoring: whole data sets through the served decision."""

from __future__ import annotations

from thresher_serving.scoring.engines import Engine, OnnxRuntimeEngine, TritonEngine
from thresher_serving.scoring.job import ScoringOptions
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.outputs import OutputForm
from thresher_serving.scoring.report import ScoringReport
from thresher_serving.scoring.score_files import HereWorkers, Workers, score_files
from thresher_serving.scoring.score_tables import Scored, score

__all__ = [
    "Engine",
    "HereWorkers",
    "OnnxRuntimeEngine",
    "OutputForm",
    "Scored",
    "ScoredVersion",
    "ScoringOptions",
    "ScoringReport",
    "TritonEngine",
    "Workers",
    "score",
    "score_files",
]
