"""One kind of chart, as SVG by hand: values on a logarithmic axis, item by item."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Series", "decades"]

_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP = 62, 14, 22
_MAX_NAMES = 40
_FLOOR = 1e-12
_LETTER = 5.6
"""Width in pixels of a letter of the names' size, about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values of all items with a name and a colour (a CSS class)."""

    name: str
    values: Sequence[float]
    css: str
    is_line: bool = False
    """Drawn as a step through all items instead of dots."""


def decades(
    series: Sequence[Series],
    names: Sequence[str],
    *,
    title: str,
    limit: tuple[str, float] | None = None,
    marked: int | None = None,
) -> str:
    """Return an SVG chart of values over items, with a line for each power of ten.

    Zero is drawn on the lowest line. Names of items stand below where they are few, and in each
    dot's tooltip always.

    Args:
        series: What is drawn, each with a value per item.
        names: Of the items.
        title: What is seen, for those who cannot see it.
        limit: Name and value of a horizontal line, such as a tolerance.
        marked: The item that a vertical line marks.
    """
    values = [v for s in series for v in s.values if _FLOOR < v < math.inf]
    values += [limit[1]] if limit else []
    low = math.floor(math.log10(min(values, default=1e-8)))
    high = max(math.ceil(math.log10(max(values, default=1e-6))), low + 2)
    has_names = len(names) <= _MAX_NAMES
    longest = max((len(name) for name in names), default=0) if has_names else 0
    is_flat = longest * _LETTER < (_WIDTH - _LEFT - _RIGHT) / max(len(names), 1)
    below = 24 if is_flat else 24 + min(longest, 24) * _LETTER * 0.72
    height, bottom = _HEIGHT + below, _TOP + _HEIGHT
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(names), 1)

    def x(item: float) -> float:
        return _LEFT + (item + 0.5) * step

    def y(value: float) -> float:
        place = low if value <= _FLOOR else min(max(math.log10(value), low), high)
        return bottom - (place - low) / (high - low) * _HEIGHT

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {height + _TOP:.0f}" role="img" aria-label="{escape(title)}">'
    ]
    for power in range(low, high + 1, max(1, (high - low) // 8)):
        at = y(10.0**power) if power > -12 else bottom
        label = "0" if power == low and not all(all(s.values) for s in series) else f"1e{power}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{label}</text>'
        )
    if marked is not None:
        parts.append(
            f'<line class="mark" x1="{x(marked):.1f}" x2="{x(marked):.1f}" y1="{_TOP}" '
            f'y2="{bottom}"/>'
        )
    radius = 4.5 if step > 12 else 3 if step > 5 else 2
    for each in series:
        if each.is_line:
            half = step / 2
            points = " ".join(
                f"{x(i) - half:.1f},{y(v):.1f} {x(i) + half:.1f},{y(v):.1f}"
                for i, v in enumerate(each.values)
            )
            parts.append(f'<polyline class="{each.css}" points="{points}"/>')
            continue
        parts += [
            f'<circle class="{each.css}" cx="{x(i):.1f}" cy="{y(v):.1f}" r="{radius}">'
            f"<title>{escape(names[i])}: {escape(each.name)} {v:.3g}</title></circle>"
            for i, v in enumerate(each.values)
        ]
    if limit is not None:
        at = y(limit[1])
        parts.append(
            f'<line class="limit" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" '
            f'y2="{at:.1f}"/><text class="tick limit-text" x="{_WIDTH - _RIGHT}" '
            f'y="{at - 5:.1f}" text-anchor="end">{escape(limit[0])}</text>'
        )
    if has_names and is_flat:
        parts += [
            f'<text class="tick" x="{x(i):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f"{escape(name)}</text>"
            for i, name in enumerate(names)
        ]
    elif has_names:
        parts += [
            f'<text class="tick" text-anchor="end" transform="translate({x(i) + 4:.1f} '
            f'{bottom + 16}) rotate(-40)">{escape(_short(name))}</text>'
            for i, name in enumerate(names)
        ]
    else:
        parts.append(
            f'<text class="tick" x="{_LEFT}" y="{bottom + 18}">'
            f"{len(names):,} from left to right</text>"
        )
    return "".join([*parts, "</svg>"])


def _short(name: str) -> str:
    return name if len(name) <= 24 else f"{name[:23]}…"
