"""What pipelining, the transport and shared memory bring to one client.

Networks of different inputs and outputs behind one Triton on this machine, each way of asking in
turn, so that a slower moment hits all alike. First many rows in one call, in rows per second; then
small requests, one after the other and from many tasks of an event loop, in requests per second::

    python benchmarks/serving_client.py --quick     fewer rows and rounds
    python benchmarks/serving_client.py

"one at a time" cuts batches and waits for each answer before the next request, as clients without
pipelining do. Client and server share the cores, so figures are about ways of asking, not about the
server. Prints a table and writes ``benchmarks/results/serving_client.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper
from page import put, table

from thresher_serving import (
    AsyncClient,
    Client,
    Connection,
    RunningServer,
    find_runtime,
    start_server,
)

PAGE = Path(__file__).parents[1] / "docs" / "client.md"
RESULTS = Path(__file__).parent / "results" / "serving_client.json"
MAX_BATCH = 64
NUM_LABELS = 20
TASKS = 32

MODELS: dict[str, tuple[tuple[int, ...], int, int]] = {
    "128 numbers a row": ((128,), NUM_LABELS, 100),
    "3 x 224 x 224 pixels a row": ((3, 224, 224), NUM_LABELS, 8),
    "128 numbers, 4,000 labels a row": ((128,), 4000, 20),
}
"""By column: the shape of a row, how many labels, and how many batches are asked for at once."""


def network(shape: tuple[int, ...], num_labels: int) -> bytes:
    """Return 512 hidden units over vectors, or a mean over the pixels of pictures, and a head."""
    rng = np.random.default_rng(0)
    features = shape[0]
    weights = {
        "w1": rng.normal(0, features**-0.5, (features, 512)).astype(np.float32),
        "w2": rng.normal(0, 512**-0.5, (512, num_labels)).astype(np.float32),
        "thresholds": np.full(num_labels, 0.5, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["features", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
        helper.make_node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
    ]
    if len(shape) > 1:
        pooling = helper.make_node("GlobalAveragePool", ["x"], ["pooled"])
        nodes = [pooling, helper.make_node("Flatten", ["pooled"], ["features"]), *nodes]
    else:
        nodes = [helper.make_node("Identity", ["x"], ["features"]), *nodes]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "graph",
        [value("x", TensorProto.FLOAT, ["batch", *shape])],
        [
            value("probabilities", TensorProto.FLOAT, ["batch", num_labels]),
            value("labels", TensorProto.BOOL, ["batch", num_labels]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def publish(
    root: Path,
    name: str,
    shape: tuple[int, ...],
    num_labels: int = NUM_LABELS,
    *,
    max_batch: int = MAX_BATCH,
) -> None:
    """Write a model and its configuration: one instance, one thread, dynamic batching."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.onnx").write_bytes(network(shape, num_labels))
    (root / name / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {max_batch}\n'
        f'input {{ name: "x" data_type: TYPE_FP32 dims: {list(shape)} }}\n'
        f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: {num_labels} }}\n'
        f'output {{ name: "labels" data_type: TYPE_BOOL dims: {num_labels} }}\n'
        "dynamic_batching {}\ninstance_group { count: 1 kind: KIND_CPU }\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
    )


def both(server: RunningServer) -> Connection:
    """Return how a client is told of both ends; an address without a port means the usual ones."""
    return Connection(url=server.grpc_url, http_port=server.http_port)


def ways(server: RunningServer) -> dict[str, Client]:
    """Return the clients to compare over many rows, by name."""
    http = f"http://{server.http_url}"
    plain = {"shared_memory": False}
    return {
        "gRPC, one at a time": Client(server.grpc_url, in_flight=1, **plain),
        "gRPC, 2 in flight": Client(server.grpc_url, in_flight=2, **plain),
        "gRPC, 4 in flight": Client(server.grpc_url, **plain),
        "gRPC, 8 in flight": Client(server.grpc_url, in_flight=8, **plain),
        "HTTP, one at a time": Client(http, in_flight=1),
        "HTTP, 4 in flight": Client(http),
        "shared memory, one at a time": Client(server.grpc_url, in_flight=1, shared_memory=True),
        "shared memory, 4 in flight": Client(server.grpc_url, shared_memory=True),
        "the faster way, one at a time": Client(both(server), in_flight=1),
        "the faster way, 4 in flight": Client(both(server)),
    }


def small_ways(server: RunningServer, kind: type[Any]) -> dict[str, Any]:
    """Return the clients to compare over small requests, by name."""
    return {
        "gRPC": kind(server.grpc_url, shared_memory=False),
        "HTTP": kind(f"http://{server.http_url}"),
        "shared memory": kind(server.grpc_url, shared_memory=True),
        "the faster way": kind(both(server)),
    }


