"""What is retried, when, and how much of it; the only importer of tenacity.

docs/protocol.md says that every call may be repeated safely, and that an envelope ages:
so the retry goes around sealing, sending and opening as a whole.
"""

from __future__ import annotations

import asyncio
import random as _random
import time
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeVar

import attrs

from uid2_async._traceback import strip_tracebacks
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
    from tenacity import AsyncRetrying, RetryCallState
    from tenacity.stop import stop_base
    from tenacity.wait import wait_base

__all__ = ["Backoff", "Decision", "RetryBudget", "RetryPolicy", "classify"]

T = TypeVar("T")

MIN_ATTEMPT_SECONDS: Final = 0.5
MAX_RETRY_AFTER_SECONDS: Final = 20.0


class Backoff(Enum):
    """How long to wait before another attempt."""

    NONE = "at once"
    TRANSIENT = "full jitter, short"
    THROTTLING = "equal jitter, long"


@attrs.frozen(kw_only=True)
class Decision:
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
_TRANSIENT_FRESH: Final = Decision(retry=True, fresh_connection=True)
_THROTTLED: Final = Decision(retry=True, backoff=Backoff.THROTTLING)
# A kept connection that the operator had closed: the request was never read. The first
# goes out again at once; from the second on it is an ordinary transient failure.
_STALE: Final = Decision(
    retry=True, backoff=Backoff.NONE, once=True, free=True, fresh_connection=True
)
_ONCE: Final = Decision(retry=True, once=True, fresh_connection=True)
# A better time is known and the operator is healthy, so there is no need to wait.
_CORRECTED: Final = Decision(retry=True, backoff=Backoff.NONE, once=True, free=True)
_LATE: Final = Decision(retry=True, once=True)

# What would end the call came over a kept connection, and may answer nothing of ours.
_CONFIRM: Final = Decision(
    retry=True, backoff=Backoff.NONE, free=True, fresh_connection=True
)

_EDGE_STATUSES: Final = frozenset({408, 425})


def classify(  # noqa: C901, PLR0911, PLR0912 - one table, to be read as a whole
    error: UID2Error,
) -> Decision:
    """Decide about a failed attempt; the one table of what is retried.

    Pure: the same error always gets the same answer, whatever went before.
    """
    match error:
        case CertificateError():
            return _NO
        case ConnectError(disconnected=True):
            return _STALE
        case ConnectError() | CallTimeoutError():
            return _TRANSIENT
        case TransportError():
            return _TRANSIENT_FRESH
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
    """Return whether *error* must not end a call before a fresh connection says so.

    True where the connection had served another request: an unrequested reply, or a
    part of one, may have lain on it, or the operator may have gone from it.
    """
    match error:
        # There was no connection yet.
        case ConnectError(disconnected=False) | CertificateError():
            return False
        case _:
            return error.reused_connection


