"""Inference requests and answers as HTTP bodies: a JSON head, and the tensors' bytes behind it.

Source: Triton's "Binary Tensor Data Extension" of the KServe v2 protocol.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from thresher_serving.client.failures import CallFailure
from thresher_serving.client.metadata import TensorMetadata
from thresher_serving.client.transport import Answer, Request

__all__ = ["decoded", "encoded"]

Array = npt.NDArray[Any]

_HEAD_LENGTH = "Inference-Header-Content-Length"


def encoded(request: Request) -> tuple[list[bytes], dict[str, str]]:
    """Return a request's body, in pieces, and the headers that go with it."""
    tensors = []
    pieces = []
    for name, array in request.inputs.items():
        piece = _bytes_of(array)
        pieces.append(piece)
        tensors.append(
            {
                "name": name,
                "shape": list(array.shape),
                "datatype": request.datatypes[name],
                "parameters": {"binary_data_size": len(piece)},
            }
        )
    content: dict[str, Any] = {"inputs": tensors}
    if request.outputs:
        binary = {"binary_data": True}
        content["outputs"] = [{"name": name, "parameters": binary} for name in request.outputs]
    else:
        content["parameters"] = {"binary_data_output": True}
    head = json.dumps(content, separators=(",", ":")).encode()
    headers = {_HEAD_LENGTH: str(len(head)), "Content-Type": "application/octet-stream"}
    return [head, *pieces], headers


def decoded(headers: Mapping[str, str], body: bytes, outputs: Sequence[str]) -> Answer:
    """Return what a server answered; its arrays are read-only views of the body.

    Args:
        headers: The response's, their names in lower case.
        body: The response's.
        outputs: What must be there.

    Raises:
        CallFailure: If it is no answer of the protocol.
    """
    try:
        length = int(headers.get(_HEAD_LENGTH.lower(), len(body)))
        head = json.loads(body[:length])
        arrays, offset = {}, length
        for tensor in head["outputs"]:
            size = int(tensor.get("parameters", {}).get("binary_data_size", -1))
            dtype = TensorMetadata(name=tensor["name"], datatype=tensor["datatype"], shape=()).dtype
            if size < 0:
                array = np.array(tensor["data"], dtype)
            else:
                array = _array_of(body, offset, size, dtype)
                offset += size
            arrays[tensor["name"]] = array.reshape(tensor["shape"])
        return Answer(
            version=int(head["model_version"]),
            arrays={name: arrays[name] for name in outputs or arrays},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise CallFailure("INTERNAL", f"not an answer of Triton's: {error}") from None


def _bytes_of(array: Array) -> bytes:
    if array.dtype.kind != "O":
        return np.asarray(array).tobytes()
    from tritonclient.utils import serialize_byte_tensor

    serialized = serialize_byte_tensor(array)
    return bytes(serialized.item()) if serialized.size else b""


def _array_of(body: bytes, offset: int, size: int, dtype: np.dtype[Any]) -> Array:
    if dtype.kind != "O":
        return np.frombuffer(body, dtype, size // dtype.itemsize, offset)
    from tritonclient.utils import deserialize_bytes_tensor

    texts: Array = deserialize_bytes_tensor(body[offset : offset + size])
    return texts
