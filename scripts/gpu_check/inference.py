"""Parts about what is served: ONNX models against torch on the GPU, and a Triton server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gpu_check.parts import NotRun, part
from gpu_check.training import Recurrent
from thresher_training.loop import predict_logits, seeded

LABELS = ("a", "b", "c")
THRESHOLD = 0.4
LOGITS_ATOL, TF32_ATOL = 1e-4, 5e-3


class Wide(torch.nn.Module):
    """Sums of 2,048 terms, in which TensorFloat-32's ten bits show."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with seeded(seed):
            self.first, self.second = torch.nn.Linear(64, 2048), torch.nn.Linear(2048, 3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return logits [N, 3]."""
        logits: torch.Tensor = self.second(torch.relu(self.first(features))) * 4
        return logits


def rows(num: int = 500) -> dict[str, np.ndarray]:
    """Return inputs for `Wide`."""
    return {"features": np.random.default_rng(0).normal(size=(num, 64)).astype(np.float32)}


def by_hand(network: Wide, name: str = "wide") -> bytes:
    """Return the network with its head as an ONNX model, made with the package onnx alone."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        "w1": network.first.weight.T, "b1": network.first.bias,
        "w2": network.second.weight.T, "b2": network.second.bias,
    }  # fmt: skip
    held = {key: value.detach().cpu().numpy() for key, value in weights.items()}
    held |= {"four": np.float32(4), "thresholds": np.full(3, THRESHOLD, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["features", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "b2"], ["a2"]),
        helper.make_node("Mul", ["a2", "four"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
        helper.make_node("GreaterOrEqual", ["probabilities", "thresholds"], ["labels"]),
    ]
    outputs = (
        ("probabilities", TensorProto.FLOAT),
        ("labels", TensorProto.BOOL),
        ("logits", TensorProto.FLOAT),
    )
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info(n, kind, ["batch", 3]) for n, kind in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(v), key) for key, v in held.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString())


def largest(one: np.ndarray, other: np.ndarray, limit: float, what: str) -> float:
    """Return how far logits lie apart; more than a limit is an error."""
    apart = float(np.abs(one - other).max())
    assert apart < limit, f"{what}: logits differ by {apart}"
    return apart


def on_device(device: str) -> tuple[Wide, np.ndarray]:
    """Return a network and the logits that it gives on the device."""
    network = Wide()
    return network, predict_logits(network.to(device), rows())


@part("onnx")
def onnx_logits(device: str) -> dict[str, Any]:
    """The ONNX model, by ONNX's own reference, gives the logits that torch gives on the device."""
    from onnx import load_from_string
    from onnx.reference import ReferenceEvaluator

    network, expected = on_device(device)
    model = ReferenceEvaluator(load_from_string(by_hand(network)))
    probabilities, labels, found = model.run(None, rows())
    assert (labels == (probabilities >= np.float32(THRESHOLD))).all()
    return {"largest_difference_of_logits": largest(found, expected, LOGITS_ATOL, "reference")}


@part("onnx", "onnxruntime")
def onnx_runtime(device: str) -> dict[str, Any]:
    """ONNX Runtime decides as torch does: on the CPU, and with CUDA with and without TF32."""
    from thresher_export.engines import providers_at_hand, session

    network, expected = on_device(device)
    model, figures = by_hand(network), {}
    for provider in _providers(device, providers_at_hand()):
        limit = TF32_ATOL if provider.precision == "tf32" else LOGITS_ATOL
        found = session(model, provider).run(["probabilities", "labels", "logits"], rows())
        probabilities, labels, logits = found
        assert (labels == (probabilities >= np.float32(THRESHOLD))).all(), provider.name
        figures[provider.name] = largest(logits, expected, limit, provider.name)
    return {"largest_difference_of_logits": figures}


def _providers(device: str, found: tuple[Any, ...]) -> tuple[Any, ...]:
    if device == "cuda" and not [p for p in found if "CUDA" in p.name]:
        import onnxruntime

        listed = ", ".join(onnxruntime.get_available_providers())
        raise NotRun(f"ONNX Runtime's CUDA provider does not start here (it lists {listed})")
    return found if device == "cuda" else found[:1]


@part("onnx", "onnx_ir", "onnxscript", "onnxruntime", limit_s=180)
def export(device: str) -> dict[str, Any]:
    """Networks are converted, and parity is proven with every provider, in FP32 and FP16."""
    from thresher.decision import Decision
    from thresher.evaluation import EvaluationSplit
    from thresher_export.convert import convert, reference_precision
    from thresher_export.engines import providers_at_hand
    from thresher_export.head import append_decision_head
    from thresher_export.onnx_file import save_model
    from thresher_export.parity import prove_parity
    from thresher_export.precision import lower_precision, note_precision, tolerances_of

    providers, figures = _providers(device, providers_at_hand()), {}
    with seeded(0):
        cases = [(Wide(), (64,), 3), (Recurrent(torch.nn.LSTM), (5, 4), 2)]
    for network, shape, num_labels in cases:
        inputs = np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
        program = torch.export.export(
            network.eval(),
            (torch.zeros(3, *shape),),
            dynamic_shapes={"features": {0: torch.export.Dim("batch")}},
        )
        logits_NL = predict_logits(network, {"features": inputs})
        decision = Decision(labels=LABELS[:num_labels], thresholds=[0.5, 0.3, 0.6][:num_labels])
        kept = EvaluationSplit(
            inputs={"features": inputs},
            targets_NL=(logits_NL > 0).astype(np.float32),
            logits_NL=logits_NL,
        )
        for precision in ("fp32", "fp16"):
            body = lower_precision(convert(program), precision, kept)
            note_precision(body, precision, trained_in=reference_precision(program))
            model = append_decision_head(body, decision)
            tolerances = tolerances_of(model)
            with tempfile.TemporaryDirectory() as folder:
                path = save_model(model, Path(folder) / "model.onnx")[0]
                report = prove_parity(
                    *(program, path, decision, {"test": kept}),
                    max_batch_size=64,
                    tolerances=tolerances,
                    precision=precision,
                    providers=providers,
                )
            name = f"{type(network).__name__} {precision}"
            report.raise_if_failed(name)
            figures[name] = {
                check.name: check.agreement.max_abs("logits")
                for check in report.checks
                if check.name.startswith("test: torch = ") and "batch 64" in check.name
            }
    return {"largest_difference_of_logits": figures}


