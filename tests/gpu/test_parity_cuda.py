"""Parity of ONNX Runtime on an NVIDIA GPU: without TF32 as the gate, and as in production."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from thresher import Decision
from thresher.evaluation import EvaluationSplit
from thresher_export import append_decision_head
from thresher_export.convert import convert
from thresher_export.engines import providers_at_hand
from thresher_export.onnx_file import save_model
from thresher_export.parity import ParityReport, prove_parity

NAMES = [provider.name for provider in providers_at_hand()]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        NAMES == ["ONNX Runtime"],
        reason=f"ONNX Runtime runs on the CPU only here (offers {ort.get_available_providers()})",
    ),
]

DECISION = Decision(labels=["a", "b", "c"], thresholds=[0.5, 0.3, 0.6], scale=[1.5, 1, 1])


class Wide(torch.nn.Module):
    """Sums of 2,048 terms, in which TF32's ten bits show."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(
            torch.nn.Linear(64, 2048), torch.nn.ReLU(), torch.nn.Linear(2048, 3)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.body(features) * 4
        return logits


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> ParityReport:
    network = Wide().eval()
    features = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32)
    axes = {"features": {0: torch.export.Dim("batch")}}
    program = torch.export.export(network, (torch.zeros(3, 64),), dynamic_shapes=axes)
    with torch.no_grad():
        logits = network(torch.from_numpy(features)).numpy()
    split = EvaluationSplit(
        inputs={"features": features},
        targets_NL=(logits > 0).astype(np.float32),
        logits_NL=logits,
    )
    folder: Path = tmp_path_factory.mktemp("model")
    model = append_decision_head(convert(program), DECISION)
    path = save_model(model, folder / "model.onnx")[0]
    onnx.checker.check_model(path)
    return prove_parity(program, path, DECISION, {"test": split}, max_batch_size=64)


def test_every_provider_passes_its_gate(report: ParityReport) -> None:
    report.raise_if_failed("wide")
    for name in NAMES:
        errors = {
            c.name: c.agreement.max_abs("logits")
            for c in report.checks
            if c.name.endswith(f"= {name}, batch 64")
        }
        print(name, errors, file=sys.stderr)
        assert errors


def test_tf32_is_off_for_the_strict_gate_and_on_as_in_production(report: ParityReport) -> None:
    if "ONNX Runtime, CUDA" not in NAMES:
        pytest.skip("CUDA's provider does not start here")
    strict, production = (
        next(
            c.agreement.max_abs("logits")
            for c in report.checks
            if c.name == f"test: torch = {name}, batch 64"
        )
        for name in ("ONNX Runtime, CUDA without TF32", "ONNX Runtime, CUDA")
    )
    assert strict is not None
    assert production is not None
    assert strict < 1e-4
    if torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 8:
        assert production > strict


def test_thresholds_are_met_exactly_on_the_gpu_too(report: ParityReport) -> None:
    checks = [c for c in report.checks if c.name.startswith("thresholds moved")]
    assert len(checks) == 3 * len(NAMES)
    assert all(check.agreement.num_inconsistent == 0 for check in checks)
