"""Asks one version of a model for one prediction, to see whether its backend lives."""

from __future__ import annotations

import enum
import queue
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from thresher.published_models import COMPANION_KEY

__all__ = ["Asking", "Health", "Row", "zero_row"]

_TIMEOUT_S = 1.5
"""A request to a dead backend process fails after one second (Triton 2.51.0)."""

_CANCELLED_S = 3600.0
"""When a request is given up after all: one that is cancelled as it is answered can end Triton
(`thresher_serving.client.under_way`)."""


class Health(enum.Enum):
    """What one request tells of the backend that it went to."""

    ALIVE = "alive"
    """It answered; an error of the model's own is an answer too."""

    DEAD = "dead"
    """Triton says that the backend's process is gone, or has not run for a second."""

    SILENT = "silent"
    """No answer so far: busy, hanging, or about to be called dead."""


@dataclass(slots=True)
class Row:
    """A request for one version."""

    name: str
    version: int
    inputs: list[Any]

    asks: str = ""
    """The model that this one asks, and may wait for; empty for one that answers by itself."""

    counted: int = 0
    """How many of the last request's successes are in Triton's statistics."""

    def send(self, client: Any) -> Health:
        """Return what the server's answer tells."""
        from tritonclient.utils import InferenceServerException

        self.counted = 0
        try:
            client.infer(
                self.name,
                self.inputs,
                model_version=str(self.version),
                request_id="thresher-watch",
                client_timeout=_CANCELLED_S,
            )
        except InferenceServerException as error:
            if "not healthy" in str(error.message()):
                return Health.DEAD
            late = "DEADLINE_EXCEEDED" in str(error.status())
            return Health.SILENT if late else Health.ALIVE
        self.counted = 1
        return Health.ALIVE


class Asking:
    """The requests to one version that are under way; nobody waits long, and none is cancelled."""

    def __init__(self) -> None:
        self._answers: queue.SimpleQueue[tuple[Health, int]] = queue.SimpleQueue()
        self._num_under_way = 0

    def ask(self, row: Row, client: Any, *, at_most: int) -> tuple[Health, int]:
        """Return what an answer tells, and how many successes it is in Triton's statistics.

        Args:
            row: What to ask.
            client: A tritonclient gRPC client.
            at_most: How many requests may be under way; with so many, an earlier one is waited for.
        """
        if self._num_under_way < at_most:
            self._num_under_way += 1
            threading.Thread(target=self._send, args=(row, client), daemon=True).start()
        try:
            answer = self._answers.get(timeout=_TIMEOUT_S)
        except queue.Empty:
            return Health.SILENT, 0
        self._num_under_way -= 1
        return answer

    def _send(self, row: Row, client: Any) -> None:
        health = Health.SILENT
        try:
            health = row.send(client)
        finally:
            self._answers.put((health, row.counted))


def zero_row(client: Any, name: str, version: int, *, timeout_s: float) -> Row | None:
    """Return a request of one row of zeros; None if the version has no backend of its own.

    Args:
        client: A tritonclient gRPC client.
        name: The model.
        version: Its version.
        timeout_s: How long the server may take to describe it.
    """
    from tritonclient.grpc import InferInput
    from tritonclient.utils import InferenceServerException, triton_to_np_dtype

    try:
        config = client.get_model_config(name, str(version), client_timeout=timeout_s).config
    except InferenceServerException:
        return None  # unloaded by now
    if config.platform == "ensemble":
        return None  # its parts are asked themselves
    inputs = []
    for tensor in config.input:
        datatype = _datatype(tensor.data_type)
        dtype = triton_to_np_dtype(datatype)
        if dtype is None:
            return None
        shape = [1] * (config.max_batch_size > 0) + [max(1, size) for size in tensor.dims]
        array = np.zeros(shape, dtype) if dtype is not np.object_ else np.full(shape, b"", dtype)
        inputs.append(InferInput(tensor.name, shape, datatype).set_data_from_numpy(array))
    asks = (
        config.parameters[COMPANION_KEY].string_value if COMPANION_KEY in config.parameters else ""
    )
    return Row(name=name, version=version, inputs=inputs, asks=asks)


def _datatype(number: int) -> str:
    """Return a type as requests name it; configurations say TYPE_FP32, and TYPE_STRING."""
    from tritonclient.grpc import model_config_pb2

    name = str(model_config_pb2.DataType.Name(number)).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name
