"""What is to be logged, on its way to MLflow: kept on disk until it has arrived.

`Outbox.put_metrics` writes a small file and returns; a thread sends the files in order and deletes
each one that arrived. An MLflow that is out of reach costs training nothing: the thread tries again
after growing pauses. What is left when a process ends, by ``kill -9`` too, is in
``.thresher/unsent/RUN_ID/`` of the working folder, and `send_left` sends it later. Nothing counts
twice: a figure keeps the time at which it was logged, MLflow keeps one value for the same run,
name, step and time, and an epoch that the run already has is not sent again.

MLflow's own asynchronous logging is not enough here: it gives up after its retries, and what was in
memory is gone with the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import threading
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from thresher.mlflow_store import cannot_mend_itself, connect, explain_failure, shown_store

__all__ = ["EPOCH_METRIC", "UNSENT_FOLDER", "Outbox", "send_left"]

UNSENT_FOLDER = Path(".thresher") / "unsent"

EPOCH_METRIC = "train/loss"
"""The metric that every epoch logs; its steps tell which epochs a run has."""

_STORE_FILE = "store"
_LOCK_FILE = "lock"
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0

_logger = logging.getLogger("thresher.mlflow")


class Outbox:
    """One run's way to MLflow.

    Args:
        run_id: The run.
        folder: Holds what has not been sent; made if it does not exist. What an earlier process
            left there is sent first.
        resumed: Whether the run may hold epochs already.

    Raises:
        filelock.Timeout: If another process is logging to the run.
    """

    def __init__(self, run_id: str, folder: Path, *, resumed: bool = False) -> None:
        self.folder = folder.absolute()
        self.run_id = run_id
        self._client = connect().MlflowClient()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / _LOCK_FILE)
        self._lock.acquire(timeout=0)
        (self.folder / _STORE_FILE).write_text(_store_digest(), encoding="utf-8")
        left = sorted(self.folder.glob("*.json"))
        self.found_any = bool(left)
        """Whether an earlier process had left something."""
        self._epochs: set[int] | None = None if resumed or left else set()
        self._waiting = deque(left)
        self._number = max((int(p.name[:6]) for p in self.folder.glob("0*")), default=0)
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._closing = False
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="thresher-mlflow", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> str:
        """What MLflow last failed with, in one line, if nothing has arrived since; else empty."""
        return "" if self._failure is None else _reason(self._failure)

    @property
    def _is_hopeless(self) -> bool:
        return self._failure is not None and cannot_mend_itself(self._failure)

    @property
    def num_waiting(self) -> int:
        """How many files have not arrived."""
        with self._changed:
            return len(self._waiting)

    def put_metrics(
        self, metrics: Mapping[str, float], *, step: int = 0, is_epoch: bool = False
    ) -> None:
        """Log figures with the present time; NaN and infinity, which no chart shows, are left out.

        Args:
            metrics: Figures by name.
            step: Such as the epoch.
            is_epoch: Whether they are an epoch's, which a run gets once.
        """
        told = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        if told:
            self._put({"metrics": told, "step": step, "time_ms": _now_ms(), "is_epoch": is_epoch})

    def put_artifacts(self, folder: Path) -> None:
        """Log a copy of a folder's files as the run's artifacts."""
        with self._changed:
            name = f"{self._number + 1:06d}-artifacts"
        shutil.copytree(folder, self.folder / name)
        self._put({"artifacts": name})

    def put_end(self, status: str, failure: str = "") -> None:
        """Log how the run ended: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``."""
        self._put({"status": status, "failure": failure, "time_ms": _now_ms()})

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything has arrived; return whether it has.

        A store that is damaged, full or not writable is not waited for.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._is_hopeless, timeout_s)
            return not self._waiting

    def settle(self) -> bool:
        """Wait until everything has arrived or MLflow fails once; return whether it has."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting or self._failure is not None)
            return not self._waiting

    def close(self, timeout_s: float) -> bool:
        """Wait as `flush` does, end the thread, and return whether everything has arrived."""
        arrived = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._stop.set()
        self._thread.join(timeout=5 if arrived else 0.2)
        if arrived:
            # before the lock is free: else another process could take the folder for one that was
            # left, or a resumed run would lose what it is about to log
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        return arrived

    def _put(self, entry: Mapping[str, Any]) -> None:
        with self._changed:
            self._number += 1
            path = self.folder / f"{self._number:06d}.json"
            unfinished = path.with_suffix(".part")
            unfinished.write_text(json.dumps(entry), encoding="utf-8")
            unfinished.rename(path)
            self._waiting.append(path)
            self._changed.notify_all()

    def _work(self) -> None:
        """Send what waits, in order, until closed."""
        pause_s = _FIRST_PAUSE_S
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                path = self._waiting[0]
            try:
                self._send(path)
            except Exception as error:  # noqa: BLE001 -- whatever it is, training goes on
                self._tell_failure(error)
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                continue
            path.unlink()
            pause_s = _FIRST_PAUSE_S
            with self._changed:
                self._waiting.popleft()
                if self._failure is not None:
                    self._failure = None
                    _logger.warning("MLflow at %s answers again", shown_store())
                self._changed.notify_all()

    def _tell_failure(self, error: Exception) -> None:
        with self._changed:
            is_new = self._failure is None
            self._failure = error
            self._changed.notify_all()
        if is_new:
            _logger.warning(
                "%s. MLflow does not take what is logged; training goes on, and it is tried again. "
                "Until then it is kept in %s",
                *(_reason(error), UNSENT_FOLDER / self.run_id),
            )

    def _send(self, path: Path) -> None:
        entry = json.loads(path.read_text(encoding="utf-8"))
        if "artifacts" in entry:
            self._client.log_artifacts(self.run_id, str(self.folder / entry["artifacts"]))
            shutil.rmtree(self.folder / entry["artifacts"])
        elif "status" in entry:
            if entry["failure"]:
                self._client.set_tag(self.run_id, "thresher.failure", entry["failure"])
            self._client.set_terminated(self.run_id, entry["status"], entry["time_ms"])
        else:
            self._send_metrics(entry)

    def _send_metrics(self, entry: Mapping[str, Any]) -> None:
        step = int(entry["step"])
        if entry["is_epoch"]:
            if self._epochs is None:
                history = self._client.get_metric_history(self.run_id, EPOCH_METRIC)
                self._epochs = {metric.step for metric in history}
            if step in self._epochs:
                return
        from mlflow.entities import Metric

        self._client.log_batch(
            self.run_id,
            metrics=[
                Metric(name, value, entry["time_ms"], step)
                for name, value in entry["metrics"].items()
            ],
            synchronous=True,
        )
        if entry["is_epoch"] and self._epochs is not None:
            self._epochs.add(step)


def send_left(folder: Path) -> dict[str, bool]:
    """Send what earlier processes could not send to the present store, and tell whether it arrived.

    Each run gets one try. Runs that another process is logging to, and those of other stores, are
    left alone.

    Args:
        folder: `UNSENT_FOLDER` of the working folder.

    Returns:
        For the id of each run that had something left, whether everything has arrived.
    """
    found = {}
    for run_folder in sorted(path for path in folder.glob("*") if path.is_dir()):
        # another process may be at it, or end its run and delete the folder at any moment
        with suppress(OSError):
            if (run_folder / _STORE_FILE).read_text(encoding="utf-8") != _store_digest():
                continue
            outbox = Outbox(run_folder.name, run_folder, resumed=True)
            outbox.settle()
            arrived = outbox.close(0)
            if outbox.found_any:
                found[run_folder.name] = arrived
    return found


def _store_digest() -> str:
    """Return what tells stores apart; their addresses may hold a password."""
    return hashlib.sha256(str(connect().get_tracking_uri()).encode()).hexdigest()[:16]


def _reason(error: Exception) -> str:
    return (explain_failure(error) or f"MLflow at {shown_store()}: {error}")[:500]


def _now_ms() -> int:
    return int(time.time() * 1000)
