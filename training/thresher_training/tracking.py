"""The MLflow run of a training: opened, closed with the right status, and what goes into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from thresher.config import to_mapping, to_toml
from thresher.errors import TrainingError
from thresher.registry import connect
from thresher_training.data import DataSet, Split
from thresher_training.preflight import NUM_TRIAL_ROWS, export_without_noise
from thresher_training.recipe import Recipe

__all__ = ["log_data", "log_network", "log_recipe", "tracked_run"]

RECIPE_FILE = "recipe.toml"


@contextmanager
def tracked_run(experiment: str) -> Iterator[str]:
    """Open an MLflow run and give its id; FAILED after an error, KILLED after an interrupt.

    Args:
        experiment: The experiment's name; made if it does not exist.

    Raises:
        TrainingError: If MLflow cannot do what it is asked to.
    """
    mlflow = connect()
    try:
        run = mlflow.start_run(
            experiment_id=_experiment_id(mlflow, experiment),
            nested=mlflow.active_run() is not None,
        )
        try:
            yield run.info.run_id
        except KeyboardInterrupt:
            _abandon(mlflow, "KILLED", "interrupted")
            raise
        except BaseException as error:
            _abandon(mlflow, "FAILED", f"{type(error).__name__}: {error}")
            raise
        mlflow.end_run()
    except mlflow.MlflowException as error:
        raise TrainingError(f"MLflow at {mlflow.get_tracking_uri()}: {error}") from error


def _abandon(mlflow: Any, status: str, failure: str) -> None:
    """End the run with a status; a store that is gone must not hide the first error."""
    with suppress(mlflow.MlflowException):
        mlflow.set_tag("thresher.failure", failure[:1000])
    with suppress(mlflow.MlflowException):
        mlflow.end_run(status)


def _experiment_id(mlflow: Any, name: str) -> str:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return str(client.create_experiment(name))
    if experiment.lifecycle_stage != "active":
        raise TrainingError(
            f'the MLflow experiment "{name}" is deleted; restore it or give the recipe another name'
        )
    return str(experiment.experiment_id)


def log_recipe(recipe: Recipe) -> None:
    """Log the resolved configuration: flat parameters, and `RECIPE_FILE` to train it again."""
    mlflow = connect()
    mlflow.log_params(dict(_flat(to_mapping(recipe))))
    mlflow.log_text(to_toml(recipe), RECIPE_FILE)


def _flat(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def log_data(data: DataSet) -> None:
    """Log what each split was: source, shapes and digest; the examples themselves are not kept."""
    mlflow = connect()
    from mlflow.data.code_dataset_source import CodeDatasetSource

    for context, split in data.splits.items():
        dataset = mlflow.data.from_numpy(
            dict(split.inputs),
            source=CodeDatasetSource(tags={"description": data.source}),
            targets=split.targets_NL,
            name=context,
            digest=split.digest,
        )
        mlflow.log_input(dataset, context=context)


def log_network(
    network: nn.Module, train: Split, *, order: Sequence[str], labels: Sequence[str]
) -> str:
    """Log the network as a pt2 program from inputs to logits; return the logged model's URI.

    Args:
        network: Put in evaluation mode.
        train: Its first rows are the input example.
        order: The inputs' names in the order of ``forward``.
        labels: L names.
    """
    mlflow = connect()
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    rows = [index % len(train) for index in range(NUM_TRIAL_ROWS)]
    example = {name: train.inputs[name][rows] for name in order}
    signature = ModelSignature(
        inputs=Schema([TensorSpec(a.dtype, (-1, *a.shape[1:]), n) for n, a in example.items()]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(labels)), "logits")]),
    )
    arrays = tuple(example.values())
    with export_without_noise():
        logged = mlflow.pytorch.log_model(
            network.eval(),
            name="model",
            serialization_format="pt2",
            # one array is kept with the model; several, which pt2 takes as a tuple, are not
            input_example=arrays[0] if len(arrays) == 1 else arrays,
            signature=signature,
            pip_requirements=[
                _pinned("torch", torch.__version__),
                _pinned("numpy", np.__version__),
            ],
            validate_serving_input=False,  # pt2 takes arrays; MLflow would try JSON lists, and warn
        )
    return str(logged.model_uri)


def _pinned(package: str, version: str) -> str:
    """Return a requirement without the build's suffix, such as ``torch==2.10.0``."""
    return f"{package}=={str(version).partition('+')[0]}"
