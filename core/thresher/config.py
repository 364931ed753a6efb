"""One TOML file to frozen dataclasses: every key known, every value of the declared type.

A section of the file is a dataclass, a key is a field, a missing key takes the field's default.
What a field may hold follows from its annotation: ``bool``, ``int``, ``float``, ``str``,
``Literal[...]``, another dataclass, ``tuple[T, ...]``, ``dict[str, Any]``, or any ``| None``.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from thresher.errors import ConfigError, NotFoundError, unknown_name

__all__ = ["from_mapping", "load_toml", "parse_overrides", "to_mapping", "to_toml"]

T = TypeVar("T")


def load_toml(path: Path, cls: type[T], overrides: Sequence[str] = ()) -> T:
    """Return the dataclass ``cls`` that a TOML file describes.

    Args:
        path: The file.
        cls: A dataclass; its nested dataclasses are the file's sections.
        overrides: ``"section.key=value"`` texts that win over the file; see `parse_overrides`.

    Raises:
        NotFoundError: If there is no such file.
        ConfigError: If it is not TOML, or a key or value is wrong; names file and key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file; expected a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    for dotted, value in parse_overrides(overrides):
        target = content
        *sections, key = dotted.split(".")
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {dotted}: {section} is a value in {path}, not a section")
        target[key] = value
    return from_mapping(content, cls, where=str(path))


def parse_overrides(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """Return (dotted key, value) pairs; a value is TOML, or a bare word taken as a string.

    Raises:
        ConfigError: If a text has no ``=`` or no key.

    Example:
        >>> parse_overrides(["loss.gamma=2", "data.name=digits", "data.sizes=[1, 2]"])
        [('loss.gamma', 2), ('data.name', 'digits'), ('data.sizes', [1, 2])]
    """
    pairs = []
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")):
            raise ConfigError(f"--set {text}: expected section.key=value, such as loss.gamma=2")
        try:
            pairs.append((key, tomllib.loads(f"value = {value}")["value"]))
        except tomllib.TOMLDecodeError:
            pairs.append((key, value.strip()))
    return pairs


def from_mapping(mapping: Mapping[str, Any], cls: type[T], *, where: str, prefix: str = "") -> T:
    """Return the dataclass ``cls`` filled from a mapping.

    Args:
        mapping: Keys and values, nested as the dataclass is.
        cls: A dataclass.
        where: What to call the source in an error, such as a file's path.
        prefix: Dotted path of this mapping in the source, for errors.

    Raises:
        ConfigError: If a key is unknown or missing, a value has the wrong type, or the
            dataclass's own checks refuse it.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        dotted = f"{prefix}{key}"
        if key not in fields:
            raise ConfigError(
                f"{where}: {unknown_name('key', dotted, (prefix + f for f in fields))}"
            )
        values[key] = _convert(value, hints[key], where=where, dotted=dotted)
    for key, field in fields.items():
        required = (
            field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        )
        if required and key not in values:
            raise ConfigError(f'{where}: the key "{prefix}{key}" is missing')
    try:
        return cls(**values)
    except ConfigError as error:
        section = f"[{prefix.rstrip('.')}] " if prefix else ""
        raise ConfigError(f"{where}: {section}{error}") from None


def _convert(value: Any, hint: Any, *, where: str, dotted: str) -> Any:
    """Return ``value`` as the annotation ``hint`` wants it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (hint,) = (arg for arg in args if arg is not type(None))  # only "T | None" is used
        return _convert(value, hint, where=where, dotted=dotted)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping):
            return from_mapping(value, hint, where=where, prefix=f"{dotted}.")
        raise ConfigError(f"{where}: {dotted} is {value!r}, expected a section [{dotted}]")
    if origin is Literal:
        if value in args:
            return value
        raise ConfigError(f"{where}: {dotted}: {unknown_name('value', str(value), map(str, args))}")
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(
            _convert(item, args[0], where=where, dotted=f"{dotted}[{i}]")
            for i, item in enumerate(value)
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    plain = origin or hint
    if plain is Any or (
        isinstance(value, plain) and not (isinstance(value, bool) and plain is not bool)
    ):
        return value
    kind = "a list" if plain is tuple else f"a {getattr(plain, '__name__', plain)}"
    raise ConfigError(f"{where}: {dotted} is {value!r}, expected {kind}")


def to_mapping(config: Any) -> dict[str, Any]:
    """Return a configuration dataclass as nested dictionaries, without keys that are None."""
    return {
        field.name: to_mapping(value) if dataclasses.is_dataclass(value) else value
        for field in dataclasses.fields(config)
        if (value := getattr(config, field.name)) is not None
    }


def to_toml(config: Any) -> str:
    """Return a configuration dataclass as TOML that `load_toml` reads back as its equal."""
    return _dump(to_mapping(config), "")


def _dump(mapping: Mapping[str, Any], prefix: str) -> str:
    plain = {k: v for k, v in mapping.items() if not isinstance(v, Mapping)}
    tables = {k: v for k, v in mapping.items() if isinstance(v, Mapping)}
    text = "".join(f"{_key(k)} = {_value(v)}\n" for k, v in plain.items())
    for key, table in tables.items():
        dotted = f"{prefix}{_key(key)}"
        text += f"\n[{dotted}]\n{_dump(table, dotted + '.')}"
    return text


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isalnum() and bare.isascii() else _text(key)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(value: str) -> str:
    # TOML's strings are JSON's, but for surrogate pairs, and for DEL as it is
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
