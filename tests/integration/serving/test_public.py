"""A server that other machines can reach: who has no key gets predictions, and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from support.certificates import write_certificates
from support.hostile import ENDING, send_raw
from support.hosts import write_certificate
from thresher.errors import ServerError
from thresher_serving import Client, RunningServer, Runtime, running_server, start_server
from thresher_serving.connection import Connection, Tls
from thresher_serving.embedded.public import key_headers, public_server

NO_PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}
HOST = "models.example.org"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public")
    write_certificate(path, "tls", [HOST])
    return path


@pytest.fixture(scope="module")
def models(publish: Callable[..., Path], repository: Path, zoo: list[str], folder: Path) -> Path:
    text = (repository / "warm/config.pbtxt").read_text().split("model_warmup")[0]
    text += "instance_group { count: 1 kind: KIND_CPU }"
    model = (repository / "warm/1/model.onnx").read_bytes()
    return publish("pair", model, text, root=folder / "models").parent


@pytest.fixture(scope="module")
def public(models: Path, runtime: Runtime, folder: Path) -> Iterator[RunningServer]:
    hardened = public_server(
        certificate=folder / "tls.crt", private_key=folder / "tls.key", state_dir=folder / "state"
    )
    started = start_server(
        models,
        runtime=runtime,
        state_dir=folder / "state",
        host="0.0.0.0",
        public=hardened,
        watch=True,
        **NO_PORTS,
    )
    yield started
    started.stop(timeout_s=0.1)


def key_of(server: RunningServer) -> str:
    assert server.security is not None
    assert server.security.key_file is not None
    return Path(server.security.key_file).read_text().strip()


GRPC: dict[str, Callable[[Any], Any]] = {
    "index": lambda c: c.get_model_repository_index(),
    "load": lambda c: c.load_model("pair"),
    "load a file": lambda c: c.load_model(
        "pair", config=json.dumps({"backend": "python"}), files={"file:1/model.py": b"evil"}
    ),
    "unload": lambda c: c.unload_model("pair"),
    "system memory status": lambda c: c.get_system_shared_memory_status(),
    "system memory register": lambda c: c.register_system_shared_memory("r", "/r", 8),
    "system memory unregister": lambda c: c.unregister_system_shared_memory(),
    "cuda memory status": lambda c: c.get_cuda_shared_memory_status(),
    "cuda memory register": lambda c: c.register_cuda_shared_memory("r", b"0" * 64, 0, 8),
    "cuda memory unregister": lambda c: c.unregister_cuda_shared_memory(),
    "log settings": lambda c: c.get_log_settings(),
    "log settings change": lambda c: c.update_log_settings({"log_file": "/tmp/other.log"}),
    "trace settings": lambda c: c.get_trace_settings(),
    "trace settings change": lambda c: c.update_trace_settings(
        settings={"trace_file": "/tmp/other.trace"}
    ),
    "trace settings of a model": lambda c: c.get_trace_settings("pair"),
    "statistics": lambda c: c.get_inference_statistics(),
    "statistics of a model": lambda c: c.get_inference_statistics("pair"),
}
HTTP = {
    "index": ("POST", "/v2/repository/index", {}),
    "load": ("POST", "/v2/repository/models/pair/load", {}),
    "unload": ("POST", "/v2/repository/models/pair/unload", {}),
    "system memory status": ("GET", "/v2/systemsharedmemory/status", None),
    "system memory region": ("GET", "/v2/systemsharedmemory/region/r/status", None),
    "system memory register": (
        "POST",
        "/v2/systemsharedmemory/region/r/register",
        {"key": "/r", "offset": 0, "byte_size": 8},
    ),
    "system memory unregister": ("POST", "/v2/systemsharedmemory/unregister", {}),
    "cuda memory status": ("GET", "/v2/cudasharedmemory/status", None),
    "cuda memory register": (
        "POST",
        "/v2/cudasharedmemory/region/r/register",
        {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 8},
    ),
    "cuda memory unregister": ("POST", "/v2/cudasharedmemory/unregister", {}),
    "log settings": ("GET", "/v2/logging", None),
    "log settings change": ("POST", "/v2/logging", {"log_verbose_level": 9}),
    "trace settings": ("GET", "/v2/trace/setting", None),
    "trace settings change": ("POST", "/v2/trace/setting", {"trace_rate": "1"}),
    "trace settings of a model": ("GET", "/v2/models/pair/trace/setting", None),
    "trace settings of a model change": (
        "POST",
        "/v2/models/pair/trace/setting",
        {"trace_level": ["TENSORS"]},
    ),
    "statistics": ("GET", "/v2/models/stats", None),
    "statistics of a model": ("GET", "/v2/models/pair/stats", None),
    "inference": ("POST", "/v2/models/pair/infer", {"inputs": []}),
    "inference of a version": ("POST", "/v2/models/pair/versions/1/infer", {"inputs": []}),
    "statistics of a version": ("GET", "/v2/models/pair/versions/1/stats", None),
}
WRONG = {
    "none": {},
    "wrong": key_headers("x" * 43),
    "empty": key_headers(""),
    "under another name": {"authorization": "Bearer secret", "triton-grpc-protocol-key": "secret"},
}


def guest(server: RunningServer, headers: dict[str, str]) -> Any:
    """Return a client of somebody who has the server's certificate and these headers."""
    assert server.security is not None
    tls = Tls(ca=Path(server.security.certificate), server_name=HOST)
    return Connection(url=server.grpc_url, headers=headers, tls=tls).open()


