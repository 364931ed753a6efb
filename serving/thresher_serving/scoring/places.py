"""Where data lie: a local path, or a URI of any file system that Arrow or fsspec knows."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from thresher.errors import DataError, NotFoundError

__all__ = ["Place", "place_of"]

_GLOB = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Place:
    """A file, folder or glob on a file system of Arrow's."""

    given: str
    """As the user named it."""
    system: Any
    """A `pyarrow.fs.FileSystem`."""
    root: str
    """The file, or the folder below which everything lies."""
    is_many: bool
    """Whether it is a folder or a glob."""
    pattern: str | None = None
    """Of a glob, whole."""

    def __str__(self) -> str:
        return self.given

    @property
    def parent(self) -> str:
        """The folder that outputs' names are relative to."""
        return self.root if self.is_many else str(PurePosixPath(self.root).parent)

    @property
    def is_local(self) -> bool:
        """Whether it lies on a disk of this machine."""
        return str(self.system.type_name) == "local"

    def beneath(self, name: str) -> str:
        """Return the path of a name in this folder."""
        return f"{self.root.rstrip('/')}/{name}"


def place_of(path: str | Path, *, must_exist: bool = True) -> Place:
    """Return the place that a path or URI names.

    Args:
        path: Such as ``data/2026``, ``data/*.parquet`` or ``s3://bucket/data``.
        must_exist: Whether something has to lie there; a glob is not looked up.

    Raises:
        NotFoundError: If nothing lies there.
        DataError: If no file system is known for the URI.
    """
    from pyarrow import fs

    given = str(path)
    bare, pattern = _split_glob(given)
    system, root = _system_of(bare)
    if pattern is not None:
        return Place(given, system, root, is_many=True, pattern=f"{root.rstrip('/')}/{pattern}")
    try:
        kind = system.get_file_info(root).type
    except OSError as error:
        raise NotFoundError(f"{given} is out of reach: {error}") from None
    if must_exist and kind == fs.FileType.NotFound:
        raise NotFoundError(f"{given}: no such file or folder")
    return Place(given, system, root, is_many=kind != fs.FileType.File)


def _split_glob(given: str) -> tuple[str, str | None]:
    """Return the part before the first segment with a wildcard, and the rest."""
    segments = given.split("/")
    for at, segment in enumerate(segments):
        if _GLOB & set(segment) and not Path(given).exists():
            return "/".join(segments[:at]) or ("/" if given.startswith("/") else "."), "/".join(
                segments[at:]
            )
    return given, None


def _system_of(given: str) -> tuple[Any, str]:
    """Return the file system of a path or URI, and the path on it."""
    import pyarrow as pa
    from pyarrow import fs

    if "://" not in given:
        return fs.LocalFileSystem(), str(Path(given).expanduser().absolute())
    with contextlib.suppress(pa.ArrowInvalid):
        system, path = fs.FileSystem.from_uri(given)
        return system, path
    try:
        import fsspec  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise DataError(
            f"{given}: no file system is known for it; install fsspec and its package for this "
            "kind of address"
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(given)
    except (ValueError, ImportError) as error:
        raise DataError(f"{given}: no file system is known for it: {error}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path