@part("onnx", "onnxruntime", limit_s=180)
def tensorrt_engines(device: str) -> dict[str, Any]:
    """Two versions of one network have compiled engines of their own in one cache."""
    from thresher_export.engines import providers_at_hand, session

    found = [p for p in providers_at_hand() if "TensorRT" in p.name] if device == "cuda" else []
    if not found:
        raise NotRun("ONNX Runtime's TensorRT provider does not start here")
    import dataclasses

    with tempfile.TemporaryDirectory() as folder:
        (first, options), *others = found[0].execution
        cache = (("trt_engine_cache_enable", "1"), ("trt_engine_cache_path", folder))
        provider = dataclasses.replace(found[0], execution=((first, (*options, *cache)), *others))
        for seed in range(2):
            network = Wide(seed)
            path = Path(folder) / str(seed) / "model.onnx"
            path.parent.mkdir()
            path.write_bytes(by_hand(network, name=f"thresher_{seed}"))
            (logits,) = session(path, provider).run(["logits"], rows())
            expected = predict_logits(network.cpu(), rows())
            largest(logits, expected, TF32_ATOL, f"version {seed}")
        engines = sorted(file.name for file in Path(folder).glob("*.engine"))
    assert len(engines) == 2, f"engines: {engines}"
    return {"engines": engines}


CONFIG = """
backend: "onnxruntime"
max_batch_size: 64
input { name: "features" data_type: TYPE_FP32 dims: 64 }
output { name: "probabilities" data_type: TYPE_FP32 dims: 3 }
output { name: "labels" data_type: TYPE_BOOL dims: 3 }
output { name: "logits" data_type: TYPE_FP32 dims: 3 }
instance_group { count: 1 kind: KIND_GPU }
optimization { execution_accelerators {
  gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "0" } } } }
"""


@part("onnx", limit_s=150)
def triton_server(device: str) -> dict[str, Any]:
    """NVIDIA's Triton, where its image is what this runs in, answers as torch does on the GPU."""
    program = shutil.which("tritonserver") or "/opt/tritonserver/bin/tritonserver"
    if not Path(program).is_file():
        raise NotRun("no tritonserver on PATH or in /opt/tritonserver")
    network, expected = on_device(device)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "models/wide"
        (model / "1").mkdir(parents=True)
        (model / "1/model.onnx").write_bytes(by_hand(network))
        kind = CONFIG if device == "cuda" else CONFIG.replace("KIND_GPU", "KIND_CPU")
        (model / "config.pbtxt").write_text(kind)
        with _serving(program, model.parent, Path(folder) / "log") as url:
            body = {
                "inputs": [
                    {
                        "name": "features",
                        "shape": [64, 64],
                        "datatype": "FP32",
                        "data": rows()["features"][:64].ravel().tolist(),
                    }
                ]
            }
            answer = json.loads(_ask(f"{url}/v2/models/wide/infer", body))
            metadata = json.loads(_ask(f"{url}/v2"))
    found = {output["name"]: np.array(output["data"]) for output in answer["outputs"]}
    apart = largest(found["logits"].reshape(64, 3), expected[:64], LOGITS_ATOL, "Triton")
    labels = found["probabilities"].astype(np.float32) >= np.float32(THRESHOLD)
    assert (found["labels"] == labels).all()
    return {"largest_difference_of_logits": apart, "version": metadata.get("version")}


@contextmanager
def _serving(program: str, models: Path, log: Path) -> Iterator[str]:
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    command = [program, f"--model-repository={models}"]
    for kind, port in zip(("http", "grpc", "metrics"), ports, strict=True):
        command += [f"--{kind}-address=127.0.0.1", f"--{kind}-port={port}"]
    url = f"http://127.0.0.1:{ports[0]}"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out) as server:
        try:
            end = time.monotonic() + 120
            while True:
                try:
                    _ask(f"{url}/v2/health/ready")
                    break
                except OSError:
                    last = log.read_text(errors="replace").splitlines()[-5:]
                    assert server.poll() is None, f"Triton ended: {last}"
                    assert time.monotonic() < end, f"Triton is not ready: {last}"
                    time.sleep(0.5)
            yield url
        finally:
            server.terminate()
            try:
                server.wait(timeout=15)
            except subprocess.TimeoutExpired:
                server.kill()


def _ask(url: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        request = urllib.request.Request(url, data=data)  # noqa: S310 -- 127.0.0.1
        with opener.open(request, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        if error.code == 400 and url.endswith("ready"):
            raise OSError("not ready") from None
        raise AssertionError(f"{url}: {error.code} {error.read()[:300]!r}") from None
