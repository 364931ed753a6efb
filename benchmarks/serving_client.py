"""What pipelining, the transport and shared memory bring to one client, in rows per second.

Two networks behind one Triton on this machine, each way of asking in turn, so that a slower moment
hits all alike::

    python benchmarks/serving_client.py --quick     fewer rows and rounds
    python benchmarks/serving_client.py

"one at a time" cuts batches and waits for each answer before the next request, as clients without
pipelining do. Client and server share the cores, so figures are about ways of asking, not about the
server. Prints a table and writes ``benchmarks/results/serving_client.json``.
"""

from __future__ import annotations

import argparse
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

from thresher_serving import Client, RunningServer, find_runtime, start_server

PAGE = Path(__file__).parents[1] / "docs" / "client.md"
RESULTS = Path(__file__).parent / "results" / "serving_client.json"
MAX_BATCH = 64
NUM_LABELS = 20


def network(shape: tuple[int, ...]) -> bytes:
    """Return 512 hidden units over vectors, or a mean over the pixels of pictures, and a head."""
    rng = np.random.default_rng(0)
    features = shape[0]
    weights = {
        "w1": rng.normal(0, features**-0.5, (features, 512)).astype(np.float32),
        "w2": rng.normal(0, 512**-0.5, (512, NUM_LABELS)).astype(np.float32),
        "thresholds": np.full(NUM_LABELS, 0.5, np.float32),
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
            value("probabilities", TensorProto.FLOAT, ["batch", NUM_LABELS]),
            value("labels", TensorProto.BOOL, ["batch", NUM_LABELS]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def publish(root: Path, name: str, shape: tuple[int, ...]) -> None:
    """Write a model and its configuration: one instance, one thread, dynamic batching."""
    (root / name / "1").mkdir(parents=True)
    (root / name / "1" / "model.onnx").write_bytes(network(shape))
    (root / name / "config.pbtxt").write_text(
        f'backend: "onnxruntime"\nmax_batch_size: {MAX_BATCH}\n'
        f'input {{ name: "x" data_type: TYPE_FP32 dims: {list(shape)} }}\n'
        f'output {{ name: "probabilities" data_type: TYPE_FP32 dims: {NUM_LABELS} }}\n'
        f'output {{ name: "labels" data_type: TYPE_BOOL dims: {NUM_LABELS} }}\n'
        "dynamic_batching {}\ninstance_group { count: 1 kind: KIND_CPU }\n"
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }\n'
    )


def ways(server: RunningServer) -> dict[str, Client]:
    """Return the clients to compare, by name."""
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
    batches = {"vectors": 20 if quick else 100, "pictures": 3 if quick else 8}
    shapes: dict[str, tuple[int, ...]] = {"vectors": (128,), "pictures": (3, 224, 224)}
    clients = ways(server)
    found: dict[str, dict[str, list[float]]] = {}
    for model, shape in shapes.items():
        rows = rng.normal(size=(batches[model] * MAX_BATCH, *shape)).astype(np.float32)
        times: dict[str, list[float]] = {name: [] for name in clients}
        for turn in range(3 if quick else 6):
            for name, client in clients.items():
                speed = rows_per_s(client, model, rows)
                if turn:  # the first one connects and warms up
                    times[name].append(speed)
        found[model] = times
    for client in clients.values():
        client.close()
    return found


def page_table(found: dict[str, dict[str, list[float]]]) -> str:
    """Return the medians as the documentation's table: a row for each way, a column a model."""
    heads = ["one client", "128 numbers a row", "3 x 224 x 224 pixels a row"]
    ways_of = next(iter(found.values()))
    return table(
        heads,
        [
            [way, *(f"{statistics.median(times[way]):,.0f}" for times in found.values())]
            for way in ways_of
        ],
    )


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
        publish(root, "vectors", (128,))
        publish(root, "pictures", (3, 224, 224))
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
        finally:
            server.stop(timeout_s=5)
    print("rows per second, median (least to most) of the rounds; load", os.getloadavg()[0])
    for model, times in found.items():
        base = statistics.median(times["gRPC, one at a time"])
        for name, speeds in times.items():
            middle = statistics.median(speeds)
            spread = f"({min(speeds):,.0f} to {max(speeds):,.0f})"
            print(f"{model:9} {name:30} {middle:10,.0f} {spread:22} x {middle / base:.2f}")
    if not quick:
        put(PAGE, "serving_client", page_table(found))
        content = {
            "rows_per_s": {m: {n: sorted(s) for n, s in t.items()} for m, t in found.items()},
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        }
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
