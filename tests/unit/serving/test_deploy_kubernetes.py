"""serving/deploy/kubernetes: schemas, kustomizations, probes, what pods may do and reach."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from support.deploy import (
    KUBERNETES,
    VARIANTS,
    documents,
    objects,
    pod_specs,
    problems,
    real_crd,
    rendered,
)

KUSTOMIZATIONS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
CUSTOM = {
    "PodMonitor": "prometheus#/$defs/PodMonitor",
    "ServiceMonitor": "prometheus#/$defs/ServiceMonitor",
    "InferenceService": "kserve#/$defs/V1beta1InferenceService",
    "ServingRuntime": "kserve#/$defs/V1alpha1ServingRuntime",
}
KINDS = {
    "Deployment": "io.k8s.api.apps.v1.Deployment",
    "Service": "io.k8s.api.core.v1.Service",
    "PersistentVolumeClaim": "io.k8s.api.core.v1.PersistentVolumeClaim",
    "PodDisruptionBudget": "io.k8s.api.policy.v1.PodDisruptionBudget",
    "HorizontalPodAutoscaler": "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "NetworkPolicy": "io.k8s.api.networking.v1.NetworkPolicy",
    "CronJob": "io.k8s.api.batch.v1.CronJob",
    "Job": "io.k8s.api.batch.v1.Job",
    "ConfigMap": "io.k8s.api.core.v1.ConfigMap",
    "Namespace": "io.k8s.api.core.v1.Namespace",
}


def everything() -> list[Any]:
    return [*objects("overlays/gpu"), *objects("rollout"), *objects("kserve")]


def of_kind(kind: str, folder: str = "overlays/gpu") -> Any:
    (found,) = [thing for thing in objects(folder) if thing["kind"] == kind]
    return found


def misfits(thing: Any) -> list[str]:
    kind = thing["kind"]
    return problems(thing, CUSTOM.get(kind) or f"kubernetes#/$defs/{KINDS[kind]}")


def test_every_object_fits_the_schema_of_its_kind() -> None:
    kinds = set()
    for thing in everything():
        assert not misfits(thing), (thing["kind"], thing["metadata"]["name"], misfits(thing))
        kinds.add(thing["kind"])
    assert kinds == set(KINDS) - {"ConfigMap"} | set(CUSTOM)


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec.template.spec.containers.0.livenesProbe", {}),
        ("Deployment", "spec.template.spec.containers.0.image", 5),
        ("HorizontalPodAutoscaler", "spec.metrics.0.pods.target.averageValu", "1"),
        ("PersistentVolumeClaim", "spec.accessMode", "ReadWriteMany"),
        ("NetworkPolicy", "spec.ingress.0.fom", []),
        ("CronJob", "spec.jobTemplate.spec.backofLimit", 1),
        ("ServiceMonitor", "spec.endpoints.0.interval", "5 s"),
        ("InferenceService", "spec.predictor.model.storageURI", "pvc://models"),
        ("ServingRuntime", "spec.containers.0.readinesProbe", {}),
    ],
)
def test_the_schemas_find_what_is_misspelt(kind: str, path: str, value: Any) -> None:
    thing = of_kind(
        kind, "kserve" if kind in {"InferenceService", "ServingRuntime"} else "overlays/gpu"
    )
    assert not misfits(thing)
    *way, last = path.split(".")
    at = thing
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    at[last] = value
    assert misfits(thing)


@pytest.mark.parametrize(
    ("kind", "version"), [("InferenceService", "v1beta1"), ("ServingRuntime", "v1alpha1")]
)
def test_kserve_s_objects_fit_its_own_definitions(kind: str, version: str) -> None:
    schema = real_crd(kind, version)
    if schema is None:
        pytest.skip("THRESHER_CRDS names no folder with KServe's definitions (2 MB)")
    schema["properties"]["metadata"] = {"type": "object"}
    found = jsonschema.Draft202012Validator(schema).iter_errors(of_kind(kind, "kserve"))
    assert not [f"{error.json_path}: {error.message[:200]}" for error in found]


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_a_kustomization_names_files_that_are_there_and_patches_what_exists(folder: Path) -> None:
    (kustomization,) = documents(folder / "kustomization.yaml")
    assert kustomization["kind"] == "Kustomization"
    for resource in kustomization["resources"]:
        path = folder / resource
        assert path.is_file() or (path / "kustomization.yaml").is_file(), path
    listed = {*kustomization["resources"], "kustomization.yaml"}
    listed |= {patch["path"] for patch in kustomization.get("patches", [])}
    assert {path.name for path in folder.glob("*.yaml")} <= listed
    targets = {(o["kind"], o["metadata"]["name"]) for o in objects(str(folder))}
    for patch in kustomization.get("patches", []):
        for document in documents(folder / patch["path"]):
            assert (document["kind"], document["metadata"]["name"]) in targets
            assert not misfits_of_patch(document), misfits_of_patch(document)
            for name in container_names(document):
                assert name in container_names(of_kind(document["kind"], str(folder)))


def misfits_of_patch(patch: Any) -> list[str]:
    """Return what of a patch does not fit, besides what it leaves to the object."""
    return [text for text in misfits(patch) if "is a required property" not in text]


def container_names(thing: Any) -> set[str]:
    return {c["name"] for _, spec in pod_specs([thing]) for c in spec["containers"]}


@pytest.mark.parametrize("variant", VARIANTS)
def test_kustomize_builds_it(variant: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl here, which has kustomize built in")
    built = rendered(variant)
    for thing in built:
        assert not misfits(thing), misfits(thing)
        if thing["kind"] != "Namespace":
            assert thing["metadata"]["namespace"] == "thresher"
    if variant.startswith("overlays"):
        (pod,) = [s for what, s in pod_specs(built) if what == "Deployment triton"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (variant == "overlays/gpu")
        assert pod["containers"][0]["readinessProbe"], "a patch adds to the container"


def test_triton_is_probed_on_its_own_health_addresses() -> None:
    for what, spec in pod_specs([*objects("overlays/gpu"), *objects("kserve")]):
        if not what.endswith("triton"):
            continue
        (container,) = spec["containers"]
        assert "command" not in container, "it would skip the image's entry point"
        paths = {
            kind: container[f"{kind}Probe"]["httpGet"]["path"]
            for kind in ("startup", "readiness", "liveness")
        }
        assert paths == {
            "startup": "/v2/health/ready",
            "readiness": "/v2/health/ready",
            "liveness": "/v2/health/live",
        }
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
        http = (
            next(word for word in command_of(container) if word.startswith("--http-port="))
            if ("kserve" in container["name"])
            else "--http-port=8000"
        )
        port = container["readinessProbe"]["httpGet"]["port"]
        ports = {p["name"]: p["containerPort"] for p in container.get("ports", [])}
        assert ports.get(port, port) == int(http.removeprefix("--http-port="))


def command_of(container: Any) -> list[str]:
    return [*container.get("command", []), *container.get("args", [])]


def test_triton_has_time_to_finish_what_it_has_begun() -> None:
    (spec,) = [s for what, s in pod_specs(objects("overlays/gpu")) if what == "Deployment triton"]
    (container,) = spec["containers"]
    wait = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    exit_timeout = next(w for w in command_of(container) if w.startswith("--exit-timeout-secs="))
    assert spec["terminationGracePeriodSeconds"] > wait + int(exit_timeout.split("=")[1])


def test_no_pod_may_more_than_it_needs() -> None:
    seen = 0
    for what, spec in pod_specs(everything()):
        if not what.startswith("ServingRuntime"):
            assert spec["automountServiceAccountToken"] is False, what
            assert spec["securityContext"]["runAsNonRoot"] is True, what
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, what
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, what
            assert security["readOnlyRootFilesystem"] is True, what
            assert security["capabilities"] == {"drop": ["ALL"]}, what
            assert re.search(r":\d+\.\d+", container["image"]), container["image"]
            written = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
            is_ours = container["image"].startswith("registry.example/")
            assert "/tmp" in written or not is_ours, f"{what}: the root file system is read-only"
            seen += 1
    assert seen == 8


def test_triton_reads_the_models_and_the_jobs_write_them() -> None:
    writes = {}
    for what, spec in pod_specs([*objects("overlays/gpu"), *objects("rollout")]):
        volumes = {v["name"]: v for v in spec["volumes"]}
        (mount,) = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] == "models"]
        claim = volumes["models"]["persistentVolumeClaim"]
        assert claim["claimName"] == of_kind("PersistentVolumeClaim")["metadata"]["name"]
        assert claim.get("readOnly", False) == mount.get("readOnly", False)
        writes[what] = not claim.get("readOnly", False)
    assert writes == {
        "Deployment triton": False,
        "CronJob thresher-export": True,
        "Job folders": True,
        "Job rollout": True,
    }
    assert of_kind("PersistentVolumeClaim")["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_fresh_volume_gets_the_repository_and_triton_waits_for_it() -> None:
    """With --exit-on-error=false Triton does not look again for a repository that is missing."""
    specs = dict(pod_specs(rendered("overlays/gpu")))
    (make,) = specs["Job folders"]["containers"]
    (triton,) = specs["Deployment triton"]["containers"]
    (wait,) = specs["Deployment triton"]["initContainers"]
    places = {w.split("=")[1] for w in command_of(triton) if w.startswith("--model-repository=")}
    assert {make["command"][-1]} == places
    script = wait["command"][-1]
    assert f"[ -d {places.pop()} ]" in script
    assert not subprocess_fails(script.replace("/models/model_repository", "/tmp"))
    export = specs["CronJob thresher-export"]["containers"][0]["command"]
    assert make["command"][-1] in export


def subprocess_fails(script: str) -> bool:
    return subprocess.run(["sh", "-c", script], timeout=20, check=False).returncode != 0


def test_prometheus_finds_the_pods_of_both_variants() -> None:
    """Its operator's Helm chart selects monitors by the label `release` alone."""
    monitors = {o["kind"]: o for v in ("overlays/gpu", "kserve") for o in rendered(v)}
    for kind in ("ServiceMonitor", "PodMonitor"):
        assert monitors[kind]["metadata"]["labels"]["release"] == "kube-prometheus-stack"
    (runtime,) = [spec for what, spec in pod_specs(rendered("kserve")) if "Runtime" in what]
    ports = runtime["containers"][0]["ports"]
    (endpoint,) = monitors["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert {p["name"]: p["containerPort"] for p in ports}[endpoint["port"]] == 8002
    assert ports[0]["containerPort"] == 8080, "KServe's service leads to the first port"
    (service,) = [o for o in rendered("kserve") if o["kind"] == "InferenceService"]
    selected = monitors["PodMonitor"]["spec"]["selector"]["matchLabels"]
    assert selected == {"serving.kserve.io/inferenceservice": service["metadata"]["name"]}


def test_selectors_find_the_pods_and_the_service_that_they_mean() -> None:
    found = objects("overlays/gpu")
    (deployment,) = [o for o in found if o["kind"] == "Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    ports = {p["name"] for p in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    services = [o for o in found if o["kind"] == "Service"]
    for service in services:
        assert service["spec"]["selector"].items() <= labels
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= ports
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels
    monitor = of_kind("ServiceMonitor")["spec"]
    (scraped,) = [  # one: pods that two services name would be counted twice
        s
        for s in services
        if monitor["selector"]["matchLabels"].items() <= s["metadata"]["labels"].items()
    ]
    assert monitor["endpoints"][0]["port"] in {p["name"] for p in scraped["spec"]["ports"]}
    target = of_kind("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"], "the autoscaler sets them"


def test_triton_reaches_nothing_and_is_reached_by_who_carries_the_label() -> None:
    policy = of_kind("NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["egress"] == []
    callers, prometheus = policy["ingress"]
    wanted = callers["from"][0]["podSelector"]["matchLabels"].items()
    assert {p["port"] for p in callers["ports"]} == {"http", "grpc"}
    assert {p["port"] for p in prometheus["ports"]} == {"metrics"}
    job = of_kind("Job", "rollout")
    assert wanted <= job["spec"]["template"]["metadata"]["labels"].items()


def test_who_writes_the_key_reads_it_from_a_secret() -> None:
    for what, spec in pod_specs(everything()):
        (container,) = spec["containers"]
        given = {e["name"]: e for e in container.get("env", [])}
        if "export" in what or "folders" in what:
            assert "THRESHER_SERVER_KEY" not in given, "it asks no server"
            continue
        secret = given["THRESHER_SERVER_KEY"]["valueFrom"]["secretKeyRef"]
        assert secret == {"name": "server-key", "key": "key"}
    assert not [o for o in everything() if o["kind"] == "Secret"]


def test_the_server_s_private_key_is_given_to_the_server_alone() -> None:
    secrets = {}
    for what, spec in pod_specs([*objects("overlays/gpu"), *objects("rollout")]):
        for volume in spec["volumes"]:
            if "secret" in volume:
                secrets[what] = volume["secret"]
    assert secrets == {
        "Deployment triton": {"secretName": "triton-tls"},
        "Job rollout": {
            "secretName": "triton-tls",
            "items": [{"key": "ca.crt", "path": "ca.crt"}],
        },
    }


def test_the_rollout_job_knows_pods_by_names_under_the_service_that_names_them() -> None:
    (spec,) = [spec for _, spec in pod_specs(objects("rollout"))]
    (container,) = spec["containers"]
    given = {e["name"]: e.get("value") for e in container["env"]}
    headless = {
        o["metadata"]["name"]
        for o in objects("overlays/gpu")
        if o["kind"] == "Service" and o["spec"].get("clusterIP") == "None"
    }
    service, namespace, *domain = given["TRITON_PODS_AT"].split(".")
    assert {service} == headless
    assert namespace == of_kind("Namespace")["metadata"]["name"]
    assert domain == ["svc", "cluster", "local"]
    (mount,) = [m for m in container["volumeMounts"] if m["name"] == "tls"]
    assert given["THRESHER_TLS_CA"] == f"{mount['mountPath']}/ca.crt"


def test_the_nightly_job_is_the_one_that_the_page_about_jobs_shows() -> None:
    page = (KUBERNETES.parents[2] / "docs/export-jobs.md").read_text()
    shown = yaml.safe_load(re.search(r"```yaml\n(apiVersion: batch/v1.*?)```", page, re.DOTALL)[1])
    ours = of_kind("CronJob")
    for path in ("schedule", "concurrencyPolicy"):
        assert ours["spec"][path] == shown["spec"][path]
    assert ours["metadata"]["name"] == shown["metadata"]["name"]
    theirs, mine = shown["spec"]["jobTemplate"]["spec"], ours["spec"]["jobTemplate"]["spec"]
    assert mine["backoffLimit"] == theirs["backoffLimit"]
    pods = theirs["template"]["spec"], mine["template"]["spec"]
    assert pods[0]["restartPolicy"] == pods[1]["restartPolicy"]
    containers = [pod["containers"][0] for pod in pods]
    for field in ("command", "image", "workingDir"):
        assert containers[0][field] == containers[1][field]
    mounts = [{(m["name"], m["mountPath"]) for m in c["volumeMounts"]} for c in containers]
    assert mounts[0] <= mounts[1]
    limits = [c["resources"]["limits"] for c in containers]
    assert limits[0] == limits[1]