def over_http(
    server: RunningServer, method: str, path: str, body: Any, headers: dict[str, str]
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.http_url, timeout=10)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    told = answer.read().decode()
    connection.close()
    return answer.status, told


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("call", GRPC.values(), ids=GRPC)
def test_over_grpc_it_is_refused_without_the_right_key(
    public: RunningServer, call: Callable[[Any], Any], headers: dict[str, str]
) -> None:
    from tritonclient.utils import InferenceServerException

    client = guest(public, headers)
    with pytest.raises(InferenceServerException, match="This protocol is restricted"):
        call(client)
    client.close()


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize(("method", "path", "body"), HTTP.values(), ids=HTTP)
def test_over_http_it_is_refused_without_the_right_key(
    public: RunningServer, method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    status, told = over_http(public, method, path, body, headers)
    assert (status, "This API is restricted" in told) == (403, True), told


def test_nothing_changed_by_what_was_refused_and_the_key_opens_it(public: RunningServer) -> None:
    from tritonclient.utils import InferenceServerException

    client = guest(public, key_headers(key_of(public)))
    (model,) = client.get_model_repository_index().models
    assert (model.name, model.state) == ("pair", "READY")
    assert client.get_log_settings(as_json=True)["settings"]["log_verbose_level"] == {
        "uint32_param": 0
    }
    assert client.get_trace_settings(as_json=True)["settings"]["trace_level"] == {"value": ["OFF"]}
    not_allowed = []
    for name, call in GRPC.items():
        if name in ("load a file", "unload", "log settings change", "trace settings change"):
            continue  # they would change the server that the tests share
        try:
            call(client)
        except InferenceServerException as error:
            not_allowed += [name] if "restricted" in str(error) else []
    assert not_allowed == []
    client.close()
    for name, (method, path, body) in HTTP.items():
        if "change" not in name and name != "unload":
            status, told = over_http(public, method, path, body, key_headers(key_of(public)))
            assert status != 403, (name, told)


def test_predictions_metadata_and_health_need_no_key(public: RunningServer) -> None:
    from tritonclient.grpc import InferInput

    client = guest(public, {})
    assert client.is_server_live()
    assert client.is_model_ready("pair")
    assert client.get_model_metadata("pair").name == "pair"
    assert client.get_model_config("pair").config.name == "pair"
    row = np.float32([[1, 2]])
    feed = InferInput("x", [1, 2], "FP32").set_data_from_numpy(row)
    assert client.infer("pair", [feed]).as_numpy("y").tolist() == row.tolist()
    client.close()


def test_over_http_metadata_and_health_need_no_key(public: RunningServer) -> None:
    for path in ("/v2", "/v2/health/ready", "/v2/models/pair", "/v2/models/pair/config"):
        assert over_http(public, "GET", path, None, {})[0] == 200


def test_what_ends_a_triton_2_51_over_http_does_not_reach_it_without_the_key(
    public: RunningServer,
) -> None:
    for request in ENDING.values():
        send_raw(public.http_port, request)
        time.sleep(0.3)
        assert public.is_alive()
    assert over_http(public, "GET", "/v2/health/ready", None, {})[0] == 200


def test_a_connection_without_tls_is_refused(public: RunningServer) -> None:
    from tritonclient.utils import InferenceServerException

    plain = Connection(url=public.grpc_url).open()
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        plain.is_server_live(client_timeout=5)
    plain.close()


def test_http_and_metrics_are_on_this_machine_only(public: RunningServer) -> None:
    listening = {
        c.laddr.port: c.laddr.ip
        for c in psutil.Process(public.pid).net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening[public.http_port] == "127.0.0.1"
    assert listening[public.metrics_port] == "127.0.0.1"
    assert listening[public.grpc_port] in ("0.0.0.0", "::", "::ffff:0.0.0.0")


def test_the_key_is_in_no_command_line_state_file_or_log(
    public: RunningServer, folder: Path
) -> None:
    key = key_of(public)
    for process in psutil.process_iter():
        try:
            assert key not in " ".join(process.cmdline())
        except psutil.Error:
            continue
    assert "thresher-key=(hidden)" in " ".join(psutil.Process(public.pid).cmdline())
    assert key not in (folder / "state/server.json").read_text()
    assert key not in Path(public.log_file).read_text()
    assert stat.S_IMODE((folder / "state/server.key").stat().st_mode) == 0o600


def test_our_own_tools_find_the_key(public: RunningServer, folder: Path) -> None:
    found = running_server(folder / "state")
    assert found == public
    assert [str(state) for state in found.models] == ["pair version 1 is READY"]
    assert found.load_model("pair")[0].is_ready
    with Client(found.where) as client:
        assert client.metadata("pair").version == 1


def test_a_hardened_server_is_watched_too(public: RunningServer) -> None:
    end = time.monotonic() + 15
    time.sleep(1.5)
    for child in psutil.Process(public.pid).children():
        os.kill(child.pid, signal.SIGKILL)
    while "pair version 1 answers again" not in Path(public.log_file).read_text():
        assert time.monotonic() < end, Path(public.log_file).read_text()[-2000:]
        time.sleep(0.1)


def test_with_a_clients_authority_only_certified_clients_are_let_in(
    models: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tritonclient.utils import InferenceServerException

    monkeypatch.setenv("THRESHER_SERVER_KEY", "a-key-from-the-environment")
    write_certificates(tmp_path)
    hardened = public_server(
        certificate=tmp_path / "server.crt",
        private_key=tmp_path / "server.key",
        clients_ca=tmp_path / "ca.crt",
        state_dir=tmp_path / "state",
    )
    started = start_server(
        models, runtime=runtime, state_dir=tmp_path / "state", public=hardened, **NO_PORTS
    )
    try:
        ca = tmp_path / "ca.crt"
        nobody = Connection(url=started.grpc_url, tls=Tls(ca=ca)).open()
        with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            nobody.is_server_live(client_timeout=5)
        nobody.close()
        own = Tls(ca=ca, certificate=tmp_path / "client.crt", key=tmp_path / "client.key")
        known = Connection(url=started.grpc_url, tls=own).open()
        assert known.is_server_live(client_timeout=5)
        known.close()
        assert not (tmp_path / "state/server.key").exists(), "the environment has it"
        assert running_server(tmp_path / "state").models[0].is_ready
    finally:
        started.stop(timeout_s=0.1)


def test_the_command_serves_with_a_key_that_it_makes_and_that_stop_needs_not(
    models: Path, folder: Path, tmp_path: Path
) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "THRESHER_SERVER_KEY"}

    def thresher(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "thresher", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    serve = ["serve", "--background", "--public", "--repository", str(models)]
    serve += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    without = thresher(*serve)
    assert without.returncode == 2
    assert "--public needs --tls-cert FILE and --tls-key FILE" in without.stderr
    tls = ["--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key")]
    started = thresher(*serve, *tls)
    try:
        assert started.returncode == 0, started.stderr
        assert "Hardened: gRPC with TLS on 0.0.0.0" in started.stderr
        key = (tmp_path / ".thresher/server.key").read_text().strip()
        assert key not in started.stdout + started.stderr
        again = thresher(*serve, *tls)
        assert "its models are up to date" in again.stdout, again.stderr
    finally:
        stopped = thresher("stop")
    assert stopped.stdout.startswith("Stopped Triton")


def test_an_address_that_others_can_reach_needs_the_hardened_preset(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    for host in ("0.0.0.0", "::", "10.1.2.3", "models.example.org"):
        with pytest.raises(ServerError, match="thresher serve --public"):
            start_server(models, runtime=runtime, host=host, state_dir=tmp_path, **NO_PORTS)
    assert list(tmp_path.iterdir()) == []
