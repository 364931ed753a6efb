import os
import resource
import subprocess
import sys
import textwrap
import timeit
from dataclasses import replace
from pathlib import Path

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from thresher import Decision
from thresher.durable import FAULT_POINT, fault_point
from thresher.errors import NotFoundError, PublishError
from thresher.repository import ModelRepository, decision_key
from thresher.served_state import ServedState, served_record

DECISION = Decision(labels=["a", "new\nline"], thresholds=[0.5, 0.25])


def config(version: int, decision: Decision = DECISION) -> pb.ModelConfig:
    message = pb.ModelConfig(name="m", backend="onnxruntime", max_batch_size=8)
    message.version_policy.specific.versions.append(version)
    message.parameters[decision_key(version)].string_value = decision.to_json()
    return message


def publish(
    root: Path,
    version: int = 1,
    content: bytes = b"onnx",
    name: str = "m",
    *,
    serve: bool = True,
    max_batch_size: int = 8,
) -> bool:
    repository = ModelRepository(root)
    message = config(version)
    message.max_batch_size = max_batch_size
    with repository.staging(name) as staged:
        (staged / "model.onnx").write_bytes(content)
        return repository.publish(name, version, staged, message, DECISION, serve=serve)


def listing(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_published_version_lies_as_triton_expects(tmp_path: Path) -> None:
    assert publish(tmp_path / "r")
    assert listing(tmp_path / "r") == [
        "m/1/model.onnx",
        "m/config.pbtxt",
        "m/configs/1.pbtxt",
        "m/labels.txt",
    ]
    assert (tmp_path / "r/m/labels.txt").read_text() == "a\nnew\\nline\n"
    assert ModelRepository(tmp_path / "r").decision("m", 1) == DECISION


def test_same_content_again_changes_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "r")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")}
    assert not publish(tmp_path / "r")
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*")} == before


def test_other_content_under_a_used_number_is_refused(tmp_path: Path) -> None:
    publish(tmp_path / "r")
    with pytest.raises(PublishError, match="never used again"):
        publish(tmp_path / "r", content=b"other")
    assert (tmp_path / "r/m/1/model.onnx").read_bytes() == b"onnx"


def test_newest_publication_serves_and_an_old_one_can_be_brought_back(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "r")
    publish(tmp_path / "r", 1)
    publish(tmp_path / "r", 2, b"two")
    assert (repository.serving_version("m"), repository.versions("m")) == (2, [1, 2])
    publish(tmp_path / "r", 1)
    assert (repository.serving_version("m"), repository.versions("m")) == (1, [1, 2])


def test_version_can_be_published_beside_the_one_that_serves(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "r")
    publish(tmp_path / "r", 1, serve=False)
    assert repository.served_versions("m") == [1]  # there is no other
    publish(tmp_path / "r", 2, serve=False, max_batch_size=4)
    assert repository.served_versions("m") == [1]
    assert repository.read_config("m").max_batch_size == 8
    assert repository.versions("m") == [1, 2]
    assert not publish(tmp_path / "r", 2, serve=False, max_batch_size=4)


def test_what_serves_is_changed_with_its_own_configuration(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path / "r")
    publish(tmp_path / "r", 1)
    publish(tmp_path / "r", 2, serve=False, max_batch_size=4)
    for versions, size in (([2], 4), ([1], 8), ([1, 2], 4), ([1], 8)):
        repository.serve_versions("m", versions)
        assert repository.served_versions("m") == versions
        assert repository.read_config("m").max_batch_size == size
        assert repository.versions("m") == [1, 2]
        assert repository.decision("m", 2) == DECISION
    with pytest.raises(NotFoundError, match="no version 3; published: .1, 2."):
        repository.serve_versions("m", [3])
    assert repository.served_versions("m") == [1]


def test_version_that_a_dead_publisher_left_is_replaced(tmp_path: Path) -> None:
    publish(tmp_path / "r", 1)
    (tmp_path / "r/m/2").mkdir()
    (tmp_path / "r/m/2/model.onnx").write_bytes(b"half")
    assert ModelRepository(tmp_path / "r").versions("m") == [1]
    publish(tmp_path / "r", 2, b"whole")
    assert (tmp_path / "r/m/2/model.onnx").read_bytes() == b"whole"


CRASH = """
    import os, sys
    sys.path.insert(0, {here!r})
    from pathlib import Path
    from test_repository import publish

    calls = 0

    def dying(function):
        def call(*arguments, **keywords):
            global calls
            calls += 1
            if calls > {after}:
                os._exit(9)
            return function(*arguments, **keywords)
        return call

    for name in ("rename", "replace", "mkdir"):
        setattr(Path, name, dying(getattr(Path, name)))
    os.fsync = dying(os.fsync)
    publish(Path({root!r}), 2, b"two")
"""


