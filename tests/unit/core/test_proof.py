"""Whether a version is what was proven: odd files and texts, and certificates that are renewed."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2 as pb

from support.publisher import publication, publish
from thresher import proof, repository
from thresher.certificate import CERTIFICATE_FILE, NEXT_CERTIFICATE_FILE, Certificate, file_digest
from thresher.config_pbtxt import (
    COMPANION_KEY,
    certificate_key,
    config_text,
    decisions_of,
    read_config,
)
from thresher.decisive_keys import decisive_keys, differences
from thresher.errors import ParityError, StoreError
from thresher.inventory import list_versions
from thresher.repository import ModelRepository

LABELS = ("sun", "rain", "fog")
RENEWAL_STEPS = ("certificate-written", "1-renewed", "config-renewed")


@pytest.fixture
def published(tmp_path: Path) -> ModelRepository:
    """A model `m` with versions 1 and 2; 2 serves."""
    root = tmp_path / "models"
    for version in (1, 2):
        publish(root, publication("m", version, LABELS))
    return ModelRepository(root)


def make_old(published: ModelRepository, version: int) -> None:
    """Let a version be as a release published it that bound no configuration."""
    folder = published.root / "m"
    path = folder / str(version) / CERTIFICATE_FILE
    old = dataclasses.replace(Certificate.load(path.parent), configuration={})
    path.write_text(old.to_json())
    for file in ("config.pbtxt", f"configs/{version}.pbtxt"):
        config = read_config(folder / file)
        del config.parameters[certificate_key(version)]
        (folder / file).write_text(config_text(config))


def reconfigure(published: ModelRepository, file: str, change: Callable[[Any], object]) -> None:
    path = published.root / "m" / file
    config = read_config(path)
    change(config)
    path.write_text(config_text(config))


def test_publishing_binds_certificate_and_configurations_to_each_other(
    published: ModelRepository,
) -> None:
    for version in (1, 2):
        published.check_proven("m", version)
        path = published.model_file("m", version).with_name(CERTIFICATE_FILE)
        for config in (published.read_config("m"), published.own_config("m", version)):
            named = config.parameters[certificate_key(version)].string_value
            assert named == file_digest(path)
        bound = Certificate.load(path.parent).configuration
        assert {"max_batch_size", "input", "output", "parameters.thresher.decision"} <= set(bound)
        assert "instance_group" not in bound


def test_everything_that_differs_is_named_at_once(published: ModelRepository) -> None:
    published.model_file("m", 2).write_bytes(b"other")
    (published.root / "m/labels.txt").write_text("sun\nfog\nrain\n")
    reconfigure(published, "configs/2.pbtxt", lambda c: setattr(c, "max_batch_size", 8))
    with pytest.raises(ParityError) as error:
        published.check_proven("m", 2)
    for part in (
        "model.onnx has other bytes",
        "labels.txt has other labels than the decision",
        "configs/2.pbtxt: max_batch_size is another one",
    ):
        assert part in str(error.value)
    assert "config.pbtxt: max_batch_size" not in str(error.value).replace("configs/2.pbtxt", "")


@pytest.mark.parametrize(
    "text",
    [
        'max_batch_size: 1 max_batch_size: 2 name: "m"',
        'name: "m" later_key: 1',
        '\ufeffname: "m"',
        "name: 'm",
        "\x00",
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(
    published: ModelRepository, text: str
) -> None:
    digest = file_digest(published.root / "m/2" / CERTIFICATE_FILE)
    published.registered = lambda name, version: (digest,)
    for file in ("config.pbtxt", "configs/2.pbtxt"):
        path = published.root / "m" / file
        before = path.read_text()
        path.write_text(text)
        with pytest.raises(ParityError, match=f"{file}.*cannot be read|not a Triton conf"):
            published.check_proven("m", 2)
        path.write_text(before)
    published.check_proven("m", 2)


def test_of_a_key_that_is_written_twice_the_last_counts_as_for_triton(
    published: ModelRepository,
) -> None:
    path = published.root / "m/config.pbtxt"
    key = 'parameters { key: "thresher.decision/2" value { string_value: "{}" } }\n'
    text = path.read_text()
    path.write_text(key + text)
    published.check_proven("m", 2)
    path.write_text(text + key)
    with pytest.raises(ParityError, match=r"the decision in config\.pbtxt"):
        published.check_proven("m", 2)


@pytest.mark.parametrize("number", ["01", "+1", "1x", "", "²", "１"])
def test_a_decision_under_a_number_that_is_none_is_nobody_s(number: str) -> None:
    config = pb.ModelConfig()
    config.parameters["thresher.decision/1"].string_value = "mine"
    config.parameters[f"thresher.decision/{number}"].string_value = "theirs"
    assert decisions_of(config) == {1: "mine"}
    assert f"parameters.thresher.decision/{number}" in decisive_keys(config, 1)


def test_differences_say_what_happened_to_each_key() -> None:
    bound, found = {"a": "1", "b": "1", "d": "1"}, {"b": "2", "c": "1", "d": "1"}
    assert differences(bound, found) == ["a is missing", "b is another one", "c was added"]


def test_a_file_of_tomorrow_or_one_that_is_written_back_is_read_again(
    published: ModelRepository,
) -> None:
    """The remembered digest goes by the system's time of change, which no program sets."""
    path = published.model_file("m", 2)
    old, content = path.stat(), path.read_bytes()
    os.utime(path, (4e9, 4e9))
    published.check_proven("m", 2)
    proof._digests[path] = proof._state(path), file_digest(path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_size == old.st_size
    with pytest.raises(ParityError, match="other bytes"):
        published.check_proven("m", 2)


def test_two_versions_that_serve_under_one_configuration_are_each_compared_with_it(
    published: ModelRepository,
) -> None:
    published.serve_versions("m", [1, 2])
    published.check_served("m")
    published.model_file("m", 1).write_bytes(b"other")
    published.check_proven("m", 2)
    with pytest.raises(ParityError, match="m/1 is not what was proven"):
        published.check_served("m")


def test_settings_that_decide_come_with_a_certificate_of_their_own(tmp_path: Path) -> None:
    """The same model again, at another batch size: its files stay, its certificate does not."""
    root = tmp_path / "models"
    what = publication("m", 1, LABELS)
    publish(root, what)
    published = ModelRepository(root)
    before = file_digest(root / "m/1" / CERTIFICATE_FILE)
    other = dataclasses.replace(
        what, config=what.config.replace("max_batch_size: 64", "max_batch_size: 8")
    )
    assert publish(root, other)
    published.check_proven("m", 1)
    assert file_digest(root / "m/1" / CERTIFICATE_FILE) != before
    assert not publish(root, other)
    assert not (root / "m/1" / NEXT_CERTIFICATE_FILE).exists()


def test_a_version_without_a_certificate_gets_one_when_it_is_published_again(
    tmp_path: Path,
) -> None:
    root, what = tmp_path / "models", publication("m", 1, LABELS)
    publish(root, what)
    (root / "m/1" / CERTIFICATE_FILE).write_text("{}")
    with pytest.raises(ParityError, match="not a certificate"):
        ModelRepository(root).check_proven("m", 1)
    publish(root, what)
    ModelRepository(root).check_proven("m", 1)


@pytest.mark.parametrize("version", [1, 2])
def test_a_certificate_is_renewed_and_what_serves_goes_on(
    published: ModelRepository, version: int
) -> None:
    make_old(published, version)
    published.check_proven("m", version)
    assert published.recertify("m", version) == ["m"]
    assert published.recertify("m", version) == []
    assert published.served_versions("m") == [2]
    published.check_proven("m", 1)
    published.check_proven("m", 2)
    folder = published.root / "m" / str(version)
    assert Certificate.load(folder).binds_configuration
    assert not (folder / NEXT_CERTIFICATE_FILE).exists()


@pytest.mark.parametrize("step", RENEWAL_STEPS)
def test_a_renewal_that_dies_leaves_a_version_that_is_proven(
    published: ModelRepository, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    def die(name: str) -> None:
        if name == step.replace("1-", "2-"):
            raise DiedError

    make_old(published, 2)
    with monkeypatch.context() as patch:
        patch.setattr(repository, "fault_point", die)
        with pytest.raises(DiedError):
            published.recertify("m", 2)
    published.check_proven("m", 2)
    published.recertify("m", 2)
    assert Certificate.load(published.root / "m/2").binds_configuration
    published.check_proven("m", 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.model_file("m", 2).write_bytes(b"x"), "other bytes"),
        (lambda p: (p.root / "m/labels.txt").write_text("a\nb\nc\n"), "other labels"),
        (
            lambda p: reconfigure(p, "config.pbtxt", lambda c: setattr(c, "max_batch_size", 8)),
            "config.pbtxt: max_batch_size is another one",
        ),
        (lambda p: (p.root / "m/libtriton_x.so").touch(), "no part of the model"),
    ],
)
def test_what_is_not_what_was_proven_is_not_certified_again(
    published: ModelRepository, change: Callable[[ModelRepository], object], words: str
) -> None:
    make_old(published, 2)
    before = file_digest(published.root / "m/2" / CERTIFICATE_FILE)
    change(published)
    with pytest.raises(ParityError, match=words):
        published.recertify("m", 2)
    assert file_digest(published.root / "m/2" / CERTIFICATE_FILE) == before


