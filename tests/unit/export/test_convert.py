"""Torch programs to ONNX: what torch computes, ONNX Runtime computes, whatever the length."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

from thresher.errors import ConversionError, NotFoundError
from thresher_export.convert import convert, load_program, reference_precision

AUTO = torch.export.Dim.AUTO
NUM_LABELS = 5


def program_of(
    network: nn.Module, *inputs: Tensor, axes: Sequence[int] = (0,)
) -> torch.export.ExportedProgram:
    """Export as MLflow's pt2 logging does."""
    shapes = [{axis: AUTO for axis in axes if axis < tensor.ndim} for tensor in inputs]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        # torch on its own LSTM
        warnings.filterwarnings("ignore", message=".*_flat_weights.*assigned during export")
        return torch.export.export(network.eval(), inputs, dynamic_shapes=shapes)


def run(model: ir.Model, rows: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, rows)
    return np.asarray(logits)


def reference(program: torch.export.ExportedProgram, rows: dict[str, np.ndarray]) -> np.ndarray:
    names = program.graph_signature.user_inputs
    with torch.no_grad():
        logits = program.module()(*(torch.from_numpy(rows[name]) for name in names))
    return np.asarray(logits.float().numpy())


def token_rows(num_rows: int, length: int, vocabulary: int = 50) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(length)
    mask = (np.arange(length) < rng.integers(1, length + 1, (num_rows, 1))).astype(np.int64)
    return {"tokens": rng.integers(0, vocabulary, (num_rows, length)), "mask": mask}


TOKENS, MASK = torch.randint(0, 50, (3, 7)), torch.ones(3, 7, dtype=torch.int64)


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.cell = cell(16, 12, batch_first=True, bidirectional=True)
        self.output = nn.Linear(24, NUM_LABELS)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if tokens.shape[0] != mask.shape[0]:
            raise ValueError
        hidden, _ = self.cell(self.embedding(tokens))
        shown = mask.unsqueeze(-1).float()
        return self.output((hidden * shown).sum(1) / shown.sum(1).clamp(min=1))


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_a_recurrent_network_gives_torchs_logits(cell: type[nn.Module]) -> None:
    torch.manual_seed(0)
    program = program_of(Recurrent(cell), TOKENS, MASK)
    model, rows = convert(program), token_rows(9, 7)
    wanted = reference(program, rows)
    for num_rows in (1, 2, 9):
        some = {name: array[:num_rows] for name, array in rows.items()}
        np.testing.assert_allclose(run(model, some), wanted[:num_rows], atol=1e-6)
    assert cell.__name__ in {node.op_type for node in model.graph}


class Encoder(nn.Module):
    """A Hugging Face encoder with mean pooling."""

    def __init__(self) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            vocab_size=50,
            max_position_embeddings=64,
        )
        self.model = BertModel(config, add_pooling_layer=False)
        self.output = nn.Linear(32, NUM_LABELS)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.model(input_ids=tokens, attention_mask=mask).last_hidden_state
        shown = mask.unsqueeze(-1).float()
        return self.output((hidden * shown).sum(1) / shown.sum(1).clamp(min=1))


def test_an_encoder_takes_any_number_of_rows_and_tokens() -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    program = program_of(Encoder(), TOKENS, MASK, axes=(0, 1))
    model = convert(program)
    shapes = {value.name: str(value.shape) for value in model.graph.inputs}
    assert shapes == {"tokens": "[batch,sequence]", "mask": "[batch,sequence]"}
    for num_rows, length in ((1, 2), (2, 1), (5, 7), (3, 64)):
        rows = token_rows(num_rows, length)
        # torch's program takes 2 and more of each, ONNX any number
        padded = {name: np.pad(a, ((0, 1), (0, 0))) for name, a in rows.items()}
        wanted = padded if num_rows == 1 else rows
        if length == 1:
            wanted = {name: np.pad(a, ((0, 0), (0, 1))) for name, a in wanted.items()}
        np.testing.assert_allclose(
            run(model, rows), reference(program, wanted)[:num_rows], atol=2e-6
        )


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)
        )
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
        self.output = nn.Linear(8 + 4, NUM_LABELS)
        with torch.no_grad():
            self.body[1].running_mean.uniform_(-1, 1)
            self.body[1].running_var.uniform_(0.5, 2)

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        if image.shape[0] != table.shape[0]:
            raise ValueError
        pooled = self.body(image.float() / 255 - self.mean).mean((2, 3))
        return self.output(torch.cat([pooled, table], 1))


def test_pictures_of_any_size_beside_a_table() -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 3, 10, 12), dtype=torch.uint8)
    program = program_of(Pictures(), image, torch.randn(3, 4), axes=())
    shapes = [{0: AUTO, 2: AUTO, 3: AUTO}, {0: AUTO}]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        program = torch.export.export(
            Pictures().eval(), (image, torch.randn(3, 4)), dynamic_shapes=shapes
        )
    model = convert(program)
    assert str(model.graph.inputs[0].shape) == "[batch,3,height,width]"
    rng = np.random.default_rng(0)
    rows = {
        "image": rng.integers(0, 256, (4, 3, 17, 9), dtype=np.uint8),
        "table": rng.standard_normal((4, 4), dtype=np.float32),
    }
    np.testing.assert_allclose(run(model, rows), reference(program, rows), atol=1e-5)


