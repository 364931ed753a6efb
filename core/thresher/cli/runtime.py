"""`thresher runtime`."""

from __future__ import annotations

import click

from thresher.cli.options import CommandGroup, json_option
from thresher.cli.output import print_json, steps, tell

__all__ = ["runtime"]


@click.group(cls=CommandGroup)
def runtime() -> None:
    """Install, show or remove the Triton server of the nvidia-pytriton wheel."""


@runtime.command()
def install() -> None:
    """Install the server now rather than at the first `thresher serve`.

    Example: thresher runtime install
    """
    from thresher_serving import install_runtime

    with steps() as show:
        found = install_runtime(progress=show)
    tell(f"Triton {found.version} is installed: {found.server}")


@runtime.command()
@json_option
def info(as_json: bool) -> None:
    """Show which Triton server `thresher serve` would start.

    Example: thresher runtime info
    """
    from thresher_serving import runtime_info

    content = runtime_info()
    if as_json:
        print_json(content)
        return
    for key, value in content.items():
        tell(f"{key:18} {'-' if value is None else value}")


@runtime.command()
@click.option("--all", "everything", is_flag=True, help="Those of other Python versions too.")
def remove(everything: bool) -> None:
    """Remove the installed server from the cache folder.

    Example: thresher runtime remove
    """
    from thresher_serving import remove_runtime

    removed = remove_runtime(everything=everything)
    for path in removed:
        tell(f"Removed {path}")
    if not removed:
        tell("Nothing is installed")
