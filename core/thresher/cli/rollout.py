"""`thresher rollout` and `thresher rollback`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.options import json_option
from thresher.cli.output import print_json, say
from thresher.cli.serve import connect
from thresher.errors import NotFoundError, ThresherError

if TYPE_CHECKING:
    from thresher.alias import MlflowAlias
    from thresher.repository import ModelRepository
    from thresher_serving.rollout import CanaryEnd, CanaryStart, Rollout

__all__ = ["put_into_service", "repository_option", "rollback", "rollout", "to_option"]

to_option = click.option(
    "--to",
    "server",
    metavar="HOST:PORT",
    help="gRPC address of the Triton server; by default the one that `thresher serve` started "
    "here. A key is read from THRESHER_SERVER_KEY.",
)
repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that the server reads; by default that of the server started here, else "
    "model_repository.",
)
_alias_option = click.option(
    "--alias",
    metavar="ALIAS",
    help="The MLflow alias that is moved to the version.  [default: champion]",
)
_timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=1),
    default=120,
    show_default=True,
    help="Seconds that the server may take to load the version.",
)
_DEFAULT_ALIAS = "champion"


class _Share(click.ParamType[float]):
    """A share of calls: "10%" or 0.1."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            self.fail(
                f'"{value}" is no share of calls; expected one such as 10% or 0.1', param, ctx
            )
        return share


