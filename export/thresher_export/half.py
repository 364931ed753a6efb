"""A body in FP16: half the size, and on a GPU up to twice the speed.

Requires: a logits model whose float values have known types, as torch's exporter gives them.
Does: gives each operator a type by the rule of ``torch.autocast``. Matrix products, convolutions
and recurrent cells compute in FP16, with their weights stored so. What may overflow or cancel
(reductions, softmax, normalisation, exponentials, powers) computes in FP32. All else follows the
widest of its inputs. The layer that gives the logits stays FP32: FP16 would round a logit of 5 to
steps of 0.004.
Ensures: inputs and logits keep their types; weights that FP16 cannot hold stay FP32.

Source: torch.amp, "Ops that can autocast to float16", "... to float32", "... promote to the
widest input type"; IEEE 754 binary16 (largest value 65504).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from thresher.errors import ConversionError

__all__ = ["to_half"]

_FP16_OPS = {"MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN"}
_WIDEST_OPS = {
    # arithmetic and activations
    *("Add", "Sub", "Mul", "Div", "Neg", "Abs", "Min", "Max", "Where", "Clip", "Relu", "LeakyRelu"),
    *("PRelu", "Elu", "Selu", "HardSigmoid", "HardSwish", "Tanh", "Sigmoid", "Erf", "Gelu"),
    *("Softsign", "ThresholdedRelu", "Mish"),
    # moving values about
    *("Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool"),
    *("Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Dropout"),
    *("DepthToSpace", "SpaceToDepth", "ScatterND", "ScatterElements"),
}  # fmt: skip
_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)


def to_half(model: ir.Model) -> None:
    """Change a logits model so that its body computes in FP16.

    Args:
        model: Without a head; changed in place. Weights are converted as they are written.

    Raises:
        ConversionError: If nothing in it can compute in FP16.
    """
    graph = model.graph
    last = _logits_layer(graph)
    types = _Types(graph)
    changed = 0
    for node in list(graph):
        floats = [v for v in node.inputs if v is not None and types.is_float(v)]
        if node is last or not floats or not _runs_in_half(node, floats, types):
            continue
        for position, value in enumerate(node.inputs):
            if value is not None and types.is_float(value):
                node.replace_input_with(position, types.half(value, node))
        types.outputs_become_half(node)
        changed += node.op_type in _FP16_OPS
    types.widen_elsewhere(last)
    if not changed:
        raise ConversionError(
            "the network has no matrix product, convolution or recurrent layer before its last "
            "one, so FP16 would change nothing; export it with --precision fp32"
        )
    _remove_unused_weights(graph)


def _runs_in_half(node: ir.Node, floats: list[ir.Value], types: _Types) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    weights = [v for v in floats if types.is_weight(v)]
    if not all(types.fits(weight) for weight in weights):
        return False
    if node.op_type in _FP16_OPS:
        return True
    if node.op_type == "Gather":  # a table of embeddings is stored in FP16, and looked up as such
        return types.is_half(floats[0]) or types.is_weight(floats[0])
    computed = [v for v in floats if not types.is_weight(v)]
    return node.op_type in _WIDEST_OPS and bool(computed) and all(map(types.is_half, computed))


def _logits_layer(graph: ir.Graph) -> ir.Node | None:
    """Return the matrix product or convolution that the logits come from, last before the end."""
    value: ir.Value | None = graph.outputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in _FP16_OPS:
            return node
        value = next((v for v in node.inputs if v is not None and v.producer()), None)
    return None


class _Types:
    """Which values are FP16 now, and their twins of the other type, made when first needed."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._halves: dict[ir.Value, ir.Value] = {}
        self._fits: dict[ir.Value, bool] = {}
        self._become_half: set[ir.Value] = set()

    def is_float(self, value: ir.Value) -> bool:
        """Whether a value was FP32 in the model that came."""
        return value.dtype == _FLOAT or value in self._become_half

    def is_half(self, value: ir.Value) -> bool:
        return value in self._become_half

    def is_weight(self, value: ir.Value) -> bool:
        return value.const_value is not None

    def fits(self, weight: ir.Value) -> bool:
        """Whether FP16 holds a constant's values without turning one into infinity."""
        if weight not in self._fits:
            assert weight.const_value is not None
            array = weight.const_value.numpy()
            largest = float(np.abs(array).max(initial=0)) if array.size else 0.0
            self._fits[weight] = largest <= _LARGEST  # False for NaN and infinity too
        return self._fits[weight]

    def half(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """Return a value in FP16: itself, a weight stored so, or a Cast before its first user."""
        if value in self._become_half:
            return value
        if value not in self._halves:
            made = self._half_weight(value) if value.is_initializer() else None
            self._halves[value] = made or self._cast(value, _HALF, before=user)
        return self._halves[value]

    def outputs_become_half(self, node: ir.Node) -> None:
        for output in node.outputs:
            if output.dtype == _FLOAT:
                output.type = ir.TensorType(_HALF)
                self._become_half.add(output)

    def widen_elsewhere(self, last: ir.Node | None) -> None:
        """Give FP32 to every user of an FP16 value that computes in FP32, and to the logits."""
        for value in list(self._become_half):
            users = [
                (user, position)
                for user, position in value.uses()
                if user is last or not any(o in self._become_half for o in user.outputs)
            ]
            is_output = value in self._graph.outputs
            if not users and not is_output:
                continue
            producer = value.producer()
            assert producer is not None
            wide = self._cast(value, _FLOAT, after=producer)
            for user, position in users:
                if not (user.op_type == "Cast" and user is wide.producer()):
                    user.replace_input_with(position, wide)
            for position, output in enumerate(self._graph.outputs):
                if output is value:
                    self._graph.outputs[position] = wide

    def _half_weight(self, value: ir.Value) -> ir.Value:
        source = value.const_value
        assert source is not None
        name = f"{value.name}.fp16"
        tensor = ir.LazyTensor(
            lambda: ir.tensor(source.numpy().astype(np.float16), name=name),
            dtype=_HALF,
            shape=ir.Shape(source.shape.numpy()),
            name=name,
        )
        made = ir.Value(name=name, shape=value.shape, type=ir.TensorType(_HALF), const_value=tensor)
        self._graph.register_initializer(made)
        return made

    def _cast(
        self,
        value: ir.Value,
        dtype: ir.DataType,
        *,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
    ) -> ir.Value:
        suffix = "fp16" if dtype == _HALF else "fp32"
        node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}.to_{suffix}")
        output = node.outputs[0]
        output.name, output.shape = f"{value.name}.{suffix}", value.shape
        output.type = ir.TensorType(dtype)
        if before is not None:
            self._graph.insert_before(before, node)
        else:
            assert after is not None
            self._graph.insert_after(after, node)
        return output


def _remove_unused_weights(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[name]
