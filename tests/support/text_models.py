"""Publishes versions of a model of tokens, each with a tokenizer of its own, and what takes texts.

The logits are the number of tokens and the mean of their ids, plus the version: every answer tells
which version gave it, and which version's tokenizer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import tokenizers
from onnx import TensorProto, helper, numpy_helper

from support.versions import write_certificate
from thresher import Decision
from thresher.certificate import Certificate
from thresher.evaluation import EvaluationSplit
from thresher.golden import GOLDEN_FILE
from thresher.registry import ModelVersion
from thresher.repository import MODEL_FILE, ModelRepository
from thresher_export.text_service import TextService
from thresher_export.triton_config import build_config
from thresher_export.triton_options import TritonOptions

LABELS = ("joy", "sadness")
WORDS = ("[UNK]", "[PAD]", "i", "love", "this", "so", "sad", "really", ",", "why", "?")


def write_tokenizer(path: Path, *, version: int = 1) -> Path:
    """Write a tokenizer of whole words, whose numbers begin anew with each version."""
    shifted = [*WORDS[:2], *(f"unused{n}" for n in range(version - 1)), *WORDS[2:]]
    vocabulary = {word: number for number, word in enumerate(shifted)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(path))
    return path


def network(version: int, length: int | None) -> onnx.ModelProto:
    """Return a network of tokens with its decision."""
    value, node = helper.make_tensor_value_info, helper.make_node
    rows = ["batch", length or "sequence"]
    graph = helper.make_graph(
        [
            node("Cast", ["input_ids"], ["ids"], to=TensorProto.FLOAT),
            node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            node("Mul", ["ids", "mask"], ["kept"]),
            node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=1),
            node("ReduceSum", ["mask", "axis"], ["count"], keepdims=1),
            node("Max", ["count", "one"], ["some"]),
            node("Div", ["sum", "some"], ["mean"]),
            node("Concat", ["count", "mean"], ["both"], axis=1),
            node("Add", ["both", "version"], ["logits"]),
            node("Sigmoid", ["logits"], ["probabilities"]),
            node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
        ],
        "graph",
        [value(n, TensorProto.INT64, rows) for n in ("input_ids", "attention_mask")],
        [
            value("probabilities", TensorProto.FLOAT, ["batch", 2]),
            value("labels", TensorProto.BOOL, ["batch", 2]),
            value("logits", TensorProto.FLOAT, ["batch", 2]),
        ],
        [
            numpy_helper.from_array(np.int64([1]), "axis"),
            numpy_helper.from_array(np.float32([1]), "one"),
            numpy_helper.from_array(np.float32([version * 100]), "version"),
            numpy_helper.from_array(np.float32([0.5, 0.5]), "thresholds"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)


def logits(text: str, version: int, *, max_length: int = 8) -> list[float]:
    """Return what a version says of a text, computed here."""
    words = text.lower().replace("?", " ?").split()[:max_length]
    known = {word: at + version - 1 for at, word in enumerate(WORDS) if at > 1}
    ids = [known.get(word, 0) for word in words]
    return [version * 100 + len(ids), version * 100 + (sum(ids) / len(ids) if ids else 0)]


def publish_text_model(
    root: Path,
    version: int,
    *,
    name: str = "emotions",
    length: int | None = 8,
    serve: bool = False,
    with_text: bool = True,
    golden: bool = False,
    max_batch_size: int = 8,
) -> Path:
    """Publish a version and what takes its texts; return the tokenizer's file."""
    repository = ModelRepository(root)
    tokenizer = write_tokenizer(root.parent / f"tokenizer-{version}.json", version=version)
    decision = Decision(labels=LABELS, thresholds=[0.5, 0.5])
    model = network(version, length)
    options = TritonOptions(instance_count=1, max_batch_size=max_batch_size)
    config = build_config(model, decision, name=name, version=version, options=options)
    with repository.staging(name) as staged:
        (staged / MODEL_FILE).write_bytes(model.SerializeToString(deterministic=True))
        if golden:
            ids = np.int64([[2, 4, 6, 0, 0, 0, 0, 0]])
            EvaluationSplit(
                inputs={"input_ids": ids, "attention_mask": np.int64(ids > 0)},
                targets_NL=np.zeros((1, 2), np.float32),
                logits_NL=np.float32([[version * 100 + 3, version * 100 + 4]]),
            ).save(staged / GOLDEN_FILE)
        write_certificate(staged, name, version, decision)
        certificate = Certificate.load(staged)
        repository.publish(name, version, staged, config, decision, serve=serve)
    if with_text:
        texts = TextService(
            version=ModelVersion(name=name, version=version, run_id="", source=""),
            tokenizer=tokenizer,
            max_length=8,
        )
        texts.publish(repository, config, decision, certificate)
        repository.align_companions(name)
    return tokenizer
