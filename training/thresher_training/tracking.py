"""What goes into the MLflow run of a training: configuration, data, figures, network, report."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from thresher.config import to_mapping, to_toml
from thresher.errors import TrainingError
from thresher.mlflow_store import connect, shown_store
from thresher.registry import ModelVersion
from thresher_training.data import DataSet, Split
from thresher_training.environment import describe_environment
from thresher_training.loop import EpochMetrics
from thresher_training.outbox import UNSENT_FOLDER
from thresher_training.preflight import NUM_TRIAL_ROWS, export_without_noise
from thresher_training.recipe import Recipe
from thresher_training.statistics import describe, write_statistics
from thresher_training.tracked_run import current_outbox, patiently, tracked_run, wait_s

__all__ = [
    "log_data",
    "log_description",
    "log_epoch",
    "log_figures",
    "log_network",
    "log_recipe",
    "log_report",
    "log_tags",
    "log_version_description",
    "patiently",
    "tracked_run",
]

RECIPE_FILE = "recipe.toml"
ENVIRONMENT_FILE = "environment.json"
DATA_FOLDER = "data"

_MAX_PARAMETER = 6000  # characters, MLflow 3
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")
"""A key, such as a label's name, that can be part of a parameter's name; dots separate parts."""


def log_recipe(recipe: Recipe, *, name: str | None = None) -> None:
    """Log the resolved configuration and the environment, and name the run after the recipe.

    The configuration is there as flat parameters, and as `RECIPE_FILE` to train it again. A run
    that is resumed keeps the parameters that it has.

    Args:
        recipe: The resolved configuration.
        name: The run's name; made of the recipe's name, loss and seed if None.
    """
    mlflow = connect()

    def log() -> None:
        client, run_id = mlflow.MlflowClient(), mlflow.active_run().info.run_id
        logged = client.get_run(run_id).data.params
        flat = {name: str(value)[:_MAX_PARAMETER] for name, value in _flat(to_mapping(recipe))}
        mlflow.log_params({name: value for name, value in flat.items() if name not in logged})
        mlflow.set_tags(
            {
                "mlflow.runName": name or f"{recipe.name}, {recipe.loss.name}, seed {recipe.seed}",
                "thresher.network": recipe.network.factory or "given in Python",
                "thresher.loss": recipe.loss.name,
            }
        )
        mlflow.log_text(to_toml(recipe), RECIPE_FILE)
        mlflow.log_dict(describe_environment(), ENVIRONMENT_FILE)

    patiently(log)


def _flat(mapping: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and values; a table of names that MLflow would refuse or mix up is JSON."""
    for key, value in mapping.items():
        if isinstance(value, dict) and all(map(_PLAIN_KEY.fullmatch, value)):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, dict):
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
        else:
            yield f"{prefix}{key}", value


def log_epoch(epoch: EpochMetrics) -> None:
    """Log an epoch's figures to the run; an MLflow that is out of reach holds nothing up.

    A run gets each epoch once: one that is trained again after a crash is not logged again.
    """
    found = {
        "train/loss": epoch.train_loss,
        "train/learning_rate": epoch.learning_rate,
        "train/gradient_norm": epoch.gradient_norm,
        "train/rows_per_s": epoch.rows_per_s,
        "train/data_wait_fraction": epoch.data_wait_fraction,
        "train/seconds": epoch.seconds,
        "validation/loss": epoch.validation_loss,
        **{f"validation/{name}": value for name, value in epoch.validation.items()},
    }
    current_outbox().put_metrics(found, step=epoch.epoch, is_epoch=True)


def log_figures(figures: Mapping[str, float]) -> None:
    """Log figures that a run has once, such as those on the test split; as `log_epoch` does."""
    current_outbox().put_metrics(figures)


def log_report(folder: Path) -> None:
    """Log a folder's files as the run's artifacts; return when they have arrived.

    Raises:
        TrainingError: If MLflow does not take them in time; a copy is kept and sent later.
    """
    outbox, timeout_s = current_outbox(), wait_s()
    outbox.put_artifacts(folder)
    if not outbox.flush(timeout_s):
        raise TrainingError(
            f"{outbox.failure or f'MLflow at {shown_store()} gives no answer'}. It did not take "
            f"the run's artifacts, tried for up to {timeout_s:g} s; they are kept in "
            f"{UNSENT_FOLDER / outbox.run_id}, and the next `thresher train` here sends them"
        )


def log_data(data: DataSet) -> None:
    """Log what each split was, and the statistics of its labels; the examples are not kept.

    MLflow's lineage has source, shapes and digest; tables and picture are under `DATA_FOLDER`.
    """
    mlflow = connect()
    from mlflow.data.code_dataset_source import CodeDatasetSource

    def log() -> None:
        for context, split in data.splits.items():
            dataset = mlflow.data.from_numpy(
                dict(split.inputs),
                source=CodeDatasetSource(tags={"description": data.source}),
                targets=split.targets_NL,
                name=context,
                digest=split.digest,
            )
            mlflow.log_input(dataset, context=context)

    patiently(log)
    with tempfile.TemporaryDirectory() as temporary:
        write_statistics(describe(data), Path(temporary) / DATA_FOLDER)
        current_outbox().put_artifacts(Path(temporary))


def log_tags(tags: Mapping[str, str]) -> None:
    """Give the run tags."""
    mlflow = connect()
    patiently(lambda: mlflow.set_tags(dict(tags)))


def log_description(text: str) -> None:
    """Give the run's page a description, in Markdown."""
    mlflow = connect()
    patiently(lambda: mlflow.set_tag("mlflow.note.content", text))


def log_version_description(version: ModelVersion, text: str) -> None:
    """Give a registered version's page a description, in Markdown."""
    mlflow = connect()
    patiently(
        lambda: mlflow.MlflowClient().update_model_version(
            version.name, str(version.version), description=text
        )
    )


def log_network(
    network: nn.Module,
    train: Split,
    *,
    free_axes: Mapping[str, Sequence[int]],
    labels: Sequence[str],
) -> str:
    """Log the network as a pt2 program from inputs to logits; return the logged model's URI.

    Args:
        network: Put in evaluation mode.
        train: Its first rows are the input example.
        free_axes: Of each input the axes of any length, in the order of ``forward``.
        labels: L names.
    """
    mlflow = connect()
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    rows = [index % len(train) for index in range(NUM_TRIAL_ROWS)]
    example = {name: train.inputs[name][rows] for name in free_axes}
    shapes = {
        name: tuple(-1 if k in free_axes[name] else size for k, size in enumerate(array.shape))
        for name, array in example.items()
    }
    signature = ModelSignature(
        inputs=Schema([TensorSpec(a.dtype, shapes[name], name) for name, a in example.items()]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, len(labels)), "logits")]),
    )
    arrays = tuple(example.values())

    def log() -> Any:
        return mlflow.pytorch.log_model(
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

    with export_without_noise():
        logged = patiently(log)
    _delete_unfinished(mlflow, keep=logged.model_id)
    return str(logged.model_uri)


def _delete_unfinished(mlflow: Any, *, keep: str) -> None:
    """Delete what earlier tries left of the run's model."""
    run = mlflow.active_run().info
    client = mlflow.MlflowClient()
    for model in client.search_logged_models(
        [run.experiment_id], filter_string=f"source_run_id = '{run.run_id}'"
    ):
        if model.model_id != keep and str(model.status) != "READY":
            client.delete_logged_model(model.model_id)


def _pinned(package: str, version: str) -> str:
    """Return a requirement without the build's suffix, such as ``torch==2.10.0``."""
    return f"{package}=={str(version).partition('+')[0]}"
