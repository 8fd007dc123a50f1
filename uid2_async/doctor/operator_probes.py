"""What an operator answers to harmless calls.

Nothing here changes anything or concerns a person: test identities are asked for, keys
are fetched, and a logout names nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any, Final

import attrs

from uid2_async._call import CLIENT_VERSION, Call
from uid2_async.client import UID2Client
from uid2_async.clock import Clock
from uid2_async.environment import Settings
from uid2_async.errors import ClockSkewError, TransportError, UID2Error
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Email, datetime_from_ms, ms_from_datetime
from uid2_async.protocol import tokens
from uid2_async.protocol.envelope import AesGcmEnvelope, Opened
from uid2_async.protocol.keyring import BIDSTREAM_PATH, SHARING_PATH
from uid2_async.protocol.mapping import MAP_V3_PATH
from uid2_async.retry import RetryPolicy
from uid2_async.transport import Reply, Request, SessionPool

__all__ = ["Answer", "Interview", "Question", "date_offset", "knock"]

OPTED_OUT: Final = "optout@example.com"
REFRESH_OPTED_OUT: Final = "refresh-optout@example.com"
VALID: Final = "validate@example.com"


class Question(StrEnum):
    """The endpoints that are asked; all but the last need a role."""

    GENERATE = tokens.GENERATE_PATH
    MAP = MAP_V3_PATH
    SHARING = SHARING_PATH
    BIDSTREAM = BIDSTREAM_PATH
    LOGOUT = tokens.LOGOUT_PATH
    REFRESH = tokens.REFRESH_PATH


# No base64, so that no operator tries to decrypt it.
_NO_TOKEN: Final = b"not-a-token"


async def knock(pool: SessionPool, *, timeout: float) -> Reply | UID2Error:
    """Ask for what needs an API key without one.

    Args:
        pool: Where to send it.
        timeout: How long it may take, in seconds.

    Returns:
        The reply, or why there is none.
    """
    request = Request(
        path=Question.GENERATE,
        headers={
            "Accept-Encoding": "identity",
            "Content-Type": "text/plain",
            "User-Agent": CLIENT_VERSION,
        },
        body=b"",
        timeout=timeout,
    )
    try:
        return await pool.send(request)
    except UID2Error as error:
        return error


def date_offset(reply: Reply | UID2Error, now: datetime) -> float | None:
    """Read how many seconds the ``Date`` of *reply* is ahead of *now*, if it has one.

    Operators send none, what stands before them may.
    """
    if isinstance(reply, UID2Error) or "date" not in reply.headers:
        return None
    try:
        date = parsedate_to_datetime(reply.headers["date"])
        return (date - now).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None


@attrs.frozen(kw_only=True)
class Answer:
    """What became of one call.

    Attributes:
        value: What it returned; never shown.
        error: Why it returned nothing, or None.
    """

    value: Any = attrs.field(default=None, repr=False)
    error: UID2Error | None = None


class _ListeningEnvelope(AesGcmEnvelope):
    """The usual envelope, which hears the operator's clock."""

    def __init__(self) -> None:
        """Start without having heard anything."""
        self.server_ms: int | None = None

    def open(self, body: bytes, *, key: bytes, nonce: bytes | None) -> Opened:
        """Open a reply, and note the time in it."""
        opened = super().open(body, key=key, nonce=nonce)
        self.server_ms = opened.server_ms
        return opened


