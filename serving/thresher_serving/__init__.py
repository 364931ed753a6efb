"""Serves what was validated: finds or installs Triton, runs it, and asks it for predictions.

Importing this package is cheap; each name loads its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thresher_serving.client.async_client import AsyncClient as AsyncClient
    from thresher_serving.client.client import Client as Client
    from thresher_serving.client.client import ModelMetadata as ModelMetadata
    from thresher_serving.client.client import NamedLabel as NamedLabel
    from thresher_serving.client.client import Prediction as Prediction
    from thresher_serving.client.client import TensorMetadata as TensorMetadata
    from thresher_serving.client.examples import true_labels as true_labels
    from thresher_serving.client.retries import Retries as Retries
    from thresher_serving.connection import Connection as Connection
    from thresher_serving.connection import Tls as Tls
    from thresher_serving.control import ModelState as ModelState
    from thresher_serving.embedded.runtime import Runtime as Runtime
    from thresher_serving.embedded.runtime import find_runtime as find_runtime
    from thresher_serving.embedded.runtime import install_runtime as install_runtime
    from thresher_serving.embedded.runtime import remove_runtime as remove_runtime
    from thresher_serving.embedded.runtime import runtime_info as runtime_info
    from thresher_serving.embedded.server import start_server as start_server
    from thresher_serving.embedded.server import stop_server as stop_server
    from thresher_serving.embedded.state import RunningServer as RunningServer
    from thresher_serving.embedded.state import running_server as running_server

_MODULES = {
    "AsyncClient": "client.async_client",
    "Client": "client.client",
    "Connection": "connection",
    "ModelMetadata": "client.client",
    "ModelState": "control",
    "NamedLabel": "client.client",
    "Prediction": "client.client",
    "Retries": "client.retries",
    "RunningServer": "embedded.state",
    "Runtime": "embedded.runtime",
    "TensorMetadata": "client.client",
    "Tls": "connection",
    "find_runtime": "embedded.runtime",
    "install_runtime": "embedded.runtime",
    "remove_runtime": "embedded.runtime",
    "OnnxRuntimeEngine": "scoring",
    "OutputForm": "scoring",
    "ScoredVersion": "scoring",
    "ScoringOptions": "scoring",
    "TritonEngine": "scoring",
    "score": "scoring",
    "score_files": "scoring",
    "running_server": "embedded.state",
    "runtime_info": "embedded.runtime",
    "start_server": "embedded.server",
    "stop_server": "embedded.server",
    "true_labels": "client.examples",
}

__all__ = [  # noqa: PLE0604 - the names of _MODULES, and nothing else
    *_MODULES
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
