"""One training run from a recipe to a registered version."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from thresher import __version__
from thresher.artifacts.input_spec import INPUT_SPEC_FILE
from thresher.decision import FloatArray
from thresher.errors import ConfigError, ThresherError, TrainingError
from thresher.evaluation import EvaluationSplit
from thresher.registry import DECISION_DIGEST, register
from thresher_training.cross_fit import Folds, MeanOfNetworks
from thresher_training.data import DataSet, Split
from thresher_training.decisions import TunedDecision, tune_decision
from thresher_training.descriptions import describe_run, describe_version
from thresher_training.examples import copy_examples, picture_input
from thresher_training.fitting import Fitting
from thresher_training.hints import chosen_for, hints
from thresher_training.loop import (
    Checkpoints,
    FitResult,
    Team,
    find_device,
    predict_logits,
    stop_on_signals,
    team_of_processes,
)
from thresher_training.metrics import figures
from thresher_training.preflight import check_conversion, try_network
from thresher_training.prepare import Loss, Prepared, check_names, load_data, prepare
from thresher_training.progress import warn
from thresher_training.recipe import Recipe
from thresher_training.report import EXAMPLES_FOLDER, Outcome, write_report
from thresher_training.resumption import about, check_data, check_recipe, check_run, logged_model
from thresher_training.tracking import (
    log_data,
    log_description,
    log_figures,
    log_network,
    log_recipe,
    log_report,
    log_version_description,
    patiently,
    tracked_run,
)
from thresher_training.trial_rows import largest_ids

__all__ = ["TrainedModel", "train"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedModel:
    """The registered version that a training run gave."""

    name: str
    version: int
    run_id: str
    metrics: Mapping[str, float]
    """Test figures by name, such as ``"test/tuned/macro_f1"``."""
    chosen_for: Mapping[str, str] = field(default_factory=dict)
    """What the thresholds of each kind (``"at_0.5"``, ``"shared"``, ``"tuned"``) are chosen for."""
    hints: tuple[str, ...] = ()
    """What the validation rows speak against, a line each."""

    @property
    def uri(self) -> str:
        """The model URI that names exactly this version."""
        return f"models:/{self.name}/{self.version}"


def train(
    recipe: Recipe,
    *,
    recipe_folder: Path | None = None,
    data: DataSet | None = None,
    network: Callable[..., Any] | nn.Module | None = None,
    loss: Loss | None = None,
    resume: str | None = None,
) -> TrainedModel:
    """Return the version that a recipe's training run registered.

    One MLflow run holds everything: parameters, metrics by epoch, the logits model, the decision,
    the evaluation rows, tables and plots. If anything fails, the run is marked FAILED (or KILLED
    after SIGTERM or Ctrl-C), and no version is registered. Checkpoints lie in the working folder
    until one is.

    Args:
        recipe: What to train.
        recipe_folder: Searched first for the modules that the recipe names, then the working
            folder.
        data: Instead of what ``[data]`` names.
        network: A factory or a finished network, instead of what ``[network]`` names.
        loss: Instead of what ``[loss]`` names: the mean over the known targets.
        resume: The id of a run that was cut off or could not be tuned, to go on with.

    Raises:
        ConfigError: If the recipe names what does not exist or does not fit, or is not that of
            the run to resume.
        DataError: If the data are not what multi-label training needs, or not those of the run.
        NotFoundError: If the run to resume or its checkpoint does not exist.
        TrainingError: If the network does not fit the data, the doctor finds an error, the loss
            is no longer finite, memory does not suffice, or MLflow refuses.
        Interrupted: After SIGTERM or Ctrl-C; a KeyboardInterrupt that says how to go on.
    """
    folders = [Path.cwd()] if recipe_folder is None else [recipe_folder, Path.cwd()]
    check_names(recipe, folders, needs_data=data is None, needs_network=network is None)
    with stop_on_signals() as stop, team_of_processes() as team, ExitStack() as stack:
        checkpoint = None if resume is None else _open_checkpoint(recipe, resume, team)
        # what the run is resumed with is compared before the run is touched
        if checkpoint is not None:
            data = load_data(recipe, folders) if data is None else data
            check_data(checkpoint["about"], data, str(resume))
        run_id = team.on_main(lambda: stack.enter_context(tracked_run(recipe.name, resume=resume)))
        stack.callback(stop.ending)  # else a signal could keep the run from being closed
        team.on_main(lambda: log_recipe(recipe))
        found = load_data(recipe, folders) if data is None else data
        team.on_main(lambda: warn(f"{recipe.name}: {found.source}"))
        _check_examples(recipe, found)
        if checkpoint is None:
            team.on_main(lambda: log_data(found))
        prepared = prepare(
            recipe, recipe_folder=recipe_folder, data=found, network=network, loss=loss
        )
        folds, members = None, [prepared]
        if recipe.cross_fit is not None:
            folds = Folds.of(found, recipe.cross_fit, seed=recipe.seed)
            members = [
                prepare(
                    replace(recipe, seed=(recipe.seed * recipe.cross_fit + fold) % 2**63),
                    recipe_folder=recipe_folder,
                    data=without_fold,
                    network=copy.deepcopy(network) if isinstance(network, nn.Module) else network,
                    loss=loss,
                )
                for fold, without_fold in enumerate(folds.data_sets)
            ]
        kept = about(recipe, found) if checkpoint is None else checkpoint["about"]
        fitting = Fitting(members=members, about=kept, run_id=run_id, team=team, stop=stop)
        done = _Training(prepared, folds, fitting, is_resumed=checkpoint is not None).run()
        stack.close()  # the run is closed, and only then is the checkpoint of no more use
        if team.is_main:
            Checkpoints(run_id).remove()
    return done


def _open_checkpoint(recipe: Recipe, run_id: str, team: Team) -> dict[str, Any]:
    team.on_main(lambda: check_run(run_id))
    checkpoint = Checkpoints(run_id).load()
    check_recipe(checkpoint["about"], recipe, run_id)
    return checkpoint


def _check_examples(recipe: Recipe, data: DataSet) -> None:
    inputs = data.splits["test"].inputs
    if recipe.examples and picture_input(inputs) is None:
        got = ", ".join(f"{name}: {a.dtype} {list(a.shape)}" for name, a in inputs.items())
        raise ConfigError(
            "[examples] needs exactly one input, a picture uint8 [N, 1 or 3, H, W]; "
            f"the data have {got}. Leave the section out"
        )


@dataclass(slots=True)
class _Training:
    """What happens in the open run, in its order."""

    prepared: Prepared
    """What the recipe names; what is fitted are the networks of `fitting`."""

    folds: Folds | None
    fitting: Fitting
    is_resumed: bool
    network: nn.Module = field(init=False)
    """What is logged and evaluated."""

    def __post_init__(self) -> None:
        networks = [member.network for member in self.fitting.members]
        self.network = networks[0] if self.folds is None else MeanOfNetworks(networks)

    def run(self) -> TrainedModel:
        recipe, data, team = self.prepared.recipe, self.prepared.data, self.fitting.team
        is_trained = recipe.optimization.epochs > 0
        for network in dict.fromkeys((self.prepared.network, self.network)):
            trial = try_network(
                *(network, data.splits["train"]),
                trim_by=data.trim_by,
                is_trained=is_trained,
                largest=largest_ids(data),
            )
        free_axes = trial.free_axes
        missing = team.on_main(lambda: check_conversion(trial))
        if missing and team.is_main:
            warn(
                f"{recipe.name}: whether it can be exported to ONNX was not tried: {missing} is "
                "not installed (pip install 'thresher[export]')"
            )
        if not self.is_resumed:
            team.on_main(self._examine)
        was_fitted = self.is_resumed and self.fitting.is_finished
        fitted = self.fitting.run(resumed=self.is_resumed)
        # before the thresholds: an objective that cannot be met must not cost the weights
        model_uri = team.on_main(lambda: self._log_network(free_axes, was_fitted=was_fitted))
        evaluations = self._evaluate()
        return team.on_main(lambda: self._register(fitted, evaluations, model_uri))

    def _examine(self) -> None:
        """Let the doctor look, and log what it found together with the data's assets."""
        from thresher_training.doctor import examine

        diagnosis = examine(self.prepared)
        with tempfile.TemporaryDirectory() as temporary:
            diagnosis.write(Path(temporary) / "doctor")
            for name, path in self.prepared.data.assets.items():
                place = Path(temporary) / "assets" / name
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
            if self.prepared.data.input_spec is not None:
                place = Path(temporary) / "assets" / INPUT_SPEC_FILE
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(self.prepared.data.input_spec.to_json(), encoding="utf-8")
            log_report(Path(temporary))
        for finding in diagnosis.findings:
            if finding.level == "warning":
                warn(f"{self.prepared.recipe.name}: {finding}")
        if diagnosis.errors:
            raise TrainingError(diagnosis.complaint())

    def _log_network(self, free_axes: Mapping[str, tuple[int, ...]], *, was_fitted: bool) -> str:
        if was_fitted:
            logged = patiently(lambda: logged_model(self.fitting.run_id))
            if logged is not None:
                return logged
        data = self.prepared.data
        return log_network(
            self.network, data.splits["train"], free_axes=free_axes, labels=data.labels
        )

    def _evaluate(self) -> dict[str, EvaluationSplit]:
        """Return the rows of validation and test with their logits; all processes take a part."""
        data = self.prepared.data
        validation, held_out_logits_NL = data.splits["validation"], None
        if self.folds is not None:
            validation = self.folds.rows
            held_out_logits_NL = np.empty_like(validation.targets_NL)
            for fold, member in enumerate(self.fitting.members):
                held_out = member.data.splits["validation"]
                found_NL = self._predict(member.network, held_out)
                held_out_logits_NL[self.folds.fold_N == fold] = found_NL
        test = data.splits["test"]
        return {
            "validation": EvaluationSplit(
                inputs=validation.inputs,
                targets_NL=validation.targets_NL,
                logits_NL=self._predict(self.network, validation),
                held_out_logits_NL=held_out_logits_NL,
            ),
            "test": EvaluationSplit(
                inputs=test.inputs,
                targets_NL=test.targets_NL,
                logits_NL=self._predict(self.network, test),
            ),
        }

    def _predict(self, network: nn.Module, split: Split) -> FloatArray:
        optimization, team = self.prepared.recipe.optimization, self.fitting.team
        network.to(find_device(optimization, local_rank=team.local_rank))
        trim_by = self.prepared.data.trim_by
        logits_NL = predict_logits(network, split.inputs, trim_by=trim_by, team=team)
        network.cpu()
        return logits_NL

    def _register(
        self, fitted: FitResult, evaluations: dict[str, EvaluationSplit], model_uri: str
    ) -> TrainedModel:
        """Choose the thresholds, report, register."""
        recipe, data = self.prepared.recipe, self.prepared.data
        tuned = self._tune(evaluations["validation"])
        outcome = Outcome(
            name=recipe.name,
            data=data,
            fitted=fitted,
            tuned=tuned,
            evaluations=evaluations,
            recipe=recipe,
        )
        found = figures(tuned, evaluations["test"])
        log_figures({**found, "best_epoch": fitted.best_epoch})
        validation = evaluations["validation"]
        said = hints(tuned, validation.unseen_logits_NL, validation.targets_NL)
        log_description(describe_run(recipe.name, data, tuned, found, said))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            num_examples = recipe.examples.count if recipe.examples else 0
            write_report(outcome, folder, num_examples=num_examples)
            log_report(folder)
            if recipe.examples:
                copy_examples(folder / EXAMPLES_FOLDER, Path(recipe.examples.folder))
        version = patiently(
            lambda: register(
                model_uri=model_uri,
                name=recipe.name,
                alias=recipe.alias,
                tags={
                    "thresher.version": __version__,
                    DECISION_DIGEST: tuned.decision.digest,
                },
            )
        )
        log_version_description(version, describe_version(version.uri, tuned, found))
        return TrainedModel(
            name=version.name,
            version=version.version,
            run_id=self.fitting.run_id,
            metrics=found,
            chosen_for=chosen_for(tuned),
            hints=said,
        )

    def _tune(self, validation: EvaluationSplit) -> TunedDecision:
        recipe, labels = self.prepared.recipe, self.prepared.data.labels
        try:
            return tune_decision(
                labels,
                validation.unseen_logits_NL,
                validation.targets_NL,
                recipe.decision,
                served_logits_NL=None if self.folds is None else validation.logits_NL,
            )
        except ThresherError as error:
            more = self.fitting.how_to_go_on(
                "with another objective, without training again",
                override=" --set decision.objective=f1",
            )
            raise type(error)(f"{error}{more}") from error
