"""NumPy files: ``.npy`` is memory-mapped, ``.npz`` read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError, unknown_name
from thresher_training.data import DataSet, Split, SplitName
from thresher_training.sources.cache import CACHE, SPLITS, cached, load_splits
from thresher_training.sources.files import find_one, read_names
from thresher_training.sources.reading import split_paths
from thresher_training.sources.splitting import Block, Part, Shares, write_splits

__all__ = ["arrays"]

_BLOCK_BYTES = 1 << 24
_BROKEN = (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error)


def arrays(
    path: str,
    *,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    inputs: Mapping[str, str] | None = None,
    targets: str = "targets",
    groups: str | None = None,
    label_names: str | Sequence[str] | None = None,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    cache: str = CACHE,
) -> DataSet:
    """Return arrays from ``.npz`` files, or from folders of ``.npy`` files.

    A folder's ``.npy`` files are memory-mapped and never read as a whole. Where a split has to be
    taken from the train rows, its rows are copied once, block by block, into the cache.

    Args:
        path: One ``.npz`` file or folder that is split by shares; or, where ``train`` is given,
            the folder that those of the splits lie in.
        train: The train rows, from ``path``: an ``.npz`` file or a folder of ``.npy`` files.
        validation: Likewise; a share of train where left out.
        test: Likewise.
        inputs: Input name to array name; where left out, every array [N, ...] that is nothing
            else, under its own name.
        targets: Name of the array [N, L] of 0 and 1, NaN where unknown.
        groups: Name of an array [N]; rows with the same value never fall into different splits.
        label_names: L names, or a file with one a line; where left out, the array ``labels``.
        validation_fraction: The share of the rows of ``train`` (or of the one file).
        test_fraction: Likewise.
        seed: Seed of the split.
        cache: Folder of what is kept between runs.

    Raises:
        ConfigError: If options do not go together.
        DataError: If a file is missing or broken, or arrays do not fit together.
    """
    paths = split_paths(path, train=train, validation=validation, test=test)
    held = {name: _Arrays(place) for name, place in paths.items()}
    first = held["train"]
    labels = read_names(label_names) or first.names()
    by_input = dict(inputs) if inputs is not None else first.rest({targets, groups, "labels"})
    if not by_input:
        raise ConfigError(f"{first.path} holds no array that is left for an input")
    for a in held.values():
        a.check_rows([targets, *by_input.values(), *([groups] if groups else [])])
    source = f"arrays: {', '.join(f'{name} from {a.path.name}' for name, a in held.items())}"
    if set(held) == set(SPLITS):
        splits = {
            name: Split(
                inputs={key: a.get(array) for key, array in by_input.items()},
                targets_NL=a.targets(targets, labels),
            )
            for name, a in held.items()
        }
        return DataSet(labels=labels, splits=splits, source=source)
    shares = Shares(validation=validation_fraction, test=test_fraction, seed=seed)

    def build(into: Path) -> None:
        parts: dict[SplitName, Part] = {
            name: Part(
                targets_NL=a.targets(targets, labels),
                blocks=_Blocks({key: a.get(array) for key, array in by_input.items()}),
                groups_N=a.get(groups) if groups is not None and name == "train" else None,
            )
            for name, a in held.items()
        }
        write_splits(into, labels, parts, shares)

    place = cached(
        cache,
        files=[file for a in held.values() for file in a.files],
        options={
            "source": "arrays",
            "splits": {name: str(a.path) for name, a in held.items()},
            "inputs": by_input,
            "targets": targets,
            "groups": groups,
            "labels": labels,
            "shares": shares,
        },
        build=build,
    )
    found, written = load_splits(place)
    return DataSet(labels=found, splits=written, source=source)


class _Arrays:
    """The arrays of one ``.npz`` file or of one folder of ``.npy`` files, by name."""

    def __init__(self, place: Path) -> None:
        self.path = place
        if place.is_dir():
            self.files = sorted(place.glob("*.npy"))
            if not self.files:
                raise DataError(f"the folder {place} holds no .npy file")
            self.arrays = {file.stem: self._load(file) for file in self.files}
            return
        self.files = [find_one(place)]
        if place.suffix == ".npy":
            raise DataError(
                f"{place} is one array; expected an .npz file, or a folder of .npy files"
            )
        try:
            with place.open("rb") as file, np.load(file, allow_pickle=False) as held:
                self.arrays = {name: held[name] for name in held.files}
        except _BROKEN as error:
            raise DataError(f"{place} is no NumPy file, or it is cut short: {error}") from error

    def _load(self, file: Path) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = np.load(file, mmap_mode="c", allow_pickle=False)
        except _BROKEN as error:
            raise DataError(f"{file} is no NumPy file, or it is cut short: {error}") from error
        return array

    def get(self, name: str) -> npt.NDArray[Any]:
        """Return an array by name."""
        if name not in self.arrays:
            raise DataError(f"{self.path}: {unknown_name('array', name, self.arrays)}")
        found: npt.NDArray[Any] = self.arrays[name]
        return found

    def names(self) -> tuple[str, ...]:
        """Return the label names that the file itself holds."""
        if "labels" not in self.arrays:
            raise DataError(
                f'{self.path} holds no array "labels" with the label names; give label_names'
            )
        return tuple(str(name) for name in self.arrays["labels"])

    def targets(self, name: str, labels: Sequence[str]) -> npt.NDArray[Any]:
        """Return the targets, [N, L]."""
        found = self.get(name)
        if found.ndim != 2 or found.shape[1] != len(labels):
            raise DataError(
                f'{self.path}: the array "{name}" has shape {list(found.shape)}, expected '
                f"[N, {len(labels)}] for {len(labels)} labels"
            )
        return found

    def check_rows(self, names: Sequence[str]) -> None:
        """Refuse arrays that do not have a row for each example."""
        lengths = {name: len(self.get(name)) for name in names if self.get(name).ndim}
        if len(set(lengths.values())) > 1 or len(lengths) < len(set(names)):
            shapes = ", ".join(f'"{name}" {list(self.get(name).shape)}' for name in names)
            raise DataError(f"{self.path}: the arrays differ in their number of rows: {shapes}")

    def rest(self, taken: set[str | None]) -> dict[str, str]:
        """Return the other arrays, each under its own name."""
        return {name: name for name, a in self.arrays.items() if name not in taken and a.ndim}


class _Blocks:
    """Gives arrays of the same length block by block."""

    def __init__(self, inputs: dict[str, npt.NDArray[Any]]) -> None:
        self._inputs = inputs
        self._num_rows = len(next(iter(inputs.values())))

    def __call__(self) -> Iterator[Block]:
        row_bytes = max(1, *(array[:1].nbytes for array in self._inputs.values()))
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, self._num_rows, step):
            yield Block(inputs={k: a[start : start + step] for k, a in self._inputs.items()})
