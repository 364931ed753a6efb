"""A body in INT8: a quarter of the size, and on a CPU with VNNI up to three times the speed.

Requires: a logits model in FP32; for convolutions also rows of the validation split.
Does: ONNX Runtime's own quantisation. A network with convolutions is quantised statically: the
range of each activation is measured on validation rows, and QuantizeLinear/DequantizeLinear pairs
carry it. Any other is quantised dynamically: weights to INT8, the range of activations found anew
for each batch, which costs little beside a matrix product and fits rows unlike the validation's.
Ensures: inputs and logits keep their types; the layer that gives the logits stays FP32.

Source: ONNX Runtime, "Quantize ONNX models": static for convolutional networks, dynamic for
recurrent ones and transformers; reduce_range keeps U8S8 products from saturating without VNNI.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from thresher.errors import ConversionError
from thresher.evaluation import EvaluationSplit
from thresher_export.onnx_file import load_model, save_model

__all__ = ["is_calibrated", "quantized"]

_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_DYNAMIC_OPS = ["MatMul", "Gemm", "LSTM", "Attention", "Gather"]
_STATIC_OPS = ["Conv", "ConvTranspose", "MatMul", "Gemm"]

_MAX_ROWS = 256
_BATCH_SIZE = 32


def is_calibrated(model: ir.Model) -> bool:
    """Return whether a network is quantised statically, with ranges from validation rows."""
    return any(node.op_type in _CONVOLUTIONS for node in model.graph.all_nodes())


def quantized(model: ir.Model, rows: EvaluationSplit | None = None) -> ir.Model:
    """Return a logits model with a body in INT8.

    Args:
        model: Without a head; not to be used afterwards.
        rows: Validation rows, which static quantisation is calibrated on.

    Raises:
        ConversionError: If there is nothing to quantise, no row to calibrate on, or ONNX Runtime
            refuses.
    """
    kept = _logits_layer(model)
    with tempfile.TemporaryDirectory(prefix="thresher-int8-") as folder, _quiet():
        source, made = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        save_model(model, source, link=False)
        _forget_shapes(source)
        try:
            if is_calibrated(model):
                _static(source, made, kept, _Rows(model, rows))
            else:
                _dynamic(source, made, kept)
        except ConversionError:
            raise
        except Exception as error:  # noqa: BLE001 -- ONNX Runtime's tool raises whatever it meets
            raise ConversionError(
                f"ONNX Runtime cannot quantise the network: {type(error).__name__}: {error}. "
                "Export it with --precision fp32 or fp16"
            ) from None
        result = load_model(made)
        ir.external_data.load_to_model(result)  # its file goes with the folder
    if not any("Quantize" in node.op_type for node in result.graph.all_nodes()):
        raise ConversionError(
            "the network has no matrix product, convolution or LSTM before its last layer, so "
            "there is nothing to quantise; export it with --precision fp32"
        )
    for node in result.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    return result


def _dynamic(source: Path, made: Path, kept: list[str]) -> None:
    quantize_dynamic(
        source,
        made,
        op_types_to_quantize=_DYNAMIC_OPS,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept,
        use_external_data_format=_is_large(source),
    )


def _static(source: Path, made: Path, kept: list[str], rows: _Rows) -> None:
    prepared = source.with_name("prepared.onnx")
    quant_pre_process(
        source,
        prepared,
        skip_symbolic_shape=True,
        save_as_external_data=_is_large(source),
        all_tensors_to_one_file=True,
    )
    quantize_static(
        prepared,
        made,
        rows,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=_STATIC_OPS,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=kept,
        use_external_data_format=_is_large(source),
    )


def _forget_shapes(path: Path) -> None:
    """Drop the noted shapes: the tool transposes Gemm's weights and leaves their note."""
    proto = onnx.load(path, load_external_data=False)
    del proto.graph.value_info[:]
    path.write_bytes(proto.SerializeToString())


def _is_large(source: Path) -> bool:
    return source.with_name(f"{source.name}.data").exists()


def _logits_layer(model: ir.Model) -> list[str]:
    """Return the name of the layer that gives the logits, and what the tool renames it to."""
    value: ir.Value | None = model.graph.outputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in {*_DYNAMIC_OPS, *_STATIC_OPS}:
            return [f"{node.name}", f"{node.name}_MatMul"]
        value = next((v for v in node.inputs if v is not None and v.producer()), None)
    return []


class _Rows(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Batches of validation rows, spread evenly over the split."""

    def __init__(self, model: ir.Model, rows: EvaluationSplit | None) -> None:
        if rows is None or not len(rows):
            raise ConversionError(
                "a network with convolutions is quantised with ranges that are measured on "
                "validation rows, and there are none; export it with --precision fp32 or fp16"
            )
        step = -(-len(rows) // _MAX_ROWS)
        self._inputs = {
            str(value.name): rows.inputs[str(value.name)][::step] for value in model.graph.inputs
        }
        self._start = 0

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by input name, None after the last."""
        at = slice(self._start, self._start + _BATCH_SIZE)
        self._start += _BATCH_SIZE
        batch = {name: array[at] for name, array in self._inputs.items()}
        return batch if all(map(len, batch.values())) else None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tool's advice on the root logger, which nobody here can follow."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
