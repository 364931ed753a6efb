"""`thresher compare`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from thresher.cli.options import json_option, recipe_argument, set_option
from thresher.cli.output import print_json, print_table, say, tell

__all__ = ["compare"]


@click.command()
@recipe_argument
@click.option(
    "--losses",
    required=True,
    metavar="LOSS,LOSS,...",
    help="Losses to compare: NAME[+pos_weight[=WEIGHTING]][+weight[=WEIGHTING]].",
)
@click.option(
    "--seeds",
    metavar="SEED,SEED,...",
    help="Train each loss with each of these; the recipe's seed where left out.",
)
@set_option
@json_option
def compare(
    recipe: Path, losses: str, seeds: str | None, overrides: tuple[str, ...], as_json: bool
) -> None:
    """Train a recipe with several losses and show them side by side; nothing is registered.

    The best is named by validation. Exit code 1 if a training failed; the others are shown.

    Example: thresher compare training/recipes/digits.toml --losses bce,bce+pos_weight,focal
    """
    from thresher.config import load_toml
    from thresher_training import Recipe
    from thresher_training.comparison import compare as compare_losses
    from thresher_training.comparison_report import METRICS, cell, figure_name, shown_choice

    resolved = load_toml(recipe, Recipe, overrides)
    found = compare_losses(
        resolved,
        [text.strip() for text in losses.split(",") if text.strip()],
        seeds=None if seeds is None else _numbers(seeds),
        recipe_folder=recipe.absolute().parent,
    )
    if as_json:
        print_json(
            {
                "recipe": found.name,
                "run_id": found.run_id,
                "chosen_by": found.chosen_by,
                "winner": found.winner.loss if found.winner else None,
                "losses": [
                    {
                        "loss": row.loss,
                        "seeds": list(row.seeds),
                        "figures": {name: list(values) for name, values in row.figures.items()},
                        "failures": {str(seed): text for seed, text in row.failures.items()},
                    }
                    for row in found.losses
                ],
            }
        )
    else:
        for which, words in (("at_0.5", "threshold 0.5"), ("tuned", "tuned thresholds")):
            print_table(
                f"{found.name} on the test split, {words}",
                ["loss", *(f"#{words}" for words in METRICS.values())],
                [
                    [row.loss, *(cell(row, figure_name("test", which, name)) for name in METRICS)]
                    for row in found.losses
                ],
            )
        if found.winner:
            figure = cell(found.winner, found.chosen_by)
            tell(f"Best on validation: {found.winner.loss} ({figure} {shown_choice(found)})")
        say(f"Table and plot are in MLflow's run {found.run_id}; see them with: thresher ui")
    for failure in found.failures:
        say(f"Failed: {failure}")
    if found.failures:
        sys.exit(1)


def _numbers(text: str) -> list[int]:
    """Return the seeds of ``0,1,2``."""
    from thresher.errors import ConfigError

    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = [-1]
    if not seeds or min(seeds) < 0:
        raise ConfigError(f'--seeds is "{text}", expected whole numbers from 0, such as 0,1,2')
    return seeds
