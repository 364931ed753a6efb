"""Losses side by side: the same recipe trained with each, over seeds, in one MLflow run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from torch import nn

from thresher.errors import ConfigError, ThresherError
from thresher.evaluation import EvaluationSplit
from thresher_training.comparison_report import write_comparison
from thresher_training.data import DataSet
from thresher_training.decisions import tune_decision
from thresher_training.loop import EpochMetrics, fit, predict_logits
from thresher_training.loss_choice import parse_loss
from thresher_training.metrics import figures, mean_average_precision
from thresher_training.preflight import check_network
from thresher_training.prepare import load_data, make_network, prepare
from thresher_training.progress import show_progress
from thresher_training.recipe import Recipe
from thresher_training.report_tables import side_by_side
from thresher_training.tracking import (
    log_data,
    log_description,
    log_epoch,
    log_figures,
    log_recipe,
    log_report,
    log_tags,
    tracked_run,
)
from thresher_training.trial_rows import largest_ids

__all__ = ["ComparedLoss", "Comparison", "compare"]

_logger = logging.getLogger("thresher.compare")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedLoss:
    """One loss's figures over seeds."""

    loss: str
    """As it was asked for, such as ``"bce+pos_weight"``."""

    seeds: tuple[int, ...]
    """Those that were trained to the end."""

    figures: Mapping[str, tuple[float, ...]]
    """By name, such as ``"test/tuned/macro_f1"``, a value for each seed."""

    failures: Mapping[int, str]
    """By seed, why it failed."""

    def mean(self, name: str) -> float:
        """Return a figure's mean over seeds; NaN where there is none."""
        values = self.figures.get(name, ())
        return fmean(values) if values else float("nan")

    def spread(self, name: str) -> float:
        """Return a figure's standard deviation over seeds; NaN with fewer than two."""
        values = self.figures.get(name, ())
        return stdev(values) if len(values) > 1 else float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What a comparison gave."""

    name: str
    """The recipe's."""

    run_id: str
    """The MLflow run that holds table and plot; each training is a run below it."""

    losses: tuple[ComparedLoss, ...]
    """The best on validation first, those without any figures last."""

    chosen_by: str
    """The figure that orders them, always one of validation."""

    @property
    def winner(self) -> ComparedLoss | None:
        """The best loss; None where all failed."""
        return self.losses[0] if self.losses and self.losses[0].seeds else None

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each training that failed."""
        return tuple(
            f"{row.loss}, seed {seed}: {reason}"
            for row in self.losses
            for seed, reason in row.failures.items()
        )


def compare(
    recipe: Recipe,
    losses: Sequence[str],
    *,
    seeds: Sequence[int] | None = None,
    recipe_folder: Path | None = None,
    data: DataSet | None = None,
) -> Comparison:
    """Return how a recipe does with each of several losses; nothing is registered.

    The data are read once. Each loss and seed is a training of its own, in an MLflow run below the
    one that keeps the table and the plot. The order is by validation, after thresholds were tuned
    on it as the recipe says (the same for every loss), never by test. One that fails costs only
    itself. A recipe that cross-fits is compared without: one network a loss and seed.

    Args:
        recipe: Everything but the loss, and the seed where `seeds` are given.
        losses: Such as ``["bce", "bce+pos_weight", "focal"]``; see `parse_loss`.
        seeds: Of networks and batches; the recipe's alone if None.
        recipe_folder: Searched first for the modules that the recipe names, then the working
            folder.
        data: Instead of what ``[data]`` names.

    Raises:
        ConfigError: If a loss is not of the known form, comes twice, or the recipe is wrong.
        DataError: If the data are not what multi-label training needs.
        TrainingError: If the network does not fit the data, or MLflow refuses.
    """
    configs = {text: parse_loss(text, recipe.loss) for text in losses}
    seeds = (recipe.seed,) if seeds is None else tuple(dict.fromkeys(seeds))
    if len(configs) < len(losses) or not configs or not seeds:
        raise ConfigError(
            f"losses are {', '.join(losses) or 'none'} and seeds {list(seeds)}; expected at least "
            "one of each, no loss twice"
        )
    folders = [Path.cwd()] if recipe_folder is None else [recipe_folder, Path.cwd()]
    found = load_data(recipe, folders) if data is None else data
    # what is wrong whatever the loss is told at once, and not once for each
    _check(make_network(recipe, found, folders), recipe, found)
    chosen_by = _chosen_by(recipe)
    rows = []
    with tracked_run(recipe.name, name=f"compare {', '.join(configs)}") as run_id:
        log_data(found)
        for text, config in configs.items():
            values: list[Mapping[str, float]] = []
            done, failures = [], {}
            for seed in seeds:
                one = replace(recipe, loss=config, seed=seed)
                try:
                    values.append(_train(one, text, found, recipe_folder))
                    done.append(seed)
                except Exception as error:  # noqa: BLE001 -- the other losses go on
                    is_ours = isinstance(error, ThresherError)
                    failures[seed] = str(error) if is_ours else f"{type(error).__name__}: {error}"
                    _logger.warning("%s, seed %d failed: %s", text, seed, failures[seed])
            names = dict.fromkeys(name for value in values for name in value)
            rows.append(
                ComparedLoss(
                    loss=text,
                    seeds=tuple(done),
                    figures={n: tuple(v[n] for v in values if n in v) for n in names},
                    failures=failures,
                )
            )
        rows.sort(key=lambda row: (not row.seeds, -row.mean(chosen_by)))
        compared = Comparison(
            name=recipe.name, run_id=run_id, losses=tuple(rows), chosen_by=chosen_by
        )
        with tempfile.TemporaryDirectory() as temporary:
            text = write_comparison(compared, Path(temporary))
            log_report(Path(temporary))
        log_description(text)
        log_tags({"thresher.winner": compared.winner.loss if compared.winner else "none"})
    return compared


def _chosen_by(recipe: Recipe) -> str:
    """Return the validation figure that orders the losses: the recipe's, where they share it."""
    metric = recipe.optimization.best_by
    if metric == "mean_average_precision":
        return "validation/mean_average_precision"
    # a loss's own value means nothing beside another's
    return f"validation/tuned/{'macro_f1' if metric == 'loss' else metric}"


