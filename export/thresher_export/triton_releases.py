"""Which ONNX models each Triton release loads, and which TensorRT it brings.

The ONNX Runtime in a release sets the limits. Where it is not known, a release is held to what the
release before it loads: ONNX Runtime goes on loading what an older one loads.

Source: `DEFAULT_TRITON_VERSION_MAP` in the build.py of each release's branch (up to r26.08, the
newest there is a copy of), ONNX Runtime's table of supported opsets and IR versions, and
`src/onnxruntime.cc` of Triton's onnxruntime backend; checked 2026-11.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from thresher.errors import ConfigError, ConversionError, unknown_name

__all__ = ["DEFAULT_TARGET", "RELEASES", "TritonRelease", "check_loadable", "triton_release"]

DEFAULT_TARGET = "24.10"
"""The oldest release that Thresher knows, and the one that `thresher serve` brings itself."""

_ONNX_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonRelease:
    """One monthly release, and the newest ONNX that it loads."""

    name: str
    """Year and month, such as ``"24.10"``."""
    onnxruntime: str
    """Its version; the newest known one where ``is_known`` is False."""
    max_opset: int
    max_ir_version: int
    is_known: bool = True
    """Whether the version of ONNX Runtime is known; False: it is that version or a newer one."""

    @property
    def runtime(self) -> str:
        """Its ONNX Runtime, for messages."""
        return f"ONNX Runtime {self.onnxruntime}{'' if self.is_known else ' or newer'}"

    @property
    def is_strongly_typed(self) -> bool:
        """Whether its TensorRT computes in the model's own types alone: TensorRT 11 does."""
        return self.name >= "26.06"

    @property
    def compiles_on_each_gpu(self) -> bool:
        """Whether TensorRT gets each instance's GPU; before, every engine is on GPU 0."""
        return self.name >= "25.04"


_TABLE = (
    # releases, ONNX Runtime, highest opset, highest IR
    ("24.10 24.11", "1.19.2", 21, 10),
    ("24.12 25.01 25.02", "1.20.1", 21, 10),
    ("25.03 25.04", "1.21.0", 22, 10),
    ("25.05 25.06 25.07", "1.22.0", 22, 10),
    ("25.08 25.09", "1.23.0", 23, 11),
    ("25.10", "1.23.1", 23, 11),
    ("25.11 25.12 26.01", "1.23.2", 23, 11),
    ("26.02", "1.24.1", 25, 13),
    ("26.03", "1.24.2", 25, 13),
    ("26.04 26.05 26.06", "1.24.4", 25, 13),
    ("26.07", "1.27.0", 26, 13),
    ("26.08", "1.28.0", 26, 13),
)
_UNKNOWN = ("26.09", "26.10")
"""Releases whose ONNX Runtime nothing at hand tells."""

RELEASES = {
    name: TritonRelease(
        name=name,
        onnxruntime=version,
        max_opset=opset,
        max_ir_version=ir_version,
        is_known=name not in _UNKNOWN,
    )
    for names, version, opset, ir_version in (*_TABLE, (" ".join(_UNKNOWN), *_TABLE[-1][1:]))
    for name in names.split()
}
"""Every release by name, oldest first."""


def triton_release(name: str) -> TritonRelease:
    """Return a release by its name.

    Raises:
        ConfigError: If the table has no such release; lists those it has, nearest first.

    Example:
        >>> triton_release("25.08").max_opset
        23
    """
    if name not in RELEASES:
        raise ConfigError(
            f"--target-triton: {unknown_name('Triton release', name, RELEASES, at_most=99)}"
        )
    return RELEASES[name]


def check_loadable(model: ir.Model, target: str) -> None:
    """Raise unless a Triton release loads the model that came out.

    Args:
        model: The model as it will be written.
        target: The release, such as ``"24.10"``.

    Raises:
        ConfigError: If there is no such release.
        ConversionError: If opset or IR are newer than the release loads; names the oldest release
            that does.
    """
    release = triton_release(target)
    opset, ir_version = _opset(model), model.ir_version
    if opset <= release.max_opset and ir_version <= release.max_ir_version:
        return
    able = [r for r in RELEASES.values() if opset <= r.max_opset and ir_version <= r.max_ir_version]
    advice = (
        f"the oldest Triton that loads it is {able[0].name}: --target-triton {able[0].name}, if "
        "that is what serves"
        if able
        else f"no release up to {list(RELEASES)[-1]} loads it; convert with an older opset"
    )
    raise ConversionError(
        f"the ONNX model has opset {opset} and IR {ir_version}; Triton {release.name} "
        f"({release.runtime}) loads at most opset {release.max_opset} and IR "
        f"{release.max_ir_version}; {advice}"
    )


def _opset(model: ir.Model) -> int:
    """Return the newest opset of ONNX's own operators that the model or its functions import."""
    imports = [model.opset_imports, *(f.opset_imports for f in model.functions.values())]
    return max((o.get(domain, 0) for o in imports for domain in _ONNX_DOMAINS), default=0)
