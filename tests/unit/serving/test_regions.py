"""Which region of shared memory a request gets, and when one is given up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from thresher_serving.client.failures import CallFailure
from thresher_serving.client.pace import run
from thresher_serving.client.regions import Regions
from thresher_serving.client.shared_memory import SystemRegion
from thresher_serving.connection import Connection

MIB = 1 << 20


class Server:
    """What a server knows of regions; `answers` are failures, told to calls in their order."""

    def __init__(self) -> None:
        self.knows: set[str] = set()
        self.calls: list[str] = []
        self.answers: list[CallFailure] = []

    async def __call__(self, method: str, name: str, *args: Any, **options: Any) -> None:
        self.calls.append(method.removesuffix("_system_shared_memory"))
        if self.answers:
            raise self.answers.pop(0)
        (self.knows.add if method.startswith("register") else self.knows.discard)(name)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def regions(pauses: list[float]) -> Regions:
    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    return Regions(Connection(), SystemRegion, sleep=sleep)


def lent(regions: Regions, server: Server, size: int = 10) -> Any:
    return run(regions.lent(server, size))


def is_there(region: SystemRegion) -> bool:
    return (Path("/dev/shm") / region.name).exists()


def test_a_region_is_registered_once_and_lent_again(regions: Regions, server: Server) -> None:
    first = lent(regions, server)
    second = lent(regions, server)
    assert first is not second
    assert first.size == MIB
    regions.give_back(first, None)
    assert lent(regions, server) is first
    assert server.calls == ["register", "register"]
    run(regions.close(server))
    assert server.knows == set()
    assert not is_there(first)
    assert not is_there(second)


def test_one_that_is_too_small_makes_room_for_a_larger_one(
    regions: Regions, server: Server
) -> None:
    small = lent(regions, server)
    regions.give_back(small, None)
    large = lent(regions, server, MIB + 1)
    assert large.size == 2 * MIB
    assert server.knows == {large.name}
    assert not is_there(small)
    run(regions.close(server))


def test_after_an_error_a_region_goes_when_the_server_lets_go_of_it(
    regions: Regions, server: Server, pauses: list[float]
) -> None:
    failed = lent(regions, server)
    regions.give_back(failed, CallFailure("UNAVAILABLE", "Socket closed"))
    server.answers = [CallFailure("INTERNAL", "it is currently in use.")]
    other = lent(regions, server)
    assert other is not failed, "the server may still write to it"
    assert is_there(failed)
    assert pauses == [], "nobody waits for it"
    regions.give_back(other, None)
    assert lent(regions, server) is other
    assert not is_there(failed)
    assert server.knows == {other.name}
    run(regions.close(server))


def test_closing_waits_for_the_server_to_let_go(
    regions: Regions, server: Server, pauses: list[float]
) -> None:
    region = lent(regions, server)
    server.answers = [CallFailure("INTERNAL", "it is currently in use.")] * 3
    run(regions.close(server))
    assert len(pauses) == 3
    assert server.knows == set()
    assert not is_there(region)


def test_a_refusal_is_remembered_and_a_passing_failure_is_not(
    regions: Regions, server: Server
) -> None:
    server.answers = [CallFailure("UNAVAILABLE", "connection refused")] * 2
    with pytest.raises(CallFailure):
        lent(regions, server)
    assert not regions.is_refused
    server.answers = [CallFailure("INVALID_ARGUMENT", "shared memory is disabled")] * 2
    assert lent(regions, server) is None
    assert regions.is_refused
    server.calls.clear()
    assert lent(regions, server) is None
    assert server.calls == []


def test_without_room_there_is_none_and_later_there_may_be(server: Server) -> None:
    room = [False]

    def created(size: int) -> SystemRegion:
        if not room[0]:
            raise OSError("no room")
        return SystemRegion(size)

    async def sleep(_: float) -> None:
        pass

    regions = Regions(Connection(), created, sleep=sleep)
    assert lent(regions, server) is None
    room[0] = True
    assert lent(regions, server) is not None
    run(regions.close(server))
