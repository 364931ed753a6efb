"""Installs NVIDIA's Triton server out of a wheel, in a virtual environment of its own.

The wheel ``nvidia-pytriton`` holds NVIDIA's own ``tritonserver`` binary. The server lives in the
user's cache folder and never shares the project's environment: models that take texts run in its
Python backend, which wants an old NumPy. The ``onnxruntime`` backend is compiled into the same
folder, against the ONNX Runtime that is installed there.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from thresher.errors import RuntimeUnavailableError
from thresher.terminal import console, printable
from thresher_serving.embedded.runtime_build import (
    Built,
    build_backend,
    check_onnxruntime,
    find_built,
)
from thresher_serving.embedded.runtime_platform import (
    ELSEWHERE,
    ONNXRUNTIME_VERSION,
    PYTRITON_VERSION,
    TRITON_VERSION,
    check_platform,
    onnxruntime_package,
    server_libraries,
    site_packages,
    takes_texts,
)
from thresher_serving.embedded.runtime_texts import STUB
from thresher_serving.embedded.runtime_wheels import (
    install_wheels,
    last_lines,
    list_digest,
    server_list,
)

__all__ = [
    "Progress",
    "built_backend",
    "cache_folder",
    "ensure_built",
    "ensure_installed",
    "read_marker",
    "remove_installed",
    "runtime_folder",
    "what_is_broken",
]

_MARKER = "runtime.json"

Progress = Callable[[str], None]
"""Takes one line that says what is being done."""


def cache_folder() -> Path:
    """Return the folder that holds installed servers: THRESHER_CACHE, or the user's cache."""
    if given := os.environ.get("THRESHER_CACHE"):
        return Path(given).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "thresher"


