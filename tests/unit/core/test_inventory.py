"""`thresher repository ls|verify|gc`, over a repository that real publishers made."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from support.publisher import publication, publish
from thresher.cli import main
from thresher.errors import PublishError
from thresher.inventory import collect, find_leftovers, list_versions
from thresher.repository import ModelRepository

LABELS = ("sun", "rain")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two models; the first has five versions of which the third serves."""
    root = tmp_path / "models"
    for version in (1, 2, 4, 5, 3):
        publish(root, publication("m", version, LABELS))
    publish(root, publication("other", 7, LABELS))
    return root


def run(root: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["repository", *arguments, "--repository", str(root)])


def test_listing_tells_versions_size_and_which_serves(root: Path) -> None:
    found = json.loads(run(root, "ls", "--json").stdout)
    assert [(v["model"], v["version"], v["is_serving"]) for v in found] == [
        *(("m", version, version == 3) for version in (1, 2, 3, 4, 5)),
        ("other", 7, True),
    ]
    sizes = [sum(p.stat().st_size for p in (root / "other/7").iterdir()), found[-1]["num_bytes"]]
    assert sizes[0] == sizes[1]
    assert {(v["proof"], v["precision"]) for v in found} == {("claimed", "fp32")}
    table = run(root, "ls", "other")
    assert table.exit_code == 0
    assert "fp32" in table.stdout
    assert "m  " not in table.stdout


def test_listing_needs_no_write_access_and_leaves_no_trace(root: Path) -> None:
    before = sorted(root.parent.rglob("*"))
    assert run(root, "ls").exit_code == 0
    assert sorted(root.parent.rglob("*")) == before
    assert "holds no model" in run(root.with_name("none"), "ls").stdout
    assert not root.with_name("none").exists()


def test_repository_that_is_what_was_proven_passes(root: Path) -> None:
    done = run(root, "verify")
    assert done.exit_code == 0
    assert "Proven, byte for byte: 6 versions." in done.stdout


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: (root / "m/2/model.onnx").write_bytes(b"x"), "m/2: .*other bytes"),
        (lambda root: (root / "m/2/certificate.json").unlink(), "m/2: .*no certificate.json"),
        (lambda root: (root / "m/2/certificate.json").write_text("{"), "m/2: .*not a certificate"),
        (lambda root: (root / "other/7").rename(root / "gone"), "other/7: .*no such folder"),
        (lambda root: (root / "m/config.pbtxt").write_text("{"), "m/0: .*not a Triton config"),
    ],
)
def test_whatever_is_wrong_is_named_and_the_rest_is_read(
    root: Path, spoil: object, words: str
) -> None:
    import re

    spoil(root)  # type: ignore[operator]
    done = run(root, "verify")
    assert done.exit_code == 1
    assert re.search(words, done.output), done.output
    assert "1 of" in done.output
    assert sum(v.proof == "proven" for v in list_versions(ModelRepository(root), read_bytes=True))


def test_gc_says_what_it_would_remove_and_removes_it_when_told(root: Path) -> None:
    versions = ModelRepository(root).versions
    done = run(root, "gc", "--keep", "2")
    assert done.exit_code == 0
    assert "Nothing was removed" in done.stderr
    assert versions("m") == [1, 2, 3, 4, 5]
    told = json.loads(run(root, "gc", "--keep", "2", "--yes", "--json").stdout)
    assert [(entry["kind"], entry["version"]) for entry in told["leftovers"]] == [
        ("old", 1),
        ("old", 2),
    ]
    assert told["bytes_freed"] == sum(entry["num_bytes"] for entry in told["leftovers"])
    assert versions("m") == [3, 4, 5], "the newest two stay, and the one that serves"
    folders = {path.name for path in (root / "m").iterdir() if path.is_dir()}
    assert folders == {"3", "4", "5", "configs"}
    assert {path.name for path in (root / "m" / "configs").iterdir()} == {
        "3.pbtxt",
        "4.pbtxt",
        "5.pbtxt",
    }
    assert run(root, "verify").exit_code == 0
    assert "Nothing to remove" in run(root, "gc", "--keep", "2").stdout


def test_gc_never_removes_what_serves_even_if_asked_to_keep_nothing(root: Path) -> None:
    assert run(root, "gc", "--keep", "0", "--yes").exit_code == 0
    assert ModelRepository(root).versions("m") == [3]
    assert ModelRepository(root).serving_version("other") == 7


def test_gc_clears_what_dead_publishers_left(root: Path) -> None:
    staging = root.with_name(".models.staging")
    (staging / "m-dead" / "version").mkdir(parents=True)
    (staging / "m-dead" / "version" / "model.onnx").write_bytes(b"12345")
    (root / "m/9").mkdir()
    (root / "m/9/model.onnx").write_bytes(b"123")
    repository = ModelRepository(root)
    with repository.staging("other") as alive:
        # a publisher that makes a folder of its own clears dead ones too, so make one after it
        (staging / "m-dead-2" / "version").mkdir(parents=True)
        found = find_leftovers(repository, keep=9)
        assert {(entry.kind, Path(entry.path).name) for entry in found} == {
            ("staging", "m-dead-2"),
            ("unlisted", "9"),
        }
        assert collect(repository, found) == 3
        assert alive.is_dir()
    assert not (root / "m/9").exists()
    assert find_leftovers(repository, keep=9) == []


def test_what_came_to_serve_meanwhile_is_not_removed(root: Path) -> None:
    repository = ModelRepository(root)
    found = [entry for entry in find_leftovers(repository, keep=3) if entry.version == 1]
    publish(root, publication("m", 1, LABELS))
    with pytest.raises(PublishError, match="version 1 of m serves"):
        collect(repository, found)
    assert repository.model_file("m", 1).is_file()


def test_models_of_somebody_else_are_listed_and_left_alone(root: Path) -> None:
    (root / "own/1").mkdir(parents=True)
    (root / "own/1/model.onnx").write_bytes(b"x")
    (root / "own/config.pbtxt").write_text(
        'name: "own" version_policy { specific { versions: 1 } }'
    )
    (root / "open/1").mkdir(parents=True)
    (root / "open/config.pbtxt").write_text('name: "open"')
    done = run(root, "verify")
    assert done.exit_code == 0
    assert "published by something else: 2." in done.stdout
    assert {entry.model for entry in find_leftovers(ModelRepository(root), keep=0)} == {"m"}


def test_unknown_model_is_said_with_what_there_is(root: Path) -> None:
    done = run(root, "ls", "othr")
    assert done.exit_code == 1
    assert 'did you mean "other"' in done.output