def _train(
    recipe: Recipe, text: str, data: DataSet, recipe_folder: Path | None
) -> dict[str, float]:
    """Return the figures of one training, which is an MLflow run below the open one."""
    with tracked_run(recipe.name):
        log_recipe(recipe, name=f"{text}, seed {recipe.seed}")
        prepared = prepare(recipe, recipe_folder=recipe_folder, data=data)
        _check(prepared.network, recipe, data)
        with show_progress(
            f"{recipe.name} {text} seed {recipe.seed}", recipe.optimization.epochs
        ) as show:

            def on_epoch(epoch: EpochMetrics) -> None:
                show.epoch(epoch)
                log_epoch(epoch)

            fitted = fit(
                prepared.network,
                data.splits["train"],
                data.splits["validation"],
                prepared.loss,
                recipe.optimization,
                seed=recipe.seed,
                augment=data.augment,
                trim_by=data.trim_by,
                on_epoch=on_epoch,
                on_step=show.step,
            )
        found = _figures(recipe, data, prepared.network)
        log_figures({**found, "best_epoch": fitted.best_epoch})
        return found


def _check(network: nn.Module, recipe: Recipe, data: DataSet) -> None:
    check_network(
        network,
        data.splits["train"],
        trim_by=data.trim_by,
        largest=largest_ids(data),
        is_trained=recipe.optimization.epochs > 0,
    )


def _figures(recipe: Recipe, data: DataSet, network: nn.Module) -> dict[str, float]:
    """Return validation and test figures at 0.5, shared and tuned thresholds."""
    evaluations = {
        name: EvaluationSplit(
            inputs=data.splits[name].inputs,
            targets_NL=data.splits[name].targets_NL,
            logits_NL=predict_logits(network, data.splits[name].inputs, trim_by=data.trim_by),
        )
        for name in ("validation", "test")
    }
    rows = evaluations["validation"]
    tuned = tune_decision(data.labels, rows.logits_NL, rows.targets_NL, recipe.decision)
    found = figures(tuned, evaluations["test"])
    ranked = mean_average_precision(rows.targets_NL, tuned.decision.probabilities(rows.logits_NL))
    found["validation/mean_average_precision"] = ranked
    only = {"validation": rows}
    for (name, which), values in side_by_side(tuned, only).items():
        found.update({f"{name}/{which}/{metric}": value for metric, value in values.items()})
    return found
