"""The config.pbtxt of a model with a decision head, complete, built as protobuf.

Source: Triton's model configuration (`model_config.proto`, release 24.10) and the ONNX Runtime
backend's parameters (its README and `src/onnxruntime.cc`, releases 24.10 to 26.06).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import onnx
from onnx import TensorProto
from tritonclient.grpc import model_config_pb2 as pb

from thresher.decision import Decision
from thresher.errors import ConfigError, ConversionError, unknown_name
from thresher.repository import LABELS_FILE, decision_key
from thresher_export.triton_options import TensorRtOptions, TritonOptions
from thresher_export.triton_overrides import override_config
from thresher_export.triton_releases import DEFAULT_TARGET, TritonRelease, triton_release

__all__ = ["build_config"]

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


def build_config(
    model: onnx.ModelProto,
    decision: Decision,
    *,
    name: str,
    version: int,
    options: TritonOptions | None = None,
    facts: Mapping[str, str] | None = None,
    release: str = DEFAULT_TARGET,
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
        options: Batching, instances, warmup, accelerators, and what is laid over.
        facts: More parameters of the version, such as ``run``, by name.
        release: The Triton release that serves it; decides what TensorRT can be asked for.

    Raises:
        ConversionError: If an input or output has a type or a shape that Triton does not take.
        ConfigError: If the options do not fit the model, or lay over what cannot be.
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
    config.dynamic_batching.preferred_batch_size.extend(options.preferred_batch_sizes)
    is_small = _num_bytes(model) < _SMALL_MODEL_BYTES
    # while one copy of a small network computes, another one takes the next batch in
    count = options.instance_count or (2 if is_small else 1)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_AUTO, count=count)
    if options.response_cache:
        config.response_cache.enable = True
    _add_accelerators(config, model, options, triton_release(release))
    if is_small:
        # more threads than one slow a small network down as soon as requests come side by side
        config.parameters["intra_op_thread_count"].string_value = "1"
    labels = hashlib.sha256("\n".join(decision.labels).encode()).hexdigest()
    for key, text in {"labels_sha256": labels, **(facts or {})}.items():
        config.parameters[f"thresher.{key}/{version}"].string_value = text
    config.parameters[decision_key(version)].string_value = decision.to_json()
    override_config(config, options.config)
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
    if len(dims) < 2:
        raise ConversionError(
            f'"{value.name}" has {len(dims)} axes, expected the batch and at least one more for '
            "Triton; take [N, 1] in forward: x.squeeze(1)"
        )
    return [dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims[1:]]


def _num_bytes(model: onnx.ModelProto) -> int:
    """Return the size of a model with the weights that lie outside it."""
    outside = (
        int(entry.value)
        for weight in model.graph.initializer
        for entry in weight.external_data
        if entry.key == "length"
    )
    return int(model.ByteSize()) + sum(outside)


def _add_accelerators(
    config: Any, model: onnx.ModelProto, options: TritonOptions, release: TritonRelease
) -> None:
    """Add what concerns GPUs alone; instances on a CPU pass it by."""
    listed = config.optimization.execution_accelerators.gpu_execution_accelerator
    if options.tensorrt is not None:
        listed.add(name="tensorrt", parameters=_tensorrt(model, options, options.tensorrt, release))
    if not options.tf32:
        listed.add(name="cuda", parameters={"use_tf32": "0"})


def _tensorrt(
    model: onnx.ModelProto,
    options: TritonOptions,
    tensorrt: TensorRtOptions,
    release: TritonRelease,
) -> dict[str, str]:
    """Return TensorRT's parameters, as far as the release takes them."""
    if not release.compiles_on_each_gpu and "instance_group" not in options.config:
        raise ConfigError(
            f"triton.tensorrt: Triton {release.name} compiles every engine for GPU 0, whichever "
            "GPU an instance is on. Serve with 25.04 or newer and give that release "
            "(--target-triton), or keep the model on that GPU: --set "
            "'triton.config.instance_group=[{kind = \"KIND_GPU\", count = 1, gpus = [0]}]'"
        )
    given = {"max_workspace_size_bytes": str(tensorrt.max_workspace_bytes)}
    if not release.is_strongly_typed:
        given["precision_mode"] = tensorrt.precision.upper()
    elif tensorrt.precision != "fp32":
        raise ConfigError(
            f'triton.tensorrt.precision is "{tensorrt.precision}": Triton {release.name} brings '
            "TensorRT 11, which computes in the model's own types. Leave it out, and export the "
            "model itself in that precision: thresher export --precision fp16"
        )
    if tensorrt.profiles if tensorrt.profiles is not None else _needs_profiles(model, tensorrt):
        given |= _shape_profiles(model, options.max_batch_size, tensorrt)
    if tensorrt.engine_cache:
        given |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": tensorrt.engine_cache}
    return given


def _needs_profiles(model: onnx.ModelProto, options: TensorRtOptions) -> bool:
    """Whether warmup cannot settle all shapes: something besides the batch is free.

    A profile names the model's inputs. Where TensorRT takes the network in several parts, the
    inputs of the later parts have none, and the load fails. Without a profile each part is
    compiled for the shapes that it meets, which are those of the warmup rows first.
    """
    free = {
        dim.dim_param
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim[1:]
        if not dim.HasField("dim_value")
    }
    return bool(free or options.axes)


def _shape_profiles(
    model: onnx.ModelProto, max_batch_size: int, options: TensorRtOptions
) -> dict[str, str]:
    """Return smallest, usual and largest shape of every input, for which TensorRT compiles once."""
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    sizes = {batch: (1, max_batch_size, max_batch_size), **options.axes}
    free = {
        dim.dim_param
        for value in model.graph.input
        for dim in value.type.tensor_type.shape.dim
        if not dim.HasField("dim_value")
    }
    for axis in options.axes:
        if axis not in free:
            unknown = unknown_name("axis", axis, free - {batch})
            raise ConfigError(f"triton.tensorrt.axes: {unknown}")
    missing = sorted(free - set(sizes))
    if missing:
        raise ConfigError(
            f'triton.tensorrt.axes lacks the free axis "{missing[0]}": give smallest, usual and '
            f"largest length, such as triton.tensorrt.axes.{missing[0]}=[1, 64, 256]; or have each "
            "shape compiled when it first comes: triton.tensorrt.profiles=false"
        )
    profiles = {}
    for number, kind in enumerate(("min", "opt", "max")):
        shapes = []
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            lengths = (
                dim.dim_value if dim.HasField("dim_value") else sizes[dim.dim_param][number]
                for dim in dims
            )
            shapes.append(f"{value.name}:{'x'.join(map(str, lengths))}")
        profiles[f"trt_profile_{kind}_shapes"] = ",".join(shapes)
    return profiles
