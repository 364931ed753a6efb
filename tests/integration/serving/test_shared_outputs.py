"""Outputs through system shared memory, against real servers that allow it and that refuse it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from support.triton import Triton, triton
from thresher.errors import ServerError
from thresher_serving import AsyncClient, Client, Runtime
from thresher_serving.connection import Connection

WIDTH = 6_000
"""So that 64 rows, one number each, are answered with 1.5 MB."""

ROWS = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)
MEMORY = Path("/dev/shm")


def write_spread(
    root: Path, name: str, width: int, *, version: int = 1, said: bool = True, queue: str = "{}"
) -> None:
    """Write a model that gives each row's number so many times, and whether it is above zero.

    Its configuration says how many times, or leaves that open.
    """
    folder = root / name / str(version)
    folder.mkdir(parents=True)
    value = helper.make_tensor_value_info
    shape, dims = (["batch", width], width) if said else (["batch", "width"], -1)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["whole"], to=TensorProto.INT64),
            helper.make_node("Mul", ["whole", "nothing"], ["unknown"]),
            helper.make_node("Add", ["size", "unknown"], ["asked"]),
            helper.make_node("Expand", ["x", "size" if said else "asked"], ["y"]),
            helper.make_node("Greater", ["y", "zero"], ["above"]),
        ],
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", 1])],
        [
            value("y", TensorProto.FLOAT, shape),
            value("above", TensorProto.BOOL, shape),
        ],
        [
            numpy_helper.from_array(np.int64([1, width]), "size"),
            numpy_helper.from_array(np.int64(0), "nothing"),
            numpy_helper.from_array(np.float32(0), "zero"),
        ],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder.parent / "config.pbtxt").write_text(
        'backend: "onnxruntime"\nmax_batch_size: 64\n'
        'input { name: "x" data_type: TYPE_FP32 dims: 1 }\n'
        f'output {{ name: "y" data_type: TYPE_FP32 dims: {dims} }}\n'
        f'output {{ name: "above" data_type: TYPE_BOOL dims: {dims} }}\n'
        f"dynamic_batching {queue}\ninstance_group {{ count: 1 kind: KIND_CPU }}\n"
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_spread(root, "spread", WIDTH)
    write_spread(root, "unsaid", WIDTH, said=False)
    slow = "{ max_queue_delay_microseconds: 400000 preferred_batch_size: 64 }"
    write_spread(root, "slow", WIDTH, queue=slow)
    return root


@pytest.fixture(scope="module")
def server(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("allowing") / "log"
    with triton(runtime, models, ["spread", "unsaid", "slow"], log=log) as running:
        yield running


@pytest.fixture(autouse=True)
def _nothing_left(server: Triton) -> Iterator[None]:
    """Prove that a test leaves no region at this host or the server."""
    before = set(MEMORY.glob("psm_*"))
    yield
    assert set(MEMORY.glob("psm_*")) <= before
    assert registered(server) == {}


def registered(server: Triton) -> dict[str, Any]:
    """Return the regions that a server maps."""
    client = Connection(url=server.grpc_url).open()
    try:
        return dict(client.get_system_shared_memory_status().regions)
    finally:
        client.close()


def check(got: dict[str, np.ndarray], rows: np.ndarray, width: int = WIDTH) -> None:
    np.testing.assert_array_equal(got["y"], np.repeat(rows, width, axis=1))
    np.testing.assert_array_equal(got["above"], got["y"] > 0)


def test_large_outputs_are_the_callers_own_and_the_region_is_used_again(server: Triton) -> None:
    with Client(server.grpc_url) as client:
        first = client.infer("spread", ROWS)
        (region,) = registered(server)
        for turn in range(3):
            check(client.infer("spread", ROWS + turn), ROWS + turn)
        assert set(registered(server)) == {region}
        check(first, ROWS)


def test_outputs_may_be_chosen_and_parts_are_put_together(server: Triton) -> None:
    rows = np.random.default_rng(1).normal(size=(300, 1)).astype(np.float32)
    with Client(server.grpc_url, in_flight=3) as client:
        check(client.infer("spread", rows), rows)
        assert 1 <= len(registered(server)) <= 3
        got = client.infer("spread", rows, outputs=["above"])
        assert list(got) == ["above"]
        np.testing.assert_array_equal(got["above"][:, 0], rows[:, 0] > 0)


def test_small_outputs_and_those_of_unknown_size_come_in_the_message(server: Triton) -> None:
    with Client(server.grpc_url) as client:
        check(client.infer("spread", ROWS[:3]), ROWS[:3])
        check(client.infer("unsaid", ROWS), ROWS)
        assert registered(server) == {}
    with Client(server.grpc_url, shared_memory=False) as client:
        check(client.infer("spread", ROWS), ROWS)
        assert registered(server) == {}
    with Client(server.grpc_url, shared_memory=True) as client:
        check(client.infer("spread", ROWS[:1]), ROWS[:1])
        check(client.infer("unsaid", ROWS[:2]), ROWS[:2])
        assert len(registered(server)) == 1


def test_a_server_that_knows_the_region_no_more_answers_in_a_message(server: Triton) -> None:
    with Client(server.grpc_url) as client:
        client.infer("spread", ROWS)
        other = Connection(url=server.grpc_url).open()
        other.unregister_system_shared_memory()
        other.close()
        for turn in range(2):
            check(client.infer("spread", ROWS + turn), ROWS + turn)
        assert len(registered(server)) == 1


def test_an_output_that_is_larger_than_thought_comes_in_a_message(
    server: Triton, models: Path
) -> None:
    """A new version gives more than the client knows: Triton refuses to write that."""
    write_spread(models, "growing", WIDTH)
    other = Connection(url=server.grpc_url).open()
    other.load_model("growing")
    with Client(server.grpc_url) as client:
        check(client.infer("growing", ROWS), ROWS)
        write_spread(models, "growing", WIDTH + 100, version=2)
        other.load_model("growing")
        for turn in range(3):
            check(client.infer("growing", ROWS + turn), ROWS + turn, WIDTH + 100)
        assert len(registered(server)) == 1
    other.close()


def test_a_server_that_refuses_answers_in_messages(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    option = "--grpc-restricted-protocol=shared-memory:wanted=open sesame"
    with (
        triton(runtime, models, ["spread"], option, log=tmp_path / "log") as refusing,
        Client(refusing.grpc_url) as client,
    ):
        for turn in range(2):
            check(client.infer("spread", ROWS + turn), ROWS + turn)


def test_a_request_that_was_given_up_keeps_its_region(server: Triton) -> None:
    """Its rows wait 0.4 s for others; the region that they are to be answered in is not lent."""
    with Client(server.grpc_url) as client:
        check(client.infer("slow", ROWS), ROWS)
        with pytest.raises(ServerError, match="did not answer in time"):
            client.infer("slow", ROWS[:60], timeout_s=0.1)
        check(client.infer("spread", ROWS + 1), ROWS + 1)
        assert len(registered(server)) == 2


def test_many_tasks_never_share_a_region_at_a_time(server: Triton) -> None:
    async def asked() -> None:
        async with AsyncClient(server.grpc_url, shared_memory=True) as client:
            for turn in range(3):
                parts = [ROWS[: 1 + i % 5] + turn + i for i in range(30)]
                answers = await asyncio.gather(*(client.infer("spread", part) for part in parts))
                for part, got in zip(parts, answers, strict=True):
                    check(got, part)

    asyncio.run(asked())
