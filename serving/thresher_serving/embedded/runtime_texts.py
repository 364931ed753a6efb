"""Whether the embedded server can run models that take texts, and what it needs for that.

They run in Triton's Python backend, which needs NumPy 1 and Python as a shared library. A server
without them serves all other models.
"""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
import sysconfig
from pathlib import Path

from thresher.config_pbtxt import CONFIG_FILE, read_config
from thresher.errors import PublishError, RuntimeUnavailableError
from thresher_serving.embedded.runtime_platform import server_libraries, site_packages, takes_texts
from thresher_serving.embedded.runtime_wheels import last_lines

__all__ = ["STUB", "find_libpython", "is_text_model", "why_no_texts"]

STUB = "triton_python_backend_stub"
"""The program that runs a model of Triton's Python backend."""


def is_text_model(folder: Path) -> bool:
    """Return whether a model's configuration says that it takes texts."""
    try:
        return bool(read_config(folder / CONFIG_FILE).backend == "tokenizer")
    except (OSError, PublishError):
        return False  # Triton says what is wrong with it


def why_no_texts(folder: Path) -> tuple[str | None, Path | None]:
    """Return why models that take texts cannot run, or None; and where libpython is.

    They run in Triton's Python backend, whose program and packages are tried once (0.2 s). The
    folder of libpython is None where the system finds it.
    """
    if not takes_texts():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        reason = (
            f"models that take texts need Python 3.11 or 3.12, this is {version}. Send tokens to "
            "the model that they are for: Client(..., tokenizer=PATH), or thresher predict"
        )
        return reason, None
    try:
        libpython = find_libpython(_python_prefix(folder))
    except RuntimeUnavailableError as error:
        return f"models that take texts are left out: {error}", None
    libraries = [str(server_libraries(folder)), *([str(libpython)] if libpython else [])]
    environment = {
        "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
        "LD_LIBRARY_PATH": ":".join(libraries),
    }
    stub = site_packages(folder) / "pytriton/tritonserver/backends/python" / STUB
    imports = [str(folder / "bin/python3"), "-c", "import numpy, tokenizers"]
    # started bare, the stub says which arguments it misses; 127 is the loader's "no such library"
    for command, good in (([str(stub)], 1), (imports, 0)):
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=120, check=False
            )
            problem = last_lines(done.stderr, 3) if done.returncode != good else None
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
        if problem is not None:
            name = Path(command[0]).name
            return f"models that take texts are left out: {name} does not run: {problem}", None
    return None, libpython


def _python_prefix(folder: Path) -> Path | None:
    """Return where the Python is installed that the environment was made of."""
    try:
        lines = (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    homes = [line.partition("=")[2].strip() for line in lines if line.startswith("home")]
    return Path(homes[0]).parent if homes else None


def find_libpython(prefix: Path | None = None) -> Path | None:
    """Return the folder of the shared libpython, or None where the system loader finds it.

    Args:
        prefix: Where the Python is installed that is wanted; it has the running one's version.
            By default the running one.

    Raises:
        RuntimeUnavailableError: If that Python was built without a shared library; the message
            says which package or build option brings it.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = f"libpython{version}.so.1.0"
    for folder in _libpython_folders(prefix):
        if (folder / library).exists():
            return folder
    try:
        ctypes.CDLL(library)
    except OSError:
        raise RuntimeUnavailableError(
            f"{library} not found: Triton's Python backend needs Python as a shared library. "
            f"Debian or Ubuntu: apt install libpython{version}; pyenv: "
            f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force "
            f"{platform.python_version()}"
        ) from None
    return None


def _libpython_folders(prefix: Path | None) -> list[Path]:
    base = Path(sys.base_prefix) if prefix is None else prefix
    folders = [base / "lib", base / "lib64"]
    if base == Path(sys.base_prefix):
        libdir = Path(str(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))
        multiarch = str(sysconfig.get_config_var("MULTIARCH") or "")
        folders = [libdir, libdir / multiarch, *folders]
    return folders
