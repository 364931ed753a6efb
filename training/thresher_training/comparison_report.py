"""A comparison of losses as files: the table as CSV and Markdown, and the picture."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from thresher.errors import counted
from thresher_training.comparison_plot import comparison_chart
from thresher_training.spreadsheet import write_csv

if TYPE_CHECKING:
    from thresher_training.comparison import ComparedLoss, Comparison

__all__ = ["METRICS", "cell", "figure_name", "shown_choice", "write_comparison"]

METRICS = {
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "mean_average_precision": "mAP",
    "example_f1": "example-F1",
    "hamming_loss": "Hamming loss",
}
"""What is shown of each loss, by the metric's name."""


def write_comparison(found: Comparison, folder: Path) -> str:
    """Write ``comparison.csv``, ``comparison.md`` and ``comparison.png``; return the Markdown.

    Args:
        found: What was compared.
        folder: An existing folder.
    """
    _write_csv(found, folder / "comparison.csv")
    text = _markdown(found)
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    if found.winner is not None:
        comparison_chart(found, folder / "comparison.png", metrics=METRICS)
    return text


def figure_name(split: str, which: str, metric: str) -> str:
    """Return a figure's name; ranking has no thresholds."""
    return (
        f"{split}/{metric}" if metric == "mean_average_precision" else f"{split}/{which}/{metric}"
    )


def cell(row: ComparedLoss, name: str) -> str:
    """Return a mean and its spread over seeds, such as ``0.4351 ± 0.0042``; empty without any."""
    mean, spread = row.mean(name), row.spread(name)
    if math.isnan(mean):
        return ""
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def shown_choice(found: Comparison) -> str:
    """Return in words what the order is by, such as ``validation macro-F1, tuned thresholds``."""
    metric = METRICS[found.chosen_by.rpartition("/")[2]]
    tuned = ", tuned thresholds" if "/tuned/" in found.chosen_by else ""
    return f"validation {metric}{tuned}"


def _write_csv(found: Comparison, path: Path) -> None:
    """Write a line for each loss and figure."""
    lines = []
    for row in found.losses:
        for split in ("validation", "test"):
            for which in ("at_0.5", "tuned"):
                for metric in METRICS:
                    name = figure_name(split, which, metric)
                    if metric == "mean_average_precision" and which == "tuned":
                        continue  # the same without thresholds
                    numbers = (row.mean(name), row.spread(name))
                    figures = ("" if math.isnan(x) else f"{x:.6f}" for x in numbers)
                    kind = "" if metric == "mean_average_precision" else which
                    count = len(row.figures.get(name, ()))
                    lines.append([row.loss, split, kind, metric, count, *figures])
    columns = ["loss", "split", "thresholds", "metric", "seeds", "mean", "spread"]
    write_csv(path, columns, lines)


def _markdown(found: Comparison) -> str:
    lines = [f"# {found.name}: losses compared", ""]
    if found.winner is None:
        lines += ["No training came to its end.", ""]
    else:
        seeds = len(found.winner.seeds)
        best = f"{cell(found.winner, found.chosen_by)} {shown_choice(found)}"
        count = counted(seeds, "seed")
        lines += [f"Best on validation: **{found.winner.loss}** ({best}, {count})."]
        lines += ["The test split chose nothing. After ±: the standard deviation over seeds.", ""]
        for split in ("validation", "test"):
            for which, words in (("at_0.5", "threshold 0.5"), ("tuned", "tuned thresholds")):
                lines += [f"## {split}, {words}", ""]
                lines += [f"| loss | {' | '.join(METRICS.values())} |"]
                lines += [f"|---|{'---:|' * len(METRICS)}"]
                for row in found.losses:
                    cells = [cell(row, figure_name(split, which, metric)) for metric in METRICS]
                    lines.append(f"| {row.loss} | {' | '.join(cells)} |")
                lines.append("")
    if found.failures:
        lines += ["## Failed", "", *(f"- {failure}" for failure in found.failures), ""]
    return "\n".join(lines)
