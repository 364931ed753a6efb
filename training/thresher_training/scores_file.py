"""Scores and targets from anywhere: a Parquet or NPZ file to logits and targets."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.decision import FloatArray
from thresher.errors import DataError, NotFoundError

__all__ = ["read_scores"]

_EXPECTED = "expected targets, and either logits or probabilities, each [N, L]"


def read_scores(path: Path, *, num_labels: int) -> tuple[FloatArray, FloatArray]:
    """Return float32 [N, L] logits and targets that a file holds.

    Args:
        path: An NPZ file with the arrays ``targets`` and ``logits`` or ``probabilities``, or a
            Parquet file with list columns of the same names, L numbers a row.
        num_labels: How many columns the arrays must have.

    Raises:
        NotFoundError: If there is no such file.
        DataError: If it is neither, arrays are missing or do not fit, probabilities were given
            where logits were said, or the reverse.
    """
    if not path.is_file():
        raise NotFoundError(f"{path}: no such file; expected an NPZ or Parquet file")
    arrays = _read_parquet(path) if path.suffix == ".parquet" else _read_npz(path)
    if "targets" not in arrays or ("logits" in arrays) == ("probabilities" in arrays):
        raise DataError(f"{path}: has {', '.join(sorted(arrays)) or 'nothing'}; {_EXPECTED}")
    targets_NL = _matrix(path, "targets", arrays["targets"], num_labels)
    name = "logits" if "logits" in arrays else "probabilities"
    scores_NL = _matrix(path, name, arrays[name], num_labels)
    if len(scores_NL) != len(targets_NL):
        raise DataError(f"{path}: {len(scores_NL)} rows of {name}, {len(targets_NL)} of targets")
    in_unit = bool(scores_NL.size) and bool(((scores_NL >= 0) & (scores_NL <= 1)).all())
    if name == "logits":
        if in_unit:
            raise DataError(
                f"{path}: all logits lie in [0, 1], as probabilities do. If that is what they are, "
                "name the array probabilities"
            )
        return scores_NL, targets_NL
    if not in_unit:
        outside = int(((scores_NL < 0) | (scores_NL > 1) | np.isnan(scores_NL)).sum())
        raise DataError(
            f"{path}: {outside} probabilities lie outside [0, 1] or are NaN. If they are logits, "
            "name the array logits"
        )
    p_NL = np.clip(scores_NL.astype(np.float64), 1e-37, 1 - 2.0**-25)  # 0 and 1 stay finite
    return np.asarray(np.log(p_NL) - np.log1p(-p_NL), dtype=np.float32), targets_NL


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: neither NPZ nor Parquet ({error}); {_EXPECTED}") from None


def _read_parquet(path: Path) -> dict[str, npt.NDArray[Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None
    arrays = {}
    for name in ("targets", "logits", "probabilities"):
        if name in table.column_names:
            try:
                arrays[name] = np.array(table[name].to_pylist(), dtype=np.float64)
            except (TypeError, ValueError):
                raise DataError(
                    f"{path}: the column {name} does not hold lists of numbers, one length for all"
                ) from None
    return arrays


def _matrix(path: Path, name: str, array: npt.NDArray[Any], num_labels: int) -> FloatArray:
    if array.ndim != 2 or array.shape[1] != num_labels or array.dtype.kind not in "biuf":
        raise DataError(
            f"{path}: {name} is {array.dtype} of shape {list(array.shape)}, "
            f"expected numbers of shape [N, {num_labels}]"
        )
    return np.asarray(array, dtype=np.float32)
