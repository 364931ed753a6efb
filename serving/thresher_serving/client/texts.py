"""Turns texts into a model's inputs, with the tokenizer that was logged with it."""

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
            ``assets/tokenizer.json``.
        max_length: The tokens that are kept of a text, as in the recipe that trained the model.

    Raises:
        DataError: If the file is no tokenizer's.
        MissingExtraError: If the package tokenizers is not installed.
        NotFoundError: If there is no such file.
    """

    def __init__(self, path: str | Path, *, max_length: int = 128) -> None:
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

    def inputs(
        self, model: ModelMetadata, texts: Sequence[str]
    ) -> dict[str, npt.NDArray[np.integer[Any]]]:
        """Return the inputs ``input_ids``, ``attention_mask`` [N, T], and what else a model takes.

        Args:
            model: The model that they are for.
            texts: N texts.

        Raises:
            DataError: If they are no texts, or the model takes none.
        """
        if isinstance(texts, str):
            raise DataError(f"model {model.name}: got one text, expected a list of texts: [text]")
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"model {model.name}: row {row} is a {type(text).__name__}, expected a text"
                )
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


def _pad_id(tokenizer: Any) -> int:
    """Return the number of the padding token; the mask covers it, so any number would do."""
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        number = tokenizer.token_to_id(token)
        if number is not None:
            return int(number)
    return 0
