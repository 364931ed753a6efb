"""Watching for drift: what a version says of new rows, compared with what it said in validation."""

from __future__ import annotations

from thresher_serving.monitoring.drift import Drift, Finding, compare
from thresher_serving.monitoring.page import drift_page
from thresher_serving.monitoring.record import drifts_to_dict, write_record
from thresher_serving.monitoring.window import Window, merged, published_baseline, read_window

__all__ = [
    "Drift",
    "Finding",
    "Window",
    "compare",
    "drift_page",
    "drifts_to_dict",
    "merged",
    "published_baseline",
    "read_window",
    "write_record",
]
