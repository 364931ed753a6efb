"""The conversion of a network that is not trained yet, so that hours of training are not lost."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import torch

from thresher.decision import FloatArray
from thresher.errors import ConversionError
from thresher_export.convert import convert

__all__ = ["convert_on_trial"]

_SMALL_BYTES = 200 * 2**20
"""Weights above this are converted where they are: to write, load and run them takes too long."""

_GROSS = 0.05
"""Logits further apart than this share of the largest are no rounding."""


def convert_on_trial(
    program: torch.export.ExportedProgram,
    inputs: Mapping[str, npt.NDArray[Any]],
    logits_NL: FloatArray,
) -> None:
    """Convert a program for the oldest Triton release; run small ones on the rows.

    Args:
        program: Takes the inputs in their order, gives logits.
        inputs: Rows by name, each [N, ...].
        logits_NL: What the network gives for them, float32.

    Raises:
        ConversionError: If any step of ``thresher export`` up to the first run fails, or the ONNX
            model gives grossly other logits, for all rows at once or for the first one alone.
    """
    weights = (*program.state_dict.values(), *program.constants.values())
    num_bytes = sum(w.nbytes for w in weights if isinstance(w, torch.Tensor))
    if num_bytes > _SMALL_BYTES:
        convert(program)
        return
    model = convert(_written_and_read(program))
    names = [value.name for value in model.graph.inputs]
    feed = dict(zip(names, inputs.values(), strict=True))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (all_NL,) = session.run(None, feed)
        (first_NL,) = session.run(None, {name: rows[:1] for name, rows in feed.items()})
    except Exception as error:  # ONNX Runtime has a class of its own for each kind
        first_line = str(error).strip().splitlines()[0]
        raise ConversionError(
            f"ONNX Runtime cannot run the converted model: {first_line}"
        ) from error
    _check_alike(all_NL, logits_NL, f"{len(logits_NL)} rows together")
    _check_alike(first_NL, logits_NL[:1], "a row alone")


def _written_and_read(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program as it comes out of the file that MLflow keeps."""
    file = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of its own archive
            torch.export.save(program, file)
            file.seek(0)
            return torch.export.load(file)
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise ConversionError(
            f"the network cannot be kept as a torch program: {type(error).__name__}: {first_line}"
        ) from error


def _check_alike(found_NL: FloatArray, wanted_NL: FloatArray, rows: str) -> None:
    if not np.isfinite(wanted_NL).all():
        return  # for the doctor
    scale = max(1.0, float(np.abs(wanted_NL).max(initial=0)))
    apart = float(np.abs(found_NL - wanted_NL).max(initial=0))
    if found_NL.shape != wanted_NL.shape or not apart <= _GROSS * scale:
        raise ConversionError(
            f"the converted model gives other logits than the network for {rows}: they are "
            f"{apart:.2g} apart. Look in forward for random numbers, for rows that depend on each "
            "other (a mean over the batch, a BatchNorm in training mode), and for state that "
            "changes from call to call"
        )
