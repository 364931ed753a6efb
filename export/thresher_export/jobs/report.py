"""What came of each version of a job: plain values for JSON, a page of Markdown, counts."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from thresher.durable import replace_durably
from thresher.errors import PublishError, counted

__all__ = ["Cause", "JobReport", "Outcome", "Status", "report_files", "write_report"]

Status = Literal["published", "unchanged", "proven", "skipped", "failed", "stopped", "not reached"]
"""``unchanged``: it had been published meanwhile; ``proven``: nothing was to be published."""

Cause = Literal["refused", "time", "memory", "died", "unexpected"]
"""``refused``: an error that says what to do; ``died``: it took its worker with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one version."""

    name: str
    version: int
    status: Status
    cause: Cause | None = None
    """Why it failed, in one word; None unless it did."""
    reason: str = ""
    """Why it failed, or is published and does not serve, in words."""
    seconds: float = 0.0
    peak_mb: float | None = None
    """The most memory that its worker was seen to hold."""
    reused: int | None = None
    """The published version whose body was taken over."""
    log: str | None = None
    """The file that holds everything that the export printed."""

    @property
    def is_failure(self) -> bool:
        """Whether the version should have been published and is not."""
        return self.status in {"failed", "stopped", "not reached"}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobReport:
    """What came of a job."""

    outcomes: tuple[Outcome, ...]
    started: str
    """UTC, ISO 8601."""
    seconds: float
    num_workers: int
    engine: str
    num_replaced: int = 0
    """Workers that had to be replaced."""
    signal: int | None = None
    """The signal that ended the job early."""

    @property
    def counts(self) -> dict[str, int]:
        """The number of versions by status."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The versions that should have been published and are not."""
        return tuple(outcome for outcome in self.outcomes if outcome.is_failure)

    @property
    def exit_code(self) -> int:
        """0 if all is well, 1 if any failed, 128 and the signal's number if one ended the job."""
        return 128 + self.signal if self.signal else int(bool(self.failures))

    def summary(self) -> str:
        """Return the counts as a sentence."""
        counts = ", ".join(f"{number:,} {status}" for status, number in self.counts.items())
        return f"{counted(len(self.outcomes), 'version')} in {self.seconds:,.1f} s: {counts}"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON."""
        return {
            "ok": self.exit_code == 0,
            "started": self.started,
            "seconds": round(self.seconds, 3),
            "engine": self.engine,
            "workers": self.num_workers,
            "workers_replaced": self.num_replaced,
            "signal": self.signal,
            "counts": self.counts,
            "versions": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }

    def to_markdown(self) -> str:
        """Return the report as a page: failures with reason and log first, then all others."""
        lines = [f"# Export job of {self.started}", "", f"{self.summary()}."]
        if self.signal:
            lines += ["", f"Signal {self.signal} ended it early; the same command goes on."]
        if self.failures:
            lines += ["", "## Failed", "", "| version | why | seconds | reason | log |"]
            lines += ["| --- | --- | ---: | --- | --- |"]
            lines += [
                f"| {_cell(o.name)}/{o.version} | {o.cause or o.status} | {o.seconds:.1f} "
                f"| {_cell(o.reason)} | {_cell(o.log or '')} |"
                for o in self.failures
            ]
        done = [outcome for outcome in self.outcomes if not outcome.is_failure]
        if done:
            lines += ["", "## Done", "", "| version | outcome | seconds |", "| --- | --- | ---: |"]
            lines += [
                f"| {_cell(o.name)}/{o.version} | {o.status}"
                f"{': ' + _cell(o.reason) if o.reason else ''} | {o.seconds:.1f} |"
                for o in done
            ]
        return "\n".join(lines) + "\n"


def report_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a report is written to: by the suffix, or both where it has none."""
    if path.suffix in {".json", ".md"}:
        return (path,)
    return tuple(path.with_name(path.name + suffix) for suffix in (".json", ".md"))


def write_report(report: JobReport, path: Path) -> tuple[Path, ...]:
    """Write a report, whole or not at all, and return its files.

    Raises:
        PublishError: If the disk refuses.
    """
    files = report_files(path)
    try:
        for file in files:
            file.parent.mkdir(parents=True, exist_ok=True)
            text = (
                report.to_markdown()
                if file.suffix == ".md"
                else json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n"
            )
            replace_durably(file, text.encode())
    except OSError as error:
        raise PublishError(
            f"the report cannot be written to {error.filename or path}: {error.strerror}"
        ) from None
    return files


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("\r", " ").replace("\n", "<br>")
