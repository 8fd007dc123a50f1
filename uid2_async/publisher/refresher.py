"""Refresh identity tokens when they are due, once for all concurrent callers.

Old tokens stay valid until they expire (docs/protocol.md 2.2), so a refresh that fails
or runs twice does no harm. Replies have no nonce, so a reply that repeats the current
tokens or has already expired is rejected.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import attrs
from msgspec.structs import replace

from uid2_async._failures import CONTROL_FLOW, fresh_error, is_stray
from uid2_async._private import logger
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
from uid2_async.protocol.tokens import replay_error
from uid2_async.publisher.session import OPT_OUT_KEPT

if TYPE_CHECKING:
    from uid2_async.client import UID2Client
    from uid2_async.client_side import ClientSideClient

RefreshLock: TypeAlias = Callable[[str], AbstractAsyncContextManager[object]]
"""Returns an async context manager for the digest of a refresh token. It may yield
False if another process is refreshing or has just refreshed these tokens."""

_Result: TypeAlias = IdentityTokens | OptedOut | UID2Error | None
"""The result of a refresh. None if there was none, or another process runs it."""

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
class _Known:
    """What is known about a refresh token.

    Attributes:
        result: The result of its refresh. None if it is new itself.
        pause: The seconds of the pause before another refresh.
        until: The monotonic time at which the pause ends.
    """

    result: _Result
    pause: float = 0.0
    until: float = 0.0


class _TTLCache:
    """What is known by digest, for a time. The least recently used is evicted."""

    def __init__(self, size: int, monotonic: Monotonic) -> None:
        self._size = size
        self._now = monotonic
        self._entries: OrderedDict[str, tuple[_Known, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries, including expired ones not read since."""
        return len(self._entries)

    def set(self, digest: str, known: _Known, *, seconds: float) -> None:
        """Store *known* for *seconds*."""
        self._entries[digest] = (known, self._now() + seconds)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def get(self, digest: str) -> _Known | None:
        """Return what is known, or None if there is nothing or it has expired."""
        known, until = self._entries.get(digest, (None, 0.0))
        if known is None:
            return None
        if self._now() >= until:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return known


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
        remember: int = 30_000,
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
            remember: How many new tokens, failures and opt-outs are cached.

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
        self._known = _TTLCache(remember, self._monotonic)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flights: dict[str, asyncio.Task[_Result]] = {}
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
        here = asyncio.get_running_loop()
        flights = [one for one in self._flights.values() if one.get_loop() is here]
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def __repr__(self) -> str:
        """Show only counts."""
        return (
            f"<TokenRefresher running={len(self._flights)} "
            f"remembered={len(self._known)}>"
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
        held, digest, known = self._latest(tokens, now)
        if known is not None and isinstance(known.result, OptedOut):
            return _report(tokens, held, known.result, now)
        if not self._is_due(held, now):
            return _report(tokens, held, None, now)
        if known is not None and self._monotonic() < known.until:
            return _report(tokens, held, known.result, now)
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

    def _latest(
        self, tokens: IdentityTokens, now: datetime
    ) -> tuple[IdentityTokens, str, _Known | None]:
        """Return the tokens that earlier refreshes obtained, and what is known of them.

        Returns:
            The tokens, the digest of their refresh token, and what is known of it.
        """
        first = digest = _digest(tokens)
        steps = 0
        while (known := self._known.get(digest)) is not None:
            if not isinstance(known.result, IdentityTokens):
                break
            tokens, steps = known.result, steps + 1
            digest = _digest(tokens)
        if steps > 1:
            # If a session is never updated, this chain would grow with each refresh.
            self._known.set(first, _Known(tokens), seconds=_seconds_left(tokens, now))
        return tokens, digest, known

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
    ) -> asyncio.Task[_Result]:
        """Join the running refresh of *held*, or start one."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            # The refreshes of a closed loop never end, so that none must wait for them.
            self._loop, self._flights = loop, {}
        running = self._flights
        flight = running.get(digest)
        if flight is None:
            flight = running[digest] = asyncio.create_task(self._refresh(held, digest))

            def end(task: asyncio.Task[_Result]) -> None:
                running.pop(digest, None)
                # Logged, because a background refresh is not awaited.
                if not task.cancelled() and (error := task.exception()) is not None:
                    name = type(error).__name__
                    logger.warning("Refreshing tokens failed with %s", name)

            flight.add_done_callback(end)
        return flight

    async def _refresh(self, held: IdentityTokens, digest: str) -> _Result:
        """Refresh *held*, and cache the result."""
        task = asyncio.current_task()
        try:
            async with self._lock(digest) as mine:
                if mine is False and held.state(self._now()).usable:
                    return None
                result = await self._ask(held)
        except CONTROL_FLOW as error:
            if not is_stray(error, task):
                raise
            result = TransportError(f"The refresh ended with {type(error).__name__}.")
        self._remember(digest, result)
        return result

    async def _ask(self, held: IdentityTokens) -> IdentityTokens | OptedOut | UID2Error:
        """Call the operator. Return errors instead of raising them."""
        try:
            new = await self._client.refresh_token(held, timeout=self._timeout)
        except _MISUSE:
            raise
        except UID2Error as error:
            # The error is cached, and its traceback would contain tokens.
            return fresh_error(error)
        if isinstance(new, OptedOut):
            return new
        # The client has compared the reply with the current tokens. Those that were
        # refreshed before are not new either, and _latest must not form a cycle.
        known = self._known.get(_digest(new))
        if known is not None and isinstance(known.result, IdentityTokens):
            return replay_error(
                "The refresh reply repeats earlier tokens.", "refresh_token"
            )
        if not new.state(self._now()).usable:
            return replay_error(
                "The refreshed tokens have expired.", "identity_expires"
            )
        return replace(new, extra=held.extra)

    def _remember(
        self, digest: str, result: IdentityTokens | OptedOut | UID2Error
    ) -> None:
        """Cache the result of a refresh for as long as it applies."""
        if isinstance(result, UID2Error):
            self._pause_after(digest, result)
            return
        if isinstance(result, OptedOut):
            seconds = OPT_OUT_KEPT.total_seconds()
            self._known.set(digest, _Known(result), seconds=seconds)
            return
        now = self._now()
        self._known.set(digest, _Known(result), seconds=_seconds_left(result, now))
        usable = (result.identity_expires - now).total_seconds()
        interval = min(max(usable * _INTERVAL_PART, _LEAST_INTERVAL), _MOST_INTERVAL)
        # New tokens that would be due again too soon.
        if result.refresh_from < now + timedelta(seconds=interval):
            pause = _Known(None, interval, self._monotonic() + interval)
            self._known.set(_digest(result), pause, seconds=interval)

    def _pause_after(self, digest: str, error: UID2Error) -> None:
        """Cache *error* for a pause, which grows with each consecutive one."""
        before, seconds = self._known.get(digest), self._pause
        if before is not None and isinstance(before.result, UID2Error):
            seconds = max(seconds, min(before.pause * 2, _LONGEST_PAUSE))
        pause = _Known(error, seconds, self._monotonic() + seconds)
        self._known.set(digest, pause, seconds=seconds + _FAILURE_KEPT)


def _result(flight: asyncio.Task[_Result]) -> _Result:
    """Return the result of a refresh, or raise its error, as a copy for each caller."""
    if flight.cancelled():
        return TransportError(
            "The refresh was canceled: the refresher was closed, or something cancels "
            "all tasks."
        )
    error = flight.exception()
    if error is not None:
        raise fresh_error(error)
    return flight.result()


def _seconds_left(tokens: IdentityTokens, now: datetime) -> float:
    return (tokens.refresh_expires - now).total_seconds()


def _digest(tokens: IdentityTokens) -> str:
    """Return a digest of the refresh token, which may be any str."""
    return sha256(tokens.refresh_token.encode(errors="surrogatepass")).hexdigest()


def _report(
    given: IdentityTokens, held: IdentityTokens, result: _Result, now: datetime
) -> Freshness:
    """Return what became of the tokens that were *given* and are now *held*."""
    if isinstance(result, OptedOut):
        return Freshness(tokens=None, state=TokenState.OPTED_OUT, changed=True)
    if isinstance(result, IdentityTokens):
        held = result
    # A copy for each caller.
    error = fresh_error(result) if isinstance(result, UID2Error) else None
    state = held.state(now)
    if isinstance(error, _FINAL) or (
        isinstance(error, _UNREFRESHABLE) and not state.usable
    ):
        state = TokenState.DEAD
    if state is TokenState.DEAD:
        return Freshness(tokens=None, state=state, changed=True, error=error)
    return Freshness(tokens=held, state=state, changed=held is not given, error=error)


strip_tracebacks(globals())
