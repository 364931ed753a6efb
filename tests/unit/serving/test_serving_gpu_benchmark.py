"""What the GPU benchmark counts and computes without a GPU, against torch's own counter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch.utils.flop_counter import FlopCounterMode

from thresher_export.convert import convert
from thresher_export.precision import Precision, lower_precision
from thresher_training.networks import digits_cnn

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


class Attention(torch.nn.Module):
    """One head over 8 places, then a layer for the logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = torch.nn.Linear(16, 48)
        self.logits = torch.nn.Linear(16, 5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(features).chunk(3, dim=-1)
        weights = torch.softmax(q @ k.transpose(1, 2) / 4, dim=-1)
        logits: torch.Tensor = self.logits((weights @ v).mean(dim=1))
        return logits


@pytest.fixture(scope="module")
def roofline() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        import roofline

        yield roofline


@pytest.fixture(scope="module")
def serving_gpu(roofline: ModuleType) -> ModuleType:
    import serving_gpu

    return serving_gpu


def body(network: torch.nn.Module, row: dict[str, Any], precision: Precision) -> onnx.ModelProto:
    batch = tuple(torch.from_numpy(np.repeat(array, 3, axis=0)) for array in row.values())
    axes = [{0: torch.export.Dim.AUTO} for _ in batch]
    program = torch.export.export(network.eval(), batch, dynamic_shapes=axes)
    return ir.to_proto(lower_precision(convert(program), precision))


CASES = {
    "convolutions": (digits_cnn(num_labels=10), {"image": np.zeros((1, 1, 32, 96), np.uint8)}),
    "attention": (Attention(), {"features": np.ones((1, 8, 16), np.float32)}),
}


@pytest.mark.parametrize("name", CASES)
def test_products_are_counted_as_torch_counts_them(roofline: ModuleType, name: str) -> None:
    network, row = CASES[name]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(*(torch.from_numpy(array) for array in row.values()))
    cost = roofline.cost_of(body(network, row, "fp32"), row, ("logits",))
    assert cost.row_flops == {"float32": counter.get_total_flops()}
    num_weights = sum(weight.numel() for weight in network.parameters())
    assert cost.weight_bytes == pytest.approx(4 * num_weights, rel=0.05)  # norms are folded in


def test_a_half_body_is_counted_as_such_and_its_last_layer_is_not(roofline: ModuleType) -> None:
    network, row = CASES["attention"]
    full = roofline.cost_of(body(network, row, "fp32"), row, ("logits",))
    half = roofline.cost_of(body(network, row, "fp16"), row, ("logits",))
    assert half.row_flops["float32"] == 2 * 16 * 5
    assert half.row_flops["float16"] == full.row_flops["float32"] - 2 * 16 * 5
    assert half.weight_bytes < 0.7 * full.weight_bytes


def test_the_roofline_is_the_slower_of_computing_and_reading(roofline: ModuleType) -> None:
    peak = roofline.Peak(
        flops_per_s={"float32": 1e9, "float16": 4e9}, bytes_per_s=1e6, source="made up"
    )
    cost = roofline.Cost(
        row_flops={"float32": 10_000, "float16": 40_000}, weight_bytes=1000, row_bytes=10
    )
    assert cost.rows_per_s(1, peak) == pytest.approx(1 / 1010e-6)  # the weights are read
    assert cost.rows_per_s(1000, peak) == pytest.approx(50_000)  # 20 us a row are computed


def test_a_table_of_embeddings_is_not_read_as_a_whole(roofline: ModuleType) -> None:
    network = torch.nn.Sequential(torch.nn.Embedding(1000, 16), torch.nn.Flatten())
    network.append(torch.nn.Linear(16 * 8, 5))
    row = {"input": np.zeros((1, 8), np.int64)}
    cost = roofline.cost_of(body(network, row, "fp32"), row, ("logits",))
    assert 4 * 16 * 8 * 5 <= cost.weight_bytes < 4 * 16 * 1000


def test_operators_that_are_not_counted_are_refused(roofline: ModuleType) -> None:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, 2]) for n in "xy")
    node = helper.make_node("Einsum", ["x"], ["y"], equation="abc->abc")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]))
    with pytest.raises(ValueError, match="not counted: Einsum"):
        roofline.cost_of(model, {"x": np.zeros((1, 1, 2), np.float32)}, ("y",))


@pytest.mark.parametrize(
    ("name", "gb_per_s"),
    [("NVIDIA H200", 4800), ("NVIDIA H100 80GB HBM3", 3350), ("NVIDIA L4", 300), ("Tesla T4", 320)],
)
def test_cards_are_known_by_the_name_that_the_driver_gives(
    roofline: ModuleType, name: str, gb_per_s: int
) -> None:
    assert roofline.known_peak(name).bytes_per_s == gb_per_s * 1e9


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA A100X", "NVIDIA GB200"])
def test_a_card_that_is_not_in_the_table_is_not_taken_for_another(
    roofline: ModuleType, name: str
) -> None:
    assert roofline.known_peak(name) is None


def test_a_peak_can_be_measured(roofline: ModuleType) -> None:
    peak = roofline.measured_peak("cpu", size=64, copied_bytes=2**16)
    assert min(*peak.flops_per_s.values(), peak.bytes_per_s) > 1e6
    assert set(peak.flops_per_s) == {"float32", "float16"}


def test_the_table_has_each_way_and_its_share(serving_gpu: ModuleType) -> None:
    rates = {"Triton, gRPC": 900, "client": 800, "bound": 2000, "from host": 1000}
    case = {"network": "digits", "precision": "fp16", "rows": 64, "rows_per_s": rates}
    head, line = serving_gpu.table([{**case, "roofline": 40_000.0}]).splitlines()
    assert all(way in head for way in (*rates, "roofline"))
    assert line.split() == [
        *("digits,", "fp16", "64", "900", "800", "2,000", "1,000", "40,000", "90%", "5.0%")
    ]


def test_a_machine_without_a_gpu_is_told_so(
    serving_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="no NVIDIA GPU"):
        serving_gpu.run()
