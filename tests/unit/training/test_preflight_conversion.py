"""What cannot become an ONNX model, or cannot take the longest row, is refused before training."""

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence

from thresher.errors import TrainingError
from thresher_training import Split
from thresher_training.preflight import check_conversion, check_network, try_network
from thresher_training.refusals import unwrapped

NUMBERS = Split(
    inputs={"x": np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)},
    targets_NL=np.eye(8, 3, dtype=np.float32),
)


def token_rows(length, *, pad=0, vocabulary=50):
    """Six short texts, padded to a length."""
    rng = np.random.default_rng(0)
    ids, mask = np.full((6, length), pad), np.zeros((6, length), np.int64)
    for row in range(6):
        num_tokens = rng.integers(3, 8)
        ids[row, :num_tokens] = rng.integers(5, vocabulary, num_tokens)
        mask[row, :num_tokens] = 1
    return Split(
        inputs={"input_ids": ids, "attention_mask": mask},
        targets_NL=np.eye(6, 3, dtype=np.float32),
    )


class Linear(nn.Module):
    def __init__(self, inner=None):
        super().__init__()
        self.inner = inner or nn.Linear(6, 6)
        self.output = nn.Linear(6, 3)

    def forward(self, x):
        return self.output(self.inner(x))


class Median(Linear):
    def forward(self, x):
        return super().forward(x - x.median(1, keepdim=True).values)


class MixesRows(Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class FakeQuantized(Linear):
    def forward(self, x):
        return super().forward(torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127))


class ThroughNumpy(Linear):
    def forward(self, x):
        return super().forward(torch.from_numpy(np.abs(x.numpy())))


class Pairs(Linear):
    def forward(self, x):
        return super().forward(x), x


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.cell = nn.LSTM(8, 3, batch_first=True)

    def forward(self, input_ids, attention_mask):
        lengths = attention_mask.sum(1)
        packed = pack_padded_sequence(
            self.embedding(input_ids), lengths, batch_first=True, enforce_sorted=False
        )
        return self.cell(packed)[1][0][-1]


def prepared_for_quantization():
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    network = nn.Sequential(Linear(), nn.Dropout(0.5)).train()
    network.qconfig = get_default_qat_qconfig("fbgemm")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_qat(network)

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = prepared

        def forward(self, x):
            return self.body(x)

    return Named()


def scripted(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Median, ["aten.median has no ONNX translation", "test_preflight_conversion.py, line"]),
        (
            lambda: Linear(parametrizations.orthogonal(nn.Linear(6, 6))),
            ['"inner" is parametrized', "orthogonal cannot"],
        ),
        (MixesRows, ["other logits than the network for a row alone", "depend on each other"]),
        (FakeQuantized, ["quantizes", "fake_quantize_per_tensor", "--precision int8"]),
        (prepared_for_quantization, ["prepared for quantization", "before torch.ao.quantization"]),
        (ThroughNumpy, ["leaves torch for NumPy", "np.abs(x.numpy())"]),
        (Pairs, ["gives a tuple of 2", "return the logits alone"]),
        (lambda: Linear().double(), ["torch.float64", "network.float()"]),
        (
            lambda: scripted(lambda: torch.jit.trace(Linear(), torch.randn(3, 6))),
            ["TorchScript (Linear", "hand over the nn.Module"],
        ),
        (lambda: scripted(lambda: torch.jit.script(Linear())), ["TorchScript", "hand over"]),
    ],
)
def test_what_cannot_be_exported_says_what_to_change(make, words):
    with pytest.raises(TrainingError) as error:
        check_network(make(), NUMBERS)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_packed_sequences_are_named_with_what_to_do_instead():
    with pytest.raises(TrainingError, match=r"packs sequences .*padded rows.*mask"):
        check_network(Packed(), token_rows(9))


