"""From columns to a network's inputs; a row that cannot be one is rejected with its reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError, MissingExtraError, unknown_name
from thresher_serving.client.metadata import TensorMetadata
from thresher_serving.scoring.cells import (
    is_bytes,
    is_list,
    is_numeric,
    is_raw,
    matched_columns,
    texts_of,
)
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.numbers import float_columns, lists, raw_values
from thresher_serving.scoring.reading import FILE_COLUMN
from thresher_serving.scoring.rows import Reject, Rows

__all__ = ["InputMaker", "Inputs"]

Array = npt.NDArray[Any]

_HUGGING_FACE_COLUMN = "file_name"
"""In the ``metadata.csv`` of a folder of pictures."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """What is sent to the network for a chunk of rows."""

    arrays: Mapping[str, Array]
    """By name, [n, ...]: the rows that can be scored."""
    kept: Array
    """int64 [n]: their positions in the chunk."""
    lengths: Array | None
    """int64 [n]: what of the last axis each row uses, where rows differ; None where they do not."""
    rejects: Sequence[Reject]


class InputMaker:
    """Knows which columns make which input of a version.

    Args:
        version: The version.
        columns: Arrow types by name, of the first file.
        features: Names or patterns of the columns of the input that is left, in order; needed
            where training did not write them down.
        text_column: The column with texts, where it is not the one of training.
        read_picture: Returns the content of a picture's file; None where no files are at hand.

    Raises:
        DataError: If an input cannot be made of these columns; says which, and what to do.
    """

    def __init__(
        self,
        version: ScoredVersion,
        columns: Mapping[str, Any],
        *,
        features: Sequence[str] = (),
        text_column: str | None = None,
        read_picture: Callable[[str], bytes] | None = None,
    ) -> None:
        self._version = version
        self._how = version.input_spec or InputSpec()
        self._read_picture = read_picture
        self._text_column = self._picture_column = ""
        self._names_pictures = False
        self.columns: dict[str, tuple[str, ...]] = {}
        """By input: the columns whose numbers it holds."""
        self._encode = self._text_encoder(columns, text_column)
        made = {"input_ids", "attention_mask", "token_type_ids", "ngram_ids", "ngram_mask"}
        for name, tensor in version.model.inputs.items():
            if self._encode is not None and name in made:
                continue
            if self._pictures(name, tensor, columns):
                continue
            self.columns[name] = self._of_columns(tensor, columns, features)
        needed = [column for held in self.columns.values() for column in held]
        needed += [column for column in (self._text_column, self._picture_column) if column]
        self.needed = tuple(dict.fromkeys(needed))
        """The columns that are read."""

    def check(self, columns: Mapping[str, Any], where: str) -> None:
        """Refuse a file that lacks a column, or holds one of a kind that no input is made of.

        Raises:
            DataError: Names file and column.
        """
        import pyarrow as pa

        tensors = self._version.model.inputs
        alone = {held[0]: tensors[name] for name, held in self.columns.items() if len(held) == 1}
        for name in self.needed:
            if name not in columns:
                raise DataError(f"{where}: {unknown_name('column', name, columns)}")
            kind = columns[name]
            if name in alone and is_raw(kind, alone[name]):
                continue
            is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            is_text = is_text or pa.types.is_string_view(kind) or pa.types.is_dictionary(kind)
            if name in (self._text_column, self._picture_column):
                if not (is_text or is_bytes(kind)):
                    raise DataError(f'{where}: column "{name}" is {kind}, expected texts')
            elif not (is_text and where.endswith((".csv", ".tsv", ".gz"))) and not is_numeric(kind):
                raise DataError(f'{where}: column "{name}" is {kind}, expected numbers')

    def inputs(self, rows: Rows, *, folder: str = "") -> Inputs:
        """Return a chunk's inputs, and the rows that have none.

        Args:
            rows: The chunk.
            folder: Where pictures lie that its cells name.
        """
        rejects: dict[int, Reject] = {}

        def reject(row: int, reason: str, column: str | None) -> None:
            at = rows.first_row + row
            rejects.setdefault(row, Reject(row=at, reason=reason, column=column))

        arrays: dict[str, Array] = {}
        lengths: Array | None = None
        for name, columns in self.columns.items():
            tensor = self._version.model.inputs[name]
            held = [rows.columns[column] for column in columns]
            if len(columns) == 1 and is_list(held[0].type):
                array, used = lists(held[0], columns[0], tensor, reject)
                lengths = used if used is not None else lengths
            elif len(columns) == 1 and is_raw(held[0].type, tensor):
                array = raw_values(held[0], columns[0], tensor, reject)
            else:
                array = float_columns(held, columns, tensor, self._how.fill_missing, reject)
            arrays[name] = array
        if self._picture_column:
            arrays |= self._picture_arrays(rows, folder, reject)
        texts: list[str] = []
        if self._text_column:
            texts = texts_of(rows.columns[self._text_column], self._text_column, reject)
        kept = np.setdiff1d(np.arange(rows.num_rows), np.array([*rejects], dtype=np.int64))
        if rejects:
            arrays = {name: array[kept] for name, array in arrays.items()}
            lengths = None if lengths is None else lengths[kept]
        if self._encode is not None:
            arrays |= self._encode([texts[row] for row in kept] if rejects else texts)
            lengths = self._lengths(arrays)
        found = [*rows.rejects, *(rejects[row] for row in sorted(rejects))]
        return Inputs(arrays=arrays, kept=kept, lengths=lengths, rejects=found)

    def _lengths(self, arrays: Mapping[str, Array]) -> Array | None:
        """Return what of the last axis each text uses; None where the network fixes its length."""
        for mask in ("attention_mask", "ngram_mask"):
            if mask in arrays and self._version.model.inputs[mask].shape[-1] == -1:
                found: Array = arrays[mask].sum(axis=1)
                return found
        return None

    def _text_encoder(self, columns: Mapping[str, Any], given: str | None) -> Any:
        """Return what turns texts into inputs, None where the columns hold the inputs."""
        how, model = self._how, self._version.model
        ids = {"input_ids", "ngram_ids"} & set(model.inputs)
        if not ids or (given is None and ids <= set(columns)):
            return None
        column = given or how.text_column or ""
        if how.text is None and how.ngrams is None:
            if given is None:
                return None
            raise DataError(
                f"{self._version.title} does not say how texts become {', '.join(ids)}; export it "
                "again from a run that logged inputs.json"
            )
        if column not in columns:
            raise DataError(
                f"{self._version.title} reads texts: {unknown_name('column', column, columns)}. "
                "Name the column with --text-column"
            )
        self._text_column = column
        if how.text is not None:
            from thresher_serving.client.texts import TextTokenizer

            tokenizer = TextTokenizer(
                self._version.file.parent / how.text.tokenizer, max_length=how.text.max_length
            )
            return partial(tokenizer.inputs, model)
        from thresher.ngrams import hashed_ngrams

        assert how.ngrams is not None
        return partial(
            hashed_ngrams,
            words=how.ngrams.words,
            characters=how.ngrams.characters,
            num_buckets=how.ngrams.num_buckets,
            max_ngrams=how.ngrams.max_ngrams,
        )

    def _pictures(self, name: str, tensor: TensorMetadata, columns: Mapping[str, Any]) -> bool:
        """Return whether an input is made of pictures' files."""
        how = self._how.pictures
        if name in columns or tensor.datatype != "UINT8" or len(tensor.shape) != 3:
            return False
        known = (*([how.column] if how is not None else []), FILE_COLUMN, _HUGGING_FACE_COLUMN)
        column = next((name for name in known if name in columns), None)
        if column is None:
            return False
        try:
            import PIL  # noqa: F401
        except ModuleNotFoundError:
            raise MissingExtraError(
                "pictures need the package pillow; install it with: pip install pillow"
            ) from None
        self._picture_column = column
        self._names_pictures = not is_bytes(columns[column])
        return True

    def _of_columns(
        self, tensor: TensorMetadata, columns: Mapping[str, Any], features: Sequence[str]
    ) -> tuple[str, ...]:
        """Return the columns of an input of numbers, in its order."""
        what = (
            f'{self._version.title}: input "{tensor.name}" {tensor.datatype} {list(tensor.shape)}'
        )
        size = int(np.prod(tensor.shape)) if -1 not in tensor.shape else None
        if features:
            found = matched_columns(features, columns)
        elif tensor.name in self._how.columns and set(self._how.columns[tensor.name]) <= {*columns}:
            found = self._how.columns[tensor.name]
        elif tensor.name in columns:
            return (tensor.name,)
        elif tensor.name in self._how.columns:
            missing = [c for c in self._how.columns[tensor.name] if c not in columns]
            raise DataError(
                f"{what} was trained on columns that are not there: {', '.join(missing[:5])}"
                + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
                + f"; the columns are {', '.join([*columns][:20])}"
            )
        else:
            raise DataError(
                f"{what}: nothing says which columns it is made of, and none has its name; the "
                f"columns are {', '.join([*columns][:20])}. Name them in the order of training: "
                '--features "a,b,c_*"'
            )
        if len(found) == 1 and (is_list(columns[found[0]]) or is_raw(columns[found[0]], tensor)):
            return found
        if size is not None and len(found) != size:
            raise DataError(
                f"{what} holds {size} numbers, got {len(found)} columns: "
                f"{', '.join(found[:5])}{', ...' if len(found) > 5 else ''}"
            )
        return found

    def _picture_arrays(self, rows: Rows, folder: str, reject: Any) -> dict[str, Array]:
        from thresher.tables.pictures import decode_picture

        name, tensor = next(
            (n, t) for n, t in self._version.model.inputs.items() if n not in self.columns
        )
        how = self._how.pictures
        found = np.zeros((rows.num_rows, *tensor.shape), dtype=np.uint8)
        cells = rows.columns[self._picture_column].to_pylist()

        def no_files(path: str) -> bytes:
            raise DataError(f"{path}: a picture's content was expected, not its name")

        read = self._read_picture or no_files

        def decode(row: int) -> tuple[int, str | None]:
            cell = cells[row]
            if not cell:
                return row, "no picture is named"
            try:
                if self._names_pictures:
                    name = cell.decode() if isinstance(cell, bytes) else cell  # bytes in CSV files
                    cell = read(f"{folder}/{name}")
                found[row] = decode_picture(
                    cell,
                    shape=tensor.shape,
                    size=how.size if how is not None else None,
                    resize=how.resize if how is not None else "crop",
                )
            except (DataError, OSError, UnicodeDecodeError) as error:
                return row, str(error)
            return row, None

        with ThreadPoolExecutor() as pool:  # Pillow decodes outside of the GIL
            for row, wrong in pool.map(decode, range(rows.num_rows)):
                if wrong is not None:
                    reject(row, wrong, self._picture_column)
        return {name: found}
