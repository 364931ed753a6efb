"""Each answer comes from one version, named and decided by it, while versions come and go."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from support.served_weather import write_weather
from support.triton import triton
from thresher_serving import Client, Runtime
from thresher_serving.control import load_model

THRESHOLDS = {1: (0.2, 0.2, 0.2), 2: (0.8, 0.8, 0.8)}
ROWS = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
"""150 requests, of probabilities that lie between the versions' thresholds for the most part."""


def test_rows_of_many_requests_come_from_one_version_while_versions_change(
    runtime: Runtime, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    for version, thresholds in THRESHOLDS.items():
        folder = write_weather(root, version=version, thresholds=thresholds)
    text = (folder / "config.pbtxt").read_text()
    policies = [
        text + f"version_policy {{ specific {{ versions: {v} }} }}\n" for v in ([1], [1, 2])
    ]
    (folder / "config.pbtxt").write_text(policies[0])
    seen: Counter[int] = Counter()
    problems: list[str] = []
    end = threading.Event()

    with triton(runtime, root, ["weather"], log=tmp_path / "log") as server:

        def ask() -> None:
            with Client(server.grpc_url) as client:
                while not end.is_set():
                    try:
                        got = client.predict("weather", ROWS)
                    except Exception as error:  # noqa: BLE001 - whatever it is, it fails the test
                        problems.append(repr(error))
                        return
                    seen[got.model_version] += 1
                    limits = np.float32(THRESHOLDS[got.model_version])
                    if not (
                        np.array_equal(got.labels, got.probabilities >= limits)
                        and np.array_equal(got.thresholds, limits)
                    ):
                        problems.append(f"version {got.model_version}: labels of another one")

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for turn in range(6):
                (folder / "config.pbtxt").write_text(policies[1 - turn % 2])
                load_model(server.grpc_url, "weather")
                serving, late = 2 - turn % 2, time.monotonic() + 30
                before = seen[serving]
                while seen[serving] < before + 2 and not problems:
                    assert time.monotonic() < late, f"version {serving} answers nothing"
                    time.sleep(0.01)
        finally:
            end.set()
            for thread in threads:
                thread.join()
    assert not problems
