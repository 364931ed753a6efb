"""Installs NVIDIA's Triton server out of a wheel, in a virtual environment of its own.

The wheel ``nvidia-pytriton`` holds NVIDIA's own ``tritonserver`` binary and its ``python`` backend.
Its Python interface wants an old NumPy, so the server never shares the project's environment: it
lives in the user's cache folder, together with the NumPy, ONNX Runtime and tokenizers that our
backends use.
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
from thresher_serving.embedded.runtime_platform import (
    ELSEWHERE,
    NUMPY_VERSION,
    ONNXRUNTIME_VERSION,
    PYTRITON_VERSION,
    TOKENIZERS_VERSION,
    TRITON_VERSION,
    check_platform,
    find_libpython,
    onnxruntime_package,
)

__all__ = [
    "Progress",
    "cache_folder",
    "ensure_installed",
    "read_marker",
    "remove_installed",
    "runtime_folder",
    "site_packages",
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
    """Return where the server for this Python and this machine is, or would be, installed."""
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    ort = f"{onnxruntime_package()}-{ONNXRUNTIME_VERSION}"
    return cache_folder() / "runtime" / f"pytriton-{PYTRITON_VERSION}-{python}-{ort}"


def site_packages(folder: Path) -> Path:
    """Return the packages of the environment in a runtime's folder."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def read_marker(folder: Path) -> dict[str, Any] | None:
    """Return what `ensure_installed` wrote last, or None if an installation never got there."""
    try:
        content = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def what_is_broken(folder: Path) -> str | None:
    """Return why the runtime in a folder cannot be used, or None if it can.

    It looks for the marker, for each file's size as it was installed, and runs the environment's
    Python and the backend's stub once (about 0.2 s).
    """
    marker = read_marker(folder)
    if marker is None:
        return "its installation was not finished"
    for name, version in _versions().items():
        if marker.get(name) != version:
            return f"it was installed with {name} {marker.get(name)}, expected {version}"
    for name, size in marker.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, was installed with {size}"
    return _self_check(folder, marker.get("libpython"))


def _versions() -> dict[str, str]:
    return {
        "triton": TRITON_VERSION,
        "pytriton": PYTRITON_VERSION,
        "onnxruntime": ONNXRUNTIME_VERSION,
        "numpy": NUMPY_VERSION,
    }


def _self_check(folder: Path, libpython: str | None) -> str | None:
    packages = site_packages(folder)
    libraries = [str(packages / "nvidia_pytriton.libs"), *([libpython] if libpython else [])]
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    stub = packages / "pytriton/tritonserver/backends/python/triton_python_backend_stub"
    imports = [str(folder / "bin/python3"), "-c", "import numpy, onnxruntime"]
    # started bare, the stub says which arguments it misses; 127 is the loader's "no such library"
    for command, good in (([str(stub)], (1,)), (imports, (0,))):
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{Path(command[0]).name} does not run: {error}"
        if done.returncode not in good:
            return f"{Path(command[0]).name} does not run: {_last_lines(done.stderr, 3)}"
    return None


def _last_lines(text: str, count: int) -> str:
    return "\n".join(text.strip().splitlines()[-count:])


def ensure_installed(*, progress: Progress | None = None) -> Path:
    """Return the folder of a working runtime, installed now if there is none.

    Two processes may call this at once: the second waits and uses what the first one made. A
    half-made or broken runtime is removed and made anew.

    Args:
        progress: Takes a line for each step; by default they go to standard error.

    Raises:
        RuntimeUnavailableError: If this platform has no server, or pip fails; the message ends
            with pip's last lines.
    """
    from filelock import FileLock, Timeout

    check_platform()
    folder = runtime_folder()
    is_whole = what_is_broken(folder) is None
    if is_whole and _has_tokenizers(folder):
        return folder
    libpython = None if is_whole else find_libpython()
    with _reporter(progress) as say:
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
            broken = what_is_broken(folder)
            if broken is None:
                if not _has_tokenizers(folder):
                    _add_tokenizers(folder, say)
                return folder
            if folder.exists():
                say(f"removing the Triton server in {folder}: {broken}")
                shutil.rmtree(folder)
            _install(folder, libpython, say)
        finally:
            lock.release()
    return folder


