"""The tables and lines that `thresher status` shows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from thresher.errors import counted
from thresher.terminal import printable

if TYPE_CHECKING:
    from thresher_serving.rollout import ServerStatus, VersionStatus

__all__ = ["status_table"]

_WIDE = 100
"""Columns from which all figures are shown."""


def status_table(
    found: ServerStatus,
    *,
    width: int,
    every_label: bool = False,
    before: ServerStatus | None = None,
    every_s: float = 0,
) -> Any:
    """Return the status as something that Rich prints.

    Args:
        found: What was read.
        width: Columns of the terminal; a narrow one shows less.
        every_label: Whether to show all labels' rates, not the most telling ones alone.
        before: What was read `every_s` seconds earlier, for rates.
        every_s: 0 for one look only.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    earlier = {_key(each): each for each in before.versions} if before else {}
    rows = []
    for each in found.versions:
        rate = _rate(each, earlier.get(_key(each)), every_s)
        cells = _cells(each, rate, is_wide=width >= _WIDE)
        if not every_s:
            del cells["/s"]
        rows.append(cells)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for column in dict.fromkeys(name for row in rows for name in row):
        if column in {"model", "alias"}:
            table.add_column(column, overflow="fold", min_width=10)
        else:
            justify: Any = "left" if column in {"state", "proof"} else "right"
            table.add_column(column, justify=justify, no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    head = Text(printable(f"{found.server} at {found.url}"), style="bold")
    if every_s:
        head.append(time.strftime("   %H:%M:%S"), style="dim")
    what: list[Any] = [table if rows else Text("No model is loaded")]
    if every_label:
        what += _label_tables(found)
    else:
        what += [
            Text(printable(line)) for line in _label_lines(found, most=5 if width >= _WIDE else 3)
        ]
    warnings = (Text(printable(f"WARNING: {line}"), style="yellow") for line in found.warnings)
    footer = (Text(printable(line), style="dim") for line in _footer(found))
    return Group(head, *what, *warnings, *footer)


def _key(each: VersionStatus) -> tuple[str, int | None]:
    return each.model, each.version


def _label_lines(found: ServerStatus, *, most: int) -> list[str]:
    """Return a line for each version that counts labels: the most frequent ones."""
    lines = []
    for each in found.versions:
        rates = each.positive_rates
        if rates is None:
            continue
        ranked = sorted(rates, key=lambda k: (-rates[k], k))
        shown = [f"{label} {rates[label]:.1%}" for label in ranked[:most]]
        more = f", {len(rates) - most} more (--labels)" if len(rates) > most else ""
        head = f"{each.model}/{each.version}, yes in {counted(each.rows or 0, 'row')}"
        lines.append(f"{head}: {', '.join(shown)}{more}")
    return lines


def _label_tables(found: ServerStatus) -> list[Any]:
    """Return a table for each model whose labels are counted, with a line for each label."""
    from rich import box
    from rich.table import Table

    tables = []
    for model in dict.fromkeys(each.model for each in found.versions if each.positive_rates):
        versions = [e for e in found.versions if e.model == model and e.positive_rates]
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
        table.add_column(f"{model}: yes", overflow="fold")
        for each in versions:
            table.add_column(f"{each.version}, {counted(each.rows or 0, 'row')}", justify="right")
        every = [each.positive_rates or {} for each in versions]
        labels = dict.fromkeys(label for rates in every for label in rates)
        for label in sorted(labels, key=lambda k: (-every[0].get(k, 0.0), k)):
            shown = (rates.get(label) for rates in every)
            table.add_row(label, *("-" if rate is None else f"{rate:.1%}" for rate in shown))
        tables.append(table)
    return tables


def _rate(each: VersionStatus, before: VersionStatus | None, every_s: float) -> str:
    if not every_s or before is None or each.requests is None or before.requests is None:
        return "-"
    return f"{max(0, each.requests - before.requests) / every_s:,.0f}"


def _cells(each: VersionStatus, rate: str, *, is_wide: bool) -> dict[str, Any]:
    """Return a version's cells by column."""
    from rich.text import Text

    state = Text(each.state.lower(), style="yellow")
    if each.serves:
        state = Text("serves", style="bold green")
    elif each.state == "READY":
        state = Text("loaded", style="cyan")
    elif each.state == "UNAVAILABLE":
        state = Text("failed", style="bold red")
    elif each.state == "UNKNOWN":
        state = Text("not loaded", style="dim")
    proof = Text(each.proof or "-", style={"ok": "green", "WRONG": "bold red"}.get(each.proof, ""))
    failed = "-" if each.failures is None else f"{each.failures:,}"
    cells: dict[str, Any] = {
        "model": each.model,
        "version" if is_wide else "ver": "-" if each.version is None else str(each.version),
        "state": state,
        "alias": ", ".join(each.aliases) or "-",
        "proof": proof,
        "requests": _count(each.requests, is_wide=is_wide),
        "/s": rate,
        "failed": Text(failed, style="red" if each.failures else ""),
    }
    cells["mean ms"] = _number(each.mean_ms)
    if is_wide:
        cells["queue ms"] = _number(each.queue_ms)
        cells["batch"] = _number(each.batch_size)
    return cells


def _count(value: int | None, *, is_wide: bool) -> str:
    if value is None:
        return "-"
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if not is_wide and value >= 10 * scale:
            return f"{value / scale:,.0f} {unit}"
    return f"{value:,}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _footer(found: ServerStatus) -> list[str]:
    lines = [found.supervisor] if found.supervisor else []
    serving = {each.model: each.version for each in found.versions if each.serves}
    for name, versions in found.published.items():
        others = [str(version) for version in versions if version != serving.get(name)]
        if others:
            shown = ", ".join(others[-8:])
            back = found.previous.get(name)
            rollback = f"; thresher rollback {name} brings version {back} back" if back else ""
            lines.append(f"{name}: also published: {shown}{rollback}")
    lines += [f"{what} is being checked by a rollout" for what in found.rolling_out]
    lines += [f"{name} is left out: {reason}" for name, reason in found.left_out.items()]
    for each in found.versions:
        version = "" if each.version is None else f" version {each.version}"
        if each.reason:
            lines.append(f"{each.model}{version}: {each.reason}")
    own = [f"{each.model}/{each.version}" for each in found.versions if each.has_own_requests]
    if own:
        lines.append(
            f"requests of {', '.join(own)} may include warm-up: Thresher did not load it, or could "
            "not write to the repository"
        )
    return lines + list(found.notes)
