"""Refresh identity tokens when they are due, once for all concurrent callers.

Old tokens stay valid until they expire (docs/protocol.md 2.2), so a refresh that fails
or runs twice does no harm. Replies have no nonce, so a reply that repeats the current
tokens or has already expired is rejected.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Generic, Self, TypeAlias, TypeVar

import attrs
from msgspec.structs import replace

from uid2_async._failures import CONTROL_FLOW, fresh_error, is_stray
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock, Monotonic, monotonic_of, system_clock
from uid2_async.errors import (
    BadRequestError,
    ClientClosedError,
    ClientForkError,
    ClientLoopError,
    ConfigError,
    ExpiredTokenError,
    InputError,
    InvalidTokenError,
    TransportError,
    UID2Error,
)
from uid2_async.identity_tokens import IdentityTokens, TokenState
from uid2_async.models import OptedOut
from uid2_async.protocol.tokens import REFRESH_PATH, replay_error
from uid2_async.publisher.session import OPT_OUT_KEPT

if TYPE_CHECKING:
    from uid2_async.client import UID2Client
    from uid2_async.client_side import ClientSideClient

T = TypeVar("T")

RefreshLock: TypeAlias = Callable[[str], AbstractAsyncContextManager[object]]
"""Returns an async context manager for the digest of a refresh token. It may yield
False if another process is refreshing or has just refreshed these tokens."""

_Outcome: TypeAlias = IdentityTokens | OptedOut | UID2Error | None
"""The result of a refresh. None if there was none, or another process runs it."""

_logger = logging.getLogger("uid2_async")

# The pause after repeated failures doubles up to this many seconds.
_LONGEST_PAUSE: Final = 60.0
# For how many seconds after its pause a failure still counts as repeated.
_FAILURE_KEPT: Final = 600.0
# The minimum time between successful refreshes of one person's tokens is this fraction
# of the new tokens' lifetime, between two bounds in seconds.
_LEAST_INTERVAL: Final = 5.0
_MOST_INTERVAL: Final = 60.0
_INTERVAL_PART: Final = 0.1
# The jitter is at most this fraction of the time that is left for a refresh.
_JITTER_PART: Final = 0.1
# Programming errors, which must not be hidden.
_MISUSE: Final = (ClientClosedError, ClientForkError, ClientLoopError, ConfigError)


# Errors that another refresh of the same tokens cannot fix.
_FINAL: Final = (ExpiredTokenError, InvalidTokenError)
_UNREFRESHABLE: Final = (BadRequestError, InputError)


@attrs.frozen(kw_only=True)
class Freshness:
    """The result of :meth:`TokenRefresher.ensure_fresh`.

    Attributes:
        tokens: The tokens to store, or None if the state is DEAD or OPTED_OUT. Store
            tokens that are EXPIRED_REFRESHABLE, but do not use them.
        state: The state of *tokens*. If it is DEAD, generate new tokens. If it is
            OPTED_OUT, do not.
        changed: Whether the session must be updated, because *tokens* differ from those
            that were passed.
        error: Why a due refresh failed, or None.
    """

    tokens: IdentityTokens | None
    state: TokenState
    changed: bool
    error: UID2Error | None = None

    @property
    def advertising_token(self) -> str | None:
        """The token to send to the bidstream, or None if none is usable now."""
        if self.tokens is None or not self.state.usable:
            return None
        return self.tokens.advertising_token


@attrs.frozen
class _Pause:
    """Until when tokens are not refreshed, and the error if a refresh failed."""

    error: UID2Error | None
    seconds: float
    until: float


class _TTLCache(Generic[T]):
    """Values by key, which expire. The least recently used value is evicted."""

    def __init__(self, size: int, monotonic: Monotonic) -> None:
        self._size = size
        self._now = monotonic
        self._entries: OrderedDict[str, tuple[T, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries, including expired ones not read since."""
        return len(self._entries)

    def set(self, key: str, value: T, *, seconds: float) -> None:
        """Store *value* for *seconds*."""
        self._entries[key] = (value, self._now() + seconds)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def get(self, key: str) -> T | None:
        """Return the value of *key*, or None if there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if self._now() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value


class TokenRefresher:
    """Refreshes identity tokens when they are due.

    Call :meth:`ensure_fresh` with the tokens of the session on each page view. The
    refresher caches results for a limited time: new tokens, so that requests with an
    old session do not refresh again; failures, so that an outage does not slow down
    each page; and opt-outs, so that the operator is not asked again for 72 hours. Use
    one refresher per process, in the event loop of the client, and close it before the
    client.

    The number of requests is limited even if a clock is wrong. After a success, the
    tokens of one person are refreshed at most once a minute. If the new tokens are
    valid for less than ten minutes, the interval is a tenth of that time, but at least
    5 seconds. After a failure, they are refreshed at most once per *pause*, which
    doubles up to a minute. For example, if this machine's clock is an hour ahead, new
    tokens are always due, which causes 60 requests an hour instead of one per page
    view. By default, a refresh is due an hour after the last one.

    Durations are measured with a monotonic clock that keeps running while the machine
    is suspended. Setting the wall clock does not change them. Only the times in tokens
    are compared with *clock*.

    Concurrent refreshes of the same tokens are combined within a process, so N
    processes send at most N requests, which does no harm. Pass *lock* to send only one.
    It is called with the SHA-256 of the refresh token in hex, and returns an async
    context manager. If that yields False, another process is refreshing the tokens or
    has just done so, and the current tokens are used while they are valid. An example
    with redis-py::

        @asynccontextmanager
        async def first_of_all(digest: str) -> AsyncIterator[bool]:
            won = await redis.set(f"uid2:refresh:{digest}", 1, nx=True, ex=60)
            yield bool(won)  # the key stays, for later callers

        TokenRefresher(client, lock=first_of_all)

    :meth:`ensure_fresh` raises the errors of the lock. If pages must work without your
    Redis, catch them in the lock and yield True.

    Example:
        >>> async with UID2Client.from_env() as client, TokenRefresher(client) as fresh:
        ...     found = await fresh.ensure_fresh(tokens)
    """

    def __init__(  # noqa: PLR0913 - keyword options, each of its own meaning
        self,
        client: UID2Client | ClientSideClient,
        *,
        clock: Clock | None = None,
        monotonic: Monotonic | None = None,
        lock: RefreshLock | None = None,
        background: bool = False,
        timeout: float = 5.0,
        jitter: float = 60.0,
        pause: float = 5.0,
        margin: float = 5.0,
        remember: int = 10_000,
        _random: Callable[[], float] = random.random,
    ) -> None:
        """Create the refresher. Nothing runs until the first refresh.

        Args:
            client: The client that calls the operator. It is not closed with the
                refresher.
            clock: Returns the time as an aware datetime. Defaults to the system's.
            monotonic: Returns a monotonic time in seconds. Defaults to
                ``clock.monotonic`` if that exists, and otherwise to the system's.
            lock: A lock that is shared between processes, as described above.
            background: Whether to return due but usable tokens immediately and refresh
                them in a task. The next call returns the new tokens. Do not use it in
                processes that are frozen between requests.
            timeout: How long a refresh may take, including retries, in seconds. A page
                waits for it.
            jitter: The maximum delay of a refresh after refresh_from, in seconds, which
                spreads the requests. It is limited to a tenth of the time until
                identity_expires.
            pause: How long the same tokens are not refreshed again after a failure, in
                seconds. Calls return the error until then. The pause doubles with each
                consecutive failure, up to a minute.
            margin: How many seconds earlier tokens are treated as due or expired, in
                case this machine's clock is slow.
            remember: The size of the caches of new tokens, failures and opt-outs.

        Raises:
            ConfigError: If a number is negative, or *timeout* or *remember* is zero.
        """
        if not (timeout > 0 and remember > 0):
            raise ConfigError("timeout and remember must be above zero.")
        if not (jitter >= 0 and pause >= 0 and margin >= 0):
            raise ConfigError("jitter, pause and margin must not be negative.")
        self._client = client
        self._clock = clock or system_clock
        self._lock: RefreshLock = lock or nullcontext
        self._background = background
        self._timeout = timeout
        self._jitter = timedelta(seconds=jitter)
        self._pause = pause
        self._margin = timedelta(seconds=margin)
        self._random = _random
        self._monotonic = monotonic_of(clock, monotonic)
        self._renewed = _TTLCache[IdentityTokens](remember, self._monotonic)
        self._opted_out = _TTLCache[OptedOut](remember, self._monotonic)
        # After a failure, and for new tokens that would be due again too soon.
        self._paused = _TTLCache[_Pause](remember, self._monotonic)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flights: dict[str, asyncio.Task[_Outcome]] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        """Return the refresher. Nothing runs until the first refresh."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the refresher."""
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel running refreshes, and wait until they have ended.

        Callers that wait for one receive the current tokens and a TransportError. It is
        safe to call this twice.
        """
        self._closed = True
        flights = list(self._running().values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def __repr__(self) -> str:
        """Show only counts."""
        return (
            f"<TokenRefresher running={len(self._flights)} "
            f"opted_out={len(self._opted_out)}>"
        )

    async def ensure_fresh(self, tokens: IdentityTokens) -> Freshness:
        """Return the latest tokens for *tokens*, refreshed if they are due.

        If one caller is canceled, the refresh continues for the others.

        Args:
            tokens: The tokens from the session.

        Returns:
            The tokens to store, and their state. A failed refresh does not raise. Its
            error is part of the result.

        Raises:
            RuntimeError: If the refresher is closed.
            UID2Error: Only if the client cannot be used: it is closed, belongs to
                another event loop, was forked, or has an invalid setting.
        """
        if self._closed:
            raise RuntimeError("The refresher is closed.")
        now = self._now()
        held = self._latest(tokens, now)
        digest = _digest(held)
        if self._opted_out.get(digest) is not None:
            return _report(tokens, held, OptedOut(), now)
        if not self._is_due(held, now):
            return _report(tokens, held, None, now)
        pause = self._paused.get(digest)
        if pause is not None and self._monotonic() < pause.until:
            error = None if pause.error is None else fresh_error(pause.error)
            return _report(tokens, held, error, now)
        flight = self._single_flight(held, digest)
        if self._background and held.state(now).usable:
            return _report(tokens, held, None, now)
        # Not awaited directly: if the waiter is canceled, the refresh continues.
        await asyncio.wait({flight})
        return _report(tokens, held, _result(flight), self._now())

    def _now(self) -> datetime:
        """Return the latest time that it can be, considering the error of the clock."""
        # Where the operator's clock is known to be ahead, the tokens are older still.
        ahead = timedelta(seconds=max(0.0, self._client.clock_skew))
        return self._clock() + self._margin + ahead

    def _latest(self, tokens: IdentityTokens, now: datetime) -> IdentityTokens:
        """Return the tokens that earlier refreshes obtained for *tokens*."""
        first = _digest(tokens)
        digest, steps = first, 0
        while (renewed := self._renewed.get(digest)) is not None:
            tokens, digest, steps = renewed, _digest(renewed), steps + 1
        if steps > 1:
            # If a session is never updated, this chain would grow with each refresh.
            left = tokens.refresh_expires - now
            self._renewed.set(first, tokens, seconds=left.total_seconds())
        return tokens

    def _is_due(self, held: IdentityTokens, now: datetime) -> bool:
        """Return whether to refresh now, after a random delay for due tokens."""
        state = held.state(now)
        if state is not TokenState.DUE:
            return state is TokenState.EXPIRED_REFRESHABLE
        left = held.identity_expires - held.refresh_from
        jitter = min(self._jitter, left * _JITTER_PART)
        return now >= held.refresh_from + jitter * self._random()

    def _single_flight(
        self, held: IdentityTokens, digest: str
    ) -> asyncio.Task[_Outcome]:
        """Join the running refresh of *held*, or start one."""
        running = self._running()
        flight = running.get(digest)
        if flight is None:
            flight = running[digest] = asyncio.create_task(self._refresh(held, digest))

            def end(task: asyncio.Task[_Outcome]) -> None:
                running.pop(digest, None)
                # Logged, because a background refresh is not awaited.
                if not task.cancelled() and (error := task.exception()) is not None:
                    name = type(error).__name__
                    _logger.warning("Refreshing tokens failed with %s", name)

            flight.add_done_callback(end)
        return flight

    def _running(self) -> dict[str, asyncio.Task[_Outcome]]:
        """Return the refreshes of the running event loop.

        Those of a closed loop never end, so that callers must not wait for them.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._flights = loop, {}
        return self._flights

    async def _refresh(self, held: IdentityTokens, digest: str) -> _Outcome:
        """Refresh *held*, and cache the result."""
        task = asyncio.current_task()
        try:
            async with self._lock(digest) as mine:
                if mine is False and held.state(self._now()).usable:
                    return None
                outcome = await self._ask(held)
        except CONTROL_FLOW as error:
            if not is_stray(error, task):
                raise
            outcome = TransportError(f"The refresh ended with {type(error).__name__}.")
        self._remember(digest, outcome)
        return outcome

    def _remember(
        self, digest: str, outcome: IdentityTokens | OptedOut | UID2Error
    ) -> None:
        """Cache the result of a refresh for as long as it applies."""
        if isinstance(outcome, IdentityTokens):
            self._remember_tokens(digest, outcome)
        elif isinstance(outcome, OptedOut):
            seconds = OPT_OUT_KEPT.total_seconds()
            self._opted_out.set(digest, outcome, seconds=seconds)
        else:
            before, seconds = self._paused.get(digest), self._pause
            if before is not None and before.error is not None:
                seconds = max(seconds, min(before.seconds * 2, _LONGEST_PAUSE))
            pause = _Pause(outcome, seconds, self._monotonic() + seconds)
            self._paused.set(digest, pause, seconds=seconds + _FAILURE_KEPT)

    def _remember_tokens(self, digest: str, new: IdentityTokens) -> None:
        """Cache *new* tokens, and delay their refresh if it would be due too soon."""
        now = self._now()
        left = new.refresh_expires - now
        self._renewed.set(digest, new, seconds=left.total_seconds())
        usable = (new.identity_expires - now).total_seconds()
        interval = min(max(usable * _INTERVAL_PART, _LEAST_INTERVAL), _MOST_INTERVAL)
        if new.refresh_from < now + timedelta(seconds=interval):
            pause = _Pause(None, interval, self._monotonic() + interval)
            self._paused.set(_digest(new), pause, seconds=interval)

    async def _ask(self, held: IdentityTokens) -> IdentityTokens | OptedOut | UID2Error:
        """Call the operator. Return errors instead of raising them."""
        try:
            reply = await self._client.refresh_token(held, timeout=self._timeout)
            if isinstance(reply, IdentityTokens):
                self._check(reply)
        except _MISUSE:
            raise
        except UID2Error as error:
            # The error is cached, and its traceback would contain tokens.
            return fresh_error(error)
        if isinstance(reply, OptedOut):
            return reply
        return replace(reply, extra=held.extra)

    def _check(self, new: IdentityTokens) -> None:
        """Reject a reply that may be a replayed one (docs/protocol.md 2.2).

        The client has compared it with the current tokens.
        """
        # Tokens that were refreshed before are not new, and _latest must not form a
        # cycle.
        repeated = self._renewed.get(_digest(new)) is not None
        if new.state(self._now()).usable and not repeated:
            return
        error = replay_error("The refreshed tokens have expired.", "identity_expires")
        if repeated:
            message = "The refresh reply repeats earlier tokens."
            error = replay_error(message, "refresh_token")
        error.endpoint = REFRESH_PATH
        raise error


