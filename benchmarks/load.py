"""Load from a compiled generator, h2load: the same one for HTTP/1.1 and for gRPC.

It costs a tenth of what a Python client costs, so that on two cores the server is what is measured.
scripts/install-h2load.sh installs it.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Endpoint", "Figures", "measure", "median"]

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
    """What came of one run."""

    per_s: float
    """Requests a second."""
    p50_ms: float
    p99_ms: float


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
        headers = dict(endpoint.headers)
        if endpoint.is_grpc:
            headers |= {"content-type": "application/grpc", "te": "trailers"}
        command = [
            *("h2load", "-c", str(clients), "-m", "1", "-t", "1", "-n", str(requests)),
            *("-d", str(body), "--log-file", str(log)),
            *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
            *([] if endpoint.is_grpc else ["--h1"]),
            endpoint.url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rate = re.search(r"finished in [^,]+, ([\d.]+) req/s", done.stdout)
        answered = re.search(r"status codes: (\d+) 2xx", done.stdout)
        if done.returncode or rate is None or answered is None or int(answered[1]) != requests:
            sys.exit(f"{' '.join(command)}\n{done.stdout[-800:]}{done.stderr[-800:]}")
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
