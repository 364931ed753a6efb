"""Clients that ask a Triton server as fast as it answers, in processes of their own.

A request is made once and sent as bytes: what is measured is the server. On few cores the clients
still take their share, so figures compare settings with each other and not with other tools.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

__all__ = ["Load", "LoadGenerator", "infer_request"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
WARM_UP_S = 0.5
TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What some clients got from a server."""

    requests_per_s: float
    rows_per_s: float
    p50_ms: float
    p99_ms: float
    num_failed: int
    """Requests that were answered with an error."""


def infer_request(
    name: str,
    inputs: Mapping[str, npt.NDArray[Any]],
    outputs: Sequence[str] = ("probabilities", "labels"),
) -> bytes:
    """Return a request as it goes over the wire.

    Args:
        name: The model.
        inputs: Its inputs by name, each [N, ...].
        outputs: What is asked for; nothing asks for all.
    """
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.utils import np_to_triton_dtype

    request = pb.ModelInferRequest(model_name=name)
    for key, array in inputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        request.inputs.add(name=key, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    for output in outputs:
        request.outputs.add(name=output)
    return bytes(request.SerializeToString())


class LoadGenerator:
    """Processes that wait to send load; to be used in a ``with`` block.

    Args:
        num_processes: How many there are; by default one for each core, two at most.
    """

    def __init__(self, num_processes: int | None = None) -> None:
        self._num_processes = num_processes or min(2, os.cpu_count() or 1)
        self._pool: Pool | None = None

    def __enter__(self) -> Self:
        # spawned: threads of the parent, gRPC's among them, do not survive a fork
        self._pool = multiprocessing.get_context("spawn").Pool(self._num_processes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._pool is not None
        self._pool.terminate()
        self._pool.join()

    def measure(
        self, url: str, request: bytes, *, num_rows: int, num_clients: int, seconds: float
    ) -> Load:
        """Return what clients get, each with one request in flight on a connection of its own.

        Args:
            url: Host and port of the server's gRPC endpoint.
            request: What each client sends, again and again; see `infer_request`.
            num_rows: How many rows a request has.
            num_clients: How many clients there are.
            seconds: How long is measured, after half a second of warming up.
        """
        assert self._pool is not None, "use it in a with block"
        shares = [
            num_clients // self._num_processes + (k < num_clients % self._num_processes)
            for k in range(self._num_processes)
        ]
        begin = time.time() + 0.2
        jobs = [(url, request, share, begin, seconds) for share in shares if share]
        parts = self._pool.starmap(_ask, jobs)
        took_s = np.concatenate([took for took, _ in parts])
        p50, p99 = np.percentile(took_s, [50, 99]) * 1000 if len(took_s) else (np.inf, np.inf)
        return Load(
            requests_per_s=len(took_s) / seconds,
            rows_per_s=len(took_s) * num_rows / seconds,
            p50_ms=float(p50),
            p99_ms=float(p99),
            num_failed=sum(failed for _, failed in parts),
        )


def _ask(
    url: str, request: bytes, num_clients: int, begin: float, seconds: float
) -> tuple[npt.NDArray[np.float64], int]:
    """Return how long the answers took, and how many there were none."""
    took: list[list[float]] = [[] for _ in range(num_clients)]
    failed = [0] * num_clients
    threads = [
        threading.Thread(
            target=_client, args=(url, request, begin, seconds, took[k], failed, k), daemon=True
        )
        for k in range(num_clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return np.array([one for some in took for one in some]), sum(failed)


def _client(
    url: str,
    request: bytes,
    begin: float,
    seconds: float,
    took: list[float],
    failed: list[int],
    at: int,
) -> None:
    import grpc

    # a subchannel that is shared would put all clients on one connection
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(url, options=options) as channel:
        call = channel.unary_unary(METHOD)
        time.sleep(max(0.0, begin - time.time()))
        start = time.perf_counter() + WARM_UP_S
        end = start + seconds
        while (asked := time.perf_counter()) < end:
            try:
                call(request, timeout=TIMEOUT_S)
            except grpc.RpcError:
                failed[at] += 1
                time.sleep(0.01)
                continue
            answered = time.perf_counter()
            if asked >= start and answered <= end:
                took.append(answered - asked)
