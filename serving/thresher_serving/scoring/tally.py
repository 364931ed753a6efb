"""What became of the rows of a part: counts that add up, reasons, and what was observed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from thresher.observations import Observations
from thresher.tables.rows import Reject

__all__ = ["Tally"]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts over the rows of one part or of several."""

    num_read: int = 0
    num_scored: int = 0
    num_rejected: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Rejected rows by column and reason."""
    broken: list[str] = field(default_factory=list)
    """Why files were rejected as a whole."""
    seen: Observations | None = None

    def reject(self, rejects: Iterable[Reject]) -> None:
        """Count rows that were rejected."""
        for reject in rejects:
            self.num_rejected += 1
            column = f'"{reject.column}": ' if reject.column else ""
            self.reasons[f"{column}{reject.reason}"] += 1

    def __add__(self, other: Tally) -> Tally:
        """Return the counts of both."""
        seen = self.seen if other.seen is None else other.seen
        if self.seen is not None and other.seen is not None:
            seen = self.seen + other.seen
        return Tally(
            num_read=self.num_read + other.num_read,
            num_scored=self.num_scored + other.num_scored,
            num_rejected=self.num_rejected + other.num_rejected,
            reasons=self.reasons + other.reasons,
            broken=self.broken + other.broken,
            seen=seen,
        )

    def to_json(self) -> str:
        """Return all but the observations."""
        told: dict[str, Any] = {
            "num_read": self.num_read,
            "num_scored": self.num_scored,
            "num_rejected": self.num_rejected,
            "reasons": dict(self.reasons.most_common(1000)),
            "broken": self.broken,
        }
        return json.dumps(told, indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, seen: Observations | None) -> Tally:
        """Return what `to_json` gave, with the observations."""
        told = json.loads(text)
        return cls(**{**told, "reasons": Counter(told["reasons"])}, seen=seen)
