"""Rows that Triton runs before it calls a model ready: the first answer is as fast as the next.

Requires: rows of the validation split.
Does: one row for each class of batch size (1, odd, largest), as raw bytes in files of the model's
folder ``warmup``; Triton repeats a row to fill a batch.
Ensures: file names that bear the version, so that no other version's rows are written over.

Source: `ModelWarmup` in Triton's `model_config.proto`; `GenerateWarmupData` in the core's
`backend_model_instance.cc`, release 24.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import model_config_pb2 as pb

__all__ = ["WARMUP_FOLDER", "add_warmup", "batch_size_classes"]

WARMUP_FOLDER = "warmup"

ODD_BATCH_SIZE = 7


def batch_size_classes(max_batch_size: int) -> list[int]:
    """Return one batch size of each class: 1, odd and the largest.

    Example:
        >>> batch_size_classes(64), batch_size_classes(4), batch_size_classes(1)
        ([1, 7, 64], [1, 4], [1])
    """
    return sorted({1, min(ODD_BATCH_SIZE, max_batch_size), max_batch_size})


def add_warmup(
    config: Any, rows: Mapping[str, npt.NDArray[Any]], *, version: int
) -> dict[str, bytes]:
    """Add warmup to a configuration; return its files by path below the model's folder.

    Args:
        config: The `ModelConfig` message, with inputs and ``max_batch_size``; changed in place.
        rows: The network's inputs by name, each [N, ...]; nothing is added where N is 0.
        version: The version that the rows come from.
    """
    sizes = batch_size_classes(config.max_batch_size)
    num_rows = min((len(rows[value.name]) for value in config.input), default=0)
    if not num_rows:
        return {}
    files = {}
    for size, at in zip(sizes, np.linspace(0, num_rows - 1, len(sizes), dtype=int), strict=True):
        sample = config.model_warmup.add(name=f"rows at batch size {size}", batch_size=size)
        for number, value in enumerate(config.input):
            row = np.ascontiguousarray(rows[value.name][at])
            file = f"{version}.{size}.{number}.bin"
            files[f"{WARMUP_FOLDER}/{file}"] = row.tobytes()
            sample.inputs[value.name].CopyFrom(
                pb.ModelWarmup.Input(
                    data_type=value.data_type, dims=row.shape, input_data_file=file
                )
            )
    return files
