"""`thresher export` and `thresher verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from thresher.cli.export_all import export_all, export_all_options, wants_all
from thresher.cli.options import csv_options, json_option, repository_option, server_option
from thresher.cli.output import print_json, print_table, say, steps, tell
from thresher.cli.versions import asked_version, repository_and_registry
from thresher.errors import counted

if TYPE_CHECKING:
    from thresher.tables.csv_files import CsvOptions

__all__ = ["export", "verify"]


@click.command()
@click.argument("model_uri", metavar="MODEL", required=False)
@repository_option
@click.option("--no-publish", is_flag=True, help="Convert and prove parity, publish nothing.")
@click.option(
    "--no-serve",
    is_flag=True,
    help="Publish beside the version that serves, for `thresher rollout`.",
)
@click.option(
    "--max-batch-size",
    type=click.IntRange(min=1),
    help="Largest batch that Triton puts together or takes; 64 where the recipe says nothing.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="What the network's body computes in; the decision head is FP32 always.",
)
@click.option(
    "--target-triton",
    metavar="RELEASE",
    envvar="THRESHER_TARGET_TRITON",
    show_envvar=True,
    help="The Triton release that serves, or the oldest that may; 24.10 where nothing is said.",
)
@click.option(
    "--has-sigmoid",
    is_flag=True,
    help="Take off the sigmoid that the network ends in; the logged logits are those before it.",
)
@click.option(
    "--text",
    is_flag=True,
    help="Publish the model NAME.text too: it takes texts, and makes tokens of them on the server.",
)
@click.option(
    "--set",
    "settings",
    metavar="triton.KEY=VALUE",
    multiple=True,
    help="How Triton runs it, over what the recipe says, such as triton.instance_count=2.",
)
@json_option
@export_all_options
def export(
    model_uri: str,
    repository: Path,
    no_publish: bool,
    no_serve: bool,
    max_batch_size: int | None,
    precision: Any,
    target_triton: str | None,
    has_sigmoid: bool,
    text: bool,
    settings: tuple[str, ...],
    as_json: bool,
    **job: Any,
) -> None:
    """Convert a registered version to ONNX with its decision head, prove parity, publish it.

    MODEL is NAME/VERSION or NAME@ALIAS, with or without models:/ before it. Where ONNX Runtime
    does not decide as torch does, nothing is published and the exit code is 1. With --all: each
    model's newest version, or those that --filter and --alias select; what is published already is
    skipped.

    Example: thresher export models:/digits@candidate
    """
    from thresher.repository import ModelRepository
    from thresher_export import ExportOptions, export_version
    from thresher_export.triton_options import parse_settings

    given = parse_settings(settings)
    if max_batch_size is not None:
        given["max_batch_size"] = max_batch_size
    if text:
        given["text"] = True
    options = ExportOptions(
        precision=precision,
        target_triton=target_triton,
        has_sigmoid=has_sigmoid,
        serve=not no_serve,
        settings=given,
    )
    if wants_all(model_uri, job):
        folder = None if no_publish else repository
        export_all(repository=folder, options=options, as_json=as_json, **job)
    with steps() as show:
        done = export_version(
            model_uri,
            repository=None if no_publish else ModelRepository(repository),
            options=options,
            progress=show,
        )
    version = done.version
    if as_json:
        print_json(
            {
                "name": version.name,
                "version": version.version,
                "folder": str(done.folder) if done.folder else None,
                "text_model": done.text_name,
                "is_new": done.is_new,
                "kept": done.kept,
                "remarks": list(done.report.remarks),
                "parity": done.report.to_dict(),
            }
        )
        return
    print_table(
        f"Parity of {version.uri}: largest differences, decisions that flip",
        ["comparison", "#rows", "#logits", "#probabilities", "#flips"],
        [
            [
                check.name,
                f"{check.agreement.num_rows:,}",
                _difference(check.agreement.max_abs("logits")),
                _difference(check.agreement.max_abs("probabilities")),
                str(check.agreement.num_flips),
            ]
            for check in done.report.checks
        ],
    )
    for remark in done.report.remarks:
        tell(remark)
    if done.folder is None:
        tell(f"{version.uri} passes; nothing was published, as asked")
        return
    verb = "Published" if done.is_new else "Was published already:"
    tell(f"{verb} {version.uri} in {_shown(done.folder)}")
    if done.text_name is not None:
        tell(f"Texts are taken by {done.text_name}/{version.version}")
    if done.kept:
        tell(done.kept)
        return
    say(
        f"Next: thresher rollout {version.name}/{version.version}"
        if no_serve
        else "Next: thresher serve --background"
    )


@click.command()
@click.argument("model")
@repository_option
@server_option
@click.option("--over-the-wire", is_flag=True, help="Ask the running Triton server too.")
@click.option(
    "--split",
    "split_name",
    type=click.Choice(["test", "validation"]),
    default="test",
    show_default=True,
    help="Which rows of the run are used: all of this split.",
)
@click.option(
    "--data",
    metavar="DATA",
    help="Rows of your own instead: Parquet, Arrow, CSV, ARFF, NPZ or pictures; targets optional.",
)
@csv_options
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save a sheet of pictures with true and answered labels, and log it to the MLflow run.",
)
@json_option
def verify(
    model: str,
    repository: Path,
    server: str | None,
    over_the_wire: bool,
    split_name: str,
    data: str | None,
    csv: CsvOptions,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Compare torch, ONNX Runtime and Triton, decision by decision, on a split or on your rows.

    MODEL is NAME (the version that serves), NAME/VERSION or NAME@ALIAS; it must be published.
    Exit code 1 where the engines do not agree.

    Example: thresher verify digits --over-the-wire
    """
    from thresher.errors import ParityError
    from thresher_export.verify import verify_version

    published = repository_and_registry(repository)
    name, version = _which(model, published)
    engines = {"Triton": _triton(server, name, version)} if over_the_wire else {}
    with steps() as show:
        outcome = verify_version(
            name,
            version,
            published,
            split_name=split_name,
            data=data,
            csv=csv,
            engines=engines,
            progress=show,
        )
        if picture:
            show(f"Drawing {picture}")
            _draw(outcome, picture)
    if as_json:
        print_json(outcome.to_dict())
    else:
        rows, labels = outcome.split.targets_NL.shape
        print_table(
            f"{name} version {version}, {counted(rows, 'row')} x {counted(labels, 'label')} of "
            f"{_named(outcome)}: largest differences, decisions that flip",
            ["engines", "#logits", "#probabilities", "#band", "#decisions", "#flips"],
            [
                [
                    f"{a} = {b}",
                    _difference(agreement.max_abs("logits")),
                    _difference(agreement.max_abs("probabilities")),
                    _difference(agreement.band_half_width),
                    f"{rows * labels:,}",
                    str(agreement.num_flips),
                ]
                for (a, b), agreement in outcome.agreements.items()
            ],
        )
    problems = outcome.problems()
    if problems:
        listing = "\n  ".join(problems)
        raise ParityError(f"{name}/{version}: the engines do not agree:\n  {listing}")
    if not as_json:
        tell(f"{' = '.join(outcome.outputs)}, decision by decision.")
        if picture:
            tell(f"Picture: {_shown(picture)} (also in the MLflow run, under pictures/)")


