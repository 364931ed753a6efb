"""Every change that could be planted in a published model, generated from what is there.

Files come from a walk of the model's folder, keys from its protobuf messages and their schema, so a
file or a key that a later release adds is tried without anybody remembering it.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thresher.config_pbtxt import config_text, read_config

__all__ = ["HARMLESS_KEYS", "Planted", "harmless_changes", "planted_changes"]

HARMLESS_KEYS = {
    "dynamic_batching": "which requests share a batch; each row is computed by itself",
    "instance_group": "how many copies run, and where",
    "metric_tags": "names of figures",
    "model_metrics": "buckets of histograms",
    "model_warmup": "rows run before the model is ready, answered to nobody",
    "optimization.cuda": "how work is submitted to the GPU",
    "optimization.eager_batching": "when a batch is put together",
    "optimization.gather_kernel_buffer_threshold": "how inputs are copied",
    "optimization.input_pinned_memory": "how inputs are copied",
    "optimization.output_pinned_memory": "how outputs are copied",
    "optimization.priority": "which model goes first",
    "response_cache": "the same answer to the same bytes, kept",
    "parameters.intra_op_thread_count": "threads",
    "parameters.thresher.settings_sha256": "a note for the next export: how it was asked for",
}
"""Keys that may change after the proof, each with the reason."""

_OWN_CHECK = {"version_policy"}  # tried as scenarios: which versions it names matters


@dataclass(frozen=True)
class Planted:
    """One change, and the version whose answers it could change."""

    title: str
    name: str
    version: int
    apply: Callable[[Path], None]
    """Takes the model repository's folder."""


def planted_changes(root: Path, name: str) -> list[Planted]:
    """Return each change to a model that has to be refused."""
    served = max(read_config(root / name / "config.pbtxt").version_policy.specific.versions)
    return [
        *_changed_files(root, name, served),
        *_added_files(root, name, served),
        *_changed_keys(root, name, "config.pbtxt", served),
        *(
            change
            for path in sorted((root / name / "configs").iterdir())
            for change in _changed_keys(root, name, f"configs/{path.name}", int(path.stem))
        ),
        *_changed_certificates(root, name),
        *_policies(root, name, served),
    ]


def harmless_changes(root: Path, name: str) -> list[Planted]:
    """Return changes that leave every answer as it is, and must be accepted."""
    served = max(read_config(root / name / "config.pbtxt").version_policy.specific.versions)
    found = []
    for file in ("config.pbtxt", f"configs/{served}.pbtxt"):
        for key, config in _mutated_keys(read_config(root / name / file), served, harmless=True):
            found.append(_written(f"{name}/{file}: {key}", name, served, file, config))
        content = (root / name / file).read_text()
        text = "# a comment\n" + content.replace("\n", "  # another\n\n")
        assert read_text(text) == read_text(content)
        other = _writes(name, file, text.encode())
        found.append(Planted(f"{name}/{file}: other text, same message", name, served, other))
    for path in _files(root / name):
        file = path.relative_to(root / name).as_posix()
        if file.startswith("warmup/"):
            found.append(Planted(f"{name}/{file}: gone", name, served, _deletes(name, file)))
        if file.startswith(f"{served}/"):
            found += [
                Planted(f"{name}/{file}: of tomorrow", name, served, _dates(name, file)),
                Planted(
                    f"{name}/{file}: a link to the same bytes", name, served, _links(name, file)
                ),
            ]
    return found


