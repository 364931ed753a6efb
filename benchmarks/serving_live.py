"""How long new thresholds take from the registered version to the first answer that has them.

    python benchmarks/serving_live.py

The digits recipe is trained for one epoch, exported and served; then `thresher tune` registers
versions, and each is put into service as `thresher tune --rollout` does it, in the same process:
parity, publishing, both comparisons of golden rows, switch. Meanwhile the server is asked without
a pause which version answers.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from against import ROOT
from serving_servers import server_of

__all__ = ["seconds_to_live"]

OBJECTIVES = ("f2", "mcc", "balanced_accuracy", "fixed=0.6", "f1")


def seconds_to_live(folder: Path, *, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Return the median of the rounds, measured in a process and a folder of its own."""
    folder.mkdir()
    command = [sys.executable, __file__, "--folder", str(folder), "--rounds", str(rounds)]
    log = folder / "log"
    with log.open("w") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{log.read_text()[-2000:]}")
    took = json.loads(done.stdout.splitlines()[-1])
    say(f"from registered to live: {', '.join(f'{one:.2f}' for one in took)} s")
    return {"seconds": statistics.median(took)}


class Watch:
    """Asks a server for one row again and again, and notes when another version answers."""

    def __init__(self, url: str, version: int) -> None:
        import numpy as np
        from load import METHOD, grpc_endpoint

        pixels = np.zeros((1, 1, 24, 80), np.uint8)
        self._message = grpc_endpoint(url, "digits", {"image": pixels}).body[5:]
        self._url, self._method, self._version = url, METHOD, version
        self.live_at = 0.0
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(timeout=10)

    def _ask(self) -> None:
        import grpc
        from tritonclient.grpc import service_pb2 as pb

        with grpc.insecure_channel(self._url) as channel:
            infer = channel.unary_unary(
                self._method, response_deserializer=pb.ModelInferResponse.FromString
            )
            end = time.perf_counter() + 60
            while time.perf_counter() < end:
                if int(infer(self._message, timeout=30).model_version) == self._version:
                    self.live_at = time.perf_counter()
                    return
                time.sleep(0.005)


def measured(rounds: int) -> list[float]:
    """Return the seconds of each round, in the working folder."""
    from thresher.cli import main as commands
    from thresher.cli.rollout import put_into_service

    def thresher(*arguments: str) -> None:
        commands.main(arguments, standalone_mode=False)

    recipe = str(ROOT / "training" / "recipes" / "digits.toml")
    thresher("train", recipe, "--set", "optimization.epochs=1")
    thresher("export", "models:/digits/1")
    ports = [part for name in ("grpc", "http", "metrics") for part in (f"--{name}-port", "0")]
    thresher("serve", "--background", *ports)
    url = f"127.0.0.1:{server_of(Path())['grpc_port']}"
    took = []
    try:
        for at in range(rounds):
            version = at + 2
            thresher("tune", "models:/digits/1", "--objective", OBJECTIVES[at % len(OBJECTIVES)])
            with Watch(url, version) as watch:
                start = time.perf_counter()
                put_into_service(f"models:/digits/{version}")
            if not watch.live_at:
                raise RuntimeError(f"version {version} did not answer")
            took.append(watch.live_at - start)
    finally:
        thresher("stop")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary one")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.chdir(folder)
        stack.callback(os.chdir, "/")
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder.resolve()}/mlflow.db"
        with contextlib.redirect_stdout(sys.stderr):
            took = measured(given.rounds)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
