"""Makes a version the one that unversioned requests get, and goes back where anything is wrong.

Until the last step config.pbtxt names the version that served before: a server that is killed in
the middle serves that one again when it is started. What the server is to do meanwhile goes with
the load call.

A model's companions, such as `NAME.text`, ask the version whose number they bear. So they move
while both versions are loaded: after the new one was compared where that is the higher number, and
before it takes the old one's place where it is the lower, since the old one goes with that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from thresher.agreement import Agreement
from thresher.errors import ServerError, ThresherError
from thresher.repository import ModelRepository
from thresher_serving import control
from thresher_serving.connection import Connection
from thresher_serving.own_requests import counted_as_own, requests_begin
from thresher_serving.rollout.companions import leave_companions, serve_companions
from thresher_serving.rollout.configuration import naming, serving_config
from thresher_serving.rollout.golden_rows import GoldenRows
from thresher_serving.rollout.plan import Alias, Progress

__all__ = ["Switch"]

_QUEUED_S = 3.0
"""How long a call is waited for that the server will come to once it has done what it is at."""


@dataclass(kw_only=True)
class Switch:
    """One model's way from what serves to a version that was checked."""

    repository: ModelRepository
    name: str
    version: int
    old: Sequence[int]
    """The versions that are loaded, other than this one."""
    where: Connection
    client: Any
    """A tritonclient gRPC client."""
    timeout_s: float
    """How long a load may take."""
    progress: Progress
    warn: Callable[[str], None]

    is_live: bool = field(default=False, init=False)
    is_side_by_side: bool = field(default=False, init=False)
    """Whether the old version is loaded still when this one is live."""
    have_companions_moved: bool = field(default=False, init=False)
    """Whether companions may ask this version already."""
    live_at: float = field(default=0.0, init=False)
    """When unversioned requests got the version, by the monotonic clock."""

    def run(
        self, golden: GoldenRows | None, alias: Alias | None, *, alias_must_move: bool
    ) -> Agreement | None:
        """Put the version into service; return what its golden rows say as unversioned requests.

        Raises:
            ThresherError: If anything is wrong; what served before serves again, and the message
                says so, or says what could not be done.
        """
        named = self.repository.served_versions(self.name)
        config = serving_config(self.repository, self.name, self.version)
        agreement, undo = None, list[Callable[[], list[str]]]()
        try:
            undo.append(lambda: self._serve_old(config))
            self._make_live(config)
            if golden is not None:
                self.progress("Comparing the golden rows once more, as unversioned requests")
                agreement = self._compare(golden)
            self._move_companions()
            if alias is not None and self._move_alias(alias, must=alias_must_move):
                undo.append(lambda: _tried(alias.move_back, "the alias could not be moved back"))
            unload = f", unloading version {listed(self.old)}" if self.old else ""
            self.progress(f"Writing config.pbtxt{unload}")
            if named:
                undo.append(lambda: self._write_back(named))
            self.repository.serve_versions(self.name, [self.version])
            self._load(self.repository.read_config(self.name))
        except BaseException as error:
            problems = [problem for step in reversed(undo) for problem in step()]
            if not isinstance(error, ThresherError):
                raise
            raise self._failure(error, problems) from None
        self._drain()
        return agreement

    def confirm(
        self, golden: GoldenRows | None, alias: Alias | None, *, alias_must_move: bool
    ) -> Agreement | None:
        """Compare a version that serves already, and move the alias to it.

        Raises:
            ThresherError: If it does not answer as it should, or the alias cannot be moved.
        """
        self.progress(f"{self.name}/{self.version} serves already; comparing its golden rows")
        agreement = None
        if golden is not None:
            agreement = self._compare(golden)
        self._move_companions()
        if alias is not None:
            self._move_alias(alias, must=alias_must_move)
        return agreement

    def _make_live(self, config: Any) -> None:
        name, version, old = self.name, self.version, self.old
        is_higher = bool(old) and version > max(old)
        if is_higher or (old and self.repository.companions(name)):
            then = "; unversioned requests get it when it is ready" if is_higher else ""
            self.progress(f"Loading {name}/{version}{then or f' next to version {listed(old)}'}")
            try:
                self._load_both()
                self.is_side_by_side = True
            except control.LoadTimeoutError:
                raise
            except ServerError as error:
                # the version itself loaded a moment ago, so it is the old one that does not fit
                self.warn(
                    f"version {listed(old)} and version {version} cannot be served side by side, "
                    f"so the new one takes the old one's place: {error}"
                )
        if self.is_side_by_side and not is_higher:
            self._move_companions()
        if not (self.is_side_by_side and is_higher):
            meanwhile = f"; version {listed(old)} answers until it is ready" if old else ""
            self.progress(f"Loading {name}/{version}{meanwhile}")
            self._load(naming(config, [version]))
            self.is_side_by_side = False
        self.is_live, self.live_at = True, time.monotonic()
        requests_begin(self.repository.root, self.where, name, version)

    def _compare(self, golden: GoldenRows) -> Agreement:
        key = self.name, self.version
        with counted_as_own(self.repository.root, self.where, key, golden.num_requests):
            return golden.compare(self.where, self.client, versioned=False)

    def _load_both(self) -> None:
        """Have both versions loaded; unversioned requests get the higher number."""
        versions = [*self.old, self.version]
        config = serving_config(self.repository, self.name, max(versions))
        self._load(naming(config, versions))

    def _move_companions(self) -> None:
        companions = self.repository.companions(self.name)
        if self.have_companions_moved or not companions:
            return
        self.progress(f"Letting {', '.join(companions)} ask version {self.version}")
        self.have_companions_moved = True
        for warning in self._serve_companions(self.version):
            self.warn(warning)

    def _serve_companions(self, version: int) -> list[str]:
        return serve_companions(
            self.repository, self.name, version, self.where, timeout_s=self.timeout_s
        )

    def _load(self, config: Any, *, timeout_s: float | None = None) -> None:
        limit = self.timeout_s if timeout_s is None else timeout_s
        control.load_model(self.where, self.name, timeout_s=limit, config=config)

    def _ready(self) -> list[int]:
        return sorted(control.served(self.where, self.client).get(self.name, []))

    def _move_alias(self, alias: Alias, *, must: bool) -> bool:
        self.progress(f"Moving {alias} to version {self.version}")
        try:
            alias.move(self.version)
        except ThresherError as error:
            if must:
                raise
            self.warn(f"{alias} was not moved: {error}")
            return False
        return True

    def _drain(self) -> None:
        """Wait until the old version has answered what it had taken."""
        if not self.old:
            return
        try:
            control.wait_out_of_service(self.where, self.name, self.old, client=self.client)
        except ServerError as error:
            self.warn(f"the old version is still busy: {error}")

    def _serve_old(self, config: Any) -> list[str]:
        """Let the server serve what it served before; return what could not be done."""
        what = "the server could not be made to go back"
        if not self.old:
            return _tried(self._unload, what)
        self.progress(f"Going back to version {listed(self.old)}")
        problems = self._companions_back() if self.have_companions_moved else []
        return problems + self._serve_old_alone(config, what)

    def _companions_back(self) -> list[str]:
        """Let companions ask the old version, while both are loaded; return what went wrong."""

        def go_back() -> None:
            if not {*self.old, self.version} <= set(self._ready()):
                self._load_both()
            self._serve_companions(max(self.old))

        return _tried(go_back, f"the companions of {self.name} could not be made to go back")

    def _serve_old_alone(self, config: Any, what: str) -> list[str]:
        own = serving_config(self.repository, self.name, max(self.old))
        back = naming(own, self.old)
        if self.is_live:
            if self.is_side_by_side:  # takes no time, as it loads nothing
                at_once = naming(config, self.old)
                _tried(lambda: self._load(at_once), what)
            return _tried(lambda: self._load(back), what)
        try:
            if self._ready() == sorted(self.old) and not self._is_loading():
                return []
            self._load(back, timeout_s=_QUEUED_S)
        except control.LoadTimeoutError:
            self.warn("the server is at the load still; when that ends, it goes back by itself")
        except ThresherError as error:
            return [f"{what}: {error}"]
        return []

    def _is_loading(self) -> bool:
        states = control.model_states(self.where, self.client)
        return any(state.name == self.name and state.state == "LOADING" for state in states)

    def _unload(self) -> None:
        if self._ready():
            self.progress(f"Taking {self.name} out of service again")
            leave_companions(self.repository, self.name, self.version, self.where)
            control.unload_model(self.where, self.name)

    def _write_back(self, named: list[int]) -> list[str]:
        return _tried(
            lambda: self.repository.serve_versions(self.name, named),
            "config.pbtxt could not be written back",
        )

    def _failure(self, error: ThresherError, problems: list[str]) -> ThresherError:
        stays = f"version {listed(self.old)} serves as before" if self.old else "it is not served"
        if problems:
            named = listed(self.repository.served_versions(self.name))
            stays = (
                f"when the server is started again, it serves version {named}, which config.pbtxt "
                f"names ({'; '.join(problems)})"
            )
        return type(error)(
            f"{self.name}/{self.version} was not rolled out; {stays}. Reason: {error}"
        )


def listed(versions: Sequence[int]) -> str:
    """Return versions as a person reads them."""
    return ", ".join(map(str, versions)) or "none"


def _tried(action: Callable[[], object], otherwise: str) -> list[str]:
    """Do something; return what went wrong, if it did."""
    try:
        action()
    except ThresherError as error:
        return [f"{otherwise}: {error}"]
    return []
