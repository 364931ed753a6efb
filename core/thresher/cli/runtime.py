"""`thresher runtime`."""

from __future__ import annotations

import textwrap

import click

from thresher.cli.options import CommandGroup, json_option
from thresher.cli.output import print_json, steps, tell

__all__ = ["runtime"]

_ORIGINS = {
    "wheel": "of the wheel nvidia-pytriton",
    "container": "the container's own",
    "given": "given with TRITONSERVER",
}


@click.group(cls=CommandGroup)
def runtime() -> None:
    """Install, show or remove the Triton server of the nvidia-pytriton wheel."""


@runtime.command()
def install() -> None:
    """Install the server now rather than at the first `thresher serve`.

    It comes as wheels with known hashes, and its onnxruntime backend is compiled: with the
    machine's cc, or with a compiler that is fetched and removed again.

    Example: thresher runtime install
    """
    from thresher_serving import install_runtime

    with steps() as show:
        found = install_runtime(progress=show)
    tell(f"Triton {found.version} is installed: {found.server}")


@runtime.command()
@json_option
def info(as_json: bool) -> None:
    """Show which Triton server `thresher serve` would start, and what it was built with.

    Example: thresher runtime info
    """
    from thresher_serving import runtime_info

    content = runtime_info()
    if as_json:
        print_json(content)
        return
    if content["problem"]:
        _tell_wrapped(content["problem"])
        return
    built = content["built"]
    tell(f"Triton        {content['version']}, {_ORIGINS[content['kind']]}")
    if built:
        tell(f"Backend       ours, compiled with {built['compiler']}")
        tell(f"Sources       {built['sources']}")
        tell(f"ONNX Runtime  {built['onnxruntime']}")
    else:
        tell("Backend       NVIDIA's own, in C++")
    tell(f"Texts         {'no' if content['no_texts'] else 'yes'}")
    if content["kind"] == "wheel":
        installed = content["installed"]
        tell(f"Wheels        those of {installed['wheels']}, Python {installed['python']}")
        tell(f"Folder\n  {content['folder']}")
    else:
        tell(f"Server\n  {content['server']}")
    for note in (content["no_texts"], content["security"]):
        if note:
            _tell_wrapped(f"Note: {note}.")


def _tell_wrapped(text: str) -> None:
    """Print sentences in lines of 80; a path is not broken."""
    for line in text.splitlines():
        tell(textwrap.fill(line, 80, break_long_words=False, break_on_hyphens=False))


@runtime.command()
@click.option("--all", "everything", is_flag=True, help="All that the cache folder holds.")
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
