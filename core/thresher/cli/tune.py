"""`thresher tune` and `thresher diff`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import json_option
from thresher.cli.output import print_figures, print_json, print_table, say, steps, tell
from thresher.errors import counted

if TYPE_CHECKING:
    from thresher_training.decisions import LabelReport
    from thresher_training.tuning import TunedVersion

__all__ = ["diff", "tune"]

_MOST_ROWS = 60


@click.command()
@click.argument("model_uri", metavar="MODEL")
@click.option(
    "--objective",
    help="What thresholds make as large as can be: f1, f2, precision@recall>=0.9, "
    "recall@precision>=0.95, balanced_accuracy, mcc, cost(fp=1,fn=5), prevalence, fixed=0.7; "
    "jointly micro_f1, example_f1, shared_f1.",
)
@click.option(
    "--set",
    "choices",
    multiple=True,
    metavar="LABEL=VALUE",
    help="A label's own threshold (0.7) or objective (f2). Repeatable.",
)
@click.option(
    "--calibrate",
    type=click.Choice(["none", "platt", "temperature"]),
    help="Calibration that is fitted before the thresholds.",
)
@click.option(
    "--min-positives",
    type=click.IntRange(min=1),
    help="Labels with fewer take the one threshold that all share.",
)
@click.option(
    "--band",
    type=click.FloatRange(0, 0.1),
    help="The narrowest gap between scores that a threshold may stand in; what `thresher export` "
    "measured, where it says so.",
)
@click.option(
    "--shrink/--no-shrink",
    default=None,
    help="Draw rare labels' thresholds towards the shared one.",
)
@click.option(
    "--intervals/--no-intervals",
    default=None,
    help="Cross-validate: 95 % intervals and optimism.",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tune on this NPZ or Parquet file (logits or probabilities, and targets).",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Tune on the scores of the model as `thresher export --precision` converts it, not on "
    "torch's: for fp16 and int8, and for networks trained in bf16.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the threshold explorer here too.",
)
@click.option("--alias", default="candidate", show_default=True, help="Marks the new version.")
@click.option(
    "--rollout",
    "rolls_out",
    is_flag=True,
    help="Put it into service too, on the server that runs here, as `thresher rollout` does; "
    "--rollout goes without --json.",
)
@json_option
def tune(
    model_uri: str,
    objective: str | None,
    choices: tuple[str, ...],
    calibrate: str | None,
    min_positives: int | None,
    band: float | None,
    shrink: bool | None,
    intervals: bool | None,
    scores: Path | None,
    precision: Any,
    html: Path | None,
    alias: str,
    rolls_out: bool,
    as_json: bool,
) -> None:
    """Choose new thresholds for a registered version; register them with the same weights.

    MODEL is NAME/VERSION or NAME@ALIAS, with or without models:/ before it. --rollout goes without
    --json. What is not given stays as the version was decided: objectives, calibration, shrinkage
    and so on are those of its recipe or of its last tuning. What changes is printed.

    Example: thresher tune digits@candidate --objective "recall@precision>=0.95"
    """
    import dataclasses

    if rolls_out and as_json:
        raise click.UsageError("--rollout goes without --json")
    if scores and precision:
        raise click.UsageError("--scores goes without --precision: the file has the scores")
    from thresher.registry import resolve
    from thresher_training.tuning import tune_version

    given = {
        "objective": objective,
        "objectives": dict(_own_objective(choice) for choice in choices) or None,
        "calibration": calibrate,
        "min_positives": min_positives,
        "band": band,
        "shrinkage": shrink,
        "intervals": intervals,
    }
    overrides = {key: value for key, value in given.items() if value is not None}
    with steps() as show:
        logits = None
        if precision:
            from thresher_export.converted import converted_logits

            show(f"Scoring the validation rows of {model_uri}, converted to {precision}")
            scored = converted_logits(resolve(model_uri), precision=precision)
            logits = (scored, f"ONNX Runtime in {precision}")
        done = tune_version(
            model_uri,
            overrides=overrides,
            scores=scores,
            validation_logits_NL=logits,
            html=html,
            alias=alias,
            progress=show,
        )
    version, source = done.version, done.source
    if as_json:
        print_json(
            {
                "name": version.name,
                "version": version.version,
                "uri": version.uri,
                "tuned_from": source.uri,
                "settings": dataclasses.asdict(done.config),
                "changes": list(done.changes),
                "metrics": dict(done.metrics),
                "labels": [dataclasses.asdict(row) for row in done.tuned.report],
                "notes": list(done.tuned.notes),
                "chosen_for": dict(done.chosen_for),
                "hints": list(done.hints),
            }
        )
        return
    _print_tuned(done)
    tell(f"Registered {version.uri} as {version.name}@{alias}, with {source.uri}'s weights")
    if html:
        tell(f"Threshold explorer: {html}")
    if rolls_out:
        from thresher.cli.rollout import put_into_service

        put_into_service(version.uri)
        return
    say(f"Next: thresher export {version.uri}, or thresher diff {source.uri} {version.uri}")


def _print_tuned(done: TunedVersion) -> None:
    """Print settings, labels, notes and figures of a tuning."""
    version, source = done.version, done.source
    tell(f"Settings: those of {source.uri}" + (", but" if done.changes else ""))
    for change in done.changes:
        tell(f"  {change}")
    before = source.decision().thresholds
    rows = done.tuned.report[:_MOST_ROWS]
    print_table(
        f"{source.uri} -> {version.uri}, on the rows that were tuned on",
        ["label", "#positives", "#threshold before", "#now", "objective", "#value", "remarks"],
        [
            [
                row.label,
                f"{row.positives:,}",
                f"{before[k]:.4f}",
                f"{row.threshold:.4f}",
                row.objective,
                _value(row),
                "; ".join(filter(None, (row.reason, *row.warnings))),
            ]
            for k, row in enumerate(rows)
        ],
    )
    if len(rows) < len(done.tuned.report):
        more = len(done.tuned.report) - len(rows)
        say(f"... and {counted(more, 'label')} more, in the run's labels.csv")
    for note in done.tuned.notes:
        tell(note)
    print_figures(version.uri, done.metrics, done.chosen_for, done.hints)
    if done.config.calibration != "none":
        for name in ("expected_calibration_error", "brier_score"):
            before_it, after = (done.metrics[f"test/{name}{x}"] for x in ("_uncalibrated", ""))
            tell(f"{name.replace('_', ' ')} on test: {before_it:.4f} -> {after:.4f}")


def _own_objective(choice: str) -> tuple[str, str]:
    """Return label and objective of LABEL=VALUE; a number is a fixed threshold."""
    from thresher.errors import ConfigError

    label, equals, value = choice.rpartition("=") if _is_number(choice) else choice.partition("=")
    if not equals or not label or not value:
        raise ConfigError(f"--set {choice}: expected LABEL=0.7 or LABEL=OBJECTIVE")
    return label, f"fixed={value}" if _is_number(choice) else value


def _is_number(choice: str) -> bool:
    try:
        float(choice.rpartition("=")[2])
    except ValueError:
        return False
    return True


def _value(row: LabelReport) -> str:
    text = f"{row.value:.4f}"
    if row.value_interval:
        text += f" [{row.value_interval[0]:.3f}, {row.value_interval[1]:.3f}]"
    return text


@click.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="The rows that are compared.",
)
@json_option
def diff(first: str, second: str, split: str, as_json: bool) -> None:
    """Show what changes between two versions, label by label, on the same rows.

    FIRST and SECOND are NAME/VERSION or NAME@ALIAS, with or without models:/ before them.

    Example: thresher diff digits/1 digits/2
    """
    import dataclasses

    from thresher.registry import resolve
    from thresher_training.difference import diff_versions

    a, b = resolve(first), resolve(second)
    for version in (a, b):
        version.check_program()
    found = diff_versions(a, b, split=split)
    if as_json:
        print_json(
            {
                "first": a.uri,
                "second": b.uri,
                "split": split,
                "labels": [dataclasses.asdict(row) for row in found],
            }
        )
        return
    print_table(
        f"{a.uri} -> {b.uri} on the {split} split",
        ["label", "#threshold", "#now", "#F1", "#now", "#change [95 %]", "#to yes", "#to no"],
        [
            [
                row.label,
                *(f"{x:.4f}" for x in (*row.thresholds, *row.f1)),
                f"{row.change:+.4f} [{row.interval[0]:+.3f}, {row.interval[1]:+.3f}]",
                f"{row.to_yes:,}",
                f"{row.to_no:,}",
            ]
            for row in found
        ],
    )
    flips = sum(row.to_yes + row.to_no for row in found)
    tell(f"Decisions that differ: {flips:,}")
