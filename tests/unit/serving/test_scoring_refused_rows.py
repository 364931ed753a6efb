"""A row that the network refuses costs that row; a machine or server that fails ends the job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from support.networks import publish_network
from support.scoring import engine_of
from support.text_models import write_tokenizer
from thresher.artifacts.input_spec import InputSpec, TextSpec
from thresher.errors import DataError, ServerError
from thresher_serving.client.failures import CallFailure, explained
from thresher_serving.scoring import OnnxRuntimeEngine, ScoredVersion, score
from thresher_serving.scoring.engines import Answers, _is_about_rows

POSITIONS = np.float32([0.5, -0.5, 0.25, -0.5, 1, -0.25, 0.5, 0.125])
"""Of each position; a text of more than eight tokens has none for its last ones."""


def positional_version(root: Path) -> ScoredVersion:
    """Publish a network of tokens whose positions run out at eight, as BERT's do at 512."""
    nodes = [
        ("Shape", ["input_ids"], ["sizes"]),
        ("Gather", ["sizes", "one"], ["length"]),
        ("Range", ["zero", "length", "one"], ["places"]),
        ("Gather", ["table", "places"], ["positions"]),
        ("Cast", ["attention_mask"], ["mask"], {"to": 1}),
        ("Mul", ["mask", "positions"], ["kept"]),
        ("ReduceSum", ["kept", "axis"], ["sum"], {"keepdims": 1}),
        ("Neg", ["sum"], ["negative"]),
        ("Concat", ["sum", "negative"], ["logits"], {"axis": 1}),
    ]
    version = publish_network(
        root,
        nodes,
        {name: (7, ["sequence"]) for name in ("input_ids", "attention_mask")},
        constants={
            "zero": np.int64(0),
            "one": np.int64(1),
            "table": POSITIONS,
            "axis": np.int64([1]),
        },
        spec=InputSpec(text=TextSpec(max_length=64)),
    )
    write_tokenizer(version.file.parent / "tokenizer.json")
    return version


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> ScoredVersion:
    return positional_version(tmp_path_factory.mktemp("models"))


def texts_with_long_ones(num_texts: int, long: Mapping[int, int]) -> list[str]:
    lengths = np.random.default_rng(0).integers(1, 9, num_texts)
    return [" ".join(["so"] * long.get(at, int(n))) for at, n in enumerate(lengths)]


@pytest.mark.parametrize("batch_rows", [1, 5, 32, 1000])
@pytest.mark.parametrize(
    "long",
    [{7: 9, 200: 60, 399: 10}, {}, {0: 12, 1: 12, 2: 12, 3: 12}],
    ids=["three", "no", "four"],
)
def test_a_row_that_the_network_refuses_costs_that_row(
    version: ScoredVersion, batch_rows: int, long: dict[int, int]
) -> None:
    texts = texts_with_long_ones(400, long)
    found = score(version, pa.table({"text": texts}), engine_of(version, batch_rows=batch_rows))
    kept = [at for at in range(400) if at not in long]
    assert found.table["row"].to_pylist() == kept
    assert found.rejects["row"].to_pylist() == [*long]
    for reason in found.rejects["reason"].to_pylist():
        assert reason.startswith("the network refuses it: ")
        assert "Non-zero status code" in reason
        assert "\n" not in reason
    assert found.tally.num_read == found.tally.num_scored + found.tally.num_rejected == 400
    sums = np.float32([POSITIONS[: len(texts[at].split())].sum() for at in kept])
    expected = version.decision.probabilities(np.stack([sums, -sums], axis=1))
    given = np.stack(found.table["probabilities"].to_numpy())
    np.testing.assert_allclose(given, expected, atol=1e-6)
    assert found.tally.seen is not None
    assert found.tally.seen.num_rows == found.tally.seen.num_sampled == len(kept)


def test_where_every_row_is_refused_none_is_scored(version: ScoredVersion) -> None:
    texts = [" ".join(["so"] * 9)] * 10
    found = score(version, pa.table({"text": texts}), engine_of(version, batch_rows=4))
    assert (found.table.num_rows, found.rejects.num_rows) == (0, 10)
    assert found.tally.num_rejected == 10


def test_rows_of_fixed_inputs_are_refused_one_by_one_too(tmp_path: Path) -> None:
    table = np.float32([[1, -1], [-1, 1]])
    version = publish_network(
        tmp_path,
        [("Gather", ["table", "id"], ["rows"]), ("Squeeze", ["rows", "axis"], ["logits"])],
        {"id": (7, [1])},
        constants={"table": table, "axis": np.int64([1])},
    )
    ids = [0, 1, 5, 1, 0, -7, 1]
    found = score(version, pa.table({"id": ids}), engine_of(version, batch_rows=3))
    assert found.rejects["row"].to_pylist() == [2, 5]
    assert found.table["labels"].to_pylist() == [["a"], ["b"], ["b"], ["a"], ["b"]]


class _OutOfMemory(OnnxRuntimeEngine):
    def __init__(self, version: ScoredVersion) -> None:
        super().__init__(version, threads=1, device="cpu")
        self._session = self

    def run(self, outputs: object, inputs: object) -> Any:
        raise RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer")


class _Gone(OnnxRuntimeEngine):
    def answer(self, inputs: Mapping[str, Any], *, with_logits: bool) -> Answers:
        raise ServerError("no Triton server answers at 127.0.0.1:1")


def test_a_machine_without_memory_ends_the_job_and_rejects_no_row(version: ScoredVersion) -> None:
    with pytest.raises(DataError, match="fails on a batch of .*allocate memory"):
        score(version, pa.table({"text": ["so sad"] * 3}), _OutOfMemory(version))


def test_a_server_that_is_gone_ends_the_job_and_rejects_no_row(version: ScoredVersion) -> None:
    with pytest.raises(ServerError, match="no Triton server answers"):
        score(version, pa.table({"text": ["so sad"] * 3}), _Gone(version, device="cpu"))


@pytest.mark.parametrize(
    ("status", "message", "about_rows"),
    [
        ("INTERNAL", "onnx runtime error 2: Non-zero status code while running Gather", True),
        ("INTERNAL", "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned", True),
        ("INVALID_ARGUMENT", "unexpected shape for input 'x'", True),
        ("INTERNAL", "onnx runtime error 6: Failed to allocate memory", False),
        ("INTERNAL", "onnx runtime error 6: CUDA failure 2: out of memory", False),
        ("UNAVAILABLE", "connection refused", False),
        ("DEADLINE_EXCEEDED", "onnx runtime error", False),
        ("UNAVAILABLE", "Exceeds maximum queue size", False),
        ("INTERNAL", "Stub process is not healthy", False),
    ],
)
def test_which_of_a_servers_errors_are_about_the_rows(
    status: str, message: str, about_rows: bool
) -> None:
    error = explained(CallFailure(status, message), "127.0.0.1:1", model="net")
    assert _is_about_rows(error) == about_rows
