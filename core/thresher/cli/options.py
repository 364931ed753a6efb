"""Options that several commands share."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from thresher.errors import unknown_name

__all__ = [
    "CommandGroup",
    "FiniteRange",
    "csv_options",
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


def csv_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how CSV files are written; the command gets one argument, csv."""

    @click.option("--delimiter", metavar="CHAR", help="Between the cells of a CSV file.")
    @click.option("--csv-columns", metavar="A,B", help="Names for CSV files without a header line.")
    @click.option("--no-quoting", is_flag=True, help="Quotes in CSV files are only text.")
    @click.option(
        "--encoding",
        default="utf-8",
        show_default=True,
        metavar="NAME",
        help="Of CSV files, such as latin-1 or utf-16.",
    )
    @functools.wraps(command)
    def with_csv(
        *,
        delimiter: str | None,
        csv_columns: str | None,
        no_quoting: bool,
        encoding: str,
        **others: Any,
    ) -> Any:
        from thresher.tables.csv_files import CsvOptions

        names = tuple(name.strip() for name in (csv_columns or "").split(",") if name.strip())
        csv = CsvOptions(
            delimiter="\t" if delimiter == "\\t" else delimiter,
            columns=names or None,
            quoting=not no_quoting,
            encoding=encoding,
        )
        return command(csv=csv, **others)

    return with_csv
