"""CPU, memory, disk, network and GPU of a run, by MLflow's own monitors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

from thresher.registry import connect
from thresher_training.outbox import Outbox

__all__ = ["system_metrics"]


@contextmanager
def system_metrics(run_id: str, outbox: Outbox, *, resumed: bool = False) -> Iterator[None]:
    """Log ``system/...`` figures while the block runs, and once more at its end.

    ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` says how often in seconds, else every ten, and
    ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false`` turns it off. What MLflow measures goes through
    the outbox: its own thread would end at the first request that fails, and a run of less than
    ten seconds would have nothing.

    Args:
        run_id: The run.
        outbox: The run's.
        resumed: Whether steps go on after those that the run has.
    """
    connect()
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    wanted = MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    if wanted.is_set() and not wanted.get():
        yield
        return

    logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.WARNING)
    measured = SystemMetricsMonitor(run_id, resume_logging=resumed)
    first_step = measured._logging_step  # noqa: SLF001 -- MLflow has no public way to go on
    ended = Event()

    def measure() -> None:
        for step in count(first_step):
            measured.collect_metrics()
            is_last = ended.wait(measured.sampling_interval)
            outbox.put_metrics(
                {f"system/{name}": value for name, value in measured.aggregate_metrics().items()},
                step=step,
            )
            if is_last:
                return
            for monitor in measured.monitors:
                monitor.clear_metrics()

    thread = Thread(target=measure, name="thresher-system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
