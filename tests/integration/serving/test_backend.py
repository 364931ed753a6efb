"""The compiled onnxruntime backend, inside a real Triton."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from thresher_serving import RunningServer

PAIR_ROWS = np.float32([[1, 2], [3, 4], [5, 6]])


@pytest.fixture(scope="module")
def triton(server: RunningServer) -> Iterator[Any]:
    client = grpc.InferenceServerClient(server.grpc_url)
    yield client
    client.close()


def tensor(name: str, datatype: str, array: np.ndarray) -> Any:
    return grpc.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def ask(triton: Any, model: str, *inputs: Any, outputs: list[str] | None = None) -> Any:
    wanted = None if outputs is None else [grpc.InferRequestedOutput(name) for name in outputs]
    return triton.infer(model, list(inputs), outputs=wanted, client_timeout=20)


def ask_together(triton: Any, model: str, name: str, datatype: str, rows: list[Any]) -> list[Any]:
    """Send one request a row at the same time; return arrays or errors, in order."""
    answers: list[Any] = [None] * len(rows)
    done = threading.Semaphore(0)

    def keep(at: int) -> Any:
        def callback(result: Any, error: Any) -> None:
            answers[at] = error or result
            done.release()

        return callback

    for at, row in enumerate(rows):
        triton.async_infer(model, [tensor(name, datatype, row)], keep(at), client_timeout=20)
    for _ in rows:
        assert done.acquire(timeout=30)
    return answers


def executions(triton: Any, model: str) -> tuple[int, int]:
    """Return how many inferences a model made, and in how many runs."""
    stats = triton.get_inference_statistics(model).model_stats[0]
    return stats.inference_count, stats.execution_count


def soon(is_true: Callable[[], bool]) -> bool:
    """Return whether it becomes true; the server counts a run after it has answered."""
    end = time.monotonic() + 10
    while not is_true() and time.monotonic() < end:
        time.sleep(0.02)
    return is_true()


def log_of(server: RunningServer) -> str:
    return Path(server.log_file).read_text(errors="replace")


@pytest.mark.parametrize("folder_model", ["keys", "folder", "bare", "halves", "warm"])
def test_answers_with_the_models_output(triton: Any, folder_model: str) -> None:
    answer = ask(triton, folder_model, tensor("x", "FP32", PAIR_ROWS))
    np.testing.assert_array_equal(answer.as_numpy("y"), PAIR_ROWS)


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("fp16", np.float16([[0.5, -2], [65504, 6e-8]])),
        ("int8", np.int8([[-128, 127], [0, 1]])),
        ("bool", np.array([[True, False], [False, True]])),
        ("fp64", np.float64([[np.pi, -0.0], [np.nan, np.inf]])),
    ],
)
def test_each_type_comes_back_bit_for_bit(triton: Any, kind: str, array: np.ndarray) -> None:
    got = ask(triton, f"type_{kind}", tensor("x", kind.upper(), array)).as_numpy("y")
    assert got.dtype == array.dtype
    assert got.tobytes() == array.tobytes()


def test_strings_come_back(triton: Any) -> None:
    words = np.array([["für", ""], ["雪", "a b"]], dtype=np.object_)
    got = ask(triton, "type_string", tensor("x", "BYTES", words)).as_numpy("y")
    assert [[word.decode() for word in row] for row in got] == words.tolist()


def test_strings_are_bytes_as_in_nvidias_backend(triton: Any) -> None:
    words = np.array([[b"\xff\0", b"x\0y"]], dtype=np.object_)
    got = ask(triton, "type_string", tensor("x", "BYTES", words)).as_numpy("y")
    assert got.tolist() == words.tolist()


def test_a_model_without_batch_axis_works(triton: Any) -> None:
    answer = ask(triton, "unbatched", tensor("x", "FP32", np.float32([[1, 2, 3], [4, 5, 6]])))
    assert answer.as_numpy("y").tolist() == [3.5]  # a scalar in the model, [1] in the configuration


def test_only_requested_outputs_are_sent(triton: Any) -> None:
    rows = tensor("x", "FP32", np.zeros((1, 3), np.float32))
    for outputs in (["labels"], ["logits", "probabilities"]):
        response = ask(triton, "weather", rows, outputs=outputs).get_response()
        assert sorted(output.name for output in response.outputs) == outputs
        assert len(response.raw_output_contents) == len(outputs)


def test_requests_in_a_joint_run_get_the_outputs_that_each_asked_for(triton: Any) -> None:
    answers: list[Any] = []
    done = threading.Semaphore(0)
    for outputs in (["labels"], ["probabilities", "logits"]):
        triton.async_infer(
            "weather",
            [tensor("x", "FP32", np.zeros((2, 3), np.float32))],
            lambda result, error: (answers.append(error or result), done.release()),
            outputs=[grpc.InferRequestedOutput(name) for name in outputs],
        )
    assert all(done.acquire(timeout=20) for _ in range(2))
    names = sorted(sorted(o.name for o in a.get_response().outputs) for a in answers)
    assert names == [["labels"], ["logits", "probabilities"]]


def test_requests_that_wait_together_run_together(triton: Any) -> None:
    before = executions(triton, "picking")
    rows = [np.int64([[at % 4]]) for at in range(8)]
    answers = ask_together(triton, "picking", "index", "INT64", rows)
    assert [float(a.as_numpy("value")[0, 0]) for a in answers] == [10, 11, 12, 13] * 2
    assert soon(lambda: executions(triton, "picking")[0] == before[0] + 8)
    after = executions(triton, "picking")
    assert after[1] - before[1] <= 4


def test_one_bad_request_in_a_batch_does_not_hurt_the_others(triton: Any) -> None:
    rows = [np.int64([[at]]) for at in (0, 1, 77, 3)]
    answers = ask_together(triton, "picking", "index", "INT64", rows)
    assert isinstance(answers[2], InferenceServerException)
    assert "out of data bounds" in str(answers[2])
    good = [float(answers[at].as_numpy("value")[0, 0]) for at in (0, 1, 3)]
    assert good == [10, 11, 13]


def test_requests_of_several_widths_are_answered_each(triton: Any) -> None:
    widths = [1, 3, 3, 2, 1, 5]
    rows = [np.ones((1, width), np.float32) for width in widths]
    answers = ask_together(triton, "total", "x", "FP32", rows)
    assert [float(a.as_numpy("total")[0, 0]) for a in answers] == widths


def test_what_cannot_be_honoured_is_named_once_though_two_instances_load(
    server: RunningServer,
) -> None:
    lines = [line for line in log_of(server).splitlines() if "model 'keys': not honoured" in line]
    said = sorted(line.partition("not honoured: ")[2].rstrip('"') for line in lines)
    assert said == [
        "accelerator cuda: this instance is on CPU",
        "accelerator openvino: this ONNX Runtime has no OpenVINO",
        "accelerator tensorrt: this instance is on CPU",
        "parameter gpu_mem_limit: this instance is on CPU",
        "parameter intra_op_threads: unknown",
    ]


def test_a_clean_configuration_gives_no_warning(server: RunningServer) -> None:
    assert "model 'weather': not honoured" not in log_of(server)


def test_a_model_needs_no_process_of_its_own(server: RunningServer) -> None:
    assert psutil.Process(server.pid).children(recursive=True) == []


@pytest.mark.parametrize(
    ("name", "batch", "dims"),
    [("bare", 4, [2]), ("bare_fixed", 0, [3, 2]), ("bare_rows", 16, [1]), ("halves", 4, [2])],
)
def test_a_missing_configuration_is_completed(
    triton: Any, name: str, batch: int, dims: list[int]
) -> None:
    config = triton.get_model_config(name).config
    assert config.max_batch_size == batch
    assert [(io.name, list(io.dims)) for io in config.input] == [("x", dims)]
    assert [(io.name, list(io.dims)) for io in config.output] == [("y", dims)]
    assert config.HasField("dynamic_batching") == (batch > 0)


def test_a_completed_model_of_single_numbers_answers(triton: Any) -> None:
    answer = ask(triton, "bare_rows", tensor("x", "FP32", np.float32([[1], [2]])))
    assert answer.as_numpy("y").tolist() == [[1], [2]]


def test_warmup_is_not_counted_among_requests(triton: Any) -> None:
    triton.unload_model("warm")
    assert soon(lambda: not triton.is_model_ready("warm"))
    triton.load_model("warm")
    assert executions(triton, "warm") == (0, 0)
    ask(triton, "warm", tensor("x", "FP32", PAIR_ROWS))
    assert soon(lambda: executions(triton, "warm") == (3, 1))


def test_each_broken_model_says_why(server: RunningServer, broken: dict[str, str]) -> None:
    reasons = {state.name: state.reason for state in server.models if not state.is_ready}
    for name, expected in broken.items():
        assert expected in reasons[name]
        assert "Traceback" not in reasons[name]
        assert "\n  /" not in reasons[name]


def test_the_classification_extension_names_labels(triton: Any) -> None:
    wanted = [grpc.InferRequestedOutput("probabilities", class_count=2)]
    rows = tensor("x", "FP32", np.float32([[-1, 2, 1]]))
    answer = triton.infer("weather", [rows], outputs=wanted)
    first, second = (text.decode() for text in answer.as_numpy("probabilities")[0])
    assert first.endswith(":1:fog")
    assert second.endswith(":2:snow")