def test_only_certificates_that_were_issued_count_where_a_registry_knows_of_any(
    published: ModelRepository,
) -> None:
    digest = file_digest(published.root / "m/2" / CERTIFICATE_FILE)
    for known in ((), (digest,), ("0" * 64, digest)):
        published.registered = lambda name, version, known=known: known
        published.check_proven("m", 2)
    published.registered = lambda name, version: ("0" * 64,)
    with pytest.raises(ParityError, match="none of those that MLflow holds for models:/m/2"):
        published.check_proven("m", 2)


def test_a_next_certificate_that_binds_no_configuration_proves_nothing(
    published: ModelRepository,
) -> None:
    folder = published.root / "m/2"
    (folder / "model.onnx").write_bytes(b"other")
    planted = dataclasses.replace(
        Certificate.load(folder),
        configuration={},
        files={"model.onnx": file_digest(folder / "model.onnx")},
    )
    (folder / NEXT_CERTIFICATE_FILE).write_text(planted.to_json())
    for file in ("config.pbtxt", "configs/2.pbtxt"):
        reconfigure(published, file, lambda c: c.parameters.pop(certificate_key(2)))
    with pytest.raises(ParityError, match=r"certificate\.next\.json does not bind") as error:
        published.check_proven("m", 2)
    assert "config.pbtxt names another certificate" in str(error.value)


