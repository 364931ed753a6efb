"""What a served model takes and gives, as Triton tells it, with the decision that it applies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thresher import Decision
from thresher.artifacts.input_spec import InputSpec
from thresher.config_pbtxt import inputs_key
from thresher.errors import DataError, NotFoundError, unknown_name
from thresher.repository import decision_key

__all__ = [
    "DlpackArray",
    "ModelMetadata",
    "TensorMetadata",
    "checked_inputs",
    "checksum_of",
    "decided_by",
    "metadata_of",
]

Array = npt.NDArray[Any]

_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),
}


_CPU = 1
"""DLPack's number for this host's memory (kDLCPU)."""

_FNV_OFFSET, _FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3


class DlpackArray(Protocol):
    """An array of any library that speaks DLPack, such as a PyTorch tensor."""

    def __dlpack__(self, *args: Any, **options: Any) -> Any:
        """Return a capsule of the array."""

    def __dlpack_device__(self) -> tuple[Any, Any]:
        """Return the kind and number of the device that holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMetadata:
    """One input or output of a served model."""

    name: str
    """Its name."""

    datatype: str
    """Triton's name of its type, such as "FP32"."""

    shape: tuple[int, ...]
    """The shape of one row, without the batch axis; -1 is any size."""

    optional: bool = False
    """Whether a request may leave it out."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type that carries it.

        Raises:
            DataError: If NumPy has none, as for BF16.
        """
        if self.datatype not in _DTYPES:
            raise DataError(f'"{self.name}" is {self.datatype}, which NumPy cannot hold')
        return _DTYPES[self.datatype]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata:
    """One version of a served model."""

    name: str
    """The model's name."""

    version: int
    """The version that this describes."""

    versions: tuple[int, ...]
    """All versions that were served when this was asked for; unversioned requests take the last."""

    max_batch_size: int
    """The most rows in one request; 0 for a model without a batch axis."""

    inputs: Mapping[str, TensorMetadata]
    """Its inputs by name, in the model's order."""

    outputs: Mapping[str, TensorMetadata]
    """Its outputs by name."""

    decision: Decision | None
    """Labels and thresholds, from the model's configuration; None if it holds none."""

    input_spec: InputSpec | None = None
    """How rows become its inputs, from the model's configuration; None if it does not say."""

    certificate_sha256: str = ""
    """Of the version's certificate, from the model's configuration; empty if it holds none."""

    def output(self, name: str) -> TensorMetadata:
        """Return the output of this name.

        Raises:
            NotFoundError: If there is none; the message lists the outputs.
        """
        if name not in self.outputs:
            raise NotFoundError(f"model {self.name}: {unknown_name('output', name, self.outputs)}")
        return self.outputs[name]


def metadata_of(metadata: Any, config: Any, version: int) -> ModelMetadata:
    """Return the description of a model from Triton's own two.

    Args:
        metadata: tritonclient's ModelMetadataResponse.
        config: tritonclient's ModelConfig.
        version: Which version this is about.
    """
    versions = tuple(sorted(int(number) for number in metadata.versions))
    optional = {tensor.name for tensor in config.input if tensor.optional}
    skip = 1 if config.max_batch_size > 0 else 0

    def tensors(listed: Any) -> dict[str, TensorMetadata]:
        return {
            tensor.name: TensorMetadata(
                name=tensor.name,
                datatype=tensor.datatype,
                shape=tuple(tensor.shape)[skip:],
                optional=tensor.name in optional,
            )
            for tensor in listed
        }

    key = decision_key(version)
    decision = None
    if key in config.parameters:
        text = config.parameters[key].string_value
        decision = Decision.from_json(text, where=f"model {metadata.name}, parameter {key}")
    return ModelMetadata(
        name=metadata.name,
        version=version,
        versions=versions,
        max_batch_size=config.max_batch_size,
        inputs=tensors(metadata.inputs),
        outputs=tensors(metadata.outputs),
        decision=decision,
        input_spec=_input_spec(metadata.name, config, version),
        certificate_sha256=config.parameters[certificate].string_value
        if (certificate := f"thresher.certificate_sha256/{version}") in config.parameters
        else "",
    )


def decided_by(config: Any, version: int) -> str:
    """Return what a configuration says of how a version decides; empty if it says nothing.

    Args:
        config: tritonclient's ModelConfig.
        version: Which version.
    """
    keys = decision_key(version), f"thresher.certificate_sha256/{version}"
    known = config.parameters
    return "".join(known[key].string_value for key in keys if key in known)


