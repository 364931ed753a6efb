"""What is refused before the first epoch."""

import numpy as np
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from torch import nn

from thresher.errors import ConversionError, TrainingError
from thresher.registry import connect
from thresher_export.convert import convert, load_program
from thresher_training import Split
from thresher_training.networks import mlp
from thresher_training.preflight import check_network

TRAIN = Split(
    inputs={"left": np.ones((4, 2), np.float32), "right": np.ones((4, 3), np.float32)},
    targets_NL=np.zeros((4, 2), np.float32),
)


class Two(nn.Module):
    """Two inputs, in another order than the data's."""

    def __init__(self, num_labels=2):
        super().__init__()
        self.linear = nn.Linear(5, num_labels)

    def forward(self, right, left, scale=1.0):
        return self.linear(torch.cat([left, right], dim=1)) * scale


class Misnamed(Two):
    def forward(self, left, middle):
        return super().forward(left, middle)


class Starred(Two):
    def forward(self, *inputs):
        return super().forward(*inputs)


class Extra(Two):
    def forward(self, left, right, mask):
        return super().forward(right, left) * mask


class Summed(Two):
    def forward(self, left, right):
        return super().forward(right, left).sum(dim=1)


class Half(Two):
    def forward(self, left, right):
        return super().forward(right, left).half()


class Wrapped(Two):
    def forward(self, left, right):
        return {"logits": super().forward(right, left)}


class Branching(Two):
    def forward(self, left, right):
        logits = super().forward(right, left)
        return logits if bool(left.sum() > 0) else -logits


class FixedBatch(Two):
    def forward(self, left, right):
        return super().forward(right, left).reshape(3, -1)


class Apart(nn.Module):
    """A layer for each input, so that rows of one need not be rows of the other."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.second = nn.Linear(3, 2)

    def forward(self, left, right):
        return self.first(left) + self.second(right).mean(dim=0)


class AddedLate(Apart):
    def forward(self, left, right):
        return self.first(left).relu() + self.second(right).relu()


class Unused(Apart):
    def forward(self, left, right):
        return self.first(left)


class SaidAlike(Apart):
    def forward(self, left, right):
        if left.shape[0] != right.shape[0]:
            raise ValueError("as the message advises")
        return super().forward(left, right)


class NumberOfRowsAsInt(Apart):
    def forward(self, left, right):
        return (self.first(left) + self.second(right)).reshape(int(left.shape[0]), -1)


class AnswersThreeRows(Apart):
    def forward(self, left, right):
        return torch.zeros(3, 2) + self.first(left + right[:, :2]).mean(dim=0)


class ManyRowsOnly(AddedLate):
    def forward(self, left, right):
        logits = super().forward(left, right)
        return logits if left.shape[0] > 2 else -logits


class FewRowsOnly(AddedLate):
    def forward(self, left, right):
        logits = super().forward(left, right)
        return logits if left.shape[0] <= 64 else -logits


class Frozen(Two):
    def __init__(self):
        super().__init__()
        self.requires_grad_(requires_grad=False)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(2)

    def forward(self, left, right):
        return self.linear(torch.cat([left, right], dim=1))


def test_inputs_come_in_forwards_order():
    assert tuple(check_network(Two(), TRAIN)) == ("right", "left")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Two(3), r"Two gives torch.float32 \[3, 3\] for 3 rows, expected .* \[3, 2\]"),
        (Summed(), r"Summed gives torch.float32 \[3\] for 3 rows"),
        (Half(), r"Half gives torch.float16 \[3, 2\]"),
        (Wrapped(), r'Wrapped gives a dict \(logits\); return its \["logits"\] alone from forward'),
        (Misnamed(), r"forward takes \(left, middle\), the data's inputs are left, right"),
        (Starred(), r"forward takes \(\*inputs\)"),
        (Extra(), r"forward takes \(left, right, mask\)"),
        (mlp(num_labels=2, num_features=5), r"forward takes \(features: .*Tensor"),
        (FixedBatch(), "cannot be exported with a dynamic batch axis"),
        (
            Branching(),
            r'decides by the values in .*line \d+: "return logits if bool.*torch\.where',
        ),
        (
            Apart(),
            r"that left and right have the same number of rows.*if left\.shape\[0\] != right",
        ),
        (Unused(), "that left and right have the same number of rows"),
        (
            NumberOfRowsAsInt(),
            "left and right and the logits came out with the trial batch's 3 rows",
        ),
        (AnswersThreeRows(), "axis, which serving needs: the logits came out with .* 3 rows"),
        (ManyRowsOnly(), "came out for 3 to int_oo rows only, expected any number"),
        (FewRowsOnly(), "came out for 2 to 64 rows only, expected any number"),
        (Frozen(), "no parameters that can be trained"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_network_that_does_not_fit_is_refused(network, message):
    with pytest.raises(TrainingError, match=message):
        check_network(network, TRAIN)


@pytest.mark.parametrize("network", [AddedLate(), SaidAlike()], ids=lambda n: type(n).__name__)
def test_what_passes_goes_through_mlflow_and_becomes_an_onnx_model(network, tmp_path):
    assert_preflight_agrees(network, tmp_path, passes=True)


@pytest.mark.parametrize("network", [Apart(), NumberOfRowsAsInt()], ids=lambda n: type(n).__name__)
def test_what_is_refused_could_not_have_become_one(network, tmp_path):
    assert_preflight_agrees(network, tmp_path, passes=False)


def assert_preflight_agrees(network, folder, *, passes):
    """Log a network's program as MLflow does and convert it; compare with what preflight says."""
    mlflow = connect()
    try:
        order = tuple(check_network(network, TRAIN))
    except TrainingError:
        assert not passes
        order = ("left", "right")
    example = tuple(TRAIN.inputs[name][:3] for name in order)
    spec = [TensorSpec(a.dtype, (-1, *a.shape[1:]), n) for n, a in zip(order, example, strict=True)]
    mlflow.pytorch.save_model(
        network.eval(),
        folder / "model",
        serialization_format="pt2",
        input_example=example,
        signature=ModelSignature(inputs=Schema(spec)),
        pip_requirements=["torch"],
    )
    program = load_program(folder / "model" / "data" / "model.pt2")
    if passes:
        assert [value.shape[0].value for value in convert(program).graph.inputs] == ["batch"] * 2
    else:
        with pytest.raises(ConversionError, match="batch ax"):
            convert(program)


