"""What is retried, when, and how much of it.

Every call can be repeated safely, and an envelope expires (docs/protocol.md), so each
attempt encrypts, sends and decrypts anew. The loop is in ``OperatorClient``. After each
failure ``Retries`` and tenacity's stop and wait objects decide.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Final

import attrs
import msgspec

from uid2_async._traceback import check_types, strip_tracebacks
from uid2_async.errors import (
    CallTimeoutError,
    CertificateError,
    ClockSkewError,
    ConnectError,
    EnvelopeError,
    OperatorError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TransportError,
    UID2Error,
    UnexpectedStatusError,
)

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

__all__ = ["Backoff", "Decision", "Retries", "RetryBudget", "RetryPolicy", "classify"]

MIN_ATTEMPT_SECONDS: Final = 0.5
MAX_RETRY_AFTER_SECONDS: Final = 20.0


class Backoff(Enum):
    """How long to wait before another attempt."""

    NONE = "at once"
    TRANSIENT = "full jitter, short"
    THROTTLING = "equal jitter, long"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about a failed attempt.

    Attributes:
        retry: Whether the call may be sent again.
        backoff: How long to wait before that.
        once: Whether that may happen only once per call.
        free: Whether the retry does not use the retry budget.
        fresh_connection: Whether the next attempt must not reuse a connection.
    """

    retry: bool
    backoff: Backoff = Backoff.TRANSIENT
    once: bool = False
    free: bool = False
    fresh_connection: bool = False


_NO: Final = Decision(retry=False)
_TRANSIENT: Final = Decision(retry=True)
_TRANSIENT_NEW_CONNECTION: Final = Decision(retry=True, fresh_connection=True)
_THROTTLED: Final = Decision(retry=True, backoff=Backoff.THROTTLING)
# A kept connection that the operator had closed, so the request was never read. The
# first one is retried at once. Any further one is an ordinary transient failure.
_STALE: Final = Decision(
    retry=True, backoff=Backoff.NONE, once=True, free=True, fresh_connection=True
)
_ONCE: Final = Decision(retry=True, once=True, fresh_connection=True)
# A better time is known and the operator is healthy, so there is no need to wait.
_CORRECTED: Final = Decision(retry=True, backoff=Backoff.NONE, once=True, free=True)
_LATE: Final = Decision(retry=True, once=True)

_EDGE_STATUSES: Final = frozenset({408, 425})


def classify(  # noqa: C901, PLR0911, PLR0912 - one table, to be read as a whole
    error: UID2Error,
) -> Decision:
    """Decide about a failed attempt. This is the only table of what is retried.

    The decision depends only on the error, not on earlier attempts.
    """
    match error:
        case CertificateError():
            return _NO
        case ConnectError(disconnected=True):
            return _STALE
        case ConnectError() | CallTimeoutError():
            return _TRANSIENT
        case TransportError():
            return _TRANSIENT_NEW_CONNECTION
        case RateLimitError():
            return _THROTTLED
        case ServerError(status=503) if error.retry_after is not None:
            return _THROTTLED
        case ServerError():
            return _TRANSIENT
        case UnexpectedStatusError() if error.status in _EDGE_STATUSES:
            return _TRANSIENT
        case EnvelopeError(foreign_nonce=False, untimely=False):
            return _ONCE
        case ClockSkewError(corrected=True):
            return _CORRECTED
        case ClockSkewError(late=True):
            return _LATE
        case ProtocolError(unparseable_http=True):
            return _ONCE
        case _:
            return _NO


def is_doubtful(error: UID2Error) -> bool:
    """Return whether *error* must be confirmed over a new connection.

    This is so if the connection had served another request: an unrequested reply or a
    part of one may have been left on it, or the operator may have closed it.
    """
    match error:
        # No connection was established.
        case ConnectError(disconnected=False) | CertificateError():
            return False
        case _:
            return error.reused_connection


