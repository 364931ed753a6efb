"""New thresholds for a registered version: the same weights, another decision, a new version."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from thresher.config import to_toml
from thresher.errors import counted
from thresher.registry import DECISION_FILE, ModelVersion, connect, register_decision, resolve
from thresher_training.decisions import TunedDecision, tune_decision
from thresher_training.metrics import figures
from thresher_training.recipe import DecisionConfig
from thresher_training.scores_file import read_scores

__all__ = ["TunedVersion", "tune_version"]

_MANY_LABELS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TunedVersion:
    """The version that a tuning registered."""

    version: ModelVersion
    source: ModelVersion
    """The version whose weights it shares."""

    tuned: TunedDecision
    metrics: Mapping[str, float]
    """Test figures by name, such as ``"test/tuned/macro_f1"``."""


def tune_version(
    uri: str,
    config: DecisionConfig,
    *,
    scores: Path | None = None,
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
        config: Objectives, calibration, fallback.
        scores: Rows to tune on instead; see `read_scores`.
        html: Where to write the threshold explorer too.
        alias: The alias that marks the new version.
        progress: Called with a line for each step before it runs.

    Raises:
        NotFoundError: If the version does not exist or lacks what training logs.
        DataError: If scores or targets are not what tuning needs.
        ConfigError: If an objective or a label is not known.
    """
    # here, so that `read_scores` and the engine stay free of matplotlib and the browser page
    from thresher_training.tuning_report import write_tuning_report

    source = resolve(uri)
    labels = source.decision().labels
    test = source.evaluation("test")
    if scores is None:
        rows = source.evaluation("validation")
        logits_NL, targets_NL = rows.unseen_logits_NL, rows.targets_NL
    else:
        logits_NL, targets_NL = read_scores(scores, num_labels=len(labels))
    progress(f"Tuning {counted(len(labels), 'label')} on {counted(len(targets_NL), 'row')}")
    shown = 0

    def on_labels(done: int, total: int) -> None:
        """Say so at each tenth of a pass over many labels."""
        nonlocal shown
        tenths = 10 * done // total
        if total >= _MANY_LABELS and 0 < tenths < 10 and tenths != shown:
            progress(f"Tuning: {done:,} of {total:,} labels")
        shown = tenths

    tuned = tune_decision(labels, logits_NL, targets_NL, config, progress=on_labels)
    found = figures(tuned, test)
    mlflow = connect()
    experiment = mlflow.get_run(source.run_id).info.experiment_id
    tags = {"thresher.tuned_from": source.uri}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tuned.decision.save(folder / DECISION_FILE)
        (folder / "decision.toml").write_text(to_toml(config), encoding="utf-8")
        progress("Drawing plots and the threshold explorer")
        title = f"{source.name}, tuned from version {source.version}"
        write_tuning_report(tuned, logits_NL, targets_NL, folder, title=title)
        progress("Logging to MLflow")
        with mlflow.start_run(experiment_id=experiment, run_name=f"tune {source.uri}") as run:
            mlflow.set_tags(tags)
            mlflow.log_param("objective", config.objective)
            mlflow.log_param("calibration", config.calibration)
            mlflow.log_param("source", source.uri)
            mlflow.log_metrics(found)
            mlflow.log_artifacts(str(folder))
        if html is not None:
            html.parent.mkdir(parents=True, exist_ok=True)
            html.write_bytes((folder / "explorer.html").read_bytes())
    version = register_decision(
        source,
        run_id=run.info.run_id,
        alias=alias,
        tags={**tags, "thresher.decision_sha256": tuned.decision.digest},
    )
    return TunedVersion(version=version, source=source, tuned=tuned, metrics=found)
