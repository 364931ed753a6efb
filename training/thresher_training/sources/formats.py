"""The sources that a recipe names: each says which files it reads, and what their columns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

import numpy as np

from thresher.artifacts.input_spec import InputSpec, NgramSpec, PictureSpec, TextSpec
from thresher.errors import DataError, unknown_name
from thresher.ngrams import hashed_ngrams
from thresher.tables.address import Address, address_of, expanded
from thresher.tables.arff_files import unescaped
from thresher.tables.numbers import is_text, plain_cells
from thresher.tables.parts import Form
from thresher.tables.texts import Tokenizer
from thresher_training.data import DataSet, SplitName
from thresher_training.sources.arrays import array_data, holds_arrays
from thresher_training.sources.augmentation import Augmentation
from thresher_training.sources.building import FixedInputs, TableData
from thresher_training.sources.labels import LabelReader
from thresher_training.sources.learning import InputShape, TableInputs
from thresher_training.sources.options import SourceOptions, source
from thresher_training.sources.tables import MAX_ROWS, Table, open_tables

__all__ = ["arrays", "delimited", "images", "mulan", "ngrams", "parquet", "table", "text"]

_ARROW: tuple[Form, ...] = ("parquet", "arrow")
_TABLES: tuple[Form, ...] = (*_ARROW, "csv", "arff")
_PICTURES_AT_ONCE = 256
_INT64 = np.dtype(np.int64)


@source()
def table(options: SourceOptions) -> DataSet:
    """Return a table of numbers and categories, input ``"features"`` float32 [N, D] and others.

    Takes Parquet, Arrow IPC (Feather), CSV and TSV (also compressed), ARFF and NumPy files by
    their endings. Tables are streamed into memory-mapped arrays, so they may be larger than memory;
    the same files and options are read once. Empty cells, ``NA``, ``NaN``, ``null`` and ``?`` are
    missing; ``true`` and ``false`` are 1 and 0.
    """
    if holds_arrays(options):
        options.refuse_for_arrays()
        return array_data(options)
    return _numbers(options, open_tables(options, forms=_TABLES))


@source()
def parquet(options: SourceOptions) -> DataSet:
    """Return a table in Parquet, Arrow IPC or Feather files; `table` takes all formats."""
    return _numbers(options, open_tables(options, forms=_ARROW, default="parquet"))


@source()
def delimited(options: SourceOptions) -> DataSet:
    """Return a table in CSV or TSV files; `table` takes all formats."""
    return _numbers(options, open_tables(options, forms=("csv",), default="csv"))


def _numbers(options: SourceOptions, tables: dict[SplitName, Table]) -> DataSet:
    labels = LabelReader(options)
    group = (options.group_column,) if options.group_column else ()
    taken = (*labels.columns(tables["train"]), *group)
    inputs = TableInputs(options, tables["train"], taken)
    made = TableData(options=options, tables=tables, title="table", labels=labels, inputs=inputs)
    return made.data_set()


@source()
def arrays(options: SourceOptions) -> DataSet:
    """Return arrays from ``.npz`` files, or from folders of ``.npy`` files.

    Arrays are memory-mapped and never read as a whole. Where a split has to be taken from the
    train rows, its rows are copied once, block by block, into the cache. ``inputs`` goes from input
    name to array name; where left out, every array [N, ...] that is nothing else is an input under
    its own name. Where ``label_names`` is left out, the array ``labels`` holds them.
    """
    return array_data(options)


@source(validation_fraction=0.2, test_fraction=0.2)
def mulan(options: SourceOptions) -> DataSet:
    """Return a Mulan data set, input ``"features"`` float32 [N, D].

    The folder holds ``NAME.xml`` with the labels, and ``NAME-train.arff`` and ``NAME-test.arff``
    (the official split, which is kept) or else ``NAME.arff``. What has no file of its own is taken
    from the train rows by iterative stratification. Nominal attributes whose values are no numbers
    are the input ``"categories"``. Features come as they are: scaling belongs inside the network.
    """
    folder = Path(expanded(options.path))
    title = options.name or folder.resolve().name
    labels_file = Path(address_of(folder / f"{title}.xml").root)
    is_official = (folder / f"{title}-train.arff").is_file()
    if is_official or not (folder / f"{title}.arff").is_file():
        named = replace(
            options, path=str(folder), train=f"{title}-train.arff", test=f"{title}-test.arff"
        )
    else:
        named = replace(options, path=str(folder), train=f"{title}.arff")
    tables = open_tables(named, forms=("arff",))
    names = _mulan_labels(labels_file)
    for each in tables.values():
        for name in names:
            if name not in each.kinds:
                file = PurePosixPath(each.parts[0].path).name
                raise DataError(f"{labels_file}: {file}: {unknown_name('label', name, each.kinds)}")
    return TableData(
        options=options,
        tables=tables,
        title=f"Mulan {title}",
        labels=LabelReader(options, columns=names),
        inputs=TableInputs(options, tables["train"], names),
        files=[labels_file],
        is_official=len(tables) > 1,
    ).data_set()


def _mulan_labels(path: Path) -> tuple[str, ...]:
    try:
        tree = ElementTree.parse(path)  # noqa: S314  # a file of the data set itself
    except ElementTree.ParseError as error:
        raise DataError(f"{path} is not XML: {error}") from error
    names = tuple(
        unescaped(element.attrib["name"])
        for element in tree.iter()
        if element.tag.rpartition("}")[2] == "label" and "name" in element.attrib
    )
    if not names:
        raise DataError(f'{path} names no label, expected <label name="..."> elements')
    return names


@source(tokenizer=...)
def text(options: SourceOptions) -> DataSet:
    """Return texts as token ids: inputs ``input_ids`` and ``attention_mask``, int64 [N, T].

    T is ``max_length``; batches are trimmed to their longest text. The tokenizer's file is kept
    with the run, for those who call the model.
    """
    file = find_tokenizer(options.tokenizer)
    tokenizer = Tokenizer(file, max_length=options.max_length)
    spec = TextSpec(
        column=options.text_column, max_length=options.max_length, missing=options.missing_text
    )
    return _texts(
        options,
        spec=InputSpec(text=spec),
        shapes=dict.fromkeys(
            ("input_ids", "attention_mask"), InputShape(shape=(options.max_length,), dtype=_INT64)
        ),
        maker={"tokenizer": tokenizer},
        files=[file],
        trim_by="attention_mask",
        assets={"tokenizer.json": file},
    )


def find_tokenizer(tokenizer: str) -> Path:
    """Return the file ``tokenizer.json`` that a path, or the folder that holds it, names.

    Raises:
        NotFoundError: If there is none.
    """
    path = Path(expanded(tokenizer))
    return Path(address_of(path / "tokenizer.json" if path.is_dir() else path).root)


@source()
def ngrams(options: SourceOptions) -> DataSet:
    """Return texts as hashed n-grams: inputs ``ngram_ids`` and ``ngram_mask``, int64 [N, K].

    For a light network: an embedding of ``num_buckets`` rows, averaged where the mask is 1. No
    tokenizer is needed: `thresher_training.sources.hashed_ngrams` gives the same ids for a text
    when the model is called. Bucket 0 is padding.
    """
    encoding: dict[str, Any] = {
        "words": options.words,
        "characters": tuple(options.characters),
        "num_buckets": options.num_buckets,
        "max_ngrams": options.max_ngrams,
    }
    hashed_ngrams([], **encoding)  # the options are wrong before any file is read
    spec = NgramSpec(column=options.text_column, missing=options.missing_text, **encoding)
    return _texts(
        options,
        spec=InputSpec(ngrams=spec),
        shapes=dict.fromkeys(
            ("ngram_ids", "ngram_mask"), InputShape(shape=(options.max_ngrams,), dtype=_INT64)
        ),
        trim_by="ngram_mask",
    )


def _texts(
    options: SourceOptions,
    *,
    spec: InputSpec,
    shapes: dict[str, InputShape],
    maker: dict[str, Any] | None = None,
    files: Sequence[Path] = (),
    **further: Any,
) -> DataSet:
    tables = open_tables(options, forms=_TABLES, default="csv")
    column = options.text_column
    for each in tables.values():
        each.check_columns([column])
        if not is_text(each.kinds[column]):
            raise DataError(
                f'{each.parts[0].path}: column "{column}" is {each.kinds[column]}, expected texts'
            )
    return TableData(
        options=options,
        tables=tables,
        title="texts",
        labels=LabelReader(options),
        inputs=FixedInputs(columns=(column,), spec=spec, shapes=shapes),
        maker={"text_column": column, **(maker or {})},
        files=files,
        max_rows=MAX_ROWS,
    ).data_set(**further)


@source()
def images(options: SourceOptions) -> DataSet:
    """Return pictures, input ``"image"`` uint8 [N, 3, S, S], with labels from a table.

    A column names each picture's file, or holds its content. Each picture is decoded once, turned
    as its EXIF data say, and brought to a square of S pixels, kept in a memory-mapped file. What
    alters them works on train batches only. Where neither ``label_columns`` nor ``label_column``
    is given, every column but the file's is a label.
    """
    augment = Augmentation(
        flip=options.flip,
        shift=options.shift,
        zoom=options.zoom,
        color_jitter=options.color_jitter,
        erase=options.erase,
    )
    tables = open_tables(options, forms=_TABLES, default="csv")
    column = options.file_column
    columns = None
    if options.label_columns is None and options.label_column is None:
        other = {column, options.group_column}
        columns = [name for name in tables["train"].columns if name not in other]
    home = None if options.folder is None else address_of(options.folder)
    for each in tables.values():
        each.check_columns([column])
    shape = InputShape(shape=(3, options.size, options.size), dtype=np.dtype(np.uint8))
    spec = PictureSpec(column=column, size=options.size, resize=options.resize)
    return TableData(
        options=options,
        tables=tables,
        title="pictures",
        labels=LabelReader(options, columns=columns),
        inputs=FixedInputs(
            columns=(column,), spec=InputSpec(pictures=spec), shapes={"image": shape}
        ),
        maker={"read_file": partial(_content, (home or tables["train"].address).system)},
        folder=None if home is None else home.root,
        further_key=[_picture_files(each, column, home) for each in tables.values()],
        max_rows=_PICTURES_AT_ONCE,
    ).data_set(augment=augment if augment.is_active else None)


def _content(system: Any, path: str) -> bytes:
    with system.open_input_stream(path, compression=None) as file:
        return bytes(file.read())


def _picture_files(table: Table, column: str, home: Address | None) -> list[str]:
    """Return name, size and time of the file that each row names; none where rows hold pictures.

    Raises:
        DataError: If there is none; names the row.
    """
    from pyarrow import fs

    found: list[str] = []
    kind = table.kinds[column]
    if table.form != "csv" and (not is_text(kind) or "binary" in str(kind)):
        return found
    system = (home or table.address).system
    for part, rows in table.rows([column]):
        folder = part.folder if home is None else home.root
        names = plain_cells(rows.columns[column], column, table.refuse(part, rows)).to_pylist()
        paths = [name if str(name).startswith("/") else f"{folder}/{name or ''}" for name in names]
        for row, info in enumerate(system.get_file_info(paths)):
            if info.type != fs.FileType.File:
                reason = f'names the picture "{names[row] or ""}", which {folder} does not hold'
                table.refuse(part, rows)(row, reason, column)
            found.append(f"{info.path} {info.size} {info.mtime_ns}")
    return found
