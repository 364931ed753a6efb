"""`thresher head`: the decision head on anybody's ONNX model, with no MLflow and no torch."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["head"]

_file = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("model", type=_file)
@click.argument("decision", type=_file)
@click.option("-o", "--output", type=_file, required=True, help="The file to write.")
@click.option("--replace", is_flag=True, help="Put the decision in the place of another one.")
@click.option("--has-sigmoid", is_flag=True, help="Take off the sigmoid that the model ends in.")
@click.option("--top-k", type=click.IntRange(min=1), help="Also give the k most probable labels.")
@click.option("--force", is_flag=True, help="Write over a file that exists.")
def head(
    model: Path,
    decision: Path,
    output: Path,
    replace: bool,
    has_sigmoid: bool,
    top_k: int | None,
    force: bool,
) -> None:
    """Append a decision head to an ONNX logits model.

    MODEL has one output, logits [batch, L]. DECISION is a decision.json: an object with "format":
    "thresher-decision/1", labels, thresholds and, where probabilities are calibrated, scale and
    bias. What is written gives probabilities and labels, and carries the decision in its metadata.

    Example: thresher head model.onnx decision.json -o served.onnx
    """
    from thresher.cli.output import say, tell
    from thresher.decision import Decision
    from thresher.errors import ConversionError, counted
    from thresher_export.graph_name import name_by_content
    from thresher_export.head import append_decision_head, replace_decision_head
    from thresher_export.onnx_file import load_model, write_model

    if output.exists() and not force:
        raise ConversionError(f"{output} exists; give another name, or --force to write over it")
    decided = Decision.load(decision)
    loaded = load_model(model)
    if replace:
        made = replace_decision_head(loaded, decided, top_k=top_k)
    else:
        made = append_decision_head(loaded, decided, top_k=top_k, has_sigmoid=has_sigmoid)
    name_by_content(made)
    files = write_model(made, output)
    if has_sigmoid:
        say("Took off the sigmoid that the model ended in: the head brings its own")
    tell(f"Wrote {' and '.join(map(str, files))}: {counted(len(decided.labels), 'label')}")
