"""The backend is compiled with what there is, kept, and never half made; each with real programs.

A small source stands for the backend, and small libraries for ONNX Runtime and Triton's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from thresher.errors import RuntimeUnavailableError
from thresher_serving.embedded import runtime_build
from thresher_serving.embedded.runtime_build import build_backend, check_onnxruntime, find_built

CC = shutil.which("cc")
pytestmark = pytest.mark.skipif(CC is None, reason="needs a C compiler")
PYTHON = Path(sys.executable)
BACKEND = """
extern void *TRITONSERVER_ErrorNew(int code, const char *text);
__attribute__((visibility("default"))) void *TRITONBACKEND_ModelInstanceExecute(void) {
  return TRITONSERVER_ErrorNew(ANSWER, "");
}
"""
ONNXRUNTIME = """
#include <stdint.h>
static const void *api(uint32_t version) { return version <= %d ? (void *)api : 0; }
static const char *version(void) { return "%s"; }
static const struct { const void *(*api)(uint32_t); const char *(*version)(void); } base =
    {api, version};
const void *OrtGetApiBase(void) { return &base; }
"""
Build = Callable[[], runtime_build.Built]


def library(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [str(CC), "-shared", "-fPIC", "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def onnxruntime(folder: Path, name: str, version: str, newest_api: int = 31) -> Path:
    return library(folder / f"libonnxruntime.so.{name}", ONNXRUNTIME % (newest_api, version))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "answer.h").write_text("#define ANSWER 1\n")
    (folder / "backend.c").write_text('#include "answer.h"\n' + BACKEND)
    monkeypatch.setattr(runtime_build, "SOURCES", folder)
    return folder


@pytest.fixture
def ort(tmp_path: Path) -> Path:
    return onnxruntime(tmp_path / "ort", "1.31.1", "1.31.1")


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """A library that has what the backend calls."""
    return library(
        tmp_path / "server/libtritonserver.so", "void *TRITONSERVER_ErrorNew(void) {return 0;}"
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def build(sources: Path, ort: Path, server: Path, kept: Path, lines: list[str]) -> Build:
    return lambda: build_backend(kept, ort, server_library=server, python=PYTHON, say=lines.append)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def only_cc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None) -> Path:
    """Let PATH hold a `cc` that is this script, or none."""
    path = tmp_path / "path"
    path.mkdir(exist_ok=True)
    (path / "cc").unlink(missing_ok=True)
    if script is not None:
        (path / "cc").write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{script}\n")
        (path / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(path))
    return path


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_it_is_compiled_once_and_stands_with_a_link_to_onnx_runtime(
    build: Build, kept: Path, ort: Path, lines: list[str]
) -> None:
    assert find_built(kept, ort) is None
    built = build()
    output = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout
    assert built.compiler == output.splitlines()[0]
    assert built.onnxruntime == "1.31.1"
    assert lines == [f"compiling the onnxruntime backend with {built.compiler}"]
    assert (built.folder / "libonnxruntime.so").resolve() == ort
    symbols = subprocess.run(
        ["nm", "-D", str(built.folder / "libtriton_onnxruntime.so")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "T TRITONBACKEND_ModelInstanceExecute" in symbols
    before = content(built.folder)
    assert build() == find_built(kept, ort) == built
    assert content(built.folder) == before
    assert len(lines) == 1
    assert [path.name for path in kept.iterdir()] == [built.folder.name]


@pytest.mark.parametrize("file", ["backend.c", "answer.h", "another.c"])
def test_other_sources_get_a_folder_of_their_own_and_the_old_one_stays(
    build: Build, sources: Path, kept: Path, ort: Path, file: str
) -> None:
    old = build()
    before = content(old.folder)
    with (sources / file).open("a") as out:
        out.write("/* changed */\n")
    assert find_built(kept, ort) is None
    new = build()
    assert new.folder != old.folder
    assert new.sources != old.sources
    assert content(old.folder) == before


def test_another_onnx_runtime_and_another_compiler_get_folders_of_their_own(
    build: Build, sources: Path, kept: Path, ort: Path, server: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = build()
    newer = onnxruntime(tmp_path / "ort", "1.32.0", "1.32.0")
    second = build_backend(kept, newer, server_library=server, python=PYTHON, say=print)
    only_cc(tmp_path, monkeypatch, f'[ "$1" = --version ] && echo "cc 99" || exec {CC} "$@"')
    third = build()
    assert (second.onnxruntime, third.compiler) == ("1.32.0", "cc 99")
    assert len({first.folder, second.folder, third.folder}) == 3
    assert find_built(kept, ort) == third
    only_cc(tmp_path, monkeypatch, None)
    assert build() in (first, third)  # what there is, though no compiler is left


def test_a_damaged_one_is_compiled_again(build: Build, kept: Path, ort: Path) -> None:
    built = build()
    made = built.folder / "libtriton_onnxruntime.so"
    whole = made.read_bytes()
    os.truncate(made, 100)
    assert find_built(kept, ort) is None
    assert build() == built
    assert made.read_bytes() == whole
    made.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])  # of the same size
    assert find_built(kept, ort) is None
    assert build() == built
    assert made.read_bytes() == whole
    (built.folder / "libonnxruntime.so").unlink()
    assert find_built(kept, ort) is None
    assert build() == built


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        (None, "no `cc` on PATH"),
        ("echo no licence for this compiler >&2; exit 3", "`cc` does not work (no licence for"),
        ('[ "$1" = --version ] && exit; while [ "$1" != -o ]; do shift; done; echo x >"$2"',
         r"`cc` does not work (OSError: "),
        (f'case "$*" in *trial.c*) exec {CC} -include missing.h "$@";; esac',
         "`cc` does not work (compilation terminated.)"),
    ],
    ids=["none", "fails", "other_machine", "no_headers"],
)  # fmt: skip
def test_without_a_compiler_that_works_and_without_an_index_it_says_what_to_do(
    build: Build, offline: None, kept: Path, script: str | None, problem: str, lines: list[str],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    only_cc(tmp_path, monkeypatch, script)
    with pytest.raises(RuntimeUnavailableError) as caught:
        build()
    message = str(caught.value)
    assert problem in message
    assert "No matching distribution found for ziglang" in message
    assert "apt install gcc" in message
    assert "thresher runtime install" in message
    assert lines[-1].startswith(problem)
    assert list(kept.iterdir()) == []


def test_a_source_that_does_not_compile_gives_the_compilers_last_lines(
    build: Build, sources: Path, kept: Path
) -> None:
    (sources / "backend.c").write_text("int broken(void) { return nothing_like_this; }\n")
    with pytest.raises(RuntimeUnavailableError, match=r"(?s)cannot be compiled with .*backend\.c:1"
                       r".*nothing_like_this.*undeclared"):  # fmt: skip
        build()
    assert list(kept.iterdir()) == []


def test_a_backend_that_the_server_could_not_load_is_not_kept(
    build: Build, sources: Path, kept: Path
) -> None:
    source = sources / "backend.c"
    text = source.read_text()
    source.write_text(text.replace("TRITONSERVER_ErrorNew", "TRITONSERVER_FromTheFuture"))
    with pytest.raises(RuntimeUnavailableError, match="cannot be loaded: .*TRITONSERVER_FromTheF"):
        build()
    source.write_text(text.replace("ModelInstanceExecute", "Nothing"))
    with pytest.raises(RuntimeUnavailableError, match="undefined symbol: TRITONBACKEND_ModelInst"):
        build()
    assert list(kept.iterdir()) == []


SLOW_CC = f'case "$*" in *made*) echo compiled >>"$0.log"; sleep 1.5;; esac; exec {CC} "$@"'


def processes(
    sources: Path, kept: Path, ort: Path, server: Path, count: int
) -> list[subprocess.Popen[str]]:
    code = f"""
