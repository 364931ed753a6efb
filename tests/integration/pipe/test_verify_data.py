"""`thresher verify --data` against torch, ONNX Runtime and a real Triton."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from support.fixtures import LogVersion
from support.weather import LABELS, NUM_FEATURES
from thresher.cli import main
from thresher_serving import find_runtime, start_server

pytestmark = pytest.mark.slow


def test_three_engines_are_alike_on_a_users_rows(log_version: LogVersion, store: Path) -> None:
    log_version()
    assert CliRunner().invoke(main, ["export", "models:/weather/1"]).exit_code == 0
    features = np.random.default_rng(7).normal(size=(130, NUM_FEATURES)).astype(np.float32)
    features[:2] = ([0] * NUM_FEATURES, [1e-40] * NUM_FEATURES)
    targets = (np.random.default_rng(8).random((130, len(LABELS))) < 0.3).astype(np.float32)
    np.savez(store / "rows.npz", features=features, targets=targets)
    server = start_server(
        Path("model_repository"), runtime=find_runtime(), grpc_port=0, http_port=0, metrics_port=0
    )
    try:
        done = CliRunner().invoke(
            main, ["verify", "weather", "--data", "rows.npz", "--over-the-wire", "--json"]
        )
    finally:
        server.stop()
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["num_rows"], content["split"], content["ok"]) == (130, "rows.npz", True)
    assert [pair["engines"] for pair in content["pairs"]] == [
        ["torch", "ONNX Runtime"],
        ["torch", "Triton"],
        ["ONNX Runtime", "Triton"],
    ]
    assert content["band_half_width"] < 1e-5
