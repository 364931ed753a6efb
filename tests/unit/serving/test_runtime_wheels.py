"""The embedded server is installed from lists of wheels, and from nothing else."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

from thresher.errors import RuntimeUnavailableError
from thresher_serving.embedded import runtime_wheels
from thresher_serving.embedded.runtime_install import runtime_folder
from thresher_serving.embedded.runtime_platform import (
    NUMPY_VERSION,
    ONNXRUNTIME_VERSION,
    PYTHONS,
    PYTRITON_VERSION,
    TOKENIZERS_VERSION,
    ZIG_VERSION,
)
from thresher_serving.embedded.runtime_wheels import WHEELS, install_wheels

LINE = re.compile(r"([a-z0-9-]+)==([0-9.]+) --hash=sha256:([0-9a-f]{64})")
PYTHON = Path(sys.executable)


def read(name: str) -> dict[str, tuple[str, str]]:
    """Return each package's version and hash; a line of another form fails."""
    lines = (WHEELS / name).read_text().splitlines()
    found = [LINE.fullmatch(line) for line in lines if not line.startswith("#")]
    assert all(found), lines
    packages = {match[1]: (match[2], match[3]) for match in found if match}
    assert len(packages) == len(found)
    return packages


def versions(name: str) -> dict[str, str]:
    return {package: version for package, (version, _) in read(name).items()}


@pytest.mark.parametrize("python", PYTHONS)
def test_each_python_has_a_list_with_the_versions_that_are_tested(python: tuple[int, int]) -> None:
    expected = {"nvidia-pytriton": PYTRITON_VERSION, "onnxruntime": ONNXRUNTIME_VERSION}
    if python < (3, 13):  # models that take texts
        expected |= {"numpy": NUMPY_VERSION, "tokenizers": TOKENIZERS_VERSION}
    name = f"py{python[0]}{python[1]}"
    assert versions(f"{name}.txt") == expected

    gpu = versions(f"{name}-gpu.txt")
    libraries = {package for package in gpu if package.startswith("nvidia-")} - set(expected)
    assert {f"nvidia-{part}" for part in ("cublas", "cudnn-cu13", "cufft", "curand")} <= libraries
    assert all(
        gpu[f"nvidia-{part}"].startswith("13.") for part in ("cuda-runtime", "cuda-nvrtc", "cublas")
    )
    expected["onnxruntime-gpu"] = expected.pop("onnxruntime")
    assert {package: gpu[package] for package in set(gpu) - libraries} == expected


def test_the_compiler_has_a_list_of_its_own() -> None:
    assert versions("zig.txt") == {"ziglang": ZIG_VERSION}


def test_there_is_no_other_list_and_a_wheel_for_one_python_is_no_others() -> None:
    lists = {f"py{a}{b}{gpu}.txt" for a, b in PYTHONS for gpu in ("", "-gpu")}
    assert {path.name for path in WHEELS.iterdir()} == {*lists, "zig.txt"}
    for gpu in ("", "-gpu"):
        of_each = [read(f"py{a}{b}{gpu}.txt") for a, b in PYTHONS]
        assert len({packages[f"onnxruntime{gpu}"] for packages in of_each}) == 3
        assert len({packages["nvidia-pytriton"] for packages in of_each}) == 1


def wheel(folder: Path, name: str, requires: str = "") -> str:
    """Write a wheel; return its SHA-256."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    records = []
    for file, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        records.append(f"{file},sha256={digest.decode()},{len(text)}\n")
    files[f"{info}/RECORD"] = "".join(records) + f"{info}/RECORD,,\n"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as out:
        for file, text in files.items():
            out.writestr(file, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the index, and another that has the lists."""
    (tmp_path / "lists").mkdir()
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(runtime_wheels, "WHEELS", tmp_path / "lists")
    return tmp_path


def test_a_wheel_is_installed_with_its_hash_alone_and_refused_with_another(lists: Path) -> None:
    wheel(lists / "index", "needed")
    digest = wheel(lists / "index", "small", "Requires-Dist: needed\n")
    (lists / "lists/good.txt").write_text(f"small==1.0 --hash=sha256:{digest}\n")
    install_wheels(PYTHON, "good.txt", target=lists / "out")
    assert {path.name for path in (lists / "out").glob("*.py")} == {"small.py"}

    tampered = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    (lists / "lists/bad.txt").write_text(f"small==1.0 --hash=sha256:{tampered}\n")
    with pytest.raises(RuntimeUnavailableError, match=r"(?s)bad\.txt.*DO NOT MATCH THE HASHES"):
        install_wheels(PYTHON, "bad.txt", target=lists / "none")
    (lists / "lists/none.txt").write_text("small==1.0\n")
    with pytest.raises(RuntimeUnavailableError, match="Hashes are required"):
        install_wheels(PYTHON, "none.txt", target=lists / "none")
    assert not (lists / "none").exists()


def test_what_is_built_of_sources_is_refused(lists: Path) -> None:
    package = lists / "index/small-1.0.tar.gz"
    package.write_bytes(b"anything")
    digest = hashlib.sha256(b"anything").hexdigest()
    (lists / "lists/source.txt").write_text(f"small==1.0 --hash=sha256:{digest}\n")
    with pytest.raises(RuntimeUnavailableError, match="No matching distribution"):
        install_wheels(PYTHON, "source.txt", target=lists / "none")


def test_a_changed_list_is_installed_into_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = runtime_folder()
    for path in WHEELS.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() + b"# changed\n")
    monkeypatch.setattr(runtime_wheels, "WHEELS", tmp_path)
    assert runtime_folder().parent == before.parent
    assert runtime_folder() != before
