"""Arguments that no list of processes shows."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from thresher_serving.embedded import hidden_arguments
from thresher_serving.embedded.hidden_arguments import start_hidden

SCRIPT = 'echo "$0|$1|$2"; sleep 30'


def started(tmp_path: Path) -> tuple[str, str]:
    """Start a shell with two hidden arguments; return what it saw and what others see."""
    command = ["/bin/sh", "-c", SCRIPT, "--first=(hidden)", "plain", "--second=(hidden)"]
    hidden = {"--first=(hidden)": "--first=s3cret", "--second=(hidden)": "--second=t0psecret"}
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = start_hidden(command, hidden, {"PATH": "/usr/bin:/bin"}, file)
    try:
        while "|" not in log.read_text():
            assert process.poll() is None
        return log.read_text(), " ".join(psutil.Process(process.pid).cmdline())
    finally:
        process.kill()
        process.wait()


def test_the_program_sees_what_others_do_not(tmp_path: Path) -> None:
    seen, shown = started(tmp_path)
    if "ptrace is refused" in seen:
        pytest.skip("ptrace is switched off on this machine")
    assert seen == "--first=s3cret|plain|--second=t0psecret\n"
    assert "s3cret" not in shown
    assert "--first=(hidden)" in shown
    assert "t0psecret" not in shown


def test_where_it_cannot_be_hidden_the_program_starts_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_arguments, "_LAUNCHER", "import sys; sys.exit(77)")
    seen, shown = started(tmp_path)
    assert "ptrace is refused here (exit code 77): the server's key can be seen with ps" in seen
    assert seen.endswith("--first=s3cret|plain|--second=t0psecret\n")
    assert "--first=s3cret" in shown


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log, pytest.raises(OSError, match="No such file"):
        start_hidden(["/nowhere/tritonserver", "x"], {"x": "y"}, {}, log)
