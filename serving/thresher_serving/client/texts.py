"""Turns texts into a model's inputs, with the tokenizer that was logged with it.

A model that makes tokens itself, such as `NAME.text`, is sent the texts as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError, MissingExtraError, NotFoundError
from thresher_serving.client.metadata import ModelMetadata

__all__ = ["TextTokenizer"]


class TextTokenizer:
    """A Hugging Face tokenizer that gives the rows that training made of the same texts.

    Training cuts texts at ``max_length`` tokens and pads them on the right; here they are padded
    to the longest one of the call, or to the size that the model fixes.

    Args:
        path: ``tokenizer.json``, or a folder that holds it; training logs it with its run, as
            ``assets/tokenizer.json``. None knows no tokens: only models that take texts take them.
        max_length: The tokens that are kept of a text, as in the recipe that trained the model.

    Raises:
        DataError: If the file is no tokenizer's.
        MissingExtraError: If the package tokenizers is not installed.
        NotFoundError: If there is no such file.
    """

    def __init__(self, path: str | Path | None, *, max_length: int = 128) -> None:
        self._tokenizer: Any = None
        if path is None:
            return
        try:
            from tokenizers import Tokenizer
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
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exception
            raise DataError(f"{file} is not a tokenizer file: {error}") from None
        self._tokenizer.enable_truncation(max_length=max_length)
        padding = self._tokenizer.padding or {}
        self._pad_id = int(padding.get("pad_id", _pad_id(self._tokenizer)))
        self._tokenizer.no_padding()

    def inputs(self, model: ModelMetadata, texts: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        """Return the inputs ``input_ids``, ``attention_mask`` [N, T], and what else a model takes.

        Of a model whose only input is a text, that: UTF-8 [N, 1].

        Args:
            model: The model that they are for.
            texts: N texts.

        Raises:
            DataError: If they are no texts, or the model takes none.
        """
        takes = _text_input(model)
        if takes is None and self._tokenizer is None:
            other = f", or ask {model.name}.text, where --text exported it"
            raise DataError(
                f"model {model.name}: got a {type(texts).__name__}, expected a NumPy array; texts "
                "need the model's tokenizer: Client(..., tokenizer=PATH)"
                + (other if "input_ids" in model.inputs else "")
            )
        encoded = _checked(model, texts)
        if takes is not None:
            array = np.empty((len(encoded), 1), np.object_)
            array[:, 0] = encoded
            return {takes: array}
        if "input_ids" not in model.inputs:
            raise DataError(
                f"model {model.name} takes {', '.join(model.inputs)}; a tokenizer's texts need "
                "the input input_ids"
            )
        encodings = self._tokenizer.encode_batch(list(texts))
        fixed = model.inputs["input_ids"].shape[-1]
        length = fixed if fixed != -1 else max((len(e.ids) for e in encodings), default=1) or 1
        rows = {
            "input_ids": "ids",
            "attention_mask": "attention_mask",
            "token_type_ids": "type_ids",
        }
        padding = {"input_ids": self._pad_id}
        found = {}
        for name, attribute in rows.items():
            if name not in model.inputs:
                continue
            array = np.full(
                (len(encodings), length), padding.get(name, 0), model.inputs[name].dtype
            )
            for row, encoding in enumerate(encodings):
                ids = getattr(encoding, attribute)[:length]
                array[row, : len(ids)] = ids
            found[name] = array
        return found


def _text_input(model: ModelMetadata) -> str | None:
    """Return the only input of a model that takes one text a row."""
    for name, tensor in model.inputs.items():
        if len(model.inputs) == 1 and tensor.datatype == "BYTES" and tensor.shape == (1,):
            return name
    return None


def _checked(model: ModelMetadata, texts: Sequence[str]) -> list[bytes]:
    """Return texts as UTF-8.

    Raises:
        DataError: If they are no texts; names the row.
    """
    if isinstance(texts, str):
        raise DataError(f"model {model.name}: got one text, expected a list of texts: [text]")
    if not isinstance(texts, Sequence):
        raise DataError(
            f"model {model.name}: got a {type(texts).__name__}, expected a list of texts"
        )
    encoded = []
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"model {model.name}: row {row} is a {type(text).__name__}, expected a text"
            )
        try:
            encoded.append(text.encode())
        except UnicodeEncodeError as error:
            raise DataError(
                f"model {model.name}: row {row} has half of a surrogate pair at {error.start}, "
                "which is no character. Leave it out: text.encode(errors='ignore').decode()"
            ) from None
    return encoded


def _pad_id(tokenizer: Any) -> int:
    """Return the number of the padding token; the mask covers it, so any number would do."""
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        number = tokenizer.token_to_id(token)
        if number is not None:
            return int(number)
    return 0
