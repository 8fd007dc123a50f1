"""How far the operator's clock is from this machine's, and what to do about it.

An operator refuses requests whose time is off by two minutes (docs/protocol.md 1.4),
and tells its own time inside of each sealed reply. That is the better witness: a
``Date`` header is neither sealed nor sent by the operator itself, and serves only where
nothing else is known.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from operator import attrgetter
from typing import ClassVar, Final, NamedTuple

from uid2_async.veiled import Veiled

__all__ = ["ClockSkew", "Remedy", "Stamp"]

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


class Stamp(NamedTuple):
    """One instant on this machine's two clocks.

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
    """What one reply said: the operator's clock against the monotonic one."""

    rtt_ms: float
    anchor_ms: float
    ahead_ms: float
    at: float
    sealed: bool


class Remedy(Veiled, frozen=True, kw_only=True):
    """What is known after the operator refused the time of a request.

    Attributes:
        corrected: Whether the next request will carry a better time.
        late: Whether the time was right, so that the request must have been slow.
        offset: By how many seconds the operator's clock is ahead of the time that was
            sent; None where nobody knows.
    """

    shown: ClassVar[tuple[str, ...]] = ("corrected", "late", "offset")

    corrected: bool = False
    late: bool = False
    offset: float | None = None


class ClockSkew:
    """Estimates the operator's clock, and gives the time that it will accept."""

    def __init__(self, wall_ms: Callable[[], int]) -> None:
        """Know nothing yet; *wall_ms* is this machine's clock, in ms."""
        self._wall_ms = wall_ms
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES)
        self._best: _Sample | None = None
        self._warned = False

    def stamp(self, monotonic_s: float) -> Stamp:
        """Note the time on both clocks."""
        return Stamp(self._wall_ms(), monotonic_s)

    def offset_ms(self, now: Stamp) -> int:
        """Tell what to add to the wall clock: 0 unless it matters and is known."""
        best = self._best
        if best is None:
            return 0
        drift_ms = (now.monotonic_s - best.at) * 1000 * _DRIFT
        # Who sets a clock sets it right, mostly; if not, the operator will say so.
        if abs(now.ahead_ms - best.ahead_ms) > _STEP_MS + drift_ms:
            return 0
        offset = best.anchor_ms - now.ahead_ms
        return round(offset) if _matters(offset, best) else 0

    def time_ms(self, now: Stamp) -> int:
        """Tell the time to put into a request."""
        return now.wall_ms + self.offset_ms(now)

    def observe(self, sent: Stamp, received: Stamp, server_ms: int) -> None:
        """Take the time out of a sealed reply into account.

        Args:
            sent: When its request was sealed.
            received: When it was read.
            server_ms: What it says.
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

    def refused(
        self, sent: Stamp, sent_ms: int, received: Stamp, date_ms: int | None
    ) -> Remedy:
        """Find out what was wrong with the time of a refused request.

        Args:
            sent: When it was sealed.
            sent_ms: The time that it carried.
            received: When the refusal was read.
            date_ms: The ``Date`` of the refusal, in ms, or None.
        """
        best = self._best
        if best is not None and received.monotonic_s - best.at <= _KNOWN_FOR_S:
            offset = sent.monotonic_s * 1000 + best.anchor_ms - sent_ms
            if _matters(offset, best):
                self._trust(best, received)
                return Remedy(corrected=True, offset=offset / 1000)
        else:
            best = None
        if date_ms is None:
            return Remedy(late=best is not None)
        # Where the reply was half-way, the request's own time had gone on.
        half_way_ms = (received.monotonic_s - sent.monotonic_s) * 500
        offset = date_ms - sent_ms - half_way_ms
        if not _APPLIED_MS < abs(offset) <= _MOST_BY_DATE_MS:
            return Remedy(late=best is not None, offset=offset / 1000)
        self._forget()
        self._add(sent, received, date_ms, sealed=False)
        return Remedy(corrected=True, offset=offset / 1000)

    def _add(
        self, sent: Stamp, received: Stamp, server_ms: int, *, sealed: bool
    ) -> None:
        """Keep a sample: the reply was made half-way between *sent* and *received*."""
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
        """Know nothing any more."""
        self._samples.clear()
        self._best = None

    def _trust(self, best: _Sample, now: Stamp) -> None:
        """Use *best* from now on, although the wall clock was set since."""
        self._forget()
        self._best = best._replace(ahead_ms=now.ahead_ms, at=now.monotonic_s)
        self._samples.append(self._best)


def _matters(offset_ms: float, sample: _Sample) -> bool:
    """Tell whether an offset is more than what a clock may be off by."""
    return abs(offset_ms) - sample.rtt_ms / 2 > _APPLIED_MS
