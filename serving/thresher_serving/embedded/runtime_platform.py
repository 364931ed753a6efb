"""What Triton server a machine can have: its parts and their versions, and what they need.

The wheel ``nvidia-pytriton`` holds the server; the Python that runs this installs it, and runs its
Python backend.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from thresher.errors import RuntimeUnavailableError

__all__ = [
    "ELSEWHERE",
    "NUMPY_VERSION",
    "ONNXRUNTIME_VERSION",
    "PYTRITON_VERSION",
    "TOKENIZERS_VERSION",
    "TRITON_VERSION",
    "check_platform",
    "find_libpython",
    "onnxruntime_package",
]

PYTRITON_VERSION = "0.7.0"
"""The wheel that holds the server."""

TRITON_VERSION = "2.51.0"
"""The Triton in that wheel, NVIDIA's release 24.10."""

ONNXRUNTIME_VERSION = "1.31.1"
"""The ONNX Runtime that the project is tested with."""

NUMPY_VERSION = "1.26.4" if sys.version_info < (3, 13) else "2.4.6"
"""The NumPy that the backend is tested with.

The wheel's stub was built for NumPy 1. Python 3.13 has no NumPy 1: there our backend takes tensors
in and out through DLPack, which knows no strings.
"""

TOKENIZERS_VERSION = "0.23.3"
"""The tokenizers for models that take texts, tested to give the tokens of the project's own."""

_PYTHONS = ((3, 11), (3, 12), (3, 13))
_OLDEST_GLIBC = (2, 35)

ELSEWHERE = (
    "Run Triton's container (nvcr.io/nvidia/tritonserver) on the model repository, or give a "
    "server of your own with --tritonserver PATH"
)
"""What to do where no server can be installed."""


def onnxruntime_package() -> str:
    """Return "onnxruntime-gpu" where a CUDA 13 driver can be loaded, else "onnxruntime"."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "onnxruntime"
    version = ctypes.c_int(0)
    failed = driver.cuDriverGetVersion(ctypes.byref(version))
    return "onnxruntime" if failed or version.value < 13000 else "onnxruntime-gpu"


def check_platform(
    *,
    system: str | None = None,
    machine: str | None = None,
    libc: str | None = None,
    python: tuple[int, int] | None = None,
) -> None:
    """Return quietly where the wheel's server can run; each argument defaults to this machine's.

    Args:
        system: Such as "Linux".
        machine: Such as "x86_64".
        libc: Such as "glibc 2.36"; empty where it is not glibc.
        python: Major and minor version of the running Python.

    Raises:
        RuntimeUnavailableError: If the server has no build for this platform; it says which part
            does not fit and what to do instead.
    """
    system = platform.system() if system is None else system
    machine = platform.machine() if machine is None else machine
    libc = _libc() if libc is None else libc
    python = sys.version_info[:2] if python is None else python
    if system != "Linux" or machine != "x86_64":
        raise RuntimeUnavailableError(
            f"no Triton server can be installed on {system} {machine}: the wheel "
            f"nvidia-pytriton {PYTRITON_VERSION} is for Linux x86_64. {ELSEWHERE}"
        )
    name, _, number = libc.partition(" ")
    parts = tuple(int(part) for part in number.split(".")[:2] if part.isdigit())
    if name != "glibc" or parts < _OLDEST_GLIBC:
        raise RuntimeUnavailableError(
            f"no Triton server can be installed here: the C library is {libc or 'not glibc'}, "
            f"expected glibc 2.35 or newer (Ubuntu 22.04, Debian 12). {ELSEWHERE}"
        )
    if python not in _PYTHONS:
        raise RuntimeUnavailableError(
            f"no Triton server can be installed under Python {python[0]}.{python[1]}: "
            f"its Python backend is used with 3.11, 3.12 and 3.13. {ELSEWHERE}"
        )


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return ""


def find_libpython(folders: Sequence[Path] | None = None) -> Path | None:
    """Return the folder of the shared libpython, or None where the system loader finds it.

    Python 3.13 needs none: the wheel bundles the one that its stub links.

    Args:
        folders: Where to look; by default where the running Python says its library is.

    Raises:
        RuntimeUnavailableError: If this Python was built without a shared library; the message
            says which package or build option brings it.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version == "3.13":
        return None
    library = f"libpython{version}.so.1.0"
    for folder in _libpython_folders() if folders is None else folders:
        if (folder / library).exists():
            return folder
    if folders is None:
        try:
            ctypes.CDLL(library)
        except OSError:
            pass
        else:
            return None
    raise RuntimeUnavailableError(
        f"{library} not found: Triton's Python backend needs Python as a shared library. "
        f"Debian or Ubuntu: apt install libpython{version}; pyenv: "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install --force {platform.python_version()}"
    )


def _libpython_folders() -> list[Path]:
    libdir = Path(str(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))
    multiarch = str(sysconfig.get_config_var("MULTIARCH") or "")
    base = Path(sys.base_prefix)
    return [libdir, libdir / multiarch, base / "lib", base / "lib64"]
