"""Puts versions into service and takes them back, without a request that fails."""

from __future__ import annotations

from thresher_serving.rollout.companions import check_is_no_companion
from thresher_serving.rollout.history import History, Served
from thresher_serving.rollout.left_canaries import end_left_canaries
from thresher_serving.rollout.plan import Alias, Rollout, RolloutOptions, label_change
from thresher_serving.rollout.rollout import roll_back, roll_out
from thresher_serving.rollout.status import ServerStatus, StatusReader, VersionStatus
from thresher_serving.rollout.supervised import Supervised

__all__ = [
    "Alias",
    "History",
    "Rollout",
    "RolloutOptions",
    "Served",
    "ServerStatus",
    "StatusReader",
    "Supervised",
    "VersionStatus",
    "check_is_no_companion",
    "end_left_canaries",
    "label_change",
    "roll_back",
    "roll_out",
]
