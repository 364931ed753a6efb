"""How soon right answers come again after Triton is killed under load.

    python benchmarks/serving_kills.py            five kills (3 minutes)

`thresher serve` with the small network, and clients that ask without a pause and compare every
answer. Then Triton is ended by SIGKILL: from that moment to the first right answer of the last
client is what is measured. Calls may fail meanwhile, and no answer may be wrong. Exits with 1 where
one was, or where one kill took longer than the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving_networks import CASES, publish, small_network
from serving_servers import Served, served

from thresher.errors import ThresherError
from thresher_serving import Client, Prediction

LIMIT_S = 3.0
GIVE_UP_S = 30.0


class Asker:
    """A client that asks without a pause in a thread of its own."""

    def __init__(self, url: str, x: Any, expected: Prediction, stop: threading.Event) -> None:
        self.last_right = 0.0
        self.num_right = self.num_failed = self.num_wrong = 0
        self._url, self._x, self._expected, self._stop = url, x, expected, stop
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()

    def _ask(self) -> None:
        with Client(self._url) as client:
            while not self._stop.is_set():
                asked = time.perf_counter()
                try:
                    found = client.predict("small", self._x, timeout_s=GIVE_UP_S)
                except ThresherError:
                    self.num_failed += 1
                    time.sleep(0.01)
                    continue
                is_right = np.array_equal(found.labels, self._expected.labels) and np.allclose(
                    found.probabilities, self._expected.probabilities, atol=1e-6
                )
                self.num_wrong += not is_right
                self.num_right += is_right
                if is_right:
                    self.last_right = asked


def seconds_until_right(server: Served, askers: list[Asker]) -> float:
    """Kill Triton; return the seconds until each client has asked and had a right answer."""
    process = server.triton()
    process.kill()
    killed = time.perf_counter()
    process.wait(timeout=GIVE_UP_S)
    gone = time.perf_counter()
    while any(asker.last_right < gone for asker in askers):
        if time.perf_counter() - killed > GIVE_UP_S:
            raise RuntimeError(f"no right answer within {GIVE_UP_S:.0f} s of the kill")
        time.sleep(0.005)
    return time.perf_counter() - killed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8)
    # a server that dies within 30 s is taken for one that will die again: it is waited
    parser.add_argument("--gap", type=float, default=31, help="seconds between two kills")
    given = parser.parse_args()
    x = CASES["small 64 x 8"].inputs["x"][:4]
    took = []
    with tempfile.TemporaryDirectory(prefix="thresher-kills-") as folder:
        publish({"small": small_network()}, Path(folder) / "models")
        with served(Path(folder) / "models", Path(folder) / "run") as server:
            with Client(server.url) as client:
                expected = client.predict("small", x)
            stop = threading.Event()
            askers = [Asker(server.url, x, expected, stop) for _ in range(given.clients)]
            try:
                for number in range(given.kills):
                    time.sleep(given.gap)
                    took.append(seconds_until_right(server, askers))
                    print(
                        f"kill {number + 1}: right answers again after {took[-1]:.2f} s", flush=True
                    )
            finally:
                stop.set()
                for asker in askers:
                    asker.thread.join()
    wrong = sum(asker.num_wrong for asker in askers)
    right = sum(asker.num_right for asker in askers)
    failed = sum(asker.num_failed for asker in askers)
    print(
        f"{right:,} right answers, {failed} failed calls, {wrong} wrong answers; "
        f"at most {max(took):.2f} s (limit {LIMIT_S:g} s)"
    )
    sys.exit(wrong > 0 or max(took) > LIMIT_S)


if __name__ == "__main__":
    main()
