"""What a user lays over config.pbtxt, checked against Triton's own schema field by field.

Source: Triton's `model_config.proto`, as `tritonclient` carries it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor

from thresher.errors import ConfigError, unknown_name

__all__ = ["override_config"]

_PROVEN = "it is what was proven"
_KEPT = {
    "name": "Thresher takes it from the registry",
    "platform": _PROVEN,
    "backend": _PROVEN,
    "runtime": _PROVEN,
    "input": _PROVEN,
    "output": _PROVEN,
    "batch_input": _PROVEN,
    "batch_output": _PROVEN,
    "default_model_filename": _PROVEN,
    "cc_model_filenames": _PROVEN,
    "ensemble_scheduling": "it would serve other models",
    "sequence_batching": "rows would no longer be independent of one another",
    "model_transaction_policy": "each request has one answer",
    "max_batch_size": "parity is proven at that size: set triton.max_batch_size",
    "version_policy": "publishing and rolling out set it",
}
"""Fields that cannot be laid over, and why."""

_WHOLE_NUMBERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_UINT64,
}
_SCALARS: Mapping[int, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(_WHOLE_NUMBERS, ((int,), "a whole number")),
    FieldDescriptor.TYPE_BOOL: ((bool,), "true or false"),
    FieldDescriptor.TYPE_STRING: ((str,), "a text"),
    FieldDescriptor.TYPE_FLOAT: ((int, float), "a number"),
    FieldDescriptor.TYPE_DOUBLE: ((int, float), "a number"),
}


def override_config(config: Any, given: Mapping[str, Any]) -> None:
    """Lay fields over a `ModelConfig` message in place: messages field by field, lists whole.

    Args:
        config: The message.
        given: Values by field name, nested. A text stands for a parameter's ``string_value``.

    Raises:
        ConfigError: If a field is unknown, cannot be changed, or has a wrong value; names it.
    """
    for name in given:
        if name in _KEPT:
            raise ConfigError(f"triton.config.{name} cannot be set: {_KEPT[name]}")
    for name in given.get("parameters", {}):
        if str(name).startswith("thresher."):
            raise ConfigError(
                f"triton.config.parameters.{name} cannot be set: Thresher keeps there what was "
                "proven; choose a name of your own"
            )
    checked = _message(given, config.DESCRIPTOR, "triton.config")
    kept = {name: value.string_value for name, value in config.parameters.items()}
    try:
        json_format.ParseDict(checked, config)
    except json_format.ParseError as error:  # a number that its field cannot hold
        raise ConfigError(f"triton.config: {error}") from None
    for name, text in kept.items():  # a table that is given takes the place of the whole one
        if name not in checked.get("parameters", {}):
            config.parameters[name].string_value = text


def _message(given: Any, descriptor: Any, where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        if descriptor.name == "ModelParameter" and isinstance(given, (str, int, float, bool)):
            text = str(given).lower() if isinstance(given, bool) else str(given)
            return {"string_value": text}
        raise ConfigError(
            f"{where} is {given!r}, expected a table of {', '.join(descriptor.fields_by_name)}"
        )
    checked = {}
    for name, value in given.items():
        field = descriptor.fields_by_name.get(name)
        if field is None:
            fields = [f"{where}.{known}" for known in descriptor.fields_by_name]
            raise ConfigError(unknown_name("field", f"{where}.{name}", fields))
        checked[name] = _field(value, field, f"{where}.{name}")
    for oneof in descriptor.oneofs:
        both = [field.name for field in oneof.fields if field.name in checked]
        if len(both) > 1:
            raise ConfigError(f"{where} has {' and '.join(both)}, expected one of them")
    return checked


def _field(given: Any, field: Any, where: str) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(given, Mapping):
            raise ConfigError(f"{where} is {given!r}, expected a table of values by name")
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _value(item, entry, f"{where}.{key}") for key, item in given.items()}
    if field.is_repeated:
        if not isinstance(given, (list, tuple)):
            raise ConfigError(f"{where} is {given!r}, expected a list")
        return [_value(item, field, f"{where}[{i}]") for i, item in enumerate(given)]
    return _value(given, field, where)


def _value(given: Any, field: Any, where: str) -> Any:
    if field.message_type is not None:
        return _message(given, field.message_type, where)
    if field.enum_type is not None:
        names = [value.name for value in field.enum_type.values]
        if given not in names:
            raise ConfigError(f"{where}: {unknown_name('value', str(given), names)}")
        return given
    types, expected = _SCALARS[field.type]
    is_stray_bool = isinstance(given, bool) and bool not in types
    if not isinstance(given, types) or is_stray_bool:
        raise ConfigError(f"{where} is {given!r}, expected {expected}")
    return given
