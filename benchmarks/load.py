"""Load on a server from h2load: compiled, and a tenth of what a Python client costs.

So on two cores the server is what is measured. Each client has a connection of its own with one
request in flight. scripts/install-h2load.sh installs h2load. On a model that serves::

    python benchmarks/load.py digits --rows 64 --clients 8            golden rows, again and again
    python benchmarks/load.py digits --rows 64 --write request.bin    the request, for h2load itself

h2load sees whether an answer came, not whether it is right: a request is compared before and after.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Endpoint", "Figures", "answer", "grpc_endpoint", "measure", "median"]

METHOD = "/inference.GRPCInferenceService/ModelInfer"
WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One request, ready to be sent."""

    url: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    is_grpc: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The outcome of one run."""

    per_s: float
    """Requests a second."""
    p50_ms: float
    p99_ms: float


def grpc_endpoint(
    address: str,
    model: str,
    inputs: Mapping[str, npt.NDArray[Any]],
    outputs: Sequence[str] = ("probabilities", "labels"),
) -> Endpoint:
    """Return a request in the inference protocol that Triton and others speak.

    Args:
        address: The server's host and port for gRPC.
        model: The model; the version that serves is asked.
        inputs: Its inputs by name, each [N, ...].
        outputs: What is asked for; an empty one asks for all.
    """
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.utils import np_to_triton_dtype

    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = np_to_triton_dtype(array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
        request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    for output in outputs:
        request.outputs.add(name=output)
    message = request.SerializeToString()
    # a message over gRPC starts with a byte (0: not compressed) and its length
    body = b"\0" + struct.pack(">I", len(message)) + message
    headers = {"content-type": "application/grpc", "te": "trailers"}
    return Endpoint(url=f"http://{address}{METHOD}", body=body, headers=headers, is_grpc=True)


def answer(endpoint: Endpoint) -> dict[str, npt.NDArray[Any]]:
    """Return the outputs of one request over gRPC by name.

    Raises:
        grpc.RpcError: If the status of the answer is another one than OK.
    """
    import grpc
    from tritonclient.grpc import InferResult
    from tritonclient.grpc import service_pb2 as pb

    address = endpoint.url.removeprefix("http://").removesuffix(METHOD)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary(METHOD, response_deserializer=pb.ModelInferResponse.FromString)
        result = InferResult(call(endpoint.body[5:], timeout=60))
    return {one.name: result.as_numpy(one.name) for one in result.get_response().outputs}


def measure(endpoint: Endpoint, *, clients: int, seconds: float) -> Figures:
    """Return what some clients get, each with one request in flight on its own connection.

    A number of requests is sent rather than for a time: at the end of a time h2load breaks off what
    is in flight, which Triton counts as failed, and which over gRPC can crash older releases.
    """
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed; run: scripts/install-h2load.sh")
    warm = _run(endpoint, clients=clients, requests=clients)
    warm = _run(endpoint, clients=clients, requests=max(clients, int(warm.per_s * WARM_UP_S)))
    return _run(endpoint, clients=clients, requests=max(2 * clients, int(warm.per_s * seconds)))


def _run(endpoint: Endpoint, *, clients: int, requests: int) -> Figures:
    with tempfile.TemporaryDirectory() as temporary:
        body, log = Path(temporary) / "body", Path(temporary) / "log"
        body.write_bytes(endpoint.body)
        command = [
            *("h2load", "-c", str(clients), "-m", "1", "-t", "1", "-n", str(requests)),
            *("-d", str(body), "--log-file", str(log)),
            *(f"--header={name}: {value}" for name, value in endpoint.headers.items()),
            *([] if endpoint.is_grpc else ["--h1"]),
            endpoint.url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", done.stdout)
        answered = re.search(r"status codes: (\d+) 2xx", done.stdout)
        if done.returncode or rate is None or answered is None or int(answered[1]) != requests:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-800:]}{done.stderr[-800:]}")
        took_us = np.loadtxt(log, dtype=np.int64, ndmin=2)[:, 2]
    p50, p99 = np.percentile(took_us, [50, 99])
    return Figures(per_s=float(rate[1]), p50_ms=float(p50) / 1000, p99_ms=float(p99) / 1000)


def median(runs: list[Figures]) -> Figures:
    """Return the medians of several runs."""
    return Figures(
        per_s=statistics.median(run.per_s for run in runs),
        p50_ms=statistics.median(run.p50_ms for run in runs),
        p99_ms=statistics.median(run.p99_ms for run in runs),
    )


def main() -> None:
    from thresher.golden import load_golden
    from thresher.published_models import PublishedModels

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="a published model that serves")
    parser.add_argument("--server", default="127.0.0.1:8001", help="host and port for gRPC")
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--rows", type=int, default=1, help="in each request")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--write", type=Path, help="write the request and send nothing")
    given = parser.parse_args()
    published = PublishedModels(given.repository)
    version = published.serving_version(given.model)
    golden = load_golden(published.model_file(given.model, version).parent)
    if golden is None:
        sys.exit(f"{given.model}/{version} has no golden rows; export it again")
    at = [row % len(golden) for row in range(given.rows)]
    endpoint = grpc_endpoint(given.server, given.model, golden.rows(at))
    if given.write:
        given.write.write_bytes(endpoint.body)
        headers = "".join(f" -H '{name}: {value}'" for name, value in endpoint.headers.items())
        print(f"h2load -c {given.clients} -m 1 -n 10000 -d {given.write}{headers} {endpoint.url}")
        return
    expected, _ = published.decision(given.model, version).apply(golden.logits_NL[at])
    for when in ("before", "after"):
        got = answer(endpoint)["probabilities"]
        if not np.allclose(got, expected, atol=1e-3):
            sys.exit(f"{given.model}: {when} the load, other probabilities than the golden rows'")
        if when == "before":
            found = measure(endpoint, clients=given.clients, seconds=given.seconds)
    print(
        f"{given.model}/{version}, {given.rows} x {given.clients}: {found.per_s:,.0f} requests/s, "
        f"{found.per_s * given.rows:,.0f} rows/s, p50 {found.p50_ms:.2f} ms, "
        f"p99 {found.p99_ms:.2f} ms"
    )


if __name__ == "__main__":
    main()
