"""`thresher score`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import json_option, repository_option
from thresher.cli.output import emit_json, print_json, print_table, say, steps
from thresher.cli.serve import connect
from thresher.cli.versions import published_version
from thresher.errors import ConfigError

if TYPE_CHECKING:
    from thresher_serving.scoring import ScoredVersion, ScoringReport, Workers

__all__ = ["score"]

_LINE_EVERY_S = 10
_SHOWN_LABELS = 12


@click.command()
@click.argument("model")
@click.option(
    "--input",
    "given",
    required=True,
    metavar="DATA",
    help="A file, folder, glob or URI: Parquet, Arrow, CSV, TSV, NPZ, or pictures.",
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
@click.option("--delimiter", metavar="CHAR", help="Between the cells of a CSV file.")
@click.option("--csv-columns", metavar="A,B", help="Names for CSV files without a header line.")
@click.option("--no-quoting", is_flag=True, help="Quotes in CSV files are only text.")
@click.option(
    "--max-reject-rate",
    type=click.FloatRange(0, 1),
    default=0.01,
    show_default=True,
    help="Exit with 1 if a larger share of the rows cannot be scored.",
)
@repository_option
@click.option(
    "--to",
    "server",
    metavar="HOST:PORT",
    help="For --engine triton: the server's gRPC address; by default the one started here.",
)
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
    delimiter: str | None,
    csv_columns: str | None,
    no_quoting: bool,
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

    MODEL is NAME/VERSION, or NAME@ALIAS or models:/... as MLflow knows it; it is exported where it
    is not published yet. Rows that cannot be scored are written to DIR/_rejects with the reason. A
    job that was broken off goes on when the same command is run again.

    Example: thresher score digits@champion --input data/ --output scored/ --columns id
    """
    from thresher_serving.scoring import CsvForm, OutputForm, ScoringOptions, score_files

    if server is not None and engine != "triton":
        raise ConfigError(f"--to names a server, and --engine is {engine}: give --engine triton")
    options = ScoringOptions(
        form=OutputForm(
            columns=_names(columns),
            labels=labels,  # type: ignore[arg-type]  # Click lets no other through
            probabilities=probabilities,  # type: ignore[arg-type]
        ),
        features=_names(features),
        text_column=text_column,
        csv=CsvForm(
            delimiter="\t" if delimiter == "\\t" else delimiter,
            columns=_names(csv_columns) or None,
            quoting=not no_quoting,
        ),
    )
    with steps() as show:
        version = _version(model, repository, unproven, show)
        show(f"Loading {version.title}")
        who = _workers(engine, version, server=server, number=workers, device=device)
    try:
        with _shown(log_json) as (begun, progress):
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
    from thresher.repository import ModelRepository
    from thresher_serving.scoring import ScoredVersion

    published = ModelRepository(repository)
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
            [
                [name.replace("[", r"\["), f"{count:,}", f"{rate:.2%}"]
                for name, count, rate in counted[:_SHOWN_LABELS]
            ],
        )
        if len(counted) > _SHOWN_LABELS:
            say(f"and {len(counted) - _SHOWN_LABELS} labels more: see the report")
    for reason, count in tally.reasons.most_common(5):
        say(f"rejected {count:,}: {reason}")
    for broken in tally.broken[:5]:
        say(f"rejected as a whole: {broken}")
    rate = "" if not report.num_read_now else f", {report.rows_per_s:,.0f} rows/s"
    click.echo(
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


@contextlib.contextmanager
def _shown(
    log_json: bool,
) -> Iterator[tuple[Callable[[list[Any], int], None], Callable[[int], None]]]:
    """Yield what is called when a job begins, and for the rows that are done."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal and not log_json:
        with _bar(console) as both:
            yield both
        return
    state: dict[str, Any] = {"rows": 0, "at": time.monotonic(), "since": time.monotonic()}

    def begun(left: list[Any], done: int) -> None:
        total = _total(left)
        state["since"] = time.monotonic()
        if log_json:
            emit_json("scoring_begun", parts=len(left), parts_done=done, rows=total)
        else:
            rows = "" if total is None else f", {total:,} rows"
            say(f"{len(left)} parts to score{rows}" + (f"; {done} are done" if done else ""))

    def progress(rows: int) -> None:
        state["rows"] += rows
        now = time.monotonic()
        if now - state["at"] < _LINE_EVERY_S:
            return
        state["at"] = now
        rate = state["rows"] / (now - state["since"])
        if log_json:
            emit_json("scoring_progress", rows=state["rows"], rows_per_s=round(rate))
        else:
            say(f"{state['rows']:,} rows, {rate:,.0f} rows/s")

    yield begun, progress


@contextlib.contextmanager
def _bar(
    console: Any,
) -> Iterator[tuple[Callable[[list[Any], int], None], Callable[[int], None]]]:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.completed:,} rows"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    ) as shown:
        bar = shown.add_task("", total=None, rate="")
        begin = time.monotonic()

        def begun(left: list[Any], done: int) -> None:
            nonlocal begin
            begin = time.monotonic()
            shown.update(bar, total=_total(left))
            if done:
                shown.console.print(f"{done} of {done + len(left)} parts are done")

        def progress(rows: int) -> None:
            so_far = shown.tasks[0].completed + rows
            rate = so_far / max(time.monotonic() - begin, 1e-3)
            shown.update(bar, advance=rows, rate=f"{rate:,.0f} rows/s")

        yield begun, progress


def _total(parts: list[Any]) -> int | None:
    """Return the rows of some parts, None where only reading tells."""
    known = [part.num_rows for part in parts]
    return None if None in known else sum(known)
