"""Attention over nothing: zeros, as torch has it, where a mask hides every key.

Requires: what torch's exporter made, its notes on the nodes included.
Does: torch's scaled_dot_product_attention answers a query that may look at nothing with zeros; the
exporter writes it as MatMul, Add, Softmax, MatMul, and a softmax over minus infinity alone is NaN,
over the lowest finite numbers alone (a mask of booleans) the mean of all keys. Zeros are put in its
place, after the last MatMul, so that the pattern that engines fuse stays.
Ensures: an empty text (an attention mask of zeros) gets the answer that torch gives. Where a mask
of floats cannot hold minus infinity, attention is left as it is.

Source: torch/nn/functional.py and aten/src/ATen/native/transformers/attention.cpp, torch 2.13
(_safe_softmax); onnxscript's aten_scaled_dot_product_attention.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["zero_unattended"]

_NOTE = "pkg.torch.onnx.fx_node"
_OPERATOR = "aten.scaled_dot_product_attention"


def zero_unattended(model: ir.Model) -> int:
    """Put zeros where attention has nothing to look at; return for how many attentions.

    Args:
        model: As the exporter gave it; changed in place.
    """
    empty: dict[ir.Value, ir.Value] = {}
    found = 0
    for softmax in [node for node in model.graph.all_nodes() if node.op_type == "Softmax"]:
        scores = softmax.inputs[0].producer() if softmax.inputs[0] is not None else None
        if scores is None or scores.op_type != "Add" or _OPERATOR not in _note(softmax):
            continue
        bias = scores.inputs[1]
        lowest = None if bias is None else _hiding(bias)
        _drop_nan_guard(softmax)
        weighted = [use.node for use in softmax.outputs[0].uses()]
        if bias is None or lowest is None or [node.op_type for node in weighted] != ["MatMul"]:
            continue
        if bias not in empty:
            empty[bias] = _is_empty(bias, lowest, after=scores, at=len(empty))
        _replace(weighted[0], empty[bias], at=found)
        found += 1
    return found


def _drop_nan_guard(softmax: ir.Node) -> None:
    """Take out what the exporter puts behind a softmax under a mask of booleans: 0 for any NaN.

    It guards against nothing, for such a mask comes as the lowest finite number; and a NaN of the
    network's own, which torch shows, would be hidden.
    """
    weights = softmax.outputs[0]
    users = [use.node for use in weights.uses()]
    checks = [node for node in users if node.op_type == "IsNaN"]
    guards = [node for node in users if node.op_type == "Where"]
    if len(users) != 2 or not checks or not guards or guards[0].inputs[2] is not weights:
        return
    if guards[0].inputs[0] is not checks[0].outputs[0]:
        return
    guards[0].outputs[0].replace_all_uses_with(weights)
    assert softmax.graph is not None
    softmax.graph.remove([guards[0], checks[0]], safe=True)


def _note(node: ir.Node) -> str:
    return node.metadata_props.get(_NOTE, "")


def _hiding(bias: ir.Value) -> float | None:
    """Return the number by which a mask hides a key as torch does, None where it cannot.

    The exporter turns booleans into 0 and the lowest finite number, in a node with a note of
    attention's that all layers share; a mask of floats hides by minus infinity, and nothing else.
    """
    made = bias.producer()
    if made is not None and made.op_type == "Where" and _OPERATOR in _note(made):
        constant = ir.convenience.get_const_tensor(made.inputs[2]) if made.inputs[2] else None
        return None if constant is None else float(constant.numpy().min())
    seen: set[ir.Value] = set()
    values = [bias]
    has_infinity = depends = False
    while values:
        value = values.pop()
        if value in seen:
            continue
        seen.add(value)
        constant = ir.convenience.get_const_tensor(value)
        if constant is not None:
            array = constant.numpy()
            has_infinity |= array.dtype.kind == "f" and bool(np.isneginf(array).any())
            continue
        node = value.producer()
        depends |= node is None
        values += [] if node is None else [v for v in node.inputs if v is not None]
    return -np.inf if has_infinity and depends else None


def _is_empty(bias: ir.Value, lowest_value: float, *, after: ir.Node, at: int) -> ir.Value:
    """Return bool [..., queries, 1]: whether a query may look at no key."""
    assert bias.dtype is not None
    last = ir.node("Constant", [], {"value_ints": [-1]}, name=f"attention.last_{at}")
    hiding = ir.tensor(np.array(lowest_value, dtype=bias.dtype.numpy()))
    lowest = ir.node("Constant", [], {"value": hiding}, name=f"attention.lowest_{at}")
    highest = ir.node("ReduceMax", [bias, last.outputs[0]], name=f"attention.highest_{at}")
    equal = ir.node("Equal", [highest.outputs[0], lowest.outputs[0]], name=f"attention.empty_{at}")
    _insert(after, [last, lowest, highest, equal])
    last.outputs[0].type = ir.TensorType(ir.DataType.INT64)
    last.outputs[0].shape = ir.Shape([1])
    lowest.outputs[0].type = highest.outputs[0].type = ir.TensorType(bias.dtype)
    lowest.outputs[0].shape = ir.Shape([])
    equal.outputs[0].type = ir.TensorType(ir.DataType.BOOL)
    if bias.shape is not None:
        shape = ir.Shape([*list(bias.shape)[:-1], 1])
        highest.outputs[0].shape = equal.outputs[0].shape = shape
    return equal.outputs[0]


def _replace(weighted: ir.Node, is_empty: ir.Value, *, at: int) -> None:
    """Give zeros instead of what a MatMul makes of NaN."""
    result = weighted.outputs[0]
    assert result.dtype is not None
    zeros = ir.tensor(np.array(0, dtype=result.dtype.numpy()))
    zero = ir.node("Constant", [], {"value": zeros}, name=f"attention.zero_{at}")
    zero.outputs[0].type = ir.TensorType(result.dtype)
    zero.outputs[0].shape = ir.Shape([])
    where = ir.node("Where", [is_empty, zero.outputs[0], result], name=f"attention.attended_{at}")
    where.outputs[0].type, where.outputs[0].shape = result.type, result.shape
    result.replace_all_uses_with(where.outputs[0])
    where.replace_input_with(2, result)
    _insert(weighted, [zero, where])
    name, result.name = result.name, f"{result.name}.weighted"
    where.outputs[0].name = name


def _insert(after: ir.Node, nodes: list[ir.Node]) -> None:
    graph = after.graph
    assert graph is not None
    graph.insert_after(after, nodes)
    for node in nodes:
        node.outputs[0].name = node.name
