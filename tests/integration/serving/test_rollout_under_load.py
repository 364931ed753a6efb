"""Versions change under constant load: no request fails, each answer is of exactly one version."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from support.load import traffic
from support.triton import triton
from support.versions import publish_version
from thresher import Decision
from thresher.repository import ModelRepository
from thresher_serving import Runtime
from thresher_serving.rollout import roll_back, roll_out


def swap_under_load(runtime: Runtime, folder: Path, num_swaps: int) -> dict[str, object]:
    """Roll out new weights, new thresholds, and back, in turns; return what was counted."""
    root = folder / "models"
    repository = ModelRepository(root)
    decisions: dict[int, tuple[int, Decision]] = {}

    def publish(version: int, *, weights_of: int) -> None:
        # thresholds between the probabilities of the rows, so that no rounding flips a label
        thresholds = [0.15 + 0.7 * ((version * k) % 11) / 11 + 0.003 for k in (3, 5, 7)]
        chosen = np.float32(thresholds)
        decision = publish_version(
            root, "m", version, weights_of=weights_of, thresholds=chosen, copies=2
        )
        decisions[version] = weights_of, decision

    publish(1, weights_of=1)
    version, serving, kinds = 1, [1], {"weights": 0, "thresholds": 0, "rollback": 0}
    options = ["--disable-auto-complete-config"]
    with triton(runtime, root, ["m"], *options, log=folder / "log") as server:
        with traffic(server.grpc_url, server.http_url, "m", decisions) as seen:
            time.sleep(0.5)
            begin = time.monotonic()
            for swap in range(num_swaps):
                kind = ("weights", "thresholds", "rollback")[swap % 3]
                kinds[kind] += 1
                if kind == "rollback":
                    done = roll_back(repository, "m", server.grpc_url)
                    serving.pop()
                else:
                    version += 1
                    new = kind == "weights"
                    publish(version, weights_of=version if new else decisions[serving[-1]][0])
                    done = roll_out(repository, "m", version, server.grpc_url)
                    serving.append(version)
                assert done.version == serving[-1]
                assert done.num_flips == 0
                assert not done.warnings
            seconds = time.monotonic() - begin
            time.sleep(0.5)
    assert not seen.failed, seen.failed[:5]
    assert not seen.wrong, seen.wrong[:5]
    assert set(seen.by_version()) == set(decisions), "every version answered while it served"
    assert set(seen.by_kind()) == {"grpc", "http", "ours"}
    return {
        "swaps": kinds,
        "answers": seen.num_answers,
        "by client": dict(seen.by_kind()),
        "versions": len(decisions),
        "failed": len(seen.failed),
        "seconds": round(seconds, 1),
    }


def test_no_request_fails_while_versions_change(
    runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = swap_under_load(runtime, tmp_path, 3)
    with capsys.disabled():
        print(f"\n{counts}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_request_fails_in_two_hundred_swaps(
    runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = swap_under_load(runtime, tmp_path, 200)
    with capsys.disabled():
        print(f"\n{counts}")
