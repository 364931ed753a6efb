"""The picture of a data set's labels: how frequent each is, and which go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from thresher.figures import figure_text, write_figure
from thresher_training.statistics import DataStatistics

__all__ = ["statistics_chart"]

_COLORS = {"train": "#1f6fb4", "validation": "#d9730d", "test": "#8a8a8a"}
_MARKERS = {"train": "o", "validation": "D", "test": "s"}
_NAMED = 40  # labels whose names fit beside an axis
_NUM_NAMED_IN_CURVE = 10
_LONGEST_NAME = 24


def statistics_chart(statistics: DataStatistics, path: Path) -> None:
    """Write label counts, sorted, and the shares of rows that have another label too, as PNG.

    Up to 40 labels are all named; of more, the counts become a curve and the 30 most frequent
    labels make the right half.

    Args:
        statistics: What `thresher_training.statistics.describe` returned.
        path: The file.
    """
    num_labels = len(statistics.labels)
    counts = statistics.splits["train"].positives_L
    order = np.argsort(-counts, kind="stable")
    shown = order[: min(num_labels, 30 if num_labels > _NAMED else _NAMED)]
    height = max(4.2, 1.6 + 0.2 * len(shown))
    figure = Figure(figsize=(6.2 + height + 1.2, height), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(6.2, height + 1.2))
    if num_labels <= _NAMED:
        _named_counts(left, statistics, order)
    else:
        _count_curve(left, statistics, order)
    _together(figure, right, statistics, shown)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    write_figure(figure, path)


def _named_counts(axes: Axes, statistics: DataStatistics, order: npt.NDArray[np.intp]) -> None:
    at = np.arange(len(order))
    for name, split in statistics.splits.items():
        axes.scatter(
            *(np.maximum(split.positives_L[order], 0.7), at),
            *(26, _COLORS[name]),
            marker=_MARKERS[name],
            label=f"{name}, {split.num_rows:,} rows",
        )
    axes.set_yticks(
        at, [figure_text(statistics.labels[i], _LONGEST_NAME) for i in order], fontsize=8.5
    )
    axes.set(ylim=(len(order) - 0.5, -0.5), xlabel="rows with the label", xscale="log")
    axes.set_title("Labels by frequency in train")
    _logarithmic(axes, "x")
    axes.grid(alpha=0.25)


def _count_curve(axes: Axes, statistics: DataStatistics, order: npt.NDArray[np.intp]) -> None:
    rank = np.arange(1, len(order) + 1)
    for name in ("test", "validation", "train"):  # train is drawn on top
        split = statistics.splits[name]
        counts = split.positives_L[order]
        if name == "train":
            axes.plot(rank, np.maximum(counts, 0.7), color=_COLORS[name], linewidth=2, zorder=3)
        else:
            axes.scatter(rank, np.maximum(counts, 0.7), s=4, color=_COLORS[name], alpha=0.6)
        axes.plot(
            [], [], color=_COLORS[name], linewidth=3, label=f"{name}, {split.num_rows:,} rows"
        )
    train = statistics.splits["train"].positives_L[order]
    places = np.unique(np.linspace(0, len(order) - 1, _NUM_NAMED_IN_CURVE).astype(int))
    for at in places:
        axes.annotate(
            figure_text(statistics.labels[order[at]], _LONGEST_NAME),
            (rank[at], max(0.7, train[at])),
            xytext=(2, 5),
            textcoords="offset points",
            rotation=40,  # slanted names keep clear of each other and of the curve
            rotation_mode="anchor",
            fontsize=8.5,
        )
    axes.set_ylim(0.5, 4 * train.max(initial=1))
    axes.set_xlim(-0.02 * len(order), 1.2 * len(order))
    axes.set(xlabel="rank of the label", ylabel="rows with the label", yscale="log")
    axes.set_title(f"{len(order)} labels by frequency in train")
    _logarithmic(axes, "y")
    axes.grid(alpha=0.25)


def _together(
    figure: Figure, axes: Axes, statistics: DataStatistics, shown: npt.NDArray[np.intp]
) -> None:
    counts = statistics.together_LL[np.ix_(shown, shown)].astype(np.float64)
    own = counts.diagonal()[:, None]
    share = np.divide(counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    np.fill_diagonal(share, np.nan)
    highest = np.nanmax(share) if np.isfinite(share).any() else 1.0
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=max(highest, 1e-9))
    axes.set_facecolor("#eeeeee")
    names = [figure_text(statistics.labels[i], _LONGEST_NAME) for i in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=8.5)
    axes.set_xticks(range(len(shown)), names, rotation=90, fontsize=8.5)
    few = len(shown) < len(statistics.labels)
    axes.set_title(
        "Of the rows with the label on the left,\nthe share with the other"
        f"{f' ({len(shown)} most frequent labels)' if few else ''}",
        fontsize=10,
    )
    if len(shown) <= 14:
        for row, column in np.argwhere(np.isfinite(share)):
            value = share[row, column]
            color = "white" if value > 0.6 * highest else "#333333"
            axes.text(
                column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8
            )
    bar = figure.colorbar(picture, ax=axes, shrink=0.7)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))


def _logarithmic(axes: Axes, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 200 else (1.0,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "0"))
    axis.set_minor_formatter(NullFormatter())
