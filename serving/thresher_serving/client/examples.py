"""From what a caller has (arrays, rows, files, texts, pictures) to a served model's inputs.

How rows become inputs stands in the model's configuration, so a server that knows nothing of the
caller's machine can be asked. Files and frames load PyArrow; nothing else here does.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import INPUT_SPEC_FILE, InputSpec
from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.errors import DataError, ParityError, unknown_name
from thresher.tables.csv_streams import CsvOptions
from thresher.tables.inputs import InputMaker
from thresher.tables.memory import is_table, memory_rows
from thresher.tables.rows import Reject, Rows
from thresher.tables.texts import TensorShape, Tokenizer, checked_text, text_cells
from thresher_serving.client.metadata import ModelMetadata, TensorMetadata

__all__ = ["ExampleReader", "NoTokenizerError", "true_labels"]

Array = npt.NDArray[Any]

_DEFAULT_LENGTH = 128
_SHOWN = 3


class NoTokenizerError(DataError):
    """Texts for a model of tokens, and no tokenizer at hand.

    Args:
        message: What to do.
        texts: What was to be asked about.
    """

    def __init__(self, message: str, texts: Sequence[str]) -> None:
        super().__init__(message)
        self.texts = list(texts)


@dataclass(slots=True, kw_only=True)
class ExampleReader:
    """Makes the inputs of served models.

    Args:
        tokenizer: A model's ``tokenizer.json``, or a folder that holds it.
        max_length: The tokens that are kept of a text; what the model's spec says where None.
        repository: A model repository; used for the versions in it that the server has, by the
            digest of their certificates.
        csv: How CSV files are written; as usual where None.

    Raises:
        NotFoundError: If there is no such tokenizer.
    """

    tokenizer: str | Path | None = None
    max_length: int | None = None
    repository: Path | None = None
    csv: CsvOptions | None = None
    _loaded: dict[tuple[Path, int], Tokenizer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tokenizer is not None:
            self._load(Path(self.tokenizer), self.max_length or _DEFAULT_LENGTH)

    def arrays(self, model: ModelMetadata, given: Any) -> Mapping[str, Any]:
        """Return a model's inputs by name, [N, ...].

        Arrays pass as they are. Everything else is read by the model's spec.

        Args:
            model: The model.
            given: Arrays by name, or the array of an only input; a table (dict of columns, list of
                dicts, Arrow table, frame); a file's path; a text; a picture's content or PIL image;
                or a list of texts, paths or pictures.

        Raises:
            DataError: If they cannot be its inputs; names the row.
            NoTokenizerError: If they are texts, and the tokenizer is not at hand.
            NotFoundError: If there is no such file.
            ParityError: If the repository's version does not hold what its certificate names.
        """
        is_mapping = isinstance(given, Mapping) and all(map(_is_array, given.values()))
        if is_mapping and (model.input_spec is None or set(given) <= set(model.inputs)):
            return given  # type: ignore[no-any-return]
        takes_texts = self.takes_texts(model)
        given = _python_objects(given, takes_texts=takes_texts)
        if _is_array(given):
            return {_only_input(model): given}
        if is_table(given):
            kinds, chunks = memory_rows(given)
            return self._of_rows(model, kinds, _joined(chunks), "the table")
        items = list(given) if isinstance(given, (list, tuple)) else [given]
        if takes_texts and (not items or isinstance(items[0], str)):
            return self._of_texts(model, items)
        if not items:
            raise DataError(f"model {model.name}: got an empty list, expected at least one row")
        if all(isinstance(item, (str, Path)) for item in items):
            return self._of_files(model, [Path(item) for item in items])
        if takes_texts and isinstance(items[0], bytes):
            raise DataError(f"model {model.name}: got bytes, expected texts: content.decode()")
        if all(isinstance(item, bytes) or _is_picture(item) for item in items):
            return self._of_pictures(model, items, [f"row {row}" for row in range(len(items))])
        raise DataError(
            f"model {model.name}: got a {type(given).__name__}, expected a NumPy array, a table, a "
            "path, a picture or a text"
        )

    def takes_texts(self, model: ModelMetadata) -> bool:
        """Return whether a model can be asked about texts."""
        spec = model.input_spec
        from_spec = spec is not None and (spec.text is not None or spec.ngrams is not None)
        return from_spec or "input_ids" in model.inputs or _text_input(model) is not None

    def _spec(self, model: ModelMetadata) -> tuple[InputSpec, Path | None]:
        """Return how rows become a model's inputs, and its folder where that is at hand."""
        folder = self._folder(model)
        own = None
        if folder is not None and (folder / INPUT_SPEC_FILE).exists():
            _check_bound(folder, INPUT_SPEC_FILE)
            own = InputSpec.load(folder)
        spec = own or model.input_spec or InputSpec()
        if spec.vocabulary_sha256:
            raise DataError(
                f"model {model.name}: the values of its categories are too many for the server's "
                "configuration; name the model repository that holds the model: repository=PATH "
                "(predict: --repository PATH)"
            )
        return spec, folder

    def _folder(self, model: ModelMetadata) -> Path | None:
        """Return where the served version is in the repository, None where it holds another."""
        if self.repository is None or not model.certificate_sha256:
            return None
        folder = self.repository / model.name / str(model.version)
        certificate = folder / CERTIFICATE_FILE
        if certificate.is_file() and file_digest(certificate) == model.certificate_sha256:
            return folder
        return None

    def _of_rows(
        self, model: ModelMetadata, kinds: Mapping[str, Any], rows: Rows, where: str
    ) -> Mapping[str, Any]:
        if not rows.num_rows:
            raise DataError(f"{where} holds no row")
        if _text_input(model) is not None:
            return self._of_texts(model, _texts_of_rows(model, rows, where))
        spec, folder = self._spec(model)
        tokenizer = self._tokenizer(model, spec, folder)
        maker = InputMaker(
            spec,
            model.inputs,
            kinds,
            title=f"model {model.name}",
            tokenizer=tokenizer,
            read_file=lambda path: Path(path).read_bytes(),
        )
        maker.check(kinds, where)
        made = maker.make(rows, folder=str(Path(where).parent))
        _refuse(made.rejects, where)
        if made.texts is not None and isinstance(tokenizer, _NoTokenizer):
            raise tokenizer.missing(made.texts)
        return made.arrays

    def _of_texts(self, model: ModelMetadata, texts: Sequence[str]) -> Mapping[str, Any]:
        for row, text in enumerate(texts):
            try:
                checked_text(text)
            except ValueError as error:
                raise DataError(f"model {model.name}: row {row}: {error}") from None
        name = _text_input(model)
        if name is not None:
            array = np.empty((len(texts), 1), np.object_)
            array[:, 0] = [text.encode() for text in texts]
            return {name: array}
        spec, folder = self._spec(model)
        if spec.ngrams is None:
            tokenizer = self._tokenizer(model, spec, folder)
            assert tokenizer is not None
            if isinstance(tokenizer, _NoTokenizer):
                raise tokenizer.missing(texts)
            return tokenizer.arrays(texts, model.inputs)
        column = spec.ngrams.column
        rows = Rows(columns={column: list(texts)}, num_rows=len(texts))
        return self._of_rows(model, {column: None}, rows, "the texts")

    def _tokenizer(
        self, model: ModelMetadata, spec: InputSpec, folder: Path | None
    ) -> Tokenizer | None:
        if "input_ids" not in model.inputs:
            return None
        length = self.max_length or (spec.text.max_length if spec.text else _DEFAULT_LENGTH)
        if self.tokenizer is not None:
            return self._load(Path(self.tokenizer), length)
        if folder is not None and spec.text is not None:
            _check_bound(folder, spec.text.tokenizer)
            return self._load(folder / spec.text.tokenizer, length)
        return _NoTokenizer(model)

    def _load(self, path: Path, max_length: int) -> Tokenizer:
        if (path, max_length) not in self._loaded:
            self._loaded[path, max_length] = Tokenizer(path, max_length=max_length)
        return self._loaded[path, max_length]

    def _of_pictures(
        self, model: ModelMetadata, pictures: Sequence[Any], names: Sequence[str]
    ) -> Mapping[str, Any]:
        taken = [t for t in model.inputs.values() if t.dtype == np.uint8 and len(t.shape) == 3]
        if len(taken) != 1 or len(model.inputs) != 1:
            raise DataError(
                f"model {model.name} takes {_described(model)}; a picture becomes an input UINT8 "
                "[C, H, W]. Give arrays: {name: array}"
            )
        spec, _ = self._spec(model)
        column = spec.pictures.column if spec.pictures is not None else "file"
        maker = InputMaker(spec, model.inputs, {column: None}, title=f"model {model.name}")
        made = maker.make(Rows(columns={column: list(pictures)}, num_rows=len(pictures)))
        for reject in made.rejects:
            assert reject.row is not None
            raise DataError(f"{names[reject.row]}: {reject.reason}")
        return made.arrays

    def _of_files(self, model: ModelMetadata, paths: Sequence[Path]) -> Mapping[str, Any]:
        from thresher.tables.parts import file_at, form_of, missing_file

        for path in paths:
            if not file_at(str(path)):
                raise missing_file(str(path), "a picture, a table or an array")
        forms = {form_of(str(path)) for path in paths}
        if forms == {"pictures"}:
            return self._of_pictures(model, paths, [str(path) for path in paths])
        if forms == {"npy"}:
            return {_only_input(model): _stacked(model, paths)}
        if len(paths) > 1:
            raise DataError(
                f"model {model.name}: got {len(paths)} files, expected one table, or pictures or "
                ".npy arrays of one row each; ask about the tables one by one"
            )
        return self._of_table_file(model, paths[0])

    def _of_table_file(self, model: ModelMetadata, path: Path) -> Mapping[str, Any]:
        from thresher.tables.address import address_of
        from thresher.tables.parts import find_parts
        from thresher.tables.reading import column_types, describe, read_rows

        address = address_of(path)
        (part, *others) = find_parts(address)
        kinds = column_types(part, address.system, self.csv)
        chunks: list[Rows] = []
        for each in (part, *others):
            for rows in read_rows(each, address.system, [*kinds], chunk_rows=1 << 20, csv=self.csv):
                for reject in rows.rejects:
                    raise DataError(describe(each, address.system, reject, self.csv))
                chunks.append(rows)
        if not sum(rows.num_rows for rows in chunks):
            raise DataError(f"{path} holds no row")
        return self._of_rows(model, kinds, _joined(chunks), str(path))


