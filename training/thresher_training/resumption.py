"""What must hold for a run to be resumed: it is not finished, and recipe and data are the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from thresher.config import to_mapping
from thresher.errors import ConfigError, DataError, NotFoundError, TrainingError
from thresher.mlflow_store import connect, open_store
from thresher_training.data import DataSet
from thresher_training.recipe import Recipe

__all__ = ["about", "check_data", "check_recipe", "check_run", "logged_model"]

_FREE = (
    *("decision.", "examples.", "triton.", "alias"),
    *("optimization.checkpoint_minutes", "optimization.device"),
)
"""Keys that may change: what they say is not in the weights."""

_STEP = ("optimization.batch_size", "optimization.accumulate")
"""Keys of which only the product counts: the same steps, with fewer examples in memory."""


def about(recipe: Recipe, data: DataSet) -> dict[str, Any]:
    """Return what a checkpoint keeps of recipe and data, to be compared at its resumption."""
    return {
        "recipe": _weights_depend_on(recipe),
        "data": {name: split.digest for name, split in data.splits.items()},
    }


def check_run(run_id: str) -> None:
    """Refuse a run that does not exist or is done.

    Raises:
        NotFoundError: If there is no such run.
        ConfigError: If it is finished, or has registered a version.
    """
    mlflow = open_store()
    client = mlflow.MlflowClient()
    try:
        run = client.get_run(run_id)
        versions = client.search_model_versions(f"run_id = '{run_id}'")
    except mlflow.MlflowException as error:
        where = mlflow.get_tracking_uri()
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise NotFoundError(
                f"MLflow at {where} has no run {run_id}; the run's id is on its page"
            ) from None
        raise TrainingError(f"MLflow at {where}: {error}") from error
    if versions:
        uris = ", ".join(f"models:/{version.name}/{version.version}" for version in versions)
        raise ConfigError(f"run {run_id} is done: it registered {uris}; start a new run")
    if run.info.status == "FINISHED":
        raise ConfigError(f"run {run_id} is finished; start a new run")


def check_recipe(kept: Mapping[str, Any], recipe: Recipe, run_id: str) -> None:
    """Refuse a recipe with which the run would end in other weights.

    Args:
        kept: What `about` gave when the run began.
        recipe: The recipe that it is resumed with.
        run_id: For the message.

    Raises:
        ConfigError: Names the keys that differ.
    """
    before, now = kept["recipe"], _weights_depend_on(recipe)
    differ = [
        f"{key}: {before.get(key, 'not set')} then, {now.get(key, 'not set')} now"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise ConfigError(
            f"run {run_id} cannot be resumed with another recipe ({'; '.join(differ)}). Put these "
            "keys back, or start a new run; only [decision], [examples], [triton], alias, "
            "optimization.checkpoint_minutes and optimization.device may change, and batch_size "
            "and accumulate if their product stays"
        )


def check_data(kept: Mapping[str, Any], data: DataSet, run_id: str) -> None:
    """Refuse other data than the run began with.

    Raises:
        DataError: Names the splits that differ.
    """
    differ = [name for name, split in data.splits.items() if kept["data"][name] != split.digest]
    if differ:
        raise DataError(
            f"run {run_id} cannot be resumed with other data: the splits {', '.join(differ)} have "
            "changed since it began; put the data back, or start a new run"
        )


def logged_model(run_id: str) -> str | None:
    """Return the URI of the model that a run has logged already; None if it has not."""
    mlflow = connect()
    client = mlflow.MlflowClient()
    experiment_id = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models(
        [experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    ready = [model for model in found if str(model.status) == "READY"]
    return str(ready[0].model_uri) if ready else None


def _weights_depend_on(recipe: Recipe) -> dict[str, str]:
    """Return the recipe's keys that its weights depend on, with their values as text."""
    flat = dict(_flat(to_mapping(recipe)))
    size, times = (flat.pop(key) for key in _STEP)
    flat["optimization.batch_size x accumulate"] = size * times
    return {key: repr(value) for key, value in flat.items() if not key.startswith(_FREE)}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
