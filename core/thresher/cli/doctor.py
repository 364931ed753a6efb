"""`thresher doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import json_option, recipe_argument, set_option
from thresher.cli.output import print_json
from thresher.terminal import console, printable

if TYPE_CHECKING:
    from rich.console import Console

    from thresher_training.doctor import Diagnosis, Finding

__all__ = ["doctor"]

_STYLES = {"error": "bold red", "warning": "bold yellow", "note": "bold cyan"}


@click.command()
@recipe_argument
@set_option
@click.option("--quick", is_flag=True, help="Leave out the checks that train a copy.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write doctor.json, doctor.md and doctor.png into this folder too.",
)
@json_option
@click.pass_context
def doctor(
    context: click.Context,
    recipe: Path,
    overrides: tuple[str, ...],
    quick: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Say why a recipe's network is not training: data, network, loss, learning rate.

    Nothing is trained or logged. The exit code is 1 if there are errors.

    Example: thresher doctor training/recipes/digits.toml --quick
    """
    from thresher.config import load_toml
    from thresher_training import Recipe
    from thresher_training.doctor import examine_recipe

    resolved = load_toml(recipe, Recipe, overrides)
    found = examine_recipe(resolved, recipe_folder=recipe.absolute().parent, deep=not quick)
    if output is not None:
        found.write(output)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    context.exit(1 if found.errors else 0)


def _print(found: Diagnosis) -> None:
    """Print the findings for a person (stdout)."""
    shown = console(min_width=100)
    for finding in found.findings:
        _print_finding(shown, finding)
    shown.print(f"{found.name}: {found.summary()}", style="bold")


def _print_finding(shown: Console, finding: Finding) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    shown.print(Text.assemble((finding.level.upper(), _STYLES[finding.level]), f"  {finding.code}"))
    lines = Table.grid(padding=(0, 1))
    lines.add_column(no_wrap=True, style="dim")
    lines.add_column()
    lines.add_row("what", Text(printable(finding.what)))
    lines.add_row("evidence", Text(printable(finding.evidence)))
    lines.add_row("fix", Text(printable(finding.fix)))
    shown.print(Padding(lines, (0, 0, 1, 2)))
