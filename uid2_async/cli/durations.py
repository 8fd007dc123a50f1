"""Lengths of time as people write them: 90s, 15m, 12h, 7d."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

import typer

__all__ = ["parse_duration"]

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SHAPE: Final = re.compile(r"([0-9]{1,6})([smhd])", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read a duration.

    Raises:
        typer.BadParameter: If it is none.
    """
    found = _SHAPE.fullmatch(text.strip().lower())
    if found is None:
        raise typer.BadParameter(
            "a number and its unit is needed: s, m, h or d, as in --help"
        )
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