class RetryBudget:
    """Limits the retries of all interactive calls of one client.

    It bounds the load that retries add in an outage. Each retry costs 14 tokens, or 5
    if the operator throttles. A call that succeeds at once returns 1 token, and one
    that succeeds after retries returns the cost of its last retry. It is not
    thread-safe: use it in one event loop.

    Attributes:
        capacity: The most that there can be.
        level: What is left.
    """

    TRANSIENT_COST: Final[int] = 14
    THROTTLING_COST: Final[int] = 5
    SUCCESS_GAIN: Final[int] = 1

    def __init__(self, capacity: int = 500) -> None:
        """Start full."""
        self.capacity: int = capacity
        self.level: int = capacity

    def charge(self, decision: Decision) -> int | None:
        """Pay for a retry; this changes the level.

        Returns:
            The cost, or None if too little is left for a retry.
        """
        if decision.free:
            return 0
        throttled = decision.backoff is Backoff.THROTTLING
        cost = self.THROTTLING_COST if throttled else self.TRANSIENT_COST
        if cost > self.level:
            return None
        self.level -= cost
        return cost

    def succeeded(self, last_cost: int | None) -> None:
        """Record a success. *last_cost* is None if there was no retry."""
        gain = self.SUCCESS_GAIN if last_cost is None else last_cost
        self.level = min(self.capacity, self.level + gain)

    def __repr__(self) -> str:
        """Show level and capacity."""
        return f"RetryBudget({self.level}/{self.capacity})"


@attrs.frozen(kw_only=True, field_transformer=check_types)
class RetryPolicy:
    """How often, and after which wait, a failed attempt is retried.

    Example:
        >>> policy = RetryPolicy(attempts=6, attempt_timeout=5)
        >>> async with UID2Client.from_env(retry=policy, timeout=60) as patient:
        ...     tokens = await patient.generate_token("user@example.com")

    Attributes:
        attempts: How many attempts a call may make, including the first.
        stop: A tenacity stop object instead of *attempts*. The timeout of the call
            applies in addition.
        wait: A tenacity wait object instead of the computed backoff. The wait is never
            shorter than a usable ``Retry-After``.
        attempt_timeout: How long one attempt may take, in seconds. The timeout of the
            call applies in addition.
        idle_timeout: How long an attempt may wait for the next byte, in seconds.
        confirm: Whether a failure that would end the call, and was received over a
            reused connection, is tried once more over a fresh one. The extra try is
            immediate and not counted.
        budget: Shared by all calls with this policy. None means no limit.
        retry_throttled: Whether to wait and retry if the operator asks to slow down.
            Bulk jobs do this for all of their batches together.
    """

    attempts: int = 4
    stop: stop_base | None = None
    wait: wait_base | None = None
    attempt_timeout: float = 15.0
    idle_timeout: float = 10.0
    retry_throttled: bool = True
    confirm: bool = True
    budget: RetryBudget | None = attrs.field(factory=RetryBudget)
    # Tests and bulk work pass their own.
    _random: Callable[[], float] = attrs.field(
        default=_random.random, repr=False, alias="_random"
    )
    _sleep: Callable[[float], Awaitable[None]] = attrs.field(
        default=asyncio.sleep, repr=False, alias="_sleep"
    )

    @classmethod
    def never(cls) -> RetryPolicy:
        """Make one attempt and no more.

        A reused connection may cause it, so a retry by the caller gets a fresh one.
        """
        return cls(attempts=1, confirm=False)


