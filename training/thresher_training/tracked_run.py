"""A run of MLflow: opened, closed with the right status, and patient with a store that is away.

An MLflow that is out of reach for a while does not end a training: figures go through an `Outbox`,
and what needs an answer at once (`patiently`) waits for it up to ``THRESHER_MLFLOW_WAIT_S``
seconds, 300 unless set.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from filelock import Timeout

from thresher.errors import ConfigError, NotFoundError, ThresherError, TrainingError
from thresher.mlflow_store import (
    cannot_mend_itself,
    connect,
    explain_failure,
    open_store,
    shown_store,
)
from thresher_training.outbox import UNSENT_FOLDER, Outbox, send_left
from thresher_training.system_metrics import system_metrics

__all__ = ["current_outbox", "patiently", "tracked_run", "wait_s"]

_T = TypeVar("_T")
_WAIT_VARIABLE = "THRESHER_MLFLOW_WAIT_S"
_WAIT_AFTER_FAILURE_S = 30.0

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}

_HTTP_DEFAULTS = {
    # MLflow would block for minutes in one call; here whoever calls tries again
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
}

_outbox: ContextVar[Outbox] = ContextVar("thresher_outbox")
_logger = logging.getLogger("thresher.mlflow")


@contextmanager
def tracked_run(
    experiment: str, *, resume: str | None = None, name: str | None = None
) -> Iterator[str]:
    """Open an MLflow run and give its id; FAILED after an error, KILLED after an interrupt.

    Everything that was logged before an error is in the run. What could not be sent is kept in
    `UNSENT_FOLDER`; what earlier runs left there is sent first.

    Args:
        experiment: The experiment's name; made if it does not exist.
        resume: The id of a run to go on with, instead of a new one.
        name: The run's name; `log_recipe` gives it one too.

    Raises:
        ConfigError: If another process is logging to the run that is to be resumed.
        NotFoundError: If there is no run of the id.
        StoreError: If MLflow's store cannot be opened.
        TrainingError: If MLflow cannot do what it is asked to.
    """
    with ExitStack() as stack:
        stack.enter_context(_environment(_HTTP_DEFAULTS))
        mlflow = open_store()
        stack.enter_context(_termination_raises())
        try:
            if mlflow.active_run() is None:
                _send_left()
            if resume is None:
                outbox = _outbox_of(_start(mlflow, experiment, name))
            else:
                outbox = _go_on(mlflow, resume)
        except mlflow.MlflowException as error:
            raise TrainingError(explain_failure(error)) from error
        run_id = outbox.run_id
        token = _outbox.set(outbox)
        try:
            with system_metrics(run_id, outbox, resumed=resume is not None):
                yield run_id
        except BaseException as error:
            _end_badly(mlflow, outbox, error)
            if isinstance(error, mlflow.MlflowException | OSError):
                said = explain_failure(error)
                if said is not None:
                    raise TrainingError(said) from error
            raise
        else:
            _end(mlflow, outbox, "FINISHED", timeout_s=wait_s())
        finally:
            _outbox.reset(token)


def _start(mlflow: Any, experiment: str, name: str | None) -> str:
    """Start a run and return its id."""
    run = mlflow.start_run(
        experiment_id=_experiment_id(mlflow, experiment),
        nested=mlflow.active_run() is not None,
        run_name=name,
        # MLflow would name the script, by its path on this machine
        tags={"mlflow.source.name": "thresher", "mlflow.source.type": "LOCAL"},
        log_system_metrics=False,
    )
    return str(run.info.run_id)


def _go_on(mlflow: Any, run_id: str) -> Outbox:
    """Start a run again and return its outbox.

    Raises:
        ConfigError: If another process is logging to it.
        NotFoundError: If there is no such run.
    """
    try:
        mlflow.get_run(run_id)
    except mlflow.MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        raise NotFoundError(
            f'MLflow at {shown_store()} has no run "{run_id}"; a run\'s id is on its page'
        ) from None
    outbox = _outbox_of(run_id, resumed=True)
    fluent = mlflow.tracking.fluent
    chosen = fluent._active_experiment_id  # noqa: SLF001 -- a run of another one is refused
    fluent._active_experiment_id = None  # noqa: SLF001
    try:
        nested = mlflow.active_run() is not None
        mlflow.start_run(run_id=run_id, nested=nested, log_system_metrics=False)
    except mlflow.MlflowException:
        outbox.close(0)
        raise
    finally:
        fluent._active_experiment_id = chosen  # noqa: SLF001
    return outbox


def _outbox_of(run_id: str, *, resumed: bool = False) -> Outbox:
    try:
        return Outbox(run_id, UNSENT_FOLDER / run_id, resumed=resumed)
    except Timeout:
        raise ConfigError(f"another process is logging to run {run_id}; end it first") from None
    except OSError as error:
        raise ConfigError(
            f"{UNSENT_FOLDER} cannot be written in the working folder: {error.strerror}; "
            "what is logged is kept there until MLflow has it"
        ) from None


def _experiment_id(mlflow: Any, name: str) -> str:
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # MLflow's pages then show training, and not prompts and agents
        try:
            return str(client.create_experiment(name, tags=_EXPERIMENT_TAGS))
        except mlflow.MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another process was faster
    if experiment.lifecycle_stage != "active":
        raise TrainingError(
            f'the MLflow experiment "{name}" is deleted; restore it or give the recipe another name'
        )
    for key, value in _EXPERIMENT_TAGS.items():
        if key not in experiment.tags:  # made by another program, or by hand
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return str(experiment.experiment_id)


def _end_badly(mlflow: Any, outbox: Outbox, error: BaseException) -> None:
    """End the run as FAILED or KILLED; a store that is gone must not hide the first error."""
    interrupted = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
    failure = "interrupted" if interrupted else f"{type(error).__name__}: {error}"
    with suppress(ThresherError, OSError):
        _end(
            mlflow,
            outbox,
            "KILLED" if interrupted else "FAILED",
            failure=failure[:1000],
            timeout_s=min(_WAIT_AFTER_FAILURE_S, wait_s()),
        )


def _end(mlflow: Any, outbox: Outbox, status: str, *, timeout_s: float, failure: str = "") -> None:
    """End the run after all that waits has been sent.

    Raises:
        TrainingError: If something could not be sent in time.
    """
    outbox.put_end(status, failure)
    arrived = outbox.close(timeout_s)
    with suppress(mlflow.MlflowException):  # the run is off MLflow's stack in any case
        mlflow.end_run(status)
    if arrived:
        return
    kept = UNSENT_FOLDER / outbox.run_id
    _logger.warning(
        "not everything has reached MLflow; the rest is in %s, and the next `thresher train` here "
        "sends it",
        kept,
    )
    raise TrainingError(
        f"{outbox.failure or f'MLflow at {shown_store()} gives no answer'}. It did not take "
        f"everything, tried for up to {timeout_s:g} s; what is missing is kept in {kept}. The next "
        f"`thresher train` in this folder sends it; {_WAIT_VARIABLE} says how long to wait"
    )


def _send_left() -> None:
    """Send what earlier runs could not send, and say how that went."""
    for run_id, arrived in send_left(UNSENT_FOLDER).items():
        if arrived:
            _logger.warning("sent to MLflow what run %s could not send", run_id)
        else:
            _logger.warning(
                "MLflow still does not take what run %s left in %s; delete the folder to give up",
                *(run_id, UNSENT_FOLDER / run_id),
            )


def current_outbox() -> Outbox:
    """Return the outbox of the run that is open here.

    Raises:
        LookupError: If none is.
    """
    return _outbox.get()


def wait_s() -> float:
    """Return how long to wait for an MLflow that is out of reach, in seconds.

    Raises:
        ConfigError: If ``THRESHER_MLFLOW_WAIT_S`` is no such number.
    """
    text = os.environ.get(_WAIT_VARIABLE, "300")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ConfigError(f'{_WAIT_VARIABLE} is "{text}", expected seconds, 0 or more')
    return seconds


@contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, and take them away at the end."""
    added = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM end the block as an interrupt does, unless somebody handles it already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def patiently(call: Callable[[], _T]) -> _T:
    """Return what a call of MLflow returns, tried again while MLflow is out of reach.

    What waits in the run's outbox is sent first, so that a version is registered only by a run
    that has all its figures.

    Args:
        call: Must do no harm when it is repeated.

    Raises:
        TrainingError: If MLflow refuses, or is out of reach for ``THRESHER_MLFLOW_WAIT_S``.
    """
    mlflow = connect()
    timeout_s = wait_s()
    deadline = time.monotonic() + timeout_s
    pause_s = 0.5
    outbox = _outbox.get(None)
    if outbox is not None:
        outbox.flush(timeout_s)
    while True:
        try:
            return call()
        except Exception as error:
            if not _is_out_of_reach(mlflow, error):
                raise
            if time.monotonic() + pause_s > deadline:
                raise TrainingError(
                    f"MLflow at {shown_store()} is out of reach for {timeout_s:g} s: {error}"
                ) from error
            _logger.warning("MLflow at %s does not answer; waiting for it", shown_store())
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 15.0)


def _is_out_of_reach(mlflow: Any, error: Exception) -> bool:
    """Tell a store that cannot be reached from one that refuses, by what MLflow and S3 raise."""
    if cannot_mend_itself(error):
        return False
    if isinstance(error, mlflow.MlflowException):
        # MLflow's client gives a failed connection no code of its own
        return error.error_code in {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}
    if type(error).__module__.partition(".")[0] in {"requests", "urllib3"}:
        return True
    return type(error).__name__ in {"EndpointConnectionError", "S3UploadFailedError"}
