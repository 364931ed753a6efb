"""`thresher predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import csv_options, json_option, repository_option, server_option
from thresher.cli.output import Cell, print_json, print_table, say
from thresher.cli.serve import connect
from thresher.cli.versions import asked_version

if TYPE_CHECKING:
    from thresher.tables.csv_files import CsvOptions
    from thresher_serving import Client, NamedLabel, Prediction

__all__ = ["predict"]


@dataclass(frozen=True, slots=True)
class _Example:
    """One argument of the command line."""

    text: str
    kind: str
    """"text", "table", or the form of a file of which each holds one row."""


@click.command()
@click.argument("model")
@click.argument("examples", nargs=-1, required=True, metavar="EXAMPLE...")
@click.option("--model-version", type=click.IntRange(min=1), help="By default the one that serves.")
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="The model's tokenizer.json, for texts to a server elsewhere.",
)
@csv_options
@repository_option
@server_option
@json_option
def predict(
    model: str,
    examples: tuple[str, ...],
    model_version: int | None,
    tokenizer: Path | None,
    csv: CsvOptions,
    repository: Path,
    server: str | None,
    as_json: bool,
) -> None:
    """Ask Triton about examples: pictures, texts, tables (CSV, Parquet, ...), arrays (.npy).

    MODEL is NAME, or NAME/VERSION, or NAME@ALIAS as MLflow knows it.

    An EXAMPLE is the name of a file, or a text for a model that reads texts. Rows become inputs as
    they did in training; the model's own configuration says how. True labels are shown where a
    metadata.csv (file_name,labels) is in a file's folder.

    Example: thresher predict digits examples/digits/*.png
    """
    from thresher_serving import Client

    model, model_version = asked_version(model, say, number=model_version)
    with Client(connect(server), tokenizer=tokenizer, repository=repository, csv=csv) as client:
        takes_texts = _takes_texts(client, model, model_version)
        given = [_example(text, takes_texts) for text in examples]
        answers: list[tuple[list[str], Prediction]] = []
        for kind, group in groupby(given, key=lambda example: example.kind):
            for some in _calls(kind, [example.text for example in group]):
                rows = some if kind == "text" else [Path(name) for name in some]
                answer = client.predict(
                    model, rows[0] if kind == "table" else rows, version=model_version
                )
                model_version = answer.model_version  # one version answers all
                names = (
                    some
                    if len(some) == len(answer)
                    else [f"{some[0]}, row {row}" for row in range(len(answer))]
                )
                answers.append((names, answer))
    _show(answers, as_json=as_json)


def _takes_texts(client: Client, model: str, version: int | None) -> bool:
    from thresher_serving.client.examples import ExampleReader

    return ExampleReader().takes_texts(client.metadata(model, version))


def _example(text: str, takes_texts: bool) -> _Example:
    """Return what an argument is: a file of this name, else a text.

    A word that ends as files do is no text: it would be answered though the file is missing.
    """
    from thresher.tables.parts import file_at, form_of, missing_file

    form = form_of(text)
    if not file_at(text):
        if takes_texts and (form is None or len(text.split()) > 1):
            return _Example(text, "text")
        raise missing_file(
            text,
            "a picture, a table or a .npy array"
            + (", or a text of several words" if takes_texts else ""),
        )
    return _Example(text, form if form in ("pictures", "npy") else "table")


def _calls(kind: str, names: list[str]) -> Iterator[list[str]]:
    """Yield what is asked at once: each table by itself."""
    if kind != "table":
        yield names
        return
    for name in names:
        yield [name]


def _show(answers: Sequence[tuple[list[str], Prediction]], *, as_json: bool) -> None:
    from thresher.tables.parts import file_at
    from thresher_serving import true_labels

    rows = [
        (name, true_labels(Path(name)) if file_at(name) else None, answer.named(row))
        for names, answer in answers
        for row, name in enumerate(names)
    ]
    answer = answers[0][1]
    if as_json:
        print_json(
            {
                "model": answer.model_name,
                "version": answer.model_version,
                "examples": [
                    {
                        "file": name,
                        "true": truth,
                        "labels": [
                            {"label": label, "probability": p, "threshold": t}
                            for label, p, t in named
                        ],
                    }
                    for name, truth, named in rows
                ],
            }
        )
        return
    is_known = any(truth is not None for _, truth, _ in rows)
    print_table(
        f"{answer.model_name} version {answer.model_version}",
        [
            "example",
            *(["true labels"] if is_known else []),
            "predicted labels: probability >= threshold",
            *(["right"] if is_known else []),
        ],
        [_cells(name, truth, named, is_known=is_known) for name, truth, named in rows],
    )


def _cells(
    name: str, truth: list[str] | None, named: Sequence[NamedLabel], *, is_known: bool
) -> list[Cell]:
    from thresher.tables.parts import file_at

    shown = Path(name).name if file_at(name) else name
    if not is_known:
        return [shown, _named(named)]
    right = truth is None or sorted(truth) == sorted(label for label, _, _ in named)
    return [
        shown,
        "?" if truth is None else " ".join(truth) or "none",
        _named(named),
        "" if truth is None else ("yes" if right else ("no", "red")),
    ]


def _named(labels: Sequence[NamedLabel]) -> str:
    """Return labels with their probabilities, and thresholds where the model has them."""
    return (
        "   ".join(
            f"{label}: {p:.3f}" + ("" if threshold is None else f" >= {threshold:.3f}")
            for label, p, threshold in labels
        )
        or "none"
    )