from pathlib import Path
from thresher_serving.embedded import runtime_build, runtime_install
runtime_build.SOURCES = Path({str(sources)!r})
built = runtime_install.ensure_built(
    Path({str(kept)!r}), Path({str(ort)!r}), Path({str(server)!r}), progress=print)
print(built.folder)
"""
    return [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]


def test_of_two_processes_at_once_one_compiles_and_both_get_the_same(
    sources: Path, ort: Path, server: Path, kept: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = only_cc(tmp_path, monkeypatch, SLOW_CC)
    both = processes(sources, kept, ort, server, 2)
    outputs = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert (path / "cc.log").read_text() == "compiled\n"
    said = [line for output in outputs for line in output]
    assert sum(line.startswith("waiting for another process") for line in said) == 1
    assert [p.name for p in kept.iterdir()] == [Path(outputs[0][-1]).name]


def test_a_process_that_is_killed_leaves_nothing_that_counts(
    sources: Path, ort: Path, server: Path, kept: Path, tmp_path: Path, build: Build,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = only_cc(tmp_path, monkeypatch, SLOW_CC)
    [killed] = processes(sources, kept, ort, server, 1)
    end = time.monotonic() + 60
    while not (path / "cc.log").exists() and time.monotonic() < end:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert find_built(kept, ort) is None
    assert len(list(kept.iterdir())) == 1  # what it was making
    monkeypatch.undo()
    monkeypatch.setattr(runtime_build, "SOURCES", sources)
    assert [build().folder] == list(kept.iterdir())


def test_an_onnx_runtime_that_is_missing_or_another_is_named(tmp_path: Path, ort: Path) -> None:
    assert check_onnxruntime(ort, PYTHON) is None
    missing = tmp_path / "libonnxruntime.so.1.31.1"
    assert check_onnxruntime(missing, PYTHON) == f"{missing} is missing"
    other = onnxruntime(tmp_path / "a", "1.31.1", "1.30.0")
    assert f"{other} is ONNX Runtime 1.30.0, expected 1.31.1" in str(
        check_onnxruntime(other, PYTHON)
    )
    old = onnxruntime(tmp_path / "b", "1.19.2", "1.19.2", newest_api=19)
    assert "ONNX Runtime 1.19.2 is too old, expected 1.20" in str(check_onnxruntime(old, PYTHON))
    missing.write_bytes(b"not a library at all" * 100)
    assert check_onnxruntime(missing, PYTHON) == f"{missing}: invalid ELF header"
    without = library(tmp_path / "c/libonnxruntime.so.1.31.1", "int nothing;")
    assert "undefined symbol: OrtGetApiBase" in str(check_onnxruntime(without, PYTHON))
