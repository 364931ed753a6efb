"""Which signals end a server, and which do not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from thresher_serving.embedded.stop_signals import StopSignals


@pytest.fixture
def ignored(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """Ignore a signal, as a process does that `nohup` starts."""
    before = signal.signal(request.param, signal.SIG_IGN)
    yield request.param
    signal.signal(request.param, before)


@pytest.mark.parametrize("ignored", [signal.SIGHUP, signal.SIGINT], indirect=True)
def test_a_signal_that_the_process_ignores_stays_ignored(ignored: signal.Signals) -> None:
    signals = StopSignals()
    with signals.counted():
        os.kill(os.getpid(), ignored)
        assert not signals.is_stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.is_stopped()
        assert not signals.is_urgent()
    assert signal.getsignal(ignored) is signal.SIG_IGN
