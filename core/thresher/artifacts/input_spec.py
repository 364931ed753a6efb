"""How the rows of a table become a network's inputs: columns, categories, texts, pictures.

Training writes it with the run (``assets/inputs.json``), export publishes it with the model, and
all that read rows for that model (scoring, predict, the client, verify, monitor) go by it. No
column is guessed by its position.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.errors import DataError

__all__ = [
    "FIRST_CATEGORY",
    "INPUT_SPEC_FILE",
    "MISSING_CATEGORY",
    "UNKNOWN_CATEGORY",
    "InputSpec",
    "NgramSpec",
    "PictureSpec",
    "TextSpec",
]

INPUT_SPEC_FILE = "inputs.json"

_MAX_CONFIGURED = 1 << 16

UNKNOWN_CATEGORY, MISSING_CATEGORY, FIRST_CATEGORY = 0, 1, 2
"""The ids of a category that training did not see, of a missing one, and of the first seen one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSpec:
    """Texts that a Hugging Face tokenizer turns into ``input_ids`` and ``attention_mask``."""

    column: str = "text"
    """The column that held the texts in training."""
    max_length: int = 128
    """The tokens that are kept of a text, special ones included."""
    tokenizer: str = "tokenizer.json"
    """The tokenizer's file, in the folder of this one."""
    missing: str | None = None
    """Stands where a text is missing; None where such a row is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramSpec:
    """Texts as hashed n-grams; the other fields are the arguments of `hashed_ngrams`."""

    column: str = "text"
    words: int = 2
    characters: tuple[int, ...] = ()
    num_buckets: int = 1 << 18
    max_ngrams: int = 256
    missing: str | None = None
    """As in `TextSpec`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "characters", tuple(self.characters))


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSpec:
    """Pictures as an input uint8 [N, C, H, W]."""

    column: str = "file"
    """The column with the name of each picture's file."""
    size: int | None = None
    """H and W; None takes pictures as they are."""
    resize: str = "crop"
    """``crop``, ``squeeze`` or ``pad``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """What becomes of a row's columns.

    Example:
        >>> spec = InputSpec(columns={"features": ("wind", "rain")}, fills={"rain": 0.0})
        >>> InputSpec.from_json(spec.to_json()) == spec
        True
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By input of numbers: the columns that it holds side by side, in order."""
    widths: Mapping[str, int] = field(default_factory=dict)
    """By column of lists: the numbers in each list."""
    fill_missing: float | int | None = None
    """Stands where a number is missing, in all columns that ``fills`` does not name; None where
    such a row is refused."""
    fills: Mapping[str, float | int] = field(default_factory=dict)
    """By column: what stands where its number is missing."""
    flagged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By input: the columns of which a further 1 (was missing) or 0 follows the numbers."""
    categories: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """By input of ids, int64 [N, C]: its C columns in order, and the values that training saw in
    each. A value's id is its position + 2; 0 is a value that training did not see, 1 a missing
    one."""
    text: TextSpec | None = None
    ngrams: NgramSpec | None = None
    pictures: PictureSpec | None = None
    vocabulary_sha256: str = ""
    """Of the categories' values, where these were left out for their size; else empty."""
    exact: bool = True
    """Whether whole numbers that an input's floating-point kind would round are refused; false for
    models that were trained when they were not."""

    @property
    def text_column(self) -> str | None:
        """The column that held texts in training, None for a network that takes none."""
        if self.text is not None:
            return self.text.column
        return self.ngrams.column if self.ngrams is not None else None

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns that inputs are made of, each once."""
        groups = [*self.columns.values(), *self.categories.values()]
        names = [column for group in groups for column in group]
        names += [self.text_column] if self.text_column is not None else []
        names += [self.pictures.column] if self.pictures is not None else []
        return tuple(dict.fromkeys(names))

    @property
    def category_sizes(self) -> tuple[int, ...]:
        """The number of ids of each category column, in order: what an embedding has to hold."""
        return tuple(
            len(values) + FIRST_CATEGORY
            for columns in self.categories.values()
            for values in columns.values()
        )

    def fill_of(self, column: str) -> float | int | None:
        """Return what stands where a column's number is missing, None where nothing does."""
        return self.fills.get(column, self.fill_missing)

    @property
    def vocabulary_digest(self) -> str:
        """The SHA-256 of the categories' values."""
        if self.vocabulary_sha256:
            return self.vocabulary_sha256
        listed = json.dumps(dataclasses.asdict(self)["categories"], ensure_ascii=False)
        return hashlib.sha256(listed.encode()).hexdigest()

    def for_configuration(self) -> InputSpec:
        """Return the spec as a model's configuration holds it: long categories as a digest."""
        if len(self.to_json().encode()) <= _MAX_CONFIGURED or not self.categories:
            return self
        nothing = {name: dict.fromkeys(columns, ()) for name, columns in self.categories.items()}
        return dataclasses.replace(
            self, categories=nothing, vocabulary_sha256=self.vocabulary_digest
        )

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        given = {
            k: v for k, v in dataclasses.asdict(self).items() if v is not None and v not in ({}, "")
        }
        return json.dumps({"version": 2} | given, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = INPUT_SPEC_FILE) -> InputSpec:
        """Return what JSON says; the form without a version, of older models, too.

        Raises:
            DataError: If it is not what `to_json` gives.
        """
        kinds: dict[str, Any] = {"text": TextSpec, "ngrams": NgramSpec, "pictures": PictureSpec}
        try:
            content: dict[str, Any] = json.loads(text)
            version = content.pop("version", 1)
            assert version in (1, 2), f"it has version {version}, this Thresher reads 1 and 2"
            content.setdefault("exact", version > 1)
            made = {key: kinds[key](**content.pop(key)) for key in kinds if key in content}
            for key in ("columns", "flagged"):
                made[key] = {name: tuple(of) for name, of in content.pop(key, {}).items()}
            made["categories"] = {
                name: {column: tuple(values) for column, values in columns.items()}
                for name, columns in content.pop("categories", {}).items()
            }
            return cls(**made, **content)
        except (ValueError, TypeError, AttributeError, AssertionError) as error:
            raise DataError(f"{where}: does not say how rows become inputs: {error}") from error

    @classmethod
    def load(cls, folder: Path) -> InputSpec | None:
        """Return the spec in a folder, None where it holds none.

        Raises:
            DataError: If the file cannot be read.
        """
        path = folder / INPUT_SPEC_FILE
        if not path.is_file():
            return None
        return cls.from_json(path.read_text(encoding="utf-8"), where=str(path))
