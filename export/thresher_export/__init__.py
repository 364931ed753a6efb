"""The export stage: logits network to ONNX with its decision head, parity proven, published."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thresher_export.head import (
        append_decision_head,
        read_decision,
        remove_decision_head,
        replace_decision_head,
    )
    from thresher_export.parity import ParityReport, prove_parity
    from thresher_export.pipeline import Exported, ExportOptions, export_version
    from thresher_export.precision import Precision
    from thresher_export.triton_config import build_config
    from thresher_export.triton_options import TensorRtOptions, TritonOptions

__all__ = [
    "ExportOptions",
    "Exported",
    "ParityReport",
    "Precision",
    "TensorRtOptions",
    "TritonOptions",
    "append_decision_head",
    "build_config",
    "export_version",
    "prove_parity",
    "read_decision",
    "remove_decision_head",
    "replace_decision_head",
]

_MODULES = {
    "ExportOptions": "pipeline",
    "Exported": "pipeline",
    "ParityReport": "parity",
    "Precision": "precision",
    "TensorRtOptions": "triton_options",
    "TritonOptions": "triton_options",
    "append_decision_head": "head",
    "build_config": "triton_config",
    "export_version": "pipeline",
    "prove_parity": "parity",
    "read_decision": "head",
    "remove_decision_head": "head",
    "replace_decision_head": "head",
}


def __getattr__(name: str) -> Any:  # so that the head alone can be used where there is no torch
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
