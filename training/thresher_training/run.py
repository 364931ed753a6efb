"""One training run from a recipe to a registered version."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from thresher import __version__
from thresher.errors import ConfigError
from thresher.evaluation import EvaluationSplit
from thresher.registry import connect, register
from thresher_training.data import DataSet
from thresher_training.decisions import tune_decision
from thresher_training.examples import copy_examples, picture_input
from thresher_training.imports import call_with_options, import_callable
from thresher_training.loop import EpochMetrics, FitResult, fit, predict_logits, seeded
from thresher_training.losses import build_loss
from thresher_training.metrics import figures
from thresher_training.preflight import check_network
from thresher_training.progress import show_progress
from thresher_training.recipe import Recipe
from thresher_training.report import EXAMPLES_FOLDER, Outcome, write_report
from thresher_training.tracking import log_data, log_network, log_recipe, tracked_run

__all__ = ["TrainedModel", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """The registered version that a training run gave."""

    name: str
    version: int
    run_id: str
    metrics: Mapping[str, float]
    """Test figures by name, such as ``"test/tuned/macro_f1"``."""

    @property
    def uri(self) -> str:
        """The model URI that names exactly this version."""
        return f"models:/{self.name}/{self.version}"


def train(recipe: Recipe, *, recipe_folder: Path | None = None) -> TrainedModel:
    """Return the version that a recipe's training run registered.

    One MLflow run holds everything: parameters, metrics by epoch, the logits model, the decision,
    the evaluation rows, tables and plots. If anything fails, the run is marked FAILED (or KILLED
    after an interrupt), and no version is registered.

    Args:
        recipe: What to train.
        recipe_folder: Searched first for the modules that the recipe names, then the working
            folder.

    Raises:
        ConfigError: If the recipe names what does not exist or does not fit.
        DataError: If the data are not what multi-label training needs.
        TrainingError: If the network does not fit the data, the loss is no longer finite, or
            MLflow refuses.
    """
    folders = [Path.cwd()] if recipe_folder is None else [recipe_folder, Path.cwd()]
    source = import_callable(recipe.data.source, key="data.source", folders=folders)
    factory = import_callable(recipe.network.factory, key="network.factory", folders=folders)
    with tracked_run(recipe.name) as run_id, tempfile.TemporaryDirectory() as temporary:
        log_recipe(recipe)
        data = call_with_options(source, recipe.data.options, key="data")
        if not isinstance(data, DataSet):
            raise ConfigError(f"{recipe.data.source} gave {_kind(data)}, expected a DataSet")
        _check_examples(recipe, data)
        log_data(data)
        with seeded(recipe.seed):
            network = call_with_options(
                factory, recipe.network.options, key="network", num_labels=data.num_labels
            )
            if not isinstance(network, nn.Module):
                raise ConfigError(
                    f"{recipe.network.factory} gave {_kind(network)}, expected a torch.nn.Module"
                )
            order = check_network(network, data.splits["train"])
        fitted = _fit(recipe, network, data)
        # before the thresholds: an objective that cannot be met must not cost the weights
        model_uri = log_network(network, data.splits["train"], order=order, labels=data.labels)
        outcome = _evaluate(recipe, network, data, fitted)
        found = figures(outcome.tuned, outcome.evaluations["test"])
        mlflow = connect()
        mlflow.log_metrics({**found, "best_epoch": fitted.best_epoch})
        folder = Path(temporary)
        num_examples = recipe.examples.count if recipe.examples else 0
        write_report(outcome, folder, num_examples=num_examples)
        mlflow.log_artifacts(str(folder))
        if recipe.examples:
            copy_examples(folder / EXAMPLES_FOLDER, Path(recipe.examples.folder))
        version = register(
            model_uri=model_uri,
            name=recipe.name,
            alias=recipe.alias,
            tags={
                "thresher.version": __version__,
                "thresher.decision_sha256": outcome.tuned.decision.digest,
            },
        )
    return TrainedModel(name=version.name, version=version.version, run_id=run_id, metrics=found)


def _check_examples(recipe: Recipe, data: DataSet) -> None:
    inputs = data.splits["test"].inputs
    if recipe.examples and picture_input(inputs) is None:
        got = ", ".join(f"{name}: {a.dtype} {list(a.shape)}" for name, a in inputs.items())
        raise ConfigError(
            "[examples] needs exactly one input, a picture uint8 [N, 1 or 3, H, W]; "
            f"the data have {got}. Leave the section out"
        )


def _fit(recipe: Recipe, network: nn.Module, data: DataSet) -> FitResult:
    mlflow = connect()
    with show_progress(recipe.name, recipe.optimization.epochs) as show:

        def on_epoch(epoch: EpochMetrics) -> None:
            show(epoch)
            mlflow.log_metrics(
                {
                    "train/loss": epoch.train_loss,
                    "validation/loss": epoch.validation_loss,
                    "validation/macro_f1": epoch.validation_macro_f1,
                    "validation/micro_f1": epoch.validation_micro_f1,
                    "learning_rate": epoch.learning_rate,
                },
                step=epoch.epoch,
            )

        return fit(
            network,
            data.splits["train"],
            data.splits["validation"],
            build_loss(recipe.loss, data.splits["train"].targets_NL),
            recipe.optimization,
            seed=recipe.seed,
            on_epoch=on_epoch,
        )


def _evaluate(recipe: Recipe, network: nn.Module, data: DataSet, fitted: FitResult) -> Outcome:
    evaluations = {
        name: EvaluationSplit(
            inputs=data.splits[name].inputs,
            targets_NL=data.splits[name].targets_NL,
            logits_NL=predict_logits(network, data.splits[name].inputs),
        )
        for name in ("validation", "test")
    }
    validation = evaluations["validation"]
    return Outcome(
        name=recipe.name,
        data=data,
        fitted=fitted,
        tuned=tune_decision(
            data.labels, validation.logits_NL, validation.targets_NL, recipe.decision
        ),
        evaluations=evaluations,
    )


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"
