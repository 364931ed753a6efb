"""The decision head: scale, bias, sigmoid and thresholds as ONNX nodes after anybody's logits.

Requires: an ONNX model with one float output [batch, L], which is logits (no sigmoid yet).
Does: appends Mul and Add (left out where calibration is identity), Sigmoid, GreaterOrEqual, in
FP32 whatever the body's precision; on request TopK.
Ensures: outputs ``probabilities`` (FLOAT [batch, L]), ``labels`` (BOOL [batch, L]) and ``logits``
(FLOAT [batch, L]), ``labels == (probabilities >= thresholds)``, and the decision in the model's
metadata, so that the file explains itself. The body's nodes and weights are left as they are, so
another head on the same body changes nothing else.

Source: ONNX operators Mul-14, Add-14, Sigmoid-13, GreaterOrEqual-16, TopK-11 (opset 20).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from thresher.decision import Decision, FloatArray
from thresher.errors import ConversionError

__all__ = [
    "DECISION_KEY",
    "append_decision_head",
    "read_decision",
    "remove_decision_head",
    "replace_decision_head",
]

DECISION_KEY = "thresher.decision"
"""The metadata property that holds the decision as JSON."""

OUTPUTS = ("probabilities", "labels", "logits")
TOP_OUTPUTS = ("top_probabilities", "top_labels")

_DIGEST_KEY = "thresher.decision_sha256"
HEAD_PREFIX = "thresher."
"""Of the names of what the head brings with it: nodes and weights."""
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}

_SQUASHING = {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax"}
_PASS_ON = {"Identity", "Cast", "Clip", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}

Model = TypeVar("Model", onnx.ModelProto, ir.Model)


def append_decision_head(
    model: Model, decision: Decision, *, top_k: int | None = None, has_sigmoid: bool = False
) -> Model:
    """Return an ONNX logits model with the decision head appended.

    Args:
        model: One output, float [batch, L]. Weights kept outside the file stay outside. An
            `onnx.ModelProto` is left alone; an `onnx_ir.Model` is changed in place.
        decision: Calibration and thresholds for its L outputs.
        top_k: Also give ``top_probabilities`` (FLOAT [batch, k], falling) and ``top_labels``
            (INT64 [batch, k], the labels' positions).
        has_sigmoid: The model ends in a sigmoid, which is taken off first.

    Raises:
        ConversionError: If the model has a head already, ends in a sigmoid (or does not, with
            ``has_sigmoid``), has another number of outputs, or its output does not fit the
            decision's labels.
    """
    if isinstance(model, onnx.ModelProto):
        built = append_decision_head(
            ir.from_proto(model), decision, top_k=top_k, has_sigmoid=has_sigmoid
        )
        return ir.to_proto(built)
    graph = model.graph
    if DECISION_KEY in model.metadata_props:
        raise ConversionError(
            "the model has a decision head already; replace it (`thresher head --replace`, "
            "replace_decision_head) or start from the model without one"
        )
    if has_sigmoid:
        _strip_sigmoid(graph)
    logits = _logits_of(model, decision)
    if top_k is not None and not 1 <= top_k <= decision.num_labels:
        raise ConversionError(f"top_k is {top_k}, expected 1 to {decision.num_labels} (the labels)")
    _free_names(graph, keep=logits)
    if logits.dtype != ir.DataType.FLOAT:
        logits.name = "body.logits"
        logits = _add(graph, "Cast", [logits], "logits", attributes={"to": int(ir.DataType.FLOAT)})
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
    if top_k is not None:
        graph.outputs.extend(_top(graph, probabilities, top_k))
    model.metadata_props[DECISION_KEY] = decision.to_json()
    model.metadata_props[_DIGEST_KEY] = decision.digest
    return model


def remove_decision_head(model: Model) -> Model:
    """Return a model without its decision head: its one output is ``logits`` again.

    Args:
        model: Has a head; changed in place where it is an `onnx_ir.Model`.

    Raises:
        ConversionError: If the model has no decision head.
    """
    if isinstance(model, onnx.ModelProto):
        return ir.to_proto(remove_decision_head(ir.from_proto(model)))
    graph = model.graph
    if DECISION_KEY not in model.metadata_props:
        raise ConversionError("the model has no decision head; append one")
    logits = next(value for value in graph.outputs if value.name == "logits")
    cast = logits.producer()
    graph.outputs.clear()
    own = [node for node in graph if (node.name or "").startswith(HEAD_PREFIX)]
    if cast in own:
        assert cast is not None
        body_logits = cast.inputs[0]
        assert body_logits is not None
        logits = body_logits
    graph.outputs.append(logits)
    for node in reversed(own):
        graph.remove(node, safe=True)
    for name in [name for name in graph.initializers if name.startswith(HEAD_PREFIX)]:
        del graph.initializers[name]
    for key in (DECISION_KEY, _DIGEST_KEY):
        model.metadata_props.pop(key, None)
    return model


def replace_decision_head(model: Model, decision: Decision, *, top_k: int | None = None) -> Model:
    """Return a model with another decision on the same body, which stays byte for byte.

    Args:
        model: Has a head; changed in place where it is an `onnx_ir.Model`.
        decision: Calibration and thresholds that take the place of the old ones.
        top_k: As in `append_decision_head`.

    Raises:
        ConversionError: If the model has no head, or the decision does not fit its outputs.
    """
    return append_decision_head(remove_decision_head(model), decision, top_k=top_k)


def read_decision(model: onnx.ModelProto) -> Decision | None:
    """Return the decision in an ONNX model's metadata, or None where it has no head.

    Raises:
        DecisionError: If there is a decision and it is broken.
    """
    for prop in model.metadata_props:
        if prop.key == DECISION_KEY:
            return Decision.from_json(prop.value, where="ONNX metadata")
    return None


def _strip_sigmoid(graph: ir.Graph) -> None:
    """Make the input of the last Sigmoid the output."""
    last = graph.outputs[0].producer() if len(graph.outputs) == 1 else None
    after: list[ir.Node] = []  # exporters put an Identity between a result and its output's name
    while last is not None and last.op_type == "Identity" and last.inputs[0] is not None:
        after.append(last)
        last = last.inputs[0].producer()
    if last is None or last.op_type != "Sigmoid":
        raise ConversionError(
            f"the model ends in {last.op_type if last else 'several outputs'}, not in a Sigmoid "
            "that could be taken off"
        )
    logits = last.inputs[0]
    assert logits is not None
    if logits.shape is None:
        logits.shape = last.outputs[0].shape or graph.outputs[0].shape
    if logits.type is None:
        logits.type = last.outputs[0].type or graph.outputs[0].type
    graph.outputs[0] = logits
    for node in (*after, last):
        if not node.outputs[0].uses():
            graph.remove(node, safe=True)


def _free_names(graph: ir.Graph, *, keep: ir.Value) -> None:
    """Rename the body's values that have a name which the head needs."""
    wanted = {*OUTPUTS, *TOP_OUTPUTS}
    for value in [v for n in graph.all_nodes() for v in n.outputs] + list(graph.inputs):
        if value is keep or value.name not in wanted:
            continue
        if value in graph.inputs:
            raise ConversionError(
                f'the model has an input named "{value.name}", which the head needs for an '
                "output; rename the input"
            )
        value.name = f"body.{value.name}"


def _logits_of(model: ir.Model, decision: Decision) -> ir.Value:
    """Return the one output that the head can follow, or say why there is none."""
    outputs = model.graph.outputs
    if len(outputs) != 1:
        names = ", ".join(str(value.name) for value in outputs)
        raise ConversionError(f"the model has {len(outputs)} outputs ({names}), expected logits")
    logits = outputs[0]
    squashing = _squashing(logits)
    if squashing is not None:
        can_be_stripped = squashing.op_type == "Sigmoid"
        raise ConversionError(
            f'the model ends in {squashing.op_type} (node "{squashing.name}"), expected logits: '
            "the head brings the sigmoid. Return the logits from forward()"
            + (", or have the sigmoid taken off: --has-sigmoid" if can_be_stripped else "")
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


def _squashing(value: ir.Value) -> ir.Node | None:
    """Return the node that makes probabilities of logits, if that is what an output comes from."""
    node = value.producer()
    while node is not None and node.op_type in _PASS_ON and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type in _SQUASHING else None


def _constant(graph: ir.Graph, name: str, values_L: FloatArray | npt.NDArray[np.int64]) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(values_L), name=f"{HEAD_PREFIX}{name}")
    value = ir.Value(
        name=tensor.name,
        shape=ir.Shape(values_L.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def _top(graph: ir.Graph, probabilities: ir.Value, top_k: int) -> tuple[ir.Value, ...]:
    count = _constant(graph, "top_k", np.array([top_k], dtype=np.int64))
    node = ir.node("TopK", [probabilities, count], name=f"{HEAD_PREFIX}TopK", num_outputs=2)
    assert probabilities.shape is not None
    for output, name, dtype in zip(
        node.outputs, TOP_OUTPUTS, (ir.DataType.FLOAT, ir.DataType.INT64), strict=True
    ):
        output.name = name
        output.shape = ir.Shape([probabilities.shape[0], top_k])
        output.type = ir.TensorType(dtype)
    graph.append(node)
    return tuple(node.outputs)


def _add(
    graph: ir.Graph,
    op: str,
    inputs: list[ir.Value],
    name: str,
    dtype: ir.DataType = ir.DataType.FLOAT,
    attributes: dict[str, int] | None = None,
) -> ir.Value:
    """Append a node whose one output has the shape of its first input."""
    node = ir.node(op, inputs, attributes, name=f"{HEAD_PREFIX}{op}")
    output = node.outputs[0]
    output.name = name if name in OUTPUTS else f"{HEAD_PREFIX}{name}"
    output.shape = inputs[0].shape
    output.type = ir.TensorType(dtype)
    graph.append(node)
    return output
