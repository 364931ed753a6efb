"""Texts as a network takes them: token ids of a tokenizer, or hashed n-grams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, MissingExtraError, NotFoundError
from thresher.tables.rows import RejectRow

__all__ = ["TensorShape", "Tokenizer", "checked_text", "text_cells"]

Array = npt.NDArray[Any]

_ROWS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class TensorShape(Protocol):
    """A model's input: what a reader has to know of it."""

    @property
    def shape(self) -> Sequence[int]:
        """Its axes without the rows; -1 is free."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its kind."""
        ...


class Tokenizer:
    """A Hugging Face tokenizer that gives the token ids that training made of the same texts.

    Texts are cut at ``max_length`` tokens and padded on the right.

    Args:
        path: ``tokenizer.json``, or a folder that holds it.
        max_length: The tokens that are kept of a text, special ones included.

    Raises:
        DataError: If the file is no tokenizer's.
        MissingExtraError: If the package tokenizers is not installed.
        NotFoundError: If there is no such file.
    """

    def __init__(self, path: str | Path, *, max_length: int) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ModuleNotFoundError:
            raise MissingExtraError(
                "texts need the package tokenizers; install it with: pip install tokenizers"
            ) from None
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise NotFoundError(
                f"{file}: no such file; expected the model's tokenizer.json. Run: mlflow artifacts "
                "download --run-id RUN --artifact-path assets/tokenizer.json"
            )
        try:
            self._tokenizer = Loaded.from_file(str(file))
        except Exception as error:
            raise DataError(f"{file} is not a tokenizer file: {error}") from error
        self._tokenizer.enable_truncation(max_length=max_length)
        padding = self._tokenizer.padding or {}
        self._pad_id = int(padding.get("pad_id", _pad_id(self._tokenizer)))
        self._tokenizer.no_padding()

    def arrays(self, texts: Sequence[str], inputs: Mapping[str, TensorShape]) -> dict[str, Array]:
        """Return the token inputs that a model has, ``input_ids`` and others, each [N, T].

        T is the size that the model fixes, else the length of the longest text.

        Args:
            texts: N texts.
            inputs: The model's inputs by name.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        fixed = inputs["input_ids"].shape[-1]
        length = fixed if fixed != -1 else max((len(e.ids) for e in encodings), default=1) or 1
        found = {}
        for name in _ROWS.keys() & inputs.keys():
            padding = self._pad_id if name == "input_ids" else 0
            array = np.full((len(encodings), length), padding, inputs[name].dtype)
            for row, encoding in enumerate(encodings):
                ids = getattr(encoding, _ROWS[name])[:length]
                array[row, : len(ids)] = ids
            found[name] = array
        return found


def _pad_id(tokenizer: Any) -> int:
    """Return the number of the padding token; the mask covers it, so any number would do."""
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        number = tokenizer.token_to_id(token)
        if number is not None:
            return int(number)
    return 0


def checked_text(cell: object) -> str:
    """Return a text that is one.

    Raises:
        ValueError: If it is none, or holds half of a surrogate pair; the message says which.
    """
    if not isinstance(cell, str):
        kind = "missing" if cell is None else f"a {type(cell).__name__}"
        raise ValueError(f"{kind}, expected a text")  # noqa: TRY004 - as for a bad value
    try:
        cell.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"half of a surrogate pair at {error.start}, which is no character. Leave it out: "
            "text.encode(errors='ignore').decode()"
        ) from None
    return cell


def text_cells(
    cells: Any, column: str, reject: RejectRow, *, missing: str | None = None
) -> list[str]:
    """Return a column's texts; "" in rows that are rejected.

    Every text is one, "NA" and "" too: only null (in a CSV file, nothing at all between two
    delimiters, not even quotes) is missing.

    Args:
        cells: An Arrow array of texts or bytes, or a sequence of Python objects.
        column: Its name, for the reasons.
        reject: Takes the rows without a text.
        missing: Stands where a text is missing; None rejects those rows.
    """
    listed = cells
    if hasattr(cells, "type"):
        from thresher.tables.numbers import plain_cells

        rejected: set[int] = set()

        def noted(row: int, reason: str, name: str | None) -> None:
            rejected.add(row)
            reject(row, reason, name)

        listed = plain_cells(cells, column, noted).to_pylist()
        for row in rejected:
            listed[row] = ""
    found: list[str] = []
    for row, cell in enumerate(listed):
        if cell is None and missing is not None:
            found.append(missing)
            continue
        try:
            found.append(checked_text(cell))
        except ValueError as error:
            reject(row, str(error), column)
            found.append("")
    return found
