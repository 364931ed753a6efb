"""MLflow: which registered version is meant, and what that version carries.

A version carries the logits model (``pt2``, in its MLflow model), and in the artifacts of its run
`DECISION_FILE` (labels, calibration, thresholds) and ``evaluation/SPLIT.npz``
(`thresher.evaluation`). MLflow's own defaults and environment variables say where the store is:
``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from thresher.certificate import file_digest
from thresher.decision import Decision
from thresher.errors import ConfigError, NotFoundError, ParityError, unknown_name
from thresher.evaluation import EvaluationSplit
from thresher.mlflow_store import connect, open_store
from thresher.model_name import parse_version

__all__ = [
    "DECISION_DIGEST",
    "DECISION_FILE",
    "SETTINGS_FILE",
    "TUNED_ON",
    "ModelVersion",
    "certificates_in",
    "connect",
    "register",
    "register_certificate",
    "register_decision",
    "registered_tags",
    "resolve",
]

DECISION_FILE = "decision.json"
SETTINGS_FILE = "decision.toml"
"""How a tuned version's decision was chosen; a trained one has it in its recipe."""

TUNED_ON = "thresher.tuned_on"
"""Tag of a version whose thresholds were not chosen on its validation rows: what they were
chosen on."""

_RECIPE_FILE = "recipe.toml"
EVALUATION_FOLDER = "evaluation"

_MODEL_DIGEST = "thresher.model_sha256"
"""Tag of a version: the SHA-256 of its program's file when it was registered."""

DECISION_DIGEST = "thresher.decision_sha256"
"""Tag of a version: the digest of its decision when it was registered."""

_CERTIFICATE_DIGEST = "thresher.certificate_sha256/"
"""Begins the tags of a version that hold digests of certificates: one for each repository that it
was published to, and one for its companion's. The tag's name ends in the digest's first digits, so
that two exports at once do not write over each other's."""

