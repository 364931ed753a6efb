"""A network for texts with a free sequence axis: sizes that are tried, and where it departs."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from thresher import Decision
from thresher.errors import ConversionError
from thresher.evaluation import EvaluationSplit
from thresher_export import append_decision_head
from thresher_export.convert import convert
from thresher_export.parity import ParityReport, find_departure, prove_parity
from thresher_export.parity.axes import further_axes

DECISION = Decision(labels=["joy", "anger", "fear"], thresholds=[0.5, 0.3, 0.6])
LENGTHS = np.random.default_rng(0).integers(2, 9, 60)
MASK = (np.arange(8) < LENGTHS[:, None]).astype(np.int64)
IDS = np.random.default_rng(1).integers(1, 50, MASK.shape) * MASK


class Texts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(50, 16)
        self.places = torch.nn.Embedding(12, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.last = torch.nn.Linear(16, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        place = torch.arange(input_ids.shape[1])
        hidden = self.norm(self.words(input_ids) + self.places(place))
        weight = attention_mask[..., None].float()
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        logits: torch.Tensor = self.last(pooled)
        return logits


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=2, max=64)}
    example = (torch.from_numpy(IDS[:3]), torch.from_numpy(MASK[:3]))
    shapes = {"input_ids": axes, "attention_mask": axes}
    return torch.export.export(Texts().eval(), example, dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def model(program: torch.export.ExportedProgram) -> onnx.ModelProto:
    return ir.to_proto(append_decision_head(convert(program), DECISION))


def prove(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, folder: Path
) -> ParityReport:
    inputs = {"input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        logits = program.module()(torch.from_numpy(IDS), torch.from_numpy(MASK)).numpy()
    split = EvaluationSplit(inputs=inputs, targets_NL=logits * np.nan, logits_NL=logits)
    onnx.save(model, folder / "model.onnx")
    return prove_parity(
        program, folder / "model.onnx", DECISION, {"test": split}, max_batch_size=16, layers=True
    )


def test_further_axes_are_found_with_the_sizes_that_the_program_takes(
    program: torch.export.ExportedProgram, model: onnx.ModelProto
) -> None:
    (axis,) = further_axes(model, program)
    assert axis.inputs == {"input_ids": 1, "attention_mask": 1}
    assert (axis.low, axis.high) == (2, 64)


def test_every_size_of_the_sequence_is_compared_and_what_torch_refuses_is_noted(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, tmp_path: Path
) -> None:
    report = prove(program, model, tmp_path)
    report.raise_if_failed("texts")
    sizes = [c.name.split(":")[0] for c in report.checks if "of size" in c.name]
    assert [int(name.rpartition(" ")[2]) for name in sizes] == [2, 3, 5, 8]
    (note,) = [note for note in report.notes if "of size 13" in note]
    assert "torch itself refuses this size" in note
    assert any(
        "on the moved threshold for 3, one float32 step below it for 3" in note
        for note in report.notes
    )


def test_error_is_known_node_by_node(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, tmp_path: Path
) -> None:
    departure = prove(program, model, tmp_path).departure
    assert departure is not None
    assert departure.reference == "torch"
    assert {"layer_norm", "embedding", "logits"} <= {layer.value for layer in departure.layers}
    assert departure.first is None


def test_sequence_that_is_frozen_inside_the_graph_is_caught(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, tmp_path: Path
) -> None:
    frozen = onnx.ModelProto()
    frozen.CopyFrom(model)
    (norm,) = [n for n in frozen.graph.node if n.op_type == "LayerNormalization"]
    shape = numpy_helper.from_array(np.array([-1, 8, 16]), "frozen")
    frozen.graph.initializer.append(shape)
    at = list(frozen.graph.node).index(norm)
    stuck = helper.make_node("Reshape", [norm.input[0], "frozen"], ["stuck"])
    frozen.graph.node.insert(at, stuck)
    frozen.graph.node[at + 1].input[0] = "stuck"
    with pytest.raises(ConversionError, match=r"fails on a batch of \d+ rows"):
        prove(program, frozen, tmp_path)


def test_mask_that_is_ignored_is_caught_at_the_node(
    program: torch.export.ExportedProgram, model: onnx.ModelProto, tmp_path: Path
) -> None:
    deaf = onnx.ModelProto()
    deaf.CopyFrom(model)
    (place,) = [n for n in deaf.graph.node if n.op_type == "Mul" and len(n.input) == 2][:1]
    before = place.output[0]
    place.op_type = "Add"
    report = prove(program, deaf, tmp_path)
    assert report.departure is not None
    assert report.departure.first is not None
    assert report.departure.first.value == before


def test_without_a_program_the_unoptimised_graph_is_the_reference(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    from thresher.agreement import tolerances_for

    onnx.save(model, tmp_path / "model.onnx")
    departure = find_departure(
        tmp_path / "model.onnx",
        {"input_ids": IDS[:3], "attention_mask": MASK[:3]},
        program=None,
        tolerances=tolerances_for("fp32"),
    )
    assert departure is not None
    assert departure.reference == "ONNX Runtime without optimisation"
    assert departure.first is None
    assert "No node by itself departs" in departure.sentence()


def test_a_large_model_is_not_loaded_again_to_meet_its_thresholds(
    program: torch.export.ExportedProgram,
    model: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from thresher_export.parity import thresholds

    monkeypatch.setattr(thresholds, "MAX_RELOADED_BYTES", 0)
    report = prove(program, model, tmp_path)
    report.raise_if_failed("texts")
    assert sum(c.name.startswith("thresholds moved") for c in report.checks) == 3
    assert any(
        "on the moved threshold for 3, one float32 step below it for 3, one above for 3" in note
        for note in report.notes
    )
