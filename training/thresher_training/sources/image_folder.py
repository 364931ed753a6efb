"""Pictures in a folder with a table of labels: decoded once to one size, altered as they train."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec, PictureSpec
from thresher.errors import ConfigError, DataError, unknown_name
from thresher.tables.pictures import RESIZE, decode_picture
from thresher_training.data import DataSet
from thresher_training.sources.augmentation import Augmentation
from thresher_training.sources.cache import CACHE, cached, load_splits
from thresher_training.sources.dialect import ARROW, DELIMITED, dialect_of, holds_arrow
from thresher_training.sources.files import expand
from thresher_training.sources.labels import MissingLabels, label_form
from thresher_training.sources.reading import split_paths, told_files, write_tables
from thresher_training.sources.splitting import Block, Shares
from thresher_training.sources.tables import Batch, Table, open_table

__all__ = ["images"]

_DECODED_AT_ONCE = 256


def images(
    path: str,
    *,
    folder: str | None = None,
    file_column: str = "file",
    size: int = 64,
    resize: str = "crop",
    train: str | None = None,
    validation: str | None = None,
    test: str | None = None,
    label_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    label_delimiter: str = ",",
    label_names: str | Sequence[str] | None = None,
    missing_labels: MissingLabels = "error",
    group_column: str | None = None,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
    flip: bool = False,
    shift: float = 0.0,
    zoom: float = 0.0,
    color_jitter: float = 0.0,
    erase: float = 0.0,
    cache: str = CACHE,
) -> DataSet:
    """Return pictures, input ``"image"`` uint8 [N, 3, S, S], with labels from a table.

    Each file is decoded once, turned as its EXIF data say, and brought to a square; the pixels are
    kept in a memory-mapped file. What alters them works on train batches only.

    Args:
        path: The table, a CSV, TSV, Parquet or Arrow file that is split by shares; or, where
            ``train`` is given, the folder that the tables of the splits lie in.
        folder: Where the pictures lie; the table's own folder where left out.
        file_column: The column with each picture's file name, from ``folder``.
        size: S, width and height in pixels.
        resize: ``"crop"`` keeps the middle square, ``"squeeze"`` the whole picture, out of shape,
            and ``"pad"`` the whole picture between black bars.
        train: Table of the train rows, from ``path``.
        validation: Likewise; a share of train where left out.
        test: Likewise.
        label_columns: Names or patterns of columns with 1, 0 or nothing, one for each label;
            where neither this nor ``label_column`` is given, every column but the file's.
        label_column: Instead: the column with each row's labels, as a list or in one text.
        label_delimiter: Stands between the labels in one text.
        label_names: All labels in order, or a file with one a line.
        missing_labels: What a row without a list is: ``"error"``, or labels all ``"unknown"``.
        group_column: Rows with the same value never fall into different splits.
        validation_fraction: The share of the rows of ``train`` (or of the one table).
        test_fraction: Likewise.
        seed: Seed of the split.
        flip: Whether half of the train pictures are mirrored left to right.
        shift: Pictures move by up to this share of their size; edges are mirrored into view.
        zoom: Pictures grow or shrink by up to this share.
        color_jitter: Brightness, contrast and saturation change by up to this share.
        erase: The share of pictures in which a random rectangle is made grey.
        cache: Folder of what is kept between runs.

    Raises:
        ConfigError: If options do not go together.
        DataError: If a table is wrong, or a picture is missing or cannot be decoded; names it.
    """
    if resize not in RESIZE:
        raise ConfigError(f"resize: {unknown_name('way', resize, RESIZE)}")
    if size < 1:
        raise ConfigError(f"size is {size!r}, expected at least 1")
    augment = Augmentation(
        flip=flip, shift=shift, zoom=zoom, color_jitter=color_jitter, erase=erase
    )
    tables = {
        name: open_table(
            place,
            dialect=None if holds_arrow(place) else dialect_of(place),
            suffixes=(*ARROW, *DELIMITED),
        )
        for name, place in split_paths(path, train=train, validation=validation, test=test).items()
    }
    if label_columns is None and label_column is None:
        other = {file_column, group_column}
        label_columns = [c for c in tables["train"].columns if c not in other]
    form = label_form(
        label_columns=label_columns,
        label_column=label_column,
        label_delimiter=label_delimiter,
        label_names=label_names,
        missing_labels=missing_labels,
    )
    shares = Shares(validation=validation_fraction, test=test_fraction, seed=seed)
    decode = _Decoder(
        size=size,
        resize=resize,
        column=file_column,
        folder=None if folder is None else expand(folder),
    )

    def build(into: Path) -> None:
        write_tables(
            into,
            tables,
            form=form,
            group_column=group_column,
            shares=shares,
            columns=[file_column],
            block=decode,
            max_rows=_DECODED_AT_ONCE,
        )

    place = cached(
        cache,
        files=[f for table in tables.values() for f in (*table.files, *decode.pictures(table))],
        options={
            "source": "images",
            "splits": {name: [str(f) for f in table.files] for name, table in tables.items()},
            "decode": [size, resize, file_column],
            "labels": form,
            "group": group_column,
            "shares": shares,
        },
        build=build,
    )
    labels, splits = load_splits(place)
    return DataSet(
        labels=labels,
        splits=splits,
        source=f"pictures: {told_files(tables)}, {size} x {size} pixels",
        augment=augment if augment.is_active else None,
        input_spec=InputSpec(pictures=PictureSpec(column=file_column, size=size, resize=resize)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Decoder:
    """From a table's rows to pixels."""

    size: int
    resize: str
    column: str
    folder: Path | None

    def __call__(self, batch: Batch) -> Block:
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside of the GIL
            pictures = list(pool.map(self._decoded, self._paths(batch)))
        return Block(inputs={"image": np.stack(pictures)})

    def pictures(self, table: Table) -> Iterator[Path]:
        """Yield the file of each row."""
        for batch in table.batches([self.column]):
            yield from self._paths(batch)

    def _paths(self, batch: Batch) -> list[Path]:
        home = self.folder if self.folder is not None else batch.path.parent
        found = []
        for row, cell in enumerate(batch.columns[self.column].to_pylist()):
            path = home / str(cell or "")
            if not path.is_file():
                raise DataError(
                    f'{batch.where(row)}: column "{self.column}" names the picture "{cell}", '
                    f"which the folder {home} does not hold"
                )
            found.append(path)
        return found

    def _decoded(self, path: Path) -> npt.NDArray[np.uint8]:
        return decode_picture(path, size=self.size, resize=self.resize)
