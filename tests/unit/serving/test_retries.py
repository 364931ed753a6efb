"""When a call is made again, and where."""

from __future__ import annotations

import pytest

from thresher.errors import ConfigError, NotFoundError, ServerError
from thresher_serving.client.failures import CallFailure, explained
from thresher_serving.client.retries import Endpoints, Retries


def test_pauses_are_drawn_from_nought_to_a_bound_that_doubles_up_to_the_cap() -> None:
    retries = Retries(base_s=0.1, cap_s=1.0)
    for failures, longest in [(1, 0.1), (2, 0.2), (4, 0.8), (5, 1.0), (5000, 1.0)]:
        drawn = [retries.pause_s(failures) for _ in range(400)]
        assert 0 <= min(drawn) < 0.2 * longest
        assert 0.8 * longest < max(drawn) <= longest


def test_retries_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="attempts is 0"):
        Retries(attempts=0)


def test_a_server_is_asked_until_it_fails_then_the_next_one_is() -> None:
    servers = Endpoints(["a", "b", "c"])
    assert servers.current == "a"
    assert servers.others == 2
    assert servers.failed("a")
    assert servers.current == "b"
    assert servers.others == 1, "a failed lately"
    assert servers.failed("b")
    assert servers.current == "c", "not back to a, which failed lately"
    assert not servers.failed("c"), "all failed: to be tried after a pause"
    assert servers.current == "a", "the one that failed first"


def test_a_failure_of_a_server_that_others_have_left_moves_nobody() -> None:
    servers = Endpoints(["a", "b"])
    assert servers.failed("a")
    assert servers.failed("a"), "a call that began before; b is there for it"
    assert servers.current == "b"


def test_a_server_that_failed_is_tried_again_after_its_rest() -> None:
    servers = Endpoints(["a", "b"], rest_s=-1)
    assert servers.failed("a")
    assert servers.failed("b")
    assert servers.current == "a"


def test_one_server_alone_stays_the_one_to_ask() -> None:
    servers = Endpoints(["a"])
    assert not servers.failed("a")
    assert servers.current == "a"


@pytest.mark.parametrize(
    ("status", "message", "again"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", True),
        ("UNAVAILABLE", "Socket closed", True),
        ("UNAVAILABLE", "Exceeds maximum queue size", True),
        ("NOT_FOUND", "Request for unknown model: 'x' has no available versions", True),
        ("UNAVAILABLE", "Request for unknown model: 'x' version 2 is not at ready state", False),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'triton-grpc'", False),
        ("INVALID_ARGUMENT", "unexpected shape for input", False),
        ("NOT_FOUND", "Request for unknown model: 'x' is not found", False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", False),
        ("INTERNAL", "Stub process 'weather_0_0' is not healthy.", False),
    ],
)
def test_only_what_passes_is_asked_again(status: str, message: str, again: bool) -> None:
    assert CallFailure(status, message).is_transient is again


def test_only_a_server_that_cannot_be_reached_is_taken_to_be_restarting() -> None:
    for message, restarts in [("Socket closed", True), ("Exceeds maximum queue size", False)]:
        assert CallFailure("UNAVAILABLE", message).is_outage is restarts
    away = CallFailure("UNAVAILABLE", "model 'x' has no available versions")
    assert (away.is_away, away.is_outage) == (True, False)


def test_errors_say_what_to_do() -> None:
    def told(status: str, message: str, **options: object) -> str:
        error = explained(CallFailure(status, message), "a:1", **options)  # type: ignore[arg-type]
        assert isinstance(error, ServerError | NotFoundError)
        return str(error)

    restricted = "This protocol is restricted, expecting header 'triton-grpc-protocol-k'"
    assert "wants a key for this call. Set THRESHER_SERVER_KEY" in told("UNAVAILABLE", restricted)
    assert "expecting header 'triton-grpc-protocol-k'" in told("UNAVAILABLE", restricted)
    assert "Run: thresher serve" in told("UNAVAILABLE", "Connection refused")
    assert "If a:1 is an HTTP port: gRPC has its own, 8001 by default." in told(
        "UNAVAILABLE", "Socket closed"
    )
    assert told("UNAVAILABLE", "\0\0\x18\x04\0").isprintable()
    assert "did not answer in time" in told("DEADLINE_EXCEEDED", "")
    assert "its queue is full" in told("UNAVAILABLE", "Exceeds maximum queue size")
    gone = "Request for unknown model: 'wether' is not found"
    ready = {"weather": [1, 2]}
    assert 'did you mean "weather"' in told("NOT_FOUND", gone, model="wether", ready=ready)
    assert "Valid: 1, 2" in told("NOT_FOUND", gone, model="weather", version="9", ready=ready)
    assert "no model wether is served" in told("NOT_FOUND", gone, model="wether", ready=None)


def test_the_stack_of_the_python_backend_is_left_out() -> None:
    assert CallFailure("INTERNAL", "no such op\n\nAt:\n  model.py(3)").message == "no such op"
