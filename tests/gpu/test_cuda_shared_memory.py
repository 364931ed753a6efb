"""PyTorch tensors on a GPU, handed to a server on this host without leaving the GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from support.gpu import why_no_gpu
from support.served_weather import write_weather
from support.triton import Triton, triton
from thresher.errors import DataError
from thresher_serving import Client, find_runtime
from thresher_serving.connection import Connection

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(why_no_gpu()), reason=why_no_gpu())]

pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-python: tritonclient[cuda]")

MAX_BATCH = 50_000
ROWS = np.random.default_rng(0).normal(0, 3, (2 * MAX_BATCH + 7, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    if not torch.cuda.is_available():
        pytest.skip("this PyTorch has no CUDA")
    root = tmp_path_factory.mktemp("models")
    write_weather(root, max_batch_size=MAX_BATCH)
    log = tmp_path_factory.mktemp("server") / "log"
    with triton(find_runtime(), root, ["weather"], log=log) as running:
        yield running


def registered(server: Triton) -> dict[str, Any]:
    """Return the regions of GPU memory that a server maps."""
    client = Connection(url=server.grpc_url).open()
    try:
        return dict(client.get_cuda_shared_memory_status().regions)
    finally:
        client.close()


def same(server: Triton, client: Client, tensor: torch.Tensor) -> None:
    """Prove that the answer for a tensor is the one for its copy on the host."""
    with Client(server.grpc_url, shared_memory=False) as plain:
        expected = plain.predict("weather", tensor.cpu().numpy())
    got = client.predict("weather", {"x": tensor})
    np.testing.assert_array_equal(got.probabilities, expected.probabilities)
    np.testing.assert_array_equal(got.labels, expected.labels)


@pytest.mark.parametrize("num_rows", [1, 100, len(ROWS)])
def test_a_tensor_is_answered_as_its_copy_on_the_host_is(server: Triton, num_rows: int) -> None:
    tensor = torch.from_numpy(ROWS[:num_rows]).cuda()
    with Client(server.grpc_url) as client:
        same(server, client, tensor)
        assert registered(server)
    assert registered(server) == {}


def test_regions_are_used_again(server: Triton) -> None:
    with Client(server.grpc_url, in_flight=1) as client:
        seen = set()
        for turn in range(4):
            same(server, client, torch.from_numpy(ROWS[:100] + turn).cuda())
            seen |= set(registered(server))
        assert len(seen) == 1
    assert registered(server) == {}


def test_a_tensor_with_gaps_and_one_that_is_being_computed(server: Triton) -> None:
    tensor = torch.from_numpy(ROWS[:100]).cuda()
    with Client(server.grpc_url) as client:
        same(server, client, tensor.T.contiguous().T)
        same(server, client, tensor[::2])
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(20):
                large = torch.rand(2000, 2000, device="cuda")
                row = tensor + (large @ large).sum() * 0
                same(server, client, row)


def test_without_shared_memory_and_over_http_it_goes_through_the_host(server: Triton) -> None:
    tensor = torch.from_numpy(ROWS[:100]).cuda()
    for url, options in [(server.grpc_url, {"shared_memory": False}), (server.http_url, {})]:
        with Client(url, **options) as client:
            same(server, client, tensor)
            assert registered(server) == {}


def test_a_wrong_tensor_is_refused(server: Triton) -> None:
    with Client(server.grpc_url) as client:
        with pytest.raises(DataError, match="axis 1 is 2, not 3"):
            client.predict("weather", torch.zeros(4, 2, device="cuda"))
        with pytest.raises(DataError, match="is float64, expected float32"):
            client.predict("weather", torch.zeros(4, 3, dtype=torch.float64, device="cuda"))
        assert registered(server) == {}


def test_a_program_that_ends_without_closing_leaves_nothing(server: Triton) -> None:
    code = f"""
import torch
from thresher_serving import Client
client = Client("{server.grpc_url}")
print(len(client.predict("weather", torch.zeros(10, 3, device="cuda"))), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["10"], done.stderr
    assert registered(server) == {}
