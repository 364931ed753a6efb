"""What was proven about a published version, bound to its very bytes.

A certificate is a file in the version's folder. It names the digests of the model's files, of the
decision and of the rows that parity was proven on, with the engines and the versions of the tools.
Whoever serves a version can tell, without torch, MLflow or ONNX, whether it is what was proven.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.decision import Decision
from thresher.errors import ParityError

__all__ = ["CERTIFICATE_FILE", "Certificate", "file_digest"]

CERTIFICATE_FILE = "certificate.json"

_UNPROVEN = "Export it again, or serve it all the same with --unproven"


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

    def to_json(self) -> str:
        """Return the certificate as JSON that `load` reads."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path) -> Certificate:
        """Return the certificate in a version's folder.

        Raises:
            ParityError: If there is none, or it cannot be read.
        """
        path = folder / CERTIFICATE_FILE
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            lists = {key: tuple(content.get(key, ())) for key in ("engines", "providers")}
            return cls(**{**content, **lists})
        except FileNotFoundError:
            raise ParityError(
                f"{folder}: no {CERTIFICATE_FILE}, so nothing says that it decides as validated. "
                f"{_UNPROVEN}"
            ) from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ParityError(f"{path}: not a certificate: {error}. {_UNPROVEN}") from None

    def check(self, folder: Path, decision: Decision) -> None:
        """Raise ParityError unless a version's folder and decision are what was proven.

        Args:
            folder: The version's folder.
            decision: What config.pbtxt says the version decides.
        """
        wrong = []
        if decision.digest != self.decision_sha256:
            wrong.append("the decision in config.pbtxt is another one")
        for name, digest in self.files.items():
            path = folder / name
            if not path.is_file():
                wrong.append(f"{name} is missing")
            elif file_digest(path) != digest:
                wrong.append(f"{name} has other bytes")
        unknown = {path.name for path in folder.iterdir()} - {*self.files, CERTIFICATE_FILE}
        wrong += [f"{name} is not in the certificate" for name in sorted(unknown)]
        if wrong:
            raise ParityError(f"{folder} is not what was proven: {'; '.join(wrong)}. {_UNPROVEN}")
