"""Clients that ask a server without pause while a test does something to it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.versions import ROWS, offset
from thresher import Decision
from thresher_serving import Client

Ask = Callable[[Any, str, np.ndarray], tuple[int, np.ndarray, np.ndarray, np.ndarray]]
"""Takes a client, the model's name and rows; returns version, logits, probabilities, labels."""


@dataclass
class Traffic:
    """What clients saw."""

    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Answers by kind of client and version."""
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_answers(self) -> int:
        return sum(self.answered.values())

    def by_version(self) -> Counter[int]:
        found: Counter[int] = Counter()
        for (_, version), count in self.answered.items():
            found[version] += count
        return found

    def by_kind(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for (kind, _), count in self.answered.items():
            found[kind] += count
        return found


def _grpc(client: Any, name: str, rows: np.ndarray) -> Any:
    from tritonclient.grpc import InferInput

    given = InferInput("features", list(rows.shape), "FP32").set_data_from_numpy(rows)
    got = client.infer(name, [given])
    arrays = (got.as_numpy(output) for output in ("logits", "probabilities", "labels"))
    return int(got.get_response().model_version), *arrays


def _http(client: Any, name: str, rows: np.ndarray) -> Any:
    from tritonclient.http import InferInput

    given = InferInput("features", list(rows.shape), "FP32")
    given.set_data_from_numpy(rows)
    got = client.infer(name, [given])
    arrays = (got.as_numpy(output) for output in ("logits", "probabilities", "labels"))
    return int(got.get_response()["model_version"]), *arrays


def _ours(client: Any, name: str, rows: np.ndarray) -> Any:
    got = client.predict(name, rows, outputs=("probabilities", "labels", "logits"))
    assert got.thresholds is not None, "the decision of the version that answered is known"
    assert np.array_equal(got.labels, got.probabilities >= got.thresholds)
    return got.model_version, got.logits, got.probabilities, got.labels


def _clients(grpc_url: str, http_url: str) -> Mapping[str, tuple[Callable[[], Any], Ask]]:
    import tritonclient.grpc
    import tritonclient.http

    http = http_url.removeprefix("http://")
    return {
        "grpc": (lambda: tritonclient.grpc.InferenceServerClient(grpc_url), _grpc),
        "http": (lambda: tritonclient.http.InferenceServerClient(http), _http),
        "ours": (lambda: Client(grpc_url), _ours),
    }


@contextmanager
def traffic(
    grpc_url: str,
    http_url: str,
    name: str,
    decisions: Mapping[int, tuple[int, Decision]],
    *,
    num_clients: int = 16,
    pause_s: float = 0.005,
) -> Iterator[Traffic]:
    """Ask from many threads until the block ends; three kinds of clients take turns.

    Args:
        grpc_url: Where gRPC is.
        http_url: Where HTTP is.
        name: The model.
        decisions: By version, the version whose weights it has, and what it decides.
        num_clients: How many clients.
        pause_s: How long each one waits after an answer.
    """
    seen = Traffic()
    stop = threading.Event()
    kinds = list(_clients(grpc_url, http_url).items())
    generator = np.random.default_rng(0)

    def run(kind: str, make: Callable[[], Any], ask: Ask, rows: np.ndarray) -> None:
        with make() as client:
            while not stop.is_set():
                try:
                    version, logits, probabilities, labels = ask(client, name, rows)
                except Exception as error:  # noqa: BLE001 - every failure counts
                    with seen.lock:
                        seen.failed.append(f"{kind} at {time.time():.3f}: {error}")
                    continue
                weights, decision = decisions[version]
                p, yes = decision.apply(rows + offset(weights))
                right = (
                    np.array_equal(logits, rows + offset(weights))
                    and np.allclose(probabilities, p, rtol=0, atol=1e-6)
                    and np.array_equal(labels, decision.decide(probabilities))
                    and np.array_equal(labels, yes)
                )
                with seen.lock:
                    seen.answered[kind, version] += 1
                    if not right:
                        seen.wrong.append(f"{kind}: version {version}: {logits}, {labels}")
                stop.wait(pause_s)

    threads = []
    for at in range(num_clients):
        kind, (make, ask) = kinds[at % len(kinds)]
        rows = ROWS[generator.permutation(len(ROWS))[: 1 + at % len(ROWS)]]
        threads.append(threading.Thread(target=run, args=(kind, make, ask, rows), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert not any(thread.is_alive() for thread in threads), "a client hangs"
