"""A model whose backend process is killed answers again, and nobody gets a wrong answer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from thresher_serving import RunningServer, Runtime, running_server, start_server, stop_server
from thresher_serving.connection import as_connection
from thresher_serving.embedded.process import terminate
from thresher_serving.embedded.watcher import start_watcher

NO_PORTS = {"grpc_port": 0, "http_port": 0, "metrics_port": 0}


@pytest.fixture
def models(publish: Callable[..., Path], repository: Path, zoo: list[str], tmp_path: Path) -> Path:
    """A repository of one model with a version that answers twice its input, and a negated one."""
    root = tmp_path / "models"
    text = (repository / "total/config.pbtxt").read_text().replace("300000", "100")
    publish("total", (repository / "total/1/model.onnx").read_bytes(), text, root=root)
    pair = (repository / "warm/1/model.onnx").read_bytes()
    two = (repository / "warm/config.pbtxt").read_text()
    two = two.split("model_warmup")[0].replace(
        "instance_group { count: 1", "instance_group { count: 2"
    )
    publish("twice", pair, two, root=root)
    return root


@pytest.fixture
def watched(models: Path, runtime: Runtime, tmp_path: Path) -> Iterator[RunningServer]:
    started = start_server(
        models, runtime=runtime, state_dir=tmp_path / "state", watch=True, **NO_PORTS
    )
    yield started
    started.stop(timeout_s=0.1)


def backends(server: RunningServer, model: str) -> list[int]:
    """Return the living processes of a model's backend."""
    living = (c for c in psutil.Process(server.pid).children() if c.status() != "zombie")
    return sorted(c.pid for c in living if f"/{model}/" in " ".join(c.cmdline()))


def is_living(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def mended(server: RunningServer, model: str) -> int:
    """Return how often the log says that a model was mended."""
    return Path(server.log_file).read_text().count(f"thresher: {model} version 1 answers again")


class Load:
    """Clients that ask a model, each row by itself, and note what they get and when."""

    def __init__(self, server: RunningServer, num_clients: int) -> None:
        self.right: list[float] = []
        self.failed: list[float] = []
        self.wrong: list[object] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(server.grpc_url, n))
            for n in range(num_clients)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, url: str, seed: int) -> None:
        from tritonclient.grpc import InferInput
        from tritonclient.utils import InferenceServerException

        client = as_connection(url).open()
        random = np.random.default_rng(seed)
        while not self._stop.is_set():
            row = random.integers(0, 100, (1, 4)).astype(np.float32)
            feed = InferInput("x", [1, 4], "FP32").set_data_from_numpy(row)
            try:
                got = client.infer("total", [feed], client_timeout=10).as_numpy("total")
            except InferenceServerException:
                self.failed.append(time.monotonic())
                continue
            if got.tolist() != [[row.sum()]]:
                self.wrong.append((row, got))
            self.right.append(time.monotonic())
        client.close()


def wait_for(check: Callable[[], object], *, within_s: float) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_backend_killed_or_stopped_under_load_answers_again_and_never_wrongly(
    watched: RunningServer, how: signal.Signals
) -> None:
    with Load(watched, num_clients=8) as load:
        wait_for(lambda: len(load.right) > 200, within_s=20)
        wait_for(lambda: successes(watched, "twice") > 0, within_s=20)  # the watch has begun
        time.sleep(0.5)
        (victim,) = backends(watched, "total")
        os.kill(victim, how)
        killed = time.monotonic()
        if how == signal.SIGSTOP:
            time.sleep(2.5)
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)  # Triton dies of it, were it still there
        wait_for(lambda: load.failed, within_s=10)
        wait_for(lambda: load.right[-1] > killed + 1, within_s=20)
        again = next(at for at in load.right if at > load.failed[0])
        time.sleep(1)
        late = [at for at in load.failed if at > again + 2.5]  # what had queued for the dead
    gap_s = again - killed
    print(
        f"right answers again {gap_s:.1f} s after {how.name}; {len(load.failed)} requests of 8 "
        f"clients failed meanwhile, {len(load.right)} answers were right, {len(load.wrong)} wrong"
    )
    assert load.wrong == []
    assert late == []
    limit_s = 5 if how == signal.SIGKILL else 8
    assert gap_s < limit_s, "1 s after SIGKILL and 4 s after SIGSTOP, at a load average of 4"
    assert watched.is_alive()
    log = Path(watched.log_file).read_text()
    assert "thresher: total version 1: its backend process died; loading it anew" in log
    assert "thresher: total version 1 answers again" in log


