"""`thresher score`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import (
    FiniteRange,
    csv_options,
    json_option,
    repository_option,
    server_option,
)
from thresher.cli.output import print_json, print_table, say, steps, tell
from thresher.cli.score_progress import shown_progress
from thresher.cli.serve import connect
from thresher.cli.versions import published_version, repository_and_registry
from thresher.errors import ConfigError

if TYPE_CHECKING:
    from thresher.tables.csv_files import CsvOptions
    from thresher_serving.scoring import ScoredVersion, ScoringReport, Workers

__all__ = ["score"]

_SHOWN_LABELS = 12


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "given",
    required=True,
    metavar="DATA",
    help="A file, folder, glob or URI: Parquet, Arrow, CSV, TSV, NPZ, ARFF, or pictures.",
)
@click.option("--output", required=True, metavar="DIR", help="A folder or URI; empty or begun.")
@click.option(
    "--engine",
    type=click.Choice(["onnxruntime", "triton", "ray"]),
    default="onnxruntime",
    show_default=True,
    help="This process, a Triton server, or a Ray cluster.",
)
@click.option("--columns", metavar="A,B", help="Columns that are taken over, such as ids.")
@click.option(
    "--labels",
    type=click.Choice(["names", "multihot", "both"]),
    default="names",
    show_default=True,
    help="How each row's labels are written.",
)
@click.option(
    "--probabilities",
    type=click.Choice(["all", "positive", "top5", "none"]),
    default="all",
    show_default=True,
    help="Which probabilities are written.",
)
@click.option(
    "--features",
    metavar="A,B_*",
    help="The columns of the input of numbers, in the order of training, where that is not known.",
)
@click.option("--text-column", metavar="NAME", help="The column with texts, if it is another one.")
@csv_options
@click.option(
    "--max-reject-rate",
    type=FiniteRange(0, 1),
    default=0.01,
    show_default=True,
    help="Exit with 1 if a larger share of the rows cannot be scored.",
)
@repository_option
@server_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Batches at a time; with --engine ray the actors.  [default: one a core]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where ONNX Runtime computes.",
)
@click.option("--unproven", is_flag=True, help="Go on without a certificate that fits.")
@click.option("--log-json", is_flag=True, help="Progress as lines of JSON.")
@json_option
def score(
    model: str,
    given: str,
    output: str,
    engine: str,
    columns: str | None,
    labels: str,
    probabilities: str,
    features: str | None,
    text_column: str | None,
    csv: CsvOptions,
    max_reject_rate: float,
    repository: Path,
    server: str | None,
    workers: int | None,
    device: str,
    unproven: bool,
    log_json: bool,
    as_json: bool,
) -> None:
    """Score every row of a data set with the decision that is served.

    MODEL is NAME/VERSION, or NAME@ALIAS as MLflow knows it, with or without models:/ before it; it
    is exported where it is not published yet. --server goes with --engine triton. Rows that cannot
    be scored are written to DIR/_rejects with the reason. A job that was broken off goes on when
    the same command is run again.

    Example: thresher score digits@champion --input data/ --output scored/ --columns id
    """
    from thresher_serving.scoring import OutputForm, ScoringOptions, score_files

    if server is not None and engine != "triton":
        raise ConfigError(f"--server is given, and --engine is {engine}: give --engine triton")
    options = ScoringOptions(
        form=OutputForm(
            columns=_names(columns),
            labels=labels,  # type: ignore[arg-type]  # Click lets no other through
            probabilities=probabilities,  # type: ignore[arg-type]
        ),
        features=_names(features),
        text_column=text_column,
        csv=csv,
    )
    with steps() as show:
        version = _version(model, repository, unproven, show)
        show(f"Loading {version.title}")
        who = _workers(engine, version, server=server, number=workers, device=device)
    try:
        with shown_progress(log_json) as (begun, progress):
            report = score_files(
                version,
                given=given,
                output=output,
                workers=who,
                options=options,
                begun=begun,
                progress=progress,
            )
    finally:
        who.close()
    if as_json:
        print_json(report.to_dict())
    else:
        _tell(report)
    _exit(report, max_reject_rate)


def _names(given: str | None) -> tuple[str, ...]:
    """Return names that commas part."""
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def _version(
    model: str, repository: Path, unproven: bool, show: Callable[[str], None]
) -> ScoredVersion:
    from thresher_serving.scoring import ScoredVersion

    published = repository_and_registry(repository)
    name, version = published_version(published, model, show)
    show(f"Checking the certificate of {name}/{version}")
    return ScoredVersion.published(published, name, version, unproven=unproven)


def _workers(
    engine: str, version: ScoredVersion, *, server: str | None, number: int | None, device: str
) -> Workers:
    from thresher_serving.scoring import HereWorkers, OnnxRuntimeEngine, TritonEngine

    if engine == "ray":
        from thresher_serving.scoring.ray_workers import RayWorkers

        return RayWorkers(number)
    if engine == "triton":
        return HereWorkers(TritonEngine(version, connect(server), calls=number or 4))
    return HereWorkers(OnnxRuntimeEngine(version, threads=number, device=device))


def _tell(report: ScoringReport) -> None:
    tally = report.tally
    counted = [
        (label["label"], label["count"], label["rate"]) for label in report.to_dict()["labels"]
    ]
    counted.sort(key=lambda each: -each[1])
    if tally.num_scored:
        print_table(
            f"{report.version.title}: {tally.num_scored:,} rows",
            ["label", "#rows", "#rate"],
            [[name, f"{count:,}", f"{rate:.2%}"] for name, count, rate in counted[:_SHOWN_LABELS]],
        )
        if len(counted) > _SHOWN_LABELS:
            say(f"and {len(counted) - _SHOWN_LABELS} labels more: see the report")
    for reason, count in tally.reasons.most_common(5):
        say(f"rejected {count:,}: {reason}")
    for broken in tally.broken[:5]:
        say(f"rejected as a whole: {broken}")
    rate = "" if not report.num_read_now else f", {report.rows_per_s:,.0f} rows/s"
    tell(
        f"{tally.num_read:,} rows read, {tally.num_scored:,} scored, {tally.num_rejected:,} "
        f"rejected{rate}. {report.output}"
    )


def _exit(report: ScoringReport, max_reject_rate: float) -> None:
    if report.tally.broken:
        raise click.ClickException(
            f"{len(report.tally.broken)} of the files cannot be read; they are in "
            f"{report.output}/_rejects, all others are scored"
        )
    if report.reject_rate > max_reject_rate:
        raise click.ClickException(
            f"{report.reject_rate:.2%} of the rows were rejected, more than --max-reject-rate "
            f"{max_reject_rate:.2%}; see {report.output}/_rejects"
        )
