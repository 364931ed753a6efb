"""In how many processes a model runs, by what the server tells of its configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from thresher_serving.embedded.backend_processes import num_processes

CPU = "instance_group { count: 2 kind: KIND_CPU }"


@pytest.fixture
def backends(tmp_path: Path) -> Path:
    """A server's backends: one that runs inside it, and one in processes of its own."""
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime/libtriton_onnxruntime.so").touch()
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer/model.py").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (f'backend: "tokenizer" {CPU}', 2),
        (f'backend: "python" {CPU}', 2),
        (f'backend: "onnxruntime" {CPU}', 0),
        (f'platform: "ensemble" {CPU}', 0),
        ('backend: "tokenizer" instance_group { count: 2 gpus: [0, 1, 3] kind: KIND_GPU }', 6),
        (f'backend: "tokenizer" {CPU} instance_group {{ count: 1 gpus: 0 kind: KIND_GPU }}', 3),
    ],
)
def test_each_copy_of_a_python_based_backend_is_a_process(
    backends: Path, config: str, expected: int
) -> None:
    told = text_format.Parse(config, model_config_pb2.ModelConfig())
    assert num_processes(told, backends) == expected
