"""Harmless calls to an operator.

They change no data and affect nobody. They use test identities, fetch keys, and log out
without an identity.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.clock import Clock
from uid2_async.config import Settings
from uid2_async.errors import ClockSkewError, TransportError, UID2Error
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Email, datetime_from_ms, ms_from_datetime
from uid2_async.protocol import tokens
from uid2_async.protocol.envelope import AesGcmEnvelope, OpenedReply
from uid2_async.protocol.keyring import BIDSTREAM_PATH, SHARING_PATH
from uid2_async.protocol.mapping import MAP_V3_PATH
from uid2_async.protocol.wire import Call
from uid2_async.retry import RetryPolicy
from uid2_async.transport import SessionPool

OPTED_OUT: Final = "optout@example.com"
OPTED_OUT_ON_REFRESH: Final = "refresh-optout@example.com"
NEVER_OPTED_OUT: Final = "validate@example.com"


class ProbeEndpoint(StrEnum):
    """The endpoints to call. All but the last require a role."""

    GENERATE = tokens.GENERATE_PATH
    MAP = MAP_V3_PATH
    SHARING = SHARING_PATH
    BIDSTREAM = BIDSTREAM_PATH
    LOGOUT = tokens.LOGOUT_PATH
    REFRESH = tokens.REFRESH_PATH


# Not base64, so that no operator tries to decrypt it.
_NO_TOKEN: Final = b"not-a-token"


@attrs.frozen(kw_only=True)
class CallOutcome:
    """The outcome of one call.

    Attributes:
        value: The return value, which is never shown.
        error: The error that was raised, or None.
    """

    value: Any = attrs.field(default=None, repr=False)
    error: UID2Error | None = None


class _ListeningEnvelope(AesGcmEnvelope):
    """The standard envelope, which also records the operator's time in the last reply.

    :attr:`UID2Client.clock_skew` cannot be used, because it is 0 for an offset below 5
    s.
    """

    def __init__(self) -> None:
        self.server_ms: int | None = None

    def open(self, body: bytes, *, key: bytes, nonce: bytes | None) -> OpenedReply:
        """Decrypt a reply, and record its time."""
        opened = super().open(body, key=key, nonce=nonce)
        self.server_ms = opened.server_ms
        return opened


class OperatorProbe:
    """Calls an operator, one call at a time and without retries.

    Attributes:
        outcomes: The latest outcome of each endpoint.
        seconds: The duration of each call that got a reply, in seconds.
        offset: The operator's time minus this machine's in seconds, or None if unknown.
        refused_clock: Whether the operator rejected this machine's time.
    """

    def __init__(
        self, settings: Settings, pool: SessionPool, *, timeout: float, clock: Clock
    ) -> None:
        """Prepare the calls, without sending anything. *pool* is not closed here."""
        self.outcomes: dict[ProbeEndpoint, CallOutcome] = {}
        self.seconds: list[float] = []
        self.offset: float | None = None
        self.refused_clock: bool = False
        self._clock = clock
        self._shift_ms = 0
        self._envelope = _ListeningEnvelope()
        self._client = UID2Client(
            settings.base_url,
            api_key=settings.api_key,
            client_secret=settings.client_secret,
            scope=settings.scope,
            transport=pool,
            envelope=self._envelope,
            retry=RetryPolicy.never(),
            timeout=timeout,
            allow_http=settings.allow_http,
            clock=lambda: datetime_from_ms(self._now_ms() + self._shift_ms),
        )

    async def call_for_roles(self) -> None:
        """Make a call for each role, and one that shows whether the key is known.

        Stops after the first call without a reply.
        """
        for endpoint in ProbeEndpoint:
            await self._call(endpoint)
            error = self.outcomes[endpoint].error
            if isinstance(error, TransportError):
                return
            self.refused_clock |= isinstance(error, ClockSkewError)

    async def find_offset(self, hint: float | None) -> None:
        """Find the clock offset by trying different times until one is accepted.

        A ``Date`` header may give a *hint* in seconds.
        """
        endpoint = next(
            one
            for one, outcome in self.outcomes.items()
            if isinstance(outcome.error, ClockSkewError)
        )
        for shift in _shifts(hint):
            self._shift_ms = round(shift * 1000)
            await self._call(endpoint)
            error = self.outcomes[endpoint].error
            if isinstance(error, TransportError):
                return
            if not isinstance(error, ClockSkewError):
                # An encrypted reply contains the exact time. Any other accepted call
                # only bounds it.
                self.offset = shift if self.offset is None else self.offset
                return

    async def call_for_test_identities(self) -> None:
        """Refresh tokens of the test identity that is opted out only on refresh."""
        outcome = await self._run(_generate(self._client, OPTED_OUT_ON_REFRESH))
        if isinstance(outcome.value, IdentityTokens):
            outcome = await self._run(self._client.refresh_token(outcome.value))
        self.outcomes[ProbeEndpoint.REFRESH] = outcome

    async def _call(self, endpoint: ProbeEndpoint) -> None:
        """Make a call, and store its outcome."""
        self.outcomes[endpoint] = await self._run(_CALLS[endpoint](self._client))

    async def _run(self, call: Awaitable[object]) -> CallOutcome:
        """Await *call*, and record its duration and the operator's time."""
        now = asyncio.get_running_loop().time
        self._envelope.server_ms = None
        before_ms, started = self._now_ms(), now()
        try:
            outcome = CallOutcome(value=await call)
        except UID2Error as error:
            outcome = CallOutcome(error=error)
        if not isinstance(outcome.error, TransportError):
            self.seconds.append(now() - started)
        server_ms = self._envelope.server_ms
        if server_ms is not None:
            middle_ms = (before_ms + self._now_ms()) / 2
            self.offset = (server_ms - middle_ms) / 1000
        return outcome

    def _now_ms(self) -> int:
        return ms_from_datetime(self._clock())


