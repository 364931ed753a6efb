"""Names for the axes of an ONNX model that may have any length.

Requires: a model from torch's exporter, whose free axes bear symbols such as ``s43``.
Does: calls the first axis of every input and of the output ``batch``, and the other free axes of
the inputs by what they usually are: ``sequence`` of a table of tokens, ``height`` and ``width`` of
a picture. A symbol that somebody chose stays.
Ensures: one axis has one name wherever it stands; an axis that the exporter knows nothing about
stays nameless (two axes of the same name are taken for equal).
"""

from __future__ import annotations

import re

import onnx_ir as ir

from thresher.errors import ConversionError

__all__ = ["BATCH_AXIS", "name_axes"]

BATCH_AXIS = "batch"

_TORCH_SYMBOL = re.compile(r"s\d+")
_BY_VALUE = re.compile(r"\bu\d+\b")
_USUAL = {2: ("sequence",), 3: ("sequence", "features"), 4: ("channels", "height", "width")}
"""What the axes after the batch usually are, by an input's number of axes."""


def name_axes(model: ir.Model) -> None:
    """Name the free axes of a logits model in place.

    Raises:
        ConversionError: If a first axis is fixed, or the first axes are not one and the same.
    """
    names = {_batch_symbol(model): BATCH_AXIS}
    for value in model.graph.inputs:
        assert value.shape is not None
        for position, dim in enumerate(value.shape):
            symbol = None if isinstance(dim, int) else dim.value
            if symbol is None or symbol in names or not symbol.isidentifier():
                continue
            if not _TORCH_SYMBOL.fullmatch(symbol) and symbol not in names.values():
                names[symbol] = symbol
                continue
            name = _usual_name(value, position)
            names[symbol] = name if name not in names.values() else f"{value.name}_{name}"
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")

    def renamed(dim: int | ir.SymbolicDim) -> int | str | None:
        if isinstance(dim, int) or dim.value is None:
            return dim if isinstance(dim, int) else None
        return pattern.sub(lambda match: names[match[0]], dim.value)

    for value in [*model.graph.inputs, *(v for n in model.graph.all_nodes() for v in n.outputs)]:
        if value.shape is not None:
            value.shape = ir.Shape([renamed(dim) for dim in value.shape])


def _batch_symbol(model: ir.Model) -> str:
    """Return the one symbol that every first axis bears."""
    symbols: dict[str, str] = {}
    for value in (*model.graph.inputs, *model.graph.outputs):
        first = value.shape[0] if value.shape is not None and len(value.shape) else None
        if not isinstance(first, ir.SymbolicDim) or first.value is None:
            raise ConversionError(
                f'"{value.name}" has shape {value.shape}: its batch axis is frozen. Log the model '
                "with an input example of 2 rows or more and a signature whose first axis is -1, "
                "and look in forward for a batch size that stands as a number"
            )
        if _BY_VALUE.search(first.value):
            raise ConversionError(
                f'"{value.name}" has as many rows as the values of the inputs make it (torch calls '
                f"that axis {first.value}), expected one row of logits for each row that comes in. "
                "Look in forward for nonzero, unique or indexing by a mask; use torch.where"
            )
        symbols[str(value.name)] = first.value
    if len(set(symbols.values())) > 1:
        listing = ", ".join(f"{name}: {symbol}" for name, symbol in symbols.items())
        raise ConversionError(
            f"inputs and output have different batch axes ({listing}); every first axis must be "
            "the same: have forward compare the inputs' shape[0] and raise where they differ"
        )
    return next(iter(symbols.values()))


def _usual_name(value: ir.Value, position: int) -> str:
    assert value.shape is not None
    usual = _USUAL.get(len(value.shape), ())
    return usual[position - 1] if 1 <= position <= len(usual) else f"{value.name}_{position}"
