"""A user's own rows for a published model: any file that scoring reads, with or without targets.

Columns become inputs by the model's `InputSpec`. An NPZ file may hold each input under its name or
``input/NAME``, as training's evaluation splits do. Targets are a column for each label, or one
column ``targets`` of lists.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from thresher.artifacts.input_spec import InputSpec
from thresher.decision import FloatArray
from thresher.errors import DataError
from thresher.tables.address import Address, address_of
from thresher.tables.cells import as_flag
from thresher.tables.csv_files import CsvOptions
from thresher.tables.inputs import InputMaker
from thresher.tables.numbers import plain_cells
from thresher.tables.parts import Part, find_parts
from thresher.tables.reading import column_types, describe, read_rows
from thresher.tables.rows import Reject, Rows, check_columns

__all__ = ["LabelledRows", "read_labelled_rows"]

Array = npt.NDArray[Any]

_TARGETS = "targets"
_PREFIX = "input/"
_CHUNK_ROWS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledRows:
    """Rows to compare engines on."""

    inputs: Mapping[str, Array]
    targets_NL: FloatArray | None
    """float32 [N, L] of 0, 1 and NaN (unknown), where the file has them."""


@dataclass(frozen=True, slots=True)
class _Input:
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_labelled_rows(
    path: str | Path,
    model: onnx.ModelProto,
    labels: Sequence[str],
    *,
    spec: InputSpec | None = None,
    folder: Path | None = None,
    csv: CsvOptions | None = None,
) -> LabelledRows:
    """Return the rows of files as a model takes them; every row has to be one.

    Args:
        path: A file, folder, glob or URI of Parquet, Arrow, CSV, ARFF, NPZ or picture files.
        model: The ONNX model; says its inputs.
        labels: The names of the L outputs.
        spec: How columns become inputs; each has a column of its own name where left out.
        folder: Holds the tokenizer that the spec names.
        csv: How CSV files are written.

    Raises:
        NotFoundError: If there is no such file.
        DataError: If columns do not fit, there is no row, or one cannot be used; names file, line
            or row, and column.
    """
    address = address_of(path)
    inputs = _inputs(model)
    found = [
        _read(part, address, inputs, labels, spec or InputSpec(exact=False), folder, csv)
        for part in find_parts(address)
    ]
    found = [each for each in found if len(next(iter(each.inputs.values())))]
    if not found:
        raise DataError(f"{path} holds no rows")
    targets = [each.targets_NL for each in found if each.targets_NL is not None]
    if len(targets) not in (0, len(found)):
        raise DataError(f"{path}: some of the files have targets, and others have none")
    return LabelledRows(
        inputs={name: _joined([each.inputs[name] for each in found]) for name in inputs},
        targets_NL=np.concatenate(targets) if targets else None,
    )


def _inputs(model: onnx.ModelProto) -> dict[str, _Input]:
    weights = {initializer.name for initializer in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in weights:
            continue
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        found[value.name] = _Input(tuple(dims[1:]), np.dtype(dtype))
    return found


def _read(
    part: Part,
    address: Address,
    inputs: Mapping[str, _Input],
    labels: Sequence[str],
    spec: InputSpec,
    folder: Path | None,
    csv: CsvOptions | None,
) -> LabelledRows:
    """Return the rows of a part."""
    types = column_types(part, address.system, csv)
    held = {name: name.removeprefix(_PREFIX) for name in types}
    check_columns((), [*held.values()], part.path)
    kinds = {held[name]: kind for name, kind in types.items()}

    def read_file(name: str) -> bytes:
        with address.system.open_input_stream(name, compression=None) as file:
            return bytes(file.read())

    maker = InputMaker(spec, inputs, kinds, title=part.path, folder=folder, read_file=read_file)
    maker.check(kinds, part.path)
    known = [_TARGETS] if _TARGETS in kinds else [*labels] if set(labels) <= {*kinds} else []
    wanted = [name for name, short in held.items() if short in {*maker.needed, *known}]
    chunks = [*read_rows(part, address.system, wanted, chunk_rows=_CHUNK_ROWS, csv=csv)]
    made, targets = [], []
    for rows in chunks:
        columns = {held[name]: cells for name, cells in rows.columns.items()}
        renamed = dataclasses.replace(rows, columns=columns)
        chunk = maker.make(renamed, folder=part.folder)
        if chunk.rejects:
            more = f"; and {len(chunk.rejects) - 1} more rows" if len(chunk.rejects) > 1 else ""
            raise DataError(f"{describe(part, address.system, chunk.rejects[0], csv)}{more}")
        made.append(chunk.arrays)
        if known:
            targets.append(_targets(renamed, known, labels, part, address))
    return LabelledRows(
        inputs={
            name: _joined([arrays[name] for arrays in made])
            if made
            else np.zeros((0, *(max(size, 1) for size in tensor.shape)), tensor.dtype)
            for name, tensor in inputs.items()
        },
        targets_NL=np.concatenate(targets) if targets else None,
    )


def _joined(arrays: Sequence[Array]) -> Array:
    """Return arrays as one, those with shorter rows filled up with zeros."""
    sizes = np.max([array.shape[1:] for array in arrays], axis=0).astype(int)
    filled = [
        np.pad(array, [(0, 0), *((0, size) for size in sizes - array.shape[1:])])
        for array in arrays
    ]
    return np.concatenate(filled) if len(filled) > 1 else filled[0]


def _targets(
    rows: Rows, columns: Sequence[str], labels: Sequence[str], part: Part, address: Address
) -> FloatArray:
    """Return the targets of some rows, float32 [n, L].

    Raises:
        DataError: If one is neither 0, 1 nor missing; names the row.
    """

    def refuse(row: int, reason: str, column: str | None) -> None:
        reject = Reject(row=rows.position(row), reason=reason, column=column)
        raise DataError(describe(part, address.system, reject))

    cells = [plain_cells(rows.columns[name], name, refuse).to_pylist() for name in columns]
    listed = cells[0] if [*columns] == [_TARGETS] else [*zip(*cells, strict=True)]
    targets_NL = np.zeros((rows.num_rows, len(labels)), dtype=np.float32)
    for row, cell in enumerate(listed):
        if not isinstance(cell, (list, tuple)) or len(cell) != len(labels):
            got = f"{len(cell)} of them" if isinstance(cell, (list, tuple)) else repr(cell)
            refuse(row, f"expected {len(labels)} targets, got {got}", columns[0])
        for at, target in enumerate(cell):
            try:
                targets_NL[row, at] = as_flag(target)
            except ValueError as error:
                refuse(row, str(error), columns[min(at, len(columns) - 1)])
    soft = (targets_NL != 0) & (targets_NL != 1) & ~np.isnan(targets_NL)
    if soft.any():
        row, at = np.argwhere(soft)[0]
        reason = f"{targets_NL[row, at]:g}, expected 0, 1 or nothing"
        refuse(int(row), reason, columns[min(int(at), len(columns) - 1)])
    return targets_NL
