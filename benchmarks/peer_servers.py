"""The peers of benchmarks/serving.py, those of other packages in environments of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from load import Endpoint

__all__ = ["FILES", "PEERS", "Peer", "json_endpoint", "started"]

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "peers"
VENVS = ROOT / ".thresher" / "peers"
START_S = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A server that somebody might use instead."""

    name: str
    packages: tuple[str, ...]
    """What its environment holds; empty for one that runs in ours."""
    command: tuple[str, ...]
    """Its arguments; {bin}, {python}, {port}, {folder} and {mlflow} are filled in."""
    how: str
    """How it was configured, for the table."""
    is_grpc: bool = False


PEERS = (
    Peer(
        name="MLServer",
        packages=("mlserver", "onnxruntime", "numpy<2"),
        command=("{bin}/mlserver", "start", "{folder}"),
        how="custom runtime, gRPC with raw tensors, parallel_workers 0",
        is_grpc=True,
    ),
    Peer(
        name="mlflow models serve",
        packages=(),
        command=(
            *("{python}", "-m", "mlflow", "models", "serve", "-m", "{mlflow}", "-p", "{port}"),
            *("--env-manager", "local", "-h", "127.0.0.1"),
        ),
        how="JSON, onnx flavour, env-manager local",
    ),
)


@contextmanager
def started(peer: Peer, folder: Path, onnx_file: Path) -> Iterator[str]:
    """Run a peer and yield host and port where it takes requests.

    Raises:
        RuntimeError: If it cannot be installed or does not start; says what it printed.
    """
    folder.mkdir()
    port, grpc = _free_port(), _free_port()
    places = {
        "bin": str(_installed(peer) / "bin"),
        "python": sys.executable,
        "port": str(port),
        "mlflow": str(folder / "mlflow"),
        "folder": str(folder),
    }
    if peer.is_grpc:
        _write_mlserver_settings(folder, port, grpc)
    else:
        _save_for_mlflow(onnx_file, folder / "mlflow")
    log = folder / "peer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.format(**places) for part in peer.command],
            cwd=folder,
            env={
                **os.environ,
                "NETWORK": str(onnx_file),
                "PATH": f"{places['bin']}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(FILES),
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(process, grpc if peer.is_grpc else port, log)
        yield f"127.0.0.1:{grpc if peer.is_grpc else port}"
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, number)
                process.wait(timeout=15)


def json_endpoint(address: str, x: np.ndarray) -> Endpoint:
    """Return a request to MLflow, tried once: its answer must hold a row for each that is sent.

    Raises:
        RuntimeError: If it does not.
    """
    url = f"http://{address}/invocations"
    body = json.dumps({"inputs": {"x": x.tolist()}}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(url, body, headers)
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
        found = json.load(response)
    while isinstance(found, dict):
        found = next(iter(found.values()))
    if len(found) != len(x):
        raise RuntimeError(f"mlflow models serve answered {str(found)[:200]}")
    return Endpoint(url=url, body=body, headers=headers)


def _save_for_mlflow(onnx_file: Path, folder: Path) -> None:
    import mlflow
    import onnx

    mlflow.onnx.save_model(onnx.load(onnx_file), folder, pip_requirements=["onnxruntime"])


def _installed(peer: Peer) -> Path:
    if not peer.packages:
        return Path(sys.executable).parent.parent
    venv = VENVS / peer.packages[0]
    if not (venv / "installed").is_file():
        print(f"Installing {peer.packages[0]} in {venv.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        done = subprocess.run([*pip, *peer.packages], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{peer.name} cannot be installed: {done.stderr[-400:]}")
        (venv / "installed").touch()
    return venv


def _write_mlserver_settings(folder: Path, http: int, grpc: int) -> None:
    (folder / "settings.json").write_text(
        json.dumps(
            {
                "host": "127.0.0.1",
                "http_port": http,
                "grpc_port": grpc,
                "metrics_port": _free_port(),
                "parallel_workers": 0,
                "debug": False,
            }
        )
    )
    settings = {"name": "small", "implementation": "mlserver_network.Network"}
    (folder / "model-settings.json").write_text(json.dumps(settings))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            time.sleep(3)  # a port is open before models are loaded
            return
        time.sleep(0.2)
    raise RuntimeError(f"it did not start: {log.read_text(errors='replace')[-600:]}")
