"""`thresher`, the command line; a command's stage is imported when the command runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from thresher.cli.compare import compare
from thresher.cli.data import data
from thresher.cli.doctor import doctor
from thresher.cli.export import export, verify
from thresher.cli.head import head
from thresher.cli.monitor import monitor
from thresher.cli.options import CommandGroup
from thresher.cli.output import log_printably
from thresher.cli.predict import predict
from thresher.cli.repository import repository
from thresher.cli.rollout import rollback, rollout
from thresher.cli.runtime import runtime
from thresher.cli.score import score
from thresher.cli.serve import serve, stop
from thresher.cli.status import status
from thresher.cli.train import train, ui
from thresher.cli.tune import diff, tune
from thresher.errors import MissingExtraError, ThresherError
from thresher.mlflow_store import explain_failure
from thresher.terminal import printable

__all__ = ["main"]

_EXTRAS = {
    "train": "train",
    "doctor": "train",
    "compare": "train",
    "data": "train",
    "tune": "train",
    "diff": "train",
    "ui": "train",
    "export": "export",
    "verify": "export",
    "head": "head",
    "repository": "serve",
    "serve": "serve",
    "predict": "serve",
    "stop": "serve",
    "runtime": "serve",
    "rollout": "serve",
    "rollback": "serve",
    "status": "serve",
    "score": "score",
    "monitor": "score",
}


class _Commands(CommandGroup):
    """Turns what a user can mend into one message and exit code 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _mendable(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        log_printably()
        with _mendable(ctx):
            return super().invoke(ctx)


@contextlib.contextmanager
def _mendable(ctx: click.Context) -> Iterator[None]:
    """Turn our errors into Click's, and let nothing in a message control the terminal."""
    try:
        yield
    except ThresherError as error:
        raise click.ClickException(printable(str(error))) from None
    except ModuleNotFoundError as error:
        missing = _missing_extra(error, ctx.invoked_subcommand or "")
        if missing is None:
            raise
        raise click.ClickException(str(missing)) from None
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]  # Final in types alone
        raise
    except Exception as error:
        said = explain_failure(error)
        if said is None:
            raise
        raise click.ClickException(printable(said)) from None


def _missing_extra(error: ModuleNotFoundError, command: str) -> MissingExtraError | None:
    """Return what to install when a package of an extra is missing; None for our own bugs."""
    if command not in _EXTRAS or (error.name or "thresher").startswith("thresher"):
        return None
    return MissingExtraError(
        f"`thresher {command}` needs packages that are not installed (first missing: "
        f"{error.name}). Run: pip install 'thresher[{_EXTRAS[command]}]', or 'thresher[all]'"
    )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="thresher")
def main() -> None:
    """Take a multi-label network from training to Triton; serve what was validated.

    \b
    thresher train training/recipes/digits.toml
    thresher export models:/digits@candidate
    thresher serve --background
    thresher predict digits examples/digits/*.png
    thresher verify digits --over-the-wire
    thresher stop
    """  # noqa: D301 -- Click's mark for lines that stay lines is the character \b itself


for _command in (
    train,
    doctor,
    compare,
    data,
    tune,
    diff,
    export,
    serve,
    predict,
    verify,
    rollout,
    rollback,
    status,
    score,
    monitor,
    head,
    repository,
    stop,
    ui,
    runtime,
):
    main.add_command(_command)
