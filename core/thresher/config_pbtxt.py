"""What a model's config.pbtxt says of its versions: which serve, what each decides.

One config.pbtxt serves all versions of a model. What concerns one of them stands in parameters
whose keys end in its number, such as ``thresher.decision/3``.

Source: Triton's model configuration document, release 24.10.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from thresher.errors import PublishError

__all__ = [
    "COMPANION_KEY",
    "CONFIG_FILE",
    "LABELS_FILE",
    "TEXT_SUFFIX",
    "certificate_key",
    "config_text",
    "copy_version",
    "decision_key",
    "decisions_of",
    "forget_version",
    "inputs_key",
    "is_companion",
    "labels_file_of",
    "labels_text",
    "own_config_file",
    "read_config",
]

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"

COMPANION_KEY = "thresher.companion_of"
"""The parameter by which a companion such as NAME.text names the model that it asks."""

TEXT_SUFFIX = ".text"
"""Follows a model's name in that of its companion, which takes texts."""

_DECISION_PREFIX = "thresher.decision/"


def certificate_key(version: int) -> str:
    """Return the config parameter that holds the digest of a version's certificate."""
    return f"thresher.certificate_sha256/{version}"


def decision_key(version: int) -> str:
    """Return the config parameter that holds a version's decision as JSON."""
    return f"{_DECISION_PREFIX}{version}"


def inputs_key(version: int) -> str:
    """Return the config parameter that says how rows become a version's inputs, as JSON."""
    return f"thresher.inputs/{version}"


def is_companion(config: Any, name: str) -> bool:
    """Return whether a configuration makes the model of this name another's companion."""
    of = config.parameters[COMPANION_KEY].string_value if COMPANION_KEY in config.parameters else ""
    return bool(of) and name == f"{of}{TEXT_SUFFIX}"


def read_config(path: Path) -> Any:
    """Return the `ModelConfig` message in a file.

    Raises:
        PublishError: If it cannot be read.
        FileNotFoundError: If there is no such file.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise PublishError(f"{path}: not a file, expected a Triton configuration")
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise PublishError(f"{path}: not a Triton configuration: {error}") from None
    except PermissionError as error:
        raise PublishError(f"{path} cannot be read: {error.strerror}") from None


def config_text(config: Any) -> str:
    """Return a `ModelConfig` message as the text of a file."""
    from google.protobuf import text_format

    return str(text_format.MessageToString(config, as_utf8=True))


def decisions_of(config: Any) -> dict[int, str]:
    """Return the decisions that a configuration holds, as JSON by version."""
    numbers = {
        key: key.removeprefix(_DECISION_PREFIX)
        for key in config.parameters
        if key.startswith(_DECISION_PREFIX)
    }
    return {
        int(number): config.parameters[key].string_value
        for key, number in numbers.items()
        if number.isdecimal() and str(int(number)) == number
    }


def copy_version(version: int, *, source: Any, target: Any) -> None:
    """Copy what one configuration says of a version into another."""
    for key in _keys_of(source, version):
        target.parameters[key].CopyFrom(source.parameters[key])


def forget_version(version: int, config: Any) -> None:
    """Remove what a configuration says of a version."""
    for key in _keys_of(config, version):
        del config.parameters[key]


def labels_file_of(version: int) -> str:
    """Return the file name of a version's own labels."""
    return f"{Path(LABELS_FILE).stem}.{version}{Path(LABELS_FILE).suffix}"


def labels_text(labels: Iterable[str]) -> str:
    """Return what a file of labels holds: one a line, without the escapes that Triton lacks."""
    return "".join(f"{_one_line(label)}\n" for label in labels)


def own_config_file(version: int) -> str:
    """Return where a version's own configuration lies, below the model's folder."""
    return f"configs/{version}.pbtxt"


def _keys_of(config: Any, version: int) -> list[str]:
    """Return the parameters that concern one version: its decision, and where it comes from."""
    keys = (key.rpartition("/") for key in config.parameters if key.startswith("thresher."))
    return ["".join(parts) for parts in keys if parts[2] == str(version)]


def _one_line(label: str) -> str:
    return label.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
