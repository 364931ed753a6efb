"""Splits on disk as ``.npy`` files: written once for the same files and options, then mapped.

One folder per digest of file names, sizes, times and options. It is written beside its place and
moved there whole, so a run that is killed leaves nothing half-written to be read, and two runs at
once do no harm. Rows are appended with plain writes, never through a mapping: what is written
need not fit into memory.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt

from thresher.artifacts.input_spec import InputSpec
from thresher.errors import DataError
from thresher_training.data import DataSet, Split, SplitName

__all__ = ["CACHE", "SPLITS", "RowsFile", "Texts", "cached", "load_data"]

CACHE = ".thresher/data"
"""Where sources keep what they made, from the working folder."""

_VERSION = 2  # raised when what sources write changes
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


def cached(
    folder: str | Path,
    *,
    files: Sequence[Path],
    options: Mapping[str, Any],
    build: Callable[[Path], None],
) -> Path:
    """Return the folder with what ``build`` writes for these files and options.

    Args:
        folder: Holds a folder for each digest.
        files: What is read; another name, size or time of any of them makes another digest.
        options: Everything else that the result depends on; anything that JSON or ``str`` can say.
        build: Called with an empty folder, only where nothing is cached yet.
    """
    stats = [(str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    key = json.dumps([_VERSION, stats, options], default=str, sort_keys=True)
    home = Path(folder)
    place = home / hashlib.sha256(key.encode()).hexdigest()[:16]
    if place.is_dir():
        return place
    home.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f"{place.name}.new-", dir=home))
    try:
        build(new)
        try:
            new.rename(place)
        except OSError:
            if not place.is_dir():  # else another run was first, with the same content
                raise
    except OSError as error:
        raise DataError(f"cannot write the cache folder {place}: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return place


def load_data(folder: Path, *, source: str, **further: Any) -> DataSet:
    """Return the data set in a cache folder; its arrays stay on disk until they are used.

    Args:
        folder: Holds the splits.
        source: What they were made of, for people.
        further: Further arguments of `DataSet`.
    """
    held = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    splits: dict[SplitName, Split] = {}
    for name in SPLITS:
        texts = folder / f"{name}.texts.arrow"
        splits[name] = Split(
            inputs={key: _mapped(folder / f"{name}.{key}.input.npy") for key in held["inputs"]},
            targets_NL=_mapped(folder / f"{name}.targets.npy"),
            texts=Texts(texts) if texts.exists() else None,
        )
    return DataSet(
        labels=tuple(held["labels"]),
        splits=splits,
        source=f"{source}; {held['summary']}",
        input_spec=InputSpec.load(folder),
        **further,
    )


def _mapped(path: Path) -> npt.NDArray[Any]:
    # mode "c" lets PyTorch take the rows as writable without anything ever reaching the file
    array: npt.NDArray[Any] = np.load(path, mmap_mode="c")
    return array


class RowsFile:
    """An ``.npy`` file that is written row block by row block.

    Args:
        path: The file.
        dtype: Kind of its numbers.
        shape: Of the whole, [N, ...].
    """

    def __init__(self, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.num_rows = 0
        self._dtype = np.dtype(dtype)
        self._file = path.open("wb")
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_2_0(self._file, header)

    def append(self, rows: npt.NDArray[Any]) -> None:
        """Write the next rows, [n, ...]."""
        block = np.ascontiguousarray(rows, dtype=self._dtype)
        assert block.shape[1:] == self.shape[1:]
        self._file.write(block.data if block.size else b"")
        self.num_rows += len(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        assert kind is not None or self.num_rows == self.shape[0]


class Texts(Sequence[str]):
    """Texts in an Arrow file, read one by one.

    Args:
        path: An Arrow IPC file with one string column.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self._column = pa.ipc.open_file(pa.memory_map(str(path))).read_all().column(0)

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, at: int) -> str: ...

    @overload
    def __getitem__(self, at: slice) -> list[str]: ...

    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [str(self._column[i]) for i in range(*at.indices(len(self)))]
        row = int(at)
        if not -len(self) <= row < len(self):
            raise IndexError(f"text {row} of {len(self)}")
        return str(self._column[row % len(self)])
