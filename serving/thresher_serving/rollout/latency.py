"""Percentiles of latency, from the summaries that Triton exports where it is asked to.

Source: Triton's metrics document, release 24.10: ``--metrics-config summary_latencies=true``
exports ``nv_inference_request_summary_us{model, version, quantile}``, of the last minute or so.
"""

from __future__ import annotations

import math
import re
import urllib.error
import urllib.request

__all__ = ["Percentiles", "parse_percentiles", "read_percentiles"]

Percentiles = dict[tuple[str, int], dict[float, float]]
"""Milliseconds by quantile, by model and version."""

_SUMMARY = "nv_inference_request_summary_us"
_LINE = re.compile(rf"^{_SUMMARY}\{{(?P<labels>[^}}]*)\}} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def read_percentiles(url: str, *, timeout_s: float = 2) -> Percentiles:
    """Return what a metrics endpoint tells; nothing where it tells no percentiles or no answer."""
    if not url.startswith(("http://", "https://")):
        return {}
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 - checked above
            return parse_percentiles(answer.read().decode("utf-8", errors="replace"))
    except (urllib.error.URLError, OSError, ValueError):
        return {}


def parse_percentiles(text: str) -> Percentiles:
    """Return the percentiles in Prometheus's text format.

    Example:
        >>> line = 'nv_inference_request_summary_us{model="m",version="1",quantile="0.5"} 1500'
        >>> parse_percentiles(line)
        {('m', 1): {0.5: 1.5}}
    """
    found: Percentiles = {}
    for match in _LINE.finditer(text):
        labels = dict(_LABEL.findall(match["labels"]))
        value = float(match["value"])
        if "quantile" in labels and labels.get("version", "").isdigit() and not math.isnan(value):
            key = labels["model"], int(labels["version"])
            found.setdefault(key, {})[float(labels["quantile"])] = value / 1000
    return found
