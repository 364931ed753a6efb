"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from thresher.errors import unknown_name

__all__ = [
    "CommandGroup",
    "FiniteRange",
    "json_option",
    "recipe_argument",
    "repository_option",
    "server_option",
    "set_option",
]


class CommandGroup(click.Group):
    """Commands in the order of the work; an unknown one is answered with the nearest."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- Click's signature
        """Return names as they were added, not by the alphabet."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that an argument names.

        Raises:
            click.UsageError: If there is none; lists those that there are.
        """
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            raise click.UsageError(unknown_name("command", name, self.commands), ctx)
        return super().resolve_command(ctx, args)


class FiniteRange(click.FloatRange):
    """A number in a range; "nan" compares with nothing and "inf" is no time or share."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="The model repository's folder.",
)


class _ServerOption(click.Option):
    """Takes --to as well, its name of old, which no help shows."""

    def __init__(self, declared: Sequence[str], **settings: Any) -> None:
        super().__init__([*declared, "--to"], **settings)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return what the help says of it."""
        name, text = super().get_help_record(ctx) or ("", "")
        return name.replace(", --to", ""), text

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return what errors call it."""
        return super().get_error_hint(ctx).replace(" / '--to'", "")


server_option = click.option(
    "--server",
    cls=_ServerOption,
    metavar="HOST:PORT",
    help="Address of a Triton server; by default the one that `thresher serve` started here. Its "
    "key is read from THRESHER_SERVER_KEY.",
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
