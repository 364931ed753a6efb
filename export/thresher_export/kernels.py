"""Which operators a Triton release can compute on which types: small integers are widened for it.

Opset and IR are not all: ONNX Runtime has no kernel for each type that ONNX allows. Version 1.19,
of release 24.10, subtracts float32, float64, int32 and int64, and refuses to load a model that
subtracts uint8.

Requires: an ONNX model whose values have types.
Does: computes integers in int32 or int64 where there is no kernel for narrower ones, and casts the
result back, which wraps around as torch does.
Ensures: every node has a kernel on a CPU, which is where ONNX Runtime puts what a GPU lacks.

Source: `onnx_kernels.json`, made by scripts/onnx_kernels.py from the releases of ONNX Runtime.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import onnx
import onnx_ir as ir

from thresher.errors import ConversionError
from thresher_export.triton_releases import RELEASES, TritonRelease, triton_release

__all__ = ["check_kernels", "widen_integers"]

# those whose result is the same modulo 2^n, or is one of the values that came in
_EXACT_WHEN_WIDER = {
    *("Abs", "Add", "ArgMax", "ArgMin", "BitShift", "Clip", "Concat", "CumSum", "Div"),
    *("Einsum", "Equal", "Expand", "Gather", "GatherElements", "Greater", "GreaterOrEqual"),
    *("Less", "LessOrEqual", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "NonZero", "OneHot"),
    *("Pad", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu"),
    *("ScatterElements", "ScatterND", "Sign", "Sub", "Sum", "Tile", "TopK", "Trilu"),
    *("Unique", "Where"),
}
# Div, comparisons and what picks a value would see a uint64 above 2^63 as negative
_EXACT_MODULO = {"Add", "CumSum", "Einsum", "MatMul", "Mul", "Neg", "Sub", "Sum", "Where"}
_WIDER = {
    "bool": ("int32", "int64"),
    "int8": ("int32", "int64"),
    "uint8": ("int32", "int64"),
    "int16": ("int32", "int64"),
    "uint16": ("int64", "uint32"),  # int32 could not hold a product of two
    "uint32": ("int64",),
    "uint64": ("int64",),
}
_NAMES = {ir.DataType.FLOAT: "float", ir.DataType.DOUBLE: "double"}
_Types = dict[str, set[str]]


def widen_integers(model: ir.Model) -> None:
    """Change a model in place so that integers are wide enough for every Triton release."""
    oldest = next(iter(RELEASES.values()))
    for node in list(model.graph.all_nodes()):
        if node.op_type not in _EXACT_WHEN_WIDER or _has_kernel(node, model, oldest):
            continue
        for wider in _candidates(node, model):
            types = {key: {wider.get(t, t) for t in of} for key, of in _types(node, model).items()}
            if _is_listed(node, model, oldest, types):
                _compute_in(node, wider, model)
                break


def check_kernels(model: ir.Model, target: str) -> None:
    """Raise unless a Triton release can compute every node of a model.

    Args:
        model: As `widen_integers` leaves it; a value without a type is taken for one that fits.
        target: The release, such as ``"24.10"``.

    Raises:
        ConfigError: If there is no such release.
        ConversionError: If its ONNX Runtime has no kernel for a node; names the oldest release
            that has it.
    """
    release = triton_release(target)
    for node in model.graph.all_nodes():
        if _has_kernel(node, model, release):
            continue
        able = [r for r in RELEASES.values() if _has_kernel(node, model, r)]
        types = ", ".join(dict.fromkeys(_name(v) for v in node.inputs if v is not None))
        advice = "Compute that step of forward in another type: x.float(), or x.int()"
        if able:
            advice += f"; or serve with Triton {able[0].name}: --target-triton {able[0].name}"
        raise ConversionError(
            f"Triton {release.name} ({release.runtime}) cannot compute "
            f"{node.op_type} on {types}{_place(node)}. {advice}"
        )


def _has_kernel(node: ir.Node, model: ir.Model, release: TritonRelease) -> bool:
    schema = _schema(node, model)
    if schema is None or node.op_type == "Constant":
        return True  # of another domain, newer than the onnx that is installed, or made a weight
    types = _types(node, model)
    if any("" in of for of in types.values()):
        return True
    # without a kernel of its own, a function is computed by the operators that it is made of
    is_function = schema.has_function or schema.has_context_dependent_function  # type: ignore[attr-defined]
    exact = node.op_type in _EXACT_WHEN_WIDER
    return (is_function and not exact) or _is_listed(node, model, release, types)


def _is_listed(node: ir.Node, model: ir.Model, release: TritonRelease, types: _Types) -> bool:
    """Return whether ONNX Runtime has a kernel of an operator for some types."""
    schema = _schema(node, model)
    assert schema is not None
    since = schema.since_version
    for first, last, version, allowed in _kernels().get(node.op_type, ()):
        fits = first == since or (last is not None and first < since <= last)
        is_there = _as_numbers(version) <= _as_numbers(release.onnxruntime)
        # float16 is cast to float32 by ONNX Runtime itself
        if (
            fits
            and is_there
            and all(
                {"float" if t == "float16" and t not in some else t for t in types.get(key, ())}
                <= set(some)
                for key, some in allowed.items()
            )
        ):
            return True
    return False


def _types(node: ir.Node, model: ir.Model) -> _Types:
    """Return the types of inputs and outputs by the names that the operator's schema has."""
    schema = _schema(node, model)
    types: _Types = {}
    if schema is None:
        return types
    for formals, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        for position, value in enumerate(values):
            if value is None or not formals:
                continue
            formal = formals[min(position, len(formals) - 1)]
            name = _name(value) if isinstance(value.type, ir.TensorType | None) else ""
            for key in {formal.type_str, formal.name}:
                types.setdefault(key, set()).add(name)
    return types