_EVALUATION_RUN = "thresher.evaluation_run"
"""Tag of a version that shares another's weights: the run that holds the evaluation rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One registered version, and access to what it carries (downloaded when asked for)."""

    name: str
    version: int
    run_id: str
    source: str
    """The logged model, shared by versions that differ in their decision alone."""
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The URI that names exactly this version."""
        return f"models:/{self.name}/{self.version}"

    def model_folder(self) -> Path:
        """Return a local folder that holds the MLflow model (``MLmodel``, ``data/model.pt2``)."""
        return self._download(artifact_uri=self.uri)

    def program_file(self) -> Path:
        """Return a local copy of the logged program (``pt2``), the one that was registered.

        Raises:
            NotFoundError: If it cannot be read.
            ParityError: If its bytes are others than when the version was registered.
        """
        path = self.model_folder() / "data" / "model.pt2"
        expected = self.tags.get(_MODEL_DIGEST)
        if expected is not None and path.is_file() and file_digest(path) != expected:
            raise ParityError(
                f"{self.uri}: the program in MLflow ({path}) has other bytes than the one that "
                f"was registered (SHA-256 {expected[:12]}...). Somebody has changed it since; "
                "train again, or register what it is meant to be as a new version"
            )
        return path

    def check_program(self) -> None:
        """Raise ParityError where the program has other bytes than when it was registered.

        A version that was registered before there was a digest is not downloaded.
        """
        if self.program_sha256 is not None:
            self.program_file()

    @property
    def program_sha256(self) -> str | None:
        """The digest of its program as registered, None of a version from before there was one."""
        return self.tags.get(_MODEL_DIGEST)

    def artifact(self, path: str) -> Path:
        """Return a local copy of one artifact of the version's run.

        Raises:
            NotFoundError: If the run has no such artifact.
        """
        return self._download(run_id=self.run_id, artifact_path=path)

    def training_artifact(self, path: str) -> Path:
        """Return a local copy of one artifact of the run that trained the version's weights.

        Raises:
            NotFoundError: If the run has no such artifact.
        """
        run_id = self.tags.get(_EVALUATION_RUN, self.run_id)
        return self._download(run_id=run_id, artifact_path=path)

    def decision(self) -> Decision:
        """Return the version's labels, calibration and thresholds, those that were registered.

        Raises:
            NotFoundError: If the run has none.
            DecisionError: If it cannot be read.
            ParityError: If it is another one than when the version was registered.
        """
        path = self.artifact(DECISION_FILE)
        decision = Decision.load(path)
        expected = self.tags.get(DECISION_DIGEST)
        if expected is not None and decision.digest != expected:
            raise ParityError(
                f"{self.uri}: {DECISION_FILE} in MLflow ({path}) is not the decision that was "
                f"registered (SHA-256 {expected[:12]}...). Somebody has changed it since; put the "
                "file back, or register what it is meant to be as a new version: thresher tune"
            )
        return decision

    def decision_settings(self) -> Mapping[str, Any]:
        """Return how the decision was chosen, by the keys of a recipe's section ``[decision]``.

        Empty where the run does not say, as where thresholds were written by hand.

        Raises:
            ConfigError: If what the run says is not TOML.
        """
        there = {file.path for file in connect().MlflowClient().list_artifacts(self.run_id)}
        if SETTINGS_FILE in there:
            return self._toml(SETTINGS_FILE)
        if _RECIPE_FILE in there:
            section: Mapping[str, Any] = self._toml(_RECIPE_FILE).get("decision", {})
            return section
        return {}

    def _toml(self, path: str) -> dict[str, Any]:
        try:
            return tomllib.loads(self.artifact(path).read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.uri}: {path}: not valid TOML: {error}") from None

    def evaluation(self, split: str) -> EvaluationSplit:
        """Return the rows of a split, such as ``"validation"`` or ``"test"``."""
        run_id = self.tags.get(_EVALUATION_RUN, self.run_id)
        path = f"{EVALUATION_FOLDER}/{split}.npz"
        return EvaluationSplit.load(self._download(run_id=run_id, artifact_path=path))

    def _download(self, **what: Any) -> Path:
        mlflow = connect()
        try:
            return Path(mlflow.artifacts.download_artifacts(**what))
        except (mlflow.MlflowException, OSError) as error:
            wanted = what.get("artifact_path") or what["artifact_uri"]
            raise NotFoundError(
                f"{self.uri}: cannot read {wanted} (run {self.run_id}): {error}"
            ) from None


def resolve(uri: str) -> ModelVersion:
    """Return the registered version that ``NAME/N`` or ``NAME@ALIAS`` names, or their model URI.

    Raises:
        NotFoundError: If the text has another form, or names nothing; says what there is.
        StoreError: If MLflow's store cannot be opened.
    """
    asked = parse_version(uri)
    name, version, alias = asked.name, asked.version, asked.alias
    mlflow = open_store()
    client = mlflow.MlflowClient()
    try:
        if alias is not None:
            found = client.get_model_version_by_alias(name, alias)
        else:
            found = client.get_model_version(name, str(version))
    except mlflow.MlflowException as error:
        try:
            there_is = _what_there_is(client, name)
        except mlflow.MlflowException:
            there_is = f"the registry does not answer: {error}"
        raise NotFoundError(f"{uri}: {there_is}") from None
    full = client.get_model_version(name, found.version)  # with all its aliases and tags
    return ModelVersion(
        name=full.name,
        version=int(full.version),
        run_id=full.run_id,
        source=full.source,
        aliases=tuple(full.aliases),
        tags=dict(full.tags),
    )


def _what_there_is(client: Any, name: str) -> str:
    """Return what the registry holds under or near a name, as a sentence."""
    names = [model.name for model in client.search_registered_models()]
    if name not in names:
        return unknown_name("registered model", name, names)
    model = client.get_registered_model(name)
    versions = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
    aliases = ", ".join(f"{a} -> {v}" for a, v in model.aliases.items()) or "none"
    return f'no such version; "{name}" has versions {versions} and aliases {aliases}'


def register(*, model_uri: str, name: str, alias: str, tags: Mapping[str, str]) -> ModelVersion:
    """Register a logged model as the next version of ``name`` and move an alias to it.

    Args:
        model_uri: What ``mlflow.pytorch.log_model`` returned as ``model_uri``.
        name: The registered model's name; made if it does not exist.
        alias: The alias that marks the new version, such as ``"candidate"``.
        tags: Tags of the version.
    """
    mlflow = connect()
    program = Path(mlflow.artifacts.download_artifacts(model_uri)) / "data" / "model.pt2"
    bound = {_MODEL_DIGEST: file_digest(program)} if program.is_file() else {}
    created = mlflow.register_model(model_uri, name, tags={**tags, **bound})
    mlflow.MlflowClient().set_registered_model_alias(name, alias, created.version)
    return resolve(f"models:/{name}/{created.version}")


def register_decision(
    version: ModelVersion, *, run_id: str, alias: str, tags: Mapping[str, str]
) -> ModelVersion:
    """Register a version that shares another's weights and differs in its decision.

    Args:
        version: Whose weights and evaluation rows are shared.
        run_id: The run whose artifacts hold the new `DECISION_FILE`.
        alias: The alias that marks the new version, such as ``"candidate"``.
        tags: Tags of the version.
    """
    client = connect().MlflowClient()
    shared = {_EVALUATION_RUN: version.tags.get(_EVALUATION_RUN, version.run_id)}
    if version.program_sha256 is not None:
        shared[_MODEL_DIGEST] = version.program_sha256
    created = client.create_model_version(
        version.name, version.source, run_id=run_id, tags={**tags, **shared}
    )
    client.set_registered_model_alias(version.name, alias, created.version)
    return resolve(f"models:/{version.name}/{created.version}")


def register_certificate(name: str, version: int, digest: str) -> None:
    """Write down with a version that a certificate was issued for it.

    Raises:
        NotFoundError: If the registry has no such version, or does not answer.
        StoreError: If MLflow's store cannot be opened.
    """
    mlflow = open_store()
    key = f"{_CERTIFICATE_DIGEST}{digest[:16]}"
    try:
        mlflow.MlflowClient().set_model_version_tag(name, str(version), key, digest)
    except mlflow.MlflowException as error:
        raise NotFoundError(f"models:/{name}/{version} in MLflow: {_line(error)}") from None


def registered_tags(name: str, version: int) -> Mapping[str, str] | None:
    """Return a version's tags, None where the registry has no such version.

    Raises:
        NotFoundError: If the registry does not answer.
        StoreError: If MLflow's store cannot be opened.
    """
    mlflow = open_store()
    try:
        return dict(mlflow.MlflowClient().get_model_version(name, str(version)).tags)
    except mlflow.MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise NotFoundError(f"models:/{name}/{version} in MLflow: {_line(error)}") from None


def certificates_in(tags: Mapping[str, str]) -> frozenset[str]:
    """Return the digests of the certificates that were issued, by a version's tags.

    Empty where an earlier release exported it.
    """
    return frozenset(at for key, at in tags.items() if key.startswith(_CERTIFICATE_DIGEST))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
