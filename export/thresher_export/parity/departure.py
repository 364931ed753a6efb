"""Where a model departs from its reference: each node's output against what torch has there.

Every intermediate result that both sides know by the same name is made an output of the ONNX model
and compared on a few rows, in the graph's order. Torch's exporter names a node's result after the
node of the program, once the program is decomposed as the exporter does. Where there is no program,
or no name is shared, the same graph without ONNX Runtime's optimisations is the reference, or the
ONNX project's own evaluator in Python for a small model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from thresher.agreement import Tolerances
from thresher_export.engines import CPU, Inputs, Provider, session

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Departure", "Layer", "find_departure", "left_in_training"]

Array = npt.NDArray[Any]

_FEW_SHARED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One intermediate result and how far it lies from the reference's."""

    value: str
    op_type: str
    max_abs: float
    scale: float
    """The largest absolute value of the reference."""
    departs: bool

    @property
    def relative(self) -> float:
        """The largest difference over the largest value."""
        return self.max_abs / self.scale if self.scale else self.max_abs


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """How an error grows along the graph."""

    reference: str
    """What the intermediate results were compared with."""
    layers: tuple[Layer, ...]
    num_values: int
    """Intermediate results in the graph, of which `layers` are those that both sides name."""

    @property
    def first(self) -> Layer | None:
        """The first result that departs, in the graph's order."""
        return next((layer for layer in self.layers if layer.departs), None)

    def sentence(self) -> str:
        """Return where the two part, for a message."""
        first = self.first
        if first is None:
            return (
                f"No node by itself departs from {self.reference} when its result is kept (of "
                f"{len(self.layers)} compared): small errors add up, or what is wrong lies after "
                "the logits, in a batch of another size, or in an optimisation of ONNX Runtime"
            )
        before = self.layers[: self.layers.index(first)]
        after = f' (the last that agrees: "{before[-1].value}")' if before else ""
        return (
            f'The first node that departs from {self.reference}: {first.op_type} "{first.value}", '
            f"by {first.max_abs:.3g} where values reach {first.scale:.3g}{after}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the layers as plain values for JSON."""
        first = self.first
        return {
            "reference": self.reference,
            "num_values": self.num_values,
            "first": None if first is None else asdict(first),
            "nodes": [{**asdict(layer), "relative": layer.relative} for layer in self.layers],
        }


def find_departure(
    model: Path,
    inputs: Inputs,
    *,
    program: ExportedProgram | None,
    tolerances: Tolerances,
    provider: Provider = CPU,
) -> Departure | None:
    """Return how the error grows from node to node on some rows; None where nothing can tell.

    Args:
        model: The ONNX model.
        inputs: A few rows.
        program: Torch's, None where it is not at hand.
        tolerances: A result departs where it differs by more than ``logits_rtol`` of its largest
            value (and than a hundredth of ``logits_atol``, for results near 0).
        provider: Where the model that is judged computes.
    """
    proto = onnx.load(model, load_external_data=False)
    results = {
        output: node.op_type
        for node in proto.graph.node
        for output in node.output
        if output and output != "labels"
    }
    got = _intermediate(proto, list(results), model.parent, inputs, provider)
    if got is None:
        return None
    reference, expected = "torch", _torch_results(program, inputs) if program else {}
    if len(_shared(got, expected)) < _FEW_SHARED:
        reference = "ONNX Runtime without optimisation"
        plain = _intermediate(proto, list(results), model.parent, inputs, CPU, is_optimised=False)
        expected = plain or {}
    layers = []
    for name in _shared(got, expected):
        a, b = expected[name].astype(np.float64), got[name].astype(np.float64)
        with np.errstate(invalid="ignore"):
            difference = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        max_abs = float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0))
        finite = np.abs(a[np.isfinite(a)])
        scale = float(finite.max(initial=0.0))
        limit = tolerances.logits_rtol * scale + tolerances.logits_atol / 100
        layers.append(
            Layer(
                value=name,
                op_type=results[name],
                max_abs=max_abs,
                scale=scale,
                departs=max_abs > limit,
            )
        )
    if not layers:
        return None
    return Departure(reference=reference, layers=tuple(layers), num_values=len(results))


def _shared(got: Mapping[str, Array], expected: Mapping[str, Array]) -> list[str]:
    """Return the names, in the graph's order, that hold the same kind of thing on both sides."""
    return [
        name
        for name, array in got.items()
        if name in expected
        and array.shape == expected[name].shape
        and array.dtype.kind in "fiu"
        and array.size
    ]


def _intermediate(
    proto: onnx.ModelProto,
    names: list[str],
    weights_folder: Path,
    inputs: Inputs,
    provider: Provider,
    *,
    is_optimised: bool = True,
) -> dict[str, Array] | None:
    """Return intermediate results by name, None where ONNX Runtime cannot give them."""
    open_model = onnx.ModelProto()
    open_model.CopyFrom(proto)
    del open_model.graph.output[:]
    open_model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        started = session(
            open_model.SerializeToString(),
            provider,
            weights_folder=weights_folder.absolute(),
            is_optimised=is_optimised,
        )
        return dict(zip(names, started.run(names, dict(inputs)), strict=True))
    except Exception:  # noqa: BLE001 -- what cannot be told is left out of the message
        return None


def _torch_results(program: ExportedProgram, inputs: Inputs) -> dict[str, Array]:
    """Return what every node of the decomposed program gives, by the node's name."""
    import torch
    from torch.fx import Interpreter, Node

    found: dict[str, Array] = {}

    class Recorder(Interpreter):
        def run_node(self, n: Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and n.op == "call_function":
                values = value.float() if value.is_floating_point() else value
                found[n.name] = values.numpy(force=True).copy()
            return value

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            decomposed = program.run_decompositions({})
            module = decomposed.module()
            names = decomposed.graph_signature.user_inputs
            tensors = [torch.from_numpy(np.ascontiguousarray(inputs[str(n)])) for n in names]
            assert isinstance(module, torch.fx.GraphModule)
            answer = Recorder(module).run(*tensors)
    except Exception:  # noqa: BLE001 -- what cannot be told is left out of the message
        return {}
    return {**found, "logits": answer.float().numpy()}


def left_in_training(program: ExportedProgram) -> list[str]:
    """Return the nodes of a program that behave as in training: dropout that is on, batch-norm."""
    return [
        node.name
        for node in program.graph.nodes
        if node.op == "call_function" and _is_training(str(node.target), list(node.args))
    ]


def _is_training(operator: str, arguments: list[Any]) -> bool:
    """Whether a call of one of torch's operators does what only training does.

    Source: aten/src/ATen/native/native_functions.yaml, torch 2.13 (the order of arguments).
    """
    if "dropout" in operator:
        return arguments[-1:] == [True]
    if operator.startswith("aten.batch_norm"):
        return arguments[5:6] == [True]
    if operator.startswith(("aten.lstm", "aten.gru", "aten.rnn")):
        return arguments[6:7] == [True] and bool(arguments[5])
    if operator.startswith("aten.scaled_dot_product_attention"):
        return bool(arguments[4:5]) and arguments[4] > 0
    return False
