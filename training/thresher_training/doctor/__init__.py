"""The doctor: why is this network not training? Quick checks before training, deep on demand."""

from __future__ import annotations

from thresher_training.doctor.diagnosis import (
    CODES,
    Diagnosis,
    Finding,
    LayerGradient,
    Level,
    RangeTest,
)
from thresher_training.doctor.examination import examine, examine_recipe

__all__ = [
    "CODES",
    "Diagnosis",
    "Finding",
    "LayerGradient",
    "Level",
    "RangeTest",
    "examine",
    "examine_recipe",
]
