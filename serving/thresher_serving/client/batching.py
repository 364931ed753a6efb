"""Cuts rows into requests that the server takes, and puts the answers together in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError
from thresher_serving.client.metadata import ModelMetadata

__all__ = ["checked_outputs", "cut", "empty", "join"]

Array = npt.NDArray[Any]

_MAX_PART_BYTES = 2**30
"""A message of gRPC holds less than 2 GiB."""


def cut(arrays: Mapping[str, Array], max_batch_size: int) -> list[dict[str, Array]]:
    """Return the rows in parts of at most ``max_batch_size``, and 1 GiB; views, no copies.

    Args:
        arrays: Inputs by name, all [N, ...] with the same N of at least 1.
        max_batch_size: The most rows in a part; 0 is a model without a batch axis, one part.

    Example:
        >>> [part["x"].tolist() for part in cut({"x": np.arange(5)}, 2)]
        [[0, 1], [2, 3], [4]]
    """
    if not max_batch_size:
        return [dict(arrays)]
    rows = len(next(iter(arrays.values())))
    row_bytes = sum(array[:1].nbytes for array in arrays.values())
    size = min(max_batch_size, max(1, _MAX_PART_BYTES // max(1, row_bytes)))
    return [
        {name: array[start : start + size] for name, array in arrays.items()}
        for start in range(0, rows, size)
    ]


def join(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the parts' arrays by name, joined along the first axis in their order, as copies.

    Args:
        parts: At least one; all have the names of the first.
    """
    if len(parts) == 1:
        return {name: np.array(array) for name, array in parts[0].items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def empty(model: ModelMetadata, outputs: Sequence[str]) -> dict[str, Array]:
    """Return what a model says about no rows: arrays [0, ...] by name."""
    labels = model.decision.num_labels if model.decision else 0
    arrays = {}
    for name in outputs:
        output = model.output(name)
        sizes = (labels if size == -1 else size for size in output.shape)
        arrays[name] = np.empty((0, *sizes), output.dtype)
    return arrays


def checked_outputs(model: ModelMetadata, outputs: Sequence[str]) -> list[str]:
    """Return the outputs to ask for, each once, proven to suffice for a `Prediction`.

    Raises:
        DataError: If probabilities are not among them, or labels neither asked for nor computable.
        NotFoundError: If the model has no such output.
    """
    for name in outputs:
        model.output(name)
    if "probabilities" not in outputs:
        raise DataError(
            f'outputs are {list(outputs)}, expected "probabilities" among them; `infer` returns '
            "whatever outputs a model has"
        )
    if "labels" not in outputs and model.decision is None:
        raise DataError(
            f"model {model.name} has no thresholds in its configuration to compute labels "
            'with; ask for the output "labels" too'
        )
    return list(dict.fromkeys(outputs))