def test_a_network_that_fails_says_on_what():
    wide = Split(inputs={"features": np.ones((4, 6), np.float32)}, targets_NL=TRAIN.targets_NL)
    with pytest.raises(
        TrainingError, match=r"_Mlp fails on .*torch.float32 \[3, 6\].*RuntimeError"
    ):
        check_network(mlp(num_labels=2, num_features=5), wide)


def test_mode_and_weights_are_left_and_lazy_layers_take_their_shape():
    network = Lazy().train()
    check_network(network, TRAIN)
    assert network.training
    assert network.linear.weight.shape == (2, 5)
    before = network.linear.weight.clone()
    check_network(network, TRAIN)
    assert torch.equal(network.linear.weight, before)


def test_a_single_row_is_enough():
    one = Split(
        inputs={"features": np.ones((1, 5), np.float32)}, targets_NL=np.zeros((1, 2), np.float32)
    )
    assert check_network(mlp(num_labels=2, num_features=5), one) == {"features": (0,)}


class Wide(nn.Module):
    """Takes exactly three columns."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, ids, mask):
        return self.linear(ids * mask)


def test_a_network_of_fixed_width_is_refused_where_padding_is_cut_off():
    ones = np.ones((4, 3), np.float32)
    train = Split(inputs={"ids": ones, "mask": ones}, targets_NL=TRAIN.targets_NL)
    assert check_network(Wide(), train) == {"ids": (0,), "mask": (0,)}
    with pytest.raises(TrainingError, match="trim_by cuts padding off each batch"):
        check_network(Wide(), train, trim_by="mask")


def test_a_network_that_is_not_trained_needs_no_parameters_to_train():
    assert check_network(Frozen(), TRAIN, is_trained=False) == {"right": (0,), "left": (0,)}


class MeanOfTokens(nn.Module):
    """Takes any number of columns."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.output = nn.Linear(7, 2)

    def forward(self, ids, features, mask):
        weights = mask.unsqueeze(-1)
        mean = (self.embedding(ids) * weights).sum(1) / weights.sum(1).clamp(min=1)
        return self.output(torch.cat([mean, features], dim=1))


class Recurrent(MeanOfTokens):
    """Takes any number of columns, of which torch makes a constant on export."""

    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 4, batch_first=True)

    def forward(self, ids, features, mask):
        if ids.shape[0] != mask.shape[0]:
            raise ValueError
        last = self.layer(self.embedding(ids))[0][:, -1]
        return self.output(torch.cat([last, features], dim=1))


TOKENS = Split(
    inputs={
        "ids": np.ones((4, 6), np.int64),
        "features": np.ones((4, 3), np.float32),
        "mask": np.ones((4, 6), np.float32),
    },
    targets_NL=np.eye(4, 2, dtype=np.float32),
)


def test_lengths_that_are_trimmed_stay_free():
    assert check_network(MeanOfTokens(), TOKENS, trim_by="mask") == {
        "ids": (0, 1),
        "features": (0,),
        "mask": (0, 1),
    }
    assert check_network(MeanOfTokens(), TOKENS)["ids"] == (0,)


def test_a_length_that_torch_fixes_is_said_to_be_fixed():
    free_axes = check_network(Recurrent(), TOKENS, trim_by="mask")
    assert free_axes["ids"] == (0,)
