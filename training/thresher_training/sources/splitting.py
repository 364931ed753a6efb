"""From parts of a source (files of their own, or one table to be split) to splits on disk."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import INPUT_SPEC_FILE, InputSpec
from thresher.errors import DataError
from thresher_training.data import SplitName
from thresher_training.sources.cache import SPLITS, RowsFile
from thresher_training.sources.options import SourceOptions
from thresher_training.stratify import stratify

__all__ = ["Block", "SplitPart", "assigned", "said_of_split", "taken_from", "write_splits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some rows of a part, in order: inputs by name, each [n, ...], and what people read."""

    inputs: Mapping[str, npt.NDArray[Any]]
    texts: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SplitPart:
    """All rows of one file or group of files.

    Args:
        targets_NL: Targets [N, L], in memory or mapped.
        blocks: Gives the rows once, block by block.
    """

    targets_NL: npt.NDArray[Any]
    blocks: Iterable[Block]


def assigned(
    targets_NL: npt.NDArray[Any],
    splits: Sequence[SplitName],
    options: SourceOptions,
    groups_N: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.int64]:
    """Return which of some splits each row of a part falls into, [N].

    Args:
        targets_NL: The rows' targets.
        splits: The part's own, then those that are taken from it by stratification.
        options: How much of it.
        groups_N: The group of each row, none of which is spread over two splits.

    Raises:
        DataError: If the part has no rows, or too few to be split.
    """
    if not len(targets_NL):
        raise DataError(f"the {splits[0]} split is empty, expected at least one row")
    if len(splits) == 1:
        return np.zeros(len(targets_NL), dtype=np.int64)
    cut = [_shares_of(options)[split] for split in splits[1:]]
    return stratify(targets_NL, [1 - sum(cut), *cut], groups_N=groups_N, seed=options.seed)


def taken_from(split: SplitName, parts: Collection[SplitName]) -> list[SplitName]:
    """Return the splits that a part's rows make: its own, and of train those without files."""
    return [split, *(name for name in SPLITS if split == "train" and name not in parts)]


def said_of_split(
    options: SourceOptions,
    parts: Sequence[SplitName],
    *,
    group: str | None = None,
    is_official: bool = False,
) -> str:
    """Return which split is used, for people.

    Args:
        options: The shares.
        parts: The splits that have files of their own.
        group: What keeps rows together.
        is_official: Whether the files are a published split.
    """
    said = []
    if len(parts) > 1:
        said.append(f"{'official ' if is_official else ''}{' and '.join(parts)} files")
    taken = taken_from("train", parts)[1:]
    if taken:
        cut = " and ".join(f"{split} {100 * _shares_of(options)[split]:g} %" for split in taken)
        together = f", rows of the same {group} together" if group else ""
        said.append(f"{cut} of train{together}, seed {options.seed}")
    return ", ".join(said)


def _shares_of(options: SourceOptions) -> dict[SplitName, float]:
    return {"validation": options.validation_fraction, "test": options.test_fraction}


def write_splits(
    folder: Path,
    labels: Sequence[str],
    parts: Mapping[SplitName, SplitPart],
    split_of: Mapping[SplitName, npt.NDArray[np.int64]],
    *,
    summary: str,
    spec: InputSpec,
) -> None:
    """Write ``labels.json``, ``inputs.json`` and the arrays of all three splits.

    Args:
        folder: An empty folder.
        labels: L names.
        parts: The train rows and what else has rows of its own.
        split_of: What `assigned` gives for each part.
        summary: What was understood of labels and splits, for people.
        spec: How rows become inputs.
    """
    names: set[str] = set()
    sizes: dict[SplitName, int] = {}
    for name, part in parts.items():
        taken = taken_from(name, parts)
        names |= _write_part(folder, part, taken, split_of[name])
        counts = np.bincount(split_of[name], minlength=len(taken))
        sizes |= {split: int(count) for split, count in zip(taken, counts, strict=True)}
    rows = "/".join(f"{sizes[split]:,}" for split in SPLITS)
    content = {
        "labels": list(labels),
        "inputs": sorted(names),
        "summary": f"{summary} ({rows} rows)",
    }
    (folder / "labels.json").write_text(json.dumps(content), encoding="utf-8")
    (folder / INPUT_SPEC_FILE).write_text(spec.to_json(), encoding="utf-8")


def _write_part(
    folder: Path, part: SplitPart, splits: Sequence[SplitName], split_N: npt.NDArray[np.int64]
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
        for block in part.blocks:
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
