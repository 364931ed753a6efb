"""Exported versions served by the embedded Triton on an NVIDIA GPU: parity, and memory given back.

The same rows go through torch, ONNX Runtime on the CPU, ONNX Runtime on the GPU, and Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from support.fixtures import LogVersion
from support.gpu import memory_falls_to, memory_used_mib, why_no_gpu, why_no_tensorrt
from support.weather import DECISION, LABELS, NUM_FEATURES
from thresher.agreement import Outputs, compare
from thresher.repository import ModelRepository
from thresher.tolerances import tolerances_for
from thresher_export import (
    Exported,
    ExportOptions,
    Precision,
    TensorRtOptions,
    TritonOptions,
    export_version,
)
from thresher_export.engines import CPU, Inputs, OnnxRuntimeEngine, providers_at_hand
from thresher_export.verify import Engine, verify_version
from thresher_serving import Client, RunningServer, find_runtime, start_server
from thresher_serving.control import connect, load_model, unload_model

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu())]

MODEL = "weather"
MARGIN_MIB = 32
"""What the driver may keep of a process that has ended."""


class Wide(torch.nn.Module):
    """Sums of 2,048 terms, in which fewer bits show."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Linear(NUM_FEATURES, 2048),
            torch.nn.ReLU(),
            torch.nn.Linear(2048, 2048),
            torch.nn.ReLU(),
            torch.nn.Linear(2048, len(LABELS)),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(features) * 20
        return logits


def exported(
    log_version: LogVersion, store: Path, precision: Precision, triton: TritonOptions | None = None
) -> Exported:
    log_version(Wide(), num_rows=500)
    options = ExportOptions(
        precision=precision, triton=triton or TritonOptions(), target_triton="24.10"
    )
    return export_version(
        f"models:/{MODEL}/1", repository=ModelRepository(store / "models"), options=options
    )


@contextmanager
def serving(store: Path) -> Iterator[RunningServer]:
    running = start_server(
        store / "models",
        runtime=find_runtime(),
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        state_dir=store / "state",
        timeout_s=280,  # TensorRT compiles
    )
    try:
        yield running
    finally:
        running.stop(timeout_s=5)


def check_is_on_gpu(server: RunningServer) -> None:
    client = connect(server.grpc_url)
    groups = client.get_model_config(MODEL).config.instance_group
    client.close()
    assert [group.kind == group.KIND_GPU for group in groups] == [True]  # exported as KIND_AUTO
    assert "not honoured" not in Path(server.log_file).read_text(errors="replace")


def asking(server: RunningServer) -> Engine:
    def ask(inputs: Inputs) -> Outputs:
        with Client(server.grpc_url) as client:
            answer = client.predict(
                MODEL, dict(inputs), outputs=("probabilities", "labels", "logits")
            )
        return Outputs(
            probabilities_NL=answer.probabilities,
            labels_NL=answer.labels,
            logits_NL=answer.logits,
        )

    return ask


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_triton_on_the_gpu_decides_as_torch_and_the_cpu_do(
    log_version: LogVersion, store: Path, precision: Precision
) -> None:
    done = exported(log_version, store, precision)
    done.report.raise_if_failed(MODEL)
    checked = {check.name for check in done.report.checks}
    for provider in providers_at_hand():
        assert f"test: torch = {provider.name}, batch 64" in checked
    with serving(store) as server:
        check_is_on_gpu(server)
        outcome = verify_version(
            *(MODEL, 1, ModelRepository(store / "models")), engines={"Triton": asking(server)}
        )
    assert not outcome.problems()
    assert {"torch", "ONNX Runtime", "Triton"} <= set(outcome.outputs)
    assert all(a.num_flips_outside_band == 0 for a in outcome.agreements.values())


@pytest.mark.skipif(
    bool(why_no_gpu() or why_no_tensorrt()), reason=why_no_gpu() or why_no_tensorrt()
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_decides_as_the_cpu_does(
    log_version: LogVersion, store: Path, precision: Precision
) -> None:
    triton = TritonOptions(
        tensorrt=TensorRtOptions(precision="fp16" if precision == "fp16" else "fp32"),
        config={"instance_group": [{"kind": "KIND_GPU", "count": 1, "gpus": [0]}]},
    )
    done = exported(log_version, store, precision, triton)
    assert done.folder is not None
    split = done.version.evaluation("test")
    on_cpu = OnnxRuntimeEngine(done.folder / "model.onnx", CPU).run(split.inputs, batch_size=64)
    with serving(store) as server:
        check_is_on_gpu(server)
        got = asking(server)(split.inputs)
    # TensorRT keeps TF32 on, and with FP16 computes the head in it too
    tolerances = tolerances_for("fp16" if precision == "fp16" else "tf32")
    agreement = compare(on_cpu, got, DECISION, tolerances=tolerances)
    assert not agreement.problems()


def test_memory_is_given_back_when_a_model_is_unloaded(
    log_version: LogVersion, store: Path
) -> None:
    """What CUDA keeps for the server itself stays; a second load and unload adds nothing to it."""
    exported(log_version, store, "fp32")
    rows = {"features": np.zeros((64, NUM_FEATURES), np.float32)}
    before = memory_used_mib()
    with serving(store) as server:
        without: list[int] = []
        for _ in range(3):
            with Client(server.grpc_url) as client:
                client.predict(MODEL, rows)
            loaded = memory_used_mib()
            unload_model(server.grpc_url, MODEL)
            without.append(memory_falls_to(loaded - 1))
            load_model(server.grpc_url, MODEL)
        assert without[2] <= without[1] + MARGIN_MIB
    assert memory_falls_to(before + MARGIN_MIB) <= before + MARGIN_MIB
