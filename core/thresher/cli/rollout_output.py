"""What `thresher rollout` and `thresher rollback` print."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from thresher.cli.output import print_json, tell
from thresher.errors import ThresherError, counted
from thresher.terminal import console

if TYPE_CHECKING:
    from thresher_serving.rollout import Rollout

__all__ = ["shown_steps", "tell_rollout"]


@contextlib.contextmanager
def shown_steps() -> Iterator[Callable[[str], None]]:
    """Yield a function that begins a step: each stays on the screen, with how long it took."""
    from rich.text import Text

    shown = console(stderr=True)
    current: list[tuple[str, float]] = []
    status = shown.status("") if shown.is_terminal else None

    def finish(mark: str) -> None:
        for text, begin in current:
            seconds = f"{time.monotonic() - begin:6.2f} s"
            shown.print(f"{mark} {seconds}  {text}", soft_wrap=True)
        current.clear()

    def show(text: str) -> None:
        finish("done  ")
        if text.startswith(("WARNING", "No alias")):
            shown.print(text, style="bold yellow", soft_wrap=True)
            return
        current.append((text, time.monotonic()))
        if status:
            status.update(Text(text))

    with status or contextlib.nullcontext():
        try:
            yield show
        except (ThresherError, KeyboardInterrupt):
            finish("failed")
            raise
        finish("done  ")


def tell_rollout(done: Rollout, *, as_json: bool) -> None:
    """Print what a rollout did."""
    if as_json:
        print_json(done.to_dict())
        return
    what, rows = f"{done.name} version {done.version}", _compared(done)
    if not done.is_new:
        tell(f"{what} serves already on {done.server} ({rows})")
        return
    after = "" if done.live_after_s is None else f" after {done.live_after_s:.1f} s"
    before = "" if done.previous is None else f" in place of version {done.previous}"
    tell(f"{what} serves on {done.server}{before}{after} ({rows})")


def _compared(done: Rollout) -> str:
    if done.num_rows is None:
        return "answers were not compared"
    return (
        f"{counted(done.num_rows, 'golden row')}, {counted(done.num_decisions, 'decision')}, "
        f"{counted(done.num_flips, 'flip')}"
    )
