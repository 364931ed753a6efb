"""Which axes of a model's inputs are free besides the batch, and what sizes the program takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from torch.export import ExportedProgram

__all__ = ["Axis", "further_axes"]

_NO_END = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A free axis, such as the length of a sequence; inputs that share its name share its size."""

    name: str
    inputs: Mapping[str, int]
    """Which axis of which inputs."""
    low: int
    high: int | None
    """None where there is no end."""


def further_axes(model: onnx.ModelProto, program: ExportedProgram | None) -> list[Axis]:
    """Return the free axes of a model's inputs, the batch (axis 0) left out."""
    axes: dict[str, dict[str, int]] = {}
    weights = {initializer.name for initializer in model.graph.initializer}
    for value in model.graph.input:
        if value.name in weights:
            continue
        for at, dim in enumerate(value.type.tensor_type.shape.dim):
            if at and not dim.HasField("dim_value"):
                axes.setdefault(dim.dim_param or f"{value.name}[{at}]", {})[value.name] = at
    found = []
    for name, inputs in axes.items():
        low, high = _range(program, inputs) if program is not None else (1, None)
        found.append(Axis(name=name, inputs=inputs, low=low, high=high))
    return found


def _range(program: ExportedProgram, inputs: Mapping[str, int]) -> tuple[int, int | None]:
    """Return the sizes for which the program was traced."""
    low, high = 1, None
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in inputs:
            continue
        size = node.meta["val"].shape[inputs[node.name]]
        if isinstance(size, int):
            return size, size
        limits = program.range_constraints.get(size.node.expr)
        if limits is None:
            continue
        low = max(low, int(limits.lower))
        try:
            end = int(limits.upper)
        except (AttributeError, OverflowError, TypeError, ValueError):
            continue  # infinite
        if end < _NO_END:
            high = end if high is None else min(high, end)
    return low, high
