"""Which Triton server is found, and where none can be, why."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from thresher.errors import RuntimeUnavailableError
from thresher_serving import Runtime, find_runtime, runtime_info
from thresher_serving.embedded import runtime_build, runtime_texts
from thresher_serving.embedded.runtime_backends import cuda_libraries
from thresher_serving.embedded.runtime_install import cache_folder, runtime_folder
from thresher_serving.embedded.runtime_platform import (
    PYTHONS,
    check_platform,
    site_packages,
    takes_texts,
)
from thresher_serving.embedded.runtime_texts import find_libpython, why_no_texts


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A folder laid out like NVIDIA's container: server, version, C++ backend."""
    root = tmp_path / "triton"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tritonserver").write_text("#!/bin/sh\n")
    (root / "bin/tritonserver").chmod(0o755)
    (root / "TRITON_VERSION").write_text("2.60.0\n")
    for folder in ("backends/onnxruntime", "backends/python", "caches/local"):
        (root / folder).mkdir(parents=True)
    return root


@pytest.mark.parametrize("path", ["", "bin/tritonserver"])
def test_a_given_server_comes_first_and_keeps_its_own_backend(
    installation: Path, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "cache"))
    found = find_runtime(installation / path)
    assert found.kind == "given"
    assert found.server == installation / "bin/tritonserver"
    own = found.backend_directory / "onnxruntime"
    assert own.resolve() == installation / "backends/onnxruntime"
    assert (found.backend_directory / "tokenizer/model.py").is_file()
    assert found.cache_directory == installation / "caches"
    assert (found.backend, found.built, found.version) == ("c++", None, "2.60.0")
    assert found.serves_texts
    assert found.environment({"PATH": "/bin"}) == {"PATH": "/bin"}


def test_a_given_server_serves_without_texts_where_there_is_no_room_or_no_python_backend(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "file"))
    assert find_runtime(installation).backend_directory == installation / "backends"
    assert not find_runtime(installation).serves_texts
    (installation / "backends/python").rmdir()
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "cache"))
    found = find_runtime(installation)
    assert found.backend_directory == installation / "backends"
    assert "this Triton has no python backend" in str(found.no_texts)


def test_the_environment_variable_names_a_server(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITONSERVER", str(installation))
    assert find_runtime().server == installation / "bin/tritonserver"


def test_a_given_path_without_a_server_is_an_error_not_a_reason_to_look_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"no tritonserver that can be run.*TRITONS"):
        find_runtime(tmp_path)
    (tmp_path / "tritonserver").write_text("not executable")
    with pytest.raises(RuntimeUnavailableError, match="no tritonserver that can be run"):
        find_runtime(tmp_path / "tritonserver")


def test_a_program_near_the_root_folder_that_is_no_server_gets_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path))
    monkeypatch.setenv("TRITONSERVER", "/bin/ls")
    root = Path("/bin/ls").resolve().parents[1]
    expected = f"{root}: its onnxruntime backend is not compiled, or of another release"
    assert runtime_info()["problem"].startswith(expected)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("has_python", [True, False])
def test_a_server_without_an_onnxruntime_backend_gets_ours(
    installation: Path, has_python: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime_build, "SOURCES", tmp_path)
    (tmp_path / "backend.c").write_text("int backend(void) { return 1; }\n")
    (installation / "backends/onnxruntime").rmdir()
    if not has_python:
        (installation / "backends/python").rmdir()
    with pytest.raises(RuntimeUnavailableError, match="not compiled.*Run: thresher serve"):
        find_runtime(installation, install=False)
    found = find_runtime(installation, progress=lambda _: None)
    ours = found.backend_directory / "onnxruntime"
    assert (ours / "libtriton_onnxruntime.so").is_file()
    package = Path(str(importlib.util.find_spec("onnxruntime").origin)).parent  # type: ignore[union-attr]
    assert (ours / "libonnxruntime.so").resolve().parent == package / "capi"
    assert found.backend == "compiled"
    assert found.built is not None
    assert found.serves_texts == (found.backend_directory / "tokenizer").exists() == has_python
    assert find_runtime(installation, install=False) == found


def test_our_backend_in_a_foreign_server_needs_an_onnx_runtime(
    installation: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installation / "backends/onnxruntime").rmdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailableError, match="pip install onnxruntime"):
        find_runtime(installation)


