"""Labels that go together, as a picture: in the data, in the decisions, and where they part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from thresher.figures import figure_text, write_figure
from thresher_training.cooccurrence import Cooccurrence

__all__ = ["cooccurrence_chart"]

_GREY = "#dddddd"
_NUMBERS_UP_TO = 10  # labels: beyond that numbers in cells cannot be read
_LONGEST_NAME = 22

_Array = npt.NDArray[np.float64]


def cooccurrence_chart(found: Cooccurrence, path: Path, *, at_most: int = 24) -> None:
    """Write heat maps of the most frequent labels' pairs as PNG.

    Left, how much oftener two labels occur together than by chance (one row added to either count,
    so that a pair too rare to tell looks like chance); middle, the same by the model's decisions;
    right, the data against independent labels with the model's probabilities.

    Args:
        found: What `cooccurrence` returned.
        path: The file.
        at_most: How many labels are shown.
    """
    kept_L = np.argsort(-np.diag(found.observed_LL), kind="stable")[:at_most]
    names = [figure_text(found.labels[at], _LONGEST_NAME) for at in kept_L]
    square = np.ix_(kept_L, kept_L)
    count = len(kept_L)
    side = 1.2 + max(2.6, 0.23 * count)
    figure = Figure(figsize=(3 * side + 2.2, side + 1.8), layout="constrained")
    axes = figure.subplots(1, 3)
    lift = _smoothed(found.observed_LL[square], found.chance_LL[square])
    decided = _smoothed(found.predicted_LL[square], found.predicted_chance_LL[square])
    panels = (
        ("in the data", lift, 3.0, "lift, log2: 0 is chance, +1 twice as often"),
        ("in the model's decisions", decided, 3.0, "lift, log2"),
        (
            "data against independent labels",
            found.surprise_LL[square],
            5.0,
            "standard deviations; red: more often than said",
        ),
    )
    for at, (title, values, limit, unit) in enumerate(panels):
        image = _panel(axes[at], values, names, limit=limit, with_names=at == 0)
        axes[at].set_title(title, fontsize=11)
        bar = figure.colorbar(image, ax=axes[at], shrink=0.75, extend="both", location="bottom")
        bar.set_label(unit, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    hidden = len(found.labels) - count
    what = f"the {count} most frequent of {len(found.labels)} labels" if hidden else "all labels"
    figure.suptitle(f"Labels that go together: {what} (grey: no number)", fontsize=12)
    write_figure(figure, path, dpi=110)


def _panel(
    axes: Axes, values: _Array, names: list[str], *, limit: float, with_names: bool
) -> AxesImage:
    values = values.copy()
    np.fill_diagonal(values, np.nan)  # a label with itself
    colors = colormaps["RdBu_r"].with_extremes(bad=_GREY)
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=-limit, vmax=limit)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names if with_names else [], fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(names) <= _NUMBERS_UP_TO:
        for row, column in np.argwhere(~np.isnan(values)):
            value = values[row, column]
            dark = abs(value) > 0.6 * limit
            axes.text(
                column,
                row,
                f"{value:+.1f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    return image


def _smoothed(counts: _Array, chance: _Array) -> _Array:
    """Return log2 of the counts over those by chance, NaN where a label does not occur at all."""
    return np.where(chance > 0, np.log2((counts + 1) / (chance + 1)), np.nan)
