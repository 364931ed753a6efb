"""Compiles the ``onnxruntime`` backend for a Triton server, and keeps what was compiled.

The machine's ``cc`` is used where it works, else the compiler zig out of the wheel ``ziglang``,
which is fetched for the occasion and removed afterwards. What is compiled is kept in a folder that
is named after the sources, ONNX Runtime and the compiler: another version of any of them gets a
folder of its own, so no file changes under a server that runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from thresher.errors import RuntimeUnavailableError
from thresher_serving.embedded.runtime_platform import ZIG_VERSION
from thresher_serving.embedded.runtime_wheels import ZIG_LIST, install_wheels, last_lines

__all__ = ["SOURCES", "Built", "build_backend", "check_onnxruntime", "find_built"]

SOURCES = Path(__file__).parents[1] / "backend"
"""The folder of the backend's C files."""

_LIBRARY, _LINK, _RECORD = "libtriton_onnxruntime.so", "libonnxruntime.so", "built.json"
_FLAGS = ("-std=c11", "-O2", "-fPIC", "-shared", "-fvisibility=hidden")
_SYSTEM_LIBRARIES = ("-ldl", "-lpthread", "-lm")
_TARGET = "x86_64-linux-gnu.2.35"  # the C library that the wheel's server needs
_TIMEOUT_S = 300

# what the backend includes: a compiler without these headers is not one that works
_TRIAL = """
#include <dlfcn.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
int thresher_trial(void) { return (int)sqrt(atomic_is_lock_free((atomic_int *)0)); }
"""

# A process of its own: what does not fit may end it. With the server's own library loaded first,
# each function of Triton's that the backend calls is looked up.
_CHECK_ONNXRUNTIME = """
import ctypes, sys
class Base(ctypes.Structure):
    _fields_ = [("api", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)),
                ("version", ctypes.CFUNCTYPE(ctypes.c_char_p))]
try:
    library = ctypes.CDLL(sys.argv[1])
    library.OrtGetApiBase.restype = ctypes.POINTER(Base)
except (OSError, AttributeError) as error:
    sys.exit(str(error))
base = library.OrtGetApiBase().contents
version = base.version().decode()
if version != sys.argv[2]:
    sys.exit(f"{sys.argv[1]} is ONNX Runtime {version}, expected {sys.argv[2]}")
if not base.api(20):
    sys.exit(f"ONNX Runtime {version} is too old, expected 1.20 or newer")
"""
_CHECK_BACKEND = """
import ctypes, os, sys
try:
    ctypes.CDLL(sys.argv[2], mode=os.RTLD_GLOBAL | os.RTLD_LAZY)
    backend = ctypes.CDLL(sys.argv[1], mode=os.RTLD_LOCAL | os.RTLD_NOW)
    backend.TRITONBACKEND_ModelInstanceExecute
except (OSError, AttributeError) as error:
    sys.exit(str(error))
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A compiled backend, and what it was compiled of and with."""

    folder: Path
    """It holds ``libtriton_onnxruntime.so`` and the link to ONNX Runtime that it opens."""

    compiler: str
    """Such as "cc (Debian 12.2.0-14) 12.2.0" or "zig 0.17.1"."""

    onnxruntime: str
    """ONNX Runtime's version."""

    sources: str
    """The first 12 digits of the SHA-256 of the sources and the compiler's options."""


def find_built(parent: Path, library: Path) -> Built | None:
    """Return the backend that was compiled of today's sources, or None.

    Where the compiler has changed since, what the present one made comes first.

    Args:
        parent: The folder that compiled backends are kept in.
        library: ONNX Runtime's ``libonnxruntime.so.VERSION``.
    """
    found = [_read(folder, library) for folder in sorted(parent.glob(f"{_key(library)}-*"))]
    whole = [built for built in found if built is not None]
    compiler = _cc_version()
    return next((built for built in whole if built.compiler == compiler), next(iter(whole), None))


def build_backend(
    parent: Path, library: Path, *, server_library: Path | None, python: Path, say: Say
) -> Built:
    """Compile the backend, unless that has been done; return what there is.

    The caller holds a lock, so that two processes do not do this at once.

    Args:
        parent: The folder that compiled backends are kept in.
        library: ONNX Runtime's ``libonnxruntime.so.VERSION``.
        server_library: The server's ``libtritonserver``, to check the result with; None checks
            nothing.
        python: Whose pip fetches a compiler where the machine has none.
        say: Takes a line for each step.

    Raises:
        RuntimeUnavailableError: If there is no compiler and none can be fetched, if it fails (the
            message ends with its last lines), or if what it made cannot be loaded.
    """
    compiler = _cc_version()
    if compiler and (built := _read(parent / _name(library, compiler), library)):
        return built
    parent.mkdir(parents=True, exist_ok=True)
    for left_over in parent.glob(".new-*"):  # by a process that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as temporary:
        scratch = Path(temporary)
        problem = _try_cc(scratch, python) if compiler else "no `cc` on PATH"
        if compiler and problem is None:
            command, environment = ["cc"], dict(os.environ)
        else:
            if built := find_built(parent, library):
                return built  # by another compiler, from when there was one
            compiler = f"zig {ZIG_VERSION}"
            say(f"{problem}: fetching {compiler} (about 0.1 GB, removed afterwards)")
            command, environment = _fetch_zig(scratch, python, str(problem))
        say(f"compiling the onnxruntime backend with {compiler}")
        made = scratch / "made"
        made.mkdir()
        sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
        if error := _compile(command, sources, made / _LIBRARY, environment):
            raise RuntimeUnavailableError(
                f"the onnxruntime backend cannot be compiled with {compiler}:\n{error}"
            )
        (made / _LINK).symlink_to(library)
        if server_library and (error := _try_backend(made / _LIBRARY, server_library, python)):
            raise RuntimeUnavailableError(
                f"the onnxruntime backend that {compiler} compiled cannot be loaded: {error}"
            )
        folder = parent / _name(library, compiler)
        built = Built(
            folder=folder,
            compiler=compiler,
            onnxruntime=_version(library),
            sources=_sources_digest(),
        )
        record = {**asdict(built), "sha256": _sha256(made / _LIBRARY)}
        del record["folder"]
        (made / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)  # damaged, or it would have been found
        made.rename(folder)
    return built