def runtime_folder() -> Path:
    """Return where the server for this Python and this machine is, or would be, installed.

    Its name ends with the digest of the list of wheels, so a release that installs others leaves
    the server alone that an earlier one installed, and that may run.
    """
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    ort = f"{onnxruntime_package()}-{ONNXRUNTIME_VERSION}"
    name = f"triton-{TRITON_VERSION}-{python}-{ort}-{list_digest(server_list())}"
    return cache_folder() / "runtime" / name


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what `ensure_installed` wrote last, or None if an installation never got there."""
    try:
        content = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def what_is_broken(folder: Path) -> str | None:
    """Return why the runtime in a folder cannot be used, or None if it can.

    It looks for the marker, for each file's size as it was installed, and opens ONNX Runtime with
    the environment's Python. Whether the backend is compiled is `built_backend`'s question.
    """
    marker = read_marker(folder)
    if marker is None:
        return "its installation was not finished" if folder.exists() else "nothing is there"
    for name, size in marker.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, was installed with {size}"
    return check_onnxruntime(_onnxruntime(folder), folder / "bin/python3")


def _onnxruntime(folder: Path) -> Path:
    return site_packages(folder) / f"onnxruntime/capi/libonnxruntime.so.{ONNXRUNTIME_VERSION}"


def built_backend(folder: Path) -> Built | None:
    """Return the backend that was compiled for the server in a folder, or None."""
    return find_built(folder / "compiled", _onnxruntime(folder))


def ensure_installed(*, progress: Progress | None = None) -> Path:
    """Return the folder of a working runtime, installed now if there is none.

    Two processes may call this at once: the second waits and uses what the first one made. A
    half-made or broken runtime is removed and made again. The backend is compiled where that has
    not been done of today's sources.

    Args:
        progress: Takes a line for each step; by default they go to standard error.

    Raises:
        RuntimeUnavailableError: If this platform has no server, or pip or the compiler fails; the
            message ends with its last lines.
    """
    check_platform()
    folder = runtime_folder()
    if what_is_broken(folder) is None and built_backend(folder):
        return folder
    with _reporter(progress) as say, _locked(folder, say):
        broken = what_is_broken(folder)
        if broken is not None:
            if folder.exists():
                say(f"removing the Triton server in {folder}: {broken}")
                shutil.rmtree(folder)
            _install(folder, say)
        build_backend(
            folder / "compiled",
            _onnxruntime(folder),
            server_library=next(server_libraries(folder).glob("libtritonserver*"), None),
            python=folder / "bin/python3",
            say=say,
        )
        if broken is not None:
            say("the Triton server is installed")
    return folder


def ensure_built(
    parent: Path, library: Path, server_library: Path | None, *, progress: Progress | None
) -> Built:
    """Return a backend for a server that was not installed here, compiled now if there is none."""
    if built := find_built(parent, library):
        return built
    python = Path(sys.executable)
    if problem := check_onnxruntime(library, python):
        raise RuntimeUnavailableError(problem)
    with _reporter(progress) as say, _locked(parent, say):
        return build_backend(parent, library, server_library=server_library, python=python, say=say)


def _install(folder: Path, say: Progress) -> None:
    """Build in the final place (virtual environments do not move); the marker is written last."""
    package = onnxruntime_package()
    say(f"installing Triton {TRITON_VERSION} in {folder} (once, about 0.3 GB)")
    _make_environment(folder)
    say(f"fetching nvidia-pytriton {PYTRITON_VERSION} and {package} {ONNXRUNTIME_VERSION}")
    try:
        install_wheels(folder / "bin/python3", server_list())
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(
            f"{error}\nCheck the network and pip's index. {ELSEWHERE}"
        ) from None
    server = site_packages(folder) / "pytriton/tritonserver"
    files = [server / "bin/tritonserver", _onnxruntime(folder)]
    files += sorted(server_libraries(folder).glob("libtritonserver*"))
    if takes_texts():
        stubs = server / f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}"
        backend = server / "backends/python"
        shutil.copy2(stubs / STUB, backend / STUB)
        files += [backend / STUB, backend / "libtriton_python.so"]
    if problem := check_onnxruntime(_onnxruntime(folder), folder / "bin/python3"):
        raise RuntimeUnavailableError(f"the Triton server in {folder} does not work: {problem}")
    marker = {
        "triton": TRITON_VERSION,
        "wheels": server_list(),
        "python": platform.python_version(),
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }
    temporary = folder / f"{_MARKER}.tmp"
    temporary.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / _MARKER)


def _make_environment(folder: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONHOME", "PYTHONPATH"}}
    command = [sys.executable, "-m", "venv", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = last_lines(done.stderr or done.stdout, 8)
        raise RuntimeUnavailableError(f"python -m venv failed:\n{lines}\napt install python3-venv")


def remove_installed(*, everything: bool = False) -> list[Path]:
    """Return the folders that were removed: this Python's server, or all that the cache holds."""
    from filelock import FileLock

    current = runtime_folder()
    folders = [current]
    if everything:
        # backends: what was compiled for servers that were not installed here
        places = (current.parent, cache_folder() / "backends")
        found = (path for place in places if place.is_dir() for path in place.iterdir())
        folders = sorted(path for path in found if path.is_dir())
    removed = []
    for folder in folders:
        if folder.exists():
            with FileLock(f"{folder}.lock"):
                shutil.rmtree(folder)
            removed.append(folder)
    return removed


@contextmanager
def _locked(folder: Path, say: Progress) -> Iterator[None]:
    """Keep other processes from making the same folder meanwhile."""
    from filelock import FileLock, Timeout

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeUnavailableError(
            f"{folder.parent}: cannot be made: {error.strerror}. Set THRESHER_CACHE to a "
            "folder that can be written to"
        ) from None
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another process that is installing the Triton server")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _reporter(progress: Progress | None) -> Iterator[Progress]:
    """Give the caller's reporter, else a spinner on a terminal, else plain lines, on stderr."""
    if progress is not None:
        yield progress
    elif sys.stderr.isatty():
        from rich.text import Text

        with console(stderr=True).status("looking for the Triton server") as status:
            yield lambda line: status.update(Text(line))
    else:
        import click

        yield lambda line: click.echo(printable(line), err=True)
