"""Both ways to ask, blocking and in an event loop, against a real Triton."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from thresher.errors import DataError, NotFoundError, ServerError
from thresher_serving import Client, Prediction, RunningServer
from thresher_serving.client.async_client import AsyncClient

LOGITS = np.float32([[0.3, -1.7, 2.1], [-0.2, 0.9, -3.3], [0, 0, 0], [9, -9, 0.5], [1, 2, 3]])

Ask = Callable[[str, Any], Any]


def ask_blocking(url: str, method: str, *args: Any, **options: Any) -> Any:
    with Client(url) as client:
        return getattr(client, method)(*args, **options)


def ask_awaiting(url: str, method: str, *args: Any, **options: Any) -> Any:
    async def asked() -> Any:
        async with AsyncClient(url) as client:
            return await getattr(client, method)(*args, **options)

    return asyncio.run(asked())


@pytest.fixture
def url(server: RunningServer) -> str:
    return server.grpc_url


@pytest.fixture(params=[ask_blocking, ask_awaiting], ids=["blocking", "awaiting"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    asks: Callable[..., Any] = request.param
    return asks


def test_each_gives_the_same_prediction(url: str, ask: Callable[..., Any], client: Client) -> None:
    rows = np.random.default_rng(0).normal(0, 3, (13, 3)).astype(np.float32)
    outputs = ("probabilities", "labels", "logits")
    expected = client.predict("weather", rows, outputs=outputs)
    got: Prediction = ask(url, "predict", "weather", rows, outputs=outputs)
    for name in outputs:
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
        assert getattr(got, name).dtype == getattr(expected, name).dtype
    np.testing.assert_array_equal(got.thresholds, expected.thresholds)
    assert (got.model_name, got.model_version, got.label_names) == (
        "weather",
        2,
        ("rain", "fog", "snow"),
    )
    np.testing.assert_array_equal(got.logits, rows)


def test_each_tells_the_same_about_a_model(
    url: str, ask: Callable[..., Any], client: Client
) -> None:
    for name in ("weather", "two", "unbatched", "type_string"):
        assert ask(url, "metadata", name) == client.metadata(name)


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_can_be_asked_for(url: str, ask: Callable[..., Any], version: int) -> None:
    assert ask(url, "predict", "weather", LOGITS, version=version).model_version == version


def test_outputs_of_another_tools_model_come_as_they_are(url: str, ask: Callable[..., Any]) -> None:
    x = np.float32([[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]])
    got = ask(url, "infer", "two", {"x": x, "far": x[:, :1]})
    np.testing.assert_array_equal(got["y"], x + x[:, :1])
    words = np.array([["a", "ü"], ["", "long text"]], np.object_)
    got = ask(url, "infer", "type_string", words, outputs=["y"])
    assert [[bytes(w).decode() for w in row] for row in got["y"]] == words.tolist()
    with pytest.raises(NotFoundError, match='unknown output "z". Valid: y'):
        ask(url, "infer", "two", {"x": x, "far": x[:, :1]}, outputs=["z"])


def test_a_model_without_a_batch_axis_is_asked_once(url: str, ask: Callable[..., Any]) -> None:
    x = np.float32([[1, 2, 3], [5, 5, 5]])
    assert ask(url, "infer", "unbatched", x)["y"].tolist() == [pytest.approx(3.5)]


def test_errors_are_the_same(url: str, ask: Callable[..., Any]) -> None:
    with pytest.raises(NotFoundError, match='unknown model "wether"; did you mean "weather"'):
        ask(url, "predict", "wether", LOGITS)
    with pytest.raises(NotFoundError, match=r'model weather: unknown version "9". Valid: 1, 2'):
        ask(url, "predict", "weather", LOGITS, version=9)
    with pytest.raises(DataError, match=r"axis 1 is 2, not 3"):
        ask(url, "predict", "weather", LOGITS[:, :2])
    with pytest.raises(NotFoundError, match='unknown output "probabilities"'):
        ask(url, "predict", "two", {"x": LOGITS[:, :2], "far": LOGITS[:, :1]})
    with pytest.raises(NotFoundError, match="rain tomorrow: no such file"):
        ask(url, "predict", "weather", ["rain tomorrow"])
    with pytest.raises(ServerError, match=r"bad_dims is not ready after 0.2 s.*configuration"):
        ask(url, "wait_ready", "bad_dims", timeout_s=0.2)
    ask(url, "wait_ready", "weather", version=1)
    ask(url, "wait_ready")


def test_a_server_that_is_not_there_is_named(ask: Callable[..., Any]) -> None:
    with pytest.raises(ServerError, match=r"no Triton server answers at 127.0.0.1:1\. Run: thresh"):
        ask("127.0.0.1:1", "predict", "weather", LOGITS)


def test_the_deadline_is_one_for_the_whole_call(url: str, ask: Callable[..., Any]) -> None:
    """Each part takes 0.3 s, the queue's delay: one fits into the time, all of them do not."""
    index = np.zeros((40, 1), np.int64)
    ask(url, "infer", "picking", index[:1], timeout_s=20)
    with pytest.raises(ServerError, match="did not answer in time"):
        ask(url, "infer", "picking", index[:7], timeout_s=0.1)
    with pytest.raises(ServerError, match="did not answer in time"):
        ask(url, "infer", "picking", index, timeout_s=1e-6)


def test_many_single_rows_travel_side_by_side(server: RunningServer, url: str) -> None:
    """Their queue waits 0.3 s or for 8 rows: one after the other, 64 would take 19 s."""

    async def asked() -> list[float]:
        async with AsyncClient(url) as client:
            rows = [np.int64([[i % 4]]) for i in range(64)]
            found = await asyncio.gather(*(client.infer("picking", row) for row in rows))
            return [float(answer["value"][0, 0]) for answer in found]

    def timed(work: Callable[[], Awaitable[list[float]]]) -> list[float]:
        async def limited() -> list[float]:
            return await asyncio.wait_for(work(), 10)

        return asyncio.run(limited())

    assert timed(asked) == [10 + i % 4 for i in range(64)]


def test_threads_may_share_a_client(url: str) -> None:
    wrong: list[int] = []
    with Client(url) as client:

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            for _ in range(20):
                rows = rng.normal(size=(rng.integers(1, 11), 3)).astype(np.float32)
                got = client.predict("weather", rows, outputs=("probabilities", "logits"))
                if got.logits is None or not np.array_equal(got.logits, rows):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_an_error_in_one_part_is_the_calls_and_the_client_goes_on(
    url: str, ask: Callable[..., Any], client: Client
) -> None:
    index = np.zeros((40, 1), np.int64)
    index[17] = 99  # beyond the table: the network fails in the third part
    with pytest.raises(ServerError, match="refused model picking"):
        ask(url, "infer", "picking", index)
    with Client(url) as again:
        with pytest.raises(ServerError, match="refused model picking"):
            again.infer("picking", index)
        assert len(again.infer("picking", index[:9])["value"]) == 9
