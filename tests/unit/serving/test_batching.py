"""Cutting rows into requests and putting answers together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thresher import Decision
from thresher.errors import DataError, NotFoundError
from thresher_serving.client.batching import checked_outputs, cut, empty, join
from thresher_serving.client.metadata import ModelMetadata, TensorMetadata


def model(decision: Decision | None = None, *, width: int = 2) -> ModelMetadata:
    outputs = {
        name: TensorMetadata(name=name, datatype=datatype, shape=(width,))
        for name, datatype in {"probabilities": "FP32", "labels": "BOOL"}.items()
    }
    return ModelMetadata(
        name="weather",
        version=3,
        versions=(3,),
        max_batch_size=4,
        inputs={},
        outputs=outputs,
        decision=decision,
    )


@given(rows=st.integers(1, 50), size=st.integers(1, 20))
def test_parts_are_at_most_a_batch_and_join_to_the_rows_in_their_order(
    rows: int, size: int
) -> None:
    x = np.arange(rows * 2).reshape(rows, 2)
    parts = cut({"x": x, "y": x[:, 0]}, size)
    assert all(1 <= len(part["x"]) <= size for part in parts)
    assert len(parts) == -(-rows // size)
    joined = join(parts)
    np.testing.assert_array_equal(joined["x"], x)
    np.testing.assert_array_equal(joined["y"], x[:, 0])


def test_a_model_without_a_batch_axis_gets_one_part() -> None:
    x = np.zeros((7, 3))
    (part,) = cut({"x": x}, 0)
    assert part["x"] is x


def test_parts_are_views_of_the_rows() -> None:
    x = np.zeros((7, 3))
    assert all(part["x"].base is x for part in cut({"x": x}, 2))


def test_no_rows_have_the_shape_of_the_output_or_of_the_decision() -> None:
    named = Decision(labels=["rain", "fog"], thresholds=[0.5, 0.5])
    for described in (model(named, width=-1), model(width=2)):
        arrays = empty(described, ["probabilities", "labels"])
        assert [(a.shape, a.dtype.name) for a in arrays.values()] == [
            ((0, 2), "float32"),
            ((0, 2), "bool"),
        ]


def test_outputs_must_suffice_for_labels() -> None:
    named = Decision(labels=["rain", "fog"], thresholds=[0.5, 0.5])
    assert checked_outputs(model(named), ["probabilities", "probabilities"]) == ["probabilities"]
    with pytest.raises(DataError, match='ask for the output "labels" too'):
        checked_outputs(model(), ["probabilities"])
    with pytest.raises(DataError, match="`infer` returns whatever outputs"):
        checked_outputs(model(named), ["labels"])
    with pytest.raises(NotFoundError, match='unknown output "logits"'):
        checked_outputs(model(named), ["probabilities", "logits"])


def test_parts_fit_into_a_message_of_grpc() -> None:
    pixels = np.broadcast_to(np.uint8(0), (3000, 3, 512, 512))
    weights = np.broadcast_to(np.float32(0), (3000, 64))
    parts = cut({"pixels": pixels, "weights": weights}, 4096)
    assert sum(len(part["pixels"]) for part in parts) == 3000
    assert all(sum(array.nbytes for array in part.values()) <= 2**30 for part in parts)
    assert len(parts) == 3
    (huge,) = cut({"x": np.broadcast_to(np.uint8(0), (1, 3 * 2**30))}, 8)
    assert len(huge["x"]) == 1