def test_the_libraries_of_nvidias_wheels_are_found(tmp_path: Path) -> None:
    assert cuda_libraries(tmp_path) == []
    for folder in ("nvidia/cu13/lib", "nvidia/cudnn/lib", "nvidia/cudnn/include", "numpy/lib"):
        (tmp_path / folder).mkdir(parents=True)
    assert cuda_libraries(tmp_path) == [tmp_path / "nvidia/cu13/lib", tmp_path / "nvidia/cudnn/lib"]
    (tmp_path / "tensorrt_libs").mkdir()
    assert cuda_libraries(tmp_path)[2:] == [tmp_path / "tensorrt_libs"]


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "on Darwin arm64.*Linux x86_64.*container"),
        ({"machine": "aarch64"}, "on Linux aarch64"),
        ({"libc": "glibc 2.31"}, "the C library is glibc 2.31, expected glibc 2.35 or newer"),
        ({"libc": ""}, "the C library is not glibc"),
        ({"python": (3, 14)}, r"under Python 3\.14: expected 3\.11, 3\.12 or 3\.13"),
        ({"python": (3, 10)}, r"under Python 3\.10.*--tritonserver PATH"),
    ],
)
def test_a_platform_without_a_server_is_told_which_part_does_not_fit(
    platform: dict[str, object], message: str
) -> None:
    fits = {"system": "Linux", "machine": "x86_64", "libc": "glibc 2.35", "python": (3, 12)}
    check_platform(**fits)  # type: ignore[arg-type]
    with pytest.raises(RuntimeUnavailableError, match=message):
        check_platform(**{**fits, **platform})  # type: ignore[arg-type]


@pytest.fixture
def no_libpython(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the loader finds no shared libpython, and neither do we."""

    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setattr(runtime_texts, "_libpython_folders", lambda _: [])


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="Python 3.13 has no NAME.text")
def test_a_python_without_shared_library_serves_all_but_texts_and_says_how_to_get_one(
    no_libpython: None, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"apt install libpython3.*--enable-shared"):
        find_libpython()
    reason, folder = why_no_texts(tmp_path)
    assert "models that take texts are left out: libpython3" in str(reason)
    assert "apt install" in str(reason)
    assert folder is None


def test_the_libpython_of_the_python_that_made_the_environment_comes_first(tmp_path: Path) -> None:
    name = f"libpython3.{sys.version_info.minor}.so.1.0"
    for folder in ("lib", "lib64"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lib64" / name).touch()
    assert find_libpython(tmp_path) == tmp_path / "lib64"
    (tmp_path / "lib" / name).touch()
    assert find_libpython(tmp_path) == tmp_path / "lib"


def test_python_3_13_has_no_texts_and_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [takes_texts(python) for python in PYTHONS] == [True, True, False]
    monkeypatch.setattr(runtime_texts, "takes_texts", lambda: False)
    reason, _ = why_no_texts(tmp_path)
    assert "need Python 3.11 or 3.12, this is 3." in str(reason)
    assert "Client(..., tokenizer=PATH)" in str(reason)


def test_only_models_that_take_texts_are_left_out(tmp_path: Path) -> None:
    for name, backend in {"a": "onnxruntime", "a.text": "tokenizer", "b": "python"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f'backend: "{backend}"')
    (tmp_path / "c").mkdir()
    names = ["a", "a.text", "b", "c"]
    path = tmp_path / "unused"
    able = Runtime(
        kind="wheel", server=path, backend_directory=path, backend="compiled",
        cache_directory=None, version="1",
    )  # fmt: skip
    assert able.left_out(tmp_path, names) == {}
    unable = Runtime(
        kind="wheel", server=path, backend_directory=path, backend="compiled",
        cache_directory=None, version="1", no_texts="there is no libpython",
    )  # fmt: skip
    assert unable.left_out(tmp_path, names) == {"a.text": "a.text: there is no libpython"}


def test_the_cache_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THRESHER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "thresher"
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "mine"))
    assert runtime_folder().parent == tmp_path / "mine/runtime"


def test_a_server_of_an_earlier_release_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITONSERVER", raising=False)
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path))
    old = tmp_path / "runtime/pytriton-0.7.0-py3.11-onnxruntime-1.31.1"
    (old / "bin").mkdir(parents=True)
    info = runtime_info()
    assert info["folder"] != str(old)
    assert not site_packages(Path(info["folder"])).exists()
    assert "nothing is there" in info["problem"]
