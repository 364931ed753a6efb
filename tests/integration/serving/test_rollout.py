"""Rollouts on a real Triton: what is checked, what serves, and what happens when it goes wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.triton import Triton, triton
from support.versions import ROWS, offset, publish_version
from thresher.errors import (
    DecisionError,
    NotFoundError,
    ParityError,
    PublishError,
    ServerError,
    ThresherError,
)
from thresher.repository import ModelRepository
from thresher_serving import Runtime, control
from thresher_serving.rollout import RolloutOptions, roll_back, roll_out

COMPLETE = "--disable-auto-complete-config"
"""Every configuration here is complete; without this, a load takes 1.5 s more."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rollouts") / "models"
    root.mkdir()
    return root


@pytest.fixture(scope="module")
def server(
    root: Path, runtime: Runtime, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    with triton(runtime, root, [], COMPLETE, log=log) as running:
        yield running


def answer(server: Triton, name: str, version: str = "") -> tuple[int, np.ndarray, np.ndarray]:
    """Return version, logits and labels of an answer, by tritonclient alone."""
    from tritonclient.grpc import InferenceServerClient, InferInput

    with InferenceServerClient(server.grpc_url) as client:
        rows = InferInput("features", list(ROWS.shape), "FP32").set_data_from_numpy(ROWS)
        got = client.infer(name, [rows], model_version=version)
    logits = got.as_numpy("logits")
    number = int(got.get_response().model_version)
    assert np.array_equal(logits, ROWS + offset(number)), "the version that is named answered"
    return number, logits, got.as_numpy("labels")


def served(server: Triton, name: str) -> list[int]:
    with control.connect(server.grpc_url) as client:
        return sorted(control.served(server.grpc_url, client).get(name, []))


class Registry:
    """An alias; it can refuse, as a registry that is down does."""

    def __init__(self, *, is_down: bool = False) -> None:
        self.moves: list[int | str] = []
        self.is_down = is_down

    def __str__(self) -> str:
        return "the alias champion"

    def move(self, version: int) -> None:
        if self.is_down:
            raise NotFoundError("the registry does not answer")
        self.moves.append(version)

    def move_back(self) -> None:
        self.moves.append("back")


@pytest.fixture
def first(
    root: Path, server: Triton, request: pytest.FixtureRequest
) -> tuple[ModelRepository, str, str]:
    """A model of the test's own whose version 1 serves."""
    name = request.node.name.removeprefix("test_")[:60].replace("[", ".").replace("]", "")
    publish_version(root, name, 1)
    control.load_model(server.grpc_url, name)
    return ModelRepository(root), name, server.grpc_url


def test_a_first_rollout_serves_a_model_that_was_not_served(root: Path, server: Triton) -> None:
    publish_version(root, "fresh", 3)
    steps: list[str] = []
    done = roll_out(ModelRepository(root), "fresh", 3, server.grpc_url, progress=steps.append)
    assert answer(server, "fresh")[0] == 3
    assert (done.version, done.previous, done.is_new) == (3, None, True)
    assert (done.num_rows, done.num_decisions, done.num_flips) == (4, 12, 0)
    assert [step.split()[0] for step in steps] == [
        *("Checking", "Loading", "Comparing", "Loading", "Comparing", "Writing")
    ]


def test_a_version_is_checked_beside_then_serves_then_the_old_one_goes(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    decision = publish_version(repository.root, name, 2, thresholds=[0.2, 0.9, 0.4])
    registry = Registry()
    seen: dict[str, Any] = {}

    def look(step: str) -> None:
        key = step.split(maxsplit=1)[0] + str(len(seen))
        seen[key] = (answer(server, name)[0], served(server, name))

    done = roll_out(repository, name, 2, url, alias=registry, progress=look)
    version, logits, labels = answer(server, name)
    assert version == 2
    assert np.array_equal(labels, decision.apply(logits)[1])
    assert served(server, name) == [2]
    assert repository.served_versions(name) == [2]
    assert (done.previous, done.num_rows, registry.moves) == (1, 4, [2])
    assert seen == {
        "Checking0": (1, [1]),
        "Loading1": (1, [1]),
        "Comparing2": (1, [1]),  # the twin is loaded now, and nobody gets it
        "Loading3": (1, [1]),
        "Comparing4": (2, [1, 2]),
        "Moving5": (2, [1, 2]),
        "Writing6": (2, [1, 2]),
    }
    assert not list(repository.root.glob(".rollout.*")), "the twin's folder is gone"


def test_rollbacks_go_back_step_by_step_and_never_forth(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    for version in (2, 3):
        publish_version(repository.root, name, version, thresholds=version / 10)
        roll_out(repository, name, version, url)
    registry = Registry()
    for version in (2, 1):
        done = roll_back(repository, name, url, alias=registry)
        assert (done.version, answer(server, name)[0], served(server, name)) == (
            *(version, version),
            [version],
        )
    assert registry.moves == [2, 1]
    with pytest.raises(NotFoundError, match=rf"{name}/VERSION\. Also published: {name}/2, "):
        roll_back(repository, name, url)
    assert answer(server, name)[0] == 1


def test_a_version_that_another_tool_put_in_service_counts_as_what_served(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    roll_out(repository, name, 1, url)
    publish_version(repository.root, name, 2, serve=True)
    control.load_model(url, name)
    assert answer(server, name)[0] == 2
    assert roll_back(repository, name, url).version == 1


def test_a_rollout_of_what_serves_compares_and_moves_the_alias_only(
    first: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = first
    registry = Registry()
    before = (repository.root / name / "config.pbtxt").stat().st_mtime_ns
    done = roll_out(repository, name, 1, url, alias=registry)
    assert (done.is_new, done.num_rows, registry.moves) == (False, 4, [1])
    assert (repository.root / name / "config.pbtxt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("broken", "kind", "reason"),
    [
        ({"model": b"not an ONNX model"}, ServerError, "Protobuf parsing failed"),
        ({"golden": "wrong"}, ParityError, "does not answer as its golden rows say: logits"),
        ({"certificate": False}, ParityError, "no certificate.json"),
        ({"labels": ("fog", "rain", "snow")}, DecisionError, "position 0 was .rain. and is .fog."),
        ({"labels": ("rain", "fog")}, DecisionError, "without 'snow'"),
    ],
)
def test_a_version_that_may_not_serve_never_answers(
    first: tuple[ModelRepository, str, str],
    server: Triton,
    broken: dict[str, Any],
    kind: type[ThresherError],
    reason: str,
) -> None:
    repository, name, url = first
    publish_version(repository.root, name, 2, **broken)
    registry = Registry()
    with pytest.raises(kind, match=reason):
        roll_out(repository, name, 2, url, alias=registry)
    assert answer(server, name)[0] == 1
    assert served(server, name) == [1]
    assert repository.served_versions(name) == [1]
    assert registry.moves == []
    assert not list(repository.root.glob(".rollout.*"))


def test_what_is_refused_is_allowed_when_asked_for_and_said_loudly(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    publish_version(
        repository.root, name, 2, labels=("fog", "rain", "snow"), certificate=False, golden="none"
    )
    done = roll_out(
        repository, name, 2, url, options=RolloutOptions(allow_label_change=True, unproven=True)
    )
    assert answer(server, name)[0] == 2
    said = " ".join(done.warnings)
    assert "NOT PROVEN" in said
    assert "the order changed" in said
    assert "no golden rows" in said


def test_an_alias_that_cannot_be_moved_undoes_a_rollout_and_not_a_rollback(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    publish_version(repository.root, name, 2)
    with pytest.raises(NotFoundError, match="version 1 serves as before. Reason: the registry"):
        roll_out(repository, name, 2, url, alias=Registry(is_down=True))
    assert (answer(server, name)[0], served(server, name)) == (1, [1])
    assert repository.served_versions(name) == [1]
    roll_out(repository, name, 2, url)
    done = roll_back(repository, name, url, alias=Registry(is_down=True))
    assert answer(server, name)[0] == 1
    assert "the alias champion was not moved: the registry does not answer" in done.warnings[-1]


def test_a_load_that_hangs_leaves_the_old_version_and_the_next_rollout_works(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    publish_version(repository.root, name, 2, slow_load=2_000_000_000)
    with pytest.raises(control.LoadTimeoutError, match="version 1 serves, untouched.* after 4 s"):
        roll_out(repository, name, 2, url, options=RolloutOptions(timeout_s=4))
    assert (answer(server, name)[0], repository.served_versions(name)) == (1, [1])
    publish_version(repository.root, name, 3)
    assert roll_out(repository, name, 3, url).previous == 1
    assert (answer(server, name)[0], served(server, name)) == (3, [3])


def test_a_version_with_other_inputs_takes_the_old_ones_place_and_gives_it_back(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    publish_version(repository.root, name, 2, labels=("rain", "fog"))
    allowed = RolloutOptions(allow_label_change=True)
    done = roll_out(repository, name, 2, url, options=allowed)
    assert "cannot be served side by side" in done.warnings[-1]
    assert served(server, name) == [2]
    assert roll_back(repository, name, url, options=allowed).version == 1
    assert (answer(server, name)[0], served(server, name)) == (1, [1])

    registry = Registry(is_down=True)
    with pytest.raises(NotFoundError, match="version 1 serves as before"):
        roll_out(repository, name, 2, url, options=allowed, alias=registry)
    assert (answer(server, name)[0], served(server, name)) == (1, [1])


def test_two_rollouts_of_one_model_do_not_mix(first: tuple[ModelRepository, str, str]) -> None:
    repository, name, url = first
    publish_version(repository.root, name, 2)
    outcomes: list[str] = []
    started = threading.Event()

    def other() -> None:
        started.wait(30)
        try:
            roll_out(repository, name, 2, url)
        except ServerError as error:
            outcomes.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()

    def hold(_step: str) -> None:
        started.set()
        thread.join(30)

    assert roll_out(repository, name, 2, url, progress=hold).is_new
    assert outcomes == [
        f"{name}: another rollout of this model is under way; try again when it is done"
    ]


KILLED = """
import os, signal, sys
from pathlib import Path
from thresher.repository import ModelRepository
from thresher_serving.rollout import roll_out

def die(step):
    if step.startswith("Comparing"):
        os.kill(os.getpid(), signal.SIGKILL)

root, name, url = sys.argv[1:]
roll_out(ModelRepository(Path(root)), name, 2, url, progress=die)
"""


def test_what_a_killed_rollout_left_is_cleared_by_the_next(
    first: tuple[ModelRepository, str, str], server: Triton
) -> None:
    repository, name, url = first
    publish_version(repository.root, name, 2)
    command = [sys.executable, "-c", KILLED, str(repository.root), name, url]
    killed = subprocess.run(command, check=False)
    assert killed.returncode == -signal.SIGKILL
    twin = f".rollout.{name}.2"
    assert served(server, twin) == [2]
    assert (answer(server, name)[0], served(server, name)) == (1, [1])
    assert roll_out(repository, name, 2, url).previous == 1
    assert answer(server, name)[0] == 2
    assert served(server, twin) == []
    assert not list(repository.root.glob(".rollout.*"))


def test_a_server_that_reads_another_repository_is_told(
    first: tuple[ModelRepository, str, str], tmp_path: Path
) -> None:
    _, name, url = first
    publish_version(tmp_path / "models", name, 2)
    with pytest.raises(ServerError, match="reads another model repository.*--repository"):
        roll_out(ModelRepository(tmp_path / "models"), name, 2, url)


def test_a_server_that_is_not_there_is_named(root: Path) -> None:
    publish_version(root, "nowhere", 1)
    with pytest.raises(ServerError, match="no Triton server answers at 127.0.0.1:1"):
        roll_out(ModelRepository(root), "nowhere", 1, "127.0.0.1:1")
    with pytest.raises(NotFoundError, match='unknown model "nowhre"; did you mean "nowhere"'):
        roll_out(ModelRepository(root), "nowhre", 1, "127.0.0.1:1")


@pytest.mark.parametrize(
    "step",
    [
        pytest.param("next to", marks=pytest.mark.slow),
        pytest.param("unversioned requests get it", marks=pytest.mark.slow),
        "Writing",
    ],
)
def test_a_server_killed_in_the_middle_serves_the_old_version_when_it_is_back(
    step: str, runtime: Runtime, tmp_path: Path
) -> None:
    root = tmp_path / "models"
    repository = ModelRepository(root)
    publish_version(root, "m", 1)
    publish_version(root, "m", 2)
    registry = Registry()
    with triton(runtime, root, ["m"], COMPLETE, log=tmp_path / "log") as running:
        assert answer(running, "m")[0] == 1

        def kill(text: str) -> None:
            if step in text:
                threading.Timer(0.2 if "Loading" in text else 0, running.kill).start()
                threading.Event().wait(0 if "Loading" in text else 1)

        with pytest.raises(ServerError, match="m/2 was not rolled out.*no Triton server answers"):
            roll_out(repository, "m", 2, running.grpc_url, alias=registry, progress=kill)
    assert repository.served_versions("m") == [1]
    assert registry.moves in ([], [2, "back"])
    with triton(runtime, root, ["m"], COMPLETE, log=tmp_path / "log") as running:
        assert answer(running, "m")[0] == 1
        assert roll_out(repository, "m", 2, running.grpc_url).previous == 1
        assert answer(running, "m")[0] == 2


def test_a_record_of_what_served_that_is_damaged_is_named(
    first: tuple[ModelRepository, str, str],
) -> None:
    repository, name, url = first
    roll_out(repository, name, 1, url)
    path = repository.root / f".{name}.served.json"
    path.write_text("{")
    with pytest.raises(PublishError, match="not a record of what served"):
        roll_back(repository, name, url)
    done = roll_out(repository, name, 1, url)
    assert "not a record of what served" in done.warnings[-1], "a rollout does not fail by it"
