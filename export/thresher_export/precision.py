"""The body's precision: what an export can ask for, and how far each may lie from torch.

A body starts in FP32, whatever the network was trained in. The decision head is FP32 always, and
so is the layer that gives the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import onnx_ir as ir

from thresher.errors import ConfigError, unknown_name
from thresher.tolerances import Tolerances, tolerances_for, widest

if TYPE_CHECKING:
    from thresher.evaluation import EvaluationSplit

__all__ = [
    "PRECISIONS",
    "Precision",
    "check_precision",
    "lower_precision",
    "note_precision",
    "tolerances_of",
]

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_PRECISION_KEY = "thresher.precision"
_TRAINED_IN_KEY = "thresher.trained_in"


def check_precision(name: str) -> Precision:
    """Return ``name`` as a precision.

    Raises:
        ConfigError: If there is no such precision.
    """
    for precision in PRECISIONS:
        if name == precision:
            return precision
    raise ConfigError(f"--precision: {unknown_name('precision', name, PRECISIONS)}")


def lower_precision(
    model: ir.Model, precision: Precision, rows: EvaluationSplit | None = None
) -> ir.Model:
    """Return a logits model whose body has a precision; inputs and logits keep their types.

    Args:
        model: In FP32, without a head; not to be used afterwards.
        precision: ``"fp32"`` leaves the model as it is.
        rows: Calibrates static quantisation.

    Raises:
        ConversionError: If the model cannot have that precision.
    """
    if precision == "fp16":
        from thresher_export.half import to_half

        to_half(model)
    if precision == "int8":
        from thresher_export.quantize import quantized

        return quantized(model, rows)
    return model


def note_precision(model: ir.Model, precision: Precision, *, trained_in: str) -> None:
    """Write into a model's metadata what its body computes in, and what the network was in.

    Args:
        model: Changed in place.
        precision: Of the body.
        trained_in: ``"fp32"``, ``"fp16"`` or ``"bf16"``: the lowest that torch computed in.
    """
    model.metadata_props[_PRECISION_KEY] = precision
    model.metadata_props[_TRAINED_IN_KEY] = trained_in


def tolerances_of(model: ir.Model) -> Tolerances:
    """Return how far a model may lie from torch: the widest that either of them calls for.

    A network that was trained in half precision gives coarse logits in torch, and finer ones here.
    """
    body = tolerances_for(model.metadata_props.get(_PRECISION_KEY, "fp32"))
    trained_in = model.metadata_props.get(_TRAINED_IN_KEY, "fp32")
    return widest(body, tolerances_for(trained_in))
