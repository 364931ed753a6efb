"""Models of every kind in the compiled backend, with ONNX Runtime in this process as the oracle."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from support.served_models import FLOAT, PAIR, config, identity, in_process, network
from thresher_serving import RunningServer

Publish = Callable[..., Path]
Serve = Callable[..., Any]

INTEGERS = {
    kind: np.array([[np.iinfo(kind).min, np.iinfo(kind).max]], kind)
    for kind in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
}


@pytest.fixture(scope="module")
def triton(server: RunningServer) -> Iterator[Any]:
    client = grpc.InferenceServerClient(server.grpc_url)
    yield client
    client.close()


@pytest.fixture
def serve(triton: Any, publish: Publish) -> Iterator[Serve]:
    """Return what publishes and loads a model; it is unloaded at the end."""
    names: list[str] = []

    def load(name: str, model: bytes, text: str | None, **how: Any) -> Path:
        folder = publish(name, model, text, **how)
        names.append(name)
        triton.load_model(name)
        return folder

    yield load
    for name in names:
        triton.unload_model(name)


def given(name: str, datatype: str, array: np.ndarray) -> Any:
    tensor = grpc.InferInput(name, list(array.shape), datatype)
    return tensor.set_data_from_numpy(array)


def ask(triton: Any, model: str, *inputs: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
    wanted = [grpc.InferRequestedOutput(name) for name in outputs]
    answer = triton.infer(model, list(inputs), outputs=wanted, client_timeout=30)
    return answer.as_numpy(outputs[0])


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_keep_their_bounds(triton: Any, serve: Serve, kind: str) -> None:
    number = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    serve(f"all_{kind}", identity(number), config(PAIR.replace("FP32", kind.upper())))
    got = ask(triton, f"all_{kind}", given("x", kind.upper(), INTEGERS[kind]))
    assert got.dtype == kind
    np.testing.assert_array_equal(got, INTEGERS[kind])


def test_bfloat16_both_ways(triton: Any, serve: Serve) -> None:
    model = network(
        [("Cast", ["x"], ["y"], {"to": FLOAT}), ("Identity", ["x"], ["same"], {})],
        {"x": (TensorProto.BFLOAT16, ("batch", 2))},
        {"y": (FLOAT, ("batch", 2)), "same": (TensorProto.BFLOAT16, ("batch", 2))},
    )
    io = PAIR.replace("FP32", "BF16", 1) + 'output { name: "same" data_type: TYPE_BF16 dims: 2 }'
    serve("bf16", model, config(io))
    rows = np.float32([[1.5, -3.375e38], [np.nan, 1e-40]]).astype(ml_dtypes.bfloat16)
    answer = triton.infer("bf16", [given("x", "BF16", rows)])
    np.testing.assert_array_equal(answer.as_numpy("y"), rows.astype(np.float32))
    same = answer.as_numpy("same").astype(np.float32)
    np.testing.assert_array_equal(same, rows.astype(np.float32))


def test_nan_and_infinity_go_through(triton: Any, serve: Serve) -> None:
    serve("nan", identity(FLOAT), config(PAIR))
    rows = np.array([[0x7FC00001, 0xFF800000]], np.uint32).view(np.float32)
    assert ask(triton, "nan", given("x", "FP32", rows)).tobytes() == rows.tobytes()


OPTIONAL = """
input { name: "x" data_type: TYPE_FP32 dims: [-1, 2] }
input { name: "scale" data_type: TYPE_FP32 dims: 2 optional: true }
output { name: "y" data_type: TYPE_FP32 dims: [-1, 2] }
"""


def test_an_optional_input_overrides_its_initializer(triton: Any, serve: Serve) -> None:
    shape = ("rows", 2)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "scale"], ["y"])],
        "graph",
        [
            helper.make_tensor_value_info("x", FLOAT, shape),
            helper.make_tensor_value_info("scale", FLOAT, [2]),
        ],
        [helper.make_tensor_value_info("y", FLOAT, shape)],
        [numpy_helper.from_array(np.float32([2, 3]), "scale")],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    serve("optional", model, config(OPTIONAL, batch=0))
    x, scale = np.float32([[1, 1], [5, 7]]), np.float32([10, 100])
    for feeds in ({"x": x}, {"x": x, "scale": scale}):
        (expected,) = in_process(model, feeds, ["y"])
        got = ask(triton, "optional", *(given(n, "FP32", a) for n, a in feeds.items()))
        np.testing.assert_array_equal(got, expected)
    with pytest.raises(InferenceServerException, match="expected .* inputs but got|'x'"):
        ask(triton, "optional", given("scale", "FP32", scale))


def test_a_required_input_that_is_optional_in_the_configuration_has_to_be_given(
    triton: Any, serve: Serve
) -> None:
    text = PAIR.replace("dims: 2", "dims: 2 optional: true", 1)
    serve("lacking", identity(FLOAT), config(text))
    with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*input 'x' is missing"):
        ask(triton, "lacking")


def test_single_numbers_and_reshaped_inputs(triton: Any, serve: Serve) -> None:
    model = network(
        [("Mul", ["x", "factor"], ["y"], {})],
        {"x": (FLOAT, (2, 2)), "factor": (FLOAT, ())},
        {"y": (FLOAT, (2, 2))},
    )
    text = """
    input { name: "x" data_type: TYPE_FP32 dims: 4 reshape { shape: [2, 2] } }
    input { name: "factor" data_type: TYPE_FP32 dims: 1 }
    output { name: "y" data_type: TYPE_FP32 dims: 4 reshape { shape: [2, 2] } }
    """
    serve("single", model, config(text, batch=0))
    x, factor = np.float32([1, 2, 3, 4]), np.float32([2.5])
    got = ask(triton, "single", given("x", "FP32", x), given("factor", "FP32", factor))
    assert got.tolist() == [2.5, 5, 7.5, 10]


def test_a_batch_of_no_rows_is_refused_by_triton_and_others_of_no_size_are_answered(
    triton: Any, serve: Serve
) -> None:
    serve(
        "none",
        identity(FLOAT, ("rows", 2)),
        config(PAIR.replace("dims: 2", "dims: [-1, 2]"), batch=0),
    )
    got = ask(triton, "none", given("x", "FP32", np.zeros((0, 2), np.float32)))
    assert got is None or got.shape == (0, 2)  # the client gives None for no bytes
    serve("some", identity(FLOAT), config(PAIR))
    with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT"):
        ask(triton, "some", given("x", "FP32", np.zeros((0, 2), np.float32)))


def test_weights_in_a_file_of_their_own(triton: Any, publish: Publish, tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(2, 300)).astype(np.float32)
    model = onnx.load_from_string(
        network(
            [("MatMul", ["x", "w"], ["y"], {})],
            {"x": (FLOAT, ("batch", 2))},
            {"y": (FLOAT, ("batch", 300))},
            {"w": weights},
        )
    )
    target = tmp_path / "model.onnx"
    onnx.save(model, target, save_as_external_data=True, location="weights", size_threshold=0)
    text = config(PAIR.replace("dims: 2", "dims: 300").replace("dims: 300", "dims: 2", 1))
    folder = publish("outside", target.read_bytes(), text)
    with pytest.raises(InferenceServerException, match="weights"):  # not there yet
        triton.load_model("outside")
    (folder / "1/weights").write_bytes((tmp_path / "weights").read_bytes())
    triton.load_model("outside")
    rows = np.float32([[1, -2]])
    got = ask(triton, "outside", given("x", "FP32", rows))
    np.testing.assert_allclose(got, rows @ weights, rtol=1e-5)
    triton.unload_model("outside")
    (folder / "1/weights").write_bytes((tmp_path / "weights").read_bytes()[:100])
    with pytest.raises(InferenceServerException, match=r"outside/1/model\.onnx"):
        triton.load_model("outside")


@pytest.mark.parametrize("size", [0, 1, 40, -1])
def test_a_file_that_is_cut_short_is_refused_with_its_name(
    triton: Any, publish: Publish, size: int
) -> None:
    whole = network(
        [("MatMul", ["x", "w"], ["y"], {})],
        {"x": (FLOAT, ("batch", 2))},
        {"y": (FLOAT, ("batch", 2))},
        {"w": np.eye(2, dtype=np.float32)},
    )
    publish("cut", whole[:size], config(PAIR))
    with pytest.raises(InferenceServerException, match=r"cut/1/model\.onnx"):
        triton.load_model("cut")


def test_four_instances_share_a_session_and_answer_at_the_same_time(
    triton: Any, serve: Serve
) -> None:
    text = PAIR + "instance_group { count: 4 kind: KIND_CPU }\n"
    serve("four", identity(FLOAT), config(text))
    wrong: list[Any] = []

    def work(thread: int) -> None:
        for at in range(100):
            rows = np.full((1 + at % 4, 2), thread * 1000 + at, np.float32)
            if not np.array_equal(ask(triton, "four", given("x", "FP32", rows)), rows):
                wrong.append((thread, at))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_requests_that_are_cancelled_leave_the_others_alone(triton: Any, serve: Serve) -> None:
    serve("left", identity(FLOAT), config(PAIR + "dynamic_batching {}\n"))
    rows = np.float32([[1, 2]])
    answers: list[Any] = []
    done = threading.Semaphore(0)

    def keep(result: Any, error: Any) -> None:
        answers.append(error or result.as_numpy("y").tolist())
        done.release()

    calls = [triton.async_infer("left", [given("x", "FP32", rows)], keep) for _ in range(300)]
    for call in calls[::2]:
        call.cancel()
    assert all(done.acquire(timeout=30) for _ in calls)
    kept = [answer for answer in answers if isinstance(answer, list)]
    assert len(kept) >= 150
    assert all(answer == rows.tolist() for answer in kept)


@pytest.mark.slow
def test_ten_thousand_wrong_requests_end_in_errors_and_the_next_is_right(
    triton: Any, serve: Serve
) -> None:
    rng = random.Random(0)
    serve("wronged", identity(FLOAT), config(PAIR + "dynamic_batching {}\n"))
    serve("worded", identity(TensorProto.STRING), config(PAIR.replace("FP32", "STRING")))
    statuses: Counter[str] = Counter()
    for _ in range(10_000):
        shape = [rng.choice([-1, 0, 1, 2, 4, 5, 2**31, 2**62]) for _ in range(rng.randrange(5))]
        name, kind = rng.choice([("wronged", "FP32"), ("worded", "BYTES"), ("worded", "FP32")])
        tensor = grpc.InferInput(rng.choice(["x", "x", "x", "z"]), shape, kind)
        tensor._raw_content = rng.randbytes(rng.choice([0, 1, 4, 8, 12, 16, 64]))
        outputs = [grpc.InferRequestedOutput(rng.choice(["y", "y", "z"]))]
        try:
            triton.infer(name, [tensor], outputs=outputs, client_timeout=30)
        except InferenceServerException as error:
            statuses[error.status()] += 1
    assert set(statuses) == {"StatusCode.INVALID_ARGUMENT"}
    assert statuses.total() > 9_000
    rows = np.float32([[1, 2]])
    np.testing.assert_array_equal(ask(triton, "wronged", given("x", "FP32", rows)), rows)
