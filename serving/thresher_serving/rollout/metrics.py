"""What a server's metrics say of versions: how often each label is given.

Thresher's backend counts it, in Prometheus's text format.
"""

from __future__ import annotations

import math
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Metrics", "VersionMetrics", "parse_metrics", "read_metrics"]

_ROWS = "thresher_label_rows_total"
_POSITIVES = "thresher_label_positives_total"
_LINE = re.compile(
    rf"^({_ROWS}|{_POSITIVES})"
    r'\{((?:[^}"]|"(?:[^"\\]|\\.)*")*)\} (\S+)',
    re.MULTILINE,
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


@dataclass(slots=True)
class VersionMetrics:
    """How often one version gave its labels."""

    rows: int = 0
    """How many rows were decided since the version was loaded."""
    positives: dict[str, int] = field(default_factory=dict)
    """How many of them got each label."""

    @property
    def positive_rates(self) -> dict[str, float] | None:
        """The share of rows that got each label; None where nothing is counted yet."""
        if not self.rows:
            return None
        return {label: count / self.rows for label, count in self.positives.items()}


Metrics = Mapping[tuple[str, int], VersionMetrics]
"""By model and version."""


def read_metrics(url: str, *, timeout_s: float = 2) -> Metrics:
    """Return what a metrics endpoint says; nothing where it has none of it or does not answer."""
    if not url.startswith(("http://", "https://")):
        return {}
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            return parse_metrics(answer.read().decode("utf-8", errors="replace"))
    except (urllib.error.URLError, OSError, ValueError):
        return {}


def parse_metrics(text: str) -> Metrics:
    """Return what a text in Prometheus's format says.

    Example:
        >>> parse_metrics('thresher_label_rows_total{model="m",version="1"} 150')["m", 1].rows
        150
    """
    found: dict[tuple[str, int], VersionMetrics] = {}
    for metric, pairs, number in _LINE.findall(text):
        labels = {key: _unescaped(value) for key, value in _LABEL.findall(pairs)}
        value = float(number)
        if not labels.get("version", "").isdigit() or math.isnan(value):
            continue
        version = found.setdefault((labels["model"], int(labels["version"])), VersionMetrics())
        if metric == _ROWS:
            version.rows += int(value)  # one counter for each process or instance
        else:
            label = labels["label"]
            version.positives[label] = version.positives.get(label, 0) + int(value)
    return found


def _unescaped(value: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], value)
