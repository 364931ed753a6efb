"""`thresher train` and `thresher ui`."""

from __future__ import annotations

from pathlib import Path

import click

from thresher.cli.options import json_option, recipe_argument, set_option
from thresher.cli.output import print_figures, print_json, say, tell
from thresher.errors import ThresherError

__all__ = ["train", "ui"]


@click.command()
@recipe_argument
@set_option
@click.option(
    "--resume",
    metavar="RUN_ID",
    help="Go on with a run that was cut off, or that could not be tuned, from its checkpoint.",
)
@json_option
def train(recipe: Path, overrides: tuple[str, ...], resume: str | None, as_json: bool) -> None:
    """Train a recipe, tune its thresholds, log to MLflow, register a version.

    Example: thresher train training/recipes/digits.toml --set optimization.epochs=5

    Several processes train together under torchrun, each on a GPU of its own where there are any:

    \b
    torchrun --nproc-per-node 2 -m thresher train training/recipes/digits.toml
    """  # noqa: D301 -- Click's mark for lines that stay lines is the character \b itself
    import os
    import sys

    from thresher.config import load_toml
    from thresher_training import Recipe
    from thresher_training import train as train_recipe
    from thresher_training.loop import Interrupted

    resolved = load_toml(recipe, Recipe, overrides)
    is_main = os.environ.get("RANK", "0") == "0"
    try:
        done = train_recipe(resolved, recipe_folder=recipe.absolute().parent, resume=resume)
    except Interrupted as error:
        if is_main:
            say(_with_path(error, recipe))
        sys.exit(128 + error.signal_number)
    except ThresherError as error:
        raise ThresherError(_with_path(error, recipe)) from error
    if not is_main:
        return
    if as_json:
        print_json(
            {
                "name": done.name,
                "version": done.version,
                "uri": done.uri,
                "run_id": done.run_id,
                "metrics": dict(done.metrics),
                "chosen_for": dict(done.chosen_for),
                "hints": list(done.hints),
            }
        )
        return
    print_figures(done.uri, done.metrics, done.chosen_for, done.hints)
    tell(f"Registered {done.uri} as {done.name}@{resolved.alias}")
    say(f"Next: thresher export models:/{done.name}@{resolved.alias}")


def _with_path(error: BaseException, recipe: Path) -> str:
    """Return a message whose advice can be copied: Python's `train` knows no path."""
    return str(error).replace("thresher train RECIPE ", f"thresher train {recipe} ")


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(1, 65_535),
    default=5000,
    show_default=True,
    help="Port to listen on.",
)
def ui(host: str, port: int) -> None:
    """Open MLflow's own UI on the store that Thresher logs to (Ctrl-C ends it).

    Example: thresher ui --port 5001
    """
    import os
    import sys

    from thresher.registry import connect

    store = connect().get_tracking_uri()
    if store.startswith("http"):
        say(f"MLflow's UI is where the store is: {store}")
        return
    say(f"MLflow on http://{host}:{port} ({store}); Ctrl-C ends it")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--workers", "1"]
    os.execv(sys.executable, [*command, "--host", host, "--port", str(port)])  # noqa: S606 -- an argument list, no shell
