"""What all sources of tables share: which table is which split, and its labels and groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import ConfigError, DataError
from thresher_training.data import SplitName
from thresher_training.sources.files import expand
from thresher_training.sources.labels import LabelForm, RowLabels, in_order
from thresher_training.sources.splitting import Block, Part, Shares, write_splits
from thresher_training.sources.tables import MAX_ROWS, Batch, Table

__all__ = ["split_paths", "told_files", "write_tables"]


def split_paths(
    path: str | Path, *, train: str | None, validation: str | None, test: str | None
) -> dict[SplitName, Path]:
    """Return the path of each split that has files of its own.

    Args:
        path: The one table; or, where ``train`` is given, the folder that the others lie in.
        train: Path of the train rows.
        validation: Likewise.
        test: Likewise.

    Raises:
        ConfigError: If there are validation or test files and no train files.
    """
    if train is None:
        if validation is not None or test is not None:
            raise ConfigError(
                "validation or test is given without train; give train too, or only the path of "
                "one table that is to be split"
            )
        return {"train": expand(path)}
    given: dict[SplitName, str | None] = {"train": train, "validation": validation, "test": test}
    return {name: expand(path) / expand(file) for name, file in given.items() if file is not None}


def told_files(tables: Mapping[SplitName, Table]) -> str:
    """Return the files by split, for people."""

    def names(table: Table) -> str:
        first = table.files[0].name
        return first if len(table.files) == 1 else f"{first} and {len(table.files) - 1} more"

    return ", ".join(f"{split} from {names(table)}" for split, table in tables.items())


def write_tables(
    into: Path,
    tables: Mapping[SplitName, Table],
    *,
    form: LabelForm,
    group_column: str | None,
    shares: Shares,
    columns: list[str],
    block: Callable[[Batch], Block],
    max_rows: int = MAX_ROWS,
) -> None:
    """Write the splits of some tables, in two passes: labels and groups, then the inputs.

    Args:
        into: An empty folder.
        tables: By split.
        form: Where the labels are.
        group_column: Rows with the same value never fall into different splits.
        shares: How splits without files of their own are taken from train.
        columns: The columns that ``block`` needs.
        block: From rows to inputs.
        max_rows: Rows that ``block`` gets at once, at most.

    Raises:
        DataError: If a cell is wrong, a group is in the files of two splits, or a split is empty.
    """
    gathered: dict[SplitName, RowLabels] = {}
    groups = _Groups()
    label_columns = form.used(tables["train"])
    for split, table in tables.items():
        rows = RowLabels(form, label_columns, into / f"{split}.targets.scratch")
        for batch in table.batches([*label_columns, *([group_column] if group_column else [])]):
            rows.add(batch, len(batch.columns[label_columns[0]]))
            if group_column:
                groups.add(split, batch, group_column)
        gathered[split] = rows
    found = [name for rows in gathered.values() for name in rows.names]
    labels = gathered["train"].names if form.names or form.columns else in_order(found)
    parts = {
        split: Part(
            targets_NL=gathered[split].targets(labels),
            groups_N=groups.of(split) if group_column else None,
            blocks=_Blocks(table=table, columns=columns, block=block, max_rows=max_rows),
        )
        for split, table in tables.items()
    }
    write_splits(into, labels, parts, shares)
    for scratch in into.glob("*.scratch"):
        scratch.unlink()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Blocks:
    """Gives a table's rows as blocks, each time it is called."""

    table: Table
    columns: list[str]
    block: Callable[[Batch], Block]
    max_rows: int

    def __call__(self) -> Iterator[Block]:
        for batch in self.table.batches(self.columns, max_rows=self.max_rows):
            yield self.block(batch)


@dataclass(slots=True)
class _Groups:
    """The group of each row as a number, and the split in which each group was seen."""

    numbers: dict[Any, tuple[int, SplitName]] = field(default_factory=dict)
    rows: dict[SplitName, list[npt.NDArray[np.int64]]] = field(default_factory=dict)

    def add(self, split: SplitName, batch: Batch, column: str) -> None:
        """Take some more rows.

        Raises:
            DataError: If a cell is empty, or its group is in the files of another split too.
        """
        found = []
        for row, cell in enumerate(batch.columns[column].to_pylist()):
            if cell is None or cell == "":
                raise DataError(f'{batch.where(row)}: group column "{column}" is empty')
            number, home = self.numbers.setdefault(cell, (len(self.numbers), split))
            if home != split:
                raise DataError(
                    f'{batch.where(row)}: the group "{cell}" is in the {home} files and in the '
                    f"{split} files; a group must not be in two splits"
                )
            found.append(number)
        self.rows.setdefault(split, []).append(np.array(found, dtype=np.int64))

    def of(self, split: SplitName) -> npt.NDArray[np.int64]:
        """Return the group of each row of a split."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self.rows.get(split, [])])
