"""The backend for texts says why it cannot run where it cannot."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import thresher_serving
from thresher_serving.embedded.runtime_install import runtime_folder
from thresher_serving.embedded.runtime_platform import site_packages

PACKAGE = Path(thresher_serving.__file__).parent
ARGUMENTS = {"model_name": "emotions.text", "model_version": "3"}


@pytest.fixture
def backend() -> Any:
    """The backend's file, imported beside Triton's own Python module."""
    triton = site_packages(runtime_folder()) / "pytriton/tritonserver/backends/python"
    if not (triton / "triton_python_backend_utils.py").is_file():
        pytest.skip("the Triton server is not installed; run: thresher runtime install")
    sys.path.insert(0, str(triton))
    try:
        spec = importlib.util.spec_from_file_location(
            "tokenizer_backend", PACKAGE / "backends/tokenizer/model.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(triton))
    return module


def test_a_server_that_cannot_hand_strings_over_refuses_the_model(backend: Any) -> None:
    # the project's own environment has NumPy 2, as the server's has under Python 3.13
    with pytest.raises(ValueError, match=r"emotions\.text.*need Python 3\.11 or 3\.12.*tokenizer="):
        backend.TritonPythonModel().initialize(ARGUMENTS)


def test_a_missing_package_is_named_with_where_to_install_it(
    backend: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match="python3 -m pip install tokenizers"):
        backend._tokenizer(tmp_path / "tokenizer.json", 8)
