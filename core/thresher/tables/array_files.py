"""NumPy's files: ``.npy`` is memory-mapped, of ``.npz`` each array where it is stored uncompressed.

An array of a compressed ``.npz`` file is unpacked to a temporary file that is mapped in its turn,
so that none has to fit into memory.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher.errors import DataError

__all__ = ["open_arrays"]

Array = npt.NDArray[Any]
_BROKEN = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error),
    RuntimeError,  # zipfile's, of a password and of an unknown compression
    *(TypeError, OverflowError, SyntaxError, tokenize.TokenError),  # NumPy's, of a broken header
)


def open_arrays(path: str, system: Any = None) -> dict[str, Array]:
    """Return the arrays of an ``.npz`` or ``.npy`` file by name; the latter's is the file's stem.

    Args:
        path: On the file system.
        system: Arrow's; a local disk where left out.

    Raises:
        DataError: If it is no such file, holds Python objects, or is shorter than it says.
    """
    try:
        if system is None or str(system.type_name) == "local":
            return _opened(Path(path), Path(path).stem)
        with tempfile.NamedTemporaryFile(suffix=Path(path).suffix) as copy:
            with system.open_input_stream(path, compression=None) as source:
                shutil.copyfileobj(source, copy)
            copy.flush()
            return _opened(Path(copy.name), Path(path).stem)
    except _BROKEN as error:
        raise DataError(f"{path} is no NumPy file, or it is cut short: {error}") from error


def _opened(path: Path, stem: str) -> dict[str, Array]:
    if not zipfile.is_zipfile(path):
        return {stem: _mapped(path, 0)}
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in found:
                raise ValueError(f"it holds two arrays {name}")
            with tempfile.TemporaryFile() as copy:
                with archive.open(entry) as source:
                    shutil.copyfileobj(source, copy, 1 << 20)
                found[name] = _mapped(copy, 0)
    return found


def _mapped(file: Any, start: int) -> Array:
    """Return the array of an NPY file, mapped; private to this process where it is written to."""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
        source.seek(start)
        version = np.lib.format.read_magic(source)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, in_columns, dtype = read[min(version[0], 2)](source)
        if dtype.hasobject:
            raise ValueError("it holds Python objects, which are not read")
        at = source.tell()
        size = source.seek(0, 2) - at
        if math.prod(shape) * dtype.itemsize > size:
            raise ValueError(
                f"its header says {list(shape)} {dtype}, {math.prod(shape) * dtype.itemsize:,} "
                f"bytes, and {size:,} follow"
            )
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        order = "F" if in_columns else "C"
        array: Any = np.memmap(source, dtype, mode="c", offset=at, shape=shape, order=order)  # type: ignore[call-overload]
        return array  # type: ignore[no-any-return]
