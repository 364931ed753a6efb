"""Rows of full length, of one token and of none: torch's answer, or no export."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from thresher import Decision
from thresher.errors import ParityError
from thresher.evaluation import EvaluationSplit
from thresher_export import append_decision_head
from thresher_export import convert as converting
from thresher_export.convert import convert
from thresher_export.engines import OnnxRuntimeEngine, TorchEngine
from thresher_export.parity import ParityReport, prove_parity

DECISION = Decision(labels=["joy", "anger"], thresholds=[0.5, 0.5])
LENGTHS = np.random.default_rng(0).integers(2, 9, 40)
MASK = (np.arange(8) < LENGTHS[:, None]).astype(np.int64)
IDS = np.random.default_rng(1).integers(1, 50, MASK.shape) * MASK


class Encoder(nn.Module):
    """Two encoder layers of torch's own; subclasses say what is hidden."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.last = nn.Linear(16, 2)

    def encoded(self, ids: Tensor, hidden: Tensor) -> Tensor:
        encoded = self.encoder(self.words(ids), src_key_padding_mask=hidden)
        logits: Tensor = self.last(encoded[:, 0])
        return logits


class IntegerMask(Encoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.encoded(input_ids, attention_mask == 0)


class PaddingMask(Encoder):
    """PyTorch's own meaning: True is hidden."""

    def forward(self, input_ids: Tensor, padding: Tensor) -> Tensor:
        return self.encoded(input_ids, padding)


class MaskInside(Encoder):
    def forward(self, input_ids: Tensor) -> Tensor:
        return self.encoded(input_ids, input_ids == 0)


class BooleanAttention(nn.Module):
    """scaled_dot_product_attention, twice with one mask of booleans, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.words(input_ids)[:, None]
        shown = (attention_mask != 0)[:, None, None, :]
        attended = words
        for _ in range(2):
            attended = nn.functional.scaled_dot_product_attention(
                attended, words, words, attn_mask=shown
            )
        logits: Tensor = self.last(attended[:, 0].mean(dim=1))
        return logits


class MeanOverNothing(nn.Module):
    """0/0 in torch as in ONNX."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 16)
        self.last = nn.Linear(16, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask[..., None].float()
        logits: Tensor = self.last((self.words(input_ids) * weight).sum(1) / weight.sum(1))
        return logits


def inputs_of(network: nn.Module) -> dict[str, np.ndarray]:
    if isinstance(network, MaskInside):
        return {"input_ids": IDS}
    if isinstance(network, PaddingMask):
        return {"input_ids": IDS, "padding": MASK == 0}
    return {"input_ids": IDS, "attention_mask": MASK}


def exported(network: nn.Module) -> tuple[torch.export.ExportedProgram, onnx.ModelProto]:
    network.eval()
    inputs = inputs_of(network)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", min=2, max=64)}
    example = tuple(torch.from_numpy(array[:3]) for array in inputs.values())
    program = torch.export.export(network, example, dynamic_shapes=(axes,) * len(inputs))
    return program, ir.to_proto(append_decision_head(convert(program), DECISION))


def prove(network: nn.Module, folder: Path) -> ParityReport:
    program, model = exported(network)
    onnx.save(model, folder / "model.onnx")
    inputs = inputs_of(network)
    logits = TorchEngine(program).logits(inputs, batch_size=16)
    split = EvaluationSplit(inputs=inputs, targets_NL=logits * np.nan, logits_NL=logits)
    return prove_parity(
        program, folder / "model.onnx", DECISION, {"test": split}, max_batch_size=16
    )


@pytest.mark.parametrize("make", [IntegerMask, PaddingMask, MaskInside, BooleanAttention])
def test_a_text_without_a_token_gets_the_answer_of_torch(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    network = make()
    program, model = exported(network)
    inputs = {name: array[:3].copy() for name, array in inputs_of(network).items()}
    inputs["input_ids"][1] = 0
    for name in set(inputs) - {"input_ids"}:
        inputs[name][1] = name == "padding"
    expected = TorchEngine(program).logits(inputs, batch_size=3)
    assert np.isfinite(expected).all()
    got = OnnxRuntimeEngine(model.SerializeToString()).run(inputs, batch_size=3).logits_NL
    np.testing.assert_allclose(got, expected, atol=1e-5)

    report = prove(network, tmp_path)
    report.raise_if_failed("texts")
    names = [check.name for check in report.checks]
    assert any(name.startswith("rows of full length") for name in names)
    assert any(name.startswith("rows without a token") for name in names)


def test_a_model_that_gives_nan_where_torch_does_not_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "zero_unattended", lambda _: 0)
    report = prove(IntegerMask(), tmp_path)
    failed = [check for check in report.checks if not check.agreement.ok]
    assert {check.name.split(":")[0].split(",")[0] for check in failed} == {"rows without a token"}
    with pytest.raises(ParityError, match="rows without a token") as error:
        report.raise_if_failed("texts")
    assert "the mask all 0 (attention_mask)" in str(error.value)
    assert "let one token of each row be seen" in str(error.value)


def test_nan_on_both_sides_is_no_difference_and_is_noted(tmp_path: Path) -> None:
    report = prove(MeanOverNothing(), tmp_path)
    report.raise_if_failed("texts")
    (note, *_) = [note for note in report.notes if note.startswith("rows without a token")]
    assert "torch itself gives NaN" in note


def test_attention_whose_mask_never_holds_infinity_is_left_as_it_is() -> None:
    class FiniteMask(BooleanAttention):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            words = self.words(input_ids)[:, None]
            bias = (1 - attention_mask.float())[:, None, None, :] * torch.finfo(torch.float32).min
            attended = nn.functional.scaled_dot_product_attention(
                words, words, words, attn_mask=bias
            )
            logits: Tensor = self.last(attended[:, 0].mean(dim=1))
            return logits

    _, model = exported(FiniteMask())
    assert not [node for node in model.graph.node if node.op_type == "ReduceMax"]
