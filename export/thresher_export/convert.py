"""A logged torch program to an ONNX logits model: named inputs, named free axes, nothing else.

Requires: an `ExportedProgram` whose one output is logits [N, L], for any N.
Does: torch's own ONNX exporter, then attention over nothing (`thresher_export.attention`), names
(`thresher_export.axes`), and FP32 for what the network computes in FP16 or BF16
(`thresher_export.widen`).
Ensures: a body in FP32, opset and IR that the Triton release in question loads, a batch axis that
is free, no traces of the machine it was made on.
"""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import onnx_ir as ir
import torch
from torch.fx import Node

from thresher.errors import ConversionError, NotFoundError
from thresher_export.archive import check_archive, is_plain_guard
from thresher_export.attention import zero_unattended
from thresher_export.axes import name_axes
from thresher_export.kernels import check_kernels, widen_integers
from thresher_export.shifts import shifts
from thresher_export.triton_releases import DEFAULT_TARGET, check_loadable
from thresher_export.widen import widen

__all__ = ["LOGITS", "convert", "load_program", "reference_precision", "strip_sigmoid"]

LOGITS = "logits"

_ANY_NUMBER = 2**31
_UNTRANSLATED = re.compile(
    r"OpOverload\(op='([\w.:]+)'(?:, overload='(\w+)')?|translating node %(\w+)"
)
_FRAME = re.compile(
    r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<where>\S+)\n\s*(?P<code>.*)'
)


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Return the program in a ``pt2`` file; the network's Python class is not needed.

    Raises:
        NotFoundError: If there is no such file.
        ConversionError: If it is not a torch program, or reading it could run code that it holds.
    """
    if not path.is_file():
        raise NotFoundError(
            f"{path}: no such file; the model must be logged as pt2: "
            'mlflow.pytorch.log_model(..., serialization_format="pt2")'
        )
    check_archive(path)
    try:
        with warnings.catch_warnings():
            # torch 2.13 on Python 3.11 touches its own deprecated LeafSpec while unpickling specs
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            program = torch.export.load(path)
    except Exception as error:  # noqa: BLE001 -- torch raises whatever the broken file leads it to
        raise ConversionError(f"{path}: not a torch program that can be read: {error}") from None
    # guards are run as code when the program is; what they hold back is a few wrong sizes
    program._guards_code = [code for code in program._guards_code if is_plain_guard(code)]  # noqa: SLF001
    return program


def convert(program: torch.export.ExportedProgram, *, target: str = DEFAULT_TARGET) -> ir.Model:
    """Return the ONNX model of a logits program.

    Args:
        program: Takes one or more named tensors, gives logits [N, L].
        target: The oldest Triton release that is to load it.

    Raises:
        ConversionError: If an operator has no ONNX counterpart, the batch axis is frozen or
            bounded, the output is not one [N, L] tensor, or opset or IR are too new for Triton.
    """
    _check_bounds(program)
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # warns that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            onnx_program = torch.onnx.export(
                *(program, ()), dynamo=True, verbose=False, custom_translation_table=shifts()
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConversionError(_no_translation(program, error)) from None
    finally:
        registration.setLevel(level)
    assert onnx_program is not None  # only without dynamo
    model = onnx_program.model
    zero_unattended(model)
    _name_output(model)
    name_axes(model)
    widen(model)
    widen_integers(model)
    check_loadable(model, target)
    check_kernels(model, target)
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: source paths of the training machine
    return model


def strip_sigmoid(program: torch.export.ExportedProgram) -> None:
    """Take the sigmoid off that a program ends in, so that it gives logits; changed in place.

    Raises:
        ConversionError: If it does not end in one.
    """
    graph = program.graph
    results = next(node for node in graph.nodes if node.op == "output").args[0]
    last = results[0] if isinstance(results, tuple) and len(results) == 1 else None
    if not isinstance(last, Node) or last.target is not torch.ops.aten.sigmoid.default:
        found = last.target if isinstance(last, Node) else "several outputs"
        raise ConversionError(
            f"the network ends in {found}, not in a sigmoid that could be taken off; export it "
            "without --has-sigmoid"
        )
    (logits,) = last.args
    assert isinstance(logits, Node)
    last.replace_all_uses_with(logits)
    graph.erase_node(last)
    program.graph_module.recompile()
    for spec in program.graph_signature.output_specs:
        if spec.arg.name == last.name:
            spec.arg.name = logits.name


def reference_precision(program: torch.export.ExportedProgram) -> str:
    """Return ``"bf16"``, ``"fp16"`` or ``"fp32"``: the lowest that torch itself computes in."""
    found = {
        value.dtype
        for node in program.graph.nodes
        if isinstance(value := node.meta.get("val"), torch.Tensor)
    }
    names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    return next((name for dtype, name in names.items() if dtype in found), "fp32")


def _check_bounds(program: torch.export.ExportedProgram) -> None:
    """Raise ConversionError where the program takes only some numbers of rows."""
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or node.name not in inputs or not getattr(value, "ndim", 0):
            continue
        for symbol, bounds in program.range_constraints.items():
            is_first = str(symbol) == str(value.shape[0])
            # torch says 2 for any number: it takes 0 and 1 for special cases, and so does ONNX
            if is_first and (bounds.lower > 2 or bounds.upper < _ANY_NUMBER):
                raise ConversionError(
                    f'"{node.name}" takes {bounds.lower} to {bounds.upper} rows only, expected '
                    "any number. Look in forward for a branch or a limit that depends on "
                    "x.shape[0], or for the bounds of a torch.export.Dim; log the model again"
                )


def _no_translation(program: torch.export.ExportedProgram, error: Exception) -> str:
    """Return what the exporter stumbled over, where that stands in forward, and advice."""
    operator, name, reason = "", "", str(error).strip().splitlines()[0]
    cause: BaseException | None = error
    while cause is not None:
        for match in _UNTRANSLATED.finditer(str(cause)):
            operator = operator or (match[1] or "")
            name = name or (match[3] or "")
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else reason
        cause = cause.__cause__
    if not operator:
        return (
            f"torch's ONNX exporter refused the network: {reason}. "
            "Rewrite that part of forward with other operators"
        )
    where = _place(program, operator, name)
    return (
        f"the operator {operator} has no ONNX translation{where}. Write that step of forward with "
        "operators that have one (basic arithmetic, matmul, sort, topk, gather, where), or do it "
        "outside the network, before its inputs"
    )


def _place(program: torch.export.ExportedProgram, operator: str, name: str) -> str:
    """Return where in the user's code an operator stands, from what torch.export has noted."""
    node = _find(program.graph.nodes, operator, name)
    if node is None:  # it comes out only when a larger operator is taken apart
        try:
            node = _find(program.run_decompositions().graph.nodes, operator, name)
        except Exception:  # noqa: BLE001 -- the place is a help; the reason is known without it
            return ""
    if node is None:
        return ""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    own = [f for f in frames if "/torch/" not in f["file"] and not f["file"].startswith("torch/")]
    frame = (own or frames)[-1] if frames else None
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    inside = f', in the module "{modules[-1]}"' if modules else ""
    if frame is None:
        return f" (node {node.name}{inside})"
    return (
        f'; it stands in {frame["file"]}, line {frame["line"]}: "{frame["code"].strip()}"{inside}'
    )


def _find(nodes: object, operator: str, name: str) -> Node | None:
    found = [n for n in nodes if str(n.target).startswith(operator)]  # type: ignore[attr-defined]
    return next((n for n in found if n.name == name), found[0] if found else None)


def _name_output(model: ir.Model) -> None:
    outputs = model.graph.outputs
    if len(outputs) != 1:
        names = ", ".join(str(value.name) for value in outputs)
        raise ConversionError(
            f"the network has {len(outputs)} outputs ({names}), expected logits alone: return "
            "them, and nothing else, from forward"
        )
    shape = outputs[0].shape
    if shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        raise ConversionError(
            f"the network's output has shape {shape}, expected logits [N, L]: one row for each "
            "row that comes in, one column per label"
        )
    outputs[0].name = LOGITS
