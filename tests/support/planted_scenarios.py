"""Ways in which a published model came to answer otherwise than was proven, each by hand.

They change the models `weather` (versions 1 and 2, of which 2 serves).
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from thresher.certificate import CERTIFICATE_FILE, Certificate, file_digest
from thresher.config_pbtxt import certificate_key, config_text, read_config

__all__ = ["SCENARIOS", "as_of_an_earlier_release", "forge", "move_a_threshold"]


def edit(root: Path, name: str, file: str, change: Callable[[Any], object]) -> None:
    """Change one of a model's configurations."""
    config = read_config(root / name / file)
    change(config)
    (root / name / file).write_text(config_text(config))


def move_a_threshold(path: Path) -> None:
    """Move a threshold in a model's initializer, by what no comparison of engines sees."""
    model = onnx.load(path, load_external_data=False)
    (tensor,) = [t for t in model.graph.initializer if t.name == "thresher.thresholds"]
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[2] += np.float32(2e-4)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


def name_certificate(root: Path, name: str, version: int, digest: str) -> None:
    """Let both configurations of a version name a certificate."""
    key = certificate_key(version)
    for file in ("config.pbtxt", f"configs/{version}.pbtxt"):
        edit(root, name, file, lambda c: setattr(c.parameters[key], "string_value", digest))


def forge(root: Path, name: str, version: int) -> None:
    """Write a certificate for what is there now, and its digest into both configurations."""
    folder = root / name / str(version)
    content = Certificate.load(folder)
    files = {each: file_digest(folder / each) for each in content.files}
    forged = dataclasses.replace(content, files=files)
    (folder / CERTIFICATE_FILE).write_text(forged.to_json())
    name_certificate(root, name, version, file_digest(folder / CERTIFICATE_FILE))


def as_of_an_earlier_release(root: Path, *names: str) -> None:
    """Let version 1 of models be as `export` wrote it before certificates bound configurations.

    A companion named the certificate of its model, the first of the names.
    """
    for name in names:
        path = root / name / "1" / CERTIFICATE_FILE
        old = dataclasses.replace(Certificate.load(path.parent), configuration={})
        path.write_text(old.to_json())
        name_certificate(root, name, 1, file_digest(root / names[0] / "1" / CERTIFICATE_FILE))


def other_file(root: Path) -> None:
    edit(
        *(root, "weather", "config.pbtxt"),
        lambda c: setattr(c, "default_model_filename", "../1/model.onnx"),
    )


def no_decision(root: Path) -> None:
    move_a_threshold(root / "weather/2/model.onnx")
    edit(root, "weather", "config.pbtxt", lambda c: c.parameters.pop("thresher.decision/2"))


def all_versions(root: Path) -> None:
    move_a_threshold(root / "weather/2/model.onnx")
    edit(root, "weather", "config.pbtxt", lambda c: c.version_policy.all.SetInParent())


def two_versions(root: Path) -> None:
    move_a_threshold(root / "weather/1/model.onnx")
    edit(root, "weather", "config.pbtxt", lambda c: c.version_policy.specific.versions.append(1))


def own_decision(root: Path) -> None:
    path = root / "weather/configs/2.pbtxt"
    path.write_text(path.read_text().replace("0.61", "0.6"))


def version_1_under_number_2(root: Path) -> None:
    shutil.rmtree(root / "weather/2")
    shutil.copytree(root / "weather/1", root / "weather/2")
    for file in ("config.pbtxt", "configs/2.pbtxt"):
        config = read_config(root / "weather/configs/1.pbtxt")
        for key in [key for key in config.parameters if key.endswith("/1")]:
            config.parameters[key[:-1] + "2"].CopyFrom(config.parameters[key])
        config.version_policy.specific.versions[:] = [2]
        (root / "weather" / file).write_text(config_text(config))


def linked_folder(root: Path) -> None:
    shutil.rmtree(root / "weather/2")
    (root / "weather/2").symlink_to("1")


def rewritten_digest(root: Path) -> None:
    move_a_threshold(root / "weather/2/model.onnx")
    path = root / "weather/2" / CERTIFICATE_FILE
    old = Certificate.load(path.parent).files["model.onnx"]
    path.write_text(path.read_text().replace(old, file_digest(path.with_name("model.onnx"))))


def reversed_labels(root: Path) -> None:
    path = root / "weather/labels.txt"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))


def file_outside(root: Path) -> None:
    """A certificate that binds a file of another folder, and says nothing of its own."""
    path = root / "weather/2" / CERTIFICATE_FILE
    path.write_text(path.read_text().replace('"model.onnx"', '"../1/model.onnx"'))


SCENARIOS = (
    other_file,
    no_decision,
    all_versions,
    two_versions,
    own_decision,
    version_1_under_number_2,
    linked_folder,
    rewritten_digest,
    reversed_labels,
    file_outside,
)