@click.command()
@click.argument("model")
@to_option
@repository_option
@_alias_option
@click.option(
    "--canary",
    "share",
    type=_Share(),
    metavar="SHARE",
    help="Let it answer this share of the calls that Thresher's clients make, such as 10%; all "
    "others get what serves.",
)
@click.option(
    "--allow-label-change",
    is_flag=True,
    help="Go on where the labels, or their order, are not those of what serves.",
)
@click.option("--unproven", is_flag=True, help="Go on without a certificate that fits.")
@_timeout_option
@json_option
def rollout(
    model: str,
    server: str | None,
    repository: Path | None,
    alias: str | None,
    share: float | None,
    allow_label_change: bool,
    unproven: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Put a version into service without a request that fails, or leave what serves as it is.

    MODEL is NAME/VERSION, or NAME@ALIAS or models:/... as MLflow knows it. The version is exported
    where it is not published yet, its certificate checked, loaded beside what serves, and compared
    on its golden rows, decision by decision; then it serves, the alias is moved, and the old
    version unloaded. Anything wrong: the old version serves as before, and the exit code is 1.

    With --canary it is checked likewise, then answers a share of the calls, until it is rolled out
    (thresher rollout MODEL) or not (thresher rollback NAME).

    Example: thresher rollout digits@candidate
    """
    if share is not None:
        if alias is not None:
            raise click.UsageError("--alias moves with a rollout; --canary moves none")
        _start_canary(
            model,
            share,
            server=server,
            repository=repository,
            allow_label_change=allow_label_change,
            unproven=unproven,
            timeout_s=timeout_s,
            as_json=as_json,
        )
        return
    put_into_service(
        model,
        server=server,
        repository=repository,
        alias=alias,
        allow_label_change=allow_label_change,
        unproven=unproven,
        timeout_s=timeout_s,
        as_json=as_json,
    )


def put_into_service(
    model: str,
    *,
    server: str | None = None,
    repository: Path | None = None,
    alias: str | None = None,
    allow_label_change: bool = False,
    unproven: bool = False,
    timeout_s: float = 120,
    as_json: bool = False,
) -> None:
    """Do what `thresher rollout` does, in a process that has imported what it needs already.

    Args:
        model: NAME/VERSION, NAME@ALIAS or a model URI.
        server: The server's gRPC address; the one started here where left out.
        repository: The folder that it reads.
        alias: The alias that is moved; "champion" where left out.
        allow_label_change: Whether labels may be others.
        unproven: Whether it may serve without a certificate that fits.
        timeout_s: How long the server may take to load it.
        as_json: Whether the outcome is printed as JSON.

    Raises:
        ThresherError: If it was not rolled out; what served before serves as before.
    """
    from thresher_serving.rollout import RolloutOptions, roll_out

    published = _repository(server, repository)
    where = connect(server)
    with _shown_steps() as show:
        name, version, known = _which(model, show)
        _publish(published, name, version, show)
        done = roll_out(
            published,
            name,
            version,
            where,
            options=RolloutOptions(
                allow_label_change=allow_label_change, unproven=unproven, timeout_s=timeout_s
            ),
            alias=_alias(name, alias, show=show, known=known),
            progress=show,
        )
    _tell(done, as_json=as_json)
    if done.is_new and done.previous is not None:
        say(f"Back again: thresher rollback {done.name}")


def _start_canary(
    model: str,
    share: float,
    *,
    server: str | None,
    repository: Path | None,
    allow_label_change: bool,
    unproven: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    from thresher_serving.rollout import RolloutOptions, start_canary

    published = _repository(server, repository)
    where = connect(server)
    with _shown_steps() as show:
        name, version, _ = _which(model, show)
        _publish(published, name, version, show)
        done = start_canary(
            published,
            name,
            version,
            where,
            share=share,
            options=RolloutOptions(
                allow_label_change=allow_label_change, unproven=unproven, timeout_s=timeout_s
            ),
            progress=show,
        )
    _tell_canary(done, as_json=as_json)
    at = "".join(
        f" {option} {value}"
        for option, value in (("--to", server), ("--repository", repository))
        if value
    )
    say("Watch it:            thresher status --watch" + at)
    say(f"Let it serve all:    thresher rollout {name}/{version}{at}")
    say(f"Take it out again:   thresher rollback {name}{at}")


@click.command()
@click.argument("name")
@to_option
@repository_option
@_alias_option
@click.option("--allow-label-change", is_flag=True, help="Go on where the labels are others.")
@click.option("--unproven", is_flag=True, help="Go on without a certificate that fits.")
@_timeout_option
@json_option
def rollback(
    name: str,
    server: str | None,
    repository: Path | None,
    alias: str | None,
    allow_label_change: bool,
    unproven: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Put the version that served before into service again; once more goes back one further.

    Where a canary runs, that is ended instead, and what serves goes on. The steps are those of a
    rollout. For any other version: thresher rollout NAME/VERSION.

    Example: thresher rollback digits
    """
    from thresher_serving.rollout import CanaryEnd, RolloutOptions, roll_back

    published = _repository(server, repository)
    where = connect(server)
    with _shown_steps() as show:
        done = roll_back(
            published,
            name,
            where,
            options=RolloutOptions(
                allow_label_change=allow_label_change, unproven=unproven, timeout_s=timeout_s
            ),
            alias=_alias(name, alias, show=show, check=False),
            progress=show,
        )
    if isinstance(done, CanaryEnd):
        _tell_canary(done, as_json=as_json)
    else:
        _tell(done, as_json=as_json)


def _repository(server: str | None, given: Path | None) -> ModelRepository:
    """Return the given repository, else that of the server started here, else the default."""
    from thresher.repository import ModelRepository
    from thresher_serving import running_server

    running = None if server else running_server()
    folder = given or Path(running.repository if running else "model_repository")
    if not folder.is_dir():
        raise NotFoundError(
            f"{folder}: no such folder; expected the model repository that the server reads. "
            "Give it with --repository FOLDER"
        )
    return ModelRepository(folder)


def _which(model: str, show: Callable[[str], None]) -> tuple[str, int, bool]:
    """Return name, version, and whether the registry was asked for it."""
    name, slash, version = model.partition("/")
    if slash and version.isdigit() and "@" not in name:
        return name, int(version), False
    uri = model if model.startswith("models:/") else f"models:/{model}"
    if "@" not in uri and "/" not in uri.removeprefix("models:/"):
        bare = uri.removeprefix("models:/") or "digits"
        raise NotFoundError(
            f'"{model}" names no version; expected NAME@ALIAS or NAME/VERSION, such as '
            f"{bare}@candidate or {bare}/3"
        )
    from thresher.registry import resolve

    show(f"Asking MLflow which version {model} is")
    try:
        with _short_patience():
            found = resolve(uri)
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f'"{model}" needs MLflow, which is not installed here ({error}). Name the version '
            f"instead: thresher rollout {model.removeprefix('models:/').partition('@')[0]}/VERSION"
        ) from None
    return found.name, found.version, True


