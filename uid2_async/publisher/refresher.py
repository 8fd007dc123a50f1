"""Keep identity tokens fresh: when to refresh, and once for all concurrent callers.

docs/protocol.md 2.2: old tokens stay valid until they expire, so a refresh that fails
or is made twice does no harm; a reply carries no nonce, so one that repeats what is
held, or has already expired, is not taken.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeAlias

import attrs
from msgspec.structs import replace

from uid2_async._failures import CONTROL_FLOW, fresh_error, is_stray
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock, Monotonic, monotonic_of, system_clock
from uid2_async.errors import (
    ClientClosedError,
    ClientForkError,
    ClientLoopError,
    ConfigError,
    ProtocolError,
    TransportError,
    UID2Error,
)
from uid2_async.identity_tokens import IdentityTokens, TokenState
from uid2_async.models import OptedOut
from uid2_async.protocol.tokens import REFRESH_PATH
from uid2_async.publisher.freshness import Freshness, Outcome, report
from uid2_async.publisher.session import OPT_OUT_KEPT
from uid2_async.publisher.ttl_cache import TTLCache

if TYPE_CHECKING:
    from uid2_async.client import UID2Client
    from uid2_async.client_side import ClientSideClient

__all__ = ["RefreshLock", "TokenRefresher"]

RefreshLock: TypeAlias = Callable[[str], AbstractAsyncContextManager[object]]
"""Makes an async context manager for the digest of a refresh token; it may yield False
to say that another process refreshes or has just refreshed these tokens."""

_logger = logging.getLogger("uid2_async")

# The pause after repeated failures doubles up to this many seconds.
_LONGEST_PAUSE: Final = 60.0
# For how many seconds after its pause a failure still counts as repeated.
_FAILURE_KEPT: Final = 600.0
# Seconds between two successful refreshes of one person's tokens, at least and at most,
# and the part of the new tokens' life between these bounds.
_LEAST_INTERVAL: Final = 5.0
_MOST_INTERVAL: Final = 60.0
_INTERVAL_PART: Final = 0.1
# The whole of the jitter is at most this part of the time that is left to refresh.
_JITTER_PART: Final = 0.1
# Mistakes of the program, which no page should hide.
_MISUSE: Final = (ClientClosedError, ClientForkError, ClientLoopError, ConfigError)


@attrs.frozen
class _Failure:
    """Why a refresh failed, and when the next one is allowed."""

    error: UID2Error
    pause: float
    until: float


class TokenRefresher:
    """Refreshes identity tokens when they are due, as often as needed and no more.

    Call :meth:`ensure_fresh` with the tokens of the session on each page view. The
    refresher remembers what it has learnt, bounded in size and time: new tokens, so
    that further requests with an old session do not refresh again; failures, so that
    an outage does not slow down each page; and opt-outs, so that nobody who has opted
    out is asked about for 72 hours. Use one per process, in the event loop of the
    client, and close it before the client.

    Whatever the clocks and the replies say, the operator is asked about one person's
    tokens at most once a minute after a success (every 5 seconds if the new tokens live
    for less than a minute, in between a tenth of their life), and after failures once
    per *pause*, which doubles up to a minute. So tokens that come back already due,
    which happens if this machine's clock is an hour ahead, cause 60 requests an hour
    and not one per page view. A refresh is due an hour after the last one by default.

    Pauses and what is remembered are measured by a monotonic clock that keeps running
    while the machine is suspended: setting the wall clock does not change them. Only
    the instants in the tokens themselves are compared with *clock*.

    Single-flight is per process: N processes make at most N refreshes, which does no
    harm. *lock* makes it one. It is called with the SHA-256 of the refresh token in hex
    and gives an async context manager; where that yields False, another process
    refreshes or has just done so, and the held tokens are kept for as long as they are
    usable. With redis-py::

        @asynccontextmanager
        async def first_of_all(digest: str) -> AsyncIterator[bool]:
            won = await redis.set(f"uid2:refresh:{digest}", 1, nx=True, ex=60)
            yield bool(won)  # the key stays, for callers that come later

        TokenRefresher(client, lock=first_of_all)

    Errors of the lock itself are raised by :meth:`ensure_fresh`: catch them in the lock
    and yield True if a page shall outlive your Redis.

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
        """Prepare; nothing runs yet.

        Args:
            client: Who calls the operator; it is not closed with the refresher.
            clock: Gives the time as an aware datetime; the system's by default.
            monotonic: Gives seconds that only increase, for durations; by default
                ``clock.monotonic`` if there is such, or else the system's.
            lock: One refresh for several processes; see above.
            background: Whether tokens that are due but usable are returned at once and
                refreshed in a task, whose result the next call gives. Not for processes
                that are frozen between requests.
            timeout: How long one refresh may take with its retries, in seconds: a page
                waits for it.
            jitter: Up to how many seconds after refresh_from a refresh is made, so that
                not all come at once; never more than a tenth of the time up to
                identity_expires.
            pause: For how many seconds after a failure the same tokens are not
                refreshed again; the error is given meanwhile. It doubles with each
                failure in a row, up to a minute.
            margin: By how many seconds tokens are taken for older than this machine's
                clock says, in case it is slow.
            remember: How many new tokens, failures and opt-outs are kept, of each.

        Raises:
            ConfigError: If a number is negative, or *timeout* or *remember* is zero.
        """
        if not (timeout > 0 and remember > 0):
            raise ConfigError("timeout and remember must be above zero.")
        if not (jitter >= 0 and pause >= 0 and margin >= 0):
            raise ConfigError("jitter, pause and margin must not be negative.")
        self._client = client
        self._clock = clock or system_clock
        self._lock = lock or _no_lock
        self._background = background
        self._timeout = timeout
        self._jitter = timedelta(seconds=jitter)
        self._pause = pause
        self._margin = timedelta(seconds=margin)
        self._random = _random
        self._monotonic = monotonic_of(clock, monotonic)
        self._renewed = TTLCache[IdentityTokens](remember, self._monotonic)
        self._failed = TTLCache[_Failure](remember, self._monotonic)
        self._opted_out = TTLCache[OptedOut](remember, self._monotonic)
        # Tokens that have only just come, and would be due again too soon.
        self._resting = TTLCache[float](remember, self._monotonic)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flights: dict[str, asyncio.Task[Outcome]] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        """Enter; nothing runs before the first refresh."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop what runs."""
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the refreshes that run and wait for their end; safe to call twice.

        Callers that wait for one get the current tokens and a TransportError.
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
        """Give *tokens*, or what has become of them, refreshed if that is due.

        A caller who is cancelled leaves the refresh to the others who wait for it.

        Args:
            tokens: What the session holds.

        Returns:
            The tokens to hold and their state; see :class:`~uid2_async.Freshness`. A
            failed refresh does not raise: its error is in the result.

        Raises:
            RuntimeError: If the refresher is closed.
            UID2Error: Only if the client cannot be used at all: when it is closed, in
                another event loop, after a fork, or with a wrong setting.
        """
        if self._closed:
            raise RuntimeError("The refresher is closed.")
        now = self._now()
        held = self._latest(tokens)
        digest = _digest(held)
        if self._opted_out.get(digest) is not None:
            return report(tokens, held, OptedOut(), now)
        if not self._is_due(held, now) or self._resting.get(digest) is not None:
            return report(tokens, held, None, now)
        failure = self._failed.get(digest)
        if failure is not None and self._monotonic() < failure.until:
            return report(tokens, held, fresh_error(failure.error), now)
        flight = self._single_flight(held, digest)
        if self._background and held.state(now).usable:
            return report(tokens, held, None, now)
        # Not awaited directly: if the waiter is canceled, the refresh continues.
        await asyncio.wait({flight})
        return report(tokens, held, _result(flight), self._now())

    def _now(self) -> datetime:
        """Read the clock; tokens are judged by the later edge of what it may mean."""
        # Where the operator's clock is known to be ahead, the tokens are older still.
        ahead = timedelta(seconds=max(0.0, self._client.clock_skew))
        return self._clock() + self._margin + ahead

    def _latest(self, tokens: IdentityTokens) -> IdentityTokens:
        """Return the tokens that earlier refreshes obtained for *tokens*."""
        first = _digest(tokens)
        digest, steps = first, 0
        while (renewed := self._renewed.get(digest)) is not None:
            tokens, digest, steps = renewed, _digest(renewed), steps + 1
        if steps > 1:
            # A session that is never written would make the way longer each time.
            self._keep_renewed(first, tokens)
        return tokens

    def _keep_renewed(self, digest: str, new: IdentityTokens) -> None:
        """Remember *new* tokens for as long as they can be refreshed."""
        life = (new.refresh_expires - self._now()).total_seconds()
        self._renewed.set(digest, new, seconds=life)

    def _is_due(self, held: IdentityTokens, now: datetime) -> bool:
        """Return whether to refresh now; due tokens wait for their share of jitter."""
        state = held.state(now)
        if state is not TokenState.DUE:
            return state is TokenState.EXPIRED_REFRESHABLE
        left = held.identity_expires - held.refresh_from
        jitter = min(self._jitter, left * _JITTER_PART)
        return now >= held.refresh_from + jitter * self._random()

    def _single_flight(
        self, held: IdentityTokens, digest: str
    ) -> asyncio.Task[Outcome]:
        """Join the running refresh of *held*, or start one."""
        running = self._running()
        flight = running.get(digest)
        if flight is None:
            flight = running[digest] = asyncio.create_task(self._refresh(held, digest))

            def end(task: asyncio.Task[Outcome]) -> None:
                running.pop(digest, None)
                _log_end(task)

            flight.add_done_callback(end)
        return flight

    def _running(self) -> dict[str, asyncio.Task[Outcome]]:
        """Return the refreshes of the running loop.

        Those of a loop that was closed meanwhile never end: nobody may wait for them.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop, self._flights = loop, {}
        return self._flights

    async def _refresh(self, held: IdentityTokens, digest: str) -> Outcome:
        """Refresh *held*, and remember the result."""
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
        """Keep the result of a refresh for as long as it counts."""
        if isinstance(outcome, IdentityTokens):
            self._remember_tokens(digest, outcome)
        elif isinstance(outcome, OptedOut):
            seconds = OPT_OUT_KEPT.total_seconds()
            self._opted_out.set(digest, outcome, seconds=seconds)
        else:
            before, pause = self._failed.get(digest), self._pause
            if before is not None:
                pause = max(pause, min(before.pause * 2, _LONGEST_PAUSE))
            failure = _Failure(outcome, pause, self._monotonic() + pause)
            self._failed.set(digest, failure, seconds=pause + _FAILURE_KEPT)

    def _remember_tokens(self, digest: str, new: IdentityTokens) -> None:
        """Keep *new* tokens, and let them rest if they would be due again too soon."""
        now = self._now()
        self._keep_renewed(digest, new)
        usable = (new.identity_expires - now).total_seconds()
        interval = min(max(usable * _INTERVAL_PART, _LEAST_INTERVAL), _MOST_INTERVAL)
        if new.refresh_from < now + timedelta(seconds=interval):
            self._resting.set(_digest(new), interval, seconds=interval)

    async def _ask(self, held: IdentityTokens) -> IdentityTokens | OptedOut | UID2Error:
        """Ask the operator. A failure is returned, not raised."""
        try:
            reply = await self._client.refresh_token(held, timeout=self._timeout)
            if isinstance(reply, IdentityTokens):
                self._check(held, reply)
        except _MISUSE:
            raise
        except UID2Error as error:
            # It is kept for a while: the frames of a traceback hold tokens.
            return fresh_error(error)
        if isinstance(reply, OptedOut):
            return reply
        return replace(reply, extra=held.extra)

    def _check(self, held: IdentityTokens, new: IdentityTokens) -> None:
        """Reject a reply that may be a replayed one (docs/protocol.md 2.2)."""
        now = self._now()
        if not new.state(now).usable:
            raise _refused("The refreshed tokens have expired.", "identity_expires")
        for name in ("advertising_token", "refresh_token"):
            if compare_digest(_bytes(getattr(held, name)), _bytes(getattr(new, name))):
                raise _refused("The refresh reply repeats the current tokens.", name)
        # Tokens that were refreshed before are not new, and _latest must not form a
        # cycle.
        if self._renewed.get(_digest(new)) is not None:
            raise _refused("The refresh reply repeats earlier tokens.", "refresh_token")


def _result(flight: asyncio.Task[Outcome]) -> Outcome:
    """Return what a finished refresh gave, or raise it; each caller gets its own."""
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


def _log_end(flight: asyncio.Task[Outcome]) -> None:
    """Log what a refresh raised: in the background nobody waits for it."""
    error = None if flight.cancelled() else flight.exception()
    if error is not None:
        _logger.warning("Refreshing tokens failed with %s", type(error).__name__)


def _refused(message: str, name: str) -> ProtocolError:
    """Return the error for a well-formed reply that cannot be trusted."""
    error = ProtocolError(
        message,
        hint="Check this machine's clock. If it is right, replies are being replayed.",
        path=f"body.{name}",
    )
    error.endpoint = REFRESH_PATH
    return error


def _digest(tokens: IdentityTokens) -> str:
    """Return a digest of the refresh token, to identify the tokens."""
    return sha256(_bytes(tokens.refresh_token)).hexdigest()


def _bytes(token: str) -> bytes:
    """Return the bytes of a stored token, which may be any str."""
    return token.encode(errors="surrogatepass")


def _no_lock(_digest: str) -> AbstractAsyncContextManager[object]:
    return nullcontext()


strip_tracebacks(globals())
