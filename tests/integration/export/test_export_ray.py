"""A job on a Ray cluster: two nodes of one CPU each, on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.many import EXITS, Registry, empty_store
from thresher.repository import ModelRepository

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

GOOD = ["good-1", "good-2", "good-3", "good-4"]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster on which one node alone cannot hold two workers."""
    cluster: Any = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def folder(empty_mlflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of these tests, with a store of four good models and two bad ones."""
    folder = tmp_path_factory.mktemp("registry")
    with empty_store(empty_mlflow_db, folder):
        registry = Registry()
        for name in GOOD:
            registry.add(name)
        registry.add("bad-exit", runs=EXITS)
        registry.add("bad-frozen", is_frozen=True)
        yield folder


def export_all(folder: Path, address: str, *options: str) -> tuple[dict[str, Any], list[Any]]:
    """Run a job with two workers on the cluster; return its report and its events."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "thresher", "export", "--all", "--engine", "ray"),
            *("--jobs", "2", "--report", "job", "--log-json", *options),
        ],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (folder / "job.json").is_file(), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("{")]
    return json.loads((folder / "job.json").read_text()), [json.loads(line) for line in lines]


def test_two_workers_share_a_job_and_a_poisoned_model_costs_only_itself(
    folder: Path, address: str
) -> None:
    report, events = export_all(folder, address)
    found = {outcome["name"]: outcome for outcome in report["versions"]}
    assert {name for name in found if found[name]["status"] == "published"} == set(GOOD), found
    assert found["bad-exit"]["cause"] == "died"
    assert found["bad-frozen"]["cause"] == "refused"
    assert report["engine"] == "ray"
    kinds = [event["event"] for event in events]
    first_end = kinds.index("version_finished")
    at_once = {event["worker"] for event in events[:first_end] if "worker" in event}
    assert len(at_once) == 2  # each holds a CPU, and no node has two
    repository = ModelRepository(folder / "model_repository")
    for name in GOOD:
        repository.check_proven(name, 1)


def test_a_second_job_exports_nothing(folder: Path, address: str) -> None:
    report, _ = export_all(folder, address, "--filter", "name LIKE 'good-%'")
    assert {outcome["status"] for outcome in report["versions"]} == {"skipped"}