def _generate(client: UID2Client, email: str) -> Awaitable[object]:
    """Generate a token without a consent string. EUID would warn about it."""
    return client.run_call(tokens.generate_call(Email(email)))


_CALLS: Final[Mapping[ProbeEndpoint, Callable[[UID2Client], Awaitable[object]]]] = {
    ProbeEndpoint.GENERATE: lambda client: _generate(client, OPTED_OUT),
    ProbeEndpoint.MAP: lambda client: client.map_identities(
        [OPTED_OUT, NEVER_OPTED_OUT]
    ),
    ProbeEndpoint.SHARING: UID2Client.fetch_sharing_keys,
    ProbeEndpoint.BIDSTREAM: UID2Client.fetch_bidstream_keys,
    # Without an identity, nobody is opted out.
    ProbeEndpoint.LOGOUT: lambda client: client.run_call(
        Call(path=tokens.LOGOUT_PATH, parse=tokens.parse_logout_reply)
    ),
    # The operator calls the token invalid only if the API key is valid.
    ProbeEndpoint.REFRESH: lambda client: client.run_call(
        Call(
            path=tokens.REFRESH_PATH,
            payload=_NO_TOKEN,
            parse=tokens.parse_refresh_reply,
            bare=True,
            reply_key=b"",
        )
    ),
}

# Operators accept times from 120 s ago to 119 s ahead (docs/protocol.md 1.4).
_SHIFT_SECONDS: Final = 200
_SHIFT_STEPS: Final = 9
_HOUR_SECONDS: Final = 3_600
_HOURS: Final = 14


def _shifts(hint: float | None) -> Iterator[float]:
    """Yield offsets to try: up to half an hour, then those of wrong time zones."""
    if hint is not None:
        yield hint
    for step in range(1, _SHIFT_STEPS + 1):
        yield from (step * _SHIFT_SECONDS, -step * _SHIFT_SECONDS)
    for hour in range(1, _HOURS + 1):
        yield from (hour * _HOUR_SECONDS, -hour * _HOUR_SECONDS)


strip_tracebacks(globals())
