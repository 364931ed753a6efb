"""A body in FP32, whatever the network was trained in: the one form that the rest starts from.

Requires: an ONNX model with values in FP16 or BF16.
Does: stores weights, and computes, in FP32, which holds every FP16 and BF16 value exactly.
Ensures: no BF16 (ONNX Runtime has no such operators on a CPU), and FP16 only where an input is.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from thresher.errors import ConversionError

__all__ = ["widen"]

_FLOAT = ir.DataType.FLOAT
_NARROW = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_TYPE_ATTRIBUTES = {"to", "dtype"}


def widen(model: ir.Model) -> None:
    """Change a model in place so that it computes in FP32; inputs keep their types.

    Raises:
        ConversionError: If an input is BF16, which neither NumPy nor Triton's clients can send.
    """
    for value in model.graph.inputs:
        if value.dtype == ir.DataType.BFLOAT16:
            raise ConversionError(
                f'the input "{value.name}" is BF16, which NumPy does not have, so no client can '
                "send it; take float32 and cast in forward: x.to(torch.bfloat16)"
            )
    for graph in model.graphs():
        for weight in graph.initializers.values():
            if weight.const_value is not None and weight.dtype in _NARROW:
                weight.const_value = _widened(weight.const_value)
                weight.type = ir.TensorType(_FLOAT)
    for node in model.graph.all_nodes():
        _widen_node(node)
    for value in list(model.graph.inputs):
        if value.dtype == ir.DataType.FLOAT16:
            _cast_input(model.graph, value)


def _widen_node(node: ir.Node) -> None:
    for output in node.outputs:
        if output.dtype in _NARROW:
            output.type = ir.TensorType(_FLOAT)
    for key, attribute in list(node.attributes.items()):
        if key in _TYPE_ATTRIBUTES and attribute.value in _NARROW:
            node.attributes[key] = ir.AttrInt64(key, int(_FLOAT))
        elif attribute.type == ir.AttributeType.TENSOR and attribute.value.dtype in _NARROW:
            node.attributes[key] = ir.AttrTensor(key, _widened(attribute.value))


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name),
        dtype=_FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _cast_input(graph: ir.Graph, value: ir.Value) -> None:
    users = list(value.uses())
    node = ir.node("Cast", [value], {"to": int(_FLOAT)}, name=f"{value.name}.to_fp32")
    node.outputs[0].name = f"{value.name}.fp32"
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(_FLOAT)
    first = next(iter(graph), None)
    if first is None:
        graph.append(node)
    else:
        graph.insert_before(first, node)
    for user, position in users:
        user.replace_input_with(position, node.outputs[0])