def _check_bound(folder: Path, file: str) -> None:
    """Raise ParityError unless a file is the one that the certificate next to it names."""
    expected = Certificate.load(folder).files.get(file)
    path = folder / file
    if expected is None or not path.is_file() or file_digest(path) != expected:
        raise ParityError(
            f"{path} is not what was proven: the certificate names "
            f"{'no such file' if expected is None else 'other bytes'}. Look at all of it: thresher "
            "repository verify; or leave the repository out"
        )


class _NoTokenizer(Tokenizer):
    """Stands where a tokenizer is needed and none is at hand.

    It makes no arrays, so that rows are looked through before their texts are asked for elsewhere.
    """

    def __init__(self, model: ModelMetadata) -> None:
        self._model = model

    def arrays(self, texts: Sequence[str], inputs: Mapping[str, TensorShape]) -> dict[str, Array]:
        del texts, inputs
        return {}

    def missing(self, texts: Sequence[str]) -> NoTokenizerError:
        """Return the error that says what to do, with the texts."""
        return NoTokenizerError(
            f"model {self._model.name}: texts need the model's tokenizer: Client(..., "
            "tokenizer=PATH) (predict: --tokenizer PATH); or the repository that holds this very "
            "version: repository=PATH (predict: --repository PATH); or "
            f"{self._model.name}.text on the server, where --text exported it",
            texts,
        )


