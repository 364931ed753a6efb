"""How Triton is to run a model: a recipe's section ``[triton]``, and ``--set triton.KEY``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from thresher.config import from_mapping, parse_overrides, to_mapping
from thresher.errors import ConfigError

__all__ = ["TensorRtOptions", "TritonOptions", "laid_over", "parse_settings"]

SECTION = "triton"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRtOptions:
    """TensorRT inside ONNX Runtime, on GPUs; Triton compiles the network when it loads it."""

    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Up to Triton 26.05: what TensorRT may compute in; TensorRT 11 takes the model's own types."""
    max_workspace_bytes: int = 2**30
    """GPU memory that it may use while it runs."""
    engine_cache: str | None = None
    """A folder on the server where compiled engines are kept: the next load takes seconds."""
    axes: dict[str, Any] = field(default_factory=dict)
    """Smallest, usual and largest length by free axis, as in sequence = [1, 64, 256]."""
    profiles: bool | None = None
    """Compile for all shapes at load, one piece alone; left out: where there are ``axes``."""

    def __post_init__(self) -> None:
        if self.max_workspace_bytes < 1:
            raise ConfigError(f"max_workspace_bytes is {self.max_workspace_bytes}, expected over 0")
        for axis, sizes in self.axes.items():
            legal = isinstance(sizes, (list, tuple)) and len(sizes) == 3
            legal = legal and all(type(size) is int and size > 0 for size in sizes)
            if not legal or sorted(sizes) != list(sizes):
                raise ConfigError(
                    f"axes.{axis} is {sizes!r}, expected smallest, usual and largest length, "
                    "such as [1, 64, 256]"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonOptions:
    """How Triton is to run a model."""

    max_batch_size: int = 64
    """Largest batch that Triton puts together or takes; parity is proven at this size too."""
    max_queue_delay_us: int = 0
    """How long a request may wait for others to batch with; 0 batches what has queued already."""
    preferred_batch_sizes: tuple[int, ...] = ()
    """Batch sizes that a queue is cut into; none as a rule: ONNX Runtime runs any size alike."""
    instance_count: int | None = None
    """Copies side by side on each device; left out: 2 of a network below 64 MB, 1 of a larger."""
    warmup: bool = True
    """Run rows of the validation split at batch sizes 1, 7 and the largest before it is ready."""
    response_cache: bool = False
    """Answer a request that came before from the server's cache (``--cache-config``)."""
    text: bool = False
    """Publish the model NAME.text too: it takes texts, and makes tokens of them on the server."""
    tf32: bool = False
    """Let GPUs round factors to 10 bits: faster, and logits differ by some 1e-3 of their size."""
    tensorrt: TensorRtOptions | None = None
    """Compile with TensorRT, on GPUs; section ``[triton.tensorrt]``."""
    config: dict[str, Any] = field(default_factory=dict)
    """Laid over config.pbtxt at the end: fields of Triton's `ModelConfig`, by name."""

    def __post_init__(self) -> None:
        for name, low in (("max_batch_size", 1), ("max_queue_delay_us", 0), ("instance_count", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"{name} is {value}, expected at least {low}")
        for size in self.preferred_batch_sizes:
            if not 1 <= size <= self.max_batch_size:
                raise ConfigError(
                    f"preferred_batch_sizes has {size}, expected 1 to max_batch_size "
                    f"({self.max_batch_size})"
                )


def parse_settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``--set triton.KEY=VALUE`` texts say, nested.

    Raises:
        ConfigError: If a text has another form, or another section.

    Example:
        >>> parse_settings(("triton.instance_count=2", "triton.config.response_cache.enable=true"))
        {'instance_count': 2, 'config': {'response_cache': {'enable': True}}}
    """
    found: dict[str, Any] = {}
    for dotted, value in parse_overrides(texts):
        section, *keys = dotted.split(".")
        if section != SECTION or not keys:
            raise ConfigError(
                f"--set {dotted}: expected {SECTION}.KEY=VALUE, such as triton.instance_count=2; "
                "what else a recipe says was settled in training"
            )
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        found = _merged(found, nested)
    return found


def laid_over(options: TritonOptions, *layers: tuple[str, Mapping[str, Any]]) -> TritonOptions:
    """Return options with some keys changed.

    Args:
        options: What holds where no layer says otherwise.
        layers: What to call each in an error, and its keys; a later one wins.

    Raises:
        ConfigError: If a key is unknown or a value is wrong; names layer and key.
    """
    mapping = to_mapping(options)
    for where, layer in layers:
        mapping = _merged(mapping, layer)
        options = from_mapping(mapping, TritonOptions, where=where, prefix=f"{SECTION}.")
    return options


def _merged(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``two`` laid over ``one``: tables key by key, all else whole."""
    result = dict(one)
    for key, value in two.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return result
