"""Estimate the offset between the operator's clock and this machine's.

An operator rejects requests whose time is off by two minutes (docs/protocol.md 1.4). It
puts its own time into each sealed reply, which is the more reliable source: a ``Date``
header is neither sealed nor set by the operator itself, and is used only if nothing
else is known.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import ClassVar, Final, NamedTuple

from uid2_async.veiled import RedactedRepr

__all__ = ["ClockCorrection", "ClockReading", "ClockSkew"]

logger: logging.Logger = logging.getLogger("uid2_async")

_SAMPLES: Final = 8
# Less is left alone: two clocks are never quite the same.
_APPLIED_MS: Final = 5_000
_WARNED_MS: Final = 10_000
_KNOWN_FOR_S: Final = 600.0
_MOST_BY_DATE_MS: Final = 24 * 3600 * 1000
# When this machine's two clocks part by more, plus a part of the time gone by, the wall
# clock was set. Less is drift, which the samples follow.
_STEP_MS: Final = 1_000
_DRIFT: Final = 0.05


class ClockReading(NamedTuple):
    """One instant, read on both of this machine's clocks.

    Attributes:
        wall_ms: The wall clock, in ms since the Unix epoch; it may be set.
        monotonic_s: A monotonic clock, in seconds. It goes on while the machine is
            suspended, so that what is known of the operator's clock stays right.
    """

    wall_ms: int
    monotonic_s: float

    @property
    def ahead_ms(self) -> float:
        """By how much the wall clock is ahead of the monotonic one."""
        return self.wall_ms - self.monotonic_s * 1000


class _Sample(NamedTuple):
    """One reply's time, relative to the monotonic clock."""

    rtt_ms: float
    anchor_ms: float
    ahead_ms: float
    at: float
    sealed: bool


class ClockCorrection(RedactedRepr, frozen=True, kw_only=True):
    """The result of comparing clocks after the operator rejected a request's time.

    Attributes:
        corrected: Whether the next request will carry a corrected time.
        late: Whether the time was right, so the request must have been slow.
        offset: Seconds by which the operator's clock is ahead of the time that was
            sent. None if unknown.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("corrected", "late", "offset")

    corrected: bool = False
    late: bool = False
    offset: float | None = None


class ClockSkew:
    """Estimates the operator's clock, and returns times that it accepts."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        """Start without samples; *wall_ms* is this machine's clock, in ms."""
        self._wall_ms = wall_ms
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._best: _Sample | None = None
        self._warned = False

    def read(self, monotonic_s: float) -> ClockReading:
        """Read both clocks."""
        return ClockReading(self._wall_ms(), monotonic_s)

    def offset_ms(self, now: ClockReading) -> int:
        """Return what to add to the wall clock: 0 if unknown or insignificant."""
        best = self._best
        if best is None:
            return 0
        drift_ms = (now.monotonic_s - best.at) * 1000 * _DRIFT
        # A clock that was set is usually right now. If not, the operator rejects it.
        if abs(now.ahead_ms - best.ahead_ms) > _STEP_MS + drift_ms:
            return 0
        offset = best.anchor_ms - now.ahead_ms
        return round(offset) if _is_significant(offset, best) else 0

    def time_ms(self, now: ClockReading) -> int:
        """Return the time to put into a request."""
        return now.wall_ms + self.offset_ms(now)

    def observe(
        self, sent: ClockReading, received: ClockReading, server_ms: int
    ) -> None:
        """Add the time in a sealed reply as a sample.

        Args:
            sent: When its request was sealed.
            received: When the reply was read.
            server_ms: The time in the reply.
        """
        if self._best is not None and not self._best.sealed:
            self._forget()
        self._add(sent, received, server_ms, sealed=True)
        if self._warned:
            return
        offset = self.offset_ms(received)
        if abs(offset) > _WARNED_MS:
            self._warned = True
            logger.warning("This machine's clock is off by %.0f s", -offset / 1000)

    def on_time_rejected(
        self,
        sent: ClockReading,
        sent_ms: int,
        received: ClockReading,
        date_ms: int | None,
    ) -> ClockCorrection:
        """Correct the estimate after the operator rejected a request's time.

        Args:
            sent: When it was sealed.
            sent_ms: The time that it carried.
            received: When the rejection was read.
            date_ms: The ``Date`` header of the rejection, in ms, or None.
        """
        best = self._best
        if best is not None and received.monotonic_s - best.at <= _KNOWN_FOR_S:
            offset = sent.monotonic_s * 1000 + best.anchor_ms - sent_ms
            if _is_significant(offset, best):
                self._trust(best, received)
                return ClockCorrection(corrected=True, offset=offset / 1000)
        else:
            best = None
        if date_ms is None:
            return ClockCorrection(late=best is not None)
        # Where the reply was half-way, the request's own time had gone on.
        half_way_ms = (received.monotonic_s - sent.monotonic_s) * 500
        offset = date_ms - sent_ms - half_way_ms
        if not _APPLIED_MS < abs(offset) <= _MOST_BY_DATE_MS:
            return ClockCorrection(late=best is not None, offset=offset / 1000)
        self._forget()
        self._add(sent, received, date_ms, sealed=False)
        return ClockCorrection(corrected=True, offset=offset / 1000)

    def _add(
        self,
        sent: ClockReading,
        received: ClockReading,
        server_ms: int,
        *,
        sealed: bool,
    ) -> None:
        """Add a sample: the reply was made half-way between *sent* and *received*."""
        middle_ms = (sent.monotonic_s + received.monotonic_s) * 500
        sample = _Sample(
            rtt_ms=(received.monotonic_s - sent.monotonic_s) * 1000,
            anchor_ms=server_ms - middle_ms,
            ahead_ms=received.ahead_ms,
            at=received.monotonic_s,
            sealed=sealed,
        )
        lost = self._samples[0] if len(self._samples) == _SAMPLES else None
        self._samples.append(sample)
        # Kept up to date here, since it is asked for several times in each call.
        if self._best is None or self._best is lost:
            self._best = min(self._samples, key=attrgetter("rtt_ms"))
        elif sample.rtt_ms < self._best.rtt_ms:
            self._best = sample

    def _forget(self) -> None:
        """Drop all samples."""
        self._samples.clear()
        self._best = None

    def _trust(self, best: _Sample, now: ClockReading) -> None:
        """Use *best* from now on, although the wall clock was set since."""
        self._forget()
        self._best = best._replace(ahead_ms=now.ahead_ms, at=now.monotonic_s)
        self._samples.append(self._best)


def _is_significant(offset_ms: float, sample: _Sample) -> bool:
    """Return whether an offset exceeds the tolerance and the sample's error."""
    return abs(offset_ms) - sample.rtt_ms / 2 > _APPLIED_MS
