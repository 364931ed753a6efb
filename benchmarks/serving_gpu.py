"""What a GPU gives: through Triton, in ONNX Runtime's own loop, and what the card does at most.

    python benchmarks/serving_gpu.py                        medians of 3 rounds
    python benchmarks/serving_gpu.py --quick                one short round; writes nothing
    python benchmarks/serving_gpu.py --device cpu --quick   the same code where there is no GPU

MiniLM at 32 tokens and the digits recipe's network, in FP32 (without TF32, as exported models are
served) and with an FP16 body, at several batch sizes, in rows a second:

- Triton, gRPC: h2load, 8 clients, one request in flight each, inputs and answers in the message
- client: `Client.predict` of 16 batches at once, in one thread
- bound: ONNX Runtime in this process, inputs and outputs bound to memory of the GPU
- from host: ONNX Runtime in this process, NumPy in and out, which is what a server has to do
- roofline: see roofline.py

Every round measures all in turn. Writes ``benchmarks/results/serving_gpu.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from load import grpc_endpoint, measure
from roofline import Peak, cost_of, known_peak, measured_peak
from serving_networks import Inputs, larger_networks
from tritonclient.grpc import model_config_pb2 as pb

from thresher import Decision
from thresher.repository import ModelRepository
from thresher_export.head import append_decision_head
from thresher_export.onnx_file import save_model
from thresher_export.precision import Precision, lower_precision
from thresher_export.triton_config import build_config
from thresher_export.triton_options import TritonOptions
from thresher_serving import Client, Runtime, find_runtime, start_server

RESULTS = Path(__file__).parent / "results" / "serving_gpu.json"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
BATCH_SIZES = (1, 8, 64, 256)
NUM_CLIENTS = 8
CLIENT_BATCHES = 16
PATIENCE_S = 300.0
ASKED = ("probabilities", "labels")
WAYS = ("Triton, gRPC", "client", "bound", "from host")

RowsPerS = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One network in one precision at one batch size."""

    network: str
    precision: Precision
    rows: int

    @property
    def model(self) -> str:
        return f"{self.network}-{self.precision}"

    def inputs(self, rows: int) -> Inputs:
        from export_head import scans, tokens

        return scans(rows) if self.network == "digits" else tokens(rows)


def gpu_facts() -> dict[str, str]:
    """Return name, driver and memory of the first GPU.

    Ends the program where there is none, or where ONNX Runtime cannot use one.
    """
    asked = ("name", "driver_version", "memory.total")
    command = ["nvidia-smi", "--id=0", f"--query-gpu={','.join(asked)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit(
            "no NVIDIA GPU: there is no nvidia-smi. To try the code: python "
            "benchmarks/serving_gpu.py --device cpu --quick"
        )
    if done.returncode:
        sys.exit(f"no NVIDIA GPU: nvidia-smi says {(done.stdout or done.stderr).strip()}")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        sys.exit(
            "ONNX Runtime has no CUDA here; run: pip uninstall onnxruntime, then "
            f"pip install 'onnxruntime-gpu[cuda,cudnn]=={ort.__version__}'"
        )
    return dict(zip(asked, done.stdout.strip().split(", "), strict=True))


def publish(root: Path, device: str, batch_sizes: tuple[int, ...]) -> None:
    """Publish both networks in both precisions, each with one copy on the device."""
    repository = ModelRepository(root)
    options = TritonOptions(max_batch_size=max(batch_sizes), instance_count=1)
    for precision in PRECISIONS:
        for network, body in larger_networks().items():
            name = Case(network=network, precision=precision, rows=1).model
            num_labels = int(body.graph.outputs[0].shape[1])  # type: ignore[index,arg-type]
            decision = Decision(
                labels=[f"label {k}" for k in range(num_labels)], thresholds=[0.5] * num_labels
            )
            model = append_decision_head(lower_precision(body, precision), decision)
            with repository.staging(name) as staged:
                (file, *_) = save_model(model, staged / "model.onnx")
                proto = onnx.load(file, load_external_data=False)
                config = build_config(proto, decision, name=name, version=1, options=options)
                kind = pb.ModelInstanceGroup.KIND_GPU if device == "cuda" else None
                config.instance_group[0].kind = kind or pb.ModelInstanceGroup.KIND_CPU
                repository.publish(name, 1, staged, config, decision)


def own_loops(path: Path, inputs: Inputs, device: str, seconds: float) -> dict[str, RowsPerS]:
    """Return ONNX Runtime's two loops over one batch."""
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        ort.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = ort.InferenceSession(path, providers=providers)
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        sys.exit("ONNX Runtime cannot start its CUDA provider; what it said stands above")
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in ASKED:
        binding.bind_output(name, device)
    rows = len(next(iter(inputs.values())))
    return {
        "bound": lambda: repeated(lambda: session.run_with_iobinding(binding), rows, seconds),
        "from host": lambda: repeated(lambda: session.run(list(ASKED), inputs), rows, seconds),
    }


def repeated(run: Callable[[], Any], rows: int, seconds: float) -> float:
    """Return the rows a second of something that is run again and again."""
    for _ in range(3):
        run()
    count, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds or not count:
        run()
        count += 1
    return count * rows / taken