def read_text(text: str) -> Any:
    """Return the message that a configuration's text stands for."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _owner(file: str, served: int) -> int | None:
    """Return the version that a file is of; None where it decides no answer."""
    first = file.partition("/")[0]
    if first == "warmup":
        return None
    if first.isdecimal():
        return int(first)
    return int(Path(file).stem) if first == "configs" else served


def _changed_files(root: Path, name: str, served: int) -> Iterator[Planted]:
    for path in _files(root / name):
        file = path.relative_to(root / name).as_posix()
        version = _owner(file, served)
        if version is None:
            continue
        content = path.read_bytes()
        ways: dict[str, Callable[[Path], None]] = {
            "gone": _deletes(name, file),
            "empty": _writes(name, file, b""),
            "a folder": _becomes_folder(name, file),
            "a pipe": _becomes_pipe(name, file),
            "a link to nowhere": _becomes_link(name, file, "/nowhere"),
            "cut short": _writes(name, file, content[: len(content) // 2]),
        }
        if path.suffix != ".pbtxt":  # where a byte may be a comment's: its keys are tried instead
            flipped = bytearray(content)
            flipped[len(flipped) // 2] ^= 1
            ways["one bit flipped"] = _writes(name, file, bytes(flipped))
            ways["one byte longer"] = _writes(name, file, content + b"\n")
        if file == "config.pbtxt":  # without it Triton is given no such model at all
            ways = {way: ways[way] for way in ("empty", "cut short")}
        for way, apply in ways.items():
            yield Planted(f"{name}/{file}: {way}", name, version, apply)


def _added_files(root: Path, name: str, served: int) -> Iterator[Planted]:
    for file in (
        f"{served}/model.py",
        f"{served}/libtriton_onnxruntime.so",
        f"{served}/MODEL.ONNX",
        f"{served}/more/model.onnx",
        f"{served}/.hidden",
        "libtriton_onnxruntime.so",
        "triton_python_backend_stub",
        "model.onnx",
        "labels.other.txt",
        "config.pbtxt.bak",
        f"0{served}/model.onnx",
    ):
        yield Planted(f"{name}/{file}: added", name, served, _writes(name, file, b"x"))
    for folder in (f"{served}/empty", "empty"):

        def add(at: Path, folder: str = folder) -> None:
            (at / name / folder).mkdir()

        yield Planted(f"{name}/{folder}/: added", name, served, add)


def _changed_keys(root: Path, name: str, file: str, version: int) -> Iterator[Planted]:
    config = read_config(root / name / file)
    for key, changed in _mutated_keys(config, version, harmless=False):
        yield _written(f"{name}/{file}: {key}", name, version, file, changed)


def _mutated_keys(config: Any, version: int, *, harmless: bool) -> Iterator[tuple[str, Any]]:
    """Yield each key with a message in which it is changed, removed, or set where it was not."""
    for descriptor in config.DESCRIPTOR.fields:
        name = descriptor.name
        if name in _OWN_CHECK:
            continue
        if name == "parameters":
            yield from _mutated_parameters(config, version, harmless=harmless)
            continue
        if name == "optimization":
            yield from _mutated_optimization(config, descriptor, harmless=harmless)
            continue
        if _is_harmless(name) != harmless:
            continue
        without = copy.deepcopy(config)
        without.ClearField(name)
        if without == config:
            _fill(without, descriptor)
            if without != config:
                yield f"{name} set", without
            continue
        yield f"{name} removed", without
        yield from _mutated(config, descriptor)


def _mutated_optimization(
    config: Any, descriptor: Any, *, harmless: bool
) -> Iterator[tuple[str, Any]]:
    there = {part.name for part, _ in config.optimization.ListFields()}
    for part in descriptor.message_type.fields:
        if _is_harmless(f"optimization.{part.name}") != harmless:
            continue
        changed = copy.deepcopy(config)
        if part.name in there:
            changed.optimization.ClearField(part.name)
        else:
            _fill(changed.optimization, part)
        yield f"optimization.{part.name}", changed


def _mutated_parameters(config: Any, version: int, *, harmless: bool) -> Iterator[tuple[str, Any]]:
    for key in sorted(config.parameters):
        name, _, number = key.rpartition("/")
        if key.startswith("thresher.") and number.isdecimal() and int(number) != version:
            continue  # another version's, which is asked about by itself
        if _is_harmless(f"parameters.{name or key}") != harmless:
            continue
        removed, changed = copy.deepcopy(config), copy.deepcopy(config)
        del removed.parameters[key]
        changed.parameters[key].string_value += "1"
        yield f"parameters {key} removed", removed
        yield f"parameters {key} changed", changed
    if not harmless:
        for key in ("EXECUTION_ENV_PATH", f"thresher.decision/0{version}", f"thresher.x/{version}"):
            added = copy.deepcopy(config)
            added.parameters[key].string_value = "1"
            yield f"parameters {key} added", added


def _is_harmless(key: str) -> bool:
    return key in HARMLESS_KEYS


def _mutated(config: Any, descriptor: Any) -> Iterator[tuple[str, Any]]:
    """Yield each leaf below a field that is set with a message in which it is another one."""
    for path in _leaves(getattr(config, descriptor.name), descriptor, descriptor.name):
        changed = copy.deepcopy(config)
        if _change(changed, path) and changed != config:
            yield ".".join(str(part) for part in path), changed


def _leaves(value: Any, descriptor: Any, *path: Any) -> Iterator[tuple[Any, ...]]:
    is_map = descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry
    if is_map:
        yield from ((*path, key) for key in value)
    elif descriptor.is_repeated:
        for at, item in enumerate(value):
            if descriptor.message_type is None:
                yield (*path, at)
            else:
                yield from _below(item, (*path, at))
    elif descriptor.message_type is not None:
        yield from _below(value, path)
    else:
        yield path


def _below(message: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    for descriptor, value in message.ListFields():
        yield from _leaves(value, descriptor, *path, descriptor.name)


def _change(config: Any, path: tuple[Any, ...]) -> bool:
    """Change what a path leads to; return whether it could be."""
    *way, last = path
    parent = config
    for part in way:
        parent = parent[part] if isinstance(part, int) else getattr(parent, part)
    old = parent[last] if not hasattr(parent, "DESCRIPTOR") else getattr(parent, last)
    if hasattr(old, "DESCRIPTOR"):
        old.Clear()
        return True
    new = f"{old}x" if isinstance(old, str) else (not old if isinstance(old, bool) else old + 1)
    if hasattr(parent, "DESCRIPTOR"):
        setattr(parent, last, new)
    else:
        parent[last] = new
    return True


def _fill(message: Any, descriptor: Any, depth: int = 0) -> None:
    """Set a field to something that is not its default, however deep it has to be made."""
    name, kind = descriptor.name, descriptor.message_type
    if kind is not None and kind.GetOptions().map_entry:
        entry = kind.fields_by_name["value"]
        at: Any = "1" if kind.fields_by_name["key"].type == descriptor.TYPE_STRING else 1
        if entry.message_type is None:
            getattr(message, name)[at] = "x" if entry.type == descriptor.TYPE_STRING else 1
        else:
            getattr(message, name)[at].SetInParent()
        return
    if descriptor.is_repeated:
        if kind is None:
            getattr(message, name).append("x" if descriptor.type == descriptor.TYPE_STRING else 1)
        else:
            getattr(message, name).add()
        return
    if kind is not None:
        getattr(message, name).SetInParent()
        if depth < 2 and kind.fields:
            _fill(getattr(message, name), kind.fields[0], depth + 1)
        return
    setattr(message, name, "x" if descriptor.type == descriptor.TYPE_STRING else 1)


def _changed_certificates(root: Path, name: str) -> Iterator[Planted]:
    for path in sorted((root / name).glob("*/certificate.json")):
        version, file = int(path.parent.name), path.relative_to(root / name).as_posix()
        content: dict[str, Any] = json.loads(path.read_text())
        for key in content:
            without = {k: v for k, v in content.items() if k != key}
            yield Planted(
                f"{name}/{file}: {key} removed",
                *(name, version),
                _writes(name, file, json.dumps(without).encode()),
            )


def _policies(root: Path, name: str, served: int) -> Iterator[Planted]:
    for title, policy in (
        ("all", "all {}"),
        ("latest", "latest { num_versions: 1 }"),
        ("none", ""),
    ):
        config = read_config(root / name / "config.pbtxt")
        config.ClearField("version_policy")
        if policy:
            config.MergeFrom(read_text(f"version_policy {{ {policy} }}"))
        at = f"{name}/config.pbtxt: version_policy {title}"
        yield _written(at, name, served, "config.pbtxt", config)


def _written(title: str, name: str, version: int, file: str, config: Any) -> Planted:
    content = config_text(config).encode()
    return Planted(title, name, version, _writes(name, file, content))


def _writes(name: str, file: str, content: bytes) -> Callable[[Path], None]:
    return lambda at: _write(at / name / file, content)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _deletes(name: str, file: str) -> Callable[[Path], None]:
    return lambda at: (at / name / file).unlink()


def _becomes(name: str, file: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def apply(at: Path) -> None:
        (at / name / file).unlink()
        make(at / name / file)

    return apply


def _becomes_folder(name: str, file: str) -> Callable[[Path], None]:
    return _becomes(name, file, lambda path: path.mkdir())


def _becomes_pipe(name: str, file: str) -> Callable[[Path], None]:
    return _becomes(name, file, os.mkfifo)


def _becomes_link(name: str, file: str, target: str) -> Callable[[Path], None]:
    return _becomes(name, file, lambda path: path.symlink_to(target))


def _links(name: str, file: str) -> Callable[[Path], None]:
    def apply(at: Path) -> None:
        path, elsewhere = at / name / file, at.parent / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        shutil.move(path, elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)

    return apply


def _dates(name: str, file: str) -> Callable[[Path], None]:
    return lambda at: os.utime(at / name / file, (4e9, 4e9))