def test_attention_that_cannot_be_converted_names_the_one_that_can():
    transformers = pytest.importorskip("transformers")

    class Swin(nn.Module):
        def __init__(self, attention):
            super().__init__()
            config = transformers.SwinConfig(
                image_size=16,
                patch_size=2,
                embed_dim=8,
                depths=[1],
                num_heads=[2],
                window_size=4,
                num_labels=3,
                attn_implementation=attention,
            )
            self.model = transformers.SwinForImageClassification(config)

        def forward(self, image):
            return self.model(pixel_values=image.float() / 255).logits

    rng = np.random.default_rng(0)
    pictures = Split(
        inputs={"image": rng.integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)},
        targets_NL=np.eye(4, 3, dtype=np.float32),
    )
    with pytest.raises(TrainingError, match='load it with attn_implementation="eager"'):
        check_network(Swin("sdpa"), pictures)
    assert check_network(Swin("eager"), pictures) == {"image": (0,)}


def test_wrappers_are_taken_off():
    network = Linear()
    compiled = torch.compile(nn.DataParallel(network), backend="eager")
    assert unwrapped(compiled) is network
    assert check_network(torch.compile(network, backend="eager"), NUMBERS) == {"x": (0,)}


def test_arithmetic_on_pictures_of_bytes_is_no_obstacle():
    class Inverted(Linear):
        def forward(self, x):
            return super().forward((255 - x).float() / 255)

    rows = Split(
        inputs={"x": np.random.default_rng(0).integers(0, 256, (8, 6), dtype=np.uint8)},
        targets_NL=NUMBERS.targets_NL,
    )
    assert check_network(Inverted(), rows) == {"x": (0,)}


def test_without_onnx_the_check_says_which_package_is_missing(monkeypatch):
    trial = try_network(Median(), NUMBERS)
    monkeypatch.delitem(sys.modules, "thresher_export.trial", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert check_conversion(trial) == "onnxruntime"


def classifier(kind, **options):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "DistilBert":
        sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
    if kind == "Albert":
        sizes["embedding_size"] = 16
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, num_labels=3, **sizes, **options)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = getattr(transformers, f"{kind}ForSequenceClassification")(config)

        def forward(self, input_ids, attention_mask):
            if input_ids.shape != attention_mask.shape:
                raise ValueError
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits()


@pytest.mark.parametrize(
    ("kind", "positions", "pad"),
    [
        ("Bert", 24, 0),
        ("DistilBert", 24, 0),
        ("Albert", 24, 0),
        ("Roberta", 26, 1),  # two of them stand for padding
        ("XLMRoberta", 26, 1),
        ("MPNet", 26, 1),
    ],
)
def test_a_model_with_too_few_positions_says_which_length_to_set(kind, positions, pad):
    network = classifier(kind, max_position_embeddings=positions, pad_token_id=pad)
    assert try_network(network, token_rows(24, pad=pad), trim_by="attention_mask")
    with pytest.raises(TrainingError, match=r"at most 24 tokens.* have 40: set max_length = 24"):
        try_network(network, token_rows(40, pad=pad), trim_by="attention_mask", is_trained=False)


def test_relative_positions_have_no_longest_row():
    network = classifier(
        *("DebertaV2",),
        max_position_embeddings=24,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
    )
    assert try_network(network, token_rows(40), trim_by="attention_mask")


def test_ids_that_an_embedding_does_not_have_are_found():
    network = classifier("Bert", max_position_embeddings=24)
    rows = token_rows(12)
    rows.inputs["input_ids"][5, 2] = 77  # not among the first rows
    with pytest.raises(TrainingError, match=r"largest id is 77, .*word_embeddings\" has 50"):
        try_network(network, rows)
    with pytest.raises(TrainingError, match=r"the id 50 in input_ids, .* embedding of 51 rows"):
        try_network(network, token_rows(12), largest={"input_ids": 50})
    assert try_network(network, token_rows(12), largest={"input_ids": 49})
