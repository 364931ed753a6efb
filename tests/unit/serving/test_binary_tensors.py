"""Requests and answers of Triton's binary tensor extension."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from thresher_serving.client.binary_tensors import decoded, encoded
from thresher_serving.client.failures import CallFailure
from thresher_serving.client.transport import Request


def request(array: np.ndarray, datatype: str) -> Request:
    return Request(
        model="m", version="", inputs={"x": array}, datatypes={"x": datatype}, outputs=("y",)
    )


def answered(head: dict[str, Any], tail: bytes) -> tuple[dict[str, str], bytes]:
    text = json.dumps({"model_name": "m", "model_version": "3", **head}).encode()
    return {"inference-header-content-length": str(len(text))}, text + tail


def test_a_request_is_a_head_and_the_tensors_bytes() -> None:
    x = np.float32([[1, 2], [3, 4]])
    pieces, headers = encoded(request(x[:, ::-1], "FP32"))
    head = json.loads(pieces[0])
    assert headers["Inference-Header-Content-Length"] == str(len(pieces[0]))
    (tensor,) = head["inputs"]
    assert (tensor["shape"], tensor["datatype"]) == ([2, 2], "FP32")
    assert tensor["parameters"] == {"binary_data_size": 16}
    np.testing.assert_array_equal(np.frombuffer(pieces[1], np.float32), [2, 1, 4, 3])
    assert head["outputs"] == [{"name": "y", "parameters": {"binary_data": True}}]


def test_texts_are_sent_with_their_lengths() -> None:
    pieces, _ = encoded(request(np.array([["ab", "ü"]], np.object_), "BYTES"))
    assert pieces[1] == b"\x02\0\0\0ab\x02\0\0\0\xc3\xbc"


def test_an_answers_tensors_are_read_in_their_order() -> None:
    tensors = [
        {"name": "z", "datatype": "BOOL", "shape": [2], "parameters": {"binary_data_size": 2}},
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}},
    ]
    tail = b"\1\0" + np.float32([5, 6]).tobytes()
    answer = decoded(*answered({"outputs": tensors}, tail), ())
    assert answer.version == 3
    assert answer.arrays["z"].tolist() == [True, False]
    assert answer.arrays["y"].tolist() == [[5, 6]]
    assert list(decoded(*answered({"outputs": tensors}, tail), ("y",)).arrays) == ["y"]


def test_an_answer_without_binary_data_is_read_too() -> None:
    tensors = [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1]}]
    assert decoded(*answered({"outputs": tensors}, b""), ("y",)).arrays["y"].tolist() == [[0.5, 1]]


@pytest.mark.parametrize(
    ("head", "tail"),
    [
        ({}, b""),
        ({"outputs": []}, b""),
        ({"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": "no"}]}, b""),
        (
            {
                "outputs": [
                    {
                        "name": "y",
                        "datatype": "FP32",
                        "shape": [2],
                        "parameters": {"binary_data_size": 8},
                    }
                ]
            },
            b"\0",
        ),
    ],
)
def test_what_is_no_answer_fails_the_call(head: dict[str, Any], tail: bytes) -> None:
    with pytest.raises(CallFailure, match="not an answer of Triton's"):
        decoded(*answered(head, tail), ("y",))
    with pytest.raises(CallFailure, match="not an answer of Triton's"):
        decoded({}, b"<html>proxy</html>", ("y",))
