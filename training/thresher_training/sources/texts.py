"""Texts: as token ids of a Hugging Face tokenizer, or as hashed n-grams for a light network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from thresher.artifacts.input_spec import InputSpec, NgramSpec, TextSpec
from thresher.errors import ConfigError, DataError
from thresher.ngrams import hashed_ngrams
from thresher_training.data import DataSet, SplitName
from thresher_training.sources.cache import CACHE, cached, load_splits
from thresher_training.sources.dialect import (
    ARROW,
    DELIMITED,
    Dialect,
    dialect_of,
    holds_arrow,
)
from thresher_training.sources.labels import LabelForm, MissingLabels, label_form
from thresher_training.sources.reading import split_paths, told_files, write_tables
from thresher_training.sources.splitting import Block, Shares
from thresher_training.sources.tables import Batch, Table, open_table
from thresher_training.sources.tokenizer import find_tokenizer, load_tokenizer

__all__ = ["ngrams", "text"]


def text(
    path: str,
    *,
    tokenizer: str,
    max_length: int = 128,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    text_column: str = "text",
    label_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_delimiter: str = ",",
    label_names: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = "error",
    group_column: str | None = None,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    quoting: bool = True,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    cache: str = CACHE,
) -> DataSet:
    """Return texts as token ids: inputs ``input_ids`` and ``attention_mask``, int64 [N, T].

    Batches are trimmed to their longest text. The tokenizer's file is kept with the run, for
    whoever calls the model.

    Args:
        path: One table (CSV, TSV, Parquet or Arrow) that is split by shares; or, where ``train``
            is given, the folder that the tables of the splits lie in.
        tokenizer: ``tokenizer.json``, the folder that holds it, or ``python:PACKAGE/folder``
            inside an installed package.
        max_length: T, the tokens that are kept of a text, special ones included.
        train: Table of the train rows, from ``path``.
        validation: Likewise; a share of train where left out.
        test: Likewise.
        text_column: The column with the text.
        label_columns: Names or patterns of columns with 1, 0 or nothing, one for each label.
        label_column: Instead: the column with each row's labels, as a list or in one text.
        label_delimiter: Stands between the labels in one text.
        label_names: All labels in order, or a file with one a line; numbers in the table are then
            positions in it, from 0. Where left out, the names that occur, sorted.
        missing_labels: What a row without a list is: ``"error"``, or labels all ``"unknown"``.
        group_column: Rows with the same value never fall into different splits.
        columns: The columns' names, for CSV and TSV files without a header line.
        delimiter: Between cells; a tab in ``.tsv`` files and a comma in others where left out.
        quoting: Whether a cell in double quotes may hold delimiters; false takes quotes as text.
        validation_fraction: The share of the rows of ``train`` (or of the one table).
        test_fraction: Likewise.
        seed: Seed of the split.
        cache: Folder of what is kept between runs.

    Raises:
        ConfigError: If options do not go together.
        DataError: If a file is missing or broken, or a cell wrong; names the line.
        MissingExtraError: If the package tokenizers is not installed.
    """
    if max_length < 3:
        raise ConfigError(f"max_length is {max_length!r}, expected at least 3")
    tokenizer_file = find_tokenizer(tokenizer)
    loaded = load_tokenizer(tokenizer_file, max_length=max_length)

    def encode(texts: list[str]) -> dict[str, Any]:
        encodings = loaded.encode_batch(texts)
        return {
            "input_ids": np.array([e.ids for e in encodings], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], dtype=np.int64),
        }

    form = label_form(
        label_columns=label_columns,
        label_column=label_column,
        label_delimiter=label_delimiter,
        label_names=label_names,
        missing_labels=missing_labels,
    )
    return _texts(
        split_paths(path, train=train, validation=validation, test=test),
        encode,
        trim_by="attention_mask",
        assets={"tokenizer.json": tokenizer_file},
        input_spec=InputSpec(text=TextSpec(column=text_column, max_length=max_length)),
        encoding={"tokenizer": tokenizer_file, "max_length": max_length},
        text_column=text_column,
        form=form,
        group_column=group_column,
        dialect=partial(dialect_of, delimiter=delimiter, quoting=quoting, columns=columns),
        shares=Shares(validation=validation_fraction, test=test_fraction, seed=seed),
        cache=cache,
    )


def ngrams(
    path: str,
    *,
    words: int = 2,
    characters: Sequence[int] = (),
    num_buckets: int = 1 << 18,
    max_ngrams: int = 256,
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    text_column: str = "text",
    label_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_delimiter: str = ",",
    label_names: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = "error",
    group_column: str | None = None,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    quoting: bool = True,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    cache: str = CACHE,
) -> DataSet:
    """Return texts as hashed n-grams: inputs ``ngram_ids`` and ``ngram_mask``, int64 [N, K].

    For a light network: an embedding of ``num_buckets`` rows, averaged where the mask is 1. No
    tokenizer is needed: `thresher_training.sources.hashed_ngrams` gives the same ids for a text
    when the model is called. Bucket 0 is padding.

    Args:
        path: As in `text`.
        words: The longest sequence of words; 2 takes single words and pairs.
        characters: Shortest and longest sequence of characters inside a word, such as ``[3, 5]``;
            none where left out.
        num_buckets: The numbers that n-grams are hashed to.
        max_ngrams: K, the n-grams that are kept of a text, single words first.
        train: As in `text`, like all that follow.
        validation: See `text`.
        test: See `text`.
        text_column: See `text`.
        label_columns: See `text`.
        label_column: See `text`.
        label_delimiter: See `text`.
        label_names: See `text`.
        missing_labels: See `text`.
        group_column: See `text`.
        columns: See `text`.
        delimiter: See `text`.
        quoting: See `text`.
        validation_fraction: See `text`.
        test_fraction: See `text`.
        seed: See `text`.
        cache: See `text`.

    Raises:
        ConfigError: If options do not go together.
        DataError: If a file is missing or broken, or a cell wrong; names the line.
    """
    options: dict[str, Any] = {
        "words": words,
        "characters": tuple(characters),
        "num_buckets": num_buckets,
        "max_ngrams": max_ngrams,
    }

    def encode(texts: list[str]) -> dict[str, Any]:
        return hashed_ngrams(texts, **options)

    hashed_ngrams([], **options)  # the options are wrong before any file is read
    form = label_form(
        label_columns=label_columns,
        label_column=label_column,
        label_delimiter=label_delimiter,
        label_names=label_names,
        missing_labels=missing_labels,
    )
    return _texts(
        split_paths(path, train=train, validation=validation, test=test),
        encode,
        trim_by="ngram_mask",
        assets={},
        input_spec=InputSpec(ngrams=NgramSpec(column=text_column, **options)),
        encoding=options,
        text_column=text_column,
        form=form,
        group_column=group_column,
        dialect=partial(dialect_of, delimiter=delimiter, quoting=quoting, columns=columns),
        shares=Shares(validation=validation_fraction, test=test_fraction, seed=seed),
        cache=cache,
    )


def _texts(
    paths: dict[SplitName, Path],
    encode: Callable[[list[str]], dict[str, Any]],
    *,
    trim_by: str,
    assets: dict[str, Path],
    input_spec: InputSpec,
    encoding: dict[str, Any],
    text_column: str,
    form: LabelForm,
    group_column: str | None,
    dialect: Callable[[Path], Dialect],
    shares: Shares,
    cache: str,
) -> DataSet:
    suffixes = (*ARROW, *DELIMITED)
    tables: dict[SplitName, Table] = {
        name: open_table(
            place, dialect=None if holds_arrow(place) else dialect(place), suffixes=suffixes
        )
        for name, place in paths.items()
    }
    for table in tables.values():
        table.check_columns([text_column])

    def block(batch: Batch) -> Block:
        texts = _cells(batch, text_column)
        return Block(inputs=encode(texts), texts=texts)

    def build(into: Path) -> None:
        write_tables(
            into,
            tables,
            form=form,
            group_column=group_column,
            shares=shares,
            columns=[text_column],
            block=block,
        )

    place = cached(
        cache,
        files=[*(f for table in tables.values() for f in table.files), *assets.values()],
        options={
            "source": "text",
            "splits": {name: [str(f) for f in table.files] for name, table in tables.items()},
            "encoding": encoding,
            "text": text_column,
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
        source=f"texts: {told_files(tables)}",
        trim_by=trim_by,
        assets=assets,
        input_spec=input_spec,
    )


def _cells(batch: Batch, column: str) -> list[str]:
    cells: list[Any] = batch.columns[column].to_pylist()
    for row, cell in enumerate(cells):
        if not isinstance(cell, str):
            raise DataError(
                f'{batch.where(row)}: text column "{column}" holds {cell!r}, expected a text'
            )
    return cells