@contextlib.contextmanager
def _short_patience() -> Iterator[None]:
    """Have MLflow's client give a server that is down up in seconds; by itself it tries minutes."""
    short = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = {name: value for name, value in short.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:  # an export that follows may take its time
            del os.environ[name]


def _publish(
    repository: ModelRepository, name: str, version: int, show: Callable[[str], None]
) -> None:
    """Export a version that is not published, where that can be done here."""
    try:
        if version in repository.versions(name):
            return
    except NotFoundError:
        pass
    folder = repository.model_file(name, version).parent
    if folder.is_dir() and folder.parent.joinpath("config.pbtxt").is_file():
        raise NotFoundError(
            f"{folder}: {name}'s config.pbtxt tells no decision of version {version}, so Thresher "
            "did not publish it, or not to the end. Run: thresher export "
            f"models:/{name}/{version}; another tool's model is loaded by Triton's own model "
            "control"
        )
    try:
        from thresher_export import ExportOptions, export_version
    except ModuleNotFoundError as error:
        raise NotFoundError(
            f"{repository.root}: {name}/{version} is not published, and this machine cannot "
            f"export it ({error}). On one that can: thresher export models:/{name}/{version}"
        ) from None
    export_version(
        f"models:/{name}/{version}",
        repository=repository,
        options=ExportOptions(serve=False),
        progress=show,
    )


def _alias(
    name: str,
    alias: str | None,
    *,
    show: Callable[[str], None],
    known: bool = False,
    check: bool = True,
) -> MlflowAlias | None:
    """Return what moves the alias; None where there is no registry and none was asked for.

    Args:
        name: The model.
        alias: The alias that was asked for, if one was.
        show: Takes a line for the person at the terminal.
        known: Whether the registry has just named the version.
        check: Whether to ask the registry now, before anything is changed.
    """
    from thresher.alias import MlflowAlias

    has_store = bool(os.environ.get("MLFLOW_TRACKING_URI")) or Path("mlflow.db").exists()
    moves = MlflowAlias(name, alias or _DEFAULT_ALIAS)
    if not (alias or known or has_store):
        show("No alias is moved: no MLFLOW_TRACKING_URI, and no mlflow.db here")
        return None
    try:
        if check:
            moves.check()
    except NotFoundError as error:
        if alias or known:
            raise
        show(f"No alias is moved: {error}")
        return None
    return moves


@contextlib.contextmanager
def _shown_steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that begins a step: each stays on the screen, with how long it took."""
    from rich.console import Console

    console = Console(stderr=True)
    current: list[tuple[str, float]] = []
    status = console.status("") if console.is_terminal else None

    def finish(mark: str) -> None:
        for text, begin in current:
            seconds = f"{time.monotonic() - begin:6.2f} s"
            console.print(
                f"{mark} {seconds}  {text}", markup=False, highlight=False, soft_wrap=True
            )
        current.clear()

    def show(text: str) -> None:
        finish("done  ")
        if text.startswith(("WARNING", "No alias")):
            console.print(text, style="bold yellow", markup=False, highlight=False, soft_wrap=True)
            return
        current.append((text, time.monotonic()))
        if status:
            status.update(text.replace("[", r"\["))

    with status or contextlib.nullcontext():
        try:
            yield show
        except (ThresherError, KeyboardInterrupt):
            finish("failed")
            raise
        finish("done  ")


def _tell(done: Rollout, *, as_json: bool) -> None:
    if as_json:
        print_json(done.to_dict())
        return
    what, rows = f"{done.name} version {done.version}", _compared(done)
    if not done.is_new:
        click.echo(f"{what} serves already on {done.server} ({rows})")
        return
    after = "" if done.live_after_s is None else f" after {done.live_after_s:.1f} s"
    before = "" if done.previous is None else f" in place of version {done.previous}"
    click.echo(f"{what} serves on {done.server}{before}{after} ({rows})")


def _tell_canary(done: CanaryStart | CanaryEnd, *, as_json: bool) -> None:
    from thresher_serving.rollout import CanaryEnd, percent

    if as_json:
        print_json(done.to_dict())
        return
    what = f"{done.name} version {done.version}"
    if isinstance(done, CanaryEnd):
        now = "no version serves" if done.serving is None else f"version {done.serving} serves"
        click.echo(f"{what} is a canary no more; {now} every call on {done.server}, as before")
        return
    before = "" if done.replaced in {None, done.version} else f", in place of {done.replaced}"
    click.echo(
        f"{what} is a canary on {done.server}{before}: {percent(done.share)} of the calls of "
        f"Thresher's clients get it within 5 s, all others version {done.serving} "
        f"({_compared(done)})"
    )


def _compared(done: Rollout | CanaryStart) -> str:
    if done.num_rows is None:
        return "answers were not compared"
    return f"{done.num_rows} golden rows, {done.num_decisions:,} decisions, {done.num_flips} flips"
