"""`thresher monitor`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import FiniteRange, json_option, repository_option
from thresher.cli.output import print_json, print_table, say, steps, tell
from thresher.errors import DataError, NotFoundError, counted

if TYPE_CHECKING:
    from thresher.registry import ModelVersion
    from thresher_serving.monitoring import Drift, Window

__all__ = ["monitor"]

_DRIFT_FOUND = 3
"""Exit code; 1 is for errors, 2 for wrong usage."""

_SHOWN = 12
_MOST_METRICS = 200
_RUN_TAG = "thresher.monitor_run"


@click.command()
@click.argument("reports", nargs=-1, metavar="[REPORT.json]...")
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="DIR",
    help="An output folder of `thresher score`; the same as naming its _report.json. Repeatable.",
)
@click.option("--merge", is_flag=True, help="Take all as one window, not each as one of its own.")
@click.option(
    "--alpha",
    type=FiniteRange(0, 1, min_open=True, max_open=True),
    default=0.01,
    show_default=True,
    help="How often a window without drift may be raised, over all that is tested of it.",
)
@repository_option
@click.option(
    "--report",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where page, pictures and JSON are written.  [default: .thresher/drift/NAME-VERSION]",
)
@click.option("--no-log", is_flag=True, help="Log nothing to MLflow.")
@json_option
def monitor(
    reports: tuple[str, ...],
    outputs: tuple[str, ...],
    merge: bool,
    alpha: float,
    repository: Path,
    folder: Path | None,
    no_log: bool,
    as_json: bool,
) -> None:
    """Compare scored rows with validation: rates, scores, inputs, rejects; say what moved.

    Each report or output folder of `thresher score` is a window. Validation is read from MLflow,
    or beside the published version. Exit code 0: nothing moved, 3: something did, 1: an error.

    Example: thresher monitor --output scored/2026-03-01
    """
    given = (*reports, *outputs)
    if not given:
        raise click.UsageError("name at least one report or --output folder of `thresher score`")
    from thresher_serving.monitoring import (
        compare,
        drifts_to_dict,
        merged,
        read_window,
        write_record,
    )

    with steps() as show:
        windows = [read_window(path) for path in given]
        for window in windows[1:]:
            windows[0].check_alike(window)
        if len({window.name for window in windows}) < len(windows):
            raise DataError("a window is named twice; its rows would be counted twice")
        if merge:
            windows = [merged(windows)]
        first = windows[0]
        show(f"Reading what validation of {first.title} was")
        baseline, version, why = _baseline(first, repository)
        drifts = [compare(window, baseline, alpha=alpha) for window in windows]
        show("Drawing")
        folder = folder or Path(".thresher") / "drift" / f"{first.model}-{first.version}"
        paths = write_record(drifts, folder)
        run_id = None if no_log else _logged(drifts, version, why, paths, show)
    found = any(drift.moved for drift in drifts)
    if as_json:
        print_json({**drifts_to_dict(drifts), "report": str(folder), "run_id": run_id})
    else:
        _tell(drifts)
        say(f"Page and pictures: {paths[1]}" + (f"; MLflow's run {run_id}" if run_id else ""))
    if found:
        sys.exit(_DRIFT_FOUND)


def _tell(drifts: Sequence[Drift]) -> None:
    """Print what moved, window by window."""
    from thresher_serving.monitoring.page import KINDS, interval_text, p_text, value_text

    for drift in drifts:
        window = drift.window
        head = f"{window.name}: {counted(window.num_rows, 'row')} of {window.title}"
        for note in drift.notes:
            say(f"{window.name}: {note}")
        total = sum(drift.num_tests.values())
        if not drift.moved:
            tell(f"{head}: nothing moved, of {counted(total, 'thing')} tested at {drift.alpha:g}")
            continue
        print_table(
            head,
            ["what moved", "kind", "#validation", "#window", "#change, points", "#sd", "#p"],
            [
                [
                    finding.name,
                    KINDS[finding.kind],
                    value_text(finding, finding.before),
                    value_text(finding, finding.now),
                    interval_text(finding),
                    f"{finding.shift:+.2f}",
                    p_text(finding),
                ]
                for finding in drift.moved[:_SHOWN]
            ],
        )
        more = len(drift.moved) - _SHOWN
        if more > 0:
            say(f"and {more:,} more: see drift.json")
        tell(
            f"{window.name}: drift, {len(drift.moved):,} of {counted(total, 'thing')} tested at "
            f"{drift.alpha:g} moved"
        )


def _baseline(window: Window, repository: Path) -> tuple[Window, ModelVersion | None, str]:
    """Return validation's rows of the version, the version in MLflow, and why there is none.

    The rows are read from MLflow, else from the repository.

    Raises:
        NotFoundError: If neither knows them.
        DataError: If the version's labels are others, or a file cannot be read.
    """
    from thresher_serving.monitoring import published_baseline

    version: ModelVersion | None = None
    why = "no MLFLOW_TRACKING_URI, and no mlflow.db here"
    if os.environ.get("MLFLOW_TRACKING_URI") or Path("mlflow.db").exists():
        # a scheduler's job is not to wait for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        from thresher.registry import resolve

        try:
            version = resolve(f"models:/{window.model}/{window.version}")
            return _logged_baseline(window, version), version, ""
        except ModuleNotFoundError as error:
            why = f"{error.name} is not installed here"
        except NotFoundError as error:
            why = str(error).partition(": API request")[0]
    try:
        found = published_baseline(repository, window.model, window.version)
    except NotFoundError as error:
        raise NotFoundError(
            f"{window.title}: nothing to compare with. MLflow: {why}. Repository: {error}. "
            "Set MLFLOW_TRACKING_URI to where it was trained, or name the --repository"
        ) from None
    say(f"Validation is read from {repository} ({why})")
    return found, version, why


def _logged_baseline(window: Window, version: ModelVersion) -> Window:
    """Return validation's rows as training logged them."""
    from thresher.artifacts.input_spec import INPUT_SPEC_FILE, InputSpec
    from thresher.observations import Observations
    from thresher_serving.monitoring import Window as SomeRows

    decision = version.decision()
    split = version.evaluation("validation")
    try:
        columns = InputSpec.load(version.training_artifact(f"assets/{INPUT_SPEC_FILE}").parent)
    except NotFoundError:
        columns = None
    return SomeRows(
        name="validation, as logged to MLflow",
        model=window.model,
        version=window.version,
        labels=decision.labels,
        observations=Observations.of_validation(
            split, decision, None if columns is None else columns.columns
        ),
    )


