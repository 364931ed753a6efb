"""``kill -9`` at every step of publishing, and publishers side by side."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.publisher import Publication, publication, publish, start_publisher
from thresher import Decision
from thresher.certificate import NEXT_CERTIFICATE_FILE
from thresher.errors import RuntimeUnavailableError
from thresher.repository import PUBLISH_STEPS, ModelRepository

pytestmark = pytest.mark.slow

OLD = ("sun", "rain", "fog")
NEW = ("rain", "sun", "snow")
"""Other names for the same outputs: they must never be read with the old version's thresholds."""

STEPS_OF_FIRST = PUBLISH_STEPS
STEPS_OF_SECOND = tuple(step for step in PUBLISH_STEPS if step != "model-moved")
STEPS_OF_FILES = ("files-synced", "version-moved")
"""Not those of a version whose files are there."""


def die(root: Path, what: Publication, step: str) -> None:
    process = start_publisher(root, what, fault=step)
    process.join(timeout=60)
    assert process.exitcode == -9, f"{step} was never reached"


def check_sound(root: Path, name: str) -> int:
    """Check that all that the configuration names is whole and proven; return what serves."""
    repository = ModelRepository(root)
    config = repository.read_config(name)
    for version in {*repository.versions(name), *repository.served_versions(name)}:
        assert repository.model_file(name, version).is_file()
        repository.check_proven(name, version)
    serving = repository.serving_version(name)
    for output in config.output:
        if output.label_filename:
            names = (root / name / output.label_filename).read_text().splitlines()
            assert tuple(names) == repository.decision(name, serving).labels
    return serving


def leftovers(root: Path) -> list[Path]:
    return [p for p in (root.parent / f".{root.name}.staging").iterdir() if p.is_dir()]


@pytest.mark.parametrize("step", STEPS_OF_FIRST)
def test_first_version_is_there_whole_or_not_at_all(tmp_path: Path, step: str) -> None:
    root, what = tmp_path / "models", publication("m", 1, OLD)
    die(root, what, step)
    is_there = step in {"model-moved", "published"}
    assert ModelRepository(root).names() == (["m"] if is_there else [])
    assert (root / "m").exists() == is_there, "Triton would complete a folder without config.pbtxt"
    assert len(leftovers(root)) == 1
    assert publish(root, what) is not is_there
    assert check_sound(root, "m") == 1
    assert leftovers(root) == []


@pytest.mark.parametrize("step", STEPS_OF_SECOND)
def test_old_version_serves_until_the_new_one_does_completely(tmp_path: Path, step: str) -> None:
    root, what = tmp_path / "models", publication("m", 2, NEW)
    publish(root, publication("m", 1, OLD))
    die(root, what, step)
    is_done = step in {"config-moved", "model-synced", "published"}
    assert check_sound(root, "m") == (2 if is_done else 1)
    assert publish(root, what) is not is_done
    assert check_sound(root, "m") == 2
    assert ModelRepository(root).versions("m") == [1, 2]
    assert ModelRepository(root).unlisted("m") == []
    assert leftovers(root) == []


@pytest.mark.parametrize("step", [s for s in STEPS_OF_SECOND if s not in STEPS_OF_FILES])
def test_a_version_that_gets_other_settings_is_proven_at_every_step(
    tmp_path: Path, step: str
) -> None:
    """Certificate and both configurations change; whichever are there fit each other."""
    root, what = tmp_path / "models", publication("m", 1, OLD)
    publish(root, what)
    assert "max_batch_size: 64" in what.config
    smaller = replace(what, config=what.config.replace("max_batch_size: 64", "max_batch_size: 8"))
    die(root, smaller, step)
    assert check_sound(root, "m") == 1
    publish(root, smaller)
    assert check_sound(root, "m") == 1
    assert ModelRepository(root).own_config("m", 1).max_batch_size == 8
    assert not (root / "m/1" / NEXT_CERTIFICATE_FILE).exists()
    assert leftovers(root) == []


def test_a_publisher_of_another_version_is_not_held_up_either(tmp_path: Path) -> None:
    root = tmp_path / "models"
    publish(root, publication("m", 1, OLD))
    die(root, publication("m", 2, NEW), "version-moved")
    assert publish(root, publication("m", 3, NEW))
    assert check_sound(root, "m") == 3
    assert ModelRepository(root).unlisted("m") == [2]


@pytest.mark.parametrize("versions", [(1, 1), (1, 2)])
def test_two_publishers_at_once_end_in_one_good_state(
    tmp_path: Path, versions: tuple[int, int]
) -> None:
    context = multiprocessing.get_context("forkserver")
    for attempt in range(4):
        root, answers, go = tmp_path / f"r{attempt}/models", context.Queue(), context.Barrier(2)
        publishers = [
            start_publisher(root, publication("m", version, OLD), answer=answers, go=go)
            for version in versions
        ]
        for publisher in publishers:
            publisher.join(timeout=60)
            assert publisher.exitcode == 0
        assert check_sound(root, "m") in versions
        assert ModelRepository(root).versions("m") == sorted(set(versions))
        assert sum(answers.get(timeout=10) for _ in publishers) == len(set(versions))
        assert leftovers(root) == []


def test_triton_serves_the_old_version_after_a_kill_at_any_step_and_then_the_new_one(
    tmp_path: Path,
) -> None:
    """One real server; a model for each step, whose second version's publisher died there."""
    from thresher_serving import Client, find_runtime, start_server

    try:
        runtime = find_runtime()
    except RuntimeUnavailableError as error:
        pytest.skip(f"no Triton here: {error}")
    root = tmp_path / "models"
    second = {step: publication(step, 2, NEW) for step in STEPS_OF_SECOND}
    for step, what in second.items():
        publish(root, publication(step, 1, OLD))
        die(root, what, step)
    first_only = [step for step in STEPS_OF_FIRST if step not in {"model-moved", "published"}]
    for step in first_only:
        die(root, publication(f"new-{step}", 1, OLD), step)
    repository = ModelRepository(root)
    assert repository.names() == sorted(second)
    row = np.float32([[-1.5, -2.5, 3]])  # probabilities 0.18, 0.08, 0.95
    server = start_server(
        root,
        runtime=runtime,
        grpc_port=0,
        http_port=0,
        metrics_port=0,
        models=repository.names(),
        state_dir=tmp_path / "state",
    )
    try:
        with Client(server.grpc_url) as client:

            def asked(name: str) -> int:
                answer = client.predict(name, row)
                decision = repository.decision(name, answer.model_version)
                assert isinstance(decision, Decision)
                np.testing.assert_array_equal(answer.labels, decision.apply(row)[1])
                return int(answer.model_version)

            for step, what in second.items():
                is_done = step in {"config-moved", "model-synced", "published"}
                assert asked(step) == (2 if is_done else 1), step
                publish(root, what)
                server.load_model(step)
                assert asked(step) == 2, step
            for step in first_only:
                publish(root, publication(f"new-{step}", 1, OLD))
                server.load_model(f"new-{step}")
                assert asked(f"new-{step}") == 1
    finally:
        server.stop(timeout_s=0.1)
