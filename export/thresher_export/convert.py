"""A logged torch program to an ONNX logits model: named inputs, named batch axis, nothing else.

Requires: an `ExportedProgram` whose one output is logits [N, L].
Does: torch's own ONNX exporter, then names: the output is ``logits``, its first axis ``batch``.
Ensures: opset and IR that Triton 24.10 and later load, a batch axis that is free, no traces of
the machine it was made on.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import onnx_ir as ir
import torch

from thresher.errors import ConversionError, NotFoundError

__all__ = ["BATCH_AXIS", "LOGITS", "MAX_IR_VERSION", "MAX_OPSET", "convert", "load_program"]

LOGITS = "logits"
BATCH_AXIS = "batch"

MAX_OPSET = 21
"""Highest opset that every Triton since 24.10 loads (it carries ONNX Runtime 1.19.2)."""
MAX_IR_VERSION = 10
"""Highest ONNX IR version that every Triton since 24.10 loads."""


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Return the program in a ``pt2`` file; the network's Python class is not needed.

    Raises:
        NotFoundError: If there is no such file.
        ConversionError: If it is not a torch program.
    """
    if not path.is_file():
        raise NotFoundError(
            f"{path}: no such file; the model must be logged as pt2: "
            'mlflow.pytorch.log_model(..., serialization_format="pt2")'
        )
    try:
        with warnings.catch_warnings():
            # torch 2.13 on Python 3.11 touches its own deprecated LeafSpec while unpickling specs
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            return torch.export.load(path)
    except Exception as error:  # noqa: BLE001 -- torch raises whatever the broken file leads it to
        raise ConversionError(f"{path}: not a torch program that can be read: {error}") from None


def convert(program: torch.export.ExportedProgram) -> ir.Model:
    """Return the ONNX model of a logits program.

    Args:
        program: Takes one or more named tensors, gives logits [N, L].

    Raises:
        ConversionError: If an operator has no ONNX counterpart, the batch axis is frozen, the
            output is not one [N, L] tensor, or opset or IR are too new for Triton.
    """
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            onnx_program = torch.onnx.export(program, (), dynamo=True, verbose=False)
    except torch.onnx.OnnxExporterError as error:
        raise ConversionError(f"torch's ONNX exporter refused the network: {error}") from None
    finally:
        registration.setLevel(level)
    assert onnx_program is not None  # only without dynamo
    model = onnx_program.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: source paths of the training machine
    _name_output(model)
    _name_batch_axis(model)
    check_versions(model)
    return model


def check_versions(model: ir.Model) -> None:
    """Raise ConversionError if opset or IR are newer than Triton 24.10 loads."""
    opset = model.opset_imports.get("", 0)
    if opset > MAX_OPSET or model.ir_version > MAX_IR_VERSION:
        raise ConversionError(
            f"the ONNX model has opset {opset} and IR {model.ir_version}; Triton 24.10 and later "
            f"load at most opset {MAX_OPSET} and IR {MAX_IR_VERSION}"
        )


def _name_output(model: ir.Model) -> None:
    outputs = model.graph.outputs
    if len(outputs) != 1:
        names = ", ".join(str(value.name) for value in outputs)
        raise ConversionError(f"the network has {len(outputs)} outputs ({names}), expected logits")
    shape = outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise ConversionError(f"the network's output has shape {shape}, expected logits [N, L]")
    outputs[0].name = LOGITS


def _name_batch_axis(model: ir.Model) -> None:
    """Name the first axis of every input and of the output, wherever its symbol stands."""
    symbols = set()
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None or not len(value.shape) or isinstance(value.shape[0], int):
            raise ConversionError(
                f'"{value.name}" has shape {value.shape}: its batch axis is frozen. Log the model '
                "with an input example of 2 rows or more and a signature whose first axis is -1"
            )
        symbols.add(str(value.shape[0].value))
    if len(symbols) != 1:
        raise ConversionError(
            f"inputs and output have different batch axes ({', '.join(sorted(symbols))}); "
            "every first axis must be the same"
        )
    pattern = re.compile(rf"\b{re.escape(symbols.pop())}\b")
    values = [*model.graph.inputs, *(v for n in model.graph.all_nodes() for v in n.outputs)]
    for value in values:
        if value.shape is None:
            continue
        value.shape = ir.Shape(
            [
                dim if isinstance(dim, int) else pattern.sub(BATCH_AXIS, str(dim.value))
                for dim in value.shape
            ]
        )