class RetryBudget:
    """How many retries the interactive calls of one client may spend together.

    It bounds the load that retries add in an outage: each costs 14 tokens (5 where the
    operator throttles), a call that succeeds at once gives 1 back, one that succeeds
    after retries gives back what its last retry cost. Not thread-safe: one event loop.

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
            What was paid, or None where too little is left and the retry is off.
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
        """Take notice of a success; *last_cost* is None where there was no retry."""
        gain = self.SUCCESS_GAIN if last_cost is None else last_cost
        self.level = min(self.capacity, self.level + gain)

    def __repr__(self) -> str:
        """Show level and capacity."""
        return f"RetryBudget({self.level}/{self.capacity})"


@attrs.frozen(kw_only=True)
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

    async def run(
        self,
        attempt: Callable[[bool], Awaitable[T]],
        *,
        deadline: float,
        now: Callable[[], float],
        on_retry: Callable[[float], None],
    ) -> T:
        """Make attempts until one succeeds or no further one is due.

        Args:
            attempt: Makes one attempt; takes whether it must use a fresh connection.
            deadline: When the call must be over, by *now*'s clock, in seconds.
            now: The event loop's clock.
            on_retry: Told the delay before the next attempt, in seconds.

        Returns:
            What the attempt returned.

        Raises:
            UID2Error: The last attempt's own error.
        """
        # Nearly every call ends with its first attempt, and to set up tenacity costs
        # nearly as much as all else that is not HTTP. So that one is made here; if it
        # fails, tenacity meets its error as that of its own first, and decides.
        began = time.monotonic()
        try:
            result = await attempt(False)  # noqa: FBT003 - "fresh", as its type says
        except UID2Error as error:
            failures = [error.with_traceback(None)]
        else:
            if self.budget is not None:
                self.budget.succeeded(None)
            return result

        async def one() -> T:
            # Popped, so that no frame on the error's own traceback holds it.
            if failures:
                raise failures.pop()
            return await attempt(run.decision.fresh_connection)

        run = _Run(
            self,
            began=began,
            deadline=deadline,
            now=now,
            random=self._random,
            sleep=self._sleep,
            on_retry=on_retry,
        )
        result = await run.retrying()(one)
        if self.budget is not None:
            self.budget.succeeded(run.last_cost)
        return result


class _Run:
    """The state of one call's retries, as tenacity's callbacks see it."""

    def __init__(
        self,
        policy: RetryPolicy,
        *,
        began: float,
        deadline: float,
        now: Callable[[], float],
        random: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        on_retry: Callable[[float], None],
    ) -> None:
        self._policy = policy
        self._random = random
        self._sleep = sleep
        self._began = began
        self._deadline = deadline
        self._now = now
        self._on_retry = on_retry
        self._spent: set[Decision] = set()
        self.decision = Decision(retry=True)
        self.last_cost: int | None = None

    def retrying(self) -> AsyncRetrying:
        """Make tenacity's object for this call: sharing one mixes up calls' states."""
        # The first retry pays for this import, not every program that has a client.
        from tenacity import AsyncRetrying  # noqa: PLC0415 - reason above

        return AsyncRetrying(
            retry=self.is_retryable,
            wait=self.delay,
            stop=self.is_over,
            before_sleep=self.before_sleep,
            sleep=self._sleep,
            reraise=True,
        )

    def is_retryable(self, state: RetryCallState) -> bool:
        """Decide by the table, and note the decision on the error."""
        # For stop objects that count seconds: the first attempt was made before.
        state.start_time = self._began
        error = _error(state)
        if error is None:
            return False
        # Policies of the caller's are shown it, and may log it with local variables.
        error.__traceback__ = None
        self.decision = decision = self._decide(error)
        throttled = decision.backoff is Backoff.THROTTLING
        if throttled and not self._policy.retry_throttled:
            # Others wait for all of their calls together, unless that is for too long.
            return _asks_too_much(state) and self._is_open(error)
        return decision.retry or self._is_open(error)

    def _decide(self, error: UID2Error) -> Decision:
        """Decide by the table, and by what this call has spent of it."""
        decision = classify(error)
        error.retryable = decision.retry
        if decision.once and decision in self._spent:
            # A second lost connection is not a stale one; a second reply that
            # cannot be opened is no accident.
            decision = _TRANSIENT_FRESH if decision is _STALE else _NO
        self._spent.add(decision)
        # Where one kept connection is spoiled, the next may be too.
        fresh = decision.fresh_connection or error.reused_connection
        return attrs.evolve(decision, fresh_connection=fresh)

    def delay(self, state: RetryCallState) -> float:
        """Compute the seconds to wait: never less than the operator asked for."""
        if not self.decision.retry:
            return 0.0
        computed = self._backoff(state)
        hint = _retry_after(state)
        if not hint:
            return computed
        jitter = self._random() * (0.1 * hint + 0.1)
        return max(hint, computed) + jitter

    def _backoff(self, state: RetryCallState) -> float:
        """Compute the seconds to wait without a hint."""
        policy = self._policy
        if self.decision.backoff is Backoff.NONE:
            return 0.0
        if policy.wait is not None:
            return float(policy.wait(state))
        # The exponent is capped before the power: 2**1000 does not fit a float.
        doublings = min(state.attempt_number - 1, 16)
        if self.decision.backoff is Backoff.THROTTLING:
            return (0.5 + 0.5 * self._random()) * min(20.0, 2.0**doublings)
        return self._random() * min(5.0, 0.2 * 2.0**doublings)

    def is_over(self, state: RetryCallState) -> bool:
        """Tell whether no further attempt is due; pays for it if one is."""
        if self.decision.retry and not self._is_exhausted(state):
            return False
        return not self._confirm(state)

    def _confirm(self, state: RetryCallState) -> bool:
        """Let a doubtful end be tried once more, at once and without being counted."""
        error = _error(state)
        if error is None or not self._is_open(error):
            return False
        if self._now() + MIN_ATTEMPT_SECONDS > self._deadline:
            return False
        self.decision = _CONFIRM
        state.upcoming_sleep = 0.0
        state.attempt_number -= 1
        return True

    def _is_open(self, error: UID2Error) -> bool:
        """Tell whether *error* must be confirmed before it ends the call."""
        return self._policy.confirm and is_doubtful(error)

    def _is_exhausted(self, state: RetryCallState) -> bool:
        """Tell whether attempts, time or budget allow no further attempt."""
        policy = self._policy
        if policy.stop is not None:
            if policy.stop(state):
                return True
        elif state.attempt_number >= policy.attempts:
            return True
        if _asks_too_much(state):
            return True
        if self._now() + state.upcoming_sleep + MIN_ATTEMPT_SECONDS > self._deadline:
            return True
        return not self._pay(state)

    def _pay(self, state: RetryCallState) -> bool:
        """Charge the budget, last of all checks: it changes state."""
        budget = self._policy.budget
        if budget is None:
            return True
        cost = budget.charge(self.decision)
        if cost is None:
            error = _error(state)
            assert error is not None  # noqa: S101 - only errors are retried
            error.add_note("Not retried: the client's retry budget is exhausted.")
            return False
        self.last_cost = cost
        return True

    def before_sleep(self, state: RetryCallState) -> None:
        """Tell that another attempt will follow."""
        self._on_retry(state.upcoming_sleep)


def _error(state: RetryCallState) -> UID2Error | None:
    """Take our error out of a failed attempt; None for success and foreign ones.

    Foreign exceptions, cancellation among them, are never retried.
    """
    outcome = state.outcome
    if outcome is None or not outcome.failed:
        return None
    error = outcome.exception()
    return error if isinstance(error, UID2Error) else None


def _retry_after(state: RetryCallState) -> float | None:
    """Read the seconds that the operator asked to wait."""
    error = _error(state)
    return error.retry_after if isinstance(error, OperatorError) else None


def _asks_too_much(state: RetryCallState) -> bool:
    """Tell whether the operator asked to wait for longer than a call does."""
    return (_retry_after(state) or 0.0) > MAX_RETRY_AFTER_SECONDS


strip_tracebacks(globals())
