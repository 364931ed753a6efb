"""The alias in MLflow's registry that names the version which serves, moved and moved back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from thresher.errors import NotFoundError
from thresher.mlflow_store import open_store

__all__ = ["MlflowAlias"]


class MlflowAlias:
    """An alias of a registered model.

    MLflow is imported, and asked, when the alias is moved or checked: a rollback waits for neither.

    Args:
        name: The registered model.
        alias: The alias, such as ``"champion"``.
    """

    def __init__(self, name: str, alias: str) -> None:
        self._name, self._alias = name, alias
        self._before: str | None = None

    def __str__(self) -> str:
        return f"{self._name}@{self._alias} in MLflow"

    def check(self) -> None:
        """Raise NotFoundError if the registry has no such model, or does not answer."""
        with self._registry() as registry:
            registry.get_registered_model(self._name)

    def move(self, version: int) -> None:
        """Let it name a version, and remember which one it named.

        Raises:
            NotFoundError: If the registry has no such version, or does not answer.
        """
        with self._registry() as registry:
            self._before = registry.get_registered_model(self._name).aliases.get(self._alias)
            registry.set_registered_model_alias(self._name, self._alias, str(version))

    def move_back(self) -> None:
        """Let it name what it named before it was moved.

        Raises:
            NotFoundError: If the registry does not answer.
        """
        with self._registry() as registry:
            if self._before is None:
                registry.delete_registered_model_alias(self._name, self._alias)
            else:
                registry.set_registered_model_alias(self._name, self._alias, self._before)

    @contextlib.contextmanager
    def _registry(self) -> Iterator[Any]:
        # a registry that is down must not hold what serves up for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        try:
            mlflow = open_store()
        except ModuleNotFoundError:
            raise NotFoundError(f"{self}: MLflow is not installed here") from None
        try:
            yield mlflow.MlflowClient()
        except mlflow.MlflowException as error:
            reason = str(error).strip().splitlines()[0]
            raise NotFoundError(f"{self}: {reason}") from None
