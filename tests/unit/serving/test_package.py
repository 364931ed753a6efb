"""Importing the serving package."""

from __future__ import annotations

import subprocess
import sys

import pytest

import thresher_serving


def test_each_exported_name_is_there() -> None:
    for name in thresher_serving.__all__:
        assert getattr(thresher_serving, name).__name__ == name
    assert dir(thresher_serving) == sorted(thresher_serving.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = thresher_serving.Clint


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import thresher_serving, sys; print(sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    for name in ("tritonclient", "grpc", "numpy", "psutil", "torch", "onnx", "mlflow"):
        assert f"'{name}'" not in loaded
