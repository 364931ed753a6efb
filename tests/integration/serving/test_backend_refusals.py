"""Models that the compiled backend refuses leave the server, and its other models, alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from tritonclient import grpc

from support.served_models import BOOL, FLOAT, PAIR, config, identity, network
from thresher_serving import RunningServer, Runtime, start_server


@contextmanager
def started(
    models: dict[str, tuple[bytes, str | None]], runtime: Runtime, folder: Path
) -> Iterator[RunningServer]:
    """Serve these models, and one that is right, in a server of its own."""
    good = identity(FLOAT), config(PAIR)
    for name, (model, text) in {**models, "good": good}.items():
        (folder / "models" / name / "1").mkdir(parents=True)
        (folder / "models" / name / "1/model.onnx").write_bytes(model)
        if text is not None:
            (folder / "models" / name / "config.pbtxt").write_text(text)
    server = start_server(
        folder / "models",
        runtime=runtime,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        models=["good", *models],
        timeout_s=40,
        state_dir=folder / "state",
    )
    try:
        yield server
    finally:
        server.stop(timeout_s=0.1)


def reasons(server: RunningServer) -> dict[str, str]:
    """Return why models are not ready, after the good one has answered."""
    with grpc.InferenceServerClient(server.grpc_url) as client:
        rows = np.float32([[1, 2]])
        x = grpc.InferInput("x", [1, 2], "FP32").set_data_from_numpy(rows)
        np.testing.assert_array_equal(client.infer("good", [x]).as_numpy("y"), rows)
        index = client.get_model_repository_index().models
    return {model.name: model.reason for model in index if model.state != "READY"}


@pytest.mark.parametrize("count", [2, 3, 4, 5])  # Triton starts instances side by side
def test_a_refused_model_with_several_instances_does_not_end_the_server(
    runtime: Runtime, tmp_path: Path, count: int
) -> None:
    instances = f"instance_group {{ count: {count} kind: KIND_CPU }}\n"
    labels = network(
        [("Identity", ["x"], ["labels"], {})],
        {"x": (BOOL, ("batch", 2))},
        {"labels": (BOOL, ("batch", 2))},
    )
    io = PAIR.replace("FP32", "BOOL").replace('"y"', '"labels"')
    limit = 'parameters { key: "label_metrics" value { string_value: "many" } }\n'
    refused = {
        "shape": (identity(FLOAT), config(PAIR.replace("dims: 2", "dims: 5", 1) + instances)),
        "output": (identity(FLOAT), config(PAIR.replace('"y"', '"z"') + instances)),
        "counted": (labels, config(io + limit + instances)),
    }
    with started(refused, runtime, tmp_path) as server:
        found = reasons(server)
    assert set(found) == set(refused)
    assert "shape [-1, 2], the configuration [-1, 5]" in found["shape"]
    assert 'label_metrics is "many", expected a whole number' in found["counted"]


def test_a_reason_that_is_cut_short_is_still_text(runtime: Runtime, tmp_path: Path) -> None:
    name = "a" + "ü" * 400  # two bytes each: a limit of even size falls inside one
    model = network(
        [("Identity", ["x"], [name], {})],
        {"x": (FLOAT, ("batch", 2))},
        {name: (FLOAT, ("batch", 2))},
    )
    with started({"long": (model, config(PAIR))}, runtime, tmp_path) as server:
        reason = reasons(server)["long"]
    assert "output 'y' is not in the model, which has ['aüüü" in reason


def test_a_type_that_triton_lacks_is_named_with_its_tensor(
    runtime: Runtime, tmp_path: Path
) -> None:
    model = network(
        [("Cast", ["x"], ["tiny"], {"to": TensorProto.FLOAT8E4M3FN})],
        {"x": (FLOAT, ("batch", 2))},
        {"tiny": (TensorProto.FLOAT8E4M3FN, ("batch", 2))},
    )
    with started({"eighths": (model, None)}, runtime, tmp_path) as server:
        reason = reasons(server)["eighths"]
    assert "model 'eighths': output 'tiny' has a type that Triton does not have" in reason
