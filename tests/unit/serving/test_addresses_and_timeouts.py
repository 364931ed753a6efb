"""Ports and time-outs that are none are refused at once, wherever they are given."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from thresher.cli import main
from thresher.errors import ConfigError
from thresher_serving import AsyncClient, Client, control
from thresher_serving.client.retries import Retries
from thresher_serving.connection import Connection, Tls, checked_timeout
from thresher_serving.embedded.ports import choose_ports
from thresher_serving.rollout import RolloutOptions, StatusReader

NO_PORTS = ["99999", "65536", "0", "-1", "abc", "8001x", " 8001", "+8001", "٨٠٠١", "", "1e3", "8:1"]
NO_TIMES: list[Any] = [math.inf, -math.inf, math.nan, 0, -1, 0.0, 1e9, None, "30", True, [1]]


@pytest.mark.parametrize("port", NO_PORTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "grpc://triton", "grpcs://triton"])
def test_what_is_no_port_is_refused(host: str, port: str) -> None:
    with pytest.raises(ConfigError, match=r"is no port; expected a whole number from 1 to 65535"):
        Connection(url=f"{host}:{port}")
    with pytest.raises(ConfigError, match="is no port"):
        Client(f"{host}:{port}")


@pytest.mark.parametrize("address", [8001, None, 1.5, [8001]])
def test_an_address_that_is_no_text_is_refused(address: Any) -> None:
    with pytest.raises(ConfigError, match="a server's address is a .*; expected a text"):
        Client(address)


@pytest.mark.parametrize("url", ["::1:8001", "a b:8001", "triton:8001/x", "unix:/tmp/s", "u@h:1"])
def test_what_is_no_host_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a Triton server|is no port"):
        Connection(url=url)


@pytest.mark.parametrize(
    "url", ["h:1", "h:65535", "[fe80::1%eth0]:8001", "grpcs://h:80", "my_service-1.ns:8001"]
)
def test_what_is_an_address_is_taken(url: str) -> None:
    assert Connection(url=url, tls=Tls() if "grpcs" in url else None).url == url


@pytest.mark.parametrize("timeout_s", NO_TIMES)
def test_a_call_refuses_a_time_out_that_is_none(timeout_s: Any) -> None:
    begin = time.monotonic()
    row = np.zeros((1, 2), np.float32)
    with Client("127.0.0.1:1") as client:
        for call in (
            lambda: client.predict("m", row, timeout_s=timeout_s),
            lambda: client.infer("m", row, timeout_s=timeout_s),
            lambda: client.metadata("m", timeout_s=timeout_s),
            lambda: client.wait_ready(timeout_s=timeout_s),
            lambda: control.load_model("127.0.0.1:1", "m", timeout_s=timeout_s),
            lambda: control.unload_model("127.0.0.1:1", "m", timeout_s=timeout_s),
            lambda: control.wait_ready("127.0.0.1:1", timeout_s=timeout_s),
            lambda: RolloutOptions(timeout_s=timeout_s),
        ):
            with pytest.raises(ConfigError, match=r"timeout_s is .*; expected seconds"):
                call()
    assert time.monotonic() - begin < 5


def test_an_async_call_refuses_it_too() -> None:
    async def ask() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            await client.predict("m", np.zeros((1, 2), np.float32), timeout_s=math.nan)

    with pytest.raises(ConfigError, match="timeout_s is nan"):
        asyncio.run(ask())


def test_numbers_of_every_kind_are_time_outs() -> None:
    for timeout_s in (1, 0.5, np.float32(2), np.int64(3)):
        assert checked_timeout(timeout_s) == float(timeout_s)


def test_retries_take_no_endless_pause() -> None:
    for options in ({"base_s": math.nan}, {"cap_s": math.inf}, {"attempts": 0}):
        with pytest.raises(ConfigError, match="retries"):
            Retries(**options)


def test_a_server_takes_ports_that_are_ports_and_each_once() -> None:
    for port in (-1, 99999):
        with pytest.raises(ConfigError, match=f"--grpc-port is {port}, expected 0 to 65535"):
            choose_ports("127.0.0.1", {"--grpc-port": port})
    with pytest.raises(ConfigError, match="each port serves one thing; got --grpc-port 8001"):
        choose_ports("127.0.0.1", {"--grpc-port": 8001, "--http-port": 8001})
    assert len(choose_ports("127.0.0.1", {"--grpc-port": 0, "--http-port": 0})) == 2


@pytest.mark.parametrize("url", ["http://h:99999/metrics", "triton:8002", "ftp://h/metrics"])
def test_an_address_of_metrics_is_checked(url: str) -> None:
    with pytest.raises(ConfigError, match="is no port|is no address"):
        StatusReader("127.0.0.1:1", metrics_url=url)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["predict", "m", "x.npy", "--server", "h:99999"], 1, 'h:99999": "99999" is no port'),
        (["status", "--server", "h:0"], 1, '"0" is no port'),
        (["rollout", "m/1", "--server", "h:abc"], 1, '"abc" is no port'),
        (["rollback", "m", "--to", "h:-1"], 1, '"-1" is no port'),
        (["verify", "m/1", "--over-the-wire", "--server", "h:99999"], 1, '"99999" is no port'),
        (["status", "--server", "h:1", "--metrics", "h"], 1, "is no address of metrics"),
        (["serve", "--grpc-port", "99999"], 2, "Invalid value for '--grpc-port'"),
        (["serve", "--http-port", "-1"], 2, "Invalid value for '--http-port'"),
        (["serve", "--metrics-port", "abc"], 2, "Invalid value for '--metrics-port'"),
        (["ui", "--port", "0"], 2, "Invalid value for '--port'"),
        (["rollout", "m/1", "--timeout", "nan"], 2, "nan is no finite number"),
        (["rollback", "m", "--timeout", "0"], 2, "Invalid value for '--timeout'"),
        (["status", "--every", "inf"], 2, "inf is no finite number"),
        (["export", "--all", "--time-limit", "nan"], 2, "nan is no finite number"),
    ],
)
def test_commands_say_at_once_what_is_wrong(
    arguments: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model_repository").mkdir()
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code, done.output
    assert words in done.stderr


def test_an_empty_server_is_refused_and_not_taken_for_the_one_of_this_folder() -> None:
    outcome = CliRunner().invoke(main, ["predict", "m", "a.png", "--server", ""])
    assert outcome.exit_code == 1
    assert "is no address of a Triton server" in outcome.stderr
