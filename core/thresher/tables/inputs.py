"""From columns to a network's inputs; a row that cannot be one is rejected with its reason."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError, unknown_name
from thresher.tables.categories import category_ids, holds_categories
from thresher.tables.cells import shown
from thresher.tables.lists import list_arrays, object_list_arrays, raw_array
from thresher.tables.numbers import (
    is_finite,
    is_list,
    is_number,
    is_text,
    missing_of,
    number_array,
    plain_cells,
)
from thresher.tables.pictures import decode_picture
from thresher.tables.reading import FILE_COLUMN
from thresher.tables.rows import Reject, RejectRow, Rows
from thresher.tables.texts import TensorShape, Tokenizer, text_cells

__all__ = ["InputMaker", "Inputs", "matched_columns"]

Array = npt.NDArray[Any]

_FILE_COLUMNS = (FILE_COLUMN, "file_name")
"""Where nothing says which column names the pictures: a folder's own, and Hugging Face's."""
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_NGRAM_INPUTS = ("ngram_ids", "ngram_mask")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What is given to the network for some rows."""

    arrays: Mapping[str, Array]
    """By name, [n, ...]: the rows that can be used."""
    kept: Array
    """int64 [n]: their positions among the rows."""
    lengths: Array | None
    """int64 [n]: what of the last axis each row uses, where rows differ; None where they do not."""
    rejects: Sequence[Reject]
    texts: Sequence[str] | None = None
    """The texts that the inputs were made of."""


