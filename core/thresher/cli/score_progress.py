"""How a scoring job goes: a bar in a terminal, elsewhere lines, for machines JSON."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from thresher.cli.output import emit_json, say
from thresher.errors import counted
from thresher.terminal import console

__all__ = ["shown_progress"]

_LINE_EVERY_S = 10


@contextlib.contextmanager
def shown_progress(
    log_json: bool,
) -> Iterator[tuple[Callable[[list[Any], int], None], Callable[[int], None]]]:
    """Yield what is called when a job begins, and for the rows that are done."""
    shown = console(stderr=True)
    if shown.is_terminal and not log_json:
        with _bar(shown) as both:
            yield both
        return
    state: dict[str, Any] = {"rows": 0, "at": time.monotonic(), "since": time.monotonic()}

    def begun(left: list[Any], done: int) -> None:
        total = _total(left)
        state["since"] = time.monotonic()
        if log_json:
            emit_json("scoring_begun", parts=len(left), parts_done=done, rows=total)
        else:
            rows = "" if total is None else f", {counted(total, 'row')}"
            say(
                f"{counted(len(left), 'part')} to score{rows}" + (f"; done: {done}" if done else "")
            )

    def progress(rows: int) -> None:
        state["rows"] += rows
        now = time.monotonic()
        if now - state["at"] < _LINE_EVERY_S:
            return
        state["at"] = now
        rate = state["rows"] / (now - state["since"])
        if log_json:
            emit_json("scoring_progress", rows=state["rows"], rows_per_s=round(rate))
        else:
            say(f"{counted(state['rows'], 'row')}, {rate:,.0f} rows/s")

    yield begun, progress


@contextlib.contextmanager
def _bar(
    on: Any,
) -> Iterator[tuple[Callable[[list[Any], int], None], Callable[[int], None]]]:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.completed:,} rows"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=on,
        transient=True,
    ) as shown:
        bar = shown.add_task("", total=None, rate="")
        begin = time.monotonic()

        def begun(left: list[Any], done: int) -> None:
            nonlocal begin
            begin = time.monotonic()
            shown.update(bar, total=_total(left))
            if done:
                shown.console.print(f"Done already: {done} of {counted(done + len(left), 'part')}")

        def progress(rows: int) -> None:
            so_far = shown.tasks[0].completed + rows
            rate = so_far / max(time.monotonic() - begin, 1e-3)
            shown.update(bar, advance=rows, rate=f"{rate:,.0f} rows/s")

        yield begun, progress


def _total(parts: list[Any]) -> int | None:
    """Return the rows of some parts, None where only reading tells."""
    known = [part.num_rows for part in parts]
    return None if None in known else sum(known)
