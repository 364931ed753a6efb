"""A registered version as an ONNX model, and the logits that this model gives.

Torch is needed, and loaded when a function is called: an export that takes over a published body
does without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from thresher.certificate import file_digest
from thresher.decision import FloatArray
from thresher.errors import ConfigError, ConversionError
from thresher.evaluation import EvaluationSplit
from thresher.registry import ModelVersion
from thresher.repository import MODEL_FILE
from thresher_export.engines import OnnxRuntimeEngine
from thresher_export.head import append_decision_head
from thresher_export.onnx_file import save_model
from thresher_export.precision import Precision, lower_precision, note_precision
from thresher_export.triton_releases import DEFAULT_TARGET

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["converted", "converted_logits"]

_BATCH_SIZE = 64


def converted(
    version: ModelVersion,
    validation: EvaluationSplit,
    *,
    precision: Precision,
    target_triton: str = DEFAULT_TARGET,
    has_sigmoid: bool = False,
) -> tuple[ExportedProgram, ir.Model, str]:
    """Return torch's program, its ONNX model without a head, and the digest of the weights.

    Args:
        version: What was registered.
        validation: Rows that calibrate static quantisation.
        precision: Of the body.
        target_triton: The oldest Triton release that is to load it.
        has_sigmoid: The network ends in a sigmoid, which is taken off.

    Raises:
        ConversionError: If the network cannot be an ONNX model that Triton loads.
    """
    from thresher_export.convert import convert, load_program, reference_precision, strip_sigmoid

    path = version.program_file()
    program = load_program(path)
    if has_sigmoid:
        strip_sigmoid(program)
    body = convert(program, target=target_triton)
    body = lower_precision(body, precision, validation)
    note_precision(body, precision, trained_in=reference_precision(program))
    return program, body, file_digest(path)


def converted_logits(version: ModelVersion, *, precision: Precision) -> FloatArray:
    """Return float32 [N, L]: what the converted model gives for the validation rows, on the CPU.

    Args:
        version: What was registered.
        precision: Of the body.

    Raises:
        ConfigError: If the version's thresholds are chosen on scores of networks that had not seen
            the rows: the converted model has.
        ConversionError: If the network cannot be converted or run.
    """
    rows = version.evaluation("validation")
    if rows.held_out_logits_NL is not None:
        raise ConfigError(
            f"{version.uri} was cross-fitted: the converted model has seen the rows that "
            "thresholds are chosen on. Score rows that it has not seen and give them with --scores"
        )
    _, body, _ = converted(version, rows, precision=precision)
    model = append_decision_head(body, version.decision())
    with tempfile.TemporaryDirectory() as temporary:
        path = save_model(model, Path(temporary) / MODEL_FILE)[0]
        outputs = OnnxRuntimeEngine(path).run(rows.inputs, batch_size=_BATCH_SIZE)
    if outputs.logits_NL is None:
        raise ConversionError(f"{version.uri}: the converted model gives no logits")
    return outputs.logits_NL
