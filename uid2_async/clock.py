"""What time it is, and how much time has passed: two questions, two clocks.

An instant that somebody else has set, such as the expiry of a token or a key, is
compared with the wall clock: the system's, or what a caller passes as ``clock=``. A
duration, such as a pause after a failure or the age of keys, is measured by a monotonic
clock, which no one can set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final, TypeAlias

from uid2_async.models import ms_from_datetime

__all__ = [
    "Clock",
    "Monotonic",
    "MonotonicClock",
    "clock_in_use",
    "monotonic_of",
    "ms_clock",
    "sleep_by",
    "system_clock",
    "use_clock",
]

Clock: TypeAlias = Callable[[], datetime]
"""Gives the time as an aware datetime."""

Monotonic: TypeAlias = Callable[[], float]
"""Gives seconds that only increase; what is zero does not matter."""

_NS_PER_MS = 1_000_000
# An event loop whose time differs by more from the system's has a clock of its own.
_OWN_CLOCK_SECONDS: Final = 60.0
# A suspended machine is noticed this many seconds after it resumes, at the latest.
_NAP_SECONDS: Final = 60.0


def system_clock() -> datetime:
    """Return the system's time, or that of :func:`use_clock`."""
    return datetime.now(UTC) if _in_use is None else _in_use()


_in_use: Clock | None = None


@contextmanager
def use_clock(clock: Clock) -> Iterator[None]:
    """Let *clock* take the place of the system's in all threads: for tests.

    Clients, refreshers and key stores go by it that are made inside of the block and
    are given no clock of their own.
    """
    global _in_use  # noqa: PLW0603 - a process has one time
    before, _in_use = _in_use, clock
    try:
        yield
    finally:
        _in_use = before


def clock_in_use() -> Clock | None:
    """Return the clock that takes the place of the system's, if one does."""
    return _in_use


def ms_clock(clock: Clock | None) -> Callable[[], int]:
    """Return a clock in ms since the Unix epoch of *clock*, or of the system's.

    For those who ask for each token: reading the system's time this way costs a tenth
    of what going through a datetime does.
    """
    chosen = clock or _in_use
    if chosen is None:
        return _system_ms
    return lambda: ms_from_datetime(chosen())


def _system_ms() -> int:
    return time.time_ns() // _NS_PER_MS


def _make_system_monotonic() -> Monotonic:
    """Return the system's monotonic clock, one that goes on during suspend.

    CLOCK_MONOTONIC stops then on Linux, as does mach_absolute_time on macOS, which is
    what time.monotonic() reads there; its CLOCK_MONOTONIC does not.
    """
    number = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    if number is None:
        return time.monotonic  # Windows: it goes on during suspend
    try:
        time.clock_gettime(number)
    except OSError:
        return time.monotonic
    return lambda: time.clock_gettime(number)


_system_monotonic: Final[Monotonic] = _make_system_monotonic()


class MonotonicClock:
    """Measures durations, across event loops and outside of them.

    It is the system's clock, except in an event loop that has a clock of its own, such
    as one for tests in which waiting takes no time.
    """

    def __init__(self) -> None:
        """Measure by the system's clock until an event loop says otherwise."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read: Monotonic = _system_monotonic
        self._offset = 0.0

    def __call__(self) -> float:
        """Return the seconds since some instant in the past."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._read() + self._offset
        if loop is not self._loop:
            self._follow(loop)
        return self._read() + self._offset

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Go on by the clock of *loop*, from where this clock is."""
        passed = self._read() + self._offset
        is_own = abs(loop.time() - time.monotonic()) > _OWN_CLOCK_SECONDS
        self._loop = loop
        self._read = loop.time if is_own else _system_monotonic
        self._offset = passed - self._read()


def monotonic_of(clock: Clock | None, monotonic: Monotonic | None) -> Monotonic:
    """Return what measures durations beside *clock*.

    That is *monotonic* if given, or what *clock* has under that name, as a ManualClock
    does, or a clock that cannot be set.
    """
    chosen = clock or _in_use
    return monotonic or getattr(chosen, "monotonic", None) or MonotonicClock()


def sleep_by(monotonic: Monotonic) -> Callable[[float], Awaitable[None]]:
    """Return a sleep that counts the time in which the machine was suspended.

    The event loop's clock does not: an hour's sleep would take an hour after resuming.
    """

    async def sleep(seconds: float) -> None:
        due = monotonic() + seconds
        while (left := due - monotonic()) > 0:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(min(left, _NAP_SECONDS))

    return sleep