def _named(outcome: Any) -> str:
    """Return what the rows are called."""
    name = outcome.split_name
    return f"the {name} split" if name in {"test", "validation"} else str(name)


def _which(model: str, repository: Any) -> tuple[str, int]:
    """Return name and version of what an argument names; of a model alone, what serves."""
    name, version = asked_version(model, say)
    return name, repository.serving_version(name) if version is None else version


def _triton(server: str | None, name: str, version: int) -> Any:
    """Return an engine that asks the server; what it lacks is said before anything is run."""
    from thresher.agreement import Outputs
    from thresher.cli.serve import connect
    from thresher_serving import Client

    address = connect(server)
    with Client(address) as client:
        client.metadata(name, version)

    def ask(inputs: Any) -> Outputs:
        with Client(address) as client:
            answer = client.predict(
                name,
                inputs,
                version=version,
                outputs=("probabilities", "labels", "logits"),
                allow_nonfinite=True,
            )
        return Outputs(
            probabilities_NL=answer.probabilities, labels_NL=answer.labels, logits_NL=answer.logits
        )

    return ask


def _draw(outcome: Any, path: Path) -> None:
    """Save a sheet of pictures with what the last engine answered, and log it to the run."""
    import numpy as np

    from thresher.errors import DataError
    from thresher.registry import connect
    from thresher_training.examples import choose_rows, picture_input
    from thresher_training.plots import picture_sheet

    version, split = outcome.version, outcome.split
    name = picture_input(split.inputs)
    if name is None:
        raise DataError(f"--picture: {version.name} does not take one picture, uint8 [C, H, W]")
    engine = list(outcome.outputs)[-1]
    answered_NL, true_NL = outcome.outputs[engine].labels_NL, split.targets_NL == 1
    known_NL = ~np.isnan(split.targets_NL)
    wrong = np.flatnonzero(((answered_NL != true_NL) & known_NL).any(axis=1))
    rows = list(dict.fromkeys([*choose_rows(split.targets_NL, 16), *wrong.tolist()]))[:24]
    labels = version.decision().labels
    path.parent.mkdir(parents=True, exist_ok=True)
    picture_sheet(
        split.inputs[name][rows],
        [[labels[k] for k in np.flatnonzero(true_NL[row])] for row in rows],
        [[labels[k] for k in np.flatnonzero(answered_NL[row])] for row in rows],
        path,
        f"{version.name} version {version.version}, answered by {engine} "
        f"({len(wrong):,} of {len(split):,} have a wrong label)",
    )
    connect().MlflowClient().log_artifact(version.run_id, str(path), "pictures")


def _difference(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _shown(path: Path) -> str:
    """Return a path as a person would type it here."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
