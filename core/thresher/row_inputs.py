"""How the rows of a table become a network's inputs: which columns, which text, which pictures.

Training writes it down with the run (``assets/inputs.json``), export puts it beside the published
model, and whoever scores a table reads it there: no column is ever guessed by its position.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.errors import DataError

__all__ = ["ROW_INPUTS_FILE", "NgramRows", "PictureRows", "RowInputs", "TextRows"]

ROW_INPUTS_FILE = "inputs.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRows:
    """Texts that a Hugging Face tokenizer turns into ``input_ids`` and ``attention_mask``."""

    column: str = "text"
    """The column that held the texts in training."""
    max_length: int = 128
    """The tokens that are kept of a text, special ones included."""
    tokenizer: str = "tokenizer.json"
    """The tokenizer's file, beside this one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NgramRows:
    """Texts as hashed n-grams; the fields are the arguments of `hashed_ngrams`."""

    column: str = "text"
    words: int = 2
    characters: tuple[int, ...] = ()
    num_buckets: int = 1 << 18
    max_ngrams: int = 256

    def __post_init__(self) -> None:
        object.__setattr__(self, "characters", tuple(self.characters))


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRows:
    """Pictures as an input uint8 [N, C, H, W]."""

    column: str = "file"
    """The column with the name of each picture's file."""
    size: int | None = None
    """H and W; None takes pictures as they are."""
    resize: str = "crop"
    """``crop``, ``squeeze`` or ``pad``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowInputs:
    """What becomes of a row's columns.

    Example:
        >>> how = RowInputs(columns={"features": ("wind", "rain")})
        >>> RowInputs.from_json(how.to_json()) == how
        True
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By input: the columns whose numbers it holds, in order."""
    fill_missing: float | None = None
    """Stands where a number is missing; None where such a row cannot be scored."""
    text: TextRows | None = None
    ngrams: NgramRows | None = None
    pictures: PictureRows | None = None

    @property
    def text_column(self) -> str | None:
        """The column that held texts in training, None for a network that takes none."""
        if self.text is not None:
            return self.text.column
        return self.ngrams.column if self.ngrams is not None else None

    def to_json(self) -> str:
        """Return what `from_json` reads."""
        given = {k: v for k, v in dataclasses.asdict(self).items() if v is not None and v != {}}
        return json.dumps(given, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = ROW_INPUTS_FILE) -> RowInputs:
        """Return what JSON says.

        Raises:
            DataError: If it is not what `to_json` gives.
        """
        kinds: dict[str, Any] = {"text": TextRows, "ngrams": NgramRows, "pictures": PictureRows}
        try:
            content: dict[str, Any] = json.loads(text)
            made = {key: kinds[key](**content.pop(key)) for key in kinds if key in content}
            columns = {name: tuple(of) for name, of in content.pop("columns", {}).items()}
            return cls(columns=columns, **made, **content)
        except (ValueError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: does not say how rows become inputs: {error}") from None

    @classmethod
    def load(cls, folder: Path) -> RowInputs | None:
        """Return what lies in a folder, None where nothing does.

        Raises:
            DataError: If the file cannot be read.
        """
        path = folder / ROW_INPUTS_FILE
        if not path.is_file():
            return None
        return cls.from_json(path.read_text(encoding="utf-8"), where=str(path))
