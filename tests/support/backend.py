"""The compiled onnxruntime backend, built from the sources of this package."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

import thresher_serving
from thresher_serving import Runtime

SOURCES = Path(thresher_serving.__file__).parent / "backend"
STRICT = ("-O1", "-g", "-Wall", "-Wextra", "-Wconversion", "-Werror")
SANITIZERS = (*STRICT, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")


def compile_c(target: Path, sources: Sequence[Path], *options: str) -> Path:
    """Return `target`, compiled as C11; the test is skipped where there is no compiler."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    command = ["cc", "-std=c11", *options, f"-I{SOURCES}", "-o", str(target)]
    subprocess.run([*command, *map(str, sources), "-ldl", "-lpthread", "-lm"], check=True)
    return target


def compile_backend(folder: Path, *options: str) -> Path:
    """Return `folder` with the compiled library in it, as Triton looks for it."""
    target = folder / "libtriton_onnxruntime.so"
    flags = ("-O2", "-fPIC", "-shared", "-fvisibility=hidden")
    return compile_c(target, sorted(SOURCES.glob("*.c")), *flags, *options).parent


def sanitized(runtime: Runtime) -> Runtime:
    """Return a runtime whose server can load a library that was compiled with sanitizers."""
    library = subprocess.run(
        ["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    # memory that the server itself keeps to its end is no concern of this test
    around = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}
    return dataclasses.replace(runtime, search_paths={**runtime.search_paths, **around})


def with_compiled_backend(runtime: Runtime, folder: Path, *options: str) -> Runtime:
    """Return a runtime whose onnxruntime backend is the compiled one.

    Args:
        runtime: A server with its Python backends.
        folder: An empty folder that takes the backends.
        options: What else to give the compiler.
    """
    (folder / "onnxruntime").mkdir()
    compile_backend(folder / "onnxruntime", *options)
    packages = runtime.server.parents[3]
    library = next((packages / "onnxruntime/capi").glob("libonnxruntime.so.*"))
    (folder / "onnxruntime" / "libonnxruntime.so").symlink_to(library)
    for other in ("python", "tokenizer"):
        (folder / other).symlink_to(runtime.backend_directory / other)
    return dataclasses.replace(runtime, backend_directory=folder)
