"""Sparse weights as dense ones: onnx_ir, which rewrites models, leaves them out without a word.

Source: ONNX, onnx.proto, SparseTensorProto: indices [NNZ] into the flattened tensor or [NNZ, rank].
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from thresher.errors import ConversionError

__all__ = ["make_dense"]


def make_dense(model: onnx.ModelProto) -> None:
    """Replace each sparse initializer and constant by its dense form, in place.

    Raises:
        ConversionError: If sparse weights lie outside the file, or an operator other than Constant
            takes them.
    """
    _graph(model.graph)
    for function in model.functions:
        for node in function.node:
            _node(node)


def _graph(graph: onnx.GraphProto) -> None:
    graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for node in graph.node:
        _node(node)


def _node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type in {onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS}:
            for graph in (attribute.g, *attribute.graphs):
                _graph(graph)
        elif attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
            dense = _dense(attribute.sparse_tensor)
            attribute.Clear()
            attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(dense)
        elif "SPARSE" in onnx.AttributeProto.AttributeType.Name(attribute.type):
            raise ConversionError(
                f'the node "{node.name}" ({node.op_type}) takes sparse tensors, which cannot be '
                "rewritten; convert the model with dense weights"
            )


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name = sparse.values.name
    outside = onnx.TensorProto.EXTERNAL
    if outside in {sparse.values.data_location, sparse.indices.data_location}:
        raise ConversionError(
            f'the sparse weights "{name}" lie outside the file; convert the model with dense '
            "weights, or with sparse ones inside"
        )
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    at = np.unravel_index(indices, dense.shape) if indices.ndim == 1 else tuple(indices.T)
    dense[at] = values
    return numpy_helper.from_array(dense, name)
