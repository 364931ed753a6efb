"""Installing, finding, mending and removing the Triton server of the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from integration.serving.conftest import Publish
from support.served_models import FLOAT, PAIR, config, identity
from thresher.cli import main
from thresher.errors import RuntimeUnavailableError
from thresher_serving import (
    Runtime,
    find_runtime,
    install_runtime,
    remove_runtime,
    runtime_info,
    start_server,
)
from thresher_serving.embedded import runtime_build, runtime_texts
from thresher_serving.embedded.runtime_build import SOURCES, build_backend
from thresher_serving.embedded.runtime_install import runtime_folder, what_is_broken
from thresher_serving.embedded.runtime_platform import (
    ONNXRUNTIME_VERSION,
    ZIG_VERSION,
    site_packages,
    takes_texts,
)
from thresher_serving.embedded.runtime_texts import STUB, why_no_texts


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
    assert what_is_broken(folder.parent / "none") == "nothing is there"
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
    assert errors.count("compiling the onnxruntime backend with") == 1
    assert f"removing the Triton server in {folder}" in errors
    assert not (folder / "bin/half-made").exists()

    found = find_runtime(install=False)
    assert outputs[0][0] == outputs[1][0] == f"{found.server}\n"
    info = runtime_info()
    assert (info["kind"], info["backend"], info["version"]) == ("wheel", "compiled", "2.51.0")
    assert info["built"]["onnxruntime"] == ONNXRUNTIME_VERSION
    assert info["built"]["compiler"] in errors
    assert "CVE-2026-24206" in info["security"]
    assert info["problem"] is None
    shown = CliRunner().invoke(main, ["runtime", "info"]).output
    assert f"compiled with {info['built']['compiler']}" in shown
    assert info["built"]["sources"] in shown
    assert all(len(line) <= 80 or "/" in line for line in shown.splitlines())

    _check_changed_sources_leave_the_old_backend_alone(found, folder)
    _check_other_libraries_are_named(folder)
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


def _check_changed_sources_leave_the_old_backend_alone(found: Runtime, folder: Path) -> None:
    """Check it with the real sources and the libraries that were installed."""
    with pytest.MonkeyPatch.context() as changed:
        sources = folder / "changed"
        shutil.copytree(SOURCES, sources)
        header = next(sources.glob("*.h"))
        header.write_text(header.read_text() + "/* another release */\n")
        changed.setattr(runtime_build, "SOURCES", sources)
        with pytest.raises(RuntimeUnavailableError, match="not compiled, or of another release"):
            find_runtime(install=False)
        lines: list[str] = []
        other = find_runtime(progress=lines.append)
    assert [line.split(" with ")[0] for line in lines] == ["compiling the onnxruntime backend"]
    assert other.backend_directory != found.backend_directory
    assert find_runtime(progress=lines.append) == found
    assert len(lines) == 1


def _check_other_libraries_are_named(folder: Path) -> None:
    [library] = site_packages(folder).glob("onnxruntime/capi/libonnxruntime.so.*")
    moved = library.rename(library.with_name("moved"))
    assert what_is_broken(folder) == f"{library.relative_to(folder)} is missing"
    stub = site_packages(folder) / "pytriton/tritonserver/backends/python" / STUB
    library.symlink_to(next(site_packages(folder).glob("nvidia_pytriton.libs/libcrypto*")))
    assert "bytes, was installed with" in str(what_is_broken(folder))
    library.unlink()
    moved.rename(library)
    assert what_is_broken(folder) is None
    if takes_texts():
        stub.rename(stub.with_name("moved"))
        reason, _ = why_no_texts(folder)
        assert "models that take texts are left out" in str(reason)
        stub.with_name("moved").rename(stub)
        assert why_no_texts(folder)[0] is None


@pytest.mark.skipif(not takes_texts(), reason="Python 3.13 has no NAME.text")
def test_without_a_shared_libpython_all_other_models_are_served(
    runtime: Runtime, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime.kind != "wheel":
        pytest.skip("needs the wheel's server")
    assert runtime.serves_texts

    def refuse(_: Path | None) -> None:
        raise RuntimeUnavailableError("libpython3 not found")

    monkeypatch.setattr(runtime_texts, "find_libpython", refuse)
    found = find_runtime(install=False)
    assert found.no_texts == "models that take texts are left out: libpython3 not found"
    assert {path.name for path in found.backend_directory.iterdir()} == {"onnxruntime"}
    text = config(PAIR).replace("onnxruntime", "tokenizer")
    publish("pair", identity(FLOAT), config(PAIR), root=tmp_path)
    publish("pair.text", b"", text, file="tokens.json", root=tmp_path)
    server = start_server(
        tmp_path, runtime=found, grpc_port=0, http_port=0, metrics_port=0, state_dir=None,
        log_file=tmp_path / "log",
    )  # fmt: skip
    try:
        assert server.problems == (f"pair.text: {found.no_texts}",)
        assert [model.name for model in server.models if model.is_ready] == ["pair"]
    finally:
        server.stop(timeout_s=0.1)


def test_without_a_compiler_one_is_fetched_and_removed_again(
    runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime.built is None:
        pytest.skip("this machine has a server with a backend of its own")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    library = (runtime.built.folder / "libonnxruntime.so").resolve()
    libraries = site_packages(runtime_folder()) / "nvidia_pytriton.libs"
    lines: list[str] = []
    built = build_backend(
        tmp_path / "compiled", library, server_library=next(libraries.glob("libtritonserver*")),
        python=runtime_folder() / "bin/python3", say=lines.append,
    )  # fmt: skip
    assert built.compiler == f"zig {ZIG_VERSION}"
    assert lines[0].startswith("no `cc` on PATH: fetching zig")
    assert list((tmp_path / "compiled").iterdir()) == [built.folder]
    num_bytes = sum(path.stat().st_size for path in built.folder.iterdir() if not path.is_symlink())
    assert num_bytes < 2_000_000
    # the oldest C library that the server runs with is the newest that it asks for
    output = subprocess.run(
        ["/usr/bin/env", "-i", sys.executable, "-c", SYMBOL_VERSIONS, str(built.folder)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert max(map(int, output.stdout.split()), default=0) <= 35


SYMBOL_VERSIONS = """
import pathlib, re, sys
data = pathlib.Path(sys.argv[1], "libtriton_onnxruntime.so").read_bytes()
print(*{int(m) for m in re.findall(rb"GLIBC_2\\.(\\d+)", data)})
"""


def test_what_pip_says_is_in_the_error_and_nothing_counts_as_installed(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(own_cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    lines: list[str] = []
    with pytest.raises(
        RuntimeUnavailableError, match=r"(?s)pip install failed.*No matching distr.*container"
    ):
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
    names = {path.name for path in runtime.backend_directory.iterdir()}
    assert names == {"onnxruntime"} | ({"python", "tokenizer"} if takes_texts() else set())
    ours = runtime.backend_directory / "onnxruntime"
    assert (ours / "libtriton_onnxruntime.so").is_file()
    opened = (ours / "libonnxruntime.so").resolve()
    assert opened.is_relative_to(site_packages(runtime_folder()))
    assert opened.name == f"libonnxruntime.so.{ONNXRUNTIME_VERSION}"
    environment = runtime.environment({"PATH": "/usr/bin", "PYTHONPATH": "/elsewhere"})
    assert environment["PATH"] == f"{runtime.search_paths['PATH']}:/usr/bin"
    assert "PYTHONPATH" not in environment
    assert find_runtime().backend_directory == runtime.backend_directory


def test_a_given_server_that_has_only_the_python_backend_gets_ours(
    runtime: Runtime, own_cache: Path
) -> None:
    if runtime.kind != "wheel":
        pytest.skip("needs the wheel's server")
    given = find_runtime(runtime.server)
    assert (given.kind, given.backend, given.server) == ("given", "compiled", runtime.server)
    assert given.backend_directory.is_relative_to(own_cache)
    assert (given.backend_directory / "onnxruntime/libtriton_onnxruntime.so").is_file()
    assert (given.backend_directory / "python/libtriton_python.so").is_file()
