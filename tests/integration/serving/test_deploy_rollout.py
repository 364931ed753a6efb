"""rollout.sh, which the rollout job of serving/deploy runs, on two real servers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from support.deploy import KUBERNETES
from support.triton import Triton, triton
from support.versions import ROWS, publish_version
from thresher.repository import ModelRepository
from thresher_serving import Client, Runtime


def version_of(server: Triton) -> int:
    """Return the version that an unversioned request gets."""
    with Client(server.grpc_url) as client:
        return client.predict("digits", {"features": np.float32(ROWS)}).model_version


@pytest.mark.slow
def test_every_server_gets_the_version_or_none_keeps_it(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "models"
    publish_version(root, "digits", 1, serve=True)
    program = tmp_path / "bin/thresher"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m thresher "$@"\n')
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # no mlflow.db here: no alias is moved

    def roll_out(model: str, *servers: Triton) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TRITON_PODS": " ".join(server.grpc_url for server in servers),
            "MODEL_REPOSITORY": str(root),
        }
        script = str(KUBERNETES / "rollout/rollout.sh")
        return subprocess.run(
            ["sh", script, model], env=environment, check=False, capture_output=True, text=True
        )

    with (
        triton(runtime, root, ["digits"], log=tmp_path / "one.log") as one,
        triton(runtime, root, ["digits"], log=tmp_path / "two.log") as two,
    ):
        publish_version(root, "digits", 2)
        done = roll_out("digits/2", one, two)
        assert done.returncode == 0, done.stderr
        assert (version_of(one), version_of(two)) == (2, 2)
        assert ModelRepository(root).served_versions("digits") == [2]

        publish_version(root, "digits", 3)
        two.kill()
        done = roll_out("digits/3", one, two)
        assert done.returncode == 1
        assert version_of(one) == 2, done.stderr
        assert ModelRepository(root).served_versions("digits") == [2]
