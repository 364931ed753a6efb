"""Workers that are Ray actors, on this machine or on a cluster.

The model repository, the logs and the registry must be reachable under the same names from every
machine (a shared file system, an MLflow server). Ray accounts for each actor's CPU and memory; the
time limit, and what comes of a worker that dies, are the schedule's, as for local workers.

Source: Ray's actor API (`ray.remote`, `ray.wait`, `ray.kill`), release 2.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from thresher.errors import MissingExtraError
from thresher_export.jobs.worker import READY, Reply, Task, limit_memory, perform

__all__ = ["RayEngine"]


class _Exporter:
    """What an actor holds: torch, once imported, and nothing else."""

    def start(self, memory_bytes: int) -> str:
        import thresher_export.pipeline  # noqa: F401 -- before the first task's time runs

        limit_memory(memory_bytes)
        return READY

    def export(self, task: Task) -> Reply:
        return perform(task)

    def pid(self) -> int:
        return os.getpid()


class _RayWorker:
    """One actor with at most one call under way."""

    def __init__(self, ray: Any, actor: Any, log: Path, memory_bytes: int) -> None:
        self._ray = ray
        self._actor = actor
        self.log = log
        self.is_ready = False
        self.pid = 0
        self._died = ""
        self.pending: Any = actor.start.remote(memory_bytes)

    def submit(self, task: Task) -> None:
        self.pending = self._actor.export.remote(task)

    def receive(self) -> Reply | None:
        pending, self.pending = self.pending, None
        try:
            message = self._ray.get(pending)
            if message != READY:
                assert isinstance(message, Reply)
                return message
            self.is_ready = True
            self.pid = self._ray.get(self._actor.pid.remote())
        except self._ray.exceptions.RayError as error:
            self._died = str(error).strip().partition("\n")[0]
            raise EOFError from None
        return None

    def resident_bytes(self) -> int | None:
        return None  # the actor may be on another machine; its own limit and Ray's monitor hold

    def end(self) -> str:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)
        return self._died or "ended from here"


class RayEngine:
    """Makes actors and waits for them; connects to ``RAY_ADDRESS``, or starts Ray here.

    Args:
        logs: The folder for logs, on a disk that all machines share.
        memory_bytes: What each actor may allocate; 0 for no limit beyond Ray's own.

    Raises:
        MissingExtraError: If Ray is not installed.
    """

    name = "ray"
    start_timeout_s = float("inf")  # it waits its turn where the cluster is busy

    def __init__(self, logs: Path, *, memory_bytes: int = 0) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # has no place in the type checker's world
        except ModuleNotFoundError:
            raise MissingExtraError(
                "`thresher export --all --engine ray` needs Ray, which is not installed. "
                "Run: pip install 'thresher[ray]'"
            ) from None
        self._ray = ray
        self._logs = logs
        self.memory_bytes = memory_bytes
        if not ray.is_initialized():
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                log_to_driver=False,
                include_dashboard=False,
                runtime_env={"env_vars": _environment()},
            )
            self._is_ours = True
        else:
            self._is_ours = False

    def start(self) -> _RayWorker:
        """Return a new actor, which is starting; it waits where the cluster has no CPU free."""
        wanted: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        if self.memory_bytes:
            wanted["memory"] = self.memory_bytes
        actor = self._ray.remote(**wanted)(_Exporter).remote()
        return _RayWorker(self._ray, actor, self._logs / "ray.log", self.memory_bytes)

    def wait(self, workers: Sequence[_RayWorker], timeout_s: float) -> list[_RayWorker]:
        """Return the actors whose call has ended, as soon as one has or time is up."""
        by_call = {worker.pending: worker for worker in workers if worker.pending is not None}
        if not by_call:
            time.sleep(timeout_s)
            return []
        done, _ = self._ray.wait(list(by_call), num_returns=1, timeout=timeout_s)
        return [by_call[call] for call in done]

    def close(self) -> None:
        """End Ray if it was started here."""
        if self._is_ours:
            self._ray.shutdown()


def _environment() -> dict[str, str]:
    """Return what actors must know of this process: where MLflow is, and one thread each."""
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_TOKEN", "PYTHONPATH")
    found = {name: os.environ[name] for name in names if name in os.environ}
    return {**found, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
