"""Keeps a Triton server running: starts it, starts it again when it dies, and ends it.

It runs in the process of `thresher serve`, or in one of its own (`thresher serve --background`).
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from thresher.errors import ParityError, ServerError, ThresherError
from thresher_serving.embedded import process
from thresher_serving.embedded.launch import (
    DiedError,
    ServeOptions,
    launched,
    outcome_of_loading,
    wait_open,
    wanted_models,
)
from thresher_serving.embedded.ports import choose_ports
from thresher_serving.embedded.server_log import ServerLog
from thresher_serving.embedded.state import (
    Phase,
    RunningServer,
    ServerState,
    clear_state,
    write_state,
)
from thresher_serving.embedded.stop_signals import StopSignals
from thresher_serving.embedded.text_health import TextHealth

if TYPE_CHECKING:
    from thresher.published_models import PublishedModels

__all__ = ["Supervisor"]

_EARLY_S = 30.0
"""A server that dies sooner than this after it was ready may well die again."""

_ENDING_S = 5.0
"""How long the process of a server that no longer answers may take to end."""

_MOST_EARLY_DEATHS = 5
_PERIOD_S = 0.1
_STOP_S = 35.0
"""How long Triton may finish what is in flight; its own limit is 30 s."""

_STRIKES = 2
"""A model is left out once the server has died so many times while it was loaded."""


class Supervisor:
    """Keeps the server of a state folder running; the caller holds the folder's lock.

    Args:
        options: What the server is started with.
        state_dir: The state folder.
        signals: What ends it.
        on_ready: Called when the server is ready for the first time.
        out: Where the server's log is copied to from then on; None copies it nowhere.
    """

    def __init__(
        self,
        options: ServeOptions,
        state_dir: Path,
        *,
        signals: StopSignals,
        on_ready: Callable[[ServerState], None] = lambda _: None,
        out: TextIO | None = None,
    ) -> None:
        self._options = options
        self._state_dir = state_dir
        self._signals = signals
        self._on_ready = on_ready
        self._log = ServerLog(options.log_file, out)
        me = os.getpid()
        self._me = me, process.created(me) or 0.0
        self._server: RunningServer | None = None
        self._ports = dict(options.ports)
        self._was_ready = False
        self._early_deaths = 0
        self._restarts = 0
        self._reason = ""
        self._loads_singly = False
        self._loading: set[str] = set()
        self._strikes: Counter[tuple[str, tuple[int, ...]]] = Counter()
        self._left_out: dict[str, str] = {}

    def run(self) -> bool:
        """Return, once a signal has ended the server, whether it was ever ready.

        Raises:
            ThresherError: If it cannot be started, or has died too often; the state file says why.
        """
        try:
            self._write("starting")
            while not self._signals.is_stopped():
                reason = self._run_once()
                if not self._signals.is_stopped():
                    self._consider(reason)
        except ThresherError as error:
            self._end_server()
            self._reason = str(error)
            with contextlib.suppress(ServerError):
                self._write("failed")
            raise
        except BaseException:
            self._end_server()
            raise
        self._end_server()
        clear_state(self._state_dir)
        return self._was_ready

    def _run_once(self) -> str:
        """Run Triton once, from its start to its end; return why it ended."""
        began, ready_at = time.monotonic(), None
        self._server = None
        try:
            wanted = self._wanted()
            if not self._was_ready:
                self._ports = choose_ports(self._options.host, self._options.ports)
            self._loading = set() if self._loads_singly else set(wanted)
            server, configured = launched(
                self._options,
                self._ports,
                wanted,
                loads=not self._loads_singly,
                new_log=not self._restarts,
                ends_with_us=True,
            )
            self._server = server
            self._write("starting")
            if not wait_open(server, self._options.timeout_s, self._signals.is_stopped):
                return ""
            if self._loads_singly:
                self._load_singly(server, wanted)
            self._loading.clear()
            self._server = server = outcome_of_loading(server, wanted, configured.named)
            ready_at = time.monotonic()
            self._be_ready(server, wanted, ready_at - began)
            self._watch(server, ready_at)
            reason = f"the Triton server (process {server.pid}) {process.exit_words(server.pid)}"
        except ThresherError as error:
            reason = str(error)
            if self._server is not None and not self._server.is_alive():
                self._strike()
            elif not self._was_ready:
                raise  # such as a port in use
        self._end_server()
        is_early = ready_at is None or time.monotonic() - ready_at < _EARLY_S
        self._early_deaths = self._early_deaths + 1 if is_early else 0
        return reason

    def _consider(self, reason: str) -> None:
        """Wait as long as is due before the next start; raise where there is to be none."""
        deaths = self._early_deaths
        reason = reason.partition("\n")[0]
        if deaths >= _MOST_EARLY_DEATHS:
            raise ServerError(
                f"{reason}. It has ended {deaths} times before it was ready or within "
                f"{_EARLY_S:g} s of it, and is not started again. The end of its log, "
                f"{self._options.log_file}:\n{process.last_lines(self._options.log_file)}"
            )
        delay_s = 0 if deaths < 2 else 2 ** (deaths - 2)
        self._reason = reason
        self._restarts += 1
        self._log.say(
            f"{reason}; it is started again {f'in {delay_s} s' if delay_s else 'at once'}"
        )
        self._write("starting")
        end = time.monotonic() + delay_s
        while time.monotonic() < end and not self._signals.is_stopped():
            self._log.copy()
            time.sleep(0.05)

    def _wanted(self) -> list[str]:
        """Return the models to load; those left out, and why, are noted."""
        names = wanted_models(self._options.repository, self._options.models)
        self._left_out = self._options.runtime.left_out(self._options.repository, names)
        for name in names:
            if self._strikes and self._strikes[self._key(name)] >= _STRIKES:
                self._left_out[name] = f"the server died {_STRIKES} times while it was loaded"
            elif self._restarts:  # before the first start, the caller has asked
                with contextlib.suppress(ThresherError):
                    self._left_out |= self._unproven(name)
        wanted = [name for name in names if name not in self._left_out]
        if names and not wanted:
            listed = "; ".join(f"{name}: {why}" for name, why in self._left_out.items())
            raise ServerError(f"no model is left to serve. {listed}")
        return wanted

    def _unproven(self, name: str) -> dict[str, str]:
        """Return why a model must not be loaded, by its name; nothing where it may."""
        try:
            self._published().check_served(name)
        except ParityError as error:
            if not self._options.unproven:
                return {name: str(error)}
            self._log.say(f"serving all the same: {error}")
        return {}

    def _published(self) -> PublishedModels:
        from thresher.published_models import PublishedModels  # imports NumPy, which can wait

        return PublishedModels(self._options.repository)

    def _key(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Return what strikes are counted for: another version gets its own chance."""
        try:
            return name, tuple(self._published().served_versions(name))
        except ThresherError:
            return name, ()

    def _strike(self) -> None:
        """Note which models were being loaded when the server died; load them singly from now."""
        for name in self._loading:
            self._strikes[self._key(name)] += 1
            if self._loads_singly and self._strikes[self._key(name)] >= _STRIKES:
                self._log.say(f"{name} is left out: the server died while it was loaded, again")
                self._early_deaths = 0  # what caused the deaths is out of the way
        self._loads_singly = True

    def _load_singly(self, server: RunningServer, wanted: Sequence[str]) -> None:
        """Load one model after another, so that one which ends the server is known."""
        for name in wanted:
            self._loading = {name}
            thread = threading.Thread(target=_load, args=(server, name, self._options.timeout_s))
            thread.daemon = True
            thread.start()
            while thread.is_alive() and server.is_alive() and not self._signals.is_stopped():
                thread.join(0.05)
            end = time.monotonic() + _ENDING_S
            while server.is_alive() and not _answers(server) and time.monotonic() < end:
                time.sleep(0.05)  # a process that was killed is there a moment longer
            if not server.is_alive():
                raise DiedError(
                    f"the Triton server {process.exit_words(server.pid)} while it loaded {name}"
                )
            if self._signals.is_stopped():
                return
            del self._strikes[self._key(name)]

    def _be_ready(self, server: RunningServer, wanted: Sequence[str], took_s: float) -> None:
        self._loads_singly = False
        for name in wanted if self._strikes else ():
            del self._strikes[self._key(name)]
        if self._was_ready or self._restarts:
            self._log.say(
                f"the Triton server (process {server.pid}) is ready, after {took_s:.1f} s"
            )
            for problem in server.problems:
                self._log.say(f"Warning: {problem}")
            for name, why in self._left_out.items():
                self._log.say(f"Warning: {name} is left out: {why}")
        state = self._write("ready")
        if not self._was_ready:
            self._was_ready = True
            self._on_ready(state)
            self._log.is_copied = True

    def _watch(self, server: RunningServer, ready_at: float) -> None:
        """Return once the server has ended, or is to."""
        health = TextHealth(server, say=self._log.say, check=self._unproven)
        health.start()
        sent: dict[str, int] = {}
        try:
            while server.is_alive() and not self._signals.is_stopped():
                process.hide_shared_memory(server.shared_memory)  # models are loaded later too
                self._log.copy()
                if health.sent != sent:
                    sent = dict(health.sent)
                    self._write("ready", sent)
                if time.monotonic() - ready_at > _EARLY_S:
                    self._early_deaths = 0
                time.sleep(_PERIOD_S)
            if not self._signals.is_stopped() and health.loading:
                self._strikes[self._key(health.loading)] += 1
        finally:
            health.stop()

    def _end_server(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        server.end(timeout_s=_STOP_S if server.is_alive() else 0, is_urgent=self._signals.is_urgent)
        self._log.copy()

    def _write(self, phase: Phase, sent: dict[str, int] | None = None) -> ServerState:
        state = ServerState(
            phase=phase,
            repository=str(self._options.repository),
            server=self._server,
            supervisor=self._me,
            reason=self._reason,
            restarts=self._restarts,
            left_out=dict(self._left_out),
            health_texts=sent or {},
        )
        try:
            write_state(state, self._state_dir)
        except ServerError:
            if not self._was_ready:
                raise  # later, the file names this process already, by which all is found
        return state


def _answers(server: RunningServer) -> bool:
    try:
        return bool(server.models)
    except ServerError:
        return False


def _load(server: RunningServer, name: str, timeout_s: float) -> None:
    with contextlib.suppress(ThresherError):  # what came of it is asked for afterwards
        server.load_model(name, timeout_s=timeout_s)
