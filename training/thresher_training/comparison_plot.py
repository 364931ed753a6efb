"""A comparison of losses as a picture: each metric a panel, each loss a line, each seed a dot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from thresher.figures import figure_text, write_figure

if TYPE_CHECKING:
    from thresher_training.comparison import Comparison

__all__ = ["comparison_chart"]

_BLUE, _GREY = "#1f6fb4", "#8a8a8a"


def comparison_chart(found: Comparison, path: Path, *, metrics: Mapping[str, str]) -> None:
    """Write the losses' test figures as PNG, the best on validation on top.

    Args:
        found: What was compared, at least one loss with figures.
        path: The file.
        metrics: Names of metrics to their titles.
    """
    rows = [row for row in found.losses if row.seeds][::-1]  # matplotlib counts upwards
    widest = max(len(row.loss) for row in rows)
    height = 1.7 + 0.42 * len(rows)
    figure = Figure(figsize=(0.08 * widest + 2.55 * len(metrics) + 0.4, height))
    figure.set_layout_engine("constrained", w_pad=0.08)
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    series = (("at_0.5", "threshold 0.5", _GREY, "o", 0.13), ("tuned", "tuned", _BLUE, "D", -0.13))
    for axes, (metric, title) in zip(panels, metrics.items(), strict=True):
        ranked = metric == "mean_average_precision"
        for which, words, color, marker, shift in series[1:] if ranked else series:
            name = f"test/{metric}" if ranked else f"test/{which}/{metric}"
            heights = [at + (0 if ranked else shift) for at in range(len(rows))]
            for at, row in zip(heights, rows, strict=True):
                values = row.figures.get(name, ())
                axes.scatter(values, [at] * len(values), s=9, color=color, alpha=0.45, lw=0)
            means = [row.mean(name) for row in rows]
            axes.scatter(means, heights, s=38, color=color, marker=marker, label=words, zorder=3)
        lower = " (small is good)" if metric == "hamming_loss" else ""
        axes.set_title(f"{title}{lower}", fontsize=10)
        axes.grid(alpha=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8.5, left=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_ylim(-0.6, len(rows) - 0.4)
    panels[0].set_yticks(range(len(rows)), [figure_text(row.loss) for row in rows], fontsize=10)
    handles, words = panels[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(
        f"{found.name}, test split: the best on validation on top; small dots are seeds",
        fontsize=11.5,
        weight="bold",
    )
    write_figure(figure, path)