def _candidates(node: ir.Node, model: ir.Model) -> Iterator[Mapping[str, str]]:
    """Yield what narrow types could be computed in, those that change least first."""
    values = (value for _, value in _bound(node, model))
    narrow = {_name(value) for value in values} & {*_WIDER}
    if node.op_type not in _EXACT_MODULO:
        narrow.discard("uint64")
    for some in dict.fromkeys((frozenset(narrow - {"bool"}), frozenset(narrow))):
        for wide in dict.fromkeys(wide for t in sorted(some) for wide in _WIDER[t]):
            yield {t: wide for t in some if wide in _WIDER[t]}


def _bound(node: ir.Node, model: ir.Model) -> list[tuple[int | None, ir.Value]]:
    """Return position and value of the inputs, and the outputs, that kernels differ in."""
    schema = _schema(node, model)
    assert schema is not None
    keys = {key for *_, allowed in _kernels().get(node.op_type, ()) for key in allowed}

    def is_bound(formals: Any, position: int) -> bool:
        formal = formals[min(position, len(formals) - 1)]
        return bool({formal.type_str, formal.name} & keys)

    taken = [(k, v) for k, v in enumerate(node.inputs) if v and is_bound(schema.inputs, k)]
    given = [(None, v) for k, v in enumerate(node.outputs) if is_bound(schema.outputs, k)]
    return [*taken, *given]


def _compute_in(node: ir.Node, wider: Mapping[str, str], model: ir.Model) -> None:
    """Cast a node's inputs to wider types, and its outputs back."""
    graph = node.graph
    assert graph is not None
    for position, value in _bound(node, model):
        narrow = value.dtype
        if narrow is None or _name(value) not in wider:
            continue
        wide = ir.DataType[wider[_name(value)].upper()]
        if position is not None:
            cast = _cast(value, wide, name=f"{node.name}.input_{position}_{wide.name.lower()}")
            graph.insert_before(node, cast)
            node.replace_input_with(position, cast.outputs[0])
            continue
        users = list(value.uses())
        value.type = ir.TensorType(wide)
        cast = _cast(value, narrow, name=f"{value.name}_{narrow.name.lower()}")
        graph.insert_after(node, cast)
        for user, index in users:
            user.replace_input_with(index, cast.outputs[0])


def _cast(value: ir.Value, to: ir.DataType, *, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(to)}, name=name)
    (output,) = node.outputs
    output.name, output.shape, output.type = name, value.shape, ir.TensorType(to)
    return node


def _name(value: ir.Value) -> str:
    """Return ONNX Runtime's name of a tensor's type, "" where it is not known."""
    return "" if value.dtype is None else _NAMES.get(value.dtype, value.dtype.name.lower())


def _place(node: ir.Node) -> str:
    """Return which layer a node stands in, as far as the exporter has noted it."""
    scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
    names = [name for name in json.loads(scopes.replace("'", '"') or "[]") if name]
    return f' (in "{names[0]}")' if names else f" ({node.name})"


def _schema(node: ir.Node, model: ir.Model) -> onnx.defs.OpSchema | None:
    opset = node.version or model.opset_imports.get("")
    if node.domain not in {"", "ai.onnx"} or opset is None:
        return None
    return _find_schema(node.op_type, opset)


@functools.cache
def _find_schema(op_type: str, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


@functools.cache
def _kernels() -> Mapping[str, Any]:
    """Return by operator: first and last opset, ONNX Runtime's version, types by name."""
    path = resources.files("thresher_export") / "onnx_kernels.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
