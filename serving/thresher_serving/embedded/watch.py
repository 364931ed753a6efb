"""Notices that a model's backend process died or hangs, and has Triton load the model anew.

Triton never starts such a process again, and goes on saying READY while each request fails. So
health is an inference: where no request of others has succeeded lately, a row of zeros is sent.

A process that has not run for a second (stopped, or starved) is given up by Triton, which frees
the memory that its request lies in. Were it to go on, it would read there what is no request any
more, fault with the memory's lock in its hands, and take Triton down. So it is killed first.

Source: python_backend r24.10, stub_launcher.cc (ReceiveMessageFromStub) and shm_manager.h (Load).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from thresher_serving.client.canary import is_canary, without_canary
from thresher_serving.connection import as_connection
from thresher_serving.embedded.backend_processes import BackendProcesses, Children, num_processes
from thresher_serving.embedded.mending import Mending
from thresher_serving.embedded.probe import Asking, Health, zero_row
from thresher_serving.embedded.state import RunningServer
from thresher_serving.embedded.version_health import Silence, VersionHealth

__all__ = ["Watch"]

_PERIOD_S = 0.25
_PROBE_EVERY_S = 1.0
"""How often a version without traffic is asked for a prediction."""

_CALL_S = 5.0
_SILENT_S = 10.0
"""How long no answer at all is taken for being busy."""

_STALLED_S = 1.0
"""How long a process may not run; Triton gives up one that has a request after that time."""

_LEFT_S = 5.0
"""How long a copy that another one has replaced may take to finish what it is at."""

_OFTEN = (3, 60.0, 10.0)
"""After so many deaths within so many seconds, a version is mended no sooner than after the last:
what kills its process with each request must not keep the machine busy with loading."""


class Watch:
    """Looks after one server's models.

    Args:
        server: The server.
        say: Takes a line for the log.
    """

    def __init__(self, server: RunningServer, say: Callable[[str], None]) -> None:
        self._server = server
        self._say = say
        self._client = as_connection(server.where).open()
        self._children = Children(server.pid)
        self._processes = BackendProcesses(self._children, Path(server.repository))
        self._versions: dict[tuple[str, int], VersionHealth] = {}
        self._mending = Mending(self._client, server.where, Path(server.repository), self._say)
        self._ended: set[tuple[str, int]] = set()
        self._unreachable_since: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Look again and again, until the server ends or it is told to stop."""
        told = ""
        threading.Thread(target=self._guard, args=(stop,), daemon=True).start()
        while not stop.wait(_PERIOD_S) and self._server.is_alive():
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the watch goes on
                if (text := f"the watch itself failed: {error!r}") != told:
                    self._say(text)
                told = text
        self._client.close()

    def _guard(self, stop: threading.Event) -> None:
        """End what does not run, whatever `look` waits for meanwhile."""
        processes = BackendProcesses(self._children, Path(self._server.repository))
        while not stop.wait(_PERIOD_S) and self._server.is_alive():
            processes.look()
            for (name, version), pids in processes.kill_stalled(after_s=_STALLED_S).items():
                self._ended.add((name, version))
                self._say(
                    f"{_called(name, version)}: its backend process {_and(pids)} did not run for "
                    f"{_STALLED_S:g} s (stopped, or starved), and was ended"
                )

    def look(self) -> None:
        """Look once at each version that says READY, and mend what is dead."""
        from tritonclient.utils import InferenceServerException

        try:
            told = self._client.get_inference_statistics(client_timeout=_CALL_S).model_stats
        except InferenceServerException as error:
            self._not_reached(error)
            self._mending.pay()
            return
        self._unreachable_since = None
        # a rollout watches what it loads beside a model, under another name with a dot
        own = (m for m in told if not m.name.startswith(".") or is_canary(m.name))
        ready = {(m.name, int(m.version)): m.inference_stats for m in own}
        for key in self._versions.keys() - ready.keys():
            del self._versions[key]  # unloaded by somebody; what it was is of no use
        self._ended &= ready.keys()  # what is loaded from now on has another process
        new = ready.keys() - self._versions.keys()
        self._processes.look(is_new=bool(new))
        for key in new:
            self._expect(*key)
        for (name, version), stats in sorted(ready.items(), key=lambda item: item[0]):
            self._look_at(name, version, stats.success.count, stats.fail.count)
        for (name, version), pids in self._processes.end_left(after_s=_LEFT_S).items():
            self._say(f"{_called(name, version)}: ended {_and(pids)}, left over from before")
        self._mending.pay()

    def _expect(self, name: str, version: int) -> None:
        """Find out how many processes a version needs: one may have died before the first look."""
        from tritonclient.utils import InferenceServerException

        try:
            told = self._client.get_model_config(name, str(version), client_timeout=_CALL_S)
        except InferenceServerException:
            return  # unloaded by now
        backends = Path(self._server.backend_directory)
        self._processes.expect(name, version, num_processes(told.config, backends))

    def _not_reached(self, error: Any) -> None:
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since = now
        elif now - self._unreachable_since > _SILENT_S:
            self._unreachable_since = float("inf")  # said once is enough
            self._say(f"the server itself has not answered for {_SILENT_S:g} s: {error.message()}")

    def _look_at(self, name: str, version: int, successes: int, failures: int) -> None:
        is_new = (name, version) not in self._versions
        seen = self._versions.setdefault((name, version), VersionHealth())
        succeeded = successes > seen.successes and not is_new
        failed = failures > seen.failures and not is_new
        seen.successes, seen.failures = successes, failures
        if (name, version) in self._ended or self._processes.has_died(name, version):
            self._ended.discard((name, version))  # one of several, perhaps, and the others answer
            health = Health.DEAD
        elif stuck := self._end_stuck(seen, name, version):
            self._died(seen, name, version, stuck)
            return
        elif succeeded and not failed:
            seen.is_well()
            if not self._processes.has_dead():
                self._processes.remember(name, version)
            return
        elif time.monotonic() - seen.probed >= _PROBE_EVERY_S / (2 if failed else 1):
            health = self._probe(seen, name, version, several=failed)
        else:
            return
        if health is Health.DEAD:
            self._died(seen, name, version, "its backend process died")
        elif health is Health.ALIVE or succeeded:
            seen.is_well()
        elif hung := self._hangs(seen, name, version):
            self._died(seen, name, version, hung)

    def _may_wait(self, seen: VersionHealth) -> bool:
        """Return whether a version asks a model that does not answer just now."""
        return any(other.silent for (name, _), other in self._versions.items() if name == seen.asks)

    def _end_stuck(self, seen: VersionHealth, name: str, version: int) -> str:
        """Kill those of several processes that hang while others answer; return what to say."""
        if len(self._processes.pids(name, version)) < 2 or self._may_wait(seen):
            return ""
        stuck = self._processes.stuck(name, version, after_s=self._limit_s(seen))
        if not stuck:
            return ""
        self._processes.kill(name, version, stuck)
        return (
            f"its backend process {_and(stuck)}, one of several, hung for {self._limit_s(seen):g} s"
        )

    def _limit_s(self, seen: VersionHealth) -> float:
        """Return how long a version may hang; errors of what it asks take their time to come."""
        return self._server.hung_s * (2 if seen.asks else 1)

    def _hangs(self, seen: VersionHealth, name: str, version: int) -> str:
        """Kill what has done nothing for long, though asked; return what to say of it."""
        now, cpu_s = time.monotonic(), self._processes.cpu_s(name, version)
        silent = seen.silent = seen.silent or Silence(now, now, cpu_s, now)
        may_wait = self._may_wait(seen)
        if may_wait:
            silent.idle_since = now
        is_idle = silent.is_idle(now, cpu_s) and not may_wait
        pids = self._processes.pids(name, version)
        limit_s = self._limit_s(seen)
        if is_idle and pids and now - silent.idle_since > limit_s:
            self._processes.kill(name, version)
            return f"its backend process {_and(pids)} hung for {now - silent.since:.0f} s"
        if now - silent.since > _SILENT_S and not seen.has_complained:
            seen.has_complained = True
            text = f"{_called(name, version)} has not answered for {_SILENT_S:g} s"
            if is_idle and pids:
                text += f". Its process {_and(pids)} does nothing, and is ended after {limit_s:g} s"
            elif may_wait:
                text += f". It asks {seen.asks}, and is left alone, as it may wait for that"
            elif pids:
                text += (
                    f". Its process {_and(pids)} computes, and is left alone. "
                    f"To have it started anew: kill -9 {' '.join(map(str, pids))}"
                )
            self._say(text)
        return ""

    def _probe(self, seen: VersionHealth, name: str, version: int, *, several: bool) -> Health:
        """Ask for a prediction; several, so that each instance has its turn, if some failed."""
        seen.probed = time.monotonic()
        row = zero_row(self._client, name, version, timeout_s=_CALL_S)
        if row is None:
            return Health.ALIVE
        seen.asks = row.asks
        copies = max(1, len(self._processes.pids(name, version)))
        for _ in range(2 * copies if several else 1):
            health, counted = seen.asking.ask(row, self._client, at_most=copies)
            if health is not Health.ALIVE:
                return health
            seen.successes += counted
        self._processes.remember(name, version)
        return Health.ALIVE

    def _died(self, seen: VersionHealth, name: str, version: int, why: str) -> None:
        most, within_s, pause_s = _OFTEN
        now = time.monotonic()
        seen.deaths = [at for at in seen.deaths if now - at < within_s]
        who, often = _called(name, version), ""
        if len(seen.deaths) >= most:
            often = f", for the {len(seen.deaths) + 1}th time within {within_s:g} s"
            if (left_s := pause_s - (now - seen.deaths[-1])) > 0:
                if not seen.has_complained:
                    self._say(f"{who}: {why}{often}; loading it anew in {left_s:.0f} s")
                seen.has_complained = True
                return
        seen.deaths.append(now)
        seen.has_complained = False
        self._say(f"{who}: {why}{often}; loading it anew")
        old, needed = self._processes.pids(name, version), self._processes.needed(name, version)
        if self._mending.load_anew(name, version, answers=lambda: self._answers(name, version)):
            seen.probed = time.monotonic()
            away_s = seen.probed - (now if seen.well is None else seen.well)
            self._say(f"{who} answers again, after {away_s:.1f} s")
            self._processes.replaced(name, version, old, by=needed)
            seen.is_well()

    def _answers(self, name: str, version: int) -> bool:
        self._processes.bury()
        seen = self._versions.setdefault((name, version), VersionHealth())
        seen.asking = Asking()  # what is under way is at the dead process
        return self._probe(seen, name, version, several=True) is Health.ALIVE


def _called(name: str, version: int) -> str:
    """Return what the log calls a version."""
    canary = f"the canary of {without_canary(name)}," if is_canary(name) else name
    return f"{canary} version {version}"


def _and(pids: Iterable[int]) -> str:
    return " and ".join(map(str, pids))
