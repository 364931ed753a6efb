"""The contract that Thresher's stages share; importing it loads no torch, ONNX or MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thresher.errors import ThresherError

if TYPE_CHECKING:
    from thresher.decision import Decision

__all__ = ["Decision", "ThresherError", "__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name != "Decision":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from thresher.decision import Decision  # it imports NumPy, which not every command needs

    return Decision
