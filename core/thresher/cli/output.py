"""What commands print: data to stdout, progress and logs to stderr.

Labels, paths, registry names and servers' messages are other people's text: everything that is
printed here goes through `thresher.terminal`, which shows control characters and markup as text.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from thresher.terminal import console, json_text, printable

__all__ = [
    "Cell",
    "emit_json",
    "log_printably",
    "print_figures",
    "print_json",
    "print_table",
    "say",
    "steps",
    "tell",
]

Cell = str | tuple[str, str]
"""A text as it is, or a text and the style it is shown in, such as ``("no", "red")``."""


def log_printably() -> None:
    """Let warnings that a stage logs reach stderr as what is printed here does."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def tell(text: str) -> None:
    """Print a line of the outcome (stdout)."""
    click.echo(printable(text))


def say(text: str) -> None:
    """Print a line for the person at the terminal (stderr)."""
    click.echo(printable(text), err=True)


def emit_json(event: str, **fields: Any) -> None:
    """Print an event as a line of JSON, for machines that gather logs (stderr)."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    click.echo(json_text({"time": now, "event": event, **fields}), err=True)


def print_json(content: Any) -> None:
    """Print data for a machine (stdout)."""
    click.echo(json_text(content, indent=2))


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Print a table (stdout); columns that begin with # go right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    for column in columns:
        numeric = column.startswith("#")
        table.add_column(column.removeprefix("#"), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(
            *(cell if isinstance(cell, str) else Text(printable(cell[0]), cell[1]) for cell in row)
        )
    shown = console(min_width=120)
    shown.print(title, style="bold")
    shown.print(table)


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
        tell(hint)


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the step in progress: a spinner in a terminal, else lines."""
    from rich.text import Text

    shown = console(stderr=True)
    if not shown.is_terminal:
        yield lambda text: shown.print(text, soft_wrap=True)
        return
    with shown.status("") as status:
        yield lambda text: status.update(Text(text))
