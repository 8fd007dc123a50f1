"""Text from outside, made fit for a terminal, a log and a page."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return *text* with everything that is not printable as a backslash escape.

    Control characters would steer a terminal, a line feed would forge a line of a log,
    a bidirectional override would reorder what is read, and the lone surrogates of a
    file name that is not UTF-8 cannot be encoded. ``"\x1b[2J"`` becomes ``r"\x1b[2J"``.
    Spaces of all widths stay.
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) else _escape(char) for char in text)


def _is_harmless(char: str) -> bool:
    """Whether *char* may be shown as it is."""
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _escape(char: str) -> str:
    """Write *char* as a string literal of Python would."""
    return char.encode("unicode_escape").decode("ascii")
