"""This tree against an older commit, in pairs: what both can do, timed in processes of their own.

The older commit is checked out into a temporary git worktree, which is removed afterwards. Within
a pair the two take turns, so that both meet the same machine.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEAST = 0.97
"""The speed that this tree has to keep of the older one's, as the median of the pairs' ratios."""


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """Yield the tree of a commit."""
    with tempfile.TemporaryDirectory(prefix="thresher-before-") as temporary:
        tree = Path(temporary) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), commit],
            cwd=ROOT,
            check=True,
        )
        try:
            yield tree
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True
            )


def seconds_of(tree: Path, program: str, *arguments: str) -> float:
    """Return what a program that prints its seconds as the last line prints, run in a tree."""
    stages = ("core", "training", "export", "serving", "benchmarks")
    path = os.pathsep.join(str(tree / stage) for stage in stages)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def compare(
    name: str, before: Path, program: str, *arguments: str, pairs: int
) -> dict[str, float | str]:
    """Print and return the median of the pairs' ratios, before / now: above 1 is faster now."""
    times = []
    for _ in range(pairs):
        was = seconds_of(before, program, *arguments)
        times.append((was, seconds_of(ROOT, program, *arguments)))
    ratio = statistics.median(was / now for was, now in times)
    was_s, now_s = (statistics.median(pair[at] for pair in times) for at in (0, 1))
    print(
        f"{name:34} before {was_s:7.2f} s, now {now_s:7.2f} s: {ratio:.2f} times as fast, "
        f"median of {pairs} pairs (limit {LEAST})"
    )
    return {"case": name, "before_s": was_s, "now_s": now_s, "ratio": ratio, "pairs": pairs}
