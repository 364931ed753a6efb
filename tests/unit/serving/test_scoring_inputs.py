"""Texts, n-grams and pictures become the inputs that training made of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from support.scoring import engine_of, read_parts, read_rejects, score_into
from support.text_models import logits, publish_text_model, write_tokenizer
from thresher import Decision
from thresher.artifacts.input_spec import InputSpec, NgramSpec, PictureSpec, TextSpec
from thresher.certificate import CERTIFICATE_FILE
from thresher.errors import DataError
from thresher.ngrams import hashed_ngrams
from thresher.observations import Observations
from thresher.published_models import PublishedModels
from thresher.repository import MODEL_FILE, ModelRepository
from thresher.tables.pictures import decode_picture
from thresher_serving.scoring import OutputForm, ScoredVersion, ScoringOptions, score

TEXTS = ["i love this", "so sad", "", "really, why?", "i love this so really really sad, why? why?"]


def scored_version(root: Path, name: str, how: InputSpec) -> ScoredVersion:
    """Return a published version with what its export would have written beside it."""
    folder = root / name / "1"
    (folder / "inputs.json").write_text(how.to_json())
    return ScoredVersion.published(PublishedModels(root), name, 1, unproven=True)


@pytest.fixture(scope="module", params=[None, 8], ids=["any length", "of 8 tokens"])
def text_version(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ScoredVersion:
    root = tmp_path_factory.mktemp("texts") / "models"
    publish_text_model(root, 1, length=request.param, with_text=False, serve=True)
    write_tokenizer(root / "emotions" / "1" / "tokenizer.json")
    return scored_version(root, "emotions", InputSpec(text=TextSpec(max_length=8)))


@pytest.mark.parametrize("batch_rows", [1, 2, 64])
def test_texts_get_what_their_tokens_get(text_version: ScoredVersion, batch_rows: int) -> None:
    rows = pa.table({"text": TEXTS})
    found = score(text_version, rows, engine_of(text_version, batch_rows=batch_rows))
    expected = [logits(text, 1) for text in TEXTS]
    told = text_version.decision.probabilities(np.float32(expected))
    np.testing.assert_allclose(np.stack(found.table["probabilities"].to_numpy()), told, atol=1e-6)
    assert found.table["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert found.tally.seen is not None
    assert found.tally.seen.feature_names == ("length",)
    assert found.tally.seen.sums_F.tolist() == [3 + 2 + 0 + 4 + 8]


def test_texts_that_are_none_are_rejected(text_version: ScoredVersion, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,comment\n1,so sad\n2,\xff\xfe\n3,i love this\n")
    options = ScoringOptions(form=OutputForm(columns=("id",)), text_column="comment")
    score_into(text_version, tmp_path / "in.csv", tmp_path / "out", options)
    assert read_parts(tmp_path / "out")["id"].to_pylist() == ["1", "3"]
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["id"], reject["row"]) == ("2", 1)
    assert reject["reason"] == "not UTF-8: invalid start byte at byte 0"
    found = score(text_version, pa.table({"text": ["so", None]}), engine_of(text_version))
    assert found.rejects.to_pylist()[0]["reason"] == "missing, expected a text"


@pytest.mark.parametrize("batch_rows", [4, 32])
def test_what_is_observed_of_many_texts_is_a_fair_sample(
    text_version: ScoredVersion, batch_rows: int
) -> None:
    lengths = np.random.default_rng(0).integers(1, 9, 40_000)
    rows = pa.table({"text": [" ".join(["so"] * length) for length in lengths]})
    seen = score(text_version, rows, engine_of(text_version, batch_rows=batch_rows)).tally.seen
    assert seen is not None
    assert seen.num_rows == 40_000
    assert 17_000 < seen.num_sampled == seen.features.num_rows < 36_000
    mean = seen.sums_F[0] / seen.features.num_rows
    spread = lengths.std() / np.sqrt(seen.num_sampled)
    assert abs(mean - lengths.mean()) < 5 * spread


def test_token_ids_are_taken_where_the_table_holds_them(text_version: ScoredVersion) -> None:
    ids = pa.array([[2, 3, 4, 0, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0, 0, 0]])
    mask = pa.array([[1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]])
    rows = pa.table({"input_ids": ids, "attention_mask": mask})
    found = score(text_version, rows, engine_of(text_version))
    told = text_version.decision.probabilities(np.float32([logits(t, 1) for t in TEXTS[:2]]))
    np.testing.assert_allclose(np.stack(found.table["probabilities"].to_numpy()), told, atol=1e-6)


def test_a_table_without_the_texts_says_which_columns_it_has(text_version: ScoredVersion) -> None:
    with pytest.raises(DataError, match=r'unknown column "text"; did you mean "texts"\?.*--text'):
        score(text_version, pa.table({"texts": TEXTS}), engine_of(text_version))


def publish_network(root: Path, name: str, body: onnx.ModelProto) -> None:
    """Publish a network of two labels with its head."""
    from thresher_export.head import append_decision_head
    from thresher_export.triton_config import build_config

    decision = Decision(labels=("a", "b"), thresholds=[0.5, 0.5])
    model = ir.to_proto(append_decision_head(ir.from_proto(body), decision))
    repository = ModelRepository(root)
    with repository.staging(name) as staged:
        (staged / MODEL_FILE).write_bytes(model.SerializeToString())
        (staged / CERTIFICATE_FILE).write_text("{}")
        config = build_config(model, decision, name=name, version=1)
        repository.publish(name, 1, staged, config, decision)


def test_ngrams_are_hashed_as_in_training(tmp_path: Path) -> None:
    options = {"words": 2, "num_buckets": 50, "max_ngrams": 6}
    rows = ["batch", 6]
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["ngram_ids", "ngram_mask"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
            helper.make_node("ReduceSum", ["ngram_mask", "axis"], ["count"], keepdims=1),
            helper.make_node("Concat", ["sum", "count"], ["both"], axis=1),
            helper.make_node("Cast", ["both"], ["logits"], to=TensorProto.FLOAT),
        ],
        "graph",
        [
            helper.make_tensor_value_info(n, TensorProto.INT64, rows)
            for n in ("ngram_ids", "ngram_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(np.int64([1]), "axis")],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    publish_network(tmp_path, "ngrams", body)
    version = scored_version(tmp_path, "ngrams", InputSpec(ngrams=NgramSpec(**options)))  # type: ignore[arg-type]
    found = score(version, pa.table({"text": TEXTS}), engine_of(version))
    arrays = hashed_ngrams(TEXTS, **options)  # type: ignore[arg-type]
    sums = (arrays["ngram_ids"] * arrays["ngram_mask"]).sum(axis=1)
    told = np.stack([sums, arrays["ngram_mask"].sum(axis=1)], axis=1).astype(np.float32)
    np.testing.assert_allclose(
        np.stack(found.table["probabilities"].to_numpy()),
        version.decision.probabilities(told),
        atol=1e-6,
    )


@pytest.fixture(scope="module")
def picture_version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    """A network whose logits are the mean of red and of blue, less 128, as a share of 64."""
    root = tmp_path_factory.mktemp("pictures")
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
            node("Gather", ["means", "which"], ["two"], axis=1),
            node("Sub", ["two", "middle"], ["around"]),
            node("Div", ["around", "scale"], ["logits"]),
        ],
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [
            numpy_helper.from_array(np.int64([2, 3]), "axes"),
            numpy_helper.from_array(np.int64([0, 2]), "which"),
            numpy_helper.from_array(np.float32([128]), "middle"),
            numpy_helper.from_array(np.float32([64]), "scale"),
        ],
    )
    body = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    publish_network(root, "colours", body)
    how = InputSpec(pictures=PictureSpec(column="photo", size=8, resize="crop"))
    return scored_version(root, "colours", how)


def write_pictures(folder: Path) -> npt.NDArray[np.uint8]:
    """Write six pictures; return them as the network takes them."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    found = []
    for at in range(6):
        height, width = 10 + at, 20 - at
        pixels = np.full((height, width, 3), rng.integers(0, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{at}.png")
        found.append(decode_picture(folder / f"{at}.png", size=8))
    return np.stack(found)


def expected_of(version: ScoredVersion, pictures: npt.NDArray[np.uint8]) -> list[list[str]]:
    """Return the labels of pictures, by NumPy."""
    means = pictures[:, [0, 2]].astype(np.float32).mean(axis=(2, 3))
    labels = version.decision.decide(version.decision.probabilities((means - 128) / 64))
    return [[name for name, yes in zip("ab", row, strict=True) if yes] for row in labels]


def test_a_folder_of_pictures(picture_version: ScoredVersion, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "in")
    (tmp_path / "in" / "3.png").write_bytes(b"not a picture")
    report = score_into(
        picture_version,
        tmp_path / "in",
        tmp_path / "out",
        ScoringOptions(form=OutputForm(columns=("file",))),
    )
    found = read_parts(tmp_path / "out")
    kept = [0, 1, 2, 4, 5]
    assert found["file"].to_pylist() == [f"{at}.png" for at in kept]
    assert found["labels"].to_pylist() == expected_of(picture_version, pictures[kept])
    (reject,) = read_rejects(tmp_path / "out")
    assert (reject["file"], reject["row"]) == ("3.png", 3)
    assert "cannot be decoded" in reject["reason"]
    assert report.tally.seen is not None
    assert report.tally.seen.feature_names == ("image: mean", "image: standard deviation")


def test_a_table_that_names_pictures_or_holds_them(
    picture_version: ScoredVersion, tmp_path: Path
) -> None:
    pictures = write_pictures(tmp_path / "in")
    names = [f"{at}.png" for at in range(6)]
    told = expected_of(picture_version, pictures)
    pq.write_table(pa.table({"photo": [*names, "none.png", None]}), tmp_path / "in/names.parquet")
    (tmp_path / "in" / "metadata.csv").write_text("\n".join(["file_name", *names]) + "\n")
    score_into(picture_version, tmp_path / "in/metadata.csv", tmp_path / "csv", ScoringOptions())
    assert read_parts(tmp_path / "csv")["labels"].to_pylist() == told
    score_into(picture_version, tmp_path / "in/names.parquet", tmp_path / "out", ScoringOptions())
    assert read_parts(tmp_path / "out")["labels"].to_pylist() == told
    reasons = [row["reason"] for row in read_rejects(tmp_path / "out")]
    assert reasons[0].startswith("none.png: no such picture: ")
    assert reasons[1] == "missing, expected a picture"
    content = [(tmp_path / "in" / name).read_bytes() for name in names]
    found = score(picture_version, pa.table({"photo": content}), engine_of(picture_version))
    assert found.table["labels"].to_pylist() == told


def test_observations_of_parts_add_up_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    logits_NL = rng.normal(size=(100_000, 3)).astype(np.float32)
    inputs = {"features": rng.normal(size=(100_000, 5)).astype(np.float32)}
    few = slice(0, 40_000)
    whole = Observations.of(
        logits_NL[few], logits_NL[few] > 0, {"features": inputs["features"][few]}
    )
    parts = [
        Observations.of(logits_NL[at], logits_NL[at] > 0, {"features": inputs["features"][at]})
        for at in (slice(0, 10_000), slice(10_000, 40_000))
    ]
    both = parts[0] + parts[1]
    assert np.array_equal(both.scores.counts_LKB, whole.scores.counts_LKB)
    assert np.array_equal(both.features.counts_LKB, whole.features.counts_LKB)
    assert np.array_equal(both.positives_L, whole.positives_L)
    again = Observations.from_bytes(both.to_bytes())
    assert again.feature_names == both.feature_names == tuple(f"features[{k}]" for k in range(5))
    assert np.array_equal(again.sums_F, both.sums_F)
    buffer = io.BytesIO(b"not these")
    with pytest.raises(DataError, match="not observations"):
        Observations.from_bytes(buffer.getvalue())
