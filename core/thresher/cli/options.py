"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["json_option", "recipe_argument", "repository_option", "server_option", "set_option"]

repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="The model repository's folder.",
)

server_option = click.option(
    "--server",
    metavar="HOST:PORT",
    help="gRPC address of a Triton server; by default the one that `thresher serve` started here.",
)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path, dir_okay=False))

set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe, such as optimization.epochs=3. Repeatable.",
)
