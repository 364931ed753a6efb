"""Shifts of unsigned integers for torch's ONNX exporter, which takes them for signed ones.

onnxscript 0.7 translates ``x >> 1`` of a uint8 by its function for int8: 200 becomes -28, and the
model holds a value of another type than it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from onnxscript.function_libs.torch_lib.ops import core

__all__ = ["shifts"]


def shifts() -> dict[Any, Callable[..., Any]]:
    """Return translations for `torch.onnx.export`, by torch's operator."""
    left = _shift("LEFT", core.aten_bitwise_left_shift)
    right = _shift("RIGHT", core.aten_bitwise_right_shift)
    aten = torch.ops.aten
    table: dict[Any, Callable[..., Any]] = {}
    for overload in ("Scalar", "Tensor"):
        table[getattr(aten.__lshift__, overload)] = left
        table[getattr(aten.__rshift__, overload)] = right
    for overload in ("Tensor_Scalar", "Tensor"):
        table[getattr(aten.bitwise_left_shift, overload)] = left
        table[getattr(aten.bitwise_right_shift, overload)] = right
    return table


def _shift(direction: str, signed: Callable[..., Any]) -> Callable[..., Any]:
    def shift(self: Any, other: Any) -> Any:
        if isinstance(other, int):
            other = op.Constant(value=ir.tensor(other, dtype=self.dtype))
        if self.dtype.name.startswith("UINT"):
            return op.BitShift(self, other, direction=direction)
        return signed(self, other)

    return shift
