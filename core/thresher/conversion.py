"""Can a network become the ONNX model that Triton loads? Asked by training, answered by export.

It is part of no stage: the export stage is imported when the question is asked, and a training host
need not have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from thresher.decision import FloatArray

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["try_conversion"]


def try_conversion(
    program: ExportedProgram, inputs: Mapping[str, npt.NDArray[Any]], logits_NL: FloatArray
) -> str | None:
    """Convert a program as ``thresher export`` would, and run the ONNX model on a few rows.

    Args:
        program: Takes the inputs in their order, gives logits.
        inputs: Rows by name, each [N, ...].
        logits_NL: What the network gives for them, float32.

    Returns:
        None if it was tried; else the package that is missing here.

    Raises:
        ConversionError: If it cannot be converted, Triton's ONNX Runtime has no kernel for it, or
            the ONNX model gives other logits.
    """
    try:
        from thresher_export.trial import convert_on_trial
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("thresher"):
            raise
        return error.name
    convert_on_trial(program, inputs, logits_NL)
    return None
