"""Which keys of a Triton configuration decide an answer, each with a digest of its value.

All of them do, except those that are listed here: they say how fast Triton runs a model, how it is
measured, or what a person may read. A key that a later Triton adds therefore counts.

Source: Triton's `model_config.proto`, release 24.10, and the parameters of its ONNX Runtime
backend.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from thresher.config_pbtxt import LABELS_FILE, labels_file_of

__all__ = ["decisive_keys", "differences", "of_version"]

_SPEED_FIELDS = {
    "dynamic_batching",  # which requests share a batch; each row is computed by itself
    "instance_group",  # copies and where they run
    "metric_tags",  # names of figures
    "model_metrics",  # buckets of histograms
    "model_warmup",  # rows that are run before the model is ready; nobody gets their answers
    "response_cache",  # answers of the same version to the same bytes
}
_SPEED_OPTIMIZATIONS = {  # `graph` and `execution_accelerators` change what is computed
    "cuda",
    "eager_batching",
    "gather_kernel_buffer_threshold",
    "input_pinned_memory",
    "output_pinned_memory",
    "priority",
}
_SPEED_PARAMETERS = {
    "arena_extend_strategy",
    "enable_mem_arena",
    "enable_mem_pattern",
    "execution_mode",
    "gpu_mem_limit",
    "inter_op_thread_count",
    "intra_op_thread_count",
    "label_metrics",
    "memory.enable_memory_arena_shrinkage",
    "session.inter_op.allow_spinning",
    "session.intra_op.allow_spinning",
}
_OTHERWISE_CHECKED = {"version_policy", "parameters", "optimization"}

_FACTS = {"certificate_sha256", "settings_sha256"}
"""Parameters of a version that are not bound: the certificate itself cannot hold its own digest,
and how Triton was asked to run a version is no more than a note for the next export."""

_VERSION_PREFIX = "parameters.thresher."


def decisive_keys(config: Any, version: int) -> dict[str, str]:
    """Return the SHA-256 of each key's value that decides what one version answers.

    Parameters that concern other versions are left out, and so is the version policy, which moves
    with every rollout. The file of labels counts by what it holds, not by its name.

    Args:
        config: A `ModelConfig` message.
        version: The version.

    Returns:
        Hexadecimal digests by key, such as ``max_batch_size`` or ``parameters.thresher.decision``,
        which stands for the version's own ``thresher.decision/N``.
    """
    from google.protobuf import json_format

    values: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    for output in values.get("output", ()):
        if output.get("label_filename") == labels_file_of(version):
            output["label_filename"] = LABELS_FILE
    found = {
        key: value
        for key, value in values.items()
        if key not in _SPEED_FIELDS and key not in _OTHERWISE_CHECKED
    }
    for key, value in values.get("optimization", {}).items():
        if key not in _SPEED_OPTIMIZATIONS:
            found[f"optimization.{key}"] = value
    for key, value in values.get("parameters", {}).items():
        name = _own_name(key, version)
        if name is not None and name not in _SPEED_PARAMETERS:
            found[f"parameters.{name}"] = value
    return {key: _digest(value) for key, value in sorted(found.items())}


def of_version(keys: Mapping[str, str]) -> dict[str, str]:
    """Return those of the keys that config.pbtxt holds of a version that does not serve."""
    return {key: at for key, at in keys.items() if key.startswith(_VERSION_PREFIX)}


def differences(bound: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return what differs between two sets of keys, a phrase for each key."""
    missing = [f"{key} is missing" for key in bound if key not in found]
    added = [f"{key} was added" for key in found if key not in bound]
    changed = [f"{key} is another one" for key in bound if found.get(key, bound[key]) != bound[key]]
    return sorted(missing + added + changed)


def _own_name(key: str, version: int) -> str | None:
    """Return a parameter's name without the version's number; None where it is not bound."""
    name, slash, number = key.rpartition("/")
    is_numbered = slash and number.isdecimal() and str(int(number)) == number
    if not key.startswith("thresher.") or not is_numbered:
        return key
    if int(number) != version or name.removeprefix("thresher.") in _FACTS:
        return None
    return name


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