def _result(flight: asyncio.Task[_Outcome]) -> _Outcome:
    """Return the result of a refresh, or raise its error, as a copy for each caller."""
    if flight.cancelled():
        return TransportError(
            "The refresh was canceled: the refresher was closed, or something cancels "
            "all tasks."
        )
    error = flight.exception()
    if error is not None:
        raise fresh_error(error)
    outcome = flight.result()
    return fresh_error(outcome) if isinstance(outcome, UID2Error) else outcome


def _digest(tokens: IdentityTokens) -> str:
    """Return a digest of the refresh token, which may be any str."""
    return sha256(tokens.refresh_token.encode(errors="surrogatepass")).hexdigest()


def _report(
    given: IdentityTokens, held: IdentityTokens, outcome: _Outcome, now: datetime
) -> Freshness:
    """Return what became of the tokens that were *given* and are now *held*."""
    error = outcome if isinstance(outcome, UID2Error) else None
    if isinstance(outcome, OptedOut):
        return Freshness(tokens=None, state=TokenState.OPTED_OUT, changed=True)
    if isinstance(outcome, IdentityTokens):
        held = outcome
    state = held.state(now)
    if isinstance(error, _FINAL) or (
        isinstance(error, _UNREFRESHABLE) and not state.usable
    ):
        state = TokenState.DEAD
    if state is TokenState.DEAD:
        return Freshness(tokens=None, state=state, changed=True, error=error)
    return Freshness(tokens=held, state=state, changed=held is not given, error=error)


strip_tracebacks(globals())
