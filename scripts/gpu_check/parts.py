"""What a part is, and which there are: training.py and inference.py define them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["PARTS", "NotRun", "Part", "part"]


class NotRun(Exception):  # noqa: N818 -- it is no error
    """The part cannot be tried here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One check."""

    name: str
    run: Callable[[str], dict[str, Any]]
    """Takes ``"cuda"`` or ``"cpu"``, gives figures, and raises where something is wrong."""
    needs: tuple[str, ...]
    """Modules besides torch and NumPy."""
    limit_s: int

    @property
    def missing(self) -> list[str]:
        """The modules that are not here."""
        return [name for name in self.needs if not _is_there(name)]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:
        return False


PARTS: dict[str, Part] = {}
"""By name, in the order in which they run."""


def part(
    *needs: str, limit_s: int = 60
) -> Callable[[Callable[[str], dict[str, Any]]], Callable[[str], dict[str, Any]]]:
    """Register a function as a part under its own name."""

    def register(run: Callable[[str], dict[str, Any]]) -> Callable[[str], dict[str, Any]]:
        name = run.__name__
        PARTS[name] = Part(name=name, run=run, needs=needs, limit_s=limit_s)
        return run

    return register
