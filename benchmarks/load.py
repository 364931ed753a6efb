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

WARM_UP_S = 1


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


def measure(endpoint: Endpoint, *, clients: int, seconds: int) -> Figures:
    """Return what some clients get, each with one request in flight on its own connection."""
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed; run: scripts/install-h2load.sh")
    with tempfile.TemporaryDirectory() as temporary:
        body, log = Path(temporary) / "body", Path(temporary) / "log"
        body.write_bytes(endpoint.body)
        headers = dict(endpoint.headers)
        if endpoint.is_grpc:
            headers |= {"content-type": "application/grpc", "te": "trailers"}
        command = [
            *("h2load", "-c", str(clients), "-m", "1", "-t", "1", "-D", str(seconds)),
            *("--warm-up-time", str(WARM_UP_S), "-d", str(body), "--log-file", str(log)),
            *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
            *([] if endpoint.is_grpc else ["--h1"]),
            endpoint.url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        statuses = re.search(
            r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout
        )
        if done.returncode or statuses is None or any(int(n) for n in statuses.groups()[1:]):
            sys.exit(f"{' '.join(command)}\n{done.stdout[-800:]}{done.stderr[-800:]}")
        if not int(statuses[1]):
            sys.exit(f"{endpoint.url}: not one request was answered\n{done.stdout[-800:]}")
        took_us = np.loadtxt(log, dtype=np.int64, ndmin=2)[:, 2]
    p50, p99 = np.percentile(took_us, [50, 99])
    return Figures(
        per_s=int(statuses[1]) / seconds, p50_ms=float(p50) / 1000, p99_ms=float(p99) / 1000
    )


def median(runs: list[Figures]) -> Figures:
    """Return the medians of several runs."""
    return Figures(
        per_s=statistics.median(run.per_s for run in runs),
        p50_ms=statistics.median(run.p50_ms for run in runs),
        p99_ms=statistics.median(run.p99_ms for run in runs),
    )