def _install(folder: Path, libpython: Path | None, say: Progress) -> None:
    """Build in the final place (virtual environments do not move); the marker is written last."""
    package = onnxruntime_package()
    extras = "[cuda,cudnn]" if package == "onnxruntime-gpu" else ""
    pip = _pip(folder)
    say(f"installing Triton {TRITON_VERSION} in {folder} (once, about 0.3 GB)")
    _run([sys.executable, "-m", "venv", str(folder)], "python -m venv", "apt install python3-venv")
    network = f"Check the network and pip's index. {ELSEWHERE}"
    say(f"fetching {package} {ONNXRUNTIME_VERSION} and NumPy {NUMPY_VERSION}")
    wanted = [f"numpy=={NUMPY_VERSION}", f"{package}{extras}=={ONNXRUNTIME_VERSION}"]
    _run([*pip, *wanted], "pip install", network)
    say(f"fetching nvidia-pytriton {PYTRITON_VERSION} and tokenizers {TOKENIZERS_VERSION}")
    # without what the two need for their own Python interfaces
    alone = [f"nvidia-pytriton=={PYTRITON_VERSION}", f"tokenizers=={TOKENIZERS_VERSION}"]
    _run([*pip, "--no-deps", *alone], "pip install", network)
    server = site_packages(folder) / "pytriton/tritonserver"
    stubs = server / f"python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "backends/python/triton_python_backend_stub"
    shutil.copy2(stubs / stub.name, stub)
    files = [stub, server / "bin/tritonserver", server / "backends/python/libtriton_python.so"]
    files += sorted((site_packages(folder) / "nvidia_pytriton.libs").glob("libtritonserver*"))
    if problem := _self_check(folder, str(libpython) if libpython else None):
        raise RuntimeUnavailableError(f"the Triton server in {folder} does not work: {problem}")
    marker = {
        **_versions(),
        "tokenizers": TOKENIZERS_VERSION,
        "onnxruntime_package": package,
        "python": platform.python_version(),
        "libpython": str(libpython) if libpython else None,
        "files": {str(path.relative_to(folder)): path.stat().st_size for path in files},
    }
    _write_marker(folder, marker)
    say("the Triton server is installed")


def _pip(folder: Path) -> list[str]:
    pip = [str(folder / "bin/python3"), "-m", "pip", "install", "--quiet", "--no-input"]
    return [*pip, "--disable-pip-version-check"]


def _write_marker(folder: Path, marker: dict[str, Any]) -> None:
    temporary = folder / f"{_MARKER}.tmp"
    temporary.write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / _MARKER)


def _has_tokenizers(folder: Path) -> bool:
    return (read_marker(folder) or {}).get("tokenizers") == TOKENIZERS_VERSION


def _add_tokenizers(folder: Path, say: Progress) -> None:
    """Bring a server up to date that an earlier release installed; it may run meanwhile.

    Where that fails, it serves all but models that take texts.
    """
    say(f"fetching tokenizers {TOKENIZERS_VERSION} for the Triton server in {folder}")
    wanted = f"tokenizers=={TOKENIZERS_VERSION}"
    try:
        _run([*_pip(folder), "--no-deps", wanted], "pip install", "Models that take texts need it.")
    except RuntimeUnavailableError as error:
        say(f"WARNING: {error}")
        return
    _write_marker(folder, {**(read_marker(folder) or {}), "tokenizers": TOKENIZERS_VERSION})


def _run(command: list[str], what: str, hint: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONHOME", "PYTHONPATH"}}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = _last_lines(done.stderr or done.stdout, 8)
        raise RuntimeUnavailableError(f"{what} failed:\n{lines}\n{hint}")


def remove_installed(*, everything: bool = False) -> list[Path]:
    """Return the folders that were removed: this Python's server, or every one in the cache."""
    from filelock import FileLock

    current = runtime_folder()
    folders = [current]
    if everything and current.parent.is_dir():
        folders = sorted(path for path in current.parent.iterdir() if path.is_dir())
    removed = []
    for folder in folders:
        if folder.exists():
            with FileLock(f"{folder}.lock"):
                shutil.rmtree(folder)
            removed.append(folder)
    return removed


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
