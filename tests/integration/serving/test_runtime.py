"""Installing, finding, mending and removing the Triton server of the wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from thresher.errors import RuntimeUnavailableError
from thresher_serving import (
    Runtime,
    find_runtime,
    install_runtime,
    remove_runtime,
    runtime_info,
)
from thresher_serving.embedded.runtime_install import runtime_folder, what_is_broken


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that nothing is installed in."""
    monkeypatch.delenv("TRITONSERVER", raising=False)
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_server_is_installed_once_by_two_at_once_mended_and_removed(own_cache: Path) -> None:
    folder = runtime_folder()
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/half-made").touch()
    assert what_is_broken(folder) == "its installation was not finished"
    with pytest.raises(RuntimeUnavailableError, match="its installation was not finished"):
        find_runtime(install=False)

    code = "from thresher_serving import install_runtime; print(install_runtime().server)"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=280) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    errors = "".join(err for _, err in outputs)
    assert errors.count("installing Triton 2.51.0") == 1
    assert errors.count("waiting for another process") == 1
    assert f"removing the Triton server in {folder}" in errors
    assert not (folder / "bin/half-made").exists()

    found = find_runtime(install=False)
    assert outputs[0][0] == outputs[1][0] == f"{found.server}\n"
    info = runtime_info()
    assert (info["kind"], info["backend"], info["version"]) == ("wheel", "python", "2.51.0")
    assert info["installed"]["pytriton"] == "0.7.0"
    assert info["problem"] is None

    _check_tokenizers_are_added_later(folder)
    size = found.server.stat().st_size
    os.truncate(found.server, 100)
    assert what_is_broken(folder) == (
        f"{found.server.relative_to(folder)} has 100 bytes, was installed with {size}"
    )
    os.truncate(found.server, size)
    (folder / "bin/python3").unlink()
    assert "python3 does not run" in str(what_is_broken(folder))

    assert remove_runtime() == [folder]
    assert remove_runtime() == []
    info = runtime_info()
    assert info["installed"] is None
    assert "no Triton server is installed" in info["problem"]


def _check_tokenizers_are_added_later(folder: Path) -> None:
    """Check that a server of an earlier release gets them, and serves all else where it cannot."""
    python = str(folder / "bin/python3")
    subprocess.run([python, "-m", "pip", "uninstall", "-qy", "tokenizers"], check=True)
    marker = json.loads((folder / "runtime.json").read_text())
    del marker["tokenizers"]
    (folder / "runtime.json").write_text(json.dumps(marker))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as offline:
        offline.setenv("PIP_NO_INDEX", "1")
        offline.setenv("PIP_CONFIG_FILE", os.devnull)
        assert find_runtime(progress=lines.append).version == "2.51.0"
    assert "WARNING: pip install failed" in lines[-1]
    assert "Models that take texts need it" in lines[-1]
    find_runtime(progress=lines.append)
    assert "tokenizers" in json.loads((folder / "runtime.json").read_text())
    subprocess.run([python, "-c", "import tokenizers"], check=True)


def test_what_pip_says_is_in_the_error_and_nothing_counts_as_installed(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(own_cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    lines: list[str] = []
    with pytest.raises(RuntimeUnavailableError, match=r"(?s)pip install failed.*No matching distr"):
        install_runtime(progress=lines.append)
    assert lines[0].startswith("installing Triton")
    assert what_is_broken(runtime_folder()) == "its installation was not finished"


def test_a_cache_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("THRESHER_CACHE", str(tmp_path / "file"))
    with pytest.raises(RuntimeUnavailableError, match="THRESHER_CACHE"):
        install_runtime(progress=lambda _: None)


def test_the_wheels_server_is_used_with_our_backend(runtime: Runtime) -> None:
    if runtime.kind != "wheel":
        pytest.skip(f"this machine has a server of its own: {runtime.server}")
    ours = runtime.backend_directory / "onnxruntime/model.py"
    assert "A Triton backend named ``onnxruntime``" in ours.read_text()
    assert (runtime.backend_directory / "python/libtriton_python.so").is_file()
    environment = runtime.environment({"PATH": "/usr/bin", "PYTHONPATH": "/elsewhere"})
    assert environment["PATH"] == f"{runtime.search_paths['PATH']}:/usr/bin"
    assert "PYTHONPATH" not in environment
    assert find_runtime().backend_directory == runtime.backend_directory


def test_a_given_server_that_has_only_the_python_backend_gets_ours(
    runtime: Runtime, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime.kind != "wheel":
        pytest.skip("needs the wheel's server")
    monkeypatch.setenv("PATH", f"{runtime.search_paths['PATH']}:/usr/bin:/bin")
    given = find_runtime(runtime.server)
    assert (given.kind, given.backend, given.server) == ("given", "python", runtime.server)
    assert given.backend_directory.is_relative_to(own_cache)
    assert (given.backend_directory / "onnxruntime/model.py").is_file()
    assert (given.backend_directory / "python/libtriton_python.so").is_file()
