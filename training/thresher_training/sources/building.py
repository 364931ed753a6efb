"""From tables to a data set: labels and groups first, then what train shows, then the arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.tables.categories import category_of
from thresher.tables.inputs import InputMaker
from thresher.tables.numbers import is_text, plain_cells
from thresher.tables.parts import digest_of
from thresher.tables.rows import RejectRow
from thresher_training.data import DataSet, SplitName
from thresher_training.sources.cache import cached, load_data
from thresher_training.sources.labels import LabelReader, RowLabels, settle
from thresher_training.sources.learning import InputShape, TableInputs, TrainRows
from thresher_training.sources.options import SourceOptions
from thresher_training.sources.splitting import (
    Block,
    SplitPart,
    assigned,
    said_of_split,
    taken_from,
    write_splits,
)
from thresher_training.sources.tables import Table, shown_files

__all__ = ["FixedInputs", "TableData"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedInputs:
    """Inputs of which the train rows say nothing: texts and pictures."""

    columns: tuple[str, ...]
    spec: InputSpec
    shapes: dict[str, InputShape]

    def learn(self, rows: TrainRows, scratch: Path) -> tuple[InputSpec, dict[str, InputShape]]:
        """Return the spec, and shape and kind of each input."""
        del rows, scratch
        return self.spec, self.shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class TableData:
    """The tables of a data set, and what becomes of their columns."""

    options: SourceOptions
    tables: Mapping[SplitName, Table]
    """By split; what has none is taken from train."""
    title: str
    """What the tables are, for people."""
    labels: LabelReader
    inputs: TableInputs | FixedInputs
    maker: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `InputMaker`."""
    folder: str | None = None
    """Where pictures are; next to each table where left out."""
    files: Sequence[Path] = ()
    """What is read besides the tables."""
    further_key: object = None
    """What else the arrays depend on."""
    max_rows: int | None = None
    """The most rows at once."""
    is_official: bool = False
    """Whether the files are a published split."""

    def data_set(self, **further: Any) -> DataSet:
        """Return the data set, made once for the same files and options.

        Args:
            further: Further arguments of `DataSet`.

        Raises:
            DataError: If a cell is wrong, a group is in the files of two splits, or a split is
                empty.
        """
        group = [self.options.group_column] if self.options.group_column else []
        label_columns = self.labels.columns(self.tables["train"])
        for table in self.tables.values():
            table.check_columns([*self.inputs.columns, *label_columns, *group])
        place = cached(
            self.options.cache,
            files=self.files,
            options={
                "inputs": [type(self.inputs).__name__, *self.inputs.columns],
                "options": self.options.key(),
                "tables": {name: digest_of(table.parts) for name, table in self.tables.items()},
                "labels": [label_columns, self.labels.names],
                "further": self.further_key,
            },
            build=self._write,
        )
        return load_data(place, source=f"{self.title}: {shown_files(self.tables)}", **further)

    def _left_out(self) -> str:
        """Return which columns are no features although nothing else is made of them."""
        names = self.tables["train"].row_numbers
        if isinstance(self.inputs, FixedInputs) or self.options.features is not None or not names:
            return ""
        shown = ", ".join(f'"{name}"' for name in names if name not in self.inputs.columns)
        return f"row numbers left out: {shown}; " if shown else ""

    def _write(self, into: Path) -> None:
        """Write what is cached into an empty folder."""
        gathered, groups = self._gather(into)
        labels, multi_hot = settle(gathered)
        targets = {s: rows.targets(labels, multi_hot=multi_hot) for s, rows in gathered.items()}
        split_of = {
            split: assigned(
                targets_NL, taken_from(split, self.tables), self.options, groups.get(split)
            )
            for split, targets_NL in targets.items()
        }
        is_train_N = split_of["train"] == 0
        spec, shapes = self.inputs.learn(
            TrainRows(self.tables["train"], is_train_N), into / "numbers.scratch"
        )
        parts = {
            split: SplitPart(targets_NL=targets[split], blocks=self._blocks(table, spec, shapes))
            for split, table in self.tables.items()
        }
        split = said_of_split(
            self.options,
            list(self.tables),
            group=self.options.group_column,
            is_official=self.is_official,
        )
        said = f"{_said_of_labels(gathered, labels, multi_hot=multi_hot)}; {self._left_out()}"
        said += f"split: {split}"
        write_splits(into, labels, parts, split_of, summary=said, spec=spec)
        for scratch in into.glob("*.scratch"):
            scratch.unlink()

    def _gather(
        self, into: Path
    ) -> tuple[dict[SplitName, RowLabels], dict[SplitName, npt.NDArray[np.int64]]]:
        """Return the labels of all rows, and their groups where a column holds these."""
        gathered: dict[SplitName, RowLabels] = {}
        groups = _Groups()
        column = self.options.group_column
        for split, table in self.tables.items():
            gathered[split] = RowLabels(self.labels, table, into / f"{split}.targets.scratch")
            for part, rows in table.rows([*gathered[split].columns, *([column] if column else [])]):
                gathered[split].add(part, rows)
                if column:
                    groups.add(split, rows.columns[column], column, table.refuse(part, rows))
        return gathered, {split: np.concatenate(rows) for split, rows in groups.rows.items()}

    def _blocks(
        self, table: Table, spec: InputSpec, shapes: Mapping[str, InputShape]
    ) -> Iterator[Block]:
        columns = self.inputs.columns
        kinds = {name: table.kinds[name] for name in columns}
        maker = InputMaker(spec, shapes, kinds, title=str(table.address), **self.maker)
        for part, rows in table.rows(columns, max_rows=self.max_rows):
            found = maker.make(rows, folder=part.folder if self.folder is None else self.folder)
            if found.rejects:
                raise table.error(part, found.rejects[0])
            yield Block(inputs=found.arrays, texts=found.texts)