@attrs.define(eq=False, repr=False)
class Retries:
    """What one call has spent of its policy. It is made after the first failure.

    Times are the event loop's, in seconds.

    Attributes:
        fresh_connection: Whether the next attempt must use a fresh connection.
        last_cost: What the last retry cost the budget. None if there was none.
    """

    policy: RetryPolicy
    deadline: float
    now: Callable[[], float]
    began: float
    fresh_connection: bool = False
    last_cost: int | None = None
    _idle: float = 0.0
    _confirmations: int = 0
    _spent: set[Decision] = attrs.field(factory=set)
    # The stop objects of tenacity compare it with this clock.
    _start_time: float = attrs.field(
        init=False,
        default=attrs.Factory(
            lambda self: time.monotonic() - (self.now() - self.began), takes_self=True
        ),
    )

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Wait before another attempt."""
        return self.policy._sleep(seconds)  # noqa: SLF001 - an option of the policy

    def delay_after(self, error: UID2Error, number: int) -> float | None:
        """Return the seconds to wait after attempt *number*; None if it was the last.

        Whether *error* can be retried is noted on it.
        """
        decision = self._decide(error)
        hint = error.retry_after if isinstance(error, OperatorError) else None
        is_too_long = (hint or 0.0) > MAX_RETRY_AFTER_SECONDS
        throttled = decision.backoff is Backoff.THROTTLING
        if throttled and not self.policy.retry_throttled and not is_too_long:
            # The caller delays all of its calls together.
            return None
        if decision.retry and not is_too_long:
            state = self._describe(error, number - self._confirmations)
            delay = self._delay(decision, hint, state)
            if not self._is_over(delay, state) and self._charge_budget(decision, error):
                # If one kept connection is bad, the next one may be bad too.
                self.fresh_connection = (
                    decision.fresh_connection or error.reused_connection
                )
                self._idle += delay
                return delay
        return self._allow_doubtful(error)

    def _decide(self, error: UID2Error) -> Decision:
        """Decide by the table, and by the earlier decisions of this call."""
        decision = classify(error)
        error.retryable = decision.retry
        if decision.once and decision in self._spent:
            # A second lost connection is not a stale one, and a second reply that
            # cannot be decrypted is not an accident.
            decision = _TRANSIENT_NEW_CONNECTION if decision is _STALE else _NO
        self._spent.add(decision)
        return decision

    def _delay(
        self, decision: Decision, hint: float | None, state: RetryCallState
    ) -> float:
        """Return the seconds to wait, never less than the operator asked for."""
        delay = self._backoff(decision.backoff, state)
        if not hint:
            return delay
        random = self.policy._random  # noqa: SLF001 - as above
        jitter = random() * (0.1 * hint + 0.1)
        return max(hint, delay) + jitter

    def _backoff(self, backoff: Backoff, state: RetryCallState) -> float:
        """Return the seconds to wait if the operator gave no hint."""
        if backoff is Backoff.NONE:
            return 0.0
        if self.policy.wait is not None:
            return float(self.policy.wait(state))
        longest = _exponential(backoff)(state)
        random = self.policy._random()  # noqa: SLF001 - as above
        if backoff is Backoff.THROTTLING:
            return (0.5 + 0.5 * random) * longest
        return random * longest

    def _is_over(self, delay: float, state: RetryCallState) -> bool:
        """Return whether attempts or time allow no further attempt."""
        from tenacity import stop_after_attempt  # noqa: PLC0415 - loaded by now

        state.upcoming_sleep = delay
        stop = self.policy.stop or stop_after_attempt(self.policy.attempts)
        too_late = self.now() + delay + MIN_ATTEMPT_SECONDS > self.deadline
        return too_late or stop(state)

    def _charge_budget(self, decision: Decision, error: UID2Error) -> bool:
        """Charge the budget. This is the last check, because it changes state."""
        budget = self.policy.budget
        if budget is None:
            return True
        cost = budget.charge(decision)
        if cost is None:
            error.add_note("Not retried: the client's retry budget is exhausted.")
            return False
        self.last_cost = cost
        return True

    def _allow_doubtful(self, error: UID2Error) -> float | None:
        """Allow one more attempt, at once and not counted, if the error is doubtful."""
        if not (self.policy.confirm and is_doubtful(error)):
            return None
        if self.now() + MIN_ATTEMPT_SECONDS > self.deadline:
            return None
        self._confirmations += 1
        self.fresh_connection = True
        return 0.0

    def _describe(self, error: UID2Error, counted: int) -> RetryCallState:
        """Describe the call to tenacity's stop and wait objects."""
        # The first failure pays for this import, not every program with a client.
        from tenacity import AsyncRetrying, RetryCallState  # noqa: PLC0415 - as above

        state = RetryCallState(AsyncRetrying(), fn=None, args=(), kwargs={})
        state.start_time = self._start_time
        state.attempt_number = counted
        state.idle_for = self._idle
        state.set_exception((type(error), error, None))
        return state


@cache
def _exponential(backoff: Backoff) -> wait_base:
    """Return tenacity's wait with the longest delay after each attempt."""
    from tenacity import wait_exponential  # noqa: PLC0415 - loaded by now

    if backoff is Backoff.THROTTLING:
        return wait_exponential(multiplier=1.0, max=20.0)
    return wait_exponential(multiplier=0.2, max=5.0)


strip_tracebacks(globals())
