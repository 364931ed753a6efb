"""The config.pbtxt of a model with a decision head, complete, built as protobuf.

Source: Triton's model configuration (`model_config.proto`, release 24.10) and the ONNX Runtime
backend's parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2 as pb

from thresher.decision import Decision
from thresher.errors import ConfigError, ConversionError
from thresher.repository import LABELS_FILE, decision_key

__all__ = ["TritonOptions", "build_config"]

_SMALL_MODEL_BYTES = 64 * 2**20

_TYPES = {
    TensorProto.BOOL: "TYPE_BOOL",
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.UINT16: "TYPE_UINT16",
    TensorProto.UINT32: "TYPE_UINT32",
    TensorProto.UINT64: "TYPE_UINT64",
    TensorProto.INT8: "TYPE_INT8",
    TensorProto.INT16: "TYPE_INT16",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.BFLOAT16: "TYPE_BF16",
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.DOUBLE: "TYPE_FP64",
    TensorProto.STRING: "TYPE_STRING",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """How Triton is to run a model."""

    max_batch_size: int = 64
    """Largest batch that Triton puts together or takes; parity is proven at this size too."""
    max_queue_delay_us: int = 0
    """How long a request may wait for others to batch with; 0 batches what has queued already."""
    instance_count: int = 1
    """Copies of the model that run side by side on each device."""

    def __post_init__(self) -> None:
        for name, low in (("max_batch_size", 1), ("max_queue_delay_us", 0), ("instance_count", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected at least {low}")


def build_config(
    model: onnx.ModelProto,
    decision: Decision,
    *,
    name: str,
    version: int,
    options: TritonOptions | None = None,
) -> Any:
    """Return the `ModelConfig` message that serves one version of a model.

    Nothing is left to auto-completion, which would cut the batch to 4. The decision of the version
    stands in the parameters, so that a client needs no side file; names of labels stand in
    ``labels.txt`` for Triton's classification extension.

    Args:
        model: The ONNX model with its head; every first axis is the batch.
        decision: What the head holds.
        name: The model's name in Triton.
        version: The version's number, the one MLflow gave.
        options: Batching and instances.

    Raises:
        ConversionError: If an input or output has a type that Triton does not know.
    """
    options = options or TritonOptions()
    config = pb.ModelConfig(
        name=name,
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=options.max_batch_size,
    )
    for value in model.graph.input:
        config.input.add(name=value.name, data_type=_type_of(value), dims=_dims_of(value))
    for value in model.graph.output:
        config.output.add(
            name=value.name,
            data_type=_type_of(value),
            dims=_dims_of(value),
            # classification is defined for numbers; Triton refuses it on BOOL
            label_filename="" if value.name == "labels" else LABELS_FILE,
        )
    config.version_policy.specific.versions.append(version)
    config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_AUTO, count=options.instance_count)
    if model.ByteSize() < _SMALL_MODEL_BYTES:
        # more threads than one slow a small network down as soon as requests come side by side
        config.parameters["intra_op_thread_count"].string_value = "1"
    config.parameters[decision_key(version)].string_value = decision.to_json()
    return config


def _type_of(value: onnx.ValueInfoProto) -> str:
    element = TensorProto.DataType.Value(
        TensorProto.DataType.Name(value.type.tensor_type.elem_type)
    )
    if element not in _TYPES:
        raise ConversionError(
            f'"{value.name}" has type {TensorProto.DataType.Name(element)}, which Triton lacks'
        )
    return _TYPES[element]


def _dims_of(value: onnx.ValueInfoProto) -> list[int]:
    """Return the shape without its batch axis, -1 for a free axis."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims[1:]]
