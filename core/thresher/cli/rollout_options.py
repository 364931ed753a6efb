"""The options of `thresher rollout`, `rollback` and `status`."""

from __future__ import annotations

from pathlib import Path

import click

from thresher.cli.options import FiniteRange

__all__ = [
    "DEFAULT_ALIAS",
    "alias_option",
    "repository_option",
    "timeout_option",
]

DEFAULT_ALIAS = "champion"
"""The alias that a rollout moves."""

repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that the server reads; by default that of the server started here, else "
    "model_repository.",
)
alias_option = click.option(
    "--alias",
    metavar="ALIAS",
    help=f"The MLflow alias that is moved to the version.  [default: {DEFAULT_ALIAS}]",
)
timeout_option = click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(min=1),
    default=120,
    show_default=True,
    help="Seconds that the server may take to load the version.",
)
