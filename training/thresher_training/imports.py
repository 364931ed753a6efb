"""Data sources and networks by import path: ``"package.module:callable"``.

A module may lie beside the recipe or in the working folder; both are on the import path while the
module is imported, and not afterwards.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from thresher.errors import ConfigError, ThresherError, unknown_name

__all__ = ["call_with_options", "import_callable"]


def import_callable(path: str, *, key: str, folders: Sequence[Path]) -> Callable[..., Any]:
    """Return the callable that an import path names.

    Args:
        path: ``"package.module:callable"``; the part after the colon may have dots.
        key: The recipe's key that holds the path, for errors.
        folders: Folders searched before the installed packages.

    Raises:
        ConfigError: If the path has another form, or module or attribute do not exist (the
            nearest names are listed), or the module fails while it is imported.
    """
    module_name, colon, attribute = path.partition(":")
    if not (colon and all(map(str.isidentifier, [*module_name.split("."), *attribute.split(".")]))):
        raise ConfigError(f'{key} is "{path}", expected an import path "package.module:callable"')
    with _import_path(folders):
        found: Any = _import_module(module_name, key=key, folders=folders)
    for name in attribute.split("."):
        if not hasattr(found, name):
            reason = unknown_name("attribute", name, _meant_for(found, key))
            raise ConfigError(f"{key}: {module_name}: {reason}")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"{key}: {path} is a {type(found).__name__}, expected a callable")
    return found  # type: ignore[no-any-return]


def call_with_options(
    function: Callable[..., Any], options: Mapping[str, Any], *, key: str, **given: Any
) -> Any:
    """Return ``function(**given, **options)``, after a look at whether it takes them.

    Args:
        function: A data source or a network factory.
        options: The recipe's options table.
        key: The recipe's section, for errors.
        given: What the stage itself hands over, such as ``num_labels``.

    Raises:
        ConfigError: If the signature does not fit the options, or the call fails with anything
            but a `ThresherError`; that error stays attached as the cause.
    """
    name = getattr(function, "__qualname__", repr(function))
    _check_signature(function, options, given, key=key, name=name)
    try:
        return function(**given, **options)
    except ThresherError:
        raise
    except Exception as error:
        raise ConfigError(f"[{key}] {name} failed: {type(error).__name__}: {error}") from error


@contextmanager
def _import_path(folders: Sequence[Path]) -> Iterator[None]:
    added = [str(folder.resolve()) for folder in folders]
    before = sys.path[:]
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


def _import_module(name: str, *, key: str, folders: Sequence[Path]) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"{key}: {name} needs {error.name}, which is not installed"
            ) from error
        missing = unknown_name("module", name, _neighbours(name, folders))
        raise ConfigError(f"{key}: {missing} (also searched: {_listed(folders)})") from None
    except Exception as error:
        raise ConfigError(
            f"{key}: {name} fails when imported: {type(error).__name__}: {error}"
        ) from error


def _neighbours(name: str, folders: Sequence[Path]) -> list[str]:
    """Return the modules beside the one that is missing, with dotted names."""
    package, _, _ = name.rpartition(".")
    if not package:
        return [m.name for m in pkgutil.iter_modules([str(folder) for folder in folders])]
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return []
    places = spec.submodule_search_locations if spec else None
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules(places or [])]


def _meant_for(module: object, key: str) -> list[str]:
    """Return the names of a module that a recipe may mean: its own public callables.

    What it imports is left out, and so are classes that are no networks or losses.
    """
    package = getattr(module, "__name__" if inspect.ismodule(module) else "__module__", "")
    public = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    found = []
    for name in public:
        value = getattr(module, name, None)
        own = f"{getattr(value, '__module__', '')}.".startswith(f"{package}.")
        is_network = inspect.isclass(value) and hasattr(value, "forward") and key != "data.source"
        if own and (inspect.isfunction(value) or is_network):
            found.append(name)
    return found


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def _check_signature(
    function: Callable[..., Any],
    options: Mapping[str, Any],
    given: Mapping[str, Any],
    *,
    key: str,
    name: str,
) -> None:
    twice = sorted(set(options) & set(given))
    if twice:
        raise ConfigError(f"[{key}.options] {twice[0]} is given by Thresher; leave it out")
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a callable without a readable signature: the call itself will tell
        return
    by_name = {
        p.name: p
        for p in parameters.values()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for got in given:
            if got not in by_name:
                raise ConfigError(f'[{key}] {name} takes no "{got}", which Thresher hands over')
        for option in options:
            if option not in by_name:
                valid = set(by_name) - set(given)
                raise ConfigError(
                    f"[{key}.options] {name}: {unknown_name('option', option, valid)}"
                )
    for parameter in by_name.values():
        if parameter.default is parameter.empty and parameter.name not in {*options, *given}:
            raise ConfigError(f'[{key}.options] {name} needs "{parameter.name}", which is missing')
