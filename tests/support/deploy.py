"""The files of serving/deploy as tests read them: documents, commands, kustomizations, schemas."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry, Resource

DEPLOY = Path(__file__).parents[2] / "serving/deploy"
KUBERNETES = DEPLOY / "kubernetes"
SCHEMAS = Path(__file__).with_name("schemas")
VARIANTS = ("overlays/gpu", "overlays/cpu", "kserve", "rollout")
TRITON = json.loads((SCHEMAS / "triton-26.08.json").read_text(encoding="utf-8"))
"""Options and calls of the release that `images/Dockerfile` names."""
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")
OPTIONAL = re.compile(r"\$\{(\w+):-([^}]*)\}")


class Override:
    """What ``!reset`` and ``!override`` stand for in a Compose file."""


class _Loader(yaml.SafeLoader):
    """YAML with Compose's own tags; a key that is given twice is an error."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(keys) == len(set(keys)) or "<<" in keys, f"a key is given twice: {keys}"
        return super().construct_mapping(node, deep=deep)


for _tag in ("!reset", "!override"):
    _Loader.add_constructor(_tag, lambda _loader, _node: Override())


def documents(path: Path) -> list[Any]:
    """Return a YAML file's documents."""
    return list(yaml.load_all(path.read_text(encoding="utf-8"), _Loader))


def yaml_files() -> list[Path]:
    return sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".yaml", ".yml"})


def compose() -> dict[str, Any]:
    (document,) = documents(DEPLOY / "compose.yaml")
    return document


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Return a Compose file's value with its variables put in, as Compose does."""
    if isinstance(value, str):
        value = REQUIRED.sub(lambda found: variables[found[1]], value)
        return OPTIONAL.sub(lambda found: variables.get(found[1]) or found[2], value)
    if isinstance(value, dict):
        return {key: filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    return value


def objects(folder: str) -> list[Any]:
    """Return the Kubernetes objects that a kustomization lists, those of its bases included."""
    found: list[Any] = []
    root = (KUBERNETES / folder).resolve()
    (kustomization,) = documents(root / "kustomization.yaml")
    for resource in kustomization["resources"]:
        path = root / resource
        found += objects(str(path)) if path.is_dir() else documents(path)
    return found


@cache
def rendered(folder: str) -> tuple[Any, ...]:
    """Return the objects that kustomize makes of a folder; without kubectl those it lists."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        return tuple(objects(folder))
    done = subprocess.run(
        [kubectl, "kustomize", str(KUBERNETES / folder)], capture_output=True, text=True, check=True
    )
    return tuple(yaml.safe_load_all(done.stdout))


def pod_specs(found: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield each pod's specification, by what makes the pod."""
    for thing in found:
        spec = thing.get("spec", {})
        if thing["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if thing["kind"] == "ServingRuntime":
            yield f"ServingRuntime {thing['metadata']['name']}", spec
        elif "template" in spec:
            yield f"{thing['kind']} {thing['metadata']['name']}", spec["template"]["spec"]


def commands() -> dict[str, list[str]]:
    """Return each program that serving/deploy starts, as it is rendered, by where it is written."""
    found = {}
    for name, service in filled(compose(), _Anything())["services"].items():
        words = [*service.get("entrypoint", []), *service.get("command", [])]
        if words:
            found[f"compose {name}"] = words
    for folder in VARIANTS:
        for what, spec in pod_specs(rendered(folder)):
            for container in spec["containers"]:
                words = [*container.get("command", []), *container.get("args", [])]
                found[f"{folder} {what}"] = words
    return found


class _Anything(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "0123456789abcdef"

    def get(self, key: str, default: Any = None) -> Any:
        return None


@cache
def _registry() -> Any:
    names = {
        "kubernetes": "kubernetes-1.35",
        "kserve": "kserve-0.21",
        "prometheus": "servicemonitor",
    }
    contents = {
        name: json.loads((SCHEMAS / f"{file}.json").read_text()) for name, file in names.items()
    }
    draft = "https://json-schema.org/draft/2020-12/schema"
    return Registry().with_resources(
        (name, Resource.from_contents({"$schema": draft, **content}))
        for name, content in contents.items()
    )


def problems(thing: Any, reference: str) -> list[str]:
    """Return what of a document does not fit a schema, such as ``kubernetes#/$defs/NAME``."""
    validator = jsonschema.Draft202012Validator({"$ref": reference}, registry=_registry())
    return [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(thing)]


def real_crd(kind: str, version: str) -> Any | None:
    """Return the schema of a custom resource from the folder that THRESHER_CRDS names, if any."""
    folder = os.environ.get("THRESHER_CRDS")
    if not folder:
        return None
    for path in sorted(Path(folder).glob("*.yaml")):
        definition = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        if definition["spec"]["names"]["kind"] == kind:
            found = {
                v["name"]: v["schema"]["openAPIV3Schema"] for v in definition["spec"]["versions"]
            }
            return _closed(found[version])
    return None


def _closed(schema: Any) -> Any:
    """Return a structural schema in which unknown fields are errors, as `kubectl apply` has it."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items() if key != "properties"}
    if "properties" in schema:
        closed["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        open_ended = schema.get("x-kubernetes-preserve-unknown-fields")
        if not open_ended and "additionalProperties" not in schema:
            closed["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("pattern", None)
        closed["type"] = ["integer", "string"]
    return closed
