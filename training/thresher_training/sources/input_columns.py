"""Which columns of a table make which input, and the numbers that they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError
from thresher_training.sources.labels import match_columns
from thresher_training.sources.tables import Batch, Table, numbers

__all__ = ["InputColumns"]


class InputColumns:
    """Which columns make which input.

    Args:
        features: Names or patterns for the input ``"features"``; None takes all the rest.
        ignore: Names or patterns of columns that are left alone.
        inputs: Further inputs.
        fill_missing: Stands where a number is missing.
    """

    def __init__(
        self,
        features: Sequence[str] | None,
        ignore: Sequence[str],
        inputs: Mapping[str, str | Sequence[str]],
        fill_missing: float | None,
    ) -> None:
        self.features = None if features is None else list(features)
        self.ignore = list(ignore)
        self.inputs = {k: [v] if isinstance(v, str) else list(v) for k, v in inputs.items()}
        self.fill_missing = fill_missing
        if self.features is not None and "features" in self.inputs:
            raise ConfigError('inputs holds "features", which the option features makes already')

    def of(self, table: Table, other: Sequence[str]) -> dict[str, list[str]]:
        """Return the columns of each input; ``other`` are those of labels and groups."""
        found = {k: match_columns(table, patterns) for k, patterns in self.inputs.items()}
        if "features" in found:
            return found
        if self.features is not None:
            features = match_columns(table, self.features)
        else:
            used = {*other, *match_columns(table, self.ignore), *chain(*found.values())}
            features = [c for c in table.columns if c not in used]
        if features:
            found["features"] = features
        both = [c for columns in found.values() for c in columns if c in other]
        if both:
            raise ConfigError(f'the column "{both[0]}" is an input and a label or group column')
        if not found:
            raise ConfigError(f"{table.files[0]} has no column that is left for an input")
        return found

    def values(self, batch: Batch, name: str, columns: Sequence[str]) -> npt.NDArray[Any]:
        """Return an input of a batch, [n, D]; float32, or whole numbers if it is one such column.

        Raises:
            DataError: If a cell is no number, or missing with nothing that stands for it.
        """
        found = [_numbers(batch, column, self.fill_missing) for column in columns]
        if len(found) == 1 and name != "features" and found[0].dtype.kind in "iu":
            return found[0]
        parts = [part.astype(np.float32).reshape(len(part), -1) for part in found]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def _numbers(batch: Batch, column: str, fill_missing: float | None) -> npt.NDArray[Any]:
    """Return a column as numbers, [n] or [n, K]."""
    import pyarrow as pa
    import pyarrow.compute as pc

    cells = batch.columns[column]
    kind = cells.type
    if isinstance(kind, pa.FixedShapeTensorType):
        tensor: npt.NDArray[Any] = cells.to_numpy_ndarray()
        return tensor
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list or pa.types.is_fixed_size_list(kind)):
        found = numbers(batch, column)
        return _filled(batch, column, found, fill_missing)
    lengths = pc.list_value_length(cells).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~(lengths == lengths[:1]))  # a missing list has the length NaN
    if len(wrong):
        row = int(wrong[0])
        raise DataError(
            f'{batch.where(row)}: the list in column "{column}" has {lengths[row]:g} numbers, '
            f"expected {lengths[0]:g} as in the rows before"
        )
    flat = Batch(
        columns={column: pc.list_flatten(cells)},
        path=batch.path,
        first_row=batch.first_row,
        dialect=None,
    )
    values = numbers(flat, column).reshape(len(cells), -1)
    return _filled(batch, column, values, fill_missing)


def _filled(
    batch: Batch, column: str, found: npt.NDArray[Any], fill_missing: float | None
) -> npt.NDArray[Any]:
    """Return the numbers with missing ones filled in.

    Raises:
        DataError: If one is missing and nothing stands for it.
    """
    if found.dtype.kind != "f":
        return found
    missing = np.isnan(found)
    if not missing.any():
        return found
    if fill_missing is None:
        row = int(np.argwhere(missing)[0][0])
        raise DataError(
            f'{batch.where(row)}: column "{column}" is empty, expected a number; or set '
            "fill_missing to what stands for it"
        )
    return np.where(missing, fill_missing, found)
