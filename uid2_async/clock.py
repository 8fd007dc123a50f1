"""The current time, and elapsed time, which come from different clocks.

A time that someone else has set, such as the expiry of a token or a key, is compared
with the wall clock: the system's, or the one that a caller passes as ``clock=``. A
duration, such as a pause after a failure or the age of keys, is measured with a
monotonic clock, which nobody can set.

:class:`ClockSkew` estimates the offset between the operator's clock and this machine's.
An operator rejects requests whose time is off by two minutes (docs/protocol.md 1.4).
Each encrypted reply contains the operator's time. That is the more reliable source: a
``Date`` header is neither encrypted nor set by the operator itself, and is used only if
nothing else is known.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Final, TypeAlias

import msgspec

from uid2_async._private import logger
from uid2_async.errors import ClockSkewError
from uid2_async.models import ms_from_datetime

Clock: TypeAlias = Callable[[], datetime]
"""Returns the current time as an aware datetime."""

Monotonic: TypeAlias = Callable[[], float]
"""Returns seconds that only increase. The zero point is arbitrary."""

NS_PER_MS: Final = 1_000_000
# An event loop whose time differs more from the system's has its own clock.
_OWN_CLOCK_SECONDS: Final = 60.0
# The maximum time in which a suspended machine is noticed after it resumes.
_NAP_SECONDS: Final = 60.0
_SAMPLES: Final = 8
# Smaller offsets are not corrected, because two clocks are never exactly the same.
_APPLIED_MS: Final = 5_000
_WARNED_MS: Final = 10_000
_KNOWN_FOR_S: Final = 600.0
_MOST_BY_DATE_MS: Final = 24 * 3600 * 1000
# If this machine's two clocks diverge by more, plus a fraction of the elapsed time,
# the wall clock was set. Less is drift, which the samples follow.
_STEP_MS: Final = 1_000
_DRIFT: Final = 0.05


def system_clock() -> datetime:
    """Return the system's time, or the time of :func:`use_clock`."""
    return datetime.now(UTC) if _in_use is None else _in_use()


_in_use: Clock | None = None


@contextmanager
def use_clock(clock: Clock) -> Iterator[None]:
    """Replace the system's clock with *clock* in all threads, for tests.

    This affects the clients, refreshers and key stores that are created inside the
    block without their own clock.
    """
    global _in_use  # noqa: PLW0603 - a process has only one time
    before, _in_use = _in_use, clock
    try:
        yield
    finally:
        _in_use = before


def clock_in_use() -> Clock | None:
    """Return the clock that replaces the system's, or None."""
    return _in_use


def ns_clock(clock: Clock | None) -> Callable[[], int]:
    """Return the time of *clock*, or of the system, as ns since the Unix epoch.

    The system's is the C function itself, because callers ask for each token.
    """
    chosen = clock or _in_use
    if chosen is None:
        return time.time_ns
    return lambda: ms_from_datetime(chosen()) * NS_PER_MS


def _make_system_monotonic() -> Monotonic:
    """Return the system's monotonic clock that also counts while suspended.

    CLOCK_MONOTONIC stops during suspend on Linux, as does mach_absolute_time on macOS,
    which time.monotonic() reads there. The CLOCK_MONOTONIC of macOS does not.
    """
    number = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    if number is None:
        return time.monotonic  # Windows: does not stop during suspend
    try:
        time.clock_gettime(number)
    except OSError:
        return time.monotonic
    return partial(time.clock_gettime, number)


_system_monotonic: Final[Monotonic] = _make_system_monotonic()


class MonotonicClock:
    """Measures durations, across event loops and outside of them.

    It uses the system's clock, except in an event loop with its own clock, such as one
    for tests that waits in no time.
    """

    def __init__(self) -> None:
        """Use the system's clock until an event loop with its own clock runs."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._read: Monotonic = _system_monotonic
        self._offset = 0.0

    def __call__(self) -> float:
        """Return the seconds since an arbitrary time in the past."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self._read() + self._offset
        if loop is not self._loop:
            self._follow(loop)
        return self._read() + self._offset

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Switch to the clock of *loop*, continuing from the current value."""
        passed = self._read() + self._offset
        is_own = abs(loop.time() - time.monotonic()) > _OWN_CLOCK_SECONDS
        self._loop = loop
        self._read = loop.time if is_own else _system_monotonic
        self._offset = passed - self._read()


def monotonic_of(clock: Clock | None, monotonic: Monotonic | None) -> Monotonic:
    """Return the monotonic clock that belongs to *clock*.

    That is *monotonic* if given, or else the attribute of that name of *clock*, as a
    ManualClock has it, or else the system's.
    """
    chosen = clock or _in_use
    return monotonic or getattr(chosen, "monotonic", None) or MonotonicClock()


def suspend_aware_sleep(monotonic: Monotonic) -> Callable[[float], Awaitable[None]]:
    """Return a sleep that also counts the time while the machine is suspended.

    The event loop's clock does not: a sleep of an hour could take an hour after
    resuming.
    """

    async def sleep(seconds: float) -> None:
        due = monotonic() + seconds
        while (left := due - monotonic()) > 0:  # noqa: ASYNC110 - there is no event
            await asyncio.sleep(min(left, _NAP_SECONDS))

    return sleep


class ClockReading(msgspec.Struct, frozen=True, gc=False):
    """One time, read from both of this machine's clocks.

    Attributes:
        wall_ms: The wall clock, in ms since the Unix epoch. It can be set.
        monotonic_s: The monotonic clock, in seconds. It also counts while the machine
            is suspended, so that the estimate of the operator's clock stays valid.
        ahead_ms: By how much the wall clock is ahead of the monotonic clock, in ms.
        operator_ms: The estimate of the operator's time, in ms since the Unix epoch.
    """

    wall_ms: int
    monotonic_s: float
    ahead_ms: float
    operator_ms: int

    @property
    def offset_s(self) -> float:
        """By how much the operator's clock is ahead, or 0 if that is insignificant."""
        return (self.operator_ms - self.wall_ms) / 1000


