"""`thresher status`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import json_option
from thresher.cli.output import print_json
from thresher.cli.rollout import repository_option, to_option
from thresher.cli.serve import connect
from thresher.errors import ServerError

if TYPE_CHECKING:
    from thresher_serving.rollout import ServerStatus, StatusReader, VersionStatus

__all__ = ["status"]

_ALIASES_EVERY_S = 30.0
_WIDE = 100
"""Columns from which all figures are shown."""


@click.command()
@to_option
@repository_option
@click.option("--metrics", "metrics_url", metavar="URL", help="Where the server exports metrics.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0.2),
    default=2,
    show_default=True,
    help="Seconds between two looks, with --watch.",
)
@json_option
def status(
    server: str | None,
    repository: Path | None,
    metrics_url: str | None,
    watch: bool,
    every_s: float,
    as_json: bool,
) -> None:
    """Show what a server serves, whether it is proven, how many ask and how fast it answers.

    Percentiles are shown where the server exports them (--metrics-config summary_latencies=true),
    means otherwise. Rates of yes by label are not known to Triton, and so not shown.

    Example: thresher status --watch
    """
    reader = _reader(server, repository, metrics_url)
    if as_json:
        print_json(reader.read(_aliases()).to_dict())
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    if not watch:
        console.print(_picture(reader.read(_aliases()), width=console.width))
        return
    _watch(console, reader, every_s)


def _watch(console: Any, reader: StatusReader, every_s: float) -> None:
    from rich.live import Live

    aliases, asked = _aliases(), time.monotonic()
    before: ServerStatus | None = None
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        try:
            while True:
                begin = time.monotonic()
                if begin - asked > _ALIASES_EVERY_S:
                    aliases, asked = _aliases(), begin
                try:
                    now = reader.read(aliases)
                    picture = _picture(now, width=console.width, before=before, every_s=every_s)
                    live.update(picture, refresh=True)
                    before = now
                except ServerError as error:  # it may come back
                    live.update(f"{time.strftime('%H:%M:%S')}  {error}", refresh=True)
                    before = None
                time.sleep(max(0.1, every_s - (time.monotonic() - begin)))
        except KeyboardInterrupt:
            return


def _reader(server: str | None, repository: Path | None, metrics_url: str | None) -> StatusReader:
    from thresher.repository import ModelRepository
    from thresher_serving import running_server
    from thresher_serving.rollout import StatusReader

    where = connect(server)
    running = None if server else running_server()
    folder = repository or (Path(running.repository) if running else Path("model_repository"))
    if metrics_url is None and running:
        metrics_url = running.metrics_url
    elif metrics_url is None and server and server.endswith(":8001"):
        metrics_url = f"http://{server.rpartition('://')[2].removesuffix(':8001')}:8002/metrics"
    known = ModelRepository(folder) if folder.is_dir() else None
    return StatusReader(where, repository=known, metrics_url=metrics_url)


def _aliases() -> dict[str, dict[str, int]]:
    """Return the version by alias, by model; nothing where no registry is known or answers."""
    if not (os.environ.get("MLFLOW_TRACKING_URI") or Path("mlflow.db").exists()):
        return {}
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    from thresher.registry import connect as connect_registry

    try:
        mlflow = connect_registry()
    except ModuleNotFoundError:
        return {}
    try:
        models = mlflow.MlflowClient().search_registered_models()
    except mlflow.MlflowException:
        return {}
    return {model.name: {a: int(v) for a, v in model.aliases.items()} for model in models}


def _picture(
    found: ServerStatus, *, width: int, before: ServerStatus | None = None, every_s: float = 0
) -> Any:
    """Return the status as something that Rich prints.

    Args:
        found: What was read.
        width: Columns of the terminal; a narrow one shows less.
        before: What was read `every_s` seconds earlier, for rates.
        every_s: 0 for one look only.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    has_percentiles = any(each.percentiles_ms for each in found.versions)
    earlier = {(each.model, each.version): each for each in before.versions} if before else {}
    rows = []
    for each in found.versions:
        rate = _rate(each, earlier.get((each.model, each.version)), every_s)
        cells = _cells(each, rate, is_wide=width >= _WIDE, has_percentiles=has_percentiles)
        rows.append({column: cell for column, cell in cells.items() if every_s or column != "/s"})
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for column in dict.fromkeys(name for row in rows for name in row):
        if column in {"model", "alias"}:
            table.add_column(column, overflow="fold", min_width=10)
        else:
            justify: Any = "left" if column in {"state", "proof"} else "right"
            table.add_column(column, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    head = Text(f"{found.server} at {found.url}", style="bold")
    if every_s:
        head.append(time.strftime("   %H:%M:%S"), style="dim")
    what: Any = table if rows else Text("No model is loaded")
    return Group(head, what, *(Text(line, style="dim") for line in _footer(found)))


def _rate(each: VersionStatus, before: VersionStatus | None, every_s: float) -> str:
    if not every_s or before is None or each.requests is None or before.requests is None:
        return "-"
    return f"{max(0, each.requests - before.requests) / every_s:,.0f}"


def _cells(
    each: VersionStatus, rate: str, *, is_wide: bool, has_percentiles: bool
) -> dict[str, Any]:
    """Return a version's cells by column."""
    from rich.text import Text

    state = Text(each.state.lower(), style="yellow")
    if each.serves:
        state = Text("serves", style="bold green")
    elif each.state == "READY":
        state = Text("loaded", style="cyan")
    elif each.state == "UNAVAILABLE":
        state = Text("failed", style="bold red")
    elif each.state == "UNKNOWN":
        state = Text("not loaded", style="dim")
    proof = Text(each.proof or "-", style={"ok": "green", "WRONG": "bold red"}.get(each.proof, ""))
    failed = "-" if each.failures is None else f"{each.failures:,}"
    percentiles = each.percentiles_ms or {}
    cells: dict[str, Any] = {
        "model": each.model,
        "version" if is_wide else "ver": "-" if each.version is None else str(each.version),
        "state": state,
        "alias": ", ".join(each.aliases) or "-",
        "proof": proof,
        "requests": _count(each.requests, is_wide=is_wide),
        "/s": rate,
        "failed": Text(failed, style="red" if each.failures else ""),
    }
    if is_wide or not has_percentiles:
        cells["mean ms"] = _number(each.mean_ms)
    if has_percentiles:
        for quantile in (0.5, 0.95, 0.99) if is_wide else (0.99,):
            cells[f"p{quantile * 100:.0f} ms"] = _number(percentiles.get(quantile))
    cells["queue ms" if is_wide else "queue"] = _number(each.queue_ms)
    if is_wide:
        cells["batch"] = _number(each.batch_size)
    return cells


def _count(value: int | None, *, is_wide: bool) -> str:
    if value is None:
        return "-"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if not is_wide and value >= 10 * scale:
            return f"{value / scale:,.0f} {unit}"
    return f"{value:,}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _footer(found: ServerStatus) -> list[str]:
    lines = []
    serving = {each.model: each.version for each in found.versions if each.serves}
    for name, versions in found.published.items():
        others = [str(version) for version in versions if version != serving.get(name)]
        if others:
            shown = ", ".join(others[-8:])
            back = found.previous.get(name)
            rollback = f"; thresher rollback {name} brings version {back} back" if back else ""
            lines.append(f"{name}: published besides: {shown}{rollback}")
    lines += [f"{what} is being checked beside what serves" for what in found.rolling_out]
    for each in found.versions:
        if each.reason:
            version = "" if each.version is None else f" version {each.version}"
            lines.append(f"{each.model}{version}: {each.reason}")
    return lines + list(found.notes)