def _python_objects(given: Any, *, takes_texts: bool) -> Any:
    """Return a pandas Series, or an array of texts, as Python objects; all else as it is.

    A Series of texts is a list of texts; any other one is a row, with the names of its columns.
    """
    if hasattr(given, "iloc") and not hasattr(given, "columns"):
        is_row = not takes_texts or all(isinstance(name, str) for name in given.index)
        return given.to_dict() if is_row else given.to_list()
    is_of_texts = takes_texts and isinstance(given, np.ndarray) and given.ndim == 1
    if is_of_texts and given.dtype.kind in "UO" and all(isinstance(cell, str) for cell in given):
        return given.tolist()
    return given


def _texts_of_rows(model: ModelMetadata, rows: Rows, where: str) -> list[str]:
    """Return the texts of a table for a model that takes them as they are."""
    spec = model.input_spec
    column = (spec.text_column if spec is not None else None) or str(_text_input(model))
    if column not in rows.columns:
        raise DataError(f"{where}: {unknown_name('column', column, [*rows.columns])}")
    rejects = list(rows.rejects)

    def reject(row: int, reason: str, name: str | None) -> None:
        rejects.append(Reject(row=rows.position(row), reason=reason, column=name))

    texts = text_cells(rows.columns[column], column, reject)
    _refuse(rejects, where)
    return texts


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")


