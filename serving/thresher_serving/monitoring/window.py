"""Windows: what was seen of the rows of a job, of a day, or of validation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path, PurePosixPath
from typing import Any

from thresher.errors import DataError, NotFoundError, counted
from thresher.observations import BASELINE_FILE, Observations
from thresher.published_models import PublishedModels
from thresher_serving.scoring.folder import OBSERVATIONS_FILE, REPORT_FILE, OutputFolder
from thresher_serving.scoring.places import Place, place_of

__all__ = ["Window", "merged", "published_baseline", "read_window"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """Some rows that a version scored: those of validation, or those that came later.

    Args:
        name: Where they are from, for people.
        model: The model.
        version: Its version.
        labels: L names.
        observations: What was seen of the rows that were scored.
        num_rejected: Rows that could not be scored.
        notes: What else is to be said of them.

    Raises:
        DataError: If there is no row at all, or the observations are of other labels.
    """

    name: str
    model: str
    version: int
    labels: tuple[str, ...]
    observations: Observations
    num_rejected: int = 0
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.observations.positives_L) != len(self.labels):
            raise DataError(
                f"{self.name}: observations of {len(self.observations.positives_L)} labels, "
                f"expected {len(self.labels)}"
            )
        if not self.num_read:
            raise DataError(f"{self.name}: 0 rows were scored; there is nothing to compare")

    @property
    def num_rows(self) -> int:
        """The rows that were scored."""
        return self.observations.num_rows

    @property
    def num_read(self) -> int:
        """The rows that were scored or rejected."""
        return self.observations.num_rows + self.num_rejected

    @property
    def title(self) -> str:
        """NAME/VERSION."""
        return f"{self.model}/{self.version}"

    def check_alike(self, other: Window) -> None:
        """Raise DataError unless another window is of the same version and labels."""
        if (self.model, self.version) != (other.model, other.version):
            raise DataError(
                f"{other.name} is of {other.title}, {self.name} of {self.title}; expected the "
                "same version"
            )
        if self.labels != other.labels:
            apart = [name for name in other.labels if name not in self.labels][:3]
            told = f" ({', '.join(apart)})" if apart else ", or in another order"
            raise DataError(
                f"{other.name}: {len(other.labels)} labels, {self.name} has {len(self.labels)}, "
                f"others{told}; expected the labels of {self.title}"
            )


def read_window(given: str | Path) -> Window:
    """Return the window that a folder of `thresher score`, or the report in it, tells of.

    Args:
        given: Such as ``scored/2026-03-01``, ``scored/2026-03-01/_report.json`` or
            ``s3://bucket/scored``.

    Raises:
        NotFoundError: If there is no report, or no observations beside it.
        DataError: If one of them cannot be read, they do not fit each other, or no row was read.
    """
    place = place_of(given)
    name = REPORT_FILE
    if not place.is_many:
        name = PurePosixPath(place.root).name
        place = Place(str(PurePosixPath(place.given).parent), place.system, place.parent, True)
    folder = OutputFolder(place)
    content = folder.read(name)
    if content is None:
        raise NotFoundError(
            f"{given}: no {REPORT_FILE}; expected the output folder of a `thresher score` that is "
            "done"
        )
    report = _report(content, where=f"{place}/{name}")
    seen = folder.read(OBSERVATIONS_FILE)
    where = f"{place}/{OBSERVATIONS_FILE}"
    if seen is None and report["scored"]:
        raise NotFoundError(f"{where}: no such file; score the rows again, into a new folder")
    found = Observations.empty(len(report["labels"]))
    if seen is not None:
        found = Observations.from_bytes(seen, where=where)
    if found.num_rows != report["scored"]:
        raise DataError(
            f"{where} tells of {found.num_rows:,} rows, {name} of {report['scored']:,}: they are "
            "not of one job; score the rows again, into a new folder"
        )
    broken = report["broken"]
    return Window(
        name=PurePosixPath(place.root).name if place.given == "." else place.given.rstrip("/"),
        model=report["model"],
        version=report["version"],
        labels=report["labels"],
        observations=found,
        num_rejected=report["rejected"],
        notes=(f"{counted(len(broken), 'file')} could not be read, the first: {broken[0]}",)
        if broken
        else (),
    )


def _report(content: bytes, *, where: str) -> dict[str, Any]:
    """Return what is needed of a report's JSON."""
    try:
        told = json.loads(content)
        rows = told["rows"]
        return {
            "model": str(told["model"]),
            "version": int(told["version"]),
            "labels": tuple(str(row["label"]) for row in told["labels"]),
            "scored": int(rows["scored"]),
            "rejected": int(rows["rejected"]),
            "broken": [str(text) for text in told.get("broken_files", ())],
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{where}: not a report of `thresher score`: {said}") from None


def merged(windows: Sequence[Window], *, name: str | None = None) -> Window:
    """Return one window of all rows of some windows of a version.

    Args:
        windows: At least one.
        name: Its name; made of theirs where left out.

    Raises:
        DataError: If they are of different versions, labels or features.
    """
    first, last = windows[0], windows[-1]
    for other in windows[1:]:
        first.check_alike(other)
    scored = [window.observations for window in windows if window.num_rows]
    return Window(
        name=name or (first.name if first is last else f"{first.name} to {last.name}"),
        model=first.model,
        version=first.version,
        labels=first.labels,
        observations=reduce(add, scored) if scored else first.observations,
        num_rejected=sum(window.num_rejected for window in windows),
        notes=tuple(note for window in windows for note in window.notes),
    )


def published_baseline(repository: Path, model: str, version: int) -> Window:
    """Return the rows of validation as they were seen when a version was published.

    Args:
        repository: The model repository's folder.
        model: The model.
        version: Its version.

    Raises:
        NotFoundError: If the version is not published there, or has no such file.
        DataError: If it cannot be read.
    """
    published = PublishedModels(repository)
    decision = published.decision(model, version)
    folder = published.model_file(model, version).parent
    found = Observations.baseline(folder)
    if found is None:
        raise NotFoundError(
            f"{folder}: no {BASELINE_FILE}; export writes it. Run: thresher export "
            f"models:/{model}/{version}"
        )
    return Window(
        name="validation", model=model, version=version, labels=decision.labels, observations=found
    )