def check_onnxruntime(library: Path, python: Path) -> str | None:
    """Return why a ``libonnxruntime.so.VERSION`` cannot be used, or None if it can."""
    if not library.is_file():
        return f"{library} is missing"
    return _python(python, _CHECK_ONNXRUNTIME, library, _version(library))


def _version(library: Path) -> str:
    return library.name.partition(".so.")[2]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sources_digest() -> str:
    digest = hashlib.sha256(" ".join([*_FLAGS, *_SYSTEM_LIBRARIES]).encode())
    for path in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        content = path.read_bytes()
        digest.update(f"{path.name}:{len(content)};".encode() + content)
    return digest.hexdigest()[:12]


def _key(library: Path) -> str:
    place = hashlib.sha256(str(library).encode()).hexdigest()[:6]
    return f"{_sources_digest()}-{_version(library)}-{place}"


def _name(library: Path, compiler: str) -> str:
    return f"{_key(library)}-{hashlib.sha256(compiler.encode()).hexdigest()[:6]}"


def _read(folder: Path, library: Path) -> Built | None:
    """Return what stands in a folder, if it is whole."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        is_whole = _sha256(folder / _LIBRARY) == record["sha256"]
        if not is_whole or (folder / _LINK).readlink() != library:
            return None
        return Built(
            folder=folder,
            compiler=record["compiler"],
            onnxruntime=record["onnxruntime"],
            sources=record["sources"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _cc_version() -> str | None:
    """Return the first line of ``cc --version``, or None where there is no ``cc`` that runs."""
    try:
        done = subprocess.run(
            ["cc", "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout.strip().splitlines() or ["cc"])[0]


def _try_cc(scratch: Path, python: Path) -> str | None:
    """Return why ``cc`` does not work, or None if it does: what it makes can be loaded."""
    source, output = scratch / "trial.c", scratch / "trial.so"
    source.write_text(_TRIAL)
    error = _compile(["cc"], [str(source)], output, dict(os.environ))
    error = error or _python(python, "import ctypes, sys; ctypes.CDLL(sys.argv[1])", output)
    return f"`cc` does not work ({error.splitlines()[-1]})" if error else None


def _try_backend(backend: Path, server_library: Path, python: Path) -> str | None:
    """Return why the server could not load the backend, or None if it could."""
    environment = {**os.environ, "LD_LIBRARY_PATH": str(server_library.parent)}
    return _python(python, _CHECK_BACKEND, backend, server_library, environment=environment)


def _fetch_zig(scratch: Path, python: Path, problem: str) -> tuple[list[str], dict[str, str]]:
    packages = scratch / "zig"
    try:
        install_wheels(python, ZIG_LIST, target=packages)
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(
            f"the onnxruntime backend cannot be compiled: {problem}, and the compiler zig cannot "
            f"be fetched: {error}\nInstall a C compiler (Debian, Ubuntu: apt install gcc "
            f"libc6-dev), or give pip an index that has ziglang {ZIG_VERSION}; then run: "
            "thresher runtime install"
        ) from None
    environment = {
        **os.environ,
        "PYTHONPATH": str(packages),
        "ZIG_GLOBAL_CACHE_DIR": str(scratch / "cache"),
        "ZIG_LOCAL_CACHE_DIR": str(scratch / "cache"),
    }
    return [str(python), "-m", "ziglang", "cc", "-target", _TARGET], environment


def _compile(
    command: list[str], sources: list[str], output: Path, environment: dict[str, str]
) -> str | None:
    """Return None if a library was made, else the compiler's last lines."""
    arguments = [*_FLAGS, "-o", str(output), *sources, *_SYSTEM_LIBRARIES]
    return _run([*command, *arguments], environment)


def _python(
    python: Path, code: str, *arguments: Path | str, environment: dict[str, str] | None = None
) -> str | None:
    command = [str(python), "-I", "-c", code, *map(str, arguments)]
    return _run(command, dict(os.environ) if environment is None else environment)


def _run(command: list[str], environment: dict[str, str]) -> str | None:
    """Return None if a program ends well, else its last lines."""
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace",
            timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{Path(command[0]).name} does not run: {error}"
    if done.returncode == 0:
        return None
    lines = last_lines(done.stderr or done.stdout, 12)
    return lines or f"{Path(command[0]).name} ended with status {done.returncode}"
