"""Hugging Face tokenizers: found by path, and made to give token ids of one length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thresher.errors import DataError, MissingExtraError
from thresher_training.sources.files import expand, find_one

__all__ = ["find_tokenizer", "load_tokenizer"]


def find_tokenizer(tokenizer: str) -> Path:
    """Return the file ``tokenizer.json`` that a path, or the folder that holds it, names.

    Raises:
        DataError: If there is none.
    """
    path = expand(tokenizer)
    return find_one(path / "tokenizer.json" if path.is_dir() else path)


def load_tokenizer(path: Path, *, max_length: int) -> Any:
    """Return a ``tokenizers.Tokenizer`` whose encodings all have ``max_length`` tokens.

    Raises:
        DataError: If the file is no tokenizer's.
        MissingExtraError: If the package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"texts need the package {error.name}; install it with: pip install 'thresher[text]'"
        ) from error
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception
        raise DataError(f"{path} is not a tokenizer file: {error}") from error
    # the file may carry truncation and padding of its own: they are taken over but for the length
    padding = tokenizer.padding or {}
    kept = {k: padding[k] for k in ("pad_id", "pad_type_id", "pad_token") if k in padding}
    if not kept:
        kept = _pad_token(tokenizer)
    tokenizer.enable_truncation(max_length=max_length)
    tokenizer.enable_padding(length=max_length, direction="right", **kept)
    return tokenizer


def _pad_token(tokenizer: Any) -> dict[str, Any]:
    for token in ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        number = tokenizer.token_to_id(token)
        if number is not None:
            return {"pad_id": number, "pad_token": token}
    return {"pad_id": 0}