def checksum_of(decided_by: str) -> str:
    """Return 64 bits of what `decided_by` returns as 16 hexadecimal digits; empty for nothing.

    Our backend sends the same with each answer, as the response parameter ``thresher.decision``.

    Source: FNV-1a; Fowler, Noll, Vo: draft-eastlake-fnv.
    """
    if not decided_by:
        return ""
    value = _FNV_OFFSET
    for byte in decided_by.encode():
        value = (value ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def _input_spec(name: str, config: Any, version: int) -> InputSpec | None:
    key = inputs_key(version)
    if key not in config.parameters:
        return None
    text = config.parameters[key].string_value
    return InputSpec.from_json(text, where=f"model {name}, parameter {key}")


def checked_inputs(
    model: ModelMetadata,
    inputs: Mapping[str, Array | DlpackArray] | Array | DlpackArray,
    *,
    allow_nonfinite: bool,
) -> dict[str, Array]:
    """Return the inputs by name, proven to be what the model takes.

    Args:
        model: The model's description.
        inputs: Arrays by name, or the array of a model's only input.
        allow_nonfinite: Whether NaN and infinities may be sent.

    Raises:
        DataError: If a name, type, shape or value does not fit; nothing is converted silently.
    """
    if not isinstance(inputs, Mapping):
        if len(model.inputs) != 1:
            names = ", ".join(f'"{name}"' for name in model.inputs)
            raise DataError(
                f"model {model.name} takes {len(model.inputs)} inputs ({names}), got one array; "
                "expected a mapping from name to array"
            )
        inputs = {next(iter(model.inputs)): inputs}
    known = model.inputs
    for name in inputs:
        if name not in known:
            raise DataError(f"model {model.name}: {unknown_name('input', str(name), known)}")
    missing = [name for name, t in known.items() if not t.optional and name not in inputs]
    if missing:
        raise DataError(
            f"model {model.name}: missing input "
            + ", ".join(f'"{name}"' for name in missing)
            + f"; got {', '.join(inputs) or 'none'}"
        )
    checked: dict[str, Array] = {}
    for name, given in inputs.items():
        where = f'model {model.name}, input "{name}"'
        array = _check_dtype(where, known[name], _as_array(where, given))
        _check_shape(where, known[name], array, batched=model.max_batch_size > 0)
        if not allow_nonfinite:
            _check_finite(where, array)
        checked[name] = array
    if model.max_batch_size:
        rows = {name: len(array) for name, array in checked.items()}
        if len(set(rows.values())) > 1:
            raise DataError(f"model {model.name}: inputs differ in rows: {rows}")
    return checked


def _as_array(where: str, given: Any) -> Array:
    if isinstance(given, np.ndarray):
        if np.ma.is_masked(given):
            raise DataError(f"{where} has masked values, which cannot be sent: array.filled(...)")
        return np.asarray(given)
    if not hasattr(given, "__dlpack__") or not hasattr(given, "__dlpack_device__"):
        raise DataError(f"{where} is a {type(given).__name__}, expected a NumPy array")
    try:
        if int(given.__dlpack_device__()[0]) != _CPU:
            raise DataError(f"{where} is not in this host's memory; copy it: tensor.cpu()")
        array: Array = np.from_dlpack(given)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{where} cannot be read: {error}") from None
    return array


def _check_dtype(where: str, tensor: TensorMetadata, array: Array) -> Array:
    if tensor.datatype == "BYTES" and array.dtype.kind in "OSU":
        array = array.astype(np.object_, copy=False)
        for cell in array.flat:  # tritonclient would send None as "None"
            if not isinstance(cell, (str, bytes)):
                raise DataError(f"{where} holds a {type(cell).__name__}, expected str or bytes")
        return array
    if array.dtype != tensor.dtype:
        raise DataError(
            f"{where} is {array.dtype}, expected {tensor.dtype} ({tensor.datatype}). "
            f'Convert it yourself if no value is harmed: array.astype("{tensor.dtype}")'
        )
    return array


def _check_shape(where: str, tensor: TensorMetadata, array: Array, *, batched: bool) -> None:
    expected = ["N", *map(_size, tensor.shape)] if batched else [*map(_size, tensor.shape)]
    shape = f"{list(array.shape)}, expected [{', '.join(expected)}]"
    sizes = (-1, *tensor.shape) if batched else tensor.shape
    if array.ndim != len(sizes):
        hint = ""
        if batched and array.ndim == len(tensor.shape):
            hint = ". One row needs its batch axis: array[None]"
        raise DataError(f"{where} has shape {shape}: {array.ndim} axes, not {len(sizes)}{hint}")
    for axis, (got, wanted) in enumerate(zip(array.shape, sizes, strict=True)):
        if wanted not in (-1, got):
            raise DataError(f"{where} has shape {shape}: axis {axis} is {got}, not {wanted}")


def _size(size: int) -> str:
    return "any" if size == -1 else str(size)


def _check_finite(where: str, array: Array) -> None:
    if array.dtype.kind != "f" or not array.size:
        return
    bad = ~np.isfinite(array)
    if not bad.any():
        return
    rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1)) if array.ndim else [0]
    raise DataError(
        f"{where} has {int(bad.sum())} values that are NaN or infinite, in {len(rows)} of "
        f"{len(array) if array.ndim else 1} rows, the first in row {rows[0]}. Mend them, or pass "
        "allow_nonfinite=True if the model is meant to take them"
    )
