"""A model's graph is named by its content, so that no compiled engine of another model is taken.

ONNX Runtime keeps TensorRT's compiled engines in files that are named by the graph's name and a
hash of the model's file name, its inputs' names and its nodes' outputs. Weights are not in that
hash: a retrained version of the same network, or the same weights with other thresholds, would
load the engine that was compiled for the version before, and answer with it.

Source: `TRTGenerateId` and `GetSubGraph` in ONNX Runtime 1.28's TensorRT execution provider;
microsoft/onnxruntime issues 6455 and 32254.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx_ir as ir

from thresher.errors import ConversionError

__all__ = ["name_by_content"]

_PREFIX = "thresher_"
_NUM_CHARACTERS = 32


def name_by_content(model: ir.Model) -> None:
    """Name a model's graphs by the digest of its operators, its weights and its decision.

    Subgraphs get the name too: an engine of a branch bears the branch's own graph name.

    Args:
        model: With its head. Changed in place; weights outside the file are read as a stream.

    Raises:
        ConversionError: If a weight has no values.
    """
    graphs = list(model.graphs())
    for graph in graphs:
        graph.name = ""
    digest = hashlib.sha256()
    for part in _parts(model):
        digest.update(hashlib.sha256(part).digest())
    name = _PREFIX + digest.hexdigest()[:_NUM_CHARACTERS]
    for number, graph in enumerate(graphs):
        graph.name = name if number == 0 else f"{name}_{number}"


def _parts(model: ir.Model) -> Iterator[bytes | memoryview]:
    """Yield all that decides what a model computes, the same wherever its weights are kept."""
    yield repr(sorted(model.opset_imports.items())).encode()
    for function in sorted(model.functions.values(), key=lambda f: repr(f.identifier())):
        yield ir.to_proto(function).SerializeToString(deterministic=True)
    graph = model.graph
    for value in (*graph.inputs, *graph.outputs):
        yield f"{value.name} {value.dtype} {value.shape}".encode()
    for node in graph:
        yield ir.to_proto(node).SerializeToString(deterministic=True)
    for name in sorted(graph.initializers):
        tensor = graph.initializers[name].const_value
        if tensor is None:
            raise ConversionError(f'the weight "{name}" has no values; convert the model again')
        yield f"{name} {tensor.dtype} {tensor.shape}".encode()
        yield tensor.tobytes()