class Interview:
    """Asks an operator, one call at a time and without retries.

    Attributes:
        answers: What has been answered.
        seconds: How long each answered call took.
        offset: The operator's clock minus this machine's in seconds, where it is known.
        refused_clock: Whether the operator refused this machine's time.
    """

    def __init__(
        self, settings: Settings, pool: SessionPool, *, timeout: float, clock: Clock
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            settings: Checked settings.
            pool: What carries the calls; it is not closed here.
            timeout: How long each call may take, in seconds.
            clock: This machine's.
        """
        self.answers: dict[Question, Answer] = {}
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

    async def ask_for_roles(self) -> None:
        """Make a call for each role, and one that tells whether the key is known.

        Where one is not answered at all, the others are not made.
        """
        for question in Question:
            await self._ask(question)
            error = self.answers[question].error
            if isinstance(error, TransportError):
                return
            self.refused_clock |= isinstance(error, ClockSkewError)

    async def find_offset(self, hint: float | None) -> None:
        """Find how far the clocks are apart, by trying times until one is accepted.

        Args:
            hint: What a ``Date`` header says of it, in seconds.
        """
        question = next(
            one
            for one, answer in self.answers.items()
            if isinstance(answer.error, ClockSkewError)
        )
        for shift in _shifts(hint):
            self._shift_ms = round(shift * 1000)
            await self._ask(question)
            error = self.answers[question].error
            if isinstance(error, TransportError):
                return
            if not isinstance(error, ClockSkewError):
                # A reply tells it exactly, a refusal for another reason about.
                self.offset = shift if self.offset is None else self.offset
                return

    async def ask_for_test_identities(self) -> None:
        """Refresh the tokens of a test identity that opts out in between."""
        made = await self._answer(_generate(self._client, REFRESH_OPTED_OUT))
        if isinstance(made.value, IdentityTokens):
            made = await self._answer(self._client.refresh_token(made.value))
        self.answers[Question.REFRESH] = made

    async def _ask(self, question: Question) -> None:
        """Make the call, and keep the answer."""
        self.answers[question] = await self._answer(_CALLS[question](self._client))

    async def _answer(self, call: Awaitable[object]) -> Answer:
        """Await *call*; note how long it took, and what the operator's clock says."""
        now = asyncio.get_running_loop().time
        self._envelope.server_ms = None
        before_ms, started = self._now_ms(), now()
        try:
            answer = Answer(value=await call)
        except UID2Error as error:
            answer = Answer(error=error)
        if not isinstance(answer.error, TransportError):
            self.seconds.append(now() - started)
        server_ms = self._envelope.server_ms
        if server_ms is not None:
            middle_ms = (before_ms + self._now_ms()) / 2
            self.offset = (server_ms - middle_ms) / 1000
        return answer

    def _now_ms(self) -> int:
        return ms_from_datetime(self._clock())


def _generate(client: UID2Client, email: str) -> Awaitable[object]:
    """Generate without a consent string, and without the warning of that in EUID."""
    call = Call(
        path=tokens.GENERATE_PATH,
        payload=tokens.build_generate_request(Email(email)),
        parse=tokens.parse_tokens_reply,
    )
    return client.run_call(call)


def _log_nobody_out(client: UID2Client) -> Awaitable[object]:
    """Ask for a logout without saying whose."""
    call = Call(path=tokens.LOGOUT_PATH, parse=tokens.parse_logout_reply)
    return client.run_call(call)


def _refresh_nothing(client: UID2Client) -> Awaitable[object]:
    """Refresh what is no token: only whom it knows does an operator tell so."""
    call = Call(
        path=tokens.REFRESH_PATH,
        payload=_NO_TOKEN,
        parse=tokens.parse_refresh_reply,
        bare=True,
        reply_key=b"",
    )
    return client.run_call(call)


_CALLS: Final[Mapping[Question, Callable[[UID2Client], Awaitable[object]]]] = {
    Question.GENERATE: lambda client: _generate(client, OPTED_OUT),
    Question.MAP: lambda client: client.map_identities([OPTED_OUT, VALID]),
    Question.SHARING: UID2Client.fetch_sharing_keys,
    Question.BIDSTREAM: UID2Client.fetch_bidstream_keys,
    Question.LOGOUT: _log_nobody_out,
    Question.REFRESH: _refresh_nothing,
}

# An operator takes times from 120 s ago to 119 s ahead (docs/protocol.md 1.4).
_STEP_SECONDS: Final = 200
_STEPS: Final = 9
_HOUR_SECONDS: Final = 3_600
_HOURS: Final = 14


def _shifts(hint: float | None) -> Iterator[float]:
    """List the offsets to try: half an hour in steps, and what wrong zones make."""
    if hint is not None:
        yield hint
    for step in range(1, _STEPS + 1):
        yield from (step * _STEP_SECONDS, -step * _STEP_SECONDS)
    for hour in range(1, _HOURS + 1):
        yield from (hour * _HOUR_SECONDS, -hour * _HOUR_SECONDS)
