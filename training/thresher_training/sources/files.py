"""Which files a source reads: paths with variables, folders and globs."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from thresher.errors import DataError, unknown_name

__all__ = ["expand", "find_files", "find_one", "read_names"]

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\}|(?P<plain>\w+))")
_GLOB = frozenset("*?[")


def expand(path: str | Path) -> Path:
    """Return a path with ``~``, ``$VAR``, ``${VAR}`` and ``${VAR:-default}`` filled in.

    ``python:PACKAGE/sub/folder`` lies inside an installed package, which is not imported. A
    relative path stays relative, to the working folder. A variable that is set but empty takes
    the default, as in a shell.

    Raises:
        DataError: If a variable without a default is not set, or a package is not installed.
    """
    if str(path).startswith("python:"):
        return _in_package(str(path))

    def value(match: re.Match[str]) -> str:
        name = match["braced"] or match["plain"]
        found = os.environ.get(name) or match["default"]
        if found is None:
            raise DataError(
                f"{path}: the environment variable {name} is not set; set it, or write "
                f"${{{name}:-DEFAULT}}"
            )
        return found

    return Path(_VARIABLE.sub(value, str(path))).expanduser()


def find_files(path: str | Path, *, suffixes: Sequence[str]) -> list[Path]:
    """Return the files that a path means, sorted by name.

    Args:
        path: A file, a glob, or a folder, whose files with these suffixes are taken, at any depth.
        suffixes: Such as ``".parquet"``.

    Raises:
        DataError: If there are none; names the nearest.
    """
    place = expand(path)
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [f for f in place.rglob("*") if f.suffix.lower() in suffixes and f.is_file()]
        if not found:
            raise DataError(f"the folder {place} holds no file that ends in {', '.join(suffixes)}")
        return sorted(found)
    if _GLOB & set(str(place)):
        parts = place.parts
        first = next(at for at, part in enumerate(parts) if _GLOB & set(part))
        found = [f for f in Path(*parts[:first]).glob(str(Path(*parts[first:]))) if f.is_file()]
        if not found:
            raise DataError(f"no file fits the pattern {place}")
        return sorted(found)
    raise DataError(_missing(place))


def find_one(path: str | Path) -> Path:
    """Return the one file that a path means.

    Raises:
        DataError: If it does not exist; names the nearest.
    """
    place = expand(path)
    if place.is_file():
        return place
    raise DataError(_missing(place))


def read_names(names: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return label names: given as they are, or from a file with one name a line.

    Raises:
        DataError: If the file is missing, holds no name, or is not UTF-8.
    """
    if names is None or not isinstance(names, (str, Path)):
        return None if names is None else tuple(names)
    path = find_one(names)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise DataError(f"{path} holds no label name, expected one a line")
    return found


def _in_package(path: str) -> Path:
    package, _, inside = path.removeprefix("python:").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise DataError(
            f'{path}: no package "{package}" is installed; expected python:PACKAGE/folder'
        )
    return Path(places[0]) / inside


def _missing(place: Path) -> str:
    if place.is_dir():
        return f"{place} is a folder, expected a file"
    if not place.parent.is_dir():
        nearest = next(p for p in place.parents if p.is_dir() or p == p.parent)
        missing = place.relative_to(nearest).parts[0]
        return f"no file {place}: the folder {nearest} holds no {missing}"
    neighbours = [f.name for f in place.parent.iterdir()]
    return f"no file {place}: {unknown_name('file', place.name, neighbours)}"
