"""Training: from a recipe to a registered version; importing this package loads no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from thresher.artifacts.input_spec import InputSpec
from thresher_training.data import DataSet, Split
from thresher_training.recipe import (
    DataConfig,
    DecisionConfig,
    ExamplesConfig,
    LossConfig,
    NetworkConfig,
    OptimizationConfig,
    Recipe,
)

if TYPE_CHECKING:
    from thresher_training.comparison import compare
    from thresher_training.decisions import TunedDecision, tune_decision
    from thresher_training.plots import picture_sheet
    from thresher_training.run import TrainedModel, train

__all__ = [
    "DataConfig",
    "DataSet",
    "DecisionConfig",
    "ExamplesConfig",
    "InputSpec",
    "LossConfig",
    "NetworkConfig",
    "OptimizationConfig",
    "Recipe",
    "Split",
    "TrainedModel",
    "TunedDecision",
    "compare",
    "picture_sheet",
    "train",
    "tune_decision",
]

_LAZY = {
    "TrainedModel": "run",
    "TunedDecision": "decisions",
    "compare": "comparison",
    "picture_sheet": "plots",
    "train": "run",
    "tune_decision": "decisions",
}


def __getattr__(name: str) -> Any:
    """Return a public name whose module loads torch or matplotlib, when it is first asked for."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
