"""What is drawn and scaled by is what Triton exports, started as serving/deploy starts it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from support.deploy import DEPLOY, KUBERNETES, commands, compose, documents, objects
from support.mlflow_server import free_port
from thresher.errors import ThresherError
from thresher_serving import control, find_runtime
from thresher_serving.connection_environment import connection_from_environment
from thresher_serving.embedded.process import created, last_lines, spawn, terminate

DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/thresher.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
(ADAPTER,) = documents(KUBERNETES / "prometheus-adapter/values.yaml")
(RULE,) = ADAPTER["rules"]["custom"]
KEY = {"thresher-key": "0123456789abcdef"}
PLACES = ("--model-repository", "--http-port", "--grpc-port", "--grpc-server-")

NEEDS_A_GPU = {
    "nv_gpu_utilization",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage",
    "nv_gpu_power_limit",
}
"""Triton 2.51 exports these only where DCGM finds a GPU: docs/user_guide/metrics.md."""

OF_PROMETHEUS = {"up"}
"""Prometheus writes it for each target."""

LABELS_OF_PROMETHEUS = {"job", "instance", "gpu_uuid", "namespace", "pod"}


@dataclass(frozen=True)
class Server:
    http: int
    grpc: int
    metrics: int
    model: Path
    tls: Path

    def ask(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> int:
        """Return the status of a request over HTTP."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers or {},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def exported(self) -> dict[str, set[str]]:
        """Return the metrics and the names of their labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
            text = answer.read().decode()
        found: dict[str, set[str]] = {}
        for name, labels in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
        return found


CONFIG = """
backend: "onnxruntime"
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
output { name: "labels" data_type: TYPE_BOOL dims: 2 }
parameters { key: "thresher.decision/1" value { string_value: '{"labels": ["rain", "fog"]}' } }
parameters { key: "label_metrics" value { string_value: "256" } }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching {}
version_policy { specific { versions: [%s] } }
"""


def network() -> bytes:
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "y")
    )
    labels = helper.make_tensor_value_info("labels", TensorProto.BOOL, ["batch", 2])
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["y"]),
        helper.make_node("GreaterOrEqual", ["y", "y"], ["labels"]),
    ]
    graph = helper.make_graph(nodes, "graph", [x], [y, labels])
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The embedded Triton with every option of compose.yaml, its places apart."""
    root = tmp_path_factory.mktemp("deployed")
    model = root / "model_repository/small"
    (model / "1").mkdir(parents=True)
    (model / "1/model.onnx").write_bytes(network())
    (model / "config.pbtxt").write_text(CONFIG % "1")
    names = "DNS:triton,DNS:localhost,IP:127.0.0.1"
    make = ["sh", str(DEPLOY / "certificate.sh"), str(root / "tls"), names]
    subprocess.run(make, check=True, capture_output=True)
    _, *given = commands()["compose triton"]
    runtime = find_runtime()
    ports = {kind: free_port() for kind in ("http", "grpc", "metrics")}
    command = [
        str(runtime.server),
        *(word for word in given if not word.startswith(PLACES)),
        f"--model-repository={model.parent}",
        f"--backend-directory={runtime.backend_directory}",
        f"--grpc-server-cert={root}/tls/tls.crt",
        f"--grpc-server-key={root}/tls/tls.key",
        *(f"--{kind}-port={port}" for kind, port in ports.items()),
        *(f"--{kind}-address=127.0.0.1" for kind in ports),
    ]
    pid = spawn(command, runtime.environment(), root / "log")
    born = created(pid) or 0.0
    running = Server(ports["http"], ports["grpc"], ports["metrics"], model, root / "tls")
    try:
        end = time.monotonic() + 60
        while True:
            try:
                assert running.ask("v2/health/ready") == 200
                break
            except (OSError, AssertionError):
                assert time.monotonic() < end, last_lines(root / "log")
                time.sleep(0.1)
        x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
        assert running.ask("v2/models/small/infer", {"inputs": [x]}) == 403
        assert running.ask("v2/models/small/infer", {"inputs": [x]}, KEY) == 200
        yield running
    finally:
        terminate(pid, born, timeout_s=5)


@pytest.fixture(scope="module")
def exported(server: Server) -> dict[str, set[str]]:
    return server.exported()


def queries() -> list[tuple[str, str]]:
    found = [(p["title"], target["expr"]) for p in PANELS for target in p["targets"]]
    return [*found, ("autoscaler", RULE["metricsQuery"])]


def metrics_of(query: str) -> set[str]:
    """Return what a query names before a brace, in a function or alone, its labels left out."""
    plain = re.sub(r"\{[^{}]*\}|\[[^\]]*\]|\b(?:by|on|group_left)\s*\([^)]*\)", " ", query)
    words = set(re.findall(r"[a-z_][a-z0-9_]*", plain))
    return words - {"sum", "rate", "max", "count", "clamp_min", "GroupBy", "by"}


@pytest.mark.parametrize(
    ("title", "query"), queries(), ids=[f"{title}-{at}" for at, (title, _) in enumerate(queries())]
)
def test_every_query_names_metrics_and_labels_that_triton_exports(
    title: str, query: str, exported: dict[str, set[str]]
) -> None:
    query = query.replace("<<.LabelMatchers>>", 'pod="a"').replace("<<.GroupBy>>", "pod")
    names = metrics_of(query)
    assert names, query
    assert names <= set(exported) | NEEDS_A_GPU | OF_PROMETHEUS, query
    labels = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\"", query))
    for listed in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        labels |= {label.strip() for label in listed.split(",")}
    known = set().union(*(exported.get(name, set()) for name in names)) | LABELS_OF_PROMETHEUS
    assert labels <= known, query


