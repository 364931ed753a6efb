"""What commands print: data to stdout, progress and logs to stderr."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

__all__ = ["emit_json", "print_figures", "print_json", "print_table", "say", "steps"]


def say(text: str) -> None:
    """Print a line for the person at the terminal (stderr)."""
    click.echo(text, err=True)


def emit_json(event: str, **fields: Any) -> None:
    """Print an event as a line of JSON, for machines that gather logs (stderr)."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    say(json.dumps({"time": now, "event": event, **fields}, ensure_ascii=False))


def print_json(content: Any) -> None:
    """Print data for a machine (stdout)."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table (stdout); a cell may hold Rich markup, columns that begin with # go right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for column in columns:
        numeric = column.startswith("#")
        table.add_column(column.removeprefix("#"), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(table)


def print_figures(
    uri: str,
    metrics: Mapping[str, float],
    chosen_for: Mapping[str, str],
    hints: Sequence[str] = (),
) -> None:
    """Print the test figures that training and tuning log, by kind of thresholds.

    Args:
        uri: The version.
        metrics: By name.
        chosen_for: What the thresholds of each kind were chosen for, on validation.
        hints: Lines to print below.
    """
    names = ("micro_f1", "macro_f1", "hamming_loss", "subset_accuracy")
    print_table(
        f"{uri} on the test split",
        ["thresholds", "chosen for", *(f"#{name.replace('_', ' ')}" for name in names)],
        [
            [
                words,
                chosen_for.get(at, ""),
                *(f"{metrics.get(f'test/{at}/{name}', float('nan')):.4f}" for name in names),
            ]
            for at, words in (
                ("at_0.5", "0.5 for every label"),
                ("shared", "one for all labels"),
                ("tuned", "one for each label, as registered"),
            )
        ],
    )
    for hint in hints:
        click.echo(hint)


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the step in progress: a spinner in a terminal, else lines."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: console.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    with console.status("") as status:

        def show(text: str) -> None:
            status.update(text.replace("[", r"\["))

        yield show