def runners(
    case: Case, root: Path, url: str, client: Client, device: str, seconds: float
) -> dict[str, RowsPerS]:
    """Return what measures a case, by way."""
    endpoint = grpc_endpoint(
        url,
        case.model,
        case.inputs(case.rows),
    )
    many = case.inputs(CLIENT_BATCHES * case.rows)
    for way in (case.inputs(case.rows), many):  # h2load cannot tell a wrong answer
        assert len(client.predict(case.model, way, timeout_s=PATIENCE_S)) == len(
            next(iter(way.values()))
        )

    def load() -> float:
        return case.rows * measure(endpoint, clients=NUM_CLIENTS, seconds=seconds).per_s

    def ask() -> float:
        rows = CLIENT_BATCHES * case.rows
        return repeated(
            lambda: client.predict(case.model, many, timeout_s=PATIENCE_S), rows, seconds
        )

    file = root / case.model / "1" / "model.onnx"
    loops = own_loops(file, case.inputs(case.rows), device, seconds)
    return {"Triton, gRPC": load, "client": ask, **loops}


def measure_all(
    cases: list[Case], runtime: Runtime, peak: Peak, *, device: str, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory(prefix="thresher-gpu-") as temporary, ExitStack() as stack:
        root, log = Path(temporary) / "models", Path(temporary) / "server.log"
        publish(root, device, tuple(case.rows for case in cases))
        server = start_server(
            *(root,),
            runtime=runtime,
            grpc_port=0,
            http_port=0,
            metrics_port=0,
            state_dir=None,
            log_file=log,
            timeout_s=300,
        )
        stack.callback(server.stop)
        if device == "cuda" and "not honoured" in (said := log.read_text(errors="replace")):
            sys.exit("\n".join(line for line in said.splitlines() if "not honoured" in line))
        client = stack.enter_context(Client(server.grpc_url))
        for case in cases:
            ways = runners(case, root, server.grpc_url, client, device, seconds)
            runs: dict[str, list[float]] = {way: [] for way in ways}
            for _ in range(rounds):
                for way, run in ways.items():
                    runs[way].append(run())
            cost = cost_of(onnx.load(root / case.model / "1" / "model.onnx"), case.inputs(1), ASKED)
            found.append(
                {
                    "network": case.network,
                    "precision": case.precision,
                    "rows": case.rows,
                    "gflop_a_row": sum(cost.row_flops.values()) / 1e9,
                    "weight_mib": cost.weight_bytes / 2**20,
                    "rows_per_s": {way: statistics.median(some) for way, some in runs.items()},
                    "roofline": cost.rows_per_s(case.rows, peak),
                }
            )
            print(f"  {case.model}, batch {case.rows}", file=sys.stderr, flush=True)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Return the figures as a table; shares are of ONNX Runtime from the host, and the roofline."""
    head = ("network", "batch", *WAYS, "roofline", "Triton / from host", "bound / roofline")
    lines = [f"{head[0]:14} {head[1]:>5} " + " ".join(f"{name:>18}" for name in head[2:])]
    for case in found:
        rates = case["rows_per_s"]
        cells = [f"{rates[way]:,.0f}" for way in WAYS] + [f"{case['roofline']:,.0f}"]
        cells.append(f"{rates['Triton, gRPC'] / rates['from host']:.0%}")
        cells.append(f"{rates['bound'] / case['roofline']:.1%}")
        name = f"{case['network']}, {case['precision']}"
        lines.append(f"{name:14} {case['rows']:>5} " + " ".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def run(*, device: str = "cuda", quick: bool = False) -> None:
    """Measure, print, and write the results of a whole run on a GPU."""
    facts = gpu_facts() if device == "cuda" else {"name": platform.processor() or "CPU"}
    if device == "cuda":
        peak = measured_peak("cuda") or known_peak(facts["name"])
    else:
        peak = measured_peak("cpu", size=512, copied_bytes=2**26)
    if peak is None:
        sys.exit(f"torch sees no GPU here, and {facts['name']} is not in the table in roofline.py")
    sizes = BATCH_SIZES if not quick else (64,) if device == "cuda" else (4,)
    cases = [
        Case(network=network, precision=precision, rows=rows)
        for network in ("digits", "MiniLM")
        for precision in PRECISIONS
        for rows in sizes
    ]
    runtime = find_runtime()
    rounds, seconds = (1, 1.0) if quick else (3, 3.0)
    found = measure_all(cases, runtime, peak, device=device, rounds=rounds, seconds=seconds)
    about = {
        "device": facts,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
        "triton": f"{runtime.kind} {runtime.version}",
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }
    limits = {kind: f"{rate / 1e12:.3g} TFLOP/s" for kind, rate in peak.flops_per_s.items()}
    print(f"rows a second; {about}")
    print(f"roofline: {limits}, {peak.bytes_per_s / 1e9:,.0f} GB/s, {peak.source}\n")
    print(table(found))
    if device == "cuda" and not quick:
        top = {"flops_per_s": dict(peak.flops_per_s), "bytes_per_s": peak.bytes_per_s}
        whole = {**about, "peak": {**top, "source": peak.source}, "cases": found}
        RESULTS.write_text(json.dumps(whole, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one batch size, one short round")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    asked = parser.parse_args()
    run(device=asked.device, quick=asked.quick)


if __name__ == "__main__":
    main()
