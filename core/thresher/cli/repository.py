"""`thresher repository`: what is published, whether it is what was proven, what can go."""

from __future__ import annotations

from pathlib import Path

import click

from thresher.cli.options import CommandGroup
from thresher.cli.output import print_json, print_table, say, steps, tell
from thresher.cli.versions import (
    knows_registry,
    model_alone,
    repository_and_registry,
    short_patience,
)
from thresher.errors import ConfigError, NotFoundError, StoreError, counted
from thresher.model_name import parse_model

__all__ = ["repository"]

_FOLDER = click.option(
    "--repository",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="The model repository's folder.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")


@click.group(cls=CommandGroup)
def repository() -> None:
    """Look into the model repository on disk; needs no torch, ONNX or MLflow.

    Example: thresher repository ls
    """


@repository.command("ls")
@click.argument("names", nargs=-1)
@_FOLDER
@_JSON
def list_command(names: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """List models and versions: which serves, size, precision, certificate.

    Bytes are not compared with the certificate here; `thresher repository verify` does that.

    Example: thresher repository ls digits
    """
    from thresher.inventory import list_versions
    from thresher.repository import ModelRepository

    found = list(list_versions(ModelRepository(folder), names=_models(names)))
    if as_json:
        print_json([version.to_dict() for version in found])
        return
    if not found:
        tell(f"{folder} holds no model")
        return
    print_table(
        f"{folder}: {counted(len({v.model for v in found}), 'model')}, "
        f"{counted(len(found), 'version')}",
        ["model", "#version", "serves", "#size", "precision", "certificate", "proven"],
        [
            [
                version.model,
                str(version.version),
                "yes" if version.is_serving else "",
                _size(version.num_bytes),
                version.precision or "-",
                {"claimed": "yes", "foreign": "not ours"}.get(version.proof, version.proof),
                version.created or "-",
            ]
            for version in found
        ],
    )


@repository.command()
@click.argument("names", nargs=-1)
@_FOLDER
@_JSON
def verify(names: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Compare every version with its certificate; exit code 1 if any is not what was proven.

    Files, both configurations, labels and version policy are compared, and the certificate itself
    with the digest that MLflow holds, where MLflow is in reach.

    Example: thresher repository verify
    """
    from thresher.errors import ParityError
    from thresher.inventory import list_versions

    published = repository_and_registry(folder)
    with steps() as show:
        found = list(list_versions(published, names=_models(names), read_bytes=True, progress=show))
    if as_json:
        print_json([version.to_dict() for version in found])
    wrong = [version for version in found if not version.is_sound]
    if wrong:
        listing = "\n  ".join(f"{v.model}/{v.version}: {v.problem}" for v in wrong)
        raise ParityError(
            f"Not proven: {len(wrong)} of {counted(len(found), 'version')}:\n  {listing}"
        )
    if not as_json:
        foreign = sum(version.proof == "foreign" for version in found)
        proven = len(found) - foreign
        tell(f"Proven, byte for byte: {counted(proven, 'version')}.")
        if foreign:
            tell(f"Without a mark of Thresher, so published by something else: {foreign:,}.")


@repository.command()
@click.argument("models", metavar="NAME/N", nargs=-1, required=True)
@_FOLDER
def recertify(models: tuple[str, ...], folder: Path) -> None:
    """Renew certificates of an earlier release, so that they bind Triton's configuration too.

    What such a certificate binds is checked first. NAME stands for all its versions. What serves
    goes on. Where a registry is named, the digests are written down in MLflow before anything is
    changed; without an answer from it, nothing is.

    Example: thresher repository recertify digits/3
    """
    published = repository_and_registry(folder)
    for model in models:
        asked = parse_model(model)
        if asked.alias is not None:
            raise ConfigError(f'"{model}" is an alias; name the version by its number')
        versions = published.versions(asked.name) if asked.version is None else [asked.version]
        for version in versions:
            register = _register if knows_registry() else _nowhere
            renewed = published.recertify(asked.name, version, register=register)
            if not renewed:
                tell(f"The certificate of {asked.name}/{version} binds everything already")
            for name in renewed:
                tell(f"Renewed the certificate of {name}/{version}")


def _nowhere(name: str, version: int, digest: str) -> None:
    """Write a digest down nowhere, since no registry is named."""


def _register(name: str, version: int, digest: str) -> None:
    """Write a certificate's digest down in MLflow, with the version that it is of.

    Raises:
        StoreError: If that cannot be done: every check that asks MLflow would refuse the version.
    """
    try:
        from thresher.registry import register_certificate, registered_tags

        with short_patience():
            if registered_tags(name, version) is not None:
                register_certificate(name, version, digest)
                return
        say(f"Warning: MLflow has no version {version} of {name}, so its digest is nowhere")
    except (ModuleNotFoundError, NotFoundError, StoreError) as error:
        raise StoreError(
            f"MLflow has to hold the digest of each certificate, and does not answer: {error}. "
            "What is not renewed stays as it was; run it again where MLflow is in reach"
        ) from None


@repository.command()
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Newest versions of each model that stay, besides those that serve.",
)
@click.option("--yes", is_flag=True, help="Remove; without it, say what would be removed.")
@_FOLDER
@_JSON
def gc(keep: int, yes: bool, folder: Path, as_json: bool) -> None:
    """Remove what dead publishers left and versions that are old; never one that serves.

    Example: thresher repository gc --keep 2 --yes
    """
    from thresher.inventory import collect, find_leftovers
    from thresher.repository import ModelRepository

    published = ModelRepository(folder)
    found = find_leftovers(published, keep=keep)
    freed = collect(published, found) if yes else 0
    if as_json:
        print_json(
            {
                "removed": yes,
                "bytes_freed": freed,
                "leftovers": [leftover.to_dict() for leftover in found],
            }
        )
        return
    if not found:
        tell("Nothing to remove")
        return
    print_table(
        "Removed" if yes else "Would be removed",
        ["what", "where", "#size"],
        [[leftover.kind, leftover.path, _size(leftover.num_bytes)] for leftover in found],
    )
    if yes:
        tell(f"Freed {_size(freed)}")
    else:
        say("Nothing was removed. Run again with --yes to remove these")


def _models(names: tuple[str, ...]) -> list[str] | None:
    """Return the models that are named; None where all are meant."""
    return [model_alone(name, "all versions are listed") for name in names] or None


def _size(num_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:,.1f} {unit}"
    return f"{num_bytes} B"