@pytest.mark.parametrize("known", [True, False])
def test_a_certificate_of_an_earlier_release_does_not_pass_for_a_registered_one(
    published: ModelRepository, known: bool
) -> None:
    """MLflow knows the certificate that was there before, or at least the decision."""
    digest = file_digest(published.root / "m/2" / CERTIFICATE_FILE)
    make_old(published, 2)
    old = file_digest(published.root / "m/2" / CERTIFICATE_FILE)
    noted: list[str] = []
    if known:
        published.registered = lambda name, version: (digest,)
    else:
        published.registered = lambda name, version: ()
        published.registered_decision = lambda name, version: "0" * 64
    for ask in (
        lambda: published.check_proven("m", 2),
        lambda: published.recertify("m", 2, register=lambda *given: noted.append(given[2])),
    ):
        with pytest.raises(ParityError, match="that MLflow holds for models:/m/2"):
            ask()
    assert not noted
    published.registered = lambda name, version: (digest, old)
    published.check_proven("m", 2)
    published.recertify("m", 2, register=lambda *given: noted.append(given[2]))
    assert noted == [old, file_digest(published.root / "m/2" / CERTIFICATE_FILE)]


def test_the_decision_that_mlflow_holds_is_the_one_of_an_old_certificate(
    published: ModelRepository,
) -> None:
    make_old(published, 2)
    published.registered = lambda name, version: ()
    for decision in ("", Certificate.load(published.root / "m/2").decision_sha256):
        published.registered_decision = lambda name, version, decision=decision: decision
        published.check_proven("m", 2)


