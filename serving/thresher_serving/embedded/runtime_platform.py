"""What Triton server a machine can have: its parts and their versions, and what they need.

The wheel ``nvidia-pytriton`` holds the server; the Python that runs this installs it, and runs the
backend of models that take texts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

from thresher.errors import RuntimeUnavailableError

__all__ = [
    "ELSEWHERE",
    "NUMPY_VERSION",
    "ONNXRUNTIME_VERSION",
    "PYTHONS",
    "PYTRITON_VERSION",
    "SECURITY_NOTE",
    "TOKENIZERS_VERSION",
    "TRITON_VERSION",
    "ZIG_VERSION",
    "check_platform",
    "onnxruntime_package",
    "server_libraries",
    "site_packages",
    "takes_texts",
]

PYTRITON_VERSION = "0.7.0"
"""The wheel that holds the server."""

TRITON_VERSION = "2.51.0"
"""The Triton in that wheel, NVIDIA's release 24.10."""

ONNXRUNTIME_VERSION = "1.31.1"
"""The ONNX Runtime that the project is tested with."""

NUMPY_VERSION = "1.26.4"
"""The NumPy of models that take texts: the wheel's Python stub was built for NumPy 1."""

TOKENIZERS_VERSION = "0.23.3"
"""The tokenizers for models that take texts, tested to give the tokens of the project's own."""

ZIG_VERSION = "0.17.1"
"""The C compiler that is fetched where the machine has none (package ``ziglang``)."""

PYTHONS = ((3, 11), (3, 12), (3, 13))
"""The versions of Python that have a list of wheels."""

SECURITY_NOTE = (
    f"Triton {TRITON_VERSION} is older than the fixes of 2026 (CVE-2026-24206 to "
    "CVE-2026-24209, in release 26.04): it is for this machine alone, on the loopback address. "
    "For a network, deploy NVIDIA's container (docs/deployment.md)"
)
"""What has to be known of the server in the wheel."""

_OLDEST_GLIBC = (2, 35)

ELSEWHERE = (
    "Run Triton's container (nvcr.io/nvidia/tritonserver) on the model repository, or give a "
    "server of your own with --tritonserver PATH"
)
"""What to do where no server can be installed."""


def takes_texts(python: tuple[int, int] | None = None) -> bool:
    """Return whether NumPy 1, which models that take texts need, exists for a version of Python.

    Args:
        python: Major and minor version, by default of the running Python.
    """
    return (sys.version_info[:2] if python is None else python) < (3, 13)


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
    if python not in PYTHONS:
        raise RuntimeUnavailableError(
            f"no Triton server can be installed under Python {python[0]}.{python[1]}: "
            f"expected 3.11, 3.12 or 3.13. {ELSEWHERE}"
        )


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, OSError, ValueError):
        return ""


def site_packages(folder: Path) -> Path:
    """Return the packages of the environment in a runtime's folder."""
    return folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def server_libraries(folder: Path) -> Path:
    """Return the folder of the shared libraries that the wheel's server is linked with."""
    return site_packages(folder) / "nvidia_pytriton.libs"
