"""Inputs on a GPU, asked of a real server on a machine without one; the tensors are stand-ins."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from support.on_gpu import Device, OnGpu
from support.served_weather import THRESHOLDS, write_weather
from support.triton import Triton, triton
from thresher.errors import MissingExtraError
from thresher_serving import AsyncClient, Client, Prediction, Runtime
from thresher_serving.client import cuda_memory
from thresher_serving.connection import Connection

ROWS = np.random.default_rng(0).normal(0, 3, (11, 3)).astype(np.float32)
"""Three requests."""


@pytest.fixture(scope="module")
def server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    root: Path = tmp_path_factory.mktemp("models")
    write_weather(root)
    with triton(runtime, root, ["weather"], log=root.parent / "log") as running:
        yield running


def check(got: Prediction) -> None:
    expected = 1 / (1 + np.exp(-ROWS.astype(np.float64)))
    np.testing.assert_allclose(got.probabilities, expected, atol=1e-6)
    np.testing.assert_array_equal(got.labels, got.probabilities >= np.float32(THRESHOLDS))


def test_tensors_on_the_cpu_are_asked_like_arrays(server: Triton) -> None:
    with Client(server.grpc_url) as client:
        check(client.predict("weather", torch.from_numpy(ROWS)))
        check(client.predict("weather", {"x": torch.from_numpy(ROWS)}))


def test_without_shared_memory_and_over_http_it_goes_through_the_host(server: Triton) -> None:
    tensor = OnGpu(ROWS, readable=True)
    with Client(server.grpc_url, shared_memory=False) as client:
        check(client.predict("weather", tensor))
    with Client(server.http_url) as client:
        check(client.predict("weather", {"x": tensor}))

    async def asked() -> None:
        async with AsyncClient(server.http_url) as client:
            check(await client.predict("weather", tensor))

    asyncio.run(asked())


@pytest.mark.skipif(importlib.util.find_spec("cuda") is not None, reason="cuda-python is here")
def test_without_cuda_python_the_error_says_what_to_do(server: Triton) -> None:
    with (
        Client(server.grpc_url) as client,
        pytest.raises(MissingExtraError, match="cuda-python.*shared_memory=False"),
    ):
        client.predict("weather", OnGpu(ROWS))


@pytest.mark.parametrize("has_room", [True, False])
def test_a_server_that_cannot_map_the_region_is_sent_messages(
    server: Triton, monkeypatch: pytest.MonkeyPatch, has_room: bool
) -> None:
    device = Device()
    device.has_room = has_room
    monkeypatch.setattr(cuda_memory, "_library", device.library)
    with Client(Connection(url=server.grpc_url, http_port=server.http_port)) as client:
        for _ in range(2):
            check(client.predict("weather", OnGpu(ROWS, readable=True)))
        assert device.held == {}
