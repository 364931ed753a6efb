"""What a job did: counts that add up, rates by label, as JSON and as a page."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from thresher.observations import Observations
from thresher_serving.scoring.folder import REPORT_FILE, REPORT_PAGE, OutputFolder
from thresher_serving.scoring.model import ScoredVersion
from thresher_serving.scoring.page import report_page
from thresher_serving.scoring.tally import Tally

__all__ = ["ScoringReport", "write_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringReport:
    """What became of an input."""

    version: ScoredVersion
    given: str
    """The input, as it was named."""
    output: str
    num_parts: int
    num_taken_over: int
    """Parts that a run before this one had done."""
    num_read_now: int
    """Rows that this run read."""
    tally: Tally
    seconds: float
    """Of this run."""

    @property
    def reject_rate(self) -> float:
        """Rejected rows in those that were read; 0 where none was."""
        return self.tally.num_rejected / max(1, self.tally.num_read)

    @property
    def rows_per_s(self) -> float:
        """Rows that this run read in a second, start and end included."""
        return self.num_read_now / max(self.seconds, 1e-9)

    def to_dict(self, baseline: Observations | None = None) -> dict[str, Any]:
        """Return the report for JSON.

        Args:
            baseline: What was observed in validation; its rates stand beside those of the input.
        """
        tally, decision = self.tally, self.version.decision
        scored = max(1, tally.num_scored)
        labels = []
        for at, name in enumerate(decision.labels):
            count = 0 if tally.seen is None else int(tally.seen.positives_L[at])
            told: dict[str, Any] = {"label": name, "count": count, "rate": count / scored}
            if baseline is not None:
                told["validation_rate"] = int(baseline.positives_L[at]) / max(1, baseline.num_rows)
            labels.append(told)
        return {
            "model": self.version.model.name,
            "version": self.version.model.version,
            "certificate_sha256": self.version.certificate_sha256,
            "input": self.given,
            "output": self.output,
            "parts": self.num_parts,
            "rows": {
                "read": tally.num_read,
                "scored": tally.num_scored,
                "rejected": tally.num_rejected,
            },
            "reject_reasons": dict(tally.reasons.most_common(100)),
            "broken_files": tally.broken,
            "labels": labels,
        }


def _run_before(folder: OutputFolder) -> Any:
    """Return what the report of the run before says of that; None where there is none."""
    try:
        return json.loads(folder.read(REPORT_FILE) or b"{}").get("run")
    except (ValueError, AttributeError):  # another's file, or half of one
        return None


def write_report(
    report: ScoringReport, folder: OutputFolder, baseline: Observations | None
) -> None:
    """Write the report beside the parts.

    A job that was done already keeps the figures of the run that did it.

    Raises:
        PublishError: If it cannot be written.
    """
    content = report.to_dict(baseline)
    content["run"] = {
        "seconds": round(report.seconds, 3),
        "rows_read": report.num_read_now,
        "rows_per_s": round(report.rows_per_s, 1) if report.num_read_now else None,
        "parts_taken_over": report.num_taken_over,
    }
    if report.num_taken_over == report.num_parts:  # nothing was left to do: what did it is kept
        content["run"] = _run_before(folder) or content["run"]
    folder.write(REPORT_PAGE, report_page(content).encode())
    folder.write(REPORT_FILE, json.dumps(content, indent=1, ensure_ascii=False).encode())
