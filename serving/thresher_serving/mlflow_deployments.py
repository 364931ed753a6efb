"""MLflow deployments on Triton: ``mlflow deployments create -t triton:HOST:PORT ...``.

A deployment is a model of the repository, under its registered name; its versions are the
registered versions. Creating and updating are rollouts, with all their checks.

MLflow loads this module by the entry point ``triton`` of the group ``mlflow.deployments``. It is
the one module of this package that imports MLflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from thresher.alias import MlflowAlias
from thresher.errors import DataError, NotFoundError, ThresherError, unknown_name
from thresher.model_name import parse_version
from thresher.published_models import TEXT_SUFFIX
from thresher.repository import ModelRepository
from thresher.tables.memory import is_table, memory_rows
from thresher_serving import Client, ModelMetadata, control, running_server
from thresher_serving.connection import Connection
from thresher_serving.connection_environment import connection_from_environment
from thresher_serving.rollout import RolloutOptions, StatusReader, roll_out

__all__ = ["TritonDeploymentClient", "run_local", "target_help"]

_CONFIG = ("repository", "alias", "allow_label_change", "unproven", "timeout_s")


def target_help() -> str:
    """Return what ``mlflow deployments help -t triton`` prints."""
    return """\
triton:HOST:PORT    the gRPC address of a Triton server; `triton` alone is the one that
                    `thresher serve` started in this folder. The key of a deployed server is read
                    from THRESHER_SERVER_KEY.

A deployment's name is the registered model's; its version is the registered version. The version
must be published in the server's repository: thresher export models:/NAME/VERSION.

  mlflow deployments create -t triton:HOST:PORT --name NAME -m models:/NAME/VERSION
  mlflow deployments update -t triton:HOST:PORT --name NAME -m models:/NAME@ALIAS
  mlflow deployments predict -t triton:HOST:PORT --name NAME -I rows.json
  mlflow deployments get|list|delete ...

Each create and update is a rollout: certificate checked, loaded next to what serves, golden rows
compared, then live; anything wrong leaves what serves as it is. delete unloads the model and
leaves it in the repository.

-C KEY=VALUE
  repository=FOLDER        the folder that the server reads (model_repository)
  alias=ALIAS              an alias that is moved to the version (none)
  allow_label_change=true  go on where labels, or their order, are others
  unproven=true            go on without a certificate that fits
  timeout_s=120            how long a load may take
"""


def run_local(
    target: str,
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Start a server on the repository here, if none runs, and deploy a version to it.

    Raises:
        MlflowException: If the server cannot be started, or the version not deployed.
    """
    from thresher_serving import find_runtime, start_server

    with _as_mlflow():
        repository = _Settings(config).repository
        if running_server() is None:
            start_server(repository.root, runtime=find_runtime(), models=[])
    client = TritonDeploymentClient(target)
    if any(found["name"] == name for found in client.list_deployments()):
        client.update_deployment(name, model_uri, flavor, dict(config or {}))
    else:
        client.create_deployment(name, model_uri, flavor, dict(config or {}))