def test_a_backend_that_died_before_the_watch_began_is_mended_under_load(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    server = start_server(models, runtime=runtime, state_dir=tmp_path / "state", **NO_PORTS)
    watcher = None
    try:
        (victim,) = backends(server, "total")
        os.kill(victim, signal.SIGKILL)
        with Load(server, num_clients=8) as load:
            time.sleep(0.5)  # eight requests wait for the dead process now
            watcher, begun = start_watcher(server), time.monotonic()
            wait_for(lambda: load.right, within_s=20)
            gap_s = load.right[0] - begun
        print(f"right answers {gap_s:.1f} s after the watch was started")
        assert load.wrong == []
        assert mended(server, "total") == 1
        assert mended(server, "twice") == 0
        assert gap_s < 5, "1 to 2 s; by failed requests alone it took 6 to 15"
    finally:
        if watcher is not None:
            terminate(*watcher, timeout_s=2)
        server.stop(timeout_s=0.1)


def asked(server: RunningServer, model: str, width: int) -> list[float]:
    """Return what a model answers to a row of ones."""
    from tritonclient.grpc import InferInput

    client = as_connection(server.grpc_url).open()
    row = np.ones((1, width), np.float32)
    feed = InferInput("x", [1, width], "FP32").set_data_from_numpy(row)
    result = client.infer(model, [feed], client_timeout=10)
    client.close()
    return list(result.as_numpy(result.get_response().outputs[0].name)[0])


def successes(server: RunningServer, model: str) -> int:
    client = as_connection(server.grpc_url).open()
    (stats,) = client.get_inference_statistics(model).model_stats
    client.close()
    return int(stats.inference_stats.success.count)


def test_without_traffic_a_model_is_asked_once_a_second_and_mended_too(
    watched: RunningServer,
) -> None:
    wait_for(lambda: successes(watched, "twice") > 0, within_s=10)
    before = successes(watched, "twice")
    time.sleep(4)
    assert 2 <= successes(watched, "twice") - before <= 6
    first, _ = backends(watched, "twice")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: mended(watched, "twice") == 1, within_s=10)
    wait_for(lambda: len(backends(watched, "twice")) == 2, within_s=20)  # the old ones go
    assert first not in backends(watched, "twice")
    for _ in range(4):  # each of the two instances has its turn
        assert asked(watched, "twice", 2) == [1.0, 1.0]
    assert "total" not in Path(watched.log_file).read_text().partition("thresher: ")[2]


def test_with_traffic_nothing_is_sent_by_the_watch(watched: RunningServer) -> None:
    time.sleep(1.5)
    with Load(watched, num_clients=2) as load:
        wait_for(lambda: len(load.right) > 100, within_s=10)
        own = successes(watched, "total") - len(load.right)
        wait_for(lambda: len(load.right) > 2000, within_s=30)
    assert successes(watched, "total") - len(load.right) <= own + 4, "less than two in flight each"


def test_every_backend_killed_at_once_and_again_is_mended(watched: RunningServer) -> None:
    wait_for(lambda: successes(watched, "twice") > 0, within_s=10)
    for times in (1, 2):
        victims = [*backends(watched, "twice"), *backends(watched, "total")]
        assert len(victims) == 3
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        for model in ("twice", "total"):
            wait_for(lambda name=model, n=times: mended(watched, name) == n, within_s=20)
        assert asked(watched, "twice", 2) == [1.0, 1.0]
        assert asked(watched, "total", 3) == [3.0]


def test_the_watcher_ends_with_the_server_and_does_not_take_stop_for_a_crash(
    watched: RunningServer, tmp_path: Path
) -> None:
    assert watched.watcher is not None
    found = running_server(tmp_path / "state")
    assert found == watched
    assert psutil.pid_exists(watched.watcher[0])
    assert stop_server(tmp_path / "state") == watched
    assert not psutil.pid_exists(watched.watcher[0])
    assert "has ended" not in Path(watched.log_file).read_text()


def test_a_server_that_is_killed_is_told_in_the_log_and_its_leftovers_go(
    watched: RunningServer, tmp_path: Path
) -> None:
    assert watched.watcher is not None
    left = backends(watched, "twice")
    os.kill(watched.pid, signal.SIGKILL)
    watcher = psutil.Process(watched.watcher[0])
    wait_for(lambda: watcher.status() == psutil.STATUS_ZOMBIE, within_s=10)
    log = Path(watched.log_file).read_text()
    assert f"the Triton server (process {watched.pid}) has ended, and not by `thresher stop`" in log
    assert not any(is_living(pid) for pid in left)
    assert running_server(tmp_path / "state") is None


def test_a_server_whose_backend_died_once_stops_without_waiting_for_it(
    watched: RunningServer,
) -> None:
    wait_for(lambda: successes(watched, "total") > 0, within_s=10)
    (victim,) = backends(watched, "total")
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: "answers again" in Path(watched.log_file).read_text(), within_s=10)
    start = time.monotonic()
    watched.stop()
    assert time.monotonic() - start < 15, "Triton alone would wait 30 s for the dead"


def test_a_foreground_server_is_watched_by_its_own_process(
    models: Path, runtime: Runtime, tmp_path: Path
) -> None:
    server = start_server(models, runtime=runtime, state_dir=tmp_path / "state", **NO_PORTS)
    with (tmp_path / "out").open("w+") as out:
        waiting = threading.Thread(target=server.wait, args=(out,))
        try:
            waiting.start()
            wait_for(lambda: successes(server, "total") > 0, within_s=10)
            (victim,) = backends(server, "total")
            os.kill(victim, signal.SIGKILL)
            wait_for(
                lambda: "total version 1 answers again" in (tmp_path / "out").read_text(),
                within_s=10,
            )
            assert asked(server, "total", 2) == [2.0]
        finally:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(threading, "excepthook", lambda _: None)
                server.stop(timeout_s=0.1)  # the waiting thread takes it for a crash
                waiting.join()
