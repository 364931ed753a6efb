"""The goals of benchmarks/serving.py, and its figures against them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Goal", "goals", "markdown", "report", "with_arithmetic"]

NAMES = {
    "thresher": "Thresher",
    "floor": "floor",
    "before": "Thresher at ac9bf2d",
    "MLServer": "MLServer",
    "mlflow models serve": "mlflow models serve",
    "in process": "ONNX Runtime in process",
    "arithmetic": "ONNX Runtime, a process a core",
}
"""What is measured, by its key in the results."""

LEAST = {
    "small 1 x 32": {"floor": 0.9, "before": 1.7, "MLServer": 7, "mlflow models serve": 18},
    "small 64 x 8": {"floor with arithmetic": 0.85, "before": 1.4},
}
"""The least share of the floor, and how many times the others' requests a second."""

TIMES = {
    "load": ("load of the small network", 0.3),
    "live": ("from registered to live, with parity", 2.0),
}
"""The most seconds by part."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure with its limit."""

    what: str
    value: float
    limit: float
    unit: str = ""
    is_least: bool = True
    """Whether the limit is the least that the figure may be, rather than the most."""

    @property
    def is_met(self) -> bool:
        return self.value >= self.limit if self.is_least else self.value <= self.limit

    @property
    def words(self) -> list[str]:
        """What, figure, limit, whether it is met."""
        limit = f"{'at least' if self.is_least else 'at most'} {self.limit:g}{self.unit}"
        return [self.what, f"{self.value:.2f}{self.unit}", limit, "yes" if self.is_met else "NO"]


def with_arithmetic(floor_per_s: float, arithmetic_per_s: float) -> float:
    """Return the requests a second of the floor if each cost the network's own time too.

    Args:
        floor_per_s: Requests a second of a backend that returns constants.
        arithmetic_per_s: Batches a second that ONNX Runtime computes with one thread on every core.
    """
    return 1 / (1 / floor_per_s + 1 / arithmetic_per_s)


def goals(results: Mapping[str, Any]) -> Iterator[Goal]:
    """Yield each goal whose figures were measured."""
    for case in ("small 1 x 32", "small 64 x 8"):
        if case in results:
            yield from _against_servers(case, results[case])
    for case in ("digits 64 x 4", "MiniLM 32 x 4"):
        if found := results.get(case):
            share = found["thresher"]["per_s"] / found["in process"]["per_s"]
            yield Goal(f"{case}: of ONNX Runtime in process", share, 0.95)
    for name, (what, most_s) in TIMES.items():
        if found := results.get(name):
            yield Goal(what, found["seconds"], most_s, " s", is_least=False)
    if found := results.get("memory"):
        share = found["thresher"] / found["before"]
        yield Goal(f"memory with one small model: of {NAMES['before']}", share, 0.6, is_least=False)


def _against_servers(case: str, found: Mapping[str, Any]) -> Iterator[Goal]:
    least = LEAST[case]
    own = found["thresher"]
    bound, what = found["floor"]["per_s"], NAMES["floor"]
    if "floor with arithmetic" in least:
        bound, what = with_arithmetic(bound, found["arithmetic"]["per_s"]), f"{what} + arithmetic"
    yield Goal(f"{case}: of {what}", own["per_s"] / bound, next(iter(least.values())))
    for name, limit in least.items():
        if name in found and name != "floor":
            times = own["per_s"] / found[name]["per_s"]
            yield Goal(f"{case}: times {NAMES[name]}", times, limit)
    yield Goal(f"{case}: p99 by p50", own["p99_ms"] / own["p50_ms"], 2.5, is_least=False)


def rates(results: Mapping[str, Any]) -> list[list[str]]:
    """Return a line for each server of each case: requests a second, p50, p99."""
    lines = []
    for case, found in results.items():
        for key, name in NAMES.items():
            if isinstance(one := found.get(key), dict):
                times = [f"{one['p50_ms']:.2f}", f"{one['p99_ms']:.2f}"]
                lines.append([case, name, f"{one['per_s']:,.0f}", *times])
    return lines


def report(results: Mapping[str, Any]) -> str:
    """Return everything as text that a terminal shows."""
    heads = [["case", "server", "requests/s", "p50 ms", "p99 ms"], ["goal", "figure", "limit", ""]]
    tables = [rates(results), [goal.words for goal in goals(results)]]
    text = []
    for head, lines in zip(heads, tables, strict=True):
        widths = [max(len(line[at]) for line in [head, *lines]) for at in range(len(head))]
        for line in [head, *lines]:
            cells = zip(line, widths, strict=True)
            text.append("  ".join(f"{cell:<{width}}" for cell, width in cells).rstrip())
        text.append("")
    if memory := results.get("memory"):
        text.append(f"memory: {memory['thresher']:.0f} MiB, before {memory['before']:.0f} MiB")
    return "\n".join(text)


def markdown(results: Mapping[str, Any]) -> tuple[str, str]:
    """Return the tables of docs/serving-speed.md: speeds, and goals."""
    from page import table

    speeds = table(["case", "server", "requests/s", "p50 ms", "p99 ms"], rates(results))
    reached = table(["goal", "reached", "limit", "met"], [goal.words for goal in goals(results)])
    return speeds, reached
