"""The options of `thresher rollout`, `rollback` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from thresher.cli.options import FiniteRange

__all__ = [
    "DEFAULT_ALIAS",
    "Share",
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


class Share(click.ParamType[float]):
    """A share of calls: "10%" or 0.1."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share, above 0 and below 1."""
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
