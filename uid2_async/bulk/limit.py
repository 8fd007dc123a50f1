"""The limit of batches in flight: additive increase, multiplicative decrease (AIMD).

It works with a gate for all batches. With only the limit, sending would continue while
the operator asks to wait. With only the gate, all batches would start at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from uid2_async.hooks import Event, LimitChanged, Throttled

_START: Final = 4
_OUTCOMES: Final = 20
_MIN_OUTCOMES: Final = 5
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 10.0
# Waiting batches leave the gate over this many seconds instead of in one burst.
_SPREAD: Final = 0.05
# Each Retry-After costs its full time, so the limit that led to the last one is
# approached slowly: from this fraction of it, at this fraction of the usual speed. With
# Retry-After: 2 and 10 requests per second, 400 batches take 49 s instead of 60.
_CAUTION_FROM: Final = 0.75
_CAUTION_SPEED: Final = 0.1
# A longer Retry-After is obeyed too, but the job then stalls.
_BEARABLE_HINT: Final = 300.0


class ConcurrencyLimit:
    """The permits of a job's batches.

    Starts at 4 and grows by one with each success until the first cut, then by one with
    each round of successes, and slower near the limit of the last Retry-After. Halves
    when the operator throttles, or when half of the last 20 outcomes failed; at most
    once for the requests of one *generation*, which ends with each cut. Each cut also
    closes the gate for a time. Times are the event loop's, in seconds.

    Attributes:
        limit: The maximum number in flight; a float that is rounded down.
        in_flight: The number in flight.
        generation: The number of cuts so far.
        throttled: How often the operator asked to slow down.
        longest_hint: The longest acceptable wait that the operator asked for, until a
            success after it.
    """

    def __init__(
        self,
        most: int,
        *,
        now: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        random: Callable[[], float],
        on_event: Callable[[Event], None] = lambda _event: None,
    ) -> None:
        """Allow *most* at most. Report changes to *on_event*."""
        self.limit: float = min(_START, most)
        self.in_flight: int = 0
        self.generation: int = 0
        self.throttled: int = 0
        self.longest_hint: float = 0.0
        self._most = most
        self._now = now
        self._sleep = sleep
        self._random = random
        self._on_event = on_event
        self._reported = 0
        self._gate_until = 0.0
        self._cuts_in_a_row = 0
        self._cut_at = math.inf
        self._outcomes: deque[bool] = deque(maxlen=_OUTCOMES)
        self._changed = asyncio.Event()

    async def acquire(self) -> None:
        """Wait for a permit and the gate. Safe to cancel."""
        while True:
            if int(self.limit) != self._reported:
                self._reported = int(self.limit)
                self._on_event(LimitChanged(limit=self._reported))
            if self.in_flight >= int(self.limit):
                self._changed.clear()
                await self._changed.wait()
            elif self._now() < self._gate_until:
                await self.pass_gate()
            else:
                self.in_flight += 1
                return

    async def pass_gate(self) -> None:
        """Wait until the gate opens, plus a random delay per caller (jitter)."""
        while (wait := self._gate_until - self._now()) > 0:
            await self._sleep(wait + self._random() * _SPREAD)

    def release(self) -> None:
        """Release a permit."""
        self.in_flight -= 1
        self._changed.set()

    def succeeded(self) -> None:
        """Record an answered batch."""
        self._outcomes.append(True)
        self._cuts_in_a_row = 0
        if self._now() >= self._gate_until:
            # Otherwise it was in flight when the operator asked for the wait.
            self.longest_hint = 0.0
        step = 1.0 if self.generation == 0 else 1.0 / self.limit
        if self.limit >= _CAUTION_FROM * self._cut_at:
            step *= _CAUTION_SPEED
        self.limit = min(float(self._most), self.limit + step)
        self._changed.set()

    def failed(self, generation: int) -> None:
        """Record a failed attempt that was started in *generation*.

        One failure means little, but half of the last 20 outcomes mean overload.
        """
        self._outcomes.append(False)
        failures = self._outcomes.count(False)
        if len(self._outcomes) >= _MIN_OUTCOMES and 2 * failures >= len(self._outcomes):
            self._halve(generation, None)

    def throttle(self, generation: int, retry_after: float | None) -> None:
        """Slow down for an operator that throttles a request of this *generation*."""
        self.throttled += 1
        self._halve(generation, retry_after)

    def _halve(self, generation: int, retry_after: float | None) -> None:
        """Halve the limit and close the gate, once per generation."""
        if retry_after:
            # A late Retry-After still counts.
            self._close_gate(retry_after)
            if retry_after <= _BEARABLE_HINT:
                self.longest_hint = max(self.longest_hint, retry_after)
        if generation != self.generation:
            return
        self.generation += 1
        if retry_after:
            self._cut_at = self.limit
        self.limit = max(1.0, self.limit / 2)
        if not retry_after:
            longest = min(
                _LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(self._cuts_in_a_row, 9)
            )
            self._close_gate(longest * (0.5 + 0.5 * self._random()))
        self._cuts_in_a_row += 1

    def _close_gate(self, seconds: float) -> None:
        """Close the gate for *seconds*, or longer if it already is."""
        now = self._now()
        begins, ends = max(self._gate_until, now), now + seconds
        if ends > begins:
            self._gate_until = ends
            self._on_event(Throttled(delay=ends - begins))