def matched_columns(patterns: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that names or patterns such as ``"tag_*"`` mean, each once.

    Raises:
        DataError: If one means none; names the nearest.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        fits = [pattern] if pattern in columns else fnmatch.filter(columns, pattern)
        if not fits:
            raise DataError(unknown_name("column", pattern, columns))
        found |= dict.fromkeys(fits)
    return tuple(found)


class InputMaker:
    """Makes a model's inputs of a table's columns, as training made them.

    Args:
        spec: How training made them.
        inputs: The model's inputs by name.
        columns: Arrow types by name, of the first file; None for Python objects in memory.
        title: The model, for messages.
        folder: Holds the tokenizer that ``spec`` names.
        tokenizer: The tokenizer, where it is loaded already.
        features: Names or patterns of the columns of the input of numbers, in order; needed where
            training did not write them down.
        text_column: The column with texts, where it is not the one of training.
        read_file: Returns the content of a picture's file; None where cells hold no names.

    Raises:
        DataError: If an input cannot be made of these columns; says which, and what to do.
    """

    def __init__(
        self,
        spec: InputSpec,
        inputs: Mapping[str, TensorShape],
        columns: Mapping[str, Any],
        *,
        title: str,
        folder: Path | None = None,
        tokenizer: Tokenizer | None = None,
        features: Sequence[str] = (),
        text_column: str | None = None,
        read_file: Callable[[str], bytes] | None = None,
    ) -> None:
        self._spec, self._inputs, self._title = spec, inputs, title
        self._read_file = read_file
        self.text_column = self.picture_column = ""
        self._picture_input = ""
        self.columns: dict[str, tuple[str, ...]] = {}
        """By input of numbers or categories: the columns that it is made of."""
        self._encode = self._text_encoder(columns, text_column, folder, tokenizer)
        for name, tensor in inputs.items():
            if self._encode is not None and name in (*_TEXT_INPUTS, *_NGRAM_INPUTS):
                continue
            if self._finds_pictures(name, tensor, columns):
                continue
            if name in spec.categories:
                self.columns[name] = tuple(spec.categories[name])
                self._check_held(name, columns)
            else:
                self.columns[name] = self._number_columns(name, tensor, columns, features)
        needed = [column for held in self.columns.values() for column in held]
        needed += [column for column in (self.text_column, self.picture_column) if column]
        self.needed = tuple(dict.fromkeys(needed))
        """The columns that are read."""
        self._categories = {c for held in spec.categories.values() for c in held}

    def check(self, columns: Mapping[str, Any], where: str) -> None:
        """Refuse a table that lacks a column, or holds one of a kind that no input is made of.

        Args:
            columns: Its Arrow types by name; None for Python objects.
            where: The table, for messages.

        Raises:
            DataError: Names table and column.
        """
        alone = {held[0]: name for name, held in self.columns.items() if len(held) == 1}
        for name in self.needed:
            if name not in columns:
                raise DataError(f"{where}: {unknown_name('column', name, [*columns])}")
            kind = columns[name]
            if kind is None or is_text(kind):
                continue
            if name == self.picture_column and _holds_content(kind):
                continue
            if name in (self.text_column, self.picture_column):
                raise DataError(f'{where}: column "{name}" is {kind}, expected texts')
            if name in alone and _is_raw(kind, self._inputs[alone[name]]):
                continue
            is_category = name in self._categories
            if not (holds_categories if is_category else _holds_numbers)(kind):
                expected = "texts, numbers or dates" if is_category else "numbers"
                raise DataError(f'{where}: column "{name}" is {kind}, expected {expected}')

    def make(self, rows: Rows, *, folder: str = "") -> Inputs:
        """Return the inputs of some rows, and the rows that have none.

        Args:
            rows: The rows.
            folder: Where pictures are that its cells name.
        """
        found: dict[int, Reject] = {}

        def reject(row: int, reason: str, column: str | None) -> None:
            found.setdefault(row, Reject(row=rows.position(row), reason=reason, column=column))

        arrays: dict[str, Array] = {}
        lengths: Array | None = None
        for name, columns in self.columns.items():
            cells = [rows.columns[column] for column in columns]
            if name in self._spec.categories:
                values = self._spec.categories[name]
                ids = [
                    category_ids(cells_N, column, values[column], reject)
                    for column, cells_N in zip(columns, cells, strict=True)
                ]
                arrays[name] = np.stack(ids, axis=1).astype(self._inputs[name].dtype, copy=False)
            else:
                arrays[name], used = self._numbers(name, columns, cells, reject)
                lengths = used if used is not None else lengths
        if self.picture_column:
            arrays[self._picture_input] = self._pictures(rows, folder, reject)
        texts: list[str] | None = None
        if self._encode is not None:
            missing = (self._spec.text or self._spec.ngrams).missing  # type: ignore[union-attr]
            texts = text_cells(
                rows.columns[self.text_column], self.text_column, reject, missing=missing
            )
        kept = np.arange(rows.num_rows)
        if found:
            kept = np.setdiff1d(kept, np.array([*found], dtype=np.int64))
            arrays = {name: array[kept] for name, array in arrays.items()}
            lengths = None if lengths is None else lengths[kept]
            texts = None if texts is None else [texts[row] for row in kept]
        if self._encode is not None and texts is not None:
            arrays |= self._encode(texts)
            lengths = self._text_lengths(arrays)
        rejects = [*rows.rejects, *(found[row] for row in sorted(found))]
        return Inputs(arrays=arrays, kept=kept, lengths=lengths, rejects=rejects, texts=texts)

    def _text_lengths(self, arrays: Mapping[str, Array]) -> Array | None:
        """Return what of the last axis each text uses; None where the network fixes its length."""
        for mask in ("attention_mask", "ngram_mask"):
            if mask in arrays and self._inputs[mask].shape[-1] == -1:
                found: Array = arrays[mask].sum(axis=1)
                return found
        return None

    def _text_encoder(
        self,
        columns: Mapping[str, Any],
        given: str | None,
        folder: Path | None,
        tokenizer: Tokenizer | None,
    ) -> Callable[[Sequence[str]], dict[str, Array]] | None:
        """Return what turns texts into inputs, None where the columns hold the inputs."""
        spec = self._spec
        ids = {"input_ids", "ngram_ids"} & set(self._inputs)
        if not ids or (given is None and ids <= set(columns)):
            return None
        column = given or spec.text_column or ""
        if spec.text is None and spec.ngrams is None:
            if given is None:
                return None
            raise DataError(
                f"{self._title} does not say how texts become {', '.join(ids)}; export it "
                "again from a run that logged inputs.json"
            )
        if column not in columns:
            raise DataError(
                f"{self._title} reads texts: {unknown_name('column', column, [*columns])}. "
                "Name the column so (score: --text-column)"
            )
        self.text_column = column
        if spec.text is not None:
            if tokenizer is None:
                if folder is None:
                    raise DataError(
                        f"{self._title} reads texts with a tokenizer that is not at hand; name its "
                        "tokenizer.json: tokenizer=PATH"
                    )
                tokenizer = Tokenizer(folder / spec.text.tokenizer, max_length=spec.text.max_length)
            return partial(tokenizer.arrays, inputs=self._inputs)
        from thresher.ngrams import hashed_ngrams

        assert spec.ngrams is not None
        return partial(
            hashed_ngrams,
            words=spec.ngrams.words,
            characters=spec.ngrams.characters,
            num_buckets=spec.ngrams.num_buckets,
            max_ngrams=spec.ngrams.max_ngrams,
        )

    def _finds_pictures(self, name: str, tensor: TensorShape, columns: Mapping[str, Any]) -> bool:
        """Return whether an input is made of pictures, and note their column."""
        spec = self._spec.pictures
        is_known = spec is not None and spec.column in columns
        if (name in columns and not is_known) or tensor.dtype != np.uint8 or len(tensor.shape) != 3:
            return False
        known = (*([spec.column] if spec is not None else []), *_FILE_COLUMNS)
        column = next((name for name in known if name in columns), None)
        if column is None:
            return False
        self.picture_column, self._picture_input = column, name
        return True

    def _check_held(self, name: str, columns: Mapping[str, Any]) -> None:
        missing = [column for column in self.columns[name] if column not in columns]
        if missing:
            raise DataError(
                f"{self._where(name)} was trained on columns that are not there: "
                f"{', '.join(missing[:5])}"
                + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                + f"; the columns are {', '.join([*columns][:20])}"
            )

    def _where(self, name: str) -> str:
        tensor = self._inputs[name]
        return f'{self._title}: input "{name}" {tensor.dtype} {list(tensor.shape)}'

    def _number_columns(
        self,
        name: str,
        tensor: TensorShape,
        columns: Mapping[str, Any],
        features: Sequence[str],
    ) -> tuple[str, ...]:
        """Return the columns of an input of numbers, in its order."""
        spec = self._spec
        if features:
            found = matched_columns(features, [*columns])
        elif name in spec.columns and (set(spec.columns[name]) <= {*columns}):
            found = spec.columns[name]
        elif name in columns:
            found = (name,)
        elif name in spec.columns:
            self.columns[name] = spec.columns[name]
            self._check_held(name, columns)
            raise AssertionError(name)
        else:
            raise DataError(
                f"{self._where(name)}: nothing says which columns it is made of, and none has its "
                f"name; the columns are {', '.join([*columns][:20])}. Name them in the order of "
                'training (score: --features "a,b,c_*"), or give the array itself (client: '
                f'{{"{name}": array}})'
            )
        if -1 in tensor.shape:
            return found
        size = math.prod(tensor.shape)
        kinds = [columns[column] for column in found]
        if len(found) == 1 and (kinds[0] is None or is_list(kinds[0]) or _is_raw(kinds[0], tensor)):
            return found
        num_flags = len(spec.flagged.get(name, ()))
        width = sum(spec.widths.get(column, 1) for column in found) + num_flags
        if width != size:
            raise DataError(
                f"{self._where(name)} holds {size} numbers, got {len(found)} columns: "
                f"{', '.join(found[:5])}{', ...' if len(found) > 5 else ''}"
            )
        return found

    def _numbers(
        self, name: str, columns: Sequence[str], cells: Sequence[Any], reject: RejectRow
    ) -> tuple[Array, Array | None]:
        """Return an input of numbers, [n, ...], and its rows' lengths where they may differ."""
        spec, tensor = self._spec, self._inputs[name]
        shape = tuple(tensor.shape)
        is_fixed = -1 not in shape
        if len(columns) == 1 and columns[0] not in spec.widths:
            kind = getattr(cells[0], "type", None)
            if kind is not None and _is_raw(kind, tensor):
                return raw_array(cells[0], columns[0], shape, tensor.dtype, reject), None
            fill = spec.fill_of(columns[0])
            is_list_input = is_fixed and math.prod(shape) != 1 and not spec.flagged.get(name)
            if kind is None and (is_list_input or any(_is_array(cell) for cell in cells[0])):
                array, lengths = object_list_arrays(
                    cells[0], columns[0], shape, tensor.dtype, reject, fill=fill, exact=spec.exact
                )
                return array, None if is_fixed else lengths
            if kind is not None and is_list(kind):
                array, lengths = list_arrays(
                    cells[0], columns[0], shape, tensor.dtype, reject, fill=fill, exact=spec.exact
                )
                return array, None if is_fixed else lengths
        if is_fixed and not spec.flagged.get(name):
            found = _side_by_side(cells, shape, tensor.dtype)
            if found is not None:
                return found, None
        parts_WN: list[Array] = []
        for column, cells_N in zip(columns, cells, strict=True):
            fill = spec.fill_of(column)
            if column in spec.widths:
                of_lists = list_arrays if hasattr(cells_N, "type") else object_list_arrays
                width = (spec.widths[column],)
                lists, _ = of_lists(
                    cells_N, column, width, tensor.dtype, reject, fill=fill, exact=spec.exact
                )
                parts_WN += [*lists.T]
            else:
                parts_WN.append(
                    number_array(cells_N, column, tensor.dtype, reject, fill=fill, exact=spec.exact)
                )
        for column in spec.flagged.get(name, ()):
            cells_N = cells[columns.index(column)]
            parts_WN.append(_missing(cells_N, column).astype(tensor.dtype))
        array = np.ascontiguousarray(np.stack(parts_WN, axis=1))
        return array.reshape(len(array), *(shape if is_fixed else (-1,))), None

    def _pictures(self, rows: Rows, folder: str, reject: RejectRow) -> Array:
        shape = tuple(self._inputs[self._picture_input].shape)
        spec = self._spec.pictures
        found: dict[int, Array] = {}
        cells: Any = rows.columns[self.picture_column]
        if hasattr(cells, "type"):
            cells = cells.to_pylist()

        def decode(row: int) -> tuple[int, str | None]:
            try:
                found[row] = decode_picture(
                    self._content(cells[row], folder),
                    shape=shape,
                    size=spec.size if spec is not None else None,
                    resize=spec.resize if spec is not None else "crop",
                )
            except (DataError, OSError, UnicodeDecodeError) as error:
                cell = cells[row]
                named = bool(cell) and isinstance(cell, (str, bytes)) and not _is_content(cell)
                return row, f"{shown(cells[row])}: {error}" if named else str(error)
            return row, None

        with ThreadPoolExecutor() as pool:  # Pillow decodes outside of the GIL
            for row, wrong in pool.map(decode, range(rows.num_rows)):
                if wrong is not None:
                    reject(row, wrong, self.picture_column)
        size = next((array.shape for array in found.values()), shape)
        pixels = np.zeros((rows.num_rows, *size), dtype=np.uint8)
        for row, array in found.items():
            if array.shape != pixels.shape[1:]:
                reject(row, f"the picture is {list(array.shape)}, others are {list(size)}", None)
                continue
            pixels[row] = array
        return pixels

    def _content(self, cell: Any, folder: str) -> Any:
        """Return a picture's content: what the cell holds, or the file that it names.

        Raises:
            DataError: If the cell is empty, or names a file where none are at hand.
        """
        if cell is None or cell in ("", b""):
            raise DataError("missing, expected a picture")
        if isinstance(cell, Mapping):  # as the package datasets writes pictures
            return self._content(cell.get("bytes") or cell.get("path"), folder)
        if isinstance(cell, bytes) and _is_content(cell):
            return cell
        if not isinstance(cell, (str, bytes)):
            return cell
        name = cell.decode() if isinstance(cell, bytes) else cell
        if self._read_file is None:
            raise DataError("a picture's content was expected, not its name")
        is_absolute = name.startswith("/") or "://" in name
        return self._read_file(f"{folder}/{name}" if folder and not is_absolute else name)


def _holds_numbers(kind: Any) -> bool:
    """Return whether an Arrow type is one of numbers, or of lists of them."""
    while is_list(kind):
        kind = kind.value_type
    return is_number(kind)


def _holds_content(kind: Any) -> bool:
    """Return whether an Arrow type is one of structs with a picture's content, or its path."""
    import pyarrow as pa

    return bool(pa.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _is_content(cell: str | bytes) -> bool:
    """Return whether bytes are a picture's content; CSV files hold names as bytes too."""
    if isinstance(cell, str):
        return False
    return len(cell) > 1_000 or b"\0" in cell or cell[:4] in (b"\x89PNG", b"RIFF", b"II*\0")


def _is_raw(kind: Any, tensor: TensorShape) -> bool:
    """Return whether an Arrow type is one of as many bytes as a row of an input has."""
    import pyarrow as pa

    return (
        bool(pa.types.is_fixed_size_binary(kind))
        and -1 not in tensor.shape
        and kind.byte_width == math.prod(tensor.shape) * tensor.dtype.itemsize
    )


def _missing(cells: Any, column: str) -> Array:
    """Return which cells are missing, bool [n]."""
    from thresher.tables.cells import is_missing

    if not hasattr(cells, "type"):
        return np.array([is_missing(cell) for cell in cells])
    return missing_of(plain_cells(cells, column, lambda *_: None))


def _side_by_side(cells: Sequence[Any], shape: Sequence[int], dtype: np.dtype[Any]) -> Array | None:
    """Return columns that are all of an input's own kind, without a hole; None for others."""
    if not all(hasattr(cells_N, "type") for cells_N in cells):
        return None
    import pyarrow as pa

    kind = pa.from_numpy_dtype(dtype)
    if any(cells_N.type != kind or cells_N.null_count for cells_N in cells):
        return None
    if kind == pa.bool_():
        return None
    names = [str(at) for at in range(len(cells))]
    batch = pa.RecordBatch.from_arrays(list(cells), names=names)
    found: Array = batch.to_tensor(row_major=True).to_numpy()
    if not is_finite(found):
        return None
    return found.reshape(len(found), *shape)


def _is_array(cell: object) -> bool:
    return hasattr(cell, "__len__") and not isinstance(cell, (str, bytes))
