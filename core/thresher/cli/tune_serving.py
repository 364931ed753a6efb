"""`thresher tune-serving`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import FiniteRange, json_option, repository_option
from thresher.cli.output import Cell, print_json, print_table, say, tell
from thresher.cli.versions import model_alone

if TYPE_CHECKING:
    from thresher_serving.tuning import Load, Settings, Tuned

__all__ = ["tune_serving"]


@click.command("tune-serving")
@click.argument("name")
@click.option(
    "--slo",
    default="p99=100ms",
    show_default=True,
    help="The limit on latency, such as p99=20ms or p50=500us.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=1, show_default=True, help="Rows a request."
)
@click.option(
    "--clients",
    type=click.IntRange(min=1, max=512),
    default=32,
    show_default=True,
    help="Clients with one request in flight each.",
)
@click.option(
    "--seconds",
    type=FiniteRange(min=0.5, max=60),
    default=3.0,
    show_default=True,
    help="How long each setting is measured.",
)
@click.option("--dry-run", is_flag=True, help="Measure, and write nothing.")
@repository_option
@json_option
def tune_serving(
    name: str,
    slo: str,
    batch_size: int,
    clients: int,
    seconds: float,
    dry_run: bool,
    repository: Path,
    as_json: bool,
) -> None:
    """Find the settings that serve a model fastest within a limit on latency, and write them.

    Measures on this machine, with a Triton of its own: let nothing else run meanwhile. Tried are
    copies of the model, threads of each, waiting for others to batch with, and smaller batches.
    The exit code is 1 where nothing that was tried keeps to the limit; nothing is written then.

    Example: thresher tune-serving digits --slo p99=20ms
    """
    from thresher.repository import ModelRepository
    from thresher_serving import find_runtime, tuning

    objective = tuning.parse_objective(slo)
    name = model_alone(name, "what serves is measured, so it takes no version")
    published = ModelRepository(repository)
    published.serving_version(name)  # before a server is started

    def show(settings: Settings, load: Load) -> None:
        say("  ".join(_cells(settings, load)))

    tuned = tuning.tune_serving(
        published,
        name,
        objective,
        runtime=find_runtime(),
        batch_size=batch_size,
        num_clients=clients,
        seconds=seconds,
        write=not dry_run,
        progress=show,
    )
    if as_json:
        print_json(_plain(tuned))
    else:
        _print(tuned, batch_size=batch_size, clients=clients, dry_run=dry_run)
    if not tuned.is_met:
        raise click.exceptions.Exit(1)


def _cells(settings: Settings, load: Load) -> list[str]:
    return [
        f"{settings.instance_count} x {settings.intra_op_threads or 'all'} threads",
        f"{settings.max_queue_delay_us} us",
        f"{settings.max_batch_size}",
        f"{load.rows_per_s:,.0f} rows/s",
        f"{load.p50_ms:.2f} ms",
        f"{load.p99_ms:.2f} ms",
    ]


def _print(tuned: Tuned, *, batch_size: int, clients: int, dry_run: bool) -> None:
    rows = []
    for settings, load in tuned.tried:
        remark: Cell = "as it was" if settings == tuned.tried[0][0] else ""
        if settings == tuned.best:
            remark = ("best", "bold green") if tuned.is_met else ("nearest", "bold red")
        rows.append([*_cells(settings, load), remark])
    print_table(
        f"{tuned.name} version {tuned.version}, {clients} clients, batch {batch_size}, "
        f"{tuned.objective}",
        ["instances", "#queue delay", "#max batch", "#throughput", "#p50", "#p99", ""],
        rows,
    )
    ratio = tuned.after.rows_per_s / tuned.before.rows_per_s if tuned.before.rows_per_s else 0.0
    if not tuned.is_met:
        tell(f"Nothing that was tried keeps to {tuned.objective}; nothing was written")
    elif tuned.best == tuned.tried[0][0]:
        tell("The settings as they are were the best; nothing was written")
    else:
        done = "Not written, as asked" if dry_run else "Written into its config.pbtxt"
        tell(f"{ratio:.2f} times the throughput. {done}")
        say("Next: thresher serve --background (a server that runs takes them then)")
        tell(f"To keep them at the next export, put into the recipe:\n{tuned.best.recipe()}")


def _plain(tuned: Tuned) -> dict[str, Any]:
    return {
        "model": tuned.name,
        "version": tuned.version,
        "slo": str(tuned.objective),
        "is_met": tuned.is_met,
        "best": dataclasses.asdict(tuned.best),
        "tried": [
            {**dataclasses.asdict(settings), **dataclasses.asdict(load)}
            for settings, load in tuned.tried
        ],
    }
