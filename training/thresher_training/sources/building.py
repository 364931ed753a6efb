"""From tables to a data set: labels and groups first, then what train shows, then the arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError
from thresher.tables.categories import category_of
from thresher.tables.inputs import InputMaker
from thresher.tables.numbers import is_text, plain_cells
from thresher.tables.parts import Part, digest_of
from thresher.tables.rows import Rows
from thresher_training.data import DataSet, SplitName
from thresher_training.sources.cache import cached, load_data
from thresher_training.sources.labels import LabelReader, RowLabels, settle
from thresher_training.sources.learning import InputShape, TrainRows
from thresher_training.sources.options import SourceOptions
from thresher_training.sources.splitting import (
    Block,
    SplitPart,
    assigned,
    said_of_split,
    taken_from,
    write_splits,
)
from thresher_training.sources.tables import MAX_ROWS, Table, shown_files

__all__ = ["FixedInputs", "Inputs", "data_of_tables"]


class Inputs(Protocol):
    """What a source makes of columns."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        ...

    def learn(self, rows: TrainRows, scratch: Path) -> tuple[InputSpec, dict[str, InputShape]]:
        """Return the spec, and shape and kind of each input."""
        ...


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


def data_of_tables(
    options: SourceOptions,
    tables: Mapping[SplitName, Table],
    *,
    title: str,
    labels: LabelReader,
    inputs: Inputs,
    maker: Mapping[str, Any] | None = None,
    folder: str | None = None,
    files: Sequence[Path] = (),
    further_key: object = None,
    max_rows: int = MAX_ROWS,
    official: bool = False,
    **further: Any,
) -> DataSet:
    """Return the data set of some tables, made once for the same files and options.

    Args:
        options: The source's options.
        tables: By split; what has none is taken from train.
        title: What the tables are, for people.
        labels: Where the labels are.
        inputs: What becomes of the other columns.
        maker: Further arguments of `InputMaker`.
        folder: Where pictures are; next to each table where left out.
        files: What is read besides the tables.
        further_key: What else the arrays depend on.
        max_rows: The most rows at once.
        official: Whether the files are a published split.
        further: Further arguments of `DataSet`.

    Raises:
        DataError: If a cell is wrong, a group is in the files of two splits, or a split is empty.
    """
    for table in tables.values():
        table.check_columns([*inputs.columns, *labels.columns(tables["train"])])
        table.check_columns([options.group_column] if options.group_column else [])
    building = _Building(options, tables, labels, inputs, maker or {}, folder, max_rows, official)
    place = cached(
        options.cache,
        files=files,
        options={
            "title": title.split(maxsplit=1)[0],
            "options": options.key(),
            "tables": {name: digest_of(table.parts) for name, table in tables.items()},
            "label columns": labels.columns(tables["train"]),
            "label names": labels.names,
            "further": further_key,
        },
        build=building.write,
    )
    return load_data(place, source=f"{title}: {shown_files(tables)}", **further)


@dataclass(frozen=True, slots=True)
class _Building:
    """Writes the splits of some tables."""

    options: SourceOptions
    tables: Mapping[SplitName, Table]
    labels: LabelReader
    inputs: Inputs
    maker: Mapping[str, Any]
    folder: str | None
    max_rows: int
    official: bool

    def write(self, into: Path) -> None:
        """Write into an empty folder."""
        gathered, groups = self._gather(into)
        labels, multi_hot = settle(gathered)
        made: dict[str, Any] = {}
        parts = {
            split: SplitPart(
                targets_NL=rows.targets(labels, multi_hot=multi_hot),
                groups_N=groups.of(split) if self.options.group_column else None,
                blocks=_Blocks(self.tables[split], self.inputs.columns, made, self),
            )
            for split, rows in gathered.items()
        }
        split_of = {
            split: assigned(part, taken_from(split, parts), self.options)
            for split, part in parts.items()
        }
        is_train_N = None if len(taken_from("train", parts)) == 1 else split_of["train"] == 0
        spec, shapes = self.inputs.learn(
            TrainRows(self.tables["train"], is_train_N), into / "numbers.scratch"
        )
        made |= {"spec": spec, "shapes": shapes}
        split = said_of_split(
            self.options,
            list(parts),
            group=self.options.group_column,
            official=self.official,
        )
        said = f"{_said_of_labels(gathered, labels, multi_hot)}; split: {split}"
        write_splits(into, labels, parts, split_of, summary=said, spec=spec)
        for scratch in into.glob("*.scratch"):
            scratch.unlink()

    def _gather(self, into: Path) -> tuple[dict[SplitName, RowLabels], _Groups]:
        gathered: dict[SplitName, RowLabels] = {}
        groups = _Groups()
        group = self.options.group_column
        for split, table in self.tables.items():
            gathered[split] = RowLabels(self.labels, table, into / f"{split}.targets.scratch")
            columns = [*gathered[split].columns, *([group] if group else [])]
            for part, rows in table.rows(columns):
                gathered[split].add(part, rows)
                if group:
                    groups.add(split, table, part, rows, group)
        return gathered, groups

    def block(self, maker: InputMaker, table: Table, part: Part, rows: Rows) -> Block:
        """Return the inputs of some rows.

        Raises:
            DataError: If one has none; names it.
        """
        found = maker.make(rows, folder=part.folder if self.folder is None else self.folder)
        if found.rejects:
            raise table.error(part, found.rejects[0])
        return Block(inputs=found.arrays, texts=found.texts)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Gives a table's rows as blocks, each time it is called."""

    table: Table
    columns: tuple[str, ...]
    made: Mapping[str, Any]
    building: _Building

    def __call__(self) -> Iterator[Block]:
        maker = InputMaker(
            self.made["spec"],
            self.made["shapes"],
            {name: self.table.kinds[name] for name in self.columns},
            title=str(self.table.address),
            **self.building.maker,
        )
        for part, rows in self.table.rows(self.columns, max_rows=self.building.max_rows):
            yield self.building.block(maker, self.table, part, rows)


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

    def add(self, split: SplitName, table: Table, part: Part, rows: Rows, column: str) -> None:
        """Take some more rows.

        Raises:
            DataError: If a cell is empty, or its group is in the files of another split too.
        """
        reject: Callable[..., None] = table.refuse(part, rows)
        found = []
        for row, cell in enumerate(plain_cells(rows.columns[column], column, reject).to_pylist()):
            group = category_of(cell)
            if group is None:
                reject(row, "empty, expected the row's group", column)
                raise DataError(column)
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

    def of(self, split: SplitName) -> npt.NDArray[np.int64]:
        """Return the group of each row of a split."""
        return np.concatenate([np.zeros(0, dtype=np.int64), *self.rows.get(split, [])])
