"""Names in pictures: whatever a label is called, a figure shows it and can be written."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from thresher.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figure_text", "write_figure"]


def figure_text(name: str, longest: int | None = None) -> str:
    r"""Return a name as Matplotlib shows it: on one line, no formula, no control characters.

    Two dollar signs in a text are a formula to Matplotlib, which fails on one that it cannot read.

    Args:
        name: The name of a label, a layer or a loss.
        longest: The most characters that are shown; a longer name is cut.

    Example:
        >>> print(figure_text("$5 to\n$10"))
        \$5 to \$10
    """
    line = printable(" ".join(name.split()))
    if longest is not None and len(line) > longest:
        line = f"{line[: longest - 1]}…"
    return line.replace("$", r"\$")


def write_figure(figure: Figure, target: Any, *, dpi: int = 120) -> None:
    """Write a figure as PNG.

    Args:
        figure: The figure.
        target: A path, or a file that is open for bytes.
        dpi: Its resolution.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # a character that the font lacks is drawn as a box; names in CSV files hold it
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        figure.savefig(target, dpi=dpi, format="png")
