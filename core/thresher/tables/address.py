"""Where data are: a local path, or a URI of any file system that Arrow or fsspec knows."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from thresher.errors import DataError, MissingExtraError, NotFoundError, unknown_name

__all__ = ["Address", "address_of", "expanded"]

_GLOB = frozenset("*?[")
_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<plain>\w+))")


@dataclass(frozen=True, slots=True)
class Address:
    """A file, folder or glob on a file system of Arrow's."""

    given: str
    """As the user named it."""
    system: Any
    """A `pyarrow.fs.FileSystem`."""
    root: str
    """The file, or the folder that holds everything."""
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
        """Whether it is on a disk of this machine."""
        return str(self.system.type_name) == "local"

    def beneath(self, name: str) -> str:
        """Return the path of a name in this folder."""
        return f"{self.root.rstrip('/')}/{name}"


def expanded(path: str | Path) -> str:
    """Return a path with ``~``, ``$VAR``, ``${VAR}`` and ``${VAR:-default}`` filled in.

    ``python:PACKAGE/sub/folder`` is inside an installed package, which is not imported. A variable
    that is set but empty takes the default, as in a shell. A URI keeps everything but variables.

    Raises:
        DataError: If a variable without a default is not set, or a package is not installed.
    """
    given = str(path)
    if given.startswith("python:"):
        return _in_package(given)

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        found = os.environ.get(name) or match["default"]
        if found is None:
            raise DataError(
                f"{given}: the environment variable {name} is not set; set it, or write "
                f"${{{name}:-DEFAULT}}"
            )
        return found

    if "://" not in given and Path(given).exists():
        return given  # a name that holds a dollar sign
    filled = _VARIABLE.sub(value, given)
    return filled if "://" in filled else str(Path(filled).expanduser())


def _in_package(path: str) -> str:
    package, _, inside = path.removeprefix("python:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise DataError(
            f'{path}: no package "{package}" is installed; expected python:PACKAGE/folder'
        )
    return str(Path(folders[0]) / inside)


def address_of(path: str | Path, *, must_exist: bool = True) -> Address:
    """Return the address that a path or URI names.

    Args:
        path: Such as ``data/2026``, ``data/*.parquet``, ``$DATA/x.csv`` or ``s3://bucket/data``.
        must_exist: Whether something has to be there; a glob is not looked up.

    Raises:
        NotFoundError: If nothing is there; names the nearest.
        DataError: If no file system is known for the URI, or a variable is not set.
        MissingExtraError: If pyarrow is not installed.
    """
    try:
        from pyarrow import fs
    except ModuleNotFoundError:
        raise MissingExtraError(
            f"{path}: reading files needs pyarrow. Run: pip install 'thresher[tables]'"
        ) from None
    given = expanded(path)
    bare, pattern = _split_glob(given)
    system, root = _system_of(bare)
    if pattern is not None:
        return Address(given, system, root, is_many=True, pattern=f"{root.rstrip('/')}/{pattern}")
    try:
        kind = system.get_file_info(root).type
    except OSError as error:
        raise NotFoundError(f"{given} is out of reach: {error}") from error
    if must_exist and kind == fs.FileType.NotFound:
        hint = _nearest(Path(given)) if "://" not in given else "no such file or folder"
        raise NotFoundError(f"{given}: {hint}")
    return Address(given, system, root, is_many=kind != fs.FileType.File)


def _nearest(path: Path) -> str:
    """Return what is missing of a local path, and which names are near it."""
    if not path.parent.is_dir():
        nearest = next(p for p in path.parents if p.is_dir() or p == p.parent)
        return f"no such file or folder: {nearest} holds no {path.relative_to(nearest).parts[0]}"
    near = unknown_name("file", path.name, [file.name for file in path.parent.iterdir()])
    return f"no such file or folder: {near}"


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
        return fs.LocalFileSystem(), str(Path(given).absolute())
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
        raise DataError(f"{given}: no file system is known for it: {error}") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path
