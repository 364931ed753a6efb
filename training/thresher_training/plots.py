"""Pictures of a training run, drawn without any display and without pyplot's global state.

Everything here takes plain arrays and names; nothing needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from thresher.figures import figure_text, write_figure

__all__ = ["label_chart", "picture_sheet", "training_curves"]

_BLUE, _ORANGE, _GREY, _RED, _GREEN = "#1f6fb4", "#d9730d", "#8a8a8a", "#c8102e", "#2e7d32"
_CHARACTERS_PER_INCH = 12.5  # at the 10 points of the lines under a picture


def training_curves(
    epochs: Sequence[int],
    *,
    train_loss: Sequence[float],
    validation_loss: Sequence[float],
    validation_scores: dict[str, Sequence[float]],
    best_epoch: int,
    path: Path,
    learning_rate: Sequence[float] = (),
    gradient_norm: Sequence[float] = (),
) -> None:
    """Write losses, validation scores and the steps by epoch, the kept epoch marked, as PNG.

    Args:
        epochs: Epoch numbers.
        train_loss: By epoch, as all the following.
        validation_loss: On the validation split.
        validation_scores: Scores in [0, 1] by name, such as ``"macro-F1 at 0.5"``.
        best_epoch: The epoch whose weights were kept.
        path: The file.
        learning_rate: At the end of the epoch; not drawn where left out.
        gradient_norm: The mean over the epoch's steps; not drawn where left out.
    """
    steps = {
        name: values
        for name, values in (("learning rate", learning_rate), ("gradient norm", gradient_norm))
        if len(values)
    }
    figure = Figure(figsize=(9 + 4.5 * bool(steps), 3.6), layout="constrained")
    left, right, *more = figure.subplots(1, 2 + bool(steps))
    marker = "o" if len(epochs) <= 40 else ""  # on more epochs they would hide the line
    left.plot(epochs, train_loss, marker=marker, ms=4, color=_BLUE, label="train")
    left.plot(epochs, validation_loss, marker=marker, ms=4, color=_ORANGE, label="validation")
    left.set(title="Loss", xlabel="epoch", yscale="log")
    for color, (name, scores) in zip(
        (_BLUE, _ORANGE, _GREEN, _GREY), validation_scores.items(), strict=False
    ):
        right.plot(epochs, scores, marker=marker, ms=4, color=color, label=name)
    right.set(title="Validation scores", xlabel="epoch", ylim=(-0.02, 1.02))
    for axes in more:
        for color, (name, values) in zip((_BLUE, _ORANGE), steps.items(), strict=False):
            drawn = [value if value > 0 else math.nan for value in values]  # no 0 on a log axis
            axes.plot(epochs, drawn, marker=marker, ms=4, color=color, label=name)
        axes.set(title="Steps", xlabel="epoch", yscale="log")
    for axes in (left, right, *more):
        axes.axvline(best_epoch, color=_GREY, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _tidy(axes)
        axes.legend(frameon=False)
    write_figure(figure, path)


def label_chart(
    labels: Sequence[str],
    supports: Sequence[int],
    *,
    scores: dict[str, Sequence[float]],
    path: Path,
    title: str,
) -> None:
    """Write each label's scores against its support, one marker per name in ``scores``, as PNG.

    Args:
        labels: L names.
        supports: Positives per label.
        scores: Scores in [0, 1] by name, each [L]; at most two, such as F1 at 0.5 and tuned.
        path: The file.
        title: The title.
    """
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    x = np.maximum(np.asarray(supports, dtype=float), 0.8)  # a logarithmic axis has no 0
    columns = [np.asarray(column, dtype=float) for column in scores.values()]
    axes.vlines(x, np.min(columns, axis=0), np.max(columns, axis=0), color=_GREY, alpha=0.5)
    styles = ((_GREY, "o", 34), (_BLUE, "D", 44))
    for (color, marker, size), name, column in zip(styles, scores, columns, strict=False):
        axes.scatter(x, column, s=size, color=color, marker=marker, label=name, zorder=3)
    for at in _spread(x) if len(labels) > 40 else range(len(labels)):
        axes.annotate(
            figure_text(labels[at]),
            (float(x[at]), float(max(column[at] for column in columns))),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
        )
    lowest = min(0.9, float(np.min(columns)))
    room = 1 - lowest
    axes.set(
        title=title,
        xlabel="support: positives of the label",
        ylabel="F1",
        xscale="log",
        ylim=(lowest - 0.08 * room, 1 + 0.12 * room),
    )
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _tidy(axes)
    axes.legend(frameon=False, loc="lower right")
    write_figure(figure, path)


def picture_sheet(
    images: npt.NDArray[np.uint8],
    true_labels: Sequence[Collection[str]],
    predicted_labels: Sequence[Collection[str]],
    path: Path,
    title: str,
) -> None:
    """Write pictures with true and predicted labels as PNG; wrong ones have a red frame.

    Missed labels are bold orange in the line of true labels, false ones bold red in the line of
    predicted labels.

    Args:
        images: uint8 [N, 1 or 3, H, W].
        true_labels: The labels that each picture has.
        predicted_labels: The labels that each picture was given.
        path: The file.
        title: The title.
    """
    height, width = images.shape[2:]
    num_columns = min(len(images), 4 if width >= 2 * height else 5)
    num_rows = math.ceil(len(images) / num_columns)
    cell_width = 2.9 if width >= 2 * height else 2.5
    picture_height = (cell_width - 0.3) * height / width
    cell_height = picture_height + 0.62
    sheet_width = max(cell_width * num_columns, 0.3 + 0.12 * len(title), 3.2)
    sheet_height = cell_height * num_rows + 0.75
    figure = Figure(figsize=(sheet_width, sheet_height))
    num_wrong = sum(set(t) != set(p) for t, p in zip(true_labels, predicted_labels, strict=True))
    figure.text(0.15 / sheet_width, 1 - 0.3 / sheet_height, title, fontsize=13, weight="bold")
    figure.text(
        0.15 / sheet_width,
        1 - 0.55 / sheet_height,
        f"{len(images)} picture{'s' * (len(images) > 1)}, {num_wrong} with a wrong label "
        "(orange: missed, red: not there)",
        fontsize=9.5,
        color=_GREY,
    )
    for at, (image, true, predicted) in enumerate(
        zip(images, true_labels, predicted_labels, strict=True)
    ):
        row, column = divmod(at, num_columns)
        bottom = sheet_height - 0.75 - row * cell_height - picture_height
        axes = figure.add_axes(
            (
                (column * cell_width + 0.15) / sheet_width,
                bottom / sheet_height,
                (cell_width - 0.3) / sheet_width,
                picture_height / sheet_height,
            )
        )
        _draw_picture(axes, image, wrong=set(true) != set(predicted))
        room = cell_width - 0.3
        _write_names(axes, "true", true, other=predicted, color=_ORANGE, width=room, drop_pt=3)
        _write_names(axes, "predicted", predicted, other=true, color=_RED, width=room, drop_pt=17)
    write_figure(figure, path)


def _draw_picture(axes: Axes, image: npt.NDArray[np.uint8], *, wrong: bool) -> None:
    pixels = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, aspect="auto")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=_RED if wrong else "#cccccc", linewidth=3 if wrong else 0.8)


def _write_names(
    axes: Axes,
    heading: str,
    names: Collection[str],
    *,
    other: Collection[str],
    color: str,
    width: float,
    drop_pt: float,
) -> None:
    """Write a line of names below a picture, those that ``other`` lacks in bold colour.

    Where they do not all fit into ``width`` inches, the coloured ones come first and the rest is
    counted.
    """
    room = width * _CHARACTERS_PER_INCH
    shown = _fitting(list(names), room - len(heading))
    if len(shown) < len(names):
        shown = _fitting(sorted(names, key=lambda name: name in other), room - len(heading) - 4)
    parts: list[Artist] = [_text(f"{heading} ", _GREY)]
    parts += [
        _text(figure_text(n), "#222222") if n in other else _text(figure_text(n), color, bold=True)
        for n in shown
    ]
    if not shown:
        parts.append(_text("none", _GREY, italic=True))
    if len(names) > len(shown):
        parts.append(_text(f"+{len(names) - len(shown)}", _GREY))
    line = HPacker(children=parts, align="baseline", pad=0, sep=5)
    axes.add_artist(
        AnnotationBbox(
            line,
            (0, 0),
            xycoords="axes fraction",
            xybox=(0, -drop_pt),
            boxcoords="offset points",
            box_alignment=(0, 1),
            frameon=False,
            pad=0,
            annotation_clip=False,
        )
    )


def _fitting(names: list[str], room: float) -> list[str]:
    """Return the first names that fit into so many characters, a gap after each; at least one."""
    ends = np.cumsum([len(name) + 1 for name in names])
    return names[: max(1, int((ends <= room).sum()))]


def _text(text: str, color: str, *, bold: bool = False, italic: bool = False) -> TextArea:
    style: dict[str, Any] = {
        "color": color,
        "fontsize": 10,
        "fontweight": "bold" if bold else "normal",
        "fontstyle": "italic" if italic else "normal",
    }
    return TextArea(text, textprops=style)


def _spread(x: npt.NDArray[np.float64]) -> list[int]:
    """Return forty positions from the rarest to the commonest label."""
    order = np.argsort(x, kind="stable")
    return [int(order[at]) for at in np.linspace(0, len(order) - 1, 40).astype(int)]


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
