"""What time it is: the system's, or what a caller passes as ``clock=``."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from uid2_async.models import ms_from_datetime

__all__ = ["Clock", "ms_clock", "system_clock"]

Clock: TypeAlias = Callable[[], datetime]
"""Gives the time as an aware datetime."""

_NS_PER_MS = 1_000_000


def system_clock() -> datetime:
    """Tell the system's time."""
    return datetime.now(UTC)


def ms_clock(clock: Clock | None) -> Callable[[], int]:
    """Make a clock in ms since the Unix epoch of *clock*, or of the system's.

    For those who ask for each token: reading the system's time this way costs a tenth
    of what going through a datetime does.
    """
    if clock is None:
        return _system_ms
    return lambda: ms_from_datetime(clock())


def _system_ms() -> int:
    return time.time_ns() // _NS_PER_MS