def _said_of_labels(
    gathered: Mapping[SplitName, RowLabels], labels: Sequence[str], multi_hot: bool
) -> str:
    """Return what was read as labels, for people."""
    first = gathered["train"]
    column = first.reader.options.label_column
    if column is None:
        said = f"{_counted(len(labels), 'label')} from {_counted(len(labels), 'multi-hot column')}"
    else:
        kind = first.table.kinds[column]
        form = "text column" if is_text(kind) else "list column"
        if multi_hot or first.width is not None:
            form = f"multi-hot {form}"
        said = f"{_counted(len(labels), 'label')} from {form} `{column}`"
    unknown = sum(rows.num_unknown for rows in gathered.values())
    bare = sum(rows.num_bare(labels) for rows in gathered.values())
    said += f"; {_counted(bare, 'row')} without labels" if bare else ""
    return said + (f"; {_counted(unknown, 'row')} with unknown labels" if unknown else "")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(slots=True)
class _Groups:
    """The group of each row as a number, and the split in which each group was seen."""

    numbers: dict[str, tuple[int, SplitName]] = field(default_factory=dict)
    rows: dict[SplitName, list[npt.NDArray[np.int64]]] = field(default_factory=dict)

    def add(self, split: SplitName, cells: Any, column: str, reject: RejectRow) -> None:
        """Take some more rows; one whose cell is empty, or its group in another split, is wrong."""
        found = []
        for row, cell in enumerate(plain_cells(cells, column, reject).to_pylist()):
            group = category_of(cell)
            if group is None:
                reject(row, "empty, expected the row's group", column)
                continue
            number, home = self.numbers.setdefault(group, (len(self.numbers), split))
            if home != split:
                reject(
                    row,
                    f'the group "{group}" is in the {home} files and in the {split} files; a group '
                    "must not be in two splits",
                    column,
                )
            found.append(number)
        self.rows.setdefault(split, []).append(np.array(found, dtype=np.int64))
