"""`thresher rollout` and `thresher rollback`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import json_option, server_option
from thresher.cli.output import say
from thresher.cli.rollout_options import (
    DEFAULT_ALIAS,
    alias_option,
    repository_option,
    timeout_option,
)
from thresher.cli.rollout_output import shown_steps, tell_rollout
from thresher.cli.serve import connect
from thresher.cli.versions import found_version, model_alone, publish_version, served_repository
from thresher.errors import NotFoundError
from thresher.model_name import parse_version

if TYPE_CHECKING:
    from thresher.alias import MlflowAlias
    from thresher.repository import ModelRepository

__all__ = ["put_into_service", "rollback", "rollout"]


@click.command()
@click.argument("model")
@server_option
@repository_option
@alias_option
@click.option(
    "--allow-label-change",
    is_flag=True,
    help="Go on where the labels, or their order, are not those of what serves.",
)
@click.option("--unproven", is_flag=True, help="Go on without a certificate that fits.")
@timeout_option
@json_option
def rollout(
    model: str,
    server: str | None,
    repository: Path | None,
    alias: str | None,
    allow_label_change: bool,
    unproven: bool,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Put a version into service without a request that fails, or leave what serves as it is.

    MODEL is NAME/VERSION, or NAME@ALIAS as MLflow knows it, with or without models:/ before it.
    The version is exported where it is not published yet. Its certificate is checked, and it is
    loaded under another name and compared on its golden rows, decision by decision. Then it serves,
    the alias is moved, and the old version is unloaded. Where anything is wrong, the old version
    serves as before, and the exit code is 1.

    Example: thresher rollout digits@candidate
    """
    parse_version(model)  # before a server is looked for
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

    published = served_repository(server, repository)
    where = connect(server)
    with shown_steps() as show:
        name, version, known = _to_roll_out(published, model, show)
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
    tell_rollout(done, as_json=as_json)
    if done.is_new and done.previous is not None:
        say(f"Back again: thresher rollback {done.name}{_again(server, repository)}")


def _again(server: str | None, repository: Path | None) -> str:
    """Return the options by which the next command finds the same server and repository."""
    given = (("--server", server), ("--repository", repository))
    return "".join(f" {option} {value}" for option, value in given if value)


def _to_roll_out(
    published: ModelRepository, model: str, show: Callable[[str], None]
) -> tuple[str, int, bool]:
    """Return name and version, published, and whether the registry was asked for it."""
    from thresher_serving.rollout import check_is_no_companion

    name, version, known = found_version(model, show)
    if name in published.names():
        check_is_no_companion(published, name)  # no registry knows it, so none is asked
    publish_version(published, name, version, show)
    return name, version, known


@click.command()
@click.argument("name")
@server_option
@repository_option
@alias_option
@click.option("--allow-label-change", is_flag=True, help="Go on where the labels are others.")
@click.option("--unproven", is_flag=True, help="Go on without a certificate that fits.")
@timeout_option
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

    The steps are those of a rollout. For any other version: thresher rollout NAME/VERSION.

    Example: thresher rollback digits
    """
    from thresher_serving.rollout import RolloutOptions, roll_back

    name = model_alone(name, "a rollback goes to what served before, so it takes no version")
    published = served_repository(server, repository)
    where = connect(server)
    with shown_steps() as show:
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
    tell_rollout(done, as_json=as_json)


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
    moves = MlflowAlias(name, alias or DEFAULT_ALIAS)
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
