"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from thresher.errors import unknown_name

__all__ = [
    "CommandGroup",
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
