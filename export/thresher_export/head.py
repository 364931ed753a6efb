"""The decision head: scale, bias, sigmoid and thresholds as ONNX nodes after anybody's logits.

Requires: an ONNX model with one float output [batch, L], which is logits (no sigmoid yet).
Does: appends Mul and Add (left out where calibration is identity), Sigmoid, GreaterOrEqual, in
FP32 whatever the body's precision.
Ensures: outputs ``probabilities`` (FLOAT [batch, L]), ``labels`` (BOOL [batch, L]) and ``logits``
(FLOAT [batch, L]), ``labels == (probabilities >= thresholds)``, and the decision in the model's
metadata, so that the file explains itself.

Source: ONNX operators Mul-14, Add-14, Sigmoid-13, GreaterOrEqual-16 (opset 20).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from thresher.decision import Decision, FloatArray
from thresher.errors import ConversionError

__all__ = ["DECISION_KEY", "append_decision_head", "read_decision"]

DECISION_KEY = "thresher.decision"
"""The metadata property that holds the decision as JSON."""

_PREFIX = "thresher."
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def append_decision_head(model: onnx.ModelProto, decision: Decision) -> onnx.ModelProto:
    """Return a copy of an ONNX logits model with the decision head appended.

    Args:
        model: One output, float [batch, L]. Weights kept outside the file stay outside.
        decision: Calibration and thresholds for its L outputs.

    Raises:
        ConversionError: If the model has a head already, ends in a sigmoid, has another number of
            outputs, or its output does not fit the decision's labels.
    """
    built = ir.from_proto(model)
    graph = built.graph
    logits = _logits_of(built, decision)
    for value in [v for n in graph.all_nodes() for v in n.outputs] + list(graph.inputs):
        if value is not logits and value.name in {"logits", "probabilities", "labels"}:
            if value in graph.inputs:
                raise ConversionError(
                    f'the model has an input named "{value.name}", which the head needs for an '
                    "output; rename the input"
                )
            value.name = f"body.{value.name}"

    if logits.dtype != ir.DataType.FLOAT:
        logits.name = "body.logits"
        logits = _add(graph, "Cast", [logits], "logits", ir.DataType.FLOAT)
        node = logits.producer()
        assert node is not None
        node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
    logits.name = "logits"
    score = logits
    if (decision.scale != 1).any():
        score = _add(graph, "Mul", [score, _constant(graph, "scale", decision.scale)], "scaled")
    if (decision.bias != 0).any():
        score = _add(graph, "Add", [score, _constant(graph, "bias", decision.bias)], "calibrated")
    probabilities = _add(graph, "Sigmoid", [score], "probabilities")
    thresholds = _constant(graph, "thresholds", decision.thresholds)
    labels = _add(graph, "GreaterOrEqual", [probabilities, thresholds], "labels", ir.DataType.BOOL)
    graph.outputs.clear()
    graph.outputs.extend([probabilities, labels, logits])
    built.metadata_props[DECISION_KEY] = decision.to_json()
    built.metadata_props["thresher.decision_sha256"] = decision.digest
    return ir.to_proto(built)


def read_decision(model: onnx.ModelProto) -> Decision | None:
    """Return the decision in an ONNX model's metadata, or None where it has no head.

    Raises:
        DecisionError: If there is a decision and it is broken.
    """
    for prop in model.metadata_props:
        if prop.key == DECISION_KEY:
            return Decision.from_json(prop.value, where="ONNX metadata")
    return None


def _logits_of(model: ir.Model, decision: Decision) -> ir.Value:
    """Return the one output that the head can follow, or say why there is none."""
    if DECISION_KEY in model.metadata_props:
        raise ConversionError("the model has a decision head already; append it once")
    outputs = model.graph.outputs
    if len(outputs) != 1:
        names = ", ".join(str(value.name) for value in outputs)
        raise ConversionError(f"the model has {len(outputs)} outputs ({names}), expected logits")
    logits = outputs[0]
    producer = logits.producer()
    if producer is not None and producer.op_type in {"Sigmoid", "HardSigmoid", "Softmax"}:
        raise ConversionError(
            f'the model ends in {producer.op_type} (node "{producer.name}"), expected logits: '
            "the head brings the sigmoid. Return the logits from forward()"
        )
    if logits.dtype not in _FLOATS:
        raise ConversionError(f"the output is {logits.dtype}, expected float logits")
    shape = logits.shape
    if shape is None or len(shape) != 2 or shape[1] != decision.num_labels:
        raise ConversionError(
            f"the output has shape {shape}, expected [batch, {decision.num_labels}] for "
            f"{decision.num_labels} labels"
        )
    if logits in model.graph.inputs:
        raise ConversionError("the model hands its input through; expected a network")
    return logits


def _constant(graph: ir.Graph, name: str, values_L: FloatArray) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(values_L), name=f"{_PREFIX}{name}")
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(values_L.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _add(
    graph: ir.Graph,
    op: str,
    inputs: list[ir.Value],
    name: str,
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> ir.Value:
    """Append a node whose one output has the shape of its first input."""
    node = ir.node(op, inputs, name=f"{_PREFIX}{op}")
    output = node.outputs[0]
    output.name = name if name in {"logits", "probabilities", "labels"} else f"{_PREFIX}{name}"
    output.shape = inputs[0].shape
    output.type = ir.TensorType(dtype)
    graph.append(node)
    return output
