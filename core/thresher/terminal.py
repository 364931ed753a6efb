"""Text that reaches a terminal: what labels, files and servers say is shown, never obeyed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console", "json_text", "printable"]

_UNSAFE = re.compile(
    # C0 (but tab and newline), DEL and C1 move the cursor, hide text or retitle the window
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    # Unicode's Bidi_Control: text would be read in another order than it is stored
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
    # separators of lines and paragraphs; halves of surrogate pairs, which no encoding can write
    "\u2028\u2029\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text in which control characters are escapes; tabs and line ends stay.

    Example:
        >>> print(printable("a\x1b[31m\u202eb"))
        a\x1b[31m\u202eb
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return JSON that says the same and holds no control character, so that a terminal is safe."""
    return _UNSAFE.sub(
        lambda found: f"\\u{ord(found[0]):04x}",
        json.dumps(content, indent=indent, ensure_ascii=False),
    )


def console(*, stderr: bool = False, min_width: int = 0) -> Console:
    """Return a Rich console that takes texts as they are: no markup, emoji codes or controls.

    Style is given by Rich's own objects. Beware of those that read markup out of plain strings on
    their own (`Status`, `TextColumn`): give them a `Text`, or ``markup=False``.

    Args:
        stderr: Whether it prints to stderr.
        min_width: Columns that are there at least where the output is no terminal.
    """
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    class PlainConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            """Yield segments; Rich itself lets ESC in texts through."""
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else printable(text), style, control)

        def render_str(self, text: str, **options: Any) -> Text:
            """Return a text with escapes for controls: they are to be measured with it."""
            return super().render_str(printable(text), **options)

    made = PlainConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = max(made.width, min_width)
    return made


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
