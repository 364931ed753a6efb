"""serving/deploy/compose.yaml: its schema, its secrets, its ports, what may reach what."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from support.deploy import (
    DEPLOY,
    REQUIRED,
    SCHEMAS,
    Override,
    compose,
    documents,
    filled,
    yaml_files,
)

SECRETS = {"POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD"}
SECRETS |= {"THRESHER_SERVER_KEY"}
REGISTRY = {"mlflow", "bucket", "postgres", "object-store"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return compose()["services"]


def test_every_yaml_file_parses() -> None:
    files = yaml_files()
    assert len(files) > 20
    for path in files:
        assert all(document for document in documents(path)), path


@pytest.mark.parametrize("file", ["compose.yaml", "compose.cpu.yaml"])
def test_it_fits_the_specification_of_compose(file: str) -> None:
    schema = json.loads((SCHEMAS / "compose-spec.json").read_text())
    (document,) = documents(DEPLOY / file)
    if file == "compose.cpu.yaml":  # the one tag in it takes the place of a mapping
        assert isinstance(document["services"]["triton"].pop("deploy"), Override)
    found = list(jsonschema.Draft202012Validator(schema).iter_errors(document))
    assert not found, [f"{error.json_path}: {error.message}" for error in found]


def test_the_cpu_file_takes_away_what_asks_for_a_gpu_and_nothing_else(
    services: dict[str, Any],
) -> None:
    (document,) = documents(DEPLOY / "compose.cpu.yaml")
    assert set(document) == {"services"}
    assert set(document["services"]) == {"triton"}
    assert set(document["services"]["triton"]) == {"deploy"}
    (device,) = services["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert all("deploy" not in service for name, service in services.items() if name != "triton")


def test_every_secret_must_be_given_and_the_example_gives_none() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    assert set(REQUIRED.findall(text)) == SECRETS
    for name in SECRETS:  # never with a default beside it
        assert not re.search(rf"\$\{{?{name}(?!:\?)", text), name
    lines = (DEPLOY / ".env.example").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert given == dict.fromkeys(SECRETS, "")
    assert (DEPLOY / ".gitignore").read_text().split() == [".env", "tls/"]


def test_no_password_is_written_out(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY", key):
                assert REQUIRED.fullmatch(value), f"{name}: {key}"


def test_images_are_pinned_to_a_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag), f"{name}: {service['image']}"


def test_ports_are_this_machine_s_unless_somebody_opts_in(services: dict[str, Any]) -> None:
    closed = filled(services, dict.fromkeys(SECRETS, "x"))
    opened = filled(services, {**dict.fromkeys(SECRETS, "x"), "SERVE_ON": "0.0.0.0"})
    ports = {port for service in closed.values() for port in service.get("ports", [])}
    assert len(ports) == 6
    assert all(port.startswith("127.0.0.1:") for port in ports), ports
    public = {p for s in opened.values() for p in s.get("ports", []) if p.startswith("0.0.0.0:")}
    assert public == {"0.0.0.0:8001:8001"}  # gRPC, which is encrypted, and nothing else


def test_the_model_host_reaches_no_registry_and_writes_no_model(services: dict[str, Any]) -> None:
    triton = services["triton"]
    assert triton["build"]["target"] == "triton"
    near = {network for name in REGISTRY for network in services[name]["networks"]}
    assert not near & set(triton["networks"])
    models, engines, tls = triton["volumes"]
    assert models.endswith(":/models:ro")
    assert engines == "engines:/var/cache/tensorrt"  # the one place that it writes
    assert tls["read_only"]
    assert "environment" not in triton  # no credentials, no address of a registry
    assert "entrypoint" not in triton  # the image's own sets up CUDA's forward compatibility
    assert triton["read_only"]
    assert triton["cap_drop"] == ["ALL"]
    assert triton["user"] == "1000:1000"


def test_the_server_s_private_key_is_given_to_the_server_alone(services: dict[str, Any]) -> None:
    holders = {n for n, s in services.items() for v in s.get("volumes", []) if "./tls" in str(v)}
    assert holders == {"triton", "rollout"}
    (mount,) = [v for v in services["rollout"]["volumes"] if "tls" in v]
    assert mount == "./tls/tls.crt:/tls.crt:ro"
    assert services["rollout"]["environment"]["THRESHER_TLS_CA"] == "/tls.crt"


def test_storage_is_reached_by_what_stores_alone(services: dict[str, Any]) -> None:
    assert compose()["networks"]["storage"] == {"internal": True}
    inside = {
        name for name, service in services.items() if "storage" in service.get("networks", [])
    }
    assert inside == REGISTRY
    assert not any("ports" in services[name] for name in ("postgres", "object-store", "bucket"))


def test_what_keeps_data_keeps_it_in_a_named_volume(services: dict[str, Any]) -> None:
    names = set(compose()["volumes"])
    used = set()
    for service in filled(services, dict.fromkeys(SECRETS, "x")).values():
        for volume in service.get("volumes", []):
            if isinstance(volume, dict):
                assert (volume["source"], volume["read_only"]) == ("./tls", True)
                assert volume["bind"] == {"create_host_path": False}  # or Triton gets an empty one
                continue
            source = volume.split(":")[0]
            if source.startswith("./"):
                made_later = source == "./tls/tls.crt"
                assert made_later or (DEPLOY / source).exists(), source
                assert volume.endswith(":ro"), volume
            else:
                used.add(source)
    kept = {"models", "engines", "postgres", "objects", "prometheus", "grafana"}
    assert used == names == kept


def test_what_is_waited_for_says_when_it_is_healthy(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
            else:
                assert how["condition"] == "service_completed_successfully"
                assert "restart" not in services[other], other


def test_grafana_finds_its_source_and_its_dashboard(services: dict[str, Any]) -> None:
    mounts = dict(v.split(":")[1::-1] for v in services["grafana"]["volumes"] if v[0] == ".")
    (provider,) = documents(DEPLOY / "grafana/provisioning/dashboards/thresher.yaml")
    (path,) = {p["options"]["path"] for p in provider["providers"]}
    assert (DEPLOY / mounts[path] / "thresher.json").is_file()
    (sources,) = documents(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")
    (source,) = sources["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert set(services["grafana"]["networks"]) & set(services["prometheus"]["networks"])
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{path}/thresher.json"


def test_the_script_that_makes_the_bucket_makes_it_once(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for key, value in filled(
            services["bucket"]["environment"], dict.fromkeys(SECRETS, "x")
        ).items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://{host}:{port}")
        python, flag, script = services["bucket"]["command"]
        assert (python, flag) == ("python", "-c")
        for _ in range(2):
            exec(compile(script, "bucket", "exec"), {})
        s3 = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["mlflow"]
    finally:
        server.stop()