def test_publisher_that_dies_anywhere_leaves_the_old_version_serving(tmp_path: Path) -> None:
    """Every file system step in turn is the last; the next publisher succeeds and cleans up."""
    died = 0
    for after in range(40):
        root = tmp_path / f"r{after}" / "models"
        publish(root, 1)
        script = CRASH.format(here=str(Path(__file__).parent), root=str(root), after=after)
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], check=False, env=os.environ
        )
        repository = ModelRepository(root)
        assert repository.serving_version("m") in {1, 2}
        assert repository.model_file("m", repository.serving_version("m")).is_file()
        if done.returncode == 0:
            break
        assert done.returncode == 9
        died += 1
        publish(root, 2, b"two")
        assert repository.serving_version("m") == 2
        assert repository.model_file("m", 2).read_bytes() == b"two"
        assert not list((root.parent / ".models.staging").glob("m-*"))
    assert done.returncode == 0
    assert died >= 8


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a b", "a\n", "é", "x" * 129])
def test_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PublishError, match="cannot name a model"):
        publish(tmp_path / "r", name=name)
    assert not (tmp_path / "r").exists()


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    publish(tmp_path / "r")
    repository = ModelRepository(tmp_path / "r")
    with pytest.raises(NotFoundError, match=r'unknown model "n".*Valid: m'):
        repository.serving_version("n")
    with pytest.raises(NotFoundError, match=r"no version 7; published: \[1\]"):
        repository.decision("m", 7)


def test_configuration_that_names_no_version_is_said_to(tmp_path: Path) -> None:
    (tmp_path / "r/own").mkdir(parents=True)
    (tmp_path / "r/own/config.pbtxt").write_text('name: "own"')
    with pytest.raises(NotFoundError, match="names no version"):
        ModelRepository(tmp_path / "r").serving_version("own")


def test_configuration_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    publish(tmp_path / "r")
    (tmp_path / "r/m/config.pbtxt").write_text("nonsense {")
    with pytest.raises(PublishError, match=r"config\.pbtxt: not a Triton configuration"):
        ModelRepository(tmp_path / "r").serving_version("m")


def test_other_labels_never_replace_those_of_the_version_that_serves(tmp_path: Path) -> None:
    publish(tmp_path / "r", 1)
    renamed = Decision(labels=["b", "c"], thresholds=[0.5, 0.25])
    message = config(2, renamed)
    message.output.add(name="probabilities", label_filename="labels.txt")
    repository = ModelRepository(tmp_path / "r")
    with repository.staging("m") as staged:
        (staged / "model.onnx").write_bytes(b"two")
        assert repository.publish("m", 2, staged, message, renamed)
    assert (tmp_path / "r/m/labels.txt").read_text() == "a\nnew\\nline\n"
    assert (tmp_path / "r/m/labels.2.txt").read_text() == "b\nc\n"
    assert repository.read_config("m").output[0].label_filename == "labels.2.txt"
    publish(tmp_path / "r", 1)
    repository.unpublish("m", 2)
    assert listing(tmp_path / "r") == [
        "m/1/model.onnx",
        "m/config.pbtxt",
        "m/configs/1.pbtxt",
        "m/labels.txt",
    ]


@pytest.mark.parametrize("served", [[1], [1, 2]])
def test_version_that_the_policy_names_is_not_unpublished(
    tmp_path: Path, served: list[int]
) -> None:
    publish(tmp_path / "r", 2)
    publish(tmp_path / "r", 1)
    path = tmp_path / "r/m/config.pbtxt"
    policy = "".join(f"versions: {version} " for version in served)
    path.write_text(path.read_text().replace("versions: 1", policy))
    repository = ModelRepository(tmp_path / "r")
    assert repository.served_versions("m") == served
    for version in served:
        with pytest.raises(PublishError, match=f"version {version} of m serves"):
            repository.unpublish("m", version)
    assert repository.versions("m") == [1, 2]


def test_fault_point_that_is_not_named_costs_next_to_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(FAULT_POINT, "another")
    fault_point("published")
    monkeypatch.delenv(FAULT_POINT)
    assert min(timeit.repeat(lambda: fault_point("published"), number=1000, repeat=5)) < 0.02


def test_limit_on_file_size_is_a_refusal_too(tmp_path: Path) -> None:
    """As a full disk, without a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(PublishError, match="File too large; nothing was published"):
            publish(tmp_path / "r", content=b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not (tmp_path / "r").exists()
    assert [p for p in (tmp_path / ".r.staging").iterdir() if p.is_dir()] == []


def test_full_disk_or_forbidden_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("in the way")
    with pytest.raises(PublishError, match="was not published"):
        publish(tmp_path / "r")


@pytest.mark.parametrize(
    ("meanwhile", "serving"),
    [("nothing", 3), ("own version", 3), ("rollback", 1), ("record alone", 2)],
)
def test_a_version_chosen_before_a_rollback_does_not_undo_it(
    tmp_path: Path, meanwhile: str, serving: int
) -> None:
    from support.versions import publish_version  # here: another test imports this file alone

    repository = ModelRepository(tmp_path / "models")
    for version in (1, 2):
        publish_version(repository.root, "digits", version, serve=True)
    ours = (4,) if meanwhile == "own version" else ()
    since = replace(ServedState.of(repository, "digits"), ours=ours)
    if meanwhile == "own version":
        publish_version(repository.root, "digits", 4, serve=True)
    elif meanwhile == "rollback":
        repository.serve_versions("digits", [1])
    elif meanwhile == "record alone":  # rolled out and back again
        served_record(repository.root, "digits").write_text('{"serving": 2}')
    publish_version(repository.root, "digits", 3, serve=True, since=since)
    assert repository.served_versions("digits") == [serving]
    assert 3 in repository.versions("digits")
    assert ServedState.of(repository, "another") == ServedState()