def _is_picture(value: object) -> bool:
    return hasattr(value, "getbands") and hasattr(value, "tobytes")


def _only_input(model: ModelMetadata) -> str:
    if len(model.inputs) != 1:
        names = ", ".join(f'"{name}"' for name in model.inputs)
        raise DataError(
            f"model {model.name} takes {len(model.inputs)} inputs ({names}), got one array; "
            "expected a mapping from name to array"
        )
    return next(iter(model.inputs))


def _described(model: ModelMetadata) -> str:
    return ", ".join(
        f'"{name}" {tensor.datatype} {list(tensor.shape)}' for name, tensor in model.inputs.items()
    )


def _text_input(model: ModelMetadata) -> str | None:
    """Return the only input of a model that takes one text a row."""
    for name, tensor in model.inputs.items():
        if len(model.inputs) == 1 and tensor.datatype == "BYTES" and tensor.shape == (1,):
            return name
    return None


def _joined(chunks: Any) -> Rows:
    """Return chunks of rows as one."""
    listed = [rows for rows in chunks if rows.num_rows]
    if len(listed) == 1:
        return listed[0]  # type: ignore[no-any-return]
    if not listed:
        return Rows(columns={}, num_rows=0)
    import pyarrow as pa

    return Rows(
        columns={
            name: pa.chunked_array([rows.columns[name] for rows in listed]).combine_chunks()
            for name in listed[0].columns
        },
        num_rows=sum(rows.num_rows for rows in listed),
    )


def _stacked(model: ModelMetadata, paths: Sequence[Path]) -> Array:
    """Return the rows of ``.npy`` files, each of which holds one row or several."""
    from thresher.tables.array_files import open_arrays

    (tensor,) = model.inputs.values()
    rows = []
    for path in paths:
        (array,) = open_arrays(str(path)).values()
        one_row = array.ndim == len(tensor.shape)
        rows.append(_fitting(np.asarray(array[None] if one_row else array), tensor, path))
    return np.concatenate(rows)


def _fitting(array: Array, tensor: TensorMetadata, path: Path) -> Array:
    fits = array.dtype == tensor.dtype and array.ndim == len(tensor.shape) + 1
    fits = fits and all(
        want in (-1, got) for want, got in zip(tensor.shape, array.shape[1:], strict=True)
    )
    if not fits:
        raise DataError(
            f"{path}: got {array.dtype} {list(array.shape)}, expected {tensor.dtype} "
            f"{list(tensor.shape)} (-1: any size), with or without an axis for the rows"
        )
    return array


def _refuse(rejects: Sequence[Reject], where: str) -> None:
    """Raise what keeps rows from being asked about: every row is answered, or none."""
    if not rejects:
        return
    listed = "; ".join(
        f"row {reject.row}: "
        + (f'column "{reject.column}": ' if reject.column else "")
        + reject.reason
        for reject in rejects[:_SHOWN]
    )
    more = f"; and {len(rejects) - _SHOWN} more rows" if len(rejects) > _SHOWN else ""
    raise DataError(f"{where}: {listed}{more}")


def true_labels(path: Path) -> list[str] | None:
    """Return the labels that ``metadata.csv`` next to a picture gives it, or None.

    The file has the columns ``file_name`` and ``labels``, the labels separated by spaces.

    Raises:
        DataError: If the file lacks a column.

    Source: Hugging Face Datasets, "imagefolder": metadata.csv with a ``file_name`` column.
    """
    table = path.parent / "metadata.csv"
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = {"file_name", "labels"} - set(reader.fieldnames or ())
        if missing:
            raise DataError(
                f"{table}: missing column {', '.join(sorted(missing))}; got "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
        for row in reader:
            if row["file_name"] == path.name:
                return (row["labels"] or "").split()
    return None
