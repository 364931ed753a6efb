"""`thresher export --all`: a whole registry in one job."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from thresher.cli.options import FiniteRange
from thresher.cli.output import emit_json, print_json, print_table, say, tell
from thresher.errors import counted
from thresher.terminal import console, printable

__all__ = ["export_all", "export_all_options", "wants_all"]

_LOGS = Path(".thresher/export-logs")
_MAX_ROWS = 40
_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--all", "is_all", is_flag=True, help="Export many registered versions."),
    click.option(
        "--filter",
        "filter_string",
        metavar="EXPR",
        help="With --all: every version that MLflow's filter selects, such as \"name LIKE 'a-%'\".",
    ),
    click.option("--alias", metavar="NAME", help="With --all: only versions that carry the alias."),
    click.option(
        "--jobs",
        "num_workers",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="With --all: worker processes side by side.",
    ),
    click.option(
        "--report",
        type=click.Path(path_type=Path, dir_okay=False),
        help="With --all: where to write the report, .json or .md, or both without a suffix; "
        "logs lie beside it.",
    ),
    click.option(
        "--time-limit",
        "time_limit_s",
        type=FiniteRange(min=0, min_open=True),
        metavar="SECONDS",
        default=600.0,
        show_default=True,
        help="With --all: for one version.",
    ),
    click.option(
        "--memory-limit",
        "memory_limit_mb",
        type=click.IntRange(min=1),
        metavar="MB",
        help="With --all: for one worker; by default four fifths of the memory, shared out.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="With --all: workers of this machine, or of a Ray cluster.",
    ),
    click.option("--log-json", is_flag=True, help="With --all: events as JSON lines on stderr."),
)


def export_all_options(command: _Command) -> _Command:
    """Add the options of a job to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def wants_all(model_uri: str | None, job: dict[str, Any]) -> bool:
    """Return whether a job is asked for; takes ``is_all`` out of its options.

    Raises:
        click.UsageError: If neither or both of --all and MODEL are given, or an option of a
            job without --all.
    """
    ctx = click.get_current_context()
    if job.pop("is_all"):
        if model_uri is not None:
            raise click.UsageError("name a version or --all, not both")
        return True
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
        if given and param.name in job:
            raise click.UsageError(f"{param.opts[0]} goes with --all")
    if model_uri is None:
        raise click.UsageError("name a version, such as digits@candidate, or --all")
    return False


def export_all(
    *,
    repository: Path | None,
    options: Any,
    as_json: bool,
    report: Path | None,
    log_json: bool,
    **job: Any,
) -> NoReturn:
    """Run a job, show how it goes, print a table and write the report; exit as it says.

    Args:
        repository: Where to publish; None proves without publishing.
        options: `thresher_export.ExportOptions` of every version.
        as_json: Print the report instead of a table.
        report: Where to write it, if anywhere.
        log_json: Show events as JSON lines.
        job: Fields of `thresher_export.jobs.JobOptions`.
    """
    from thresher_export.jobs import JobOptions, run_job
    from thresher_export.jobs.report import report_files, write_report

    logs = _LOGS if report is None else report.with_name(f"{report.stem}-logs")
    wanted = JobOptions(repository=repository, logs=logs, export=options, **job)
    with _shown(log_json) as emit:
        done = run_job(wanted, emit)
    if report is not None:
        write_report(done, report)
    if as_json:
        print_json(done.to_dict())
    else:
        _print(done)
        if report is not None:
            say(f"Report: {', '.join(str(file) for file in report_files(report))}")
    if done.signal is not None:
        say("Ended by a signal. The same command goes on where it was")
    raise SystemExit(done.exit_code)


def _print(done: Any) -> None:
    """Print failures, and all versions where they are few enough to read."""
    rows = [outcome for outcome in done.outcomes if outcome.status != "skipped"]
    if len(rows) > _MAX_ROWS:
        rows = list(done.failures)
    if rows:
        print_table(
            "Failed" if rows == list(done.failures) else "Exported",
            ["version", "outcome", "#seconds", "#peak MB", "reason"],
            [
                [
                    f"{o.name}/{o.version}",
                    o.status if o.cause is None else f"{o.status}: {o.cause}",
                    f"{o.seconds:.1f}",
                    "-" if o.peak_mb is None else f"{o.peak_mb:,.0f}",
                    o.reason if not o.log or not o.reason else f"{o.reason}\nLog: {o.log}",
                ]
                for o in rows[:_MAX_ROWS]
            ],
        )
        if len(rows) > _MAX_ROWS:
            say(f"and {len(rows) - _MAX_ROWS} more: see the report")
    tell(f"{done.summary()}")


@contextlib.contextmanager
def _shown(log_json: bool) -> Iterator[Callable[..., None]]:
    """Yield what shows events: JSON lines, a bar in a terminal, else plain lines."""
    if log_json:
        yield emit_json
        return
    shown = console(stderr=True)
    if shown.is_terminal:
        with _bar(shown) as show:
            yield show
        return
    state = {"done": 0, "of": 0}

    def lines(event: str, **fields: Any) -> None:
        if event == "job_selected":
            state["of"] = fields["todo"]
        elif event == "version_finished":
            state["done"] += 1
        text = _line(event, fields, **state)
        if text:
            say(text)

    yield lines


def _line(event: str, fields: dict[str, Any], *, done: int, of: int) -> str:
    """Return an event as a line, empty where it is of no interest to a person."""
    if event == "job_selected":
        return (
            f"Selected {counted(fields['versions'], 'version')}: {fields['skipped']:,} published "
            f"already, {fields['todo']:,} to export"
        )
    if event == "version_finished":
        reason = f": {fields['reason']}" if fields["reason"] else ""
        version = f"{fields['name']}/{fields['version']}"
        return f"[{done}/{of}] {version} {fields['status']} in {fields['seconds']:.1f} s{reason}"
    if event == "worker_replaced":
        return f"Worker {fields['worker']} is replaced"
    return ""


@contextlib.contextmanager
def _bar(shown: Any) -> Iterator[Callable[..., None]]:
    """Yield what moves a bar, with what is in work beside it and failures above it."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=shown,
        transient=True,
    ) as progress:
        bar = progress.add_task("Asking the registry", total=None)
        at_work: dict[str, None] = {}

        def show(event: str, **fields: Any) -> None:
            version = printable(f"{fields.get('name')}/{fields.get('version')}")
            if event == "job_selected":
                progress.update(bar, total=fields["todo"], description="Starting workers")
            elif event == "version_started":
                at_work[version] = None
                progress.update(bar, description=", ".join(at_work))
            elif event == "version_finished":
                at_work.pop(version, None)
                progress.update(bar, advance=1, description=", ".join(at_work))
            failed = event == "version_finished" and fields["status"] == "failed"
            if failed or event in {"worker_replaced", "job_selected"}:
                text = _line(event, fields, done=int(progress.tasks[0].completed),
                             of=int(progress.tasks[0].total or 0))  # fmt: skip
                shown.print(text, soft_wrap=True)

        yield show
