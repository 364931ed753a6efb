"""Puts together what ``--backend-directory`` names, and where the loader finds CUDA."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["backend_folder", "cuda_libraries", "library_path"]

_TOKENIZER = Path(__file__).parents[1] / "backends/tokenizer/model.py"


def cuda_libraries(packages: Path) -> list[Path]:
    """Return the folders of CUDA's and TensorRT's libraries that NVIDIA's wheels brought."""
    return [*sorted(packages.glob("nvidia/*/lib")), *packages.glob("tensorrt_libs")]


def library_path(folders: Sequence[Path]) -> dict[str, str]:
    """Return the environment variable that lets the loader look in some folders."""
    return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, folders))} if folders else {}


def backend_folder(parent: Path, links: Mapping[str, Path], *, with_tokenizer: bool) -> Path:
    """Return a folder that links each backend, and holds a copy of the tokenizer's.

    The folder is named after its content, so another version of this package never changes a file
    under a server that runs.

    Args:
        parent: Where the folder is made.
        links: Each backend's folder by its name.
        with_tokenizer: Whether models that take texts can run.
    """
    links = {name: path for name, path in links.items() if name != "tokenizer"}
    tokenizer = _TOKENIZER.read_bytes() if with_tokenizer else b""
    content = repr(sorted((name, str(path)) for name, path in links.items())).encode() + tokenizer
    folder = parent / hashlib.sha256(content).hexdigest()[:12]
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as temporary:
        made = Path(temporary) / "backends"
        made.mkdir()
        for name, path in links.items():
            (made / name).symlink_to(path)
        if with_tokenizer:
            (made / "tokenizer").mkdir()
            (made / "tokenizer/model.py").write_bytes(tokenizer)
        try:
            made.rename(folder)
        except OSError:  # another process was faster, with the same content
            if not folder.is_dir():
                raise
    return folder