class TritonDeploymentClient(BaseDeploymentClient):  # type: ignore[misc] # MLflow has no types
    """Deployments on one Triton server.

    Args:
        target_uri: ``triton`` or ``triton:HOST:PORT``.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        address = target_uri.partition(":")[2].strip("/")
        with _as_mlflow():
            self._where = _reached(address)
            running = None if address else running_server()
        self._folder = Path(running.repository) if running else None

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,  # noqa: ARG002 -- MLflow's signature
    ) -> dict[str, Any]:
        """Return the deployment, made by a rollout of a published version.

        Raises:
            MlflowException: If the model is deployed already, or the rollout fails.
        """
        with _as_mlflow():
            if name in self._serving():
                raise MlflowException(
                    f"{name} is deployed on {self._where.url} already; update it instead"
                )
            self._roll_out(name, model_uri, flavor, config)
        return self.get_deployment(name)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,  # noqa: ARG002 -- MLflow's signature
    ) -> dict[str, Any]:
        """Return the deployment after a rollout of another version.

        Raises:
            MlflowException: If the model is not deployed, or the rollout fails; what served before
                serves as before.
        """
        with _as_mlflow():
            self._check_deployed(name)
            if model_uri is None:
                raise MlflowException("give the version to deploy: -m models:/NAME/VERSION")
            self._roll_out(name, model_uri, flavor, config)
        return self.get_deployment(name)

    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,  # noqa: ARG002 -- MLflow's signature
        endpoint: str | None = None,  # noqa: ARG002
    ) -> None:
        """Take the model out of service, and what takes its texts. Twice is once.

        They stay in the repository.
        """
        with _as_mlflow():
            serving = self._serving()
            if name in serving:
                if (companion := f"{name}{TEXT_SUFFIX}") in serving:
                    control.unload_model(self._where, companion)
                control.unload_model(self._where, name)

    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:  # noqa: ARG002
        """Return what serves, a dictionary each; `NAME.text` belongs to NAME, and is not listed."""
        with _as_mlflow():
            found = StatusReader(self._where).read().versions
        companions = {f"{each.model}{TEXT_SUFFIX}" for each in found}
        return [
            {
                "name": each.model,
                "version": each.version,
                "model_uri": f"models:/{each.model}/{each.version}",
                "flavor": "onnx",
                "state": each.state,
                "requests": each.requests,
                "failures": each.failures,
                "target": self.target_uri,
            }
            for each in found
            if each.serves and each.model not in companions
        ]

    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:  # noqa: ARG002
        """Return one deployment.

        Raises:
            MlflowException: If it is not deployed.
        """
        with _as_mlflow():
            self._check_deployed(name)
        return next(found for found in self.list_deployments() if found["name"] == name)

    def predict(
        self,
        deployment_name: str | None = None,
        inputs: Any = None,
        endpoint: str | None = None,  # noqa: ARG002 -- MLflow's signature
    ) -> PredictionsResponse:
        """Return a row for each row of the inputs: every label's probability and yes or no.

        Args:
            deployment_name: The model.
            inputs: A table (a frame, or a dictionary of columns) with the columns of training, in
                any order, or with a column of arrays for each input; or, for a model with one
                input, its array [N, ...].
            endpoint: Not used.

        Raises:
            MlflowException: If columns are missing or unknown, a row is not what the model takes,
                or it does not answer.
        """
        with _as_mlflow():
            if deployment_name is None:
                raise MlflowException("name the deployment")
            repository = self._folder or Path("model_repository")
            with Client(self._where, repository=repository) as client:
                model = client.metadata(deployment_name)
                answer = client.predict(deployment_name, _table(inputs, model))
        rows = [
            {
                "labels": [label.name for label in answer.named(row)],
                "probabilities": {
                    label.name: label.probability for label in answer.named(row, every=True)
                },
                "version": answer.model_version,
            }
            for row in range(len(answer))
        ]
        return PredictionsResponse({"predictions": rows})

    def _roll_out(
        self, name: str, model_uri: str, flavor: str | None, config: Mapping[str, Any] | None
    ) -> None:
        if flavor not in {None, "onnx", "pytorch"}:
            raise MlflowException(f'flavor "{flavor}" is not served; leave it out')
        settings = _Settings(config, folder=self._folder)
        registered, version = _resolved(model_uri)
        if registered != name:
            raise MlflowException(
                f'deployment "{name}" cannot hold "{registered}": the server knows a model by its '
                f"registered name. Run: --name {registered}"
            )
        try:
            is_published = version in settings.repository.versions(name)
        except NotFoundError:
            is_published = False
        if not is_published:
            raise MlflowException(
                f"{settings.repository.root}: {name}/{version} is not published. "
                f"Run: thresher export models:/{name}/{version}, or give -C repository=FOLDER"
            )
        alias = MlflowAlias(name, settings.alias) if settings.alias else None
        roll_out(
            settings.repository, name, version, self._where, options=settings.options, alias=alias
        )

    def _serving(self) -> list[str]:
        with self._where.open() as client:
            return sorted(control.served(self._where, client))

    def _check_deployed(self, name: str) -> None:
        serving = self._serving()
        if name not in serving:
            there = ", ".join(serving) or "nothing"
            raise MlflowException(f"{name} is not deployed on {self._where.url}; there: {there}")


class _Settings:
    """What ``-C KEY=VALUE`` says."""

    def __init__(self, config: Mapping[str, Any] | None, *, folder: Path | None = None) -> None:
        given = dict(config or {})
        for key in given:
            if key not in _CONFIG:
                raise MlflowException(f'unknown key "{key}". Valid: {", ".join(_CONFIG)}')
        self.repository = ModelRepository(
            Path(given.get("repository") or folder or "model_repository")
        )
        self.alias: str | None = given.get("alias")
        self.options = RolloutOptions(
            allow_label_change=_is_true(given.get("allow_label_change")),
            unproven=_is_true(given.get("unproven")),
            timeout_s=_seconds(given.get("timeout_s", 120)),
        )


@contextlib.contextmanager
def _as_mlflow() -> Iterator[None]:
    """Turn our errors into the one that MLflow's command line prints."""
    try:
        yield
    except ThresherError as error:
        raise MlflowException(str(error)) from None


def _reached(address: str) -> Connection:
    if address:
        return connection_from_environment(address)
    running = running_server()
    if running is None:
        raise NotFoundError(
            "no Triton server was started in this folder. Run: thresher serve --background, or "
            "name one: -t triton:HOST:PORT"
        )
    return Connection(url=running.where)


def _resolved(model_uri: str) -> tuple[str, int]:
    asked = parse_version(model_uri)
    if asked.version is not None:
        return asked.name, asked.version
    from mlflow import MlflowClient

    found = MlflowClient().get_model_version_by_alias(asked.name, asked.alias)
    return asked.name, int(found.version)


def _seconds(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise MlflowException(f'timeout_s is "{value}"; expected seconds, such as 120') from None


def _is_true(value: Any) -> bool:
    return str(value).lower() in {"true", "1", "yes"}


def _table(inputs: Any, model: ModelMetadata) -> Any:
    """Return a table of which every column is one that the model knows.

    Raises:
        DataError: If a column is unknown or repeats, or one array stands for several inputs.
    """
    if not is_table(inputs):
        if len(model.inputs) > 1:
            raise DataError(f"got an array, expected a table of {', '.join(model.inputs)}")
        (name,) = model.inputs
        return {name: list(np.asarray(inputs))}
    columns, _ = memory_rows(inputs)
    known = [*(model.input_spec.column_names if model.input_spec else ()), *model.inputs]
    if model.input_spec is None and not set(columns) <= set(known):
        raise DataError(
            f"model {model.name}: its configuration does not say which columns its inputs are made "
            f"of. Export the version again, or give {', '.join(known)} as columns of arrays"
        )
    for name in columns:
        if name not in known:
            raise DataError(f"model {model.name}: {unknown_name('column', name, known)}")
    if isinstance(inputs, Mapping):  # arrays of another type are converted as cells are
        return {name: list(cells) for name, cells in inputs.items()}
    return inputs