def test_the_list_of_what_needs_a_gpu_holds_nothing_else(exported: dict[str, set[str]]) -> None:
    assert not NEEDS_A_GPU & set(exported)
    used = set().union(*(metrics_of(query) for _, query in queries()))
    assert used >= NEEDS_A_GPU


def test_percentiles_are_exported_as_they_are_asked_for(exported: dict[str, set[str]]) -> None:
    assert "quantile" in exported["nv_inference_request_summary_us"]
    assert "quantile" in exported["nv_inference_queue_summary_us"]
    text = " ".join(commands()["compose triton"])
    for quantile in re.findall(r'quantile="([^"]+)"', json.dumps(DASHBOARD).replace('\\"', '"')):
        assert f"{quantile}:" in text, quantile


def test_what_changes_the_server_is_refused_without_the_key(server: Server) -> None:
    small = "v2/repository/models/small"
    for headers in ({}, {"thresher-key": "another"}):
        assert server.ask(f"{small}/unload", {}, headers) == 403
        assert server.ask("v2/models/small/stats", headers=headers) == 403
    assert server.ask("v2/models/small/ready") == 200
    assert server.ask(f"{small}/load", {}, KEY) == 200
    assert server.ask("v2/models/small/stats", headers=KEY) == 200


def test_who_rolls_out_reaches_it_over_tls_with_the_key_and_not_without(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"localhost:{server.grpc}"
    monkeypatch.setenv("THRESHER_TLS_CA", str(server.tls / "tls.crt"))
    monkeypatch.setenv("THRESHER_SERVER_KEY", KEY["thresher-key"])
    states = control.model_states(connection_from_environment(where))
    assert [(state.name, state.version, state.is_ready) for state in states] == [("small", 1, True)]
    monkeypatch.setenv("THRESHER_SERVER_KEY", "another-0123456789")
    with pytest.raises(ThresherError):
        control.model_states(connection_from_environment(where))
    assert (server.tls / "tls.key").stat().st_mode & 0o077 == 0


def test_a_version_that_cannot_load_does_not_take_the_server_out(server: Server) -> None:
    (server.model / "2").mkdir()
    (server.model / "2/model.onnx").write_bytes(b"not a model")
    (server.model / "config.pbtxt").write_text(CONFIG % "1, 2")
    assert server.ask("v2/repository/models/small/load", {}, KEY) == 400
    assert server.ask("v2/models/small/versions/1/ready") == 200
    assert server.ask("v2/health/ready") == 200  # with strict readiness: 400


def test_the_dashboard_has_a_panel_for_each_thing_that_is_watched() -> None:
    text = " ".join(metric for _, query in queries() for metric in metrics_of(query))
    for wanted in (
        "nv_inference_request_summary_us",
        "nv_inference_queue_summary_us",
        "nv_inference_pending_request_count",
        "nv_inference_exec_count",
        "nv_inference_request_success",
        "nv_inference_request_failure",
        "nv_gpu_utilization",
        "thresher_label_positives_total",
    ):
        assert wanted in text


def test_panels_say_what_they_show_and_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))


def test_variables_list_what_triton_exports(exported: dict[str, set[str]]) -> None:
    variables = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "model", "version"}
    for name in ("model", "version"):
        found = re.match(r"label_values\((\w+).*, (\w+)\)", variables[name]["query"]["query"])
        assert found is not None
        assert found[2] in exported[found[1]]
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used == set(variables)


def test_prometheus_asks_triton_where_it_answers() -> None:
    (config,) = documents(DEPLOY / "prometheus/prometheus.yml")
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]
    }
    assert jobs["triton"] == ["triton:8002"]
    services = compose()["services"]
    assert set(services["triton"]["networks"]) & set(services["prometheus"]["networks"])
    (sources,) = documents(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")
    interval = sources["datasources"][0]["jsonData"]["timeInterval"]
    assert interval == config["global"]["scrape_interval"]


def test_the_autoscaler_s_metric_is_the_one_that_the_adapter_makes() -> None:
    (scaler,) = [o for o in objects("overlays/cpu") if o["kind"] == "HorizontalPodAutoscaler"]
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == RULE["name"]["as"]
    series = RULE["seriesQuery"].partition("{")[0]
    assert re.fullmatch(RULE["name"]["matches"], series)
    assert series in metrics_of(RULE["metricsQuery"])
    assert set(RULE["resources"]["overrides"]) == {"namespace", "pod"}
    assert RULE["metricsQuery"].count("<<.GroupBy>>") == 2
    assert RULE["metricsQuery"].count("<<.LabelMatchers>>") == 2


def test_promtool_takes_the_configuration_and_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here, which comes with Prometheus")
    config = DEPLOY / "prometheus/prometheus.yml"
    subprocess.run([promtool, "check", "config", str(config)], check=True, capture_output=True)
    rules = [
        {
            "record": f"query:{at}",
            "expr": query.replace("$__rate_interval", "1m")
            .replace("<<.LabelMatchers>>", 'pod="a"')
            .replace("<<.GroupBy>>", "pod"),
        }
        for at, (_, query) in enumerate(queries())
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
