"""Pictures of a decision: its thresholds, what they gain, and whether probabilities hold.

Drawn as in `thresher_training.plots`: no display, no global state, plain values in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from thresher.figures import figure_text, write_figure
from thresher_training.decisions.report import TunedDecision

__all__ = ["f1_chart", "reliability_chart", "threshold_chart"]

_BLUE, _ORANGE, _GREY, _GREEN = "#1f6fb4", "#d9730d", "#8a8a8a", "#2e7d32"
_ORIGINS = {
    "tuned": ("own threshold", _BLUE, "o"),
    "shrunk": ("between own and shared", _GREEN, "D"),
    "shared": ("fell back to the shared one", _ORANGE, "s"),
    "fixed": ("fixed", _GREY, "^"),
}
_MOST_NAMED = 40
_LONGEST_NAME = 28


def threshold_chart(tuned: TunedDecision, path: Path) -> None:
    """Write each label's threshold against its support as PNG, fallbacks marked.

    Args:
        tuned: What tuning found.
        path: The file.
    """
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    supports_L = np.array([row.positives for row in tuned.report], dtype=float)
    x_L = np.maximum(supports_L, 0.8)  # a logarithmic axis has no 0
    thresholds_L = tuned.decision.thresholds.astype(float)
    origins_L = np.array([row.origin for row in tuned.report])
    many = len(x_L) > _MOST_NAMED
    shared = np.unique(tuned.shared.thresholds)
    if len(shared) == 1:
        axes.axhline(float(shared[0]), color=_ORANGE, linestyle="--", linewidth=1.2, zorder=1)
        axes.annotate(
            f"shared: {shared[0]:.3g}",
            (1, float(shared[0])),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=_ORANGE,
        )
    for origin, (name, color, marker) in _ORIGINS.items():
        at = origins_L == origin
        if at.any():
            axes.scatter(
                x_L[at],
                thresholds_L[at],
                s=16 if many else 42,
                alpha=0.6 if many else 1,
                linewidths=0,
                color=color,
                marker=marker,
                label=f"{name} ({int(at.sum())})",
                zorder=3,
            )
    if not many:
        for row, x, y in zip(tuned.report, x_L, thresholds_L, strict=True):
            _name(axes, row.label, float(x), float(y))
    axes.set(
        title=f"Thresholds of {len(x_L)} label{'s' * (len(x_L) > 1)}",
        xlabel="support: positives of the label",
        ylabel="threshold",
        ylim=(-0.03, 1.05),
    )
    _support_axis(axes, x_L)
    _legend_below(figure, markerscale=2 if many else 1)
    write_figure(figure, path)


def f1_chart(
    labels: Sequence[str],
    f1_at_half_L: npt.ArrayLike,
    f1_shared_L: npt.ArrayLike,
    f1_tuned_L: npt.ArrayLike,
    supports_L: npt.ArrayLike,
    path: Path,
) -> None:
    """Write F1 at 0.5, at the shared and at the tuned thresholds as PNG.

    Few labels have a row each, the commonest on top. Many are drawn against their support, with
    the mean of the labels around each support as lines.

    Args:
        labels: L names.
        f1_at_half_L: F1 at 0.5, [L]; NaN is left out, as in the following two.
        f1_shared_L: F1 at the shared threshold, [L].
        f1_tuned_L: F1 at the tuned thresholds, [L].
        supports_L: Positives per label, [L].
        path: The file.
    """
    supports_L = np.asarray(supports_L, dtype=float)
    series = (
        ("at 0.5", np.asarray(f1_at_half_L, dtype=float), _GREY, "o"),
        ("shared threshold", np.asarray(f1_shared_L, dtype=float), _ORANGE, "s"),
        ("tuned thresholds", np.asarray(f1_tuned_L, dtype=float), _BLUE, "D"),
    )
    if len(labels) <= _MOST_NAMED:
        _f1_rows(labels, series, supports_L, path)
    else:
        _f1_by_support(series, supports_L, path)


_Series = tuple[tuple[str, npt.NDArray[np.float64], str, str], ...]


def _f1_rows(
    labels: Sequence[str], series: _Series, supports_L: npt.NDArray[np.float64], path: Path
) -> None:
    order = np.argsort(supports_L, kind="stable")
    figure = Figure(figsize=(8, 1.9 + 0.32 * len(labels)), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(labels))
    columns = np.stack([f1_L[order] for _, f1_L, _, _ in series])
    low, high = np.fmin.reduce(columns), np.fmax.reduce(columns)
    axes.hlines(y, low, high, color=_GREY, alpha=0.4, linewidth=2, zorder=1)
    for (name, f1_L, color, marker), size in zip(series, (38, 38, 48), strict=True):
        axes.scatter(
            f1_L[order], y, s=size, color=color, marker=marker, label=_with_mean(name, f1_L)
        )
    names = [f"{figure_text(labels[at], _LONGEST_NAME)}  ({supports_L[at]:,.0f})" for at in order]
    axes.set(title="F1 by label (positives in brackets)", xlabel="F1", xlim=(-0.02, 1.02))
    axes.set_yticks(y, names)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    _tidy(axes)
    _legend_below(figure)
    write_figure(figure, path)


def _f1_by_support(series: _Series, supports_L: npt.NDArray[np.float64], path: Path) -> None:
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    x_L = np.maximum(supports_L, 0.8)
    groups = np.array_split(np.argsort(x_L, kind="stable"), min(12, len(x_L) // 5))
    centers = [float(np.median(x_L[group])) for group in groups]
    for name, f1_L, color, marker in series:
        left.scatter(x_L, f1_L, s=9, color=color, alpha=0.18, linewidths=0)
        means = [_mean(f1_L[group]) for group in groups]
        left.plot(centers, means, color=color, marker=marker, label=_with_mean(name, f1_L))
        known = np.sort(f1_L[~np.isnan(f1_L)])
        right.plot(known, np.arange(1, len(known) + 1), color=color, linewidth=2)
    left.set(
        title=f"F1 of {len(x_L)} labels, and the mean by support",
        xlabel="support: positives of the label",
        ylabel="F1",
        ylim=(-0.03, 1.03),
    )
    right.set(
        title="Labels up to an F1 (lower is better)",
        xlabel="F1",
        ylabel="labels",
        xlim=(-0.03, 1.03),
        ylim=(0, len(x_L)),
    )
    _support_axis(left, x_L)
    _tidy(right)
    _legend_below(figure)
    write_figure(figure, path)


def reliability_chart(
    curves: Mapping[
        str,
        tuple[npt.NDArray[np.floating], npt.NDArray[np.floating], npt.NDArray[np.integer]],
    ],
    path: Path,
    title: str,
) -> None:
    """Write observed rates against mean probabilities as PNG, with the counts below.

    Args:
        curves: By name, such as "before calibration": for B bins the mean probability, the
            observed rate of positives and the number of values, each [B]. Empty bins are left out.
        path: The file.
        title: The title.
    """
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3.4, 1), sharex=True)
    upper.plot((0, 1), (0, 1), color="#bbbbbb", linestyle="--", linewidth=1.2, zorder=1)
    for at, (name, curve) in enumerate(curves.items()):
        color = (_ORANGE, _BLUE, _GREEN, _GREY)[at % 4]
        marker = ("o", "D", "s", "^")[at % 4]
        mean_B, rate_B, count_B = (np.asarray(values, dtype=float) for values in curve)
        kept = count_B > 0
        mean_B, rate_B, count_B = mean_B[kept], rate_B[kept], count_B[kept]
        total = count_B.sum()
        error = float(np.sum(count_B * np.abs(mean_B - rate_B)) / total) if total else 0.0
        upper.plot(
            mean_B,
            rate_B,
            color=color,
            marker=marker,
            label=f"{name}: off by {error:.2g} on average",
            zorder=2 + at,
        )
        lower.plot(mean_B, count_B, color=color, marker=marker, markersize=4)
    upper.set_title(title, parse_math=False)
    upper.set(ylabel="observed rate of positives", ylim=(-0.02, 1.02))
    lower.set(xlabel="mean probability", ylabel="values", xlim=(-0.02, 1.02), yscale="log")
    if not any(np.asarray(curve[2]).sum() for curve in curves.values()):
        lower.set(yscale="linear")
    for axes in (upper, lower):
        _tidy(axes)
    if curves:
        upper.legend(frameon=False, loc="upper left")
    write_figure(figure, path)


def _name(axes: Axes, label: str, x: float, y: float) -> None:
    axes.annotate(
        figure_text(label, _LONGEST_NAME),
        (x, y),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.6, "linewidth": 0},
        zorder=4,
    )


def _mean(f1_L: npt.NDArray[np.float64]) -> float:
    known = f1_L[~np.isnan(f1_L)]
    return float(known.mean()) if known.size else float("nan")


def _with_mean(name: str, f1_L: npt.NDArray[np.float64]) -> str:
    return f"{name} (mean {_mean(f1_L):.3f})"


def _support_axis(axes: Axes, x_L: npt.NDArray[np.float64]) -> None:
    """Make the horizontal axis logarithmic, with plain numbers."""
    axes.set_xscale("log")
    wide = x_L.max() / x_L.min() > 1000
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(float(x_L.min()) / 1.4, float(x_L.max()) * 1.4)
    _tidy(axes)


def _legend_below(figure: Figure, *, markerscale: float = 1) -> None:
    figure.legend(frameon=False, loc="outside lower center", ncols=3, markerscale=markerscale)


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
