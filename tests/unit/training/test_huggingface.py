"""Hugging Face models as networks: tiny BERTs with random weights, saved to a folder."""

import json

import numpy as np
import pytest
import torch

from thresher.errors import ConfigError, DataError, NotFoundError
from thresher_training.data import Split
from thresher_training.huggingface import encoder, sequence_classifier
from thresher_training.preflight import check_network

transformers = pytest.importorskip("transformers", reason="needs: pip install -e '.[text]'")

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A fine-tuned classifier's folder, labels in the order wet, windy, bright."""
    torch.manual_seed(0)
    names = {0: "wet", 1: "windy", 2: "bright"}
    config = transformers.BertConfig(
        **SMALL, id2label=names, problem_type="multi_label_classification"
    )
    return saved(
        transformers.BertForSequenceClassification(config), tmp_path_factory.mktemp("classifier")
    )


def saved(model, folder):
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return folder


def batch(num_rows=5, width=9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 40, (num_rows, width), generator=generator)
    lengths = torch.randint(1, width + 1, (num_rows, 1), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths).long()}


def split(num_labels):
    inputs = {name: tensor.numpy() for name, tensor in batch().items()}
    return Split(inputs=inputs, targets_NL=np.zeros((5, num_labels)))


def test_a_classifier_gives_the_very_logits_of_transformers(folder):
    network = sequence_classifier(num_labels=3, folder=str(folder)).eval()
    own = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert torch.equal(network(**batch()), own(**batch()).logits)


def test_logits_are_put_into_the_order_of_the_data(folder):
    names = ["bright", "wet", "windy"]
    plain = sequence_classifier(num_labels=3, folder=str(folder)).eval()
    ordered = sequence_classifier(num_labels=3, folder=str(folder), label_names=names).eval()
    with torch.no_grad():
        assert torch.equal(ordered(**batch()), plain(**batch())[:, [2, 0, 1]])


def test_names_that_transformers_made_up_are_not_compared(tmp_path):
    config = transformers.BertConfig(**SMALL, num_labels=2)
    place = saved(transformers.BertForSequenceClassification(config), tmp_path)
    sequence_classifier(num_labels=2, folder=str(place), label_names=["a", "b"])


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_networks_can_be_exported_and_take_trimmed_batches(folder, pooling):
    for network in (
        sequence_classifier(
            num_labels=3, folder=str(folder), label_names=["bright", "wet", "windy"]
        ),
        encoder(num_labels=3, folder=str(folder), pooling=pooling),
    ):
        free_axes = check_network(network, split(3), trim_by="attention_mask")
        assert free_axes == {"input_ids": (0, 1), "attention_mask": (0, 1)}


def test_padding_changes_no_logit_of_an_encoder(folder):
    network = encoder(num_labels=4, folder=str(folder)).eval()
    inputs = batch(width=8)
    inputs["attention_mask"][:, 5:] = 0
    inputs["attention_mask"][:, :5] = 1
    with torch.no_grad():
        padded = network(**inputs)
        cut = network(**{name: tensor[:, :5] for name, tensor in inputs.items()})
    torch.testing.assert_close(padded, cut)


def test_the_mean_is_over_the_tokens_that_the_mask_shows(folder):
    network = encoder(num_labels=4, folder=str(folder)).eval()
    own = transformers.AutoModel.from_pretrained(folder).eval()
    inputs = batch()
    with torch.no_grad():
        hidden = own(**inputs).last_hidden_state
        rows = zip(hidden, inputs["attention_mask"], strict=True)
        pooled = torch.stack([states[mask == 1].mean(dim=0) for states, mask in rows])
        torch.testing.assert_close(network(**inputs), network.head(pooled))


@pytest.mark.parametrize(("train_layers", "num_layers"), [(None, 3), (3, 3), (1, 1), (0, 0)])
def test_only_the_asked_layers_learn_and_each_of_them_gets_a_gradient(
    folder, train_layers, num_layers
):
    network = encoder(num_labels=4, folder=str(folder), train_layers=train_layers)
    network(**batch()).square().sum().backward()
    learning = {n for n, p in network.named_parameters() if p.requires_grad}
    with_gradient = {n for n, p in network.named_parameters() if p.grad is not None}
    assert learning == with_gradient
    layers = {n.split("layer.")[1].split(".")[0] for n in learning if "layer." in n}
    assert layers == {str(at) for at in range(3 - num_layers, 3)}
    assert any("embeddings" in n for n in learning) == (train_layers is None)


def test_the_seed_gives_the_first_weights_of_the_head(folder):
    from thresher_training.loop import seeded

    def head():
        with seeded(3):
            return encoder(num_labels=4, folder=str(folder)).head.weight

    assert torch.equal(head(), head())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 4}, "has 3 labels, the data has 4 labels"),
        ({"label_names": ["wet", "windy", "brihgt"]}, 'unknown label "brihgt"; did you mean "bri'),
        ({"label_names": ["wet", "windy"]}, 'id2label holds "bright", which label_names lacks'),
    ],
)
def test_other_labels_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        sequence_classifier(**{"num_labels": 3, "folder": str(folder), **options})


def test_a_model_that_picks_one_label_of_many_is_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["problem_type"] = "single_label_classification"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="its outputs exclude each other"):
        sequence_classifier(num_labels=3, folder=str(tmp_path))


def test_an_encoder_without_a_head_is_no_classifier(tmp_path):
    place = saved(transformers.BertModel(transformers.BertConfig(**SMALL)), tmp_path)
    with pytest.raises(
        ConfigError, match=r"lacks the weights classifier\.bias.*huggingface:encoder"
    ):
        sequence_classifier(num_labels=2, folder=str(place))


def test_folders_that_hold_no_model_are_told(folder, tmp_path):
    with pytest.raises(NotFoundError, match=r"holds no config\.json.*nothing is downloaded"):
        encoder(num_labels=2, folder=str(tmp_path))
    with pytest.raises(DataError, match='no package "nothing_of_that_name" is installed'):
        encoder(num_labels=2, folder="python:nothing_of_that_name/model")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(NotFoundError, match="holds no model that transformers reads as AutoModel"):
        encoder(num_labels=2, folder=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "men"}, 'unknown pooling "men"; did you mean "mean"'),
        ({"train_layers": 4}, "train_layers is 4, expected from 0 to 3"),
    ],
)
def test_options_out_of_range_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        encoder(num_labels=2, folder=str(folder), **options)


def test_a_model_without_a_padding_token_is_refused_with_what_to_set(tmp_path):
    config = transformers.GPT2Config(
        vocab_size=40,
        n_positions=24,
        n_embd=16,
        n_layer=1,
        n_head=2,
        num_labels=3,
        bos_token_id=1,
        eos_token_id=7,
        problem_type="multi_label_classification",
    )
    place = saved(transformers.GPT2ForSequenceClassification(config), tmp_path)
    with pytest.raises(ConfigError, match=r"no pad_token_id.*eos_token_id will do: 7"):
        sequence_classifier(num_labels=3, folder=str(place))
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**written, "pad_token_id": 7}))
    sequence_classifier(num_labels=3, folder=str(place))
