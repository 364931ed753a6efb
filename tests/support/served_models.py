"""Small ONNX models and configurations for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

Shape = Sequence[int | str]


def network(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str], Mapping[str, Any]]],
    inputs: Mapping[str, tuple[int, Shape]],
    outputs: Mapping[str, tuple[int, Shape]],
    constants: Mapping[str, Any] | None = None,
) -> bytes:
    """Return an ONNX file's bytes: opset 20, IR 10."""
    graph = helper.make_graph(
        [helper.make_node(op, list(i), list(o), **kw) for op, i, o, kw in nodes],
        "graph",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def identity(kind: int, shape: Shape = ("batch", 2)) -> bytes:
    """Return a network that gives back its input."""
    return network([("Identity", ["x"], ["y"], {})], {"x": (kind, shape)}, {"y": (kind, shape)})


def in_process(model: bytes, feeds: Mapping[str, Any], outputs: Sequence[str]) -> list[Any]:
    """Return what ONNX Runtime answers in this process: the oracle."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return list(session.run(list(outputs), dict(feeds)))


PAIR = """
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
"""
ONE = "instance_group { count: 1 kind: KIND_CPU }\n"


def config(body: str, *, batch: int = 4) -> str:
    """Return a config.pbtxt for our backend, with one instance."""
    start = f'backend: "onnxruntime"\nmax_batch_size: {batch}\n'
    return start + body + ("" if "instance_group" in body else ONE)
