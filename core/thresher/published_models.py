"""What a model repository holds: models, versions, what each decides, which serves.

Reading needs no right to write; `thresher.repository` changes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from thresher import proof
from thresher.config_pbtxt import (
    COMPANION_KEY,
    CONFIG_FILE,
    TEXT_SUFFIX,
    decisions_of,
    is_companion,
    own_config_file,
    read_config,
)
from thresher.decision import Decision
from thresher.errors import NotFoundError, unknown_name

__all__ = [
    "COMPANION_KEY",
    "MODEL_FILE",
    "NAME",
    "TEXT_SUFFIX",
    "TOKENIZER_FILE",
    "TOKENS_FILE",
    "PublishedModels",
]

MODEL_FILE = "model.onnx"

TOKENIZER_FILE, TOKENS_FILE = "tokenizer.json", "tokens.json"
"""What a version of a text model is made of: a tokenizer, and what the tokens are for."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
"""What can name a model in Triton and a folder anywhere."""


class PublishedModels:
    """A folder that Triton serves.

    Args:
        root: The folder.

    Attributes:
        registered: Returns the digests of the certificates that MLflow holds for a model's version,
            none where it knows of none; None, as a rule, where no registry is asked.
        registered_decision: Returns the digest of the decision that MLflow holds for it, empty
            where it holds none; None where no registry is asked.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.registered: Callable[[str, int], Collection[str]] | None = None
        self.registered_decision: Callable[[str, int], str] | None = None

    def names(self) -> list[str]:
        """Return the models that have a configuration and a name that Triton takes, sorted."""
        return [name for name in self._configured() if NAME.fullmatch(name)]

    def skipped(self) -> list[str]:
        """Return the folders with a configuration whose names cannot name a model, sorted."""
        return [name for name in self._configured() if not NAME.fullmatch(name)]

    def _configured(self) -> list[str]:
        # one that cannot be read, too
        return sorted(path.parent.name for path in self.root.glob(f"*/{CONFIG_FILE}"))

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model that are published, ascending.

        Raises:
            NotFoundError: If there is no such model; says which there are.
        """
        return sorted(decisions_of(self.read_config(name)))

    def serving_version(self, name: str) -> int:
        """Return the version that the configuration serves (the highest, if several).

        Raises:
            NotFoundError: If there is no such model, or its configuration names no version.
        """
        served = self.served_versions(name)
        if not served:
            raise NotFoundError(
                f"{self.root / name / CONFIG_FILE}: its version_policy names no version, so "
                f"Thresher did not publish it; name one: {name}/VERSION"
            )
        return max(served)

    def served_versions(self, name: str) -> list[int]:
        """Return the versions that the configuration's policy names, ascending; none if it is open.

        Raises:
            NotFoundError: If there is no such model.
        """
        return sorted(int(v) for v in self.read_config(name).version_policy.specific.versions)

    def decision(self, name: str, version: int) -> Decision:
        """Return the decision that a published version serves.

        Raises:
            NotFoundError: If the model or version does not exist; says which do.
        """
        decisions = decisions_of(self.read_config(name))
        if version not in decisions:
            raise NotFoundError(
                f'{self.root}: "{name}" has no version {version}; published: {sorted(decisions)}'
            )
        return Decision.from_json(decisions[version], where=f"{name}/{CONFIG_FILE}")

    def check_proven(self, name: str, version: int) -> None:
        """Raise ParityError unless a version is what was proven for this name and number.

        Its files, both configurations, labels and the version policy are compared with its
        certificate, and that with MLflow's tags where `registered` is set. A model that something
        else published has nothing to prove.

        Raises:
            NotFoundError: If there is no such model.
            ParityError: If there is no certificate, or anything differs; names each thing.
        """
        proof.check_proven(self, name, version)

    def check_served(self, name: str) -> None:
        """Raise ParityError unless each version that the version policy names is what was proven.

        Raises:
            NotFoundError: If there is no such model.
            ParityError: If one of them is not.
        """
        proof.check_served(self, name)

    def companions(self, name: str) -> list[str]:
        """Return the models that ask this one, version by version, and serve what it serves.

        `NAME.text` is one: it takes texts, and its version N asks version N of NAME.
        """
        companion = f"{name}{TEXT_SUFFIX}"
        if not NAME.fullmatch(companion) or not (self.root / companion / CONFIG_FILE).is_file():
            return []
        parameters = read_config(self.root / companion / CONFIG_FILE).parameters
        is_one = COMPANION_KEY in parameters and parameters[COMPANION_KEY].string_value == name
        return [companion] if is_one else []

    def registered_name(self, name: str) -> str:
        """Return the registered model whose version N a model's version N is.

        Raises:
            NotFoundError: If there is no such model.
        """
        is_one = is_companion(self.read_config(name), name)
        return name.removesuffix(TEXT_SUFFIX) if is_one else name

    def model_file(self, name: str, version: int) -> Path:
        """Return the path of a version's ONNX model."""
        return self.root / name / str(version) / MODEL_FILE

    def read_config(self, name: str) -> Any:
        """Return a model's `ModelConfig` message.

        Raises:
            NotFoundError: If there is no such model; says which there are.
            PublishError: If its config.pbtxt cannot be read.
        """
        path = self.root / name / CONFIG_FILE
        if not NAME.fullmatch(name) or not path.exists():
            raise NotFoundError(f"{self.root}: {unknown_name('model', name, self.names())}")
        return read_config(path)

    def own_config(self, name: str, version: int) -> Any:
        """Return the `ModelConfig` message that was published with a version.

        Of a version without one, which an earlier release published, the model's as it is.

        Raises:
            NotFoundError: If there is no such model.
            PublishError: If it cannot be read.
        """
        published = self.read_config(name)
        path = self.root / name / own_config_file(version)
        return read_config(path) if path.is_file() else published
