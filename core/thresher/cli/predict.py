"""`thresher predict`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from thresher.cli.options import json_option, server_option
from thresher.cli.output import Cell, print_json, print_table, say
from thresher.cli.serve import connect
from thresher.cli.versions import asked_version

if TYPE_CHECKING:
    from thresher_serving import NamedLabel

__all__ = ["predict"]


@click.command()
@click.argument("model")
@click.argument(
    "examples", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
@click.option("--model-version", type=click.IntRange(min=1), help="By default the one that serves.")
@server_option
@json_option
def predict(
    model: str,
    examples: tuple[Path, ...],
    model_version: int | None,
    server: str | None,
    as_json: bool,
) -> None:
    """Ask Triton about examples: pictures (PNG, JPEG) or arrays (.npy), one example a file.

    MODEL is NAME, or NAME/VERSION, or NAME@ALIAS as MLflow knows it.

    True labels are shown where a metadata.csv (file_name,labels) lies beside a file.

    Example: thresher predict digits examples/digits/*.png
    """
    import numpy as np

    from thresher_serving import Client, load_example, true_labels

    model, model_version = asked_version(model, say, number=model_version)
    with Client(connect(server)) as client:
        metadata = client.metadata(model, model_version)
        rows = [load_example(path, metadata) for path in examples]
        (name,) = metadata.inputs
        answer = client.predict(model, {name: np.stack(rows)}, version=model_version)
    truths = [true_labels(path) for path in examples]
    if as_json:
        print_json(
            {
                "model": answer.model_name,
                "version": answer.model_version,
                "examples": [
                    {
                        "file": str(path),
                        "true": truth,
                        "labels": [
                            {"label": label, "probability": p, "threshold": t}
                            for label, p, t in answer.named(row)
                        ],
                    }
                    for row, (path, truth) in enumerate(zip(examples, truths, strict=True))
                ],
            }
        )
        return
    cells: list[list[Cell]] = []
    for row, (path, truth) in enumerate(zip(examples, truths, strict=True)):
        named = answer.named(row)
        predicted = [label for label, _, _ in named]
        right = truth is None or sorted(truth) == sorted(predicted)
        cells.append(
            [
                path.name,
                "?" if truth is None else " ".join(truth) or "none",
                _named(named),
                "" if truth is None else ("yes" if right else ("no", "red")),
            ]
        )
    print_table(
        f"{answer.model_name} version {answer.model_version}",
        ["example", "true labels", "predicted labels: probability >= threshold", "right"],
        cells,
    )


def _named(labels: Sequence[NamedLabel]) -> str:
    """Return labels with their probabilities, and thresholds where the model tells them."""
    return (
        "   ".join(
            f"{label}: {p:.3f}" + ("" if threshold is None else f" >= {threshold:.3f}")
            for label, p, threshold in labels
        )
        or "none"
    )
