"""Scores files into a folder: a job that can be killed at any moment and run again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from thresher.errors import ServerError
from thresher.observations import Observations
from thresher.tables.address import address_of
from thresher.tables.parts import Part, digest_of, find_parts
from thresher.tables.reading import FILE_COLUMN
from thresher_serving.scoring.engines import Engine
from thresher_serving.scoring.folder import OBSERVATIONS_FILE, OutputFolder
from thresher_serving.scoring.job import Progress, ScoringJob, ScoringOptions
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.report import ScoringReport, write_report
from thresher_serving.scoring.tally import Tally

__all__ = ["Workers", "score_files"]


class Workers(Protocol):
    """Who works on the parts: this process, or the machines of a cluster."""

    def run(
        self, job: ScoringJob, parts: Sequence[Part], folder: OutputFolder, progress: Progress
    ) -> Iterator[tuple[Part, Tally]]:
        """Score parts, in any order; yield each with its counts when it is noted."""
        ...

    def close(self) -> None:
        """Let go of what they hold."""
        ...


@dataclass(frozen=True, slots=True)
class HereWorkers:
    """This process, with one engine."""

    engine: Engine

    def run(
        self, job: ScoringJob, parts: Sequence[Part], folder: OutputFolder, progress: Progress
    ) -> Iterator[tuple[Part, Tally]]:
        """Score parts in their order."""
        yield from job.run(parts, self.engine, folder, progress=progress)

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def score_files(
    version: ScoredVersion,
    *,
    given: str | Path,
    output: str | Path,
    workers: Workers,
    options: ScoringOptions | None = None,
    begun: Callable[[list[Part], int], None] = lambda *_: None,
    progress: Progress = lambda _: None,
) -> ScoringReport:
    """Score files into a folder, or go on where a job that was broken off had come to.

    Args:
        version: The version that scores.
        given: A file, folder, glob or URI of Parquet, Arrow, CSV, NPZ, ARFF or picture files.
        output: The folder; empty, or begun by this very job.
        workers: Who scores.
        options: How files are read and written.
        begun: Called once with the parts to score, and the number of those that are done already.
        progress: Called with the rows that were read since it was called last.

    Raises:
        NotFoundError: If there is no input.
        DataError: If columns do not fit, or the folder holds something else or another job.
        ServerError: If no server answers; run it again to go on.
        PublishError: If the folder cannot be written; run it again to go on.
    """
    options = options or ScoringOptions()
    begin = time.monotonic()
    address = address_of(given)
    parts = find_parts(address)
    if parts[0].form == "pictures" and FILE_COLUMN not in options.form.columns:
        # a row's position says little of which picture it is
        columns = (FILE_COLUMN, *options.form.columns)
        options = dataclasses.replace(
            options, form=dataclasses.replace(options.form, columns=columns)
        )
    job = ScoringJob(version, options, address)
    job.check(parts)
    folder = OutputFolder(address_of(output, must_exist=False))
    with folder.alone():
        goes_on = folder.begin(_identity(version, address.given, parts, options))
        done = folder.done() if goes_on else set()
        left = [part for part in parts if part.name not in done]
        begun(left, len(parts) - len(left))
        num_done, num_read = len(parts) - len(left), 0
        try:
            for _, tally in workers.run(job, left, folder, progress):
                num_done += 1
                num_read += tally.num_read
        except ServerError as error:
            raise ServerError(
                f"{error}. {num_done} of {len(parts)} parts are done and stay; run the same "
                "command again to go on"
            ) from None
        total = Tally()
        for part in parts:  # in their order, whoever was done first; one at a time in memory
            total += folder.tally(part.name)
        report = ScoringReport(
            version=version,
            given=address.given,
            output=folder.address.given,
            num_parts=len(parts),
            num_taken_over=len(parts) - len(left),
            num_read_now=num_read,
            tally=total,
            seconds=time.monotonic() - begin,
        )
        if total.seen is not None:
            folder.write(OBSERVATIONS_FILE, total.seen.to_bytes())
        write_report(report, folder, Observations.baseline(version.file.parent))
    return report


def _identity(
    version: ScoredVersion, given: str, parts: Sequence[Part], options: ScoringOptions
) -> dict[str, Any]:
    """Return what must be the same for a job to go on."""
    return {
        "model": version.model.name,
        "version": version.model.version,
        "decision_sha256": version.decision.digest,
        "certificate_sha256": version.certificate_sha256,
        "input": given,
        "input_sha256": digest_of(parts),
        "options": _plain(dataclasses.asdict(options)),
    }


def _plain(value: Any) -> Any:
    """Return what JSON gives back for it."""
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    return [_plain(held) for held in value] if isinstance(value, list | tuple) else value
