"""Tables of numbers, larger than memory if need be: Parquet, Arrow and CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from thresher.artifacts.input_spec import InputSpec
from thresher_training.data import DataSet, SplitName
from thresher_training.sources.cache import CACHE, cached, load_splits
from thresher_training.sources.dialect import ARROW, DELIMITED, dialect_of
from thresher_training.sources.input_columns import InputColumns
from thresher_training.sources.labels import (
    LabelForm,
    MissingLabels,
    label_form,
)
from thresher_training.sources.reading import split_paths, told_files, write_tables
from thresher_training.sources.splitting import Block, Shares
from thresher_training.sources.tables import Batch, Table, open_table

__all__ = ["delimited", "parquet"]


def parquet(
    path: str,
    *,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    fill_missing: float | None = None,
    label_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_delimiter: str = ",",
    label_names: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = "error",
    group_column: str | None = None,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    cache: str = CACHE,
) -> DataSet:
    """Return a table in Parquet, Arrow IPC or Feather files, input ``"features"`` float32 [N, D].

    Files are streamed in record batches into memory-mapped arrays, so they may be larger than
    memory; the same files and options are read once.

    Args:
        path: One table (a file, a folder of files or a glob) that is split by shares; or, where
            ``train`` is given, the folder that the tables of the splits lie in.
        train: The train rows, from ``path``: a file, a folder or a glob.
        validation: Likewise; a share of train where left out.
        test: Likewise.
        features: Names or patterns of the columns of the input ``"features"``; where left out,
            every column that is nothing else.
        ignore: Names or patterns of columns that are left alone.
        inputs: Further inputs by name, each from one column or from several side by side. A
            column may hold lists of one length, and keeps its kind of whole numbers.
        fill_missing: Stands where a number is missing, which is an error otherwise.
        label_columns: Names or patterns of columns with 1, 0 or nothing, one for each label.
        label_column: Instead: the column with each row's labels, as a list or in one text.
        label_delimiter: Stands between the labels in one text.
        label_names: All labels in order, or a file with one a line; numbers in the table are then
            positions in it, from 0. Where left out, the names that occur, sorted.
        missing_labels: What a row without a list is: ``"error"``, or labels all ``"unknown"``.
        group_column: Rows with the same value never fall into different splits.
        validation_fraction: The share of the rows of ``train`` (or of the one table).
        test_fraction: Likewise.
        seed: Seed of the split.
        cache: Folder of what is kept between runs.

    Raises:
        ConfigError: If options do not go together.
        DataError: If a file is missing or broken, or a cell wrong; names file, row and column.
    """
    paths = split_paths(path, train=train, validation=validation, test=test)
    return _table(
        {name: open_table(p, dialect=None, suffixes=ARROW) for name, p in paths.items()},
        InputColumns(features, ignore, inputs or {}, fill_missing),
        label_form(
            label_columns=label_columns,
            label_column=label_column,
            label_delimiter=label_delimiter,
            label_names=label_names,
            missing_labels=missing_labels,
        ),
        group_column=group_column,
        shares=Shares(validation=validation_fraction, test=test_fraction, seed=seed),
        cache=cache,
    )


def delimited(
    path: str,
    *,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    delimiter: str | None = None,
    quoting: bool = True,
    columns: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    fill_missing: float | None = None,
    label_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_delimiter: str = ",",
    label_names: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = "error",
    group_column: str | None = None,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    cache: str = CACHE,
) -> DataSet:
    """Return a table in CSV or TSV files, input ``"features"`` float32 [N, D].

    Empty cells, ``NA``, ``NaN``, ``null`` and ``?`` are missing; ``true`` and ``false`` are 1 and
    0. An empty cell in ``label_column`` is a row without labels.

    Args:
        path: As in `parquet`.
        train: See `parquet`.
        validation: See `parquet`.
        test: See `parquet`.
        delimiter: Between cells; a tab in ``.tsv`` files and a comma in others where left out.
        quoting: Whether a cell in double quotes may hold delimiters; false takes quotes as text.
        columns: The columns' names where the files have no header line.
        features: See `parquet`, like all that follow.
        ignore: See `parquet`.
        inputs: See `parquet`.
        fill_missing: See `parquet`.
        label_columns: See `parquet`.
        label_column: See `parquet`.
        label_delimiter: See `parquet`.
        label_names: See `parquet`.
        missing_labels: See `parquet`.
        group_column: See `parquet`.
        validation_fraction: See `parquet`.
        test_fraction: See `parquet`.
        seed: See `parquet`.
        cache: See `parquet`.

    Raises:
        ConfigError: If options do not go together.
        DataError: If a file is missing or broken, or a cell wrong; names file, line and column.
    """
    paths = split_paths(path, train=train, validation=validation, test=test)

    def opened(place: Path) -> Table:
        dialect = dialect_of(place, delimiter=delimiter, quoting=quoting, columns=columns)
        return open_table(place, dialect=dialect, suffixes=DELIMITED)

    return _table(
        {name: opened(place) for name, place in paths.items()},
        InputColumns(features, ignore, inputs or {}, fill_missing),
        label_form(
            label_columns=label_columns,
            label_column=label_column,
            label_delimiter=label_delimiter,
            label_names=label_names,
            missing_labels=missing_labels,
        ),
        group_column=group_column,
        shares=Shares(validation=validation_fraction, test=test_fraction, seed=seed),
        cache=cache,
    )


def _table(
    tables: dict[SplitName, Table],
    columns: InputColumns,
    form: LabelForm,
    *,
    group_column: str | None,
    shares: Shares,
    cache: str,
) -> DataSet:
    group = [group_column] if group_column else []
    by_input = columns.of(tables["train"], [*form.used(tables["train"]), *group])

    def block(batch: Batch) -> Block:
        return Block(
            inputs={
                name: columns.values(batch, name, sources) for name, sources in by_input.items()
            }
        )

    def build(into: Path) -> None:
        write_tables(
            into,
            tables,
            form=form,
            group_column=group_column,
            shares=shares,
            columns=list(dict.fromkeys(chain(*by_input.values()))),
            block=block,
        )

    place = cached(
        cache,
        files=[file for table in tables.values() for file in table.files],
        options={
            "source": "table",
            "splits": {name: [str(f) for f in table.files] for name, table in tables.items()},
            "inputs": by_input,
            "fill": columns.fill_missing,
            "labels": form,
            "group": group_column,
            "dialects": [str(table.dialect) for table in tables.values()],
            "shares": shares,
        },
        build=build,
    )
    labels, splits = load_splits(place)
    return DataSet(
        labels=labels,
        splits=splits,
        source=f"table: {told_files(tables)}",
        input_spec=InputSpec(
            columns={name: tuple(of) for name, of in by_input.items()},
            fill_missing=columns.fill_missing,
        ),
    )
