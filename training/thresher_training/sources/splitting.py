"""From parts of a source (files of their own, or one table to be split) to splits on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError
from thresher_training.data import SplitName
from thresher_training.sources.cache import SPLITS, RowsFile
from thresher_training.stratify import stratify

__all__ = ["Block", "Part", "Shares", "write_splits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of a part, in order: inputs by name, each [n, ...], and what people read."""

    inputs: Mapping[str, npt.NDArray[Any]]
    texts: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """All rows of one file or group of files.

    Args:
        targets_NL: Targets [N, L], in memory or mapped.
        blocks: Gives the rows again, block by block, each time it is called.
        groups_N: The group of each row, none of which is spread over two splits.
    """

    targets_NL: npt.NDArray[Any]
    blocks: Callable[[], Iterator[Block]]
    groups_N: npt.NDArray[Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How splits without a file of their own are taken from the train rows."""

    validation: float = 0.15
    """Of all the rows to be split."""

    test: float = 0.15
    """Likewise."""

    seed: int = 0
    """The same seed gives the same splits."""

    def __post_init__(self) -> None:
        for key, value in (("validation", self.validation), ("test", self.test)):
            if not 0 < value < 1:
                raise ConfigError(f"{key}_fraction is {value!r}, expected between 0 and 1")


def write_splits(
    folder: Path, labels: Sequence[str], parts: Mapping[SplitName, Part], shares: Shares
) -> None:
    """Write ``labels.json`` and the arrays of all three splits.

    Args:
        folder: An empty folder.
        labels: L names.
        parts: The train rows and what else has rows of its own; a split that has none is taken
            from the train rows by stratification, groups kept together.
        shares: How much.

    Raises:
        DataError: If a part has no rows, or too few to be split.
    """
    names: set[str] = set()
    for name, part in parts.items():
        if not len(part.targets_NL):
            raise DataError(f"the {name} split is empty, expected at least one row")
        taken: list[SplitName] = [name]
        split_N = np.zeros(len(part.targets_NL), dtype=np.int64)
        if name == "train":
            taken += [other for other in SPLITS if other not in parts]
        if len(taken) > 1:
            cut = [{"validation": shares.validation, "test": shares.test}[s] for s in taken[1:]]
            split_N = stratify(
                part.targets_NL, [1 - sum(cut), *cut], groups_N=part.groups_N, seed=shares.seed
            )
        names |= _write_part(folder, part, taken, split_N)
    told = {"labels": list(labels), "inputs": sorted(names)}
    (folder / "labels.json").write_text(json.dumps(told), encoding="utf-8")


def _write_part(
    folder: Path, part: Part, splits: Sequence[SplitName], split_N: npt.NDArray[np.int64]
) -> set[str]:
    """Write one part's rows, each to its split; returns the inputs' names."""
    count = np.bincount(split_N, minlength=len(splits))
    names: set[str] = set()
    with ExitStack() as files:
        writers: dict[tuple[int, str], RowsFile] = {}
        texts: dict[int, _TextsFile] = {}
        targets = [
            files.enter_context(
                RowsFile(
                    folder / f"{split}.targets.npy",
                    np.float32,
                    (int(count[at]), part.targets_NL.shape[1]),
                )
            )
            for at, split in enumerate(splits)
        ]
        first = 0
        for block in part.blocks():
            size = len(next(iter(block.inputs.values())))
            where = split_N[first : first + size]
            rows_NL = part.targets_NL[first : first + size]
            for at, split in enumerate(splits):
                mine = slice(None) if len(splits) == 1 else where == at
                targets[at].append(rows_NL[mine])
                for name, rows in block.inputs.items():
                    if (at, name) not in writers:
                        path = folder / f"{split}.{name}.input.npy"
                        shape = (int(count[at]), *rows.shape[1:])
                        writers[at, name] = files.enter_context(RowsFile(path, rows.dtype, shape))
                    writers[at, name].append(rows[mine])
                if block.texts is not None:
                    if at not in texts:
                        texts[at] = files.enter_context(_TextsFile(folder / f"{split}.texts.arrow"))
                    chosen = np.arange(size)[mine]
                    texts[at].append([block.texts[i] for i in chosen])
            names.update(block.inputs)
            first += size
    return names


class _TextsFile(ExitStack):
    """An Arrow file with one column of texts, written block by block."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        super().__init__()
        schema = pa.schema([("text", pa.large_string())])
        self._writer = self.enter_context(pa.ipc.new_file(str(path), schema))
        self._schema = schema

    def append(self, texts: list[str]) -> None:
        """Write the next texts."""
        import pyarrow as pa

        column = pa.array(texts, type=pa.large_string())
        self._writer.write_batch(pa.record_batch([column], schema=self._schema))
