"""What was proven about a published version, bound to its very bytes.

A certificate is a file in the version's folder. It names the digests of the model's files, of the
decision, of the configuration's keys that decide an answer and of the rows that parity was proven
on, with the engines and the versions of the tools. `thresher.proof` compares a version with it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.errors import ParityError

__all__ = ["CERTIFICATE_FILE", "NEXT_CERTIFICATE_FILE", "UNPROVEN", "Certificate", "file_digest"]

CERTIFICATE_FILE = "certificate.json"

NEXT_CERTIFICATE_FILE = "certificate.next.json"
"""Takes the place of the other once both configurations name its digest; a writer that dies before
leaves both, and each configuration is compared with the one that it names."""

_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading a file that is no certificate raises; the last, brackets that are nested deeply."""

UNPROVEN = "Export it again, or serve it all the same with --unproven"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """One version's proof of parity, in short."""

    model: str
    version: int
    source: str
    """The logged model in MLflow whose weights these are."""
    precision: str
    """Of the body; the head is FP32 always."""
    files: Mapping[str, str]
    """SHA-256 by file name: the model, its weights, the full parity report."""
    decision_sha256: str
    weights_sha256: str
    """Of the torch program that is the reference."""
    data_sha256: Mapping[str, str]
    """Of the rows and logits, by split."""
    engines: tuple[str, ...]
    """What was compared with the reference."""
    tools: Mapping[str, str]
    """Version by package."""
    num_rows: int
    num_decisions: int
    num_flips: int
    band_half_width: float
    """Half the width of the band around each threshold in which rounding may flip a decision."""
    created: str
    """UTC, ISO 8601."""
    providers: tuple[str, ...] = ()
    """ONNX Runtime's execution providers, with the options that were set."""
    tolerances: Mapping[str, float] = field(default_factory=dict)
    """How far the engines could have lain apart."""
    num_comparisons: int = 0
    """Each by itself is in the parity report."""
    configuration: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by key of Triton's configuration, of each that decides an answer; empty in a
    certificate of a release that did not bind them."""

    @property
    def binds_configuration(self) -> bool:
        """Whether it says what Triton's configuration has to be."""
        return bool(self.configuration)

    def to_json(self) -> str:
        """Return the certificate as JSON that `load` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path, file: str = CERTIFICATE_FILE) -> Certificate:
        """Return the certificate in a version's folder.

        Args:
            folder: The folder.
            file: `CERTIFICATE_FILE` or `NEXT_CERTIFICATE_FILE`.

        Raises:
            ParityError: If there is none, or it cannot be read.
        """
        path = folder / file
        try:
            content: dict[str, Any] = json.loads(_text_of(path))
            lists = {key: tuple(content.get(key, ())) for key in ("engines", "providers")}
            _check_bound(content["files"], content.get("configuration", {}))
            return cls(**{**content, **lists})
        except FileNotFoundError:
            raise ParityError(
                f"{folder}: no {file}, so nothing says that it decides as validated. {UNPROVEN}"
            ) from None
        except _UNREADABLE as error:
            raise ParityError(f"{path}: not a certificate: {error}. {UNPROVEN}") from None


def _text_of(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    return path.read_text(encoding="utf-8")


def _check_bound(files: Any, configuration: Any) -> None:
    """Raise ValueError unless digests are bound by name, and each file is the folder's own."""
    if not isinstance(files, dict) or not isinstance(configuration, dict):
        raise TypeError("it binds no digests by name")
    if not files:
        raise ValueError("it binds no file")
    for name in files:
        if name in {"", ".", ".."} or "/" in name or "\0" in name:
            raise ValueError(f"{name!r} is no file of the version's folder")
