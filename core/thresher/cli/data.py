"""`thresher data`."""

from __future__ import annotations

import click

from thresher.cli.options import CommandGroup, json_option
from thresher.cli.output import print_json, say, tell
from thresher.errors import counted

__all__ = ["data"]


@click.group(cls=CommandGroup)
def data() -> None:
    """Fetch published data sets that recipes train on.

    Example: thresher data get goemotions
    """


@data.command()
@click.argument("name")
@json_option
def get(name: str, as_json: bool) -> None:
    """Fetch a data set from its publisher, and check every file by its SHA-256.

    NAME is a data set that Thresher knows, or a TOML file in the same form. Files go into the
    folder that THRESHER_DATA names, or into .thresher/data-sets; those that are there already are
    only checked.

    Example: thresher data get goemotions
    """
    import os

    from thresher_training.fetch import DATA_VARIABLE, data_files, data_folder, fetch

    wanted = data_files(name)
    into = data_folder().absolute()
    say(f"{wanted.title} ({wanted.licence}): {wanted.page}")
    folder = fetch(wanted, into, progress=say)
    if as_json:
        print_json(
            {"name": wanted.name, "folder": str(folder), "files": [f.path for f in wanted.files]}
        )
    else:
        tell(f"{wanted.name}: {counted(len(wanted.files), 'file')}, as published, in {folder}")
    if not os.environ.get(DATA_VARIABLE):
        say(f"Recipes find it with: export {DATA_VARIABLE}={into}")
