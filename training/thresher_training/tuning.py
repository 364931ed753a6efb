"""New thresholds for a registered version: the same weights, another decision, a new version."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thresher import __version__
from thresher.config import from_mapping, to_mapping, to_toml
from thresher.decision import FloatArray
from thresher.errors import counted
from thresher.registry import (
    DECISION_DIGEST,
    DECISION_FILE,
    SETTINGS_FILE,
    TUNED_ON,
    ModelVersion,
    connect,
    register_decision,
    resolve,
)
from thresher_training.decisions import TunedDecision, tune_decision
from thresher_training.decisions.cuts import Progress
from thresher_training.descriptions import describe_tuning, describe_version
from thresher_training.hints import chosen_for, hints
from thresher_training.metrics import figures
from thresher_training.recipe import DecisionConfig
from thresher_training.scores_file import read_scores
from thresher_training.tracking import log_version_description

__all__ = ["TunedVersion", "changes", "settings_of", "tune_version"]

_MANY_LABELS = 500
_MAX_PARAM = 6000  # MLflow refuses longer values


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedVersion:
    """The version that a tuning registered."""

    version: ModelVersion
    source: ModelVersion
    """The version whose weights it shares."""

    tuned: TunedDecision
    config: DecisionConfig
    """What it was tuned by."""

    changes: tuple[str, ...]
    """The settings that differ from the source's, a line each, such as
    ``"objective: f1 -> micro_f1"``."""

    metrics: Mapping[str, float]
    """Test figures by name, such as ``"test/tuned/macro_f1"``."""

    chosen_for: Mapping[str, str]
    """What the thresholds of each kind (``"at_0.5"``, ``"shared"``, ``"tuned"``) are chosen for."""

    hints: tuple[str, ...]
    """What the tuned rows speak against, a line each."""


def settings_of(version: ModelVersion) -> DecisionConfig:
    """Return the settings that a version's decision was chosen by.

    Those of the recipe where it was trained, those of the tuning where it was tuned; the defaults
    where its run does not say.

    Raises:
        ConfigError: If what the run says is not understood.
    """
    return from_mapping(version.decision_settings(), DecisionConfig, where=f"{version.uri}")


def changes(before: DecisionConfig, after: DecisionConfig) -> tuple[str, ...]:
    """Return the settings that differ, a line each.

    Example:
        >>> changes(DecisionConfig(), DecisionConfig(objective="f2", objectives={"fog": "fixed=1"}))
        ('objective: f1 -> f2', 'objectives."fog": f1 -> fixed=1')
    """
    old, new = to_mapping(before), to_mapping(after)
    labels = dict.fromkeys((*before.objectives, *after.objectives))
    of_labels = [
        (
            f'objectives."{label}"',
            before.objectives.get(label, before.objective),
            after.objectives.get(label, after.objective),
        )
        for label in labels
    ]
    others = [(key, old[key], new[key]) for key in new if key != "objectives"]
    return tuple(
        f"{key}: {_shown(was)} -> {_shown(now)}"
        for key, was, now in (*others, *of_labels)
        if was != now
    )


def _shown(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else f"{value}"


def tune_version(
    uri: str,
    config: DecisionConfig | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    scores: Path | None = None,
    validation_logits_NL: tuple[FloatArray, str] | None = None,
    html: Path | None = None,
    alias: str = "candidate",
    progress: Callable[[str], None] = lambda _: None,
) -> TunedVersion:
    """Tune a registered version's decision and register the outcome as a new version.

    The rows are the validation split that was logged with the version's training. The new version
    shares the weights and differs in its decision; one MLflow run holds the decision, the table of
    labels, plots and the threshold explorer. If anything fails, nothing is registered.

    Args:
        uri: ``models:/NAME/N`` or ``models:/NAME@ALIAS``.
        config: Objectives, calibration, fallback; those of the version where left out.
        overrides: Keys of `DecisionConfig` that win over ``config``; ``objectives`` by label.
        scores: Rows to tune on instead; see `read_scores`.
        validation_logits_NL: float32 [N, L], what another engine gives for the validation rows, to
            tune on instead of what training logged; and what that engine is called.
        html: Where to write the threshold explorer too.
        alias: The alias that marks the new version.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the version does not exist or lacks what training logs.
        DataError: If scores or targets are not what tuning needs.
        ConfigError: If an objective or a label is not known.
        ParityError: If the version's program has other bytes than when it was registered.
    """
    # here, so that `read_scores` and the engine stay free of matplotlib and the browser page
    from thresher_training.tuning_report import write_tuning_report

    source = resolve(uri)
    source.check_program()
    start, was = settings_of(source), source.decision()
    config = _overridden(start if config is None else config, overrides or {})
    changed, labels = changes(start, config), was.labels
    if not source.decision_settings():
        progress(f"{source.uri} does not record its settings; starting from the defaults")
        if was.is_calibrated and config.calibration == "none":
            changed = (*changed, "calibration: as in decision.json -> none")
    test = source.evaluation("test")
    logits_NL, targets_NL, served_NL, tuned_on = _rows(source, scores, validation_logits_NL)
    progress(f"Tuning {counted(len(labels), 'label')} on {counted(len(targets_NL), 'row')}")
    on_labels = _tenths(progress)
    tuned = tune_decision(
        labels, logits_NL, targets_NL, config, served_logits_NL=served_NL, progress=on_labels
    )
    found = figures(tuned, test)
    about = hints(tuned, logits_NL, targets_NL)
    mlflow = connect()
    experiment = mlflow.get_run(source.run_id).info.experiment_id
    tags = {"thresher.tuned_from": source.uri, "thresher.version": __version__}
    if tuned_on != "validation":
        tags[TUNED_ON] = tuned_on
    what = describe_tuning(source.uri, config, changed, rows=tuned_on)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tuned.decision.save(folder / DECISION_FILE)
        (folder / SETTINGS_FILE).write_text(to_toml(config), encoding="utf-8")
        progress("Drawing plots and the threshold explorer")
        title = f"{source.name}, tuned from version {source.version}"
        write_tuning_report(tuned, logits_NL, targets_NL, folder, title=title)
        progress("Logging to MLflow")
        with mlflow.start_run(experiment_id=experiment, run_name=f"tune {source.uri}") as run:
            mlflow.set_tags({**tags, "mlflow.note.content": what})
            settings = to_mapping(config)
            # labels may hold what MLflow allows in no parameter's name: they go into a value
            settings["objectives"] = json.dumps(config.objectives, ensure_ascii=False)[:_MAX_PARAM]
            mlflow.log_params({**settings, "source": source.uri})
            mlflow.log_metrics(found)
            mlflow.log_artifacts(str(folder))
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_bytes((folder / "explorer.html").read_bytes())
    version = register_decision(
        source,
        run_id=run.info.run_id,
        alias=alias,
        tags={**tags, DECISION_DIGEST: tuned.decision.digest},
    )
    log_version_description(version, f"{what}\n\n{describe_version(version.uri, tuned, found)}")
    return TunedVersion(
        version=version,
        source=source,
        tuned=tuned,
        config=config,
        changes=changed,
        metrics=found,
        chosen_for=chosen_for(tuned),
        hints=about,
    )


def _rows(
    source: ModelVersion, scores: Path | None, other: tuple[FloatArray, str] | None
) -> tuple[FloatArray, FloatArray, FloatArray | None, str]:
    """Return logits and targets to tune on, the served model's logits of them, what they are."""
    if scores is not None:
        num_labels = source.decision().num_labels
        return *read_scores(scores, num_labels=num_labels), None, scores.name
    rows = source.evaluation("validation")
    if other is not None:
        return other[0], rows.targets_NL, None, f"validation, scored by {other[1]}"
    served_NL = None if rows.held_out_logits_NL is None else rows.logits_NL
    return rows.unseen_logits_NL, rows.targets_NL, served_NL, "validation"


def _tenths(progress: Callable[[str], None]) -> Progress:
    """Return what says so at each tenth of a pass over many labels."""
    shown = 0

    def on_labels(done: int, total: int) -> None:
        nonlocal shown
        tenths = 10 * done // total
        if total >= _MANY_LABELS and 0 < tenths < 10 and tenths != shown:
            progress(f"Tuning: {done:,} of {total:,} labels")
        shown = tenths

    return on_labels


def _overridden(config: DecisionConfig, overrides: Mapping[str, Any]) -> DecisionConfig:
    objectives = {**config.objectives, **overrides.get("objectives", {})}
    return from_mapping(
        {**to_mapping(config), **overrides, "objectives": objectives},
        DecisionConfig,
        where="thresher tune",
    )