def _logged(
    drifts: Sequence[Drift],
    version: ModelVersion | None,
    why: str,
    paths: Sequence[Path],
    show: Callable[[str], None],
) -> str | None:
    """Log the outcome in the version's experiment, return the run; None, and a warning, if not."""
    if version is None:
        show(f"WARNING: nothing is logged to MLflow: {why}")
        return None
    from thresher.registry import connect

    show("Logging to MLflow")
    mlflow = connect()
    try:
        return _log_run(mlflow, drifts, version, paths)
    except (mlflow.MlflowException, OSError) as error:
        show(f"WARNING: not logged to MLflow: {str(error).partition(chr(10))[0]}")
        return None


def _log_run(
    mlflow: Any, drifts: Sequence[Drift], version: ModelVersion, paths: Sequence[Path]
) -> str:
    from mlflow.entities import LoggedModelInput

    client = mlflow.MlflowClient()
    found = any(drift.moved for drift in drifts)
    with mlflow.start_run(
        experiment_id=client.get_run(version.run_id).info.experiment_id,
        run_name=f"monitor {version.uri}",
        tags={
            "thresher.model": version.name,
            "thresher.version": str(version.version),
            "thresher.drift": "found" if found else "none",
            "thresher.windows": ", ".join(drift.window.name for drift in drifts)[:5000],
        },
    ) as run:
        run_id = str(run.info.run_id)
        model_id = version.source.removeprefix("models:/")
        if model_id.startswith("m-"):
            client.log_inputs(run_id, models=[LoggedModelInput(model_id=model_id)])
        mlflow.log_params({"alpha": drifts[0].alpha, "baseline": drifts[0].baseline.name})
        for step, drift in enumerate(drifts):
            mlflow.log_metrics(_metrics(drift), step=step)
        for path in paths:
            mlflow.log_artifact(str(path), "drift")
    client.set_model_version_tag(version.name, str(version.version), _RUN_TAG, run_id)
    return run_id


def _metrics(drift: Drift) -> dict[str, float]:
    """Return figures of a window by name; of labels, those of the largest shift."""
    window = drift.window
    told: dict[str, float] = {
        "drift/found": float(bool(drift.moved)),
        "drift/largest_shift": max((abs(f.shift) for f in drift.moved), default=0.0),
        "rows/scored": float(window.num_rows),
        "rows/rejected": float(window.num_rejected),
    }
    for kind in drift.num_tests:
        told[f"drift/{kind}_moved"] = float(sum(f.kind == kind for f in drift.moved))
    for finding in drift.of("rate")[:_MOST_METRICS]:
        name = re.sub(r"[^\w./ :-]", "_", finding.name)
        told[f"rate/{name}"] = finding.now
    return told
