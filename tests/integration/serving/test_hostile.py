"""Malformed and hostile requests: each gets an error, or the right answer where it is legal."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse

from support.hostile import ENDING, KINDS, Grpc, Http, Raw, good, requests, send_raw
from thresher_serving import RunningServer, Runtime, running_server, start_server, stop_server
from thresher_serving.embedded.background import serve_in_background
from thresher_serving.embedded.launch import PORT_OPTIONS, ServeOptions

NO_PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
GROWTH = 64 * 2**20
"""How much the memory of the server and its backends may grow, whatever the number of requests."""


def identity_of_any_width() -> bytes:
    shape = ["batch", "width"]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [x], [y])
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def models(
    publish: Callable[..., Path],
    repository: Path,
    zoo: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    root = tmp_path_factory.mktemp("hostile") / "models"
    warm = (repository / "warm/1/model.onnx").read_bytes()
    queue = "dynamic_batching { max_queue_delay_microseconds: 500 }\n"
    queue += "instance_group { count: 1 kind: KIND_CPU }\n"
    pair = (repository / "warm/config.pbtxt").read_text().split("model_warmup")[0]
    publish("pair", warm, pair + queue, root=root)
    publish("wide", identity_of_any_width(), pair.replace("dims: 2", "dims: -1") + queue, root=root)
    text = (repository / "type_string/config.pbtxt").read_text()
    publish("text", (repository / "type_string/1/model.onnx").read_bytes(), text, root=root)
    return root


@pytest.fixture(scope="module")
def target(
    models: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    started = start_server(
        models, runtime=runtime, state_dir=tmp_path_factory.mktemp("state"), **NO_PORTS
    )
    yield started
    started.stop(timeout_s=0.1)


class Sender:
    """Sends a request and says what came of it: error, right, wrong, closed or unanswered."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._channel = grpc.insecure_channel(
            server.grpc_url, options=[("grpc.max_receive_message_length", 2**31 - 1)]
        )
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def close(self) -> None:
        self._channel.close()

    def send(self, request: Grpc | Http | Raw) -> str:
        if isinstance(request, Grpc):
            return self._grpc(request)
        return self._http(request) if isinstance(request, Http) else self._raw(request)

    def _grpc(self, request: Grpc) -> str:
        try:
            answer = self._infer(request.message, timeout=15)
        except grpc.RpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return "unanswered" if late else "error"
        return "right" if echoed(request.message, answer) else "wrong"

    def _http(self, request: Http) -> str:
        connection = http.client.HTTPConnection(self._server.http_url, timeout=15)
        try:
            connection.request(request.method, request.path, request.body, request.headers)
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError:
            return "unanswered"
        except (OSError, http.client.HTTPException):
            return "closed"
        finally:
            connection.close()
        if answer.status >= 400:
            return "error"
        if not request.path.endswith("infer"):
            return "wrong" if b"root:" in content else "right"
        return "right" if echoed_json(request, answer, content) else "wrong"

    def _raw(self, request: Raw) -> str:
        port = getattr(self._server, f"{request.port}_port")
        answer = b""
        with contextlib.ExitStack() as stack:
            sockets = []
            for _ in range(request.connections):
                try:
                    opened = socket.create_connection(("127.0.0.1", port), timeout=5)
                except OSError:
                    return "closed"
                sockets.append(stack.enter_context(opened))
                with contextlib.suppress(OSError):
                    opened.sendall(request.content)
            sockets[-1].settimeout(
                0.05
            )  # half a request is not answered: who sent it is waited for
            with contextlib.suppress(OSError):
                answer = sockets[-1].recv(4096)
        return "wrong" if answer.startswith(b"HTTP/1.1 200") and b"outputs" in answer else "closed"


def echoed(sent: bytes, got: bytes) -> bool:
    """Return whether an answer over gRPC holds the very bytes of the request."""
    answer = ModelInferResponse.FromString(got)
    try:
        asked = ModelInferRequest.FromString(sent)
    except DecodeError:
        return False
    if len(asked.inputs) != 1:
        return False
    (output,) = answer.outputs
    if "classification" in {k for o in asked.outputs for k in o.parameters}:
        return output.datatype == "BYTES"
    same = list(output.shape) == list(asked.inputs[0].shape)
    return same and list(answer.raw_output_contents) == list(asked.raw_input_contents)


def unpacked(request: Http) -> bytes:
    """Return a request's body; what packs it may lack its end, where nothing but sums stands."""
    body = request.body
    with contextlib.suppress(zlib.error):
        if request.headers.get("Content-Encoding") in ("gzip", "deflate"):
            body = zlib.decompressobj(32 + zlib.MAX_WBITS).decompress(body)
    return body


