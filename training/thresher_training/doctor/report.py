"""A diagnosis on paper: JSON for machines, Markdown for people, a picture of the deep checks."""

from __future__ import annotations

import json
import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from thresher.figures import figure_text, write_figure
from thresher_training.doctor.diagnosis import Diagnosis, LayerGradient, RangeTest

__all__ = ["write_diagnosis"]

_BLUE, _ORANGE, _GREY, _RED, _GREEN = "#1f6fb4", "#d9730d", "#8a8a8a", "#c8102e", "#2e7d32"
_MOST_LAYERS = 40


def write_diagnosis(diagnosis: Diagnosis, folder: Path) -> None:
    """Write ``doctor.json`` and ``doctor.md``, and ``doctor.png`` where there is something to draw.

    Args:
        diagnosis: What was found.
        folder: Made where it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(diagnosis.to_json()), indent=2, ensure_ascii=False)
    (folder / "doctor.json").write_text(text + "\n", encoding="utf-8")
    drawn = bool(diagnosis.gradients) or diagnosis.range_test is not None
    (folder / "doctor.md").write_text(_markdown(diagnosis, drawn=drawn), encoding="utf-8")
    if drawn:
        _draw(diagnosis, folder / "doctor.png")


def _finite(value: object) -> object:
    """Return the value with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _markdown(diagnosis: Diagnosis, *, drawn: bool) -> str:
    parts = [f"# {diagnosis.name}: {diagnosis.summary()}"]
    parts += [
        f"## {finding.level}: {finding.code}\n\n{finding.what}\n\n"
        f"- Evidence: {finding.evidence}\n- Fix: {finding.fix}"
        for finding in diagnosis.findings
    ]
    if drawn:
        parts.append("![Learning-rate range test and gradients by layer](doctor.png)")
    return "\n\n".join(parts) + "\n"


def _draw(diagnosis: Diagnosis, path: Path) -> None:
    layers = _chosen(diagnosis.gradients)
    height = max(3.6, 1.4 + 0.2 * len(layers))
    figure = Figure(figsize=(12, height), layout="constrained")
    # the bars grow with the number of layers, the curve does not
    grid = figure.add_gridspec(2, 2, height_ratios=(3.6, height - 3.5))
    left, right = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[:, 1])
    if diagnosis.range_test is not None and diagnosis.range_test.losses:
        _draw_range(left, diagnosis.range_test)
    else:
        left.set_axis_off()
    if layers:
        _draw_gradients(right, layers, of=len(diagnosis.gradients))
    else:
        right.set_axis_off()
    left.grid(alpha=0.25)
    right.grid(alpha=0.25, axis="x")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def _draw_range(axes: Axes, test: RangeTest) -> None:
    axes.plot(test.learning_rates, test.losses, color=_BLUE, label="loss, smoothed")
    if test.low is not None and test.high is not None:
        axes.axvspan(test.low, test.high, color=_GREEN, alpha=0.15, label="the loss falls")
    if test.runaway is not None:
        axes.axvline(test.runaway, color=_RED, linestyle=":", label="the loss runs away")
    axes.axvline(test.recipe_rate, color=_ORANGE, label=f"recipe: {test.recipe_rate:g}")
    axes.set(title="Learning-rate range test", xlabel="learning rate", ylabel="loss", xscale="log")
    axes.legend(frameon=False)


def _draw_gradients(axes: Axes, layers: list[LayerGradient], *, of: int) -> None:
    norms = [layer.gradient_norm for layer in layers]
    alive = [norm for norm in norms if norm > 0 and math.isfinite(norm)]
    least, most = min(alive, default=1e-3), max(alive, default=1.0)
    start = least / 3  # a logarithmic axis has no 0
    places = range(len(layers))
    axes.barh(
        places,
        [(norm if norm in alive else most * 3) - start for norm in norms],
        left=start,
        color=[_BLUE if norm in alive else _RED for norm in norms],
        alpha=0.8,
    )
    for place, norm in zip(places, norms, strict=True):
        if norm not in alive:
            axes.text(least / 2.5, place, "0" if norm == 0 else str(norm), va="center", fontsize=8)
    title = "Largest gradient norm"
    axes.set(
        title=title if len(layers) == of else f"{title}, {len(layers)} of {of} layers",
        xlabel="gradient norm (red: none, or not a number)",
        xscale="log",
        xlim=(start, most * 3),
    )
    axes.set_yticks(list(places), [figure_text(layer.layer) for layer in layers], fontsize=8)
    axes.invert_yaxis()
    axes.margins(y=0.01)


def _chosen(gradients: tuple[LayerGradient, ...]) -> list[LayerGradient]:
    """Return at most so many layers as can be read, in their order: spread, and the worst."""
    if len(gradients) <= _MOST_LAYERS:
        return list(gradients)
    step = (len(gradients) - 1) / (_MOST_LAYERS // 2 - 1)
    kept = {round(k * step) for k in range(_MOST_LAYERS // 2)}
    for at in sorted(range(len(gradients)), key=lambda k: gradients[k].gradient_norm):
        if len(kept) == _MOST_LAYERS:
            break
        kept.add(at)
    return [gradients[at] for at in sorted(kept)]
