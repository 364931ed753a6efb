"""Tables of what `questions.py` found: mean and standard deviation over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from page import put
from real_data import ROOT
from scipy import stats

__all__ = ["QUESTIONS", "Question", "write_tables"]

PAGE = ROOT / "docs" / "questions.md"

Runs = list[dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One table."""

    marker: str
    runs: str
    """The experiment that it is made of."""

    columns: tuple[str, ...]
    digits: int = 3
    gain_of: tuple[str, ...] = ()
    """Columns whose difference from the first row is told too, seed by seed."""

    def table(self, runs: Runs) -> str:
        """Return the table as Markdown, one row per setting."""
        gains = tuple(f"{name}, gain" for name in self.gain_of)
        lines = [
            "| " + " | ".join(("set", "what", *self.columns, *gains)) + " |",
            "| --- | --- |" + " ---: |" * (len(self.columns) + len(gains)),
        ]
        keys = list(dict.fromkeys((run["set"], run["what"]) for run in runs))
        for key in keys:
            mine = _of(runs, key)
            first = next(other for other in keys if other[0] == key[0])
            if self.gain_of and key[1].endswith("+ head"):  # against the same without it
                first = (key[0], key[1].removesuffix(" + head"))
            cells = [self._mean(mine, column) for column in self.columns]
            cells += [
                "-" if key == first else _gain(mine, _of(runs, first), name)
                for name in self.gain_of
            ]
            lines.append("| " + " | ".join((*key, *cells)) + " |")
        seeds = sorted({(run["set"], len(_of(runs, (run["set"], run["what"])))) for run in runs})
        lines += ["", f"Mean ± standard deviation over seeds ({_counts(seeds)})." + _told(gains)]
        return "\n".join(lines)

    def _mean(self, runs: Runs, column: str) -> str:
        values = [run[column] for run in runs if column in run]
        if not values:
            return "-"
        if 0 < max(values) < 10.0 ** -(self.digits + 1):
            return f"{max(values):.0e} at most"
        if len(values) < 2:
            return f"{values[0]:.{self.digits}f}"
        return f"{np.mean(values):.{self.digits}f} ± {np.std(values, ddof=1):.{self.digits}f}"


def _of(runs: Runs, key: tuple[str, str]) -> Runs:
    return [run for run in runs if (run["set"], run["what"]) == key]


def _gain(mine: Runs, first: Runs, column: str) -> str:
    """Return the mean paired difference and its 95 % interval by Student's t."""
    by_seed = {run["seed"]: run[column] for run in first}
    gains = np.array([run[column] - by_seed[run["seed"]] for run in mine])
    if len(gains) < 2:
        return f"{gains.mean():+.3f}"
    half = stats.t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / np.sqrt(len(gains))
    return f"{gains.mean():+.3f} ({gains.mean() - half:+.3f} to {gains.mean() + half:+.3f})"


def _counts(seeds: list[tuple[str, int]]) -> str:
    if len({count for _, count in seeds}) == 1:
        return f"{seeds[0][1]} of them"
    return ", ".join(f"{name}: {count}" for name, count in seeds)


def _told(gains: tuple[str, ...]) -> str:
    if not gains:
        return ""
    return " A gain is the mean difference at the same seed, with its 95 % interval (Student's t)."


QUESTIONS = (
    Question(
        marker="digits",
        runs="digits",
        columns=("accuracy, %", "log loss", "ECE, %"),
        digits=2,
        gain_of=("log loss",),
    ),
    Question(
        marker="losses",
        runs="losses",
        columns=("macro-F1 at 0.5", "macro-F1 at shared", "macro-F1 at tuned", "mAP"),
        gain_of=("macro-F1 at 0.5", "macro-F1 at tuned", "mAP"),
    ),
    Question(
        marker="losses-micro",
        runs="losses",
        columns=("micro-F1 at 0.5", "micro-F1 at shared"),
        gain_of=("micro-F1 at shared",),
    ),
    Question(
        marker="calibration",
        runs="losses",
        columns=("ECE", "ECE less log pos_weight", "ECE after Platt"),
        digits=2,
    ),
    Question(
        marker="correlation",
        runs="correlation",
        columns=(
            "example-F1 at 0.5",
            "subset accuracy at 0.5",
            "micro-F1 at 0.5",
            "macro-F1 at 0.5",
        ),
        gain_of=("example-F1 at 0.5", "subset accuracy at 0.5"),
    ),
    Question(
        marker="correlation-tuned",
        runs="correlation",
        columns=(
            "example-F1 at shared",
            "subset accuracy at shared",
            "micro-F1 at shared",
            "macro-F1 at tuned",
            "mAP",
        ),
        gain_of=("example-F1 at shared", "subset accuracy at shared", "macro-F1 at tuned"),
    ),
    Question(
        marker="soft_margin",
        runs="soft_margin",
        columns=("loss", "gradient", "test logits after training", "decisions that differ"),
    ),
    Question(
        marker="double_sigmoid",
        runs="double_sigmoid",
        columns=(
            "train loss",
            "lowest probability",
            "highest probability",
            "labels said per row",
            "macro-F1 at 0.5",
            "macro-F1 at tuned",
            "mAP",
            "ECE",
        ),
    ),
)


def write_tables(kept: dict[str, Any]) -> None:
    """Put each table between its markers in the page of questions."""
    for question in QUESTIONS:
        if question.runs in kept:
            put(PAGE, question.marker, question.table(kept[question.runs]["runs"]))
