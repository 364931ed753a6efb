"""Writes the lists of wheels, with their hashes, that the embedded server is installed from.

Run it after a version in ``embedded/runtime_platform.py`` has changed, or to take newer CUDA
libraries: ``python scripts/lock_runtime.py``. pip (25 or later) asks the index that it is set up
with for each Python version; nothing is installed. Look at the difference before you commit it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from thresher_serving.embedded.runtime_platform import (
    NUMPY_VERSION,
    ONNXRUNTIME_VERSION,
    PYTHONS,
    PYTRITON_VERSION,
    TOKENIZERS_VERSION,
    ZIG_VERSION,
    takes_texts,
)
from thresher_serving.embedded.runtime_wheels import WHEELS, ZIG_LIST

# pip takes an older manylinux for none of the newer ones by itself
_GLIBCS = ("2_35", "2_34", "2_28", "2_27", "2_17", "2_12", "2_5")
_PLATFORMS = [f"manylinux_{glibc}_x86_64" for glibc in _GLIBCS]
_PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
_HEADER = "# Written by scripts/lock_runtime.py: names, versions, and the wheels' SHA-256.\n"


def resolve(python: tuple[int, int], *wanted: str, with_dependencies: bool) -> dict[str, str]:
    """Return a line for each wheel that pip would install, by the package's name."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet"]
        command += ["--ignore-installed", "--only-binary=:all:", "--report=-"]
        command += [
            "--target",
            folder,
            "--implementation=cp",
            f"--python-version={python[0]}.{python[1]}",
        ]
        command += [f"--platform={platform}" for platform in _PLATFORMS]
        command += [] if with_dependencies else ["--no-deps"]
        done = subprocess.run([*command, *wanted], check=True, stdout=subprocess.PIPE)
    lines = {}
    for item in json.loads(done.stdout)["install"]:
        name, version = item["metadata"]["name"].lower(), item["metadata"]["version"]
        digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines[name] = f"{name}=={version} --hash=sha256:{digest}\n"
    return lines


def write(name: str, lines: dict[str, str]) -> None:
    """Write one list, in the order of the names."""
    path = WHEELS / name
    path.write_text(_HEADER + "".join(lines[key] for key in sorted(lines)))
    print(path)


def main() -> None:
    """Write the lists for each Python version, with and without a GPU, and the compiler's."""
    WHEELS.mkdir(exist_ok=True)
    for python in PYTHONS:
        wanted = [f"nvidia-pytriton=={PYTRITON_VERSION}"]
        if takes_texts(python):
            wanted += [f"numpy=={NUMPY_VERSION}", f"tokenizers=={TOKENIZERS_VERSION}"]
        both = resolve(python, *wanted, with_dependencies=False)
        ort = f"onnxruntime=={ONNXRUNTIME_VERSION}"
        name = f"py{python[0]}{python[1]}"
        write(f"{name}.txt", both | resolve(python, ort, with_dependencies=False))
        gpu = ort.replace("onnxruntime", "onnxruntime-gpu[cuda,cudnn]")
        found = resolve(python, gpu, with_dependencies=True)
        libraries = {k: v for k, v in found.items() if k.startswith(("nvidia-", "onnxruntime"))}
        write(f"{name}-gpu.txt", both | libraries)
    write(ZIG_LIST, resolve(PYTHONS[0], f"ziglang=={ZIG_VERSION}", with_dependencies=False))


if __name__ == "__main__":
    main()
