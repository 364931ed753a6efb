"""The images of serving/deploy: what the builder gets, and what is made of it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from support.deploy import DEPLOY, compose

ROOT = DEPLOY.parents[1]
DOCKERFILE = "serving/deploy/images/Dockerfile"
SECRETS = (
    "serving/deploy/.env",
    "serving/deploy/tls/tls.key",
    "serving/deploy/kubernetes/tls/tls.key",
    "serving/thresher_serving/.env",
    "core/thresher/__pycache__/a.pyc",
    "export/thresher_export/jobs/__pycache__/a.pyc",
    ".git/config",
    "mlflow.db",
    "mlartifacts/1/model.pt2",
    "model_repository/m/1/model.onnx",
)


def recipe() -> str:
    return (ROOT / DOCKERFILE).read_text().replace("\\\n", " ")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files that `docker build` sends, of a checkout in which people have worked."""
    root = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    for name in (*listed, *SECRETS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    rules = (ROOT / f"{DOCKERFILE}.dockerignore").read_text().splitlines()
    patterns = [rule for rule in rules if rule and not rule.startswith("#")]
    sent = exclude_paths(str(root), patterns, dockerfile=DOCKERFILE)
    return {name for name in sent if (root / name).is_file()} - {DOCKERFILE}


def test_no_secret_and_nothing_that_was_made_gets_into_an_image(context: set[str]) -> None:
    assert not context & set(SECRETS)
    assert not [name for name in context if name.startswith("serving/deploy")]
    assert not [name for name in context if "__pycache__" in name or Path(name).name[0] == "."]


def test_the_builder_gets_every_file_of_the_packages(context: set[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {
        source
        for line in re.findall(r"^COPY (.*) \S+$", recipe(), re.MULTILINE)
        for source in line.split()
    }
    assert set(packages) <= copied
    for source in copied:
        assert {n for n in context if n == source or n.startswith(f"{source}/")}, source
    for package in packages:
        there = {p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py")}
        assert there <= context


def test_compose_builds_both_of_the_one_file() -> None:
    targets = {}
    for name, service in compose()["services"].items():
        if "build" in service:
            build = service["build"]
            assert (DEPLOY / build["context"]).resolve() == ROOT
            assert build["dockerfile"] == DOCKERFILE
            targets[name] = build["target"]
    assert targets == {"triton": "triton", "export": "jobs", "rollout": "jobs"}
    assert set(re.findall(r" AS (\w+)", recipe())) == {"triton", "jobs"}


def test_texts_can_be_served_in_the_model_host() -> None:
    triton = recipe()[recipe().index(" AS triton") : recipe().index(" AS jobs")]
    assert (
        "COPY serving/thresher_serving/backends/tokenizer /opt/tritonserver/backends/tokeniz"
        in (triton)
    )
    (pattern,) = re.findall(r"grep '([^']+)'", triton)
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if
              re.match(pattern, line)]  # fmt: skip
    assert len(pinned) == 1
    assert pinned[0].startswith("tokenizers==")


def test_the_jobs_image_can_have_torch_without_cuda() -> None:
    jobs = recipe()[recipe().index(" AS jobs") :]
    lines = [line for line in jobs.splitlines() if "TORCH_INDEX" in line and "RUN" in line]
    assert len(lines) == 1
    assert "--index-url" in lines[0]
    (pattern,) = re.findall(r"grep '([^']+)'", lines[0])
    assert [x for x in (ROOT / "constraints.txt").read_text().split() if re.match(pattern, x)]
    assert jobs.index("TORCH_INDEX") < jobs.index('".[export,serve]"')
    assert compose()["services"]["export"]["build"]["args"] == {"TORCH_INDEX": "${TORCH_INDEX:-}"}