class _Sample(msgspec.Struct, frozen=True, gc=False):
    """The time in one reply, relative to the monotonic clock."""

    tolerance_ms: float  # a smaller offset is insignificant
    anchor_ms: float
    ahead_ms: float
    at: float
    sealed: bool


class ClockSkew:
    """Estimates the operator's clock, and returns times that it accepts."""

    def __init__(self, wall_ns: Callable[[], int], monotonic: Monotonic) -> None:
        """Start without samples. *monotonic* is in seconds."""
        self._wall_ns = wall_ns
        self._monotonic = monotonic
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._best: _Sample | None = None
        self._warned = False

    def read(self) -> ClockReading:
        """Read both clocks, and estimate the operator's."""
        wall_ms, monotonic_s = self._wall_ns() // NS_PER_MS, self._monotonic()
        ahead_ms = wall_ms - monotonic_s * 1000
        operator_ms, best = wall_ms, self._best
        if best is not None:
            offset_ms = best.anchor_ms - ahead_ms
            drift_ms = (monotonic_s - best.at) * 1000 * _DRIFT
            # A clock that was set is usually right afterward. If not, the operator
            # rejects it.
            was_set = abs(ahead_ms - best.ahead_ms) > _STEP_MS + drift_ms
            if abs(offset_ms) > best.tolerance_ms and not was_set:
                operator_ms += round(offset_ms)
        return ClockReading(wall_ms, monotonic_s, ahead_ms, operator_ms)

    def observe(
        self,
        sent: ClockReading,
        received: ClockReading,
        server_ms: int,
        *,
        sealed: bool = True,
    ) -> None:
        """Add the time in a reply, as if it was created half-way between the readings.

        A time that is not *sealed*, in an unencrypted reply, replaces all others, and
        the next sealed one replaces it.
        """
        began, ended = sent.monotonic_s, received.monotonic_s
        if not (sealed and self._best and self._best.sealed):
            self._samples.clear()
        sample = _Sample(
            _APPLIED_MS + (ended - began) * 500,
            server_ms - (began + ended) * 500,
            received.ahead_ms,
            ended,
            sealed,
        )
        self._samples.append(sample)
        # Stored, because each call reads it several times. The best one has the
        # shortest round trip.
        best = self._best = min(self._samples, key=attrgetter("tolerance_ms"))
        offset_ms = best.anchor_ms - received.ahead_ms
        if self._warned or not sealed:
            return
        if abs(offset_ms) > max(_WARNED_MS, best.tolerance_ms):
            self._warned = True
            logger.warning("This machine's clock is off by %.0f s", -offset_ms / 1000)

    def on_time_rejected(
        self,
        error: ClockSkewError,
        sent: ClockReading,
        received: ClockReading,
        date_ms: int | None,
    ) -> None:
        """Correct the estimate after the operator rejected a request's time.

        The result is added to *error*. *date_ms* is the ``Date`` header of the
        rejection in ms since the Unix epoch, or None.
        """
        best = self._best
        if best is not None and received.monotonic_s - best.at <= _KNOWN_FOR_S:
            offset = sent.monotonic_s * 1000 + best.anchor_ms - sent.operator_ms
            if abs(offset) > best.tolerance_ms:
                # Kept, although the wall clock has been set since.
                self._best = msgspec.structs.replace(
                    best, ahead_ms=received.ahead_ms, at=received.monotonic_s
                )
                self._samples.clear()
                self._samples.append(self._best)
                error.corrected, error.offset = True, offset / 1000
                return
            error.late = True
        if date_ms is None:
            return
        # How far the request's own time had advanced when the reply was half-way.
        half_way_ms = (received.monotonic_s - sent.monotonic_s) * 500
        offset = date_ms - sent.operator_ms - half_way_ms
        error.offset = offset / 1000
        if _APPLIED_MS < abs(offset) <= _MOST_BY_DATE_MS:
            self.observe(sent, received, date_ms, sealed=False)
            error.corrected, error.late = True, False