def rows_per_s(client: Client, model: str, rows: npt.NDArray[Any]) -> float:
    start = time.perf_counter()
    answer = client.predict(model, rows, timeout_s=300)
    took = time.perf_counter() - start
    assert len(answer) == len(rows)
    return len(rows) / took


def measured(server: RunningServer, quick: bool) -> dict[str, dict[str, list[float]]]:
    """Return every way's rows per second of each round, by model."""
    rng = np.random.default_rng(0)
    clients = ways(server)
    found: dict[str, dict[str, list[float]]] = {}
    for number, (column, (shape, _, most)) in enumerate(MODELS.items()):
        batches = max(3, most // 5) if quick else most
        rows = rng.normal(size=(batches * MAX_BATCH, *shape)).astype(np.float32)
        times: dict[str, list[float]] = {name: [] for name in clients}
        for turn in range(3 if quick else 6):
            for name, client in clients.items():
                speed = rows_per_s(client, f"model{number}", rows)
                if turn:  # the first one connects and warms up
                    times[name].append(speed)
        found[column] = times
    for client in clients.values():
        client.close()
    return found


def measured_small(server: RunningServer, quick: bool) -> dict[str, dict[str, list[float]]]:
    """Return every way's requests per second of each round, by kind of client and request."""
    rng = np.random.default_rng(0)
    requests, rounds = (100, 3) if quick else (160, 25)
    found: dict[str, dict[str, list[float]]] = {}
    for size in (1, MAX_BATCH):
        rows = rng.normal(size=(size, *MODELS["128 numbers a row"][0])).astype(np.float32)
        words = f"{size} row{'s' * (size > 1)}"
        clients = small_ways(server, Client)
        times: dict[str, list[float]] = {name: [] for name in clients}
        for turn in range(rounds):
            for name, client in clients.items():
                start = time.perf_counter()
                for _ in range(requests):
                    client.predict("model0", rows)
                if turn:
                    times[name].append(requests / (time.perf_counter() - start))
        for client in clients.values():
            client.close()
        found[f"Client, {words}"] = times
        found[f"AsyncClient, {TASKS} tasks, {words}"] = asyncio.run(
            from_tasks(server, rows, requests, rounds)
        )
    return found


async def from_tasks(
    server: RunningServer, rows: npt.NDArray[Any], requests: int, rounds: int
) -> dict[str, list[float]]:
    """Return every way's requests per second of each round, from many tasks of one event loop."""
    clients = small_ways(server, AsyncClient)
    times: dict[str, list[float]] = {name: [] for name in clients}

    async def ask(client: AsyncClient) -> None:
        for _ in range(requests // TASKS * 4):
            await client.predict("model0", rows)

    for turn in range(rounds):
        for name, client in clients.items():
            start = time.perf_counter()
            await asyncio.gather(*(ask(client) for _ in range(TASKS)))
            if turn:
                total = requests // TASKS * 4 * TASKS
                times[name].append(total / (time.perf_counter() - start))
    for client in clients.values():
        await client.close()
    return times


def page_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the medians as the documentation's table: a row for each way, a column a case."""
    ways_of = next(iter(found.values()))
    return table(
        ["one client", *found],
        [
            [way, *(f"{statistics.median(times[way]):,.0f}" for times in found.values())]
            for way in ways_of
        ],
    )


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """Print medians, spreads, and how each compares with the first way."""
    for case, times in found.items():
        base = statistics.median(next(iter(times.values())))
        for name, speeds in times.items():
            middle = statistics.median(speeds)
            spread = f"({min(speeds):,.0f} to {max(speeds):,.0f})"
            print(f"{case:34} {name:30} {middle:10,.0f} {spread:22} x {middle / base:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rows and rounds; writes nothing"
    )
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "models"
        for number, (shape, num_labels, _) in enumerate(MODELS.values()):
            publish(root, f"model{number}", shape, num_labels)
        server = start_server(
            root,
            runtime=find_runtime(),
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            log_file=Path(folder) / "log",
            state_dir=None,
        )
        try:
            found = measured(server, quick)
            small = measured_small(server, quick)
        finally:
            server.stop(timeout_s=5)
    print("rows per second, median (least to most) of the rounds; load", os.getloadavg()[0])
    show(found)
    print("requests per second")
    show(small)
    if not quick:
        put(PAGE, "serving_client", page_table(found))
        put(PAGE, "serving_client_small", page_table(small))
        content = {
            "rows_per_s": {m: {n: sorted(s) for n, s in t.items()} for m, t in found.items()},
            "requests_per_s": {m: {n: sorted(s) for n, s in t.items()} for m, t in small.items()},
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