def echoed_json(request: Http, answer: Any, content: bytes) -> bool:
    """Return whether an answer over HTTP holds the numbers of the request."""
    header = request.headers.get("Inference-Header-Content-Length")
    body = unpacked(request)
    cut = int(header) if header else len(body)
    try:
        asked = json.loads(body[:cut])["inputs"][0]
    except (ValueError, LookupError, TypeError):
        return False
    told = answer.headers.get("Inference-Header-Content-Length")
    document = json.loads(content[: int(told)] if told else content)
    got = [x for output in document["outputs"] for x in output.get("data", ())]
    if "data" in asked:
        want = np.asarray(asked["data"], np.float32).ravel()
    else:
        want = np.frombuffer(body[cut:], np.float32)
    if told:
        got = np.frombuffer(content[int(told) :], np.float32)
    return np.array_equal(np.float32(got), want, equal_nan=True)


class Guest:
    """Somebody who asks well-formed questions all the while."""

    def __init__(self, server: RunningServer) -> None:
        self.right = 0
        self.failed: list[str] = []
        self._channel = grpc.insecure_channel(server.grpc_url)
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Guest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._channel.close()

    def _ask(self) -> None:
        random = np.random.default_rng(1)
        while not self._stop.is_set():
            message = ModelInferRequest(model_name=["pair", "wide"][self.right % 2])
            message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
            message.raw_input_contents.append(random.random(2, np.float32).tobytes())
            sent = message.SerializeToString()
            try:
                answered = echoed(sent, self._infer(sent, timeout=15))
            except grpc.RpcError as error:
                self.failed.append(str(error))
                continue
            if answered:
                self.right += 1
            else:
                self.failed.append("a wrong answer")


def memory_of(server: RunningServer) -> int:
    """Return the bytes that a server and its backends hold, what they share counted once."""
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in family)


def pids_of(server: RunningServer) -> list[int]:
    return sorted([server.pid, *(p.pid for p in psutil.Process(server.pid).children())])


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_requests_get_errors_and_hurt_nobody(target: RunningServer, count: int) -> None:
    sender = Sender(target)
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    examples: dict[tuple[str, str], str] = {}
    for _, request in requests(len(KINDS) + 200, seed=1):
        sender.send(request)  # buffers grow once, to what they then stay
    before, pids = memory_of(target), pids_of(target)
    start = time.monotonic()
    with Guest(target) as guest:
        for kind, request in requests(count, seed=2):
            outcome = sender.send(request)
            outcomes[kind][outcome] += 1
            examples.setdefault((kind, outcome), repr(request)[:300])
            assert target.is_alive(), f"the server ended at {kind}: {request!r:.2000}"
    took_s = time.monotonic() - start
    sender.close()
    grown = memory_of(target) - before
    print(f"\n{'kind':20} {'error':>7} {'right':>7} {'closed':>7} {'other':>7}")
    for kind, seen in outcomes.items():
        other = seen.total() - seen["error"] - seen["right"] - seen["closed"]
        row = [seen["error"], seen["right"], seen["closed"], other]
        print(f"{kind:20} " + " ".join(f"{number:7}" for number in row))
    print(
        f"{count} hostile requests in {took_s:.0f} s; {guest.right} good ones beside them answered "
        f"rightly, {len(guest.failed)} not; memory {before / 2**20:.0f} MiB, grown by "
        f"{grown / 2**20:.1f} MiB"
    )
    bad = {key: text for key, text in examples.items() if key[1] in ("wrong", "unanswered")}
    assert bad == {}
    assert guest.failed == []
    assert guest.right > count / 10
    assert pids_of(target) == pids, "nothing was started anew"
    assert grown < GROWTH


BACK_S = 3.0
QUIET_S = 31.0
"""A server that lived so long since it was ready is started again without a wait."""


@pytest.fixture
def kept(models: Path, runtime: Runtime, tmp_path: Path) -> Iterator[Path]:
    """The state folder of a server that is started again when it ends."""
    options = ServeOptions(
        repository=models,
        runtime=runtime,
        host="127.0.0.1",
        ports=dict.fromkeys(PORT_OPTIONS, 0),
        log_file=tmp_path / "log",
        state_dir=tmp_path,
    )
    assert serve_in_background(options, tmp_path) is not None
    yield tmp_path
    stop_server(tmp_path, timeout_s=0.1)


def wait_until_right(state_dir: Path) -> None:
    """Return once the server of a state folder gives a right answer."""
    start = time.monotonic()
    message = good(random.Random(0)).SerializeToString()
    while time.monotonic() < start + 30:
        server = running_server(state_dir)
        if server is not None:
            sender = Sender(server)
            outcome = sender.send(Grpc(message))
            sender.close()
            if outcome == "right":
                return
        time.sleep(0.02)
    raise AssertionError("no right answer for 30 s")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_http_has_ended_is_back_within_seconds(kept: Path) -> None:
    for name, content in ENDING.items():
        time.sleep(QUIET_S)
        before = running_server(kept)
        assert before is not None
        send_raw(before.http_port, content)
        with contextlib.suppress(psutil.TimeoutExpired, psutil.NoSuchProcess):
            psutil.Process(before.pid).wait(timeout=10)  # it reads a long request for seconds
        start = time.monotonic()
        end = "survived" if before.is_alive() else "ended"
        wait_until_right(kept)
        took_s = time.monotonic() - start
        print(f"{name}: {end}, right answers after {took_s:.2f} s")
        assert took_s < BACK_S, name
