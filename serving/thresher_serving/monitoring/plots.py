"""Pictures of drift, drawn without any display and without pyplot's global state."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thresher.figures import figure_text, write_figure
from thresher.observations import feature_edges
from thresher.scores import bin_edges
from thresher_serving.monitoring.drift import Drift, Finding, counts_of
from thresher_serving.monitoring.features import paired_features

__all__ = ["drift_plots"]

_BLUE, _ORANGE, _GREY, _INK = "#1f6fb4", "#d9730d", "#8a8a8a", "#1d2126"
_MOST_RATES = 24
_MOST_HISTOGRAMS = 6
_COLUMNS = 3
_BARS = 40
_LONGEST_NAME = 32

Counts = npt.NDArray[np.int64]


def drift_plots(drift: Drift) -> dict[str, bytes]:
    """Return PNG pictures by name: ``rates``, ``scores`` and, where a feature moved, ``features``.

    Args:
        drift: What was found; the labels that moved most are drawn.
    """
    plots: dict[str, bytes] = {}
    if rates := drift.of("rate")[:_MOST_RATES]:
        plots["rates"] = _rates(drift, rates)
    if drift.window.num_rows:
        plots["scores"] = _scores(drift)
    if features := [finding for finding in drift.of("feature") if finding.moved]:
        plots["features"] = _features(drift, features[:_MOST_HISTOGRAMS])
    return plots


def _rates(drift: Drift, findings: Sequence[Finding]) -> bytes:
    """Draw the differences of rates with their intervals, the largest shift on top."""
    names = [figure_text(finding.name, _LONGEST_NAME) for finding in findings]
    figure = Figure(figsize=(9, 1.5 + 0.3 * len(findings)), layout="constrained")
    axes = figure.subplots()
    for at, finding in enumerate(findings):
        lower, upper = finding.interval or (math.nan, math.nan)
        color = _ORANGE if finding.moved else _GREY
        y = len(findings) - 1 - at
        axes.plot([100 * lower, 100 * upper], [y, y], color=color, lw=2, solid_capstyle="butt")
        axes.plot([100 * (finding.now - finding.before)], [y], "o", color=color, ms=6)
        axes.annotate(
            f"{_percent(finding.before)} → {_percent(finding.now)}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=_INK if finding.moved else _GREY,
        )
    axes.axvline(0, color=_INK, lw=1)
    axes.set_yticks(range(len(findings)), names[::-1])
    axes.set(ylim=(-0.7, len(findings) - 0.3), xlabel="change of the positive rate, in points")
    all_labels = len(drift.window.labels)
    which = "" if len(findings) == all_labels else f", {len(findings)} of {all_labels} labels"
    share = f"intervals that hold together with {1 - drift.alpha / len(drift.num_tests):.2%}"
    axes.set_title(f"Positive rates against validation{which}; {share}", fontsize=11, loc="left")
    _tidy(axes)
    return _png(figure)


def _scores(drift: Drift) -> bytes:
    labels = drift.window.labels
    findings = drift.of("scores")[:_MOST_HISTOGRAMS]
    known, seen = drift.baseline.observations.scores, drift.window.observations.scores
    before_LB, now_LB = counts_of(known), counts_of(seen)
    drawn = [
        (finding, before_LB[labels.index(finding.name)], now_LB[labels.index(finding.name)])
        for finding in findings
    ]
    edges = bin_edges(known.num_bins).astype(np.float64)
    return _histograms(
        drawn, edges, what="logit", title="Scores of the labels with the largest shifts"
    )


def _features(drift: Drift, findings: Sequence[Finding]) -> bytes:
    known, seen = drift.baseline.observations, drift.window.observations
    places = {name: (b, n) for name, b, n in paired_features(known, seen)}
    before_FB, now_FB = counts_of(known.features), counts_of(seen.features)
    drawn = [
        (finding, before_FB[places[finding.name][0]], now_FB[places[finding.name][1]])
        for finding in findings
    ]
    edges = feature_edges(known.features.num_bins)
    return _histograms(drawn, edges, what="value", title="Input features that moved most")


def _histograms(
    drawn: Sequence[tuple[Finding, Counts, Counts]],
    edges_B: npt.NDArray[np.float64],
    *,
    what: str,
    title: str,
) -> bytes:
    """Draw shares of rows: validation filled, the window as a line."""
    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(max(4.5, 3.3 * columns), 0.7 + 2.3 * rows), layout="constrained")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    flat = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes, (finding, before_B, now_B) in zip(flat, drawn, strict=False):
        edges, before, now = _shares(edges_B, before_B, now_B)
        axes.stairs(before, edges, fill=True, color=_GREY, alpha=0.45, label="validation")
        color = _ORANGE if finding.moved else _BLUE
        axes.stairs(now, edges, color=color, lw=1.6, label="window")
        axes.set_title(figure_text(finding.name, _LONGEST_NAME), fontsize=10)
        told = f"shift {finding.shift:+.2f} sd" + ("" if finding.moved else ", within chance")
        axes.annotate(
            told, (0.03, 0.96), xycoords="axes fraction", va="top", fontsize=8, color=color
        )
        axes.set_yticks([])
        axes.set_ylim(0, 1.22 * max(float(before.max()), float(now.max()), 1e-9))
        axes.set_xlabel(what, fontsize=9)
        _tidy(axes)
        axes.spines["left"].set_visible(False)
    for axes in flat[len(drawn) :]:
        axes.set_visible(False)
    flat[0].legend(frameon=False, fontsize=8, loc="upper right")
    return _png(figure)


def _shares(
    edges: npt.NDArray[np.float64], before_B: Counts, now_B: Counts
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return edges of bars, and both samples' densities; what lies outside is in the last bars."""
    both = before_B / max(1, before_B.sum()) + now_B / max(1, now_B.sum())
    cumulative = np.cumsum(both) / max(float(both.sum()), 1e-300)
    first = max(1, int(np.searchsorted(cumulative, 0.002)))
    last = min(len(edges) - 2, int(np.searchsorted(cumulative, 0.998)))
    last = max(first, last)
    # bars of about equal width, each of whole bins
    wanted = np.linspace(edges[first], edges[last + 1], _BARS + 1)
    cuts = np.unique(np.searchsorted(edges, wanted - 1e-9))
    cuts = np.unique(np.clip(cuts, first, last + 1))
    if len(cuts) < 2:
        cuts = np.array([first, last + 1])
    bars = edges[cuts]
    widths = np.diff(bars)

    def density(counts: Counts) -> npt.NDArray[np.float64]:
        inside = np.add.reduceat(counts[: cuts[-1]], cuts[:-1]).astype(np.float64)
        inside[0] += counts[: cuts[0]].sum()
        inside[-1] += counts[cuts[-1] :].sum()
        return np.asarray(inside / max(1, int(counts.sum())) / widths)

    return bars, density(before_B), density(now_B)


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f}%" if rate >= 0.1 or not rate else f"{100 * rate:.2g}%"


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25, axis="x")
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    write_figure(figure, buffer)
    return buffer.getvalue()
