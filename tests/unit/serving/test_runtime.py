"""Which Triton server is found, and where none can be, why."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from thresher.errors import RuntimeUnavailableError
from thresher_serving import find_runtime
from thresher_serving.embedded.runtime_install import cache_folder, runtime_folder
from thresher_serving.embedded.runtime_platform import check_platform, find_libpython


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
    assert (found.backend, found.version) == ("c++", "2.60.0")
    assert found.environment({"PATH": "/bin"}) == {"PATH": "/bin"}


def test_a_given_server_serves_without_texts_where_there_is_no_room_or_no_python_backend(
    installation: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "file"))
    assert find_runtime(installation).backend_directory == installation / "backends"
    (installation / "backends/python").rmdir()
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "cache"))
    assert find_runtime(installation).backend_directory == installation / "backends"


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


def test_a_server_that_can_serve_no_onnx_model_is_refused(installation: Path) -> None:
    (installation / "backends/onnxruntime").rmdir()
    (installation / "backends/python").rmdir()
    with pytest.raises(
        RuntimeUnavailableError, match="neither an onnxruntime nor a python backend"
    ):
        find_runtime(installation)


def test_our_backend_in_a_foreign_server_needs_its_packages(
    installation: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (installation / "backends/onnxruntime").rmdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match="pip install numpy onnxruntime"):
        find_runtime(installation)


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        ({"system": "Darwin", "machine": "arm64"}, "on Darwin arm64.*Linux x86_64.*container"),
        ({"machine": "aarch64"}, "on Linux aarch64"),
        ({"libc": "glibc 2.31"}, "the C library is glibc 2.31, expected glibc 2.35 or newer"),
        ({"libc": ""}, "the C library is not glibc"),
        ({"python": (3, 14)}, r"under Python 3\.14.*3\.11, 3\.12 and 3\.13"),
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


def test_a_python_without_shared_library_is_told_how_to_get_one(tmp_path: Path) -> None:
    if sys.version_info >= (3, 13):
        pytest.skip("the wheel brings the library for Python 3.13")
    with pytest.raises(RuntimeUnavailableError, match=r"apt install libpython3.*--enable-shared"):
        find_libpython([tmp_path])


def test_the_cache_folder_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THRESHER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "thresher"
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "mine"))
    assert runtime_folder().parent == tmp_path / "mine/runtime"