@pytest.mark.parametrize("calls", [0, 1])
def test_nothing_is_renewed_where_its_digest_cannot_be_registered(
    published: ModelRepository, calls: int
) -> None:
    make_old(published, 2)
    before = {path: path.read_bytes() for path in published.root.rglob("*") if path.is_file()}
    given: list[str] = []

    def register(name: str, version: int, digest: str) -> None:
        if len(given) == calls:
            raise StoreError("no answer")
        given.append(digest)

    with pytest.raises(StoreError, match="no answer"):
        published.recertify("m", 2, register=register)
    after = {path: path.read_bytes() for path in published.root.rglob("*") if path.is_file()}
    assert after == before


def bind_again(published: ModelRepository, change: Callable[[Any], object]) -> None:
    """Change both configurations of version 2, and forge a certificate that binds the change."""
    folder = published.root / "m"
    for file in ("config.pbtxt", "configs/2.pbtxt"):
        reconfigure(published, file, change)
    bound = decisive_keys(read_config(folder / "config.pbtxt"), 2)
    forged = dataclasses.replace(Certificate.load(folder / "2"), configuration=bound)
    (folder / "2" / CERTIFICATE_FILE).write_text(forged.to_json())
    digest = file_digest(folder / "2" / CERTIFICATE_FILE)
    for file in ("config.pbtxt", "configs/2.pbtxt"):
        reconfigure(
            published,
            file,
            lambda c: setattr(c.parameters[certificate_key(2)], "string_value", digest),
        )


@pytest.mark.parametrize("of", ["nobody", "", "m", "../m"])
def test_a_model_that_says_it_is_a_companion_is_held_against_its_own_certificates(
    published: ModelRepository, of: str
) -> None:
    published.registered = lambda name, version: ("0" * 64,) if name == "m" else ()
    bind_again(published, lambda c: setattr(c.parameters[COMPANION_KEY], "string_value", of))
    assert published.registered_name("m") == "m"
    with pytest.raises(ParityError, match="MLflow holds for models:/m/2") as error:
        published.check_proven("m", 2)
    assert "names another model than its name does" in str(error.value)


def test_a_companion_that_says_it_is_none_is_held_against_its_model_s_certificates(
    tmp_path: Path,
) -> None:
    publish(tmp_path / "models", publication("m.text", 1, LABELS))
    published = ModelRepository(tmp_path / "models")
    published.check_proven("m.text", 1)
    published.registered = lambda name, version: ("0" * 64,) if name == "m" else ()
    with pytest.raises(ParityError, match="MLflow holds for models:/m/1"):
        published.check_proven("m.text", 1)


@pytest.mark.parametrize("name", ["m", "m.text"])
def test_a_registered_model_without_any_mark_is_not_another_tool_s(
    tmp_path: Path, name: str
) -> None:
    publish(tmp_path / "models", publication(name, 1, LABELS))
    folder = tmp_path / "models" / name
    published = ModelRepository(tmp_path / "models")
    (folder / "1" / CERTIFICATE_FILE).unlink()
    shutil.rmtree(folder / "configs")
    config = read_config(folder / "config.pbtxt")
    config.parameters.clear()
    (folder / "config.pbtxt").write_text(config_text(config))
    assert proof.is_foreign(published, name)
    published.check_proven(name, 1)
    published.registered = lambda name, version: ("0" * 64,) if (name, version) == ("m", 1) else ()
    for ask in (published.check_served, lambda name: published.check_proven(name, 1)):
        with pytest.raises(ParityError, match=r"no certificate\.json"):
            ask(name)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_configuration_that_is_no_file_is_wrong_and_not_waited_for(
    published: ModelRepository, make: Callable[[Path], object]
) -> None:
    path = published.root / "m/config.pbtxt"
    path.unlink()
    make(path)
    (version,) = list_versions(published, read_bytes=True)
    assert (version.model, version.version, version.proof) == ("m", 0, "wrong")
    assert "config.pbtxt: not a file" in version.problem
    with pytest.raises(ParityError, match="not a file"):
        published.check_served("m")
