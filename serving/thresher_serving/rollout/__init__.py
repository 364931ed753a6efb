"""Puts versions into service and takes them back, without a request that fails."""

from __future__ import annotations

from thresher_serving.rollout.canary import (
    Canary,
    CanaryEnd,
    CanaryStart,
    end_canary,
    find_canary,
    percent,
    start_canary,
)
from thresher_serving.rollout.companions import check_is_no_companion
from thresher_serving.rollout.history import History, Served
from thresher_serving.rollout.plan import Alias, Rollout, RolloutOptions, label_change
from thresher_serving.rollout.rollout import roll_back, roll_out
from thresher_serving.rollout.status import ServerStatus, StatusReader, VersionStatus

__all__ = [
    "Alias",
    "Canary",
    "CanaryEnd",
    "CanaryStart",
    "History",
    "Rollout",
    "RolloutOptions",
    "Served",
    "ServerStatus",
    "StatusReader",
    "VersionStatus",
    "check_is_no_companion",
    "end_canary",
    "find_canary",
    "label_change",
    "percent",
    "roll_back",
    "roll_out",
    "start_canary",
]
