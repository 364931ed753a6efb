"""`thresher status`."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import FiniteRange, json_option, server_option
from thresher.cli.output import print_json
from thresher.cli.rollout_options import DEFAULT_ALIAS, repository_option
from thresher.cli.serve import connect
from thresher.cli.status_table import status_table
from thresher.cli.versions import knows_registry, repository_and_registry
from thresher.errors import ServerError
from thresher.terminal import console, printable

if TYPE_CHECKING:
    from thresher_serving.rollout import ServerStatus, StatusReader

__all__ = ["status"]

_ALIASES_EVERY_S = 30.0


@click.command()
@server_option
@repository_option
@click.option("--metrics", "metrics_url", metavar="URL", help="Where the server exports metrics.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option(
    "--every",
    "every_s",
    type=FiniteRange(min=0.2),
    default=2,
    show_default=True,
    help="Seconds between two looks, with --watch.",
)
@click.option("--labels", "every_label", is_flag=True, help="Show the positive rate of each label.")
@json_option
def status(
    server: str | None,
    repository: Path | None,
    metrics_url: str | None,
    watch: bool,
    every_s: float,
    every_label: bool,
    as_json: bool,
) -> None:
    """Show what a server serves, whether it is proven, how many ask and how fast it answers.

    Requests are those of users since a version went into service. How often labels are given is
    shown where Thresher's backend counts it. Warnings say where config.pbtxt, the server and the
    alias disagree.

    Example: thresher status --watch
    """
    # MLflow's import takes seconds, in which a watch has something to show
    reader = _reader(server, repository, metrics_url, asks_registry=not watch)
    if as_json:
        print_json(reader.read(_aliases()).to_dict())
        return
    shown = console(min_width=120)
    if not watch:
        found = reader.read(_aliases())
        shown.print(status_table(found, width=shown.width, every_label=every_label))
        return
    _watch(shown, reader, every_s, every_label=every_label)


def _watch(shown: Any, reader: StatusReader, every_s: float, *, every_label: bool) -> None:
    from rich.live import Live
    from rich.text import Text

    aliases: dict[str, dict[str, int]] = {}
    # the first answer takes MLflow's import, seconds in which there is something to see already
    threading.Thread(target=_ask_again_and_again, args=(aliases,), daemon=True).start()
    before: ServerStatus | None = None
    read_at = time.monotonic()
    with Live(console=shown, auto_refresh=False, screen=shown.is_terminal) as live:
        try:
            while True:
                begin = time.monotonic()
                try:
                    now, last_at, read_at = reader.read(dict(aliases)), read_at, time.monotonic()
                    picture = status_table(
                        now,
                        width=shown.width,
                        every_label=every_label,
                        before=before,
                        every_s=read_at - last_at,
                    )
                    live.update(picture, refresh=True)
                    before = now
                except ServerError as error:  # it may come back
                    live.update(
                        Text(printable(f"{time.strftime('%H:%M:%S')}  {error}")), refresh=True
                    )
                    before = None
                time.sleep(max(0.1, every_s - (time.monotonic() - begin)))
        except KeyboardInterrupt:
            return


def _ask_again_and_again(aliases: dict[str, dict[str, int]]) -> None:
    while True:
        found = _aliases()
        aliases.update(found)
        for name in aliases.keys() - found.keys():
            del aliases[name]
        time.sleep(_ALIASES_EVERY_S)


def _reader(
    server: str | None, repository: Path | None, metrics_url: str | None, *, asks_registry: bool
) -> StatusReader:
    from thresher.repository import ModelRepository
    from thresher_serving import running_server
    from thresher_serving.embedded.state import STATE_DIR
    from thresher_serving.rollout import StatusReader

    running = None if server else running_server()
    where = connect(server)
    folder = repository or (Path(running.repository) if running else Path("model_repository"))
    if metrics_url is None and running:
        metrics_url = running.metrics_url
    elif metrics_url is None and server and server.endswith(":8001"):
        metrics_url = f"http://{server.rpartition('://')[2].removesuffix(':8001')}:8002/metrics"
    opened = repository_and_registry if asks_registry else ModelRepository
    known = opened(folder) if folder.is_dir() else None
    return StatusReader(
        where,
        repository=known,
        metrics_url=metrics_url,
        state_dir=None if running is None else STATE_DIR,
        alias=DEFAULT_ALIAS,
    )


def _aliases() -> dict[str, dict[str, int]]:
    """Return the version by alias, by model; nothing where no registry is known or answers."""
    if not knows_registry():
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
