"""NumPy files: arrays with a row for each example, memory-mapped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import ConfigError, DataError, unknown_name
from thresher.tables.address import address_of
from thresher.tables.array_files import open_arrays
from thresher.tables.parts import form_of
from thresher_training.data import DataSet, Split
from thresher_training.sources.cache import SPLITS, cached, load_data
from thresher_training.sources.options import SourceOptions
from thresher_training.sources.splitting import (
    Block,
    SplitPart,
    assigned,
    said_of_split,
    taken_from,
    write_splits,
)
from thresher_training.sources.tables import check_apart, read_names, split_paths

__all__ = ["array_data", "holds_arrays"]

Array = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 24
_WIDEST_BYTES = 8


def holds_arrays(options: SourceOptions) -> bool:
    """Return whether the train rows are in NumPy files."""
    path = Path(split_paths(options)["train"])
    if path.is_dir():
        return any(form_of(str(file)) in ("npz", "npy") for file in path.iterdir())
    return form_of(str(path)) in ("npz", "npy")


def array_data(options: SourceOptions) -> DataSet:
    """Return the data set in NumPy files.

    Raises:
        ConfigError: If no array is left for an input.
        DataError: If a file is broken, or arrays do not fit together.
    """
    held = {name: _Arrays(path) for name, path in split_paths(options).items()}
    check_apart({name: [str(file) for file in a.files] for name, a in held.items()})
    first = held["train"]
    labels = read_names(options.label_names) or first.names()
    targets, groups = options.targets, options.groups
    by_input = _inputs(options, first)
    for arrays in held.values():
        arrays.check_kinds([*by_input.values()], groups)
        arrays.check_rows([targets, *by_input.values(), *([groups] if groups else [])])
    source = f"arrays: {', '.join(f'{name} from {a.path.name}' for name, a in held.items())}"
    summary = f"{len(labels)} labels from array `{targets}`; split: "
    summary += said_of_split(options, list(held), group=groups)
    spec = InputSpec(columns={name: (array,) for name, array in by_input.items()})
    if set(held) == set(SPLITS):
        splits = {
            name: Split(
                inputs={key: a.get(array) for key, array in by_input.items()},
                targets_NL=a.targets(targets, labels),
            )
            for name, a in held.items()
        }
        rows = "/".join(f"{len(splits[name]):,}" for name in SPLITS)
        return DataSet(
            labels=labels,
            splits=splits,
            source=f"{source}; {summary} ({rows} rows)",
            input_spec=spec,
        )

    def build(into: Path) -> None:
        parts = {
            name: SplitPart(
                targets_NL=a.targets(targets, labels),
                blocks=_blocks({key: a.get(array) for key, array in by_input.items()}),
            )
            for name, a in held.items()
        }
        groups_N = None if groups is None else first.get(groups)
        split_of = {
            name: assigned(part.targets_NL, taken_from(name, parts), options, groups_N)
            for name, part in parts.items()
        }
        write_splits(into, labels, parts, split_of, summary=summary, spec=spec)

    place = cached(
        options.cache,
        files=[file for a in held.values() for file in a.files],
        options={"title": "arrays", "options": options.key(), "labels": labels},
        build=build,
    )
    return load_data(place, source=source)


def _inputs(options: SourceOptions, first: _Arrays) -> dict[str, str]:
    if options.inputs is None:
        found = first.rest({options.targets, options.groups, "labels"})
        if not found:
            raise ConfigError(f"{first.path} holds no array that is left for an input")
        return found
    found = {}
    for name, array in options.inputs.items():
        names = [array] if isinstance(array, str) else list(array)
        if len(names) != 1:
            raise ConfigError(f'inputs: "{name}" is made of {len(names)} arrays, expected one')
        found[name] = names[0]
    return found


class _Arrays:
    """The arrays of one ``.npz`` file or of one folder of ``.npy`` files, by name."""

    def __init__(self, path: str) -> None:
        address = address_of(path)
        self.path = Path(address.root)
        self.files = sorted(self.path.glob("*.npy")) if address.is_many else [self.path]
        if not self.files:
            raise DataError(f"the folder {path} holds no .npy file")
        if not address.is_many and self.path.suffix == ".npy":
            raise DataError(
                f"{path} is one array; expected an .npz file, or a folder of .npy files"
            )
        self.arrays: dict[str, Array] = {}
        for file in self.files:
            self.arrays |= open_arrays(str(file))

    def get(self, name: str) -> Array:
        """Return an array by name."""
        if name not in self.arrays:
            raise DataError(f"{self.path}: {unknown_name('array', name, self.arrays)}")
        return self.arrays[name]

    def names(self) -> tuple[str, ...]:
        """Return the label names that the file itself holds."""
        if "labels" not in self.arrays:
            raise DataError(
                f'{self.path} holds no array "labels" with the label names; give label_names'
            )
        return tuple(str(name) for name in self.arrays["labels"])

    def targets(self, name: str, labels: Sequence[str]) -> Array:
        """Return the targets, [N, L]."""
        found = self.get(name)
        if found.ndim != 2 or found.shape[1] != len(labels):
            raise DataError(
                f'{self.path}: the array "{name}" has shape {list(found.shape)}, expected '
                f"[N, {len(labels)}] for {len(labels)} labels"
            )
        return found

    def check_kinds(self, inputs: Sequence[str], groups: str | None) -> None:
        """Refuse inputs that no network takes, and rows without a group."""
        for name in inputs:
            kind = self.get(name).dtype
            if kind.kind not in "biuf" or kind.itemsize > _WIDEST_BYTES:
                raise DataError(
                    f'{self.path}: the array "{name}" is {kind}, expected numbers of at most 64 '
                    "bits; inputs names the arrays to take"
                )
        held = None if groups is None else self.get(groups)
        if held is not None and held.dtype.kind == "f" and np.isnan(held).any():
            row = int(np.argmax(np.isnan(held)))
            raise DataError(
                f'{self.path}, row {row}: the array "{groups}" holds NaN, expected the row\'s group'
            )

    def check_rows(self, names: Sequence[str]) -> None:
        """Refuse arrays that do not have a row for each example."""
        lengths = {name: len(self.get(name)) for name in names if self.get(name).ndim}
        if len(set(lengths.values())) > 1 or len(lengths) < len(set(names)):
            shapes = ", ".join(f'"{name}" {list(self.get(name).shape)}' for name in names)
            raise DataError(f"{self.path}: the arrays differ in their number of rows: {shapes}")

    def rest(self, taken: set[str | None]) -> dict[str, str]:
        """Return the other arrays, each under its own name."""
        return {name: name for name, a in self.arrays.items() if name not in taken and a.ndim}


def _blocks(inputs: Mapping[str, Array]) -> Iterator[Block]:
    """Yield arrays of the same length block by block."""
    row_bytes = max(1, *(array[:1].nbytes for array in inputs.values()))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(next(iter(inputs.values()))), step):
        yield Block(inputs={name: array[start : start + step] for name, array in inputs.items()})
