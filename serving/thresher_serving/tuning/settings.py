"""What can be set of how Triton runs a model on a CPU, and what is asked of it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from thresher.errors import ConfigError
from thresher_serving.tuning.load import Load

__all__ = [
    "Objective",
    "Settings",
    "candidates_of_processes",
    "candidates_of_queue",
    "parse_objective",
]

_SLO = re.compile(r"(p50|p99)\s*(?:=|<=)\s*(\d+(?:\.\d+)?)\s*(us|ms|s)")
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_DELAYS_US = (500, 2000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How Triton runs a model."""

    instance_count: int
    """Copies of the model that run side by side on each device."""
    intra_op_threads: int
    """Threads inside an operator of one copy; 0 lets ONNX Runtime take a core each."""
    max_queue_delay_us: int
    """How long a request may wait for others to batch with."""
    max_batch_size: int
    """The most rows that run together; never above what parity was proven at."""

    @classmethod
    def of(cls, config: Any) -> Settings:
        """Return those of a `ModelConfig` message."""
        threads = config.parameters["intra_op_thread_count"].string_value
        return cls(
            instance_count=sum(group.count for group in config.instance_group) or 1,
            intra_op_threads=int(threads or 0),
            max_queue_delay_us=int(config.dynamic_batching.max_queue_delay_microseconds),
            max_batch_size=int(config.max_batch_size),
        )

    def lay_over(self, config: Any) -> None:
        """Write them into a `ModelConfig` message."""
        for group in config.instance_group[:1]:
            group.count = self.instance_count
        if not config.instance_group:
            config.instance_group.add(count=self.instance_count)
        config.parameters["intra_op_thread_count"].string_value = str(self.intra_op_threads)
        config.dynamic_batching.max_queue_delay_microseconds = self.max_queue_delay_us
        config.max_batch_size = self.max_batch_size
        fitting = [warm for warm in config.model_warmup if warm.batch_size <= self.max_batch_size]
        del config.model_warmup[:]
        config.model_warmup.extend(fitting)

    def recipe(self) -> str:
        """Return them as a recipe's section ``[triton]``, so that the next export keeps them."""
        return (
            "[triton]\n"
            f"instance_count = {self.instance_count}\n"
            f"max_queue_delay_us = {self.max_queue_delay_us}\n"
            f"max_batch_size = {self.max_batch_size}\n"
            f'config.parameters.intra_op_thread_count = "{self.intra_op_threads}"\n'
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A limit on latency within which the most rows a second are sought."""

    percentile: Literal["p50", "p99"]
    limit_ms: float

    def holds(self, load: Load) -> bool:
        """Whether clients were answered in time, each of them."""
        return not load.num_failed and self.latency_ms(load) <= self.limit_ms

    def latency_ms(self, load: Load) -> float:
        """Return the latency that is limited."""
        return load.p50_ms if self.percentile == "p50" else load.p99_ms

    def better(self, one: Load, other: Load) -> bool:
        """Whether the first is better: within the limit before outside, then by rows a second."""
        if self.holds(one) != self.holds(other):
            return self.holds(one)
        if self.holds(one):
            return one.rows_per_s > other.rows_per_s
        return self.latency_ms(one) < self.latency_ms(other)

    def __str__(self) -> str:
        return f"{self.percentile} <= {self.limit_ms:g} ms"


def parse_objective(text: str) -> Objective:
    """Return the objective that a text such as ``p99=20ms`` says.

    Raises:
        ConfigError: If it says none.

    Example:
        >>> parse_objective("p99=20ms").limit_ms
        20.0
    """
    match = _SLO.fullmatch(text.strip().lower())
    if not match or not float(match[2]):
        raise ConfigError(f'--slo "{text}" is no limit; expected p99=20ms, p50=500us or p99=1s')
    percentile: Literal["p50", "p99"] = "p50" if match[1] == "p50" else "p99"
    return Objective(percentile=percentile, limit_ms=float(match[2]) * _MS[match[3]])


def candidates_of_processes(start: Settings, num_cores: int | None = None) -> list[Settings]:
    """Return what is tried first: copies of the model, and threads of each.

    Args:
        start: Tried first of all.
        num_cores: Of the host; this machine's where left out.
    """
    cores = num_cores or os.cpu_count() or 1
    counts = sorted({1, 2, max(1, cores // 2), cores})
    tried = [
        replace(start, instance_count=count, intra_op_threads=threads)
        for count in counts
        for threads in sorted({1, max(1, cores // count)})
    ]
    return [start, *(settings for settings in dict.fromkeys(tried) if settings != start)]


def candidates_of_queue(best: Settings) -> list[Settings]:
    """Return what is tried around the best of those: waiting for others, smaller batches."""
    waits = [replace(best, max_queue_delay_us=us) for us in (0, *_DELAYS_US)]
    sizes = [replace(best, max_batch_size=best.max_batch_size // 2)]
    tried = [*waits, *(sizes if best.max_batch_size > 1 else [])]
    return [settings for settings in dict.fromkeys(tried) if settings != best]
