"""Installs the wheels of the embedded server by lists that hold each one's hash.

The lists are written by ``scripts/lock_runtime.py``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from thresher.errors import RuntimeUnavailableError
from thresher_serving.embedded.runtime_platform import onnxruntime_package

__all__ = ["WHEELS", "ZIG_LIST", "install_wheels", "last_lines", "list_digest", "server_list"]

WHEELS = Path(__file__).parent / "wheels"
"""The folder of the lists."""

ZIG_LIST = "zig.txt"
"""The list that has the C compiler."""


def server_list() -> str:
    """Return the name of the list for this Python, with CUDA's libraries where there is a GPU."""
    suffix = "-gpu" if onnxruntime_package() == "onnxruntime-gpu" else ""
    return f"py{sys.version_info.major}{sys.version_info.minor}{suffix}.txt"


def list_digest(name: str) -> str:
    """Return 8 digits that are others where a list has changed."""
    return hashlib.sha256((WHEELS / name).read_bytes()).hexdigest()[:8]


def install_wheels(python: Path, name: str, *, target: Path | None = None) -> None:
    """Install what a list names, and nothing else; each wheel must have the list's hash.

    Args:
        python: Whose pip is run.
        name: The list.
        target: A folder to install into; by default the environment of ``python``.

    Raises:
        RuntimeUnavailableError: If pip fails; it ends with pip's last lines.
    """
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--require-hashes", "--only-binary=:all:"]
    command += [] if target is None else ["--target", str(target)]
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONHOME", "PYTHONPATH"}}
    done = subprocess.run(
        [*command, "--requirement", str(WHEELS / name)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = last_lines(done.stderr or done.stdout, 8)
        raise RuntimeUnavailableError(f"pip install failed ({name}):\n{lines}")


def last_lines(text: str, count: int) -> str:
    """Return the end of what a program said."""
    return "\n".join(text.strip().splitlines()[-count:])
