"""Sound networks on inputs of wild scales pass; the same networks with one thing wrong do not."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from thresher import Decision
from thresher.evaluation import EvaluationSplit
from thresher_export import append_decision_head
from thresher_export.convert import convert
from thresher_export.parity import ParityReport, prove_parity
from thresher_training.networks import Scaling, mlp

NUM_ROWS = 120


@dataclass(frozen=True)
class Case:
    """A network with rows, and its ONNX model."""

    program: torch.export.ExportedProgram
    model: onnx.ModelProto
    decision: Decision
    split: EvaluationSplit

    def prove(self, folder: Path, model: onnx.ModelProto | None = None) -> ParityReport:
        path = folder / "model.onnx"
        onnx.save(model or self.model, path)
        return prove_parity(
            self.program, path, self.decision, {"test": self.split}, max_batch_size=32
        )


def case_of(network: torch.nn.Module, inputs: dict[str, np.ndarray]) -> Case:
    network.eval()
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    program = torch.export.export(
        network,
        tuple(tensor[:3] for tensor in tensors.values()),
        dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in inputs},
    )
    with torch.no_grad():
        logits = network(**tensors).numpy()
    decision = Decision(
        labels=[f"label {k}" for k in range(logits.shape[1])], thresholds=[0.4] * logits.shape[1]
    )
    split = EvaluationSplit(inputs=inputs, targets_NL=logits * np.nan, logits_NL=logits)
    return Case(
        program, ir.to_proto(append_decision_head(convert(program), decision)), decision, split
    )


def wild_table(num_columns: int) -> np.ndarray:
    """Columns whose spreads run from 0.6 to 14,458, among them yes/no, ids and constants."""
    rng = np.random.default_rng(num_columns)
    spread = np.exp(rng.uniform(np.log(0.6), np.log(14_458), num_columns))
    table = rng.normal(size=(NUM_ROWS, num_columns)) * spread + 3 * spread
    table[:, ::7] = rng.lognormal(2, 2.5, table[:, ::7].shape)
    table[:, 1::7] = rng.random(table[:, 1::7].shape) < 0.2
    table[:, 2::7] = rng.integers(0, 40, table[:, 2::7].shape)
    table[:, 3::21] = 7.25
    return table.astype(np.float32)


def standardising(num_columns: int, num_labels: int, scaling: Scaling = "standard") -> Case:
    features = wild_table(num_columns)
    torch.manual_seed(0)
    network = mlp(num_labels=num_labels, num_features=num_columns, hidden=(128,), scaling=scaling)
    norm = network.norm
    assert isinstance(norm, torch.nn.BatchNorm1d)
    norm.running_mean = torch.from_numpy(features.mean(axis=0))
    norm.running_var = torch.from_numpy(features.var(axis=0))
    return case_of(network, {"features": features})


def unscaled() -> Case:
    """A network that takes a wild table as it is: logits in the thousands."""
    features = wild_table(150)
    torch.manual_seed(0)
    return case_of(mlp(num_labels=12, num_features=150), {"features": features})


class Cancelling(torch.nn.Module):
    """Terms of 5,800,000 that cancel: what is left depends on the last bits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = torch.nn.Linear(40, 6)
        with torch.no_grad():
            self.last.weight[:, 20:] = -self.last.weight[:, :20]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        shifted = features + 5.8e6
        logits: torch.Tensor = self.last(torch.cat([shifted, shifted * 1.0000001], dim=1))
        return logits


def cancelling() -> Case:
    features = np.random.default_rng(0).normal(size=(NUM_ROWS, 20)).astype(np.float32)
    return case_of(Cancelling(), {"features": features})


def large_bias() -> Case:
    """A column far from zero and a bias that takes it back, as a network without scaling learns."""
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(NUM_ROWS, 30)) + 20_000).astype(np.float32)
    torch.manual_seed(0)
    network = mlp(num_labels=8, num_features=30, hidden=())
    last = network.layers[-1]  # type: ignore[index]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.copy_(-last.weight.sum(dim=1) * 20_000)
    return case_of(network, {"features": features})


class Categories(torch.nn.Module):
    """Embeds integer columns with a vocabulary each, and a float column that holds ids."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.sizes = (3, 900)
        self.tables = torch.nn.ModuleList(torch.nn.Embedding(n, 8) for n in (*self.sizes, 30))
        self.last = torch.nn.Linear(25, 5)

    def forward(self, ids: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        found = [self.tables[k](ids[:, k]) for k in range(2)]
        found.append(self.tables[2](features[:, 0].long()))
        logits: torch.Tensor = self.last(torch.cat([*found, features[:, 1:]], dim=1))
        return logits


def categories() -> Case:
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 3, NUM_ROWS), rng.integers(0, 900, NUM_ROWS)], axis=1)
    features = np.stack([rng.integers(0, 30, NUM_ROWS), rng.normal(0, 3e4, NUM_ROWS)], axis=1)
    return case_of(Categories(), {"ids": ids, "features": features.astype(np.float32)})


SOUND: dict[str, Callable[[], Case]] = {
    "398 labels": lambda: standardising(500, 398),
    "174 labels": lambda: standardising(72, 174),
    "a wide table": lambda: standardising(1800, 20),
    "asinh": lambda: standardising(200, 20, "asinh"),
    "unscaled": unscaled,
    "cancelling": cancelling,
    "large bias": large_bias,
    "categories": categories,
}


@cache
def sound(name: str) -> Case:
    return SOUND[name]()


@pytest.mark.parametrize("name", SOUND)
def test_sound_network_on_wild_scales_passes(name: str, tmp_path: Path) -> None:
    report = sound(name).prove(tmp_path)
    assert report.problems() == []
    assert not [note for note in report.notes if "left out" in note]


def changed(case: Case, ending: str, by: Callable[[np.ndarray], np.ndarray]) -> onnx.ModelProto:
    """Return the model with the last weights whose name ends so changed."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    tensor = [t for t in model.graph.initializer if t.name.endswith(ending)][-1]
    values = by(numpy_helper.to_array(tensor).copy())
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    return model


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda values: values * np.float32(factor)


def swapped(values: np.ndarray) -> np.ndarray:
    values[[0, 1]] = values[[1, 0]]
    return values


def one_off(values: np.ndarray) -> np.ndarray:
    values.reshape(-1)[3] += np.float32(0.01)
    return values


@pytest.mark.parametrize("wrong", [scaled(1.001), swapped, one_off])
@pytest.mark.parametrize("name", ["398 labels", "174 labels", "a wide table", "asinh"])
def test_wrong_weights_on_wild_scales_are_caught_on_real_rows(
    name: str, wrong: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    report = sound(name).prove(tmp_path, changed(sound(name), "weight", wrong))
    assert any(check.rows == "split" and not check.agreement.ok for check in report.checks)


@pytest.mark.parametrize(
    ("name", "ending", "wrong"),
    [
        ("unscaled", "weight", scaled(1.001)),
        ("categories", "weight", scaled(1.001)),
        ("cancelling", "bias", lambda values: values + 30),
        ("large bias", "bias", lambda values: values + 1),
    ],
)
def test_wrong_weights_are_caught_where_large_terms_cancel(
    name: str, ending: str, wrong: Callable[[np.ndarray], np.ndarray], tmp_path: Path
) -> None:
    assert sound(name).prove(tmp_path, changed(sound(name), ending, wrong)).problems()