class Narrow(nn.Module):
    """A network whose weights are half as wide."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.body = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, NUM_LABELS)).to(dtype)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.body(features.to(self.dtype))
        return logits


@pytest.mark.parametrize(
    ("dtype", "name", "error", "input_dtype"),
    [(torch.float16, "fp16", 4e-3, np.float32), (torch.bfloat16, "bf16", 4e-2, np.float16)],
)
def test_weights_of_half_the_width_give_float32_logits(
    dtype: torch.dtype, name: str, error: float, input_dtype: type
) -> None:
    torch.manual_seed(0)
    example = torch.from_numpy(np.zeros((3, 6), input_dtype))
    program = program_of(Narrow(dtype), example)
    assert reference_precision(program) == name
    model = convert(program)
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert model.graph.inputs[0].dtype == ir.DataType.from_numpy(np.dtype(input_dtype))
    rows = {"features": np.random.default_rng(0).normal(size=(4, 6)).astype(input_dtype)}
    np.testing.assert_allclose(run(model, rows), reference(program, rows), atol=error)
    exact = program.state_dict["body.0.weight"].detach().float().numpy()
    (stored,) = [v for v in model.graph.initializers.values() if v.name == "body.0.weight"]
    assert stored.const_value is not None
    np.testing.assert_array_equal(stored.const_value.numpy(), exact)


class TakesNarrow(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.float())


class Branches(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        doubled = torch.cond(features.sum() > 0, lambda x: x * 2, lambda x: x - 1, (features,))
        return super().forward(doubled)


def test_a_branch_on_values_becomes_one_in_onnx() -> None:
    program = program_of(Branches(6, NUM_LABELS), torch.randn(3, 6))
    model = convert(program)
    for sign in (1, -1):
        rows = {"features": np.full((4, 6), sign, np.float32)}
        np.testing.assert_allclose(run(model, rows), reference(program, rows), atol=1e-6)


class Singular(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, NUM_LABELS)

    def forward(self, features: Tensor) -> Tensor:
        outer = features.unsqueeze(1) * features.unsqueeze(2)
        values = torch.linalg.svdvals(outer)
        return self.inner(values)


class Selects(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features[features[:, 0] > 0])


class Twice(nn.Linear):
    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        logits = super().forward(features)
        return logits, logits.sigmoid()


class Sums(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).sum(1)


class Frozen(nn.Linear):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.reshape(3, 6))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Singular(), ["aten._linalg_svd", "test_convert.py, line", "torch.linalg.svdvals(outer)"]),
        (Selects(6, NUM_LABELS), ["values of the inputs make it", "torch.where"]),
        (Twice(6, NUM_LABELS), ["2 outputs", "return them, and nothing else"]),
        (Sums(6, NUM_LABELS), ["shape [s", "expected logits [N, L]"]),
        (Frozen(6, NUM_LABELS), ["batch axis is frozen", "2 rows or more"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_converted_says_what_where_and_what_to_do(
    network: nn.Module, words: list[str]
) -> None:
    program = program_of(network, torch.randn(3, 6))
    with pytest.raises(ConversionError) as error:
        convert(program)
    for word in words:
        assert word in str(error.value)


def test_bfloat16_inputs_are_refused() -> None:
    program = program_of(TakesNarrow(6, 2), torch.zeros(3, 6, dtype=torch.bfloat16))
    with pytest.raises(ConversionError, match='input "features" is BF16'):
        convert(program)


def test_a_batch_with_bounds_is_refused() -> None:
    batch = torch.export.Dim("batch", min=2, max=16)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        program = torch.export.export(
            nn.Linear(6, 2), (torch.randn(3, 6),), dynamic_shapes=[{0: batch}]
        )
    with pytest.raises(ConversionError, match="takes 2 to 16 rows only"):
        convert(program)


def test_inputs_whose_rows_are_not_tied_together_are_refused() -> None:
    class Two(nn.Linear):
        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return super().forward(one) + other.mean()

    program = program_of(Two(6, 2), torch.randn(3, 6), torch.randn(3, 6))
    with pytest.raises(ConversionError, match="different batch axes .one: s"):
        convert(program)


def test_the_file_must_be_a_torch_program(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="serialization_format"):
        load_program(tmp_path / "model.pt2")
    (tmp_path / "model.pt2").write_bytes(b"no program")
    with pytest.raises(ConversionError, match="not a torch program"):
        load_program(tmp_path / "model.pt2")


def test_nothing_of_the_training_machine_is_left() -> None:
    model = convert(program_of(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), torch.randn(3, 6)))
    content = ir.to_proto(model).SerializeToString()
    assert b"test_convert" not in content
    assert str(Path.cwd()).encode() not in content
    assert (model.opset_imports[""], model.ir_version) == (20, 10)
