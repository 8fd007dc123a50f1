"""The pipeline: slot, seal, send, open, parse, with the retry around all of it.

Sealing happens in each attempt and after every wait, so that each envelope has a fresh
time, nonce and IV and never ages in a queue (docs/protocol.md 1.4).
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from typing import ClassVar, Final, Generic, TypeAlias, TypeVar

from uid2_async._version import __version__
from uid2_async.errors import (
    CallTimeoutError,
    ConfigError,
    EnvelopeError,
    OperatorError,
    UID2Error,
)
from uid2_async.hooks import (
    AttemptFailed,
    AttemptStarted,
    CallFinished,
    CallStarted,
    Event,
    Hook,
    RetryScheduled,
    emit,
)
from uid2_async.models import ms_from_datetime
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import IV_BYTES, NONCE_BYTES, Envelope
from uid2_async.protocol.reply import error_from_reply
from uid2_async.retry import RetryPolicy
from uid2_async.transport import Reply, Request, Transport
from uid2_async.veiled import Veiled

__all__ = [
    "CLIENT_VERSION",
    "Call",
    "Credentials",
    "OwnCrypto",
    "Pipeline",
    "Slots",
    "positive",
]

T = TypeVar("T")

OwnCrypto: TypeAlias = Callable[
    [int, Callable[[int], bytes]], tuple[bytes, Callable[[bytes], bytes]]
]
"""Seals one attempt: takes the time in ms and a source of random bytes, and gives the
body and what opens the body of the reply."""

logger = logging.getLogger("uid2_async")

CLIENT_VERSION: Final = f"uid2-async-{__version__}"

# How far the operator's clock in a reply may be from ours: a bound on replays beyond
# the nonce. Requests are refused from two minutes on.
_PLAUSIBLE_MS: Final = 10 * 60 * 1000
_OK: Final = 200
_TEXT: Final = "text/plain"
_BINARY: Final = "application/octet-stream"


class Credentials(Veiled, frozen=True, kw_only=True):
    """An API key and its client secret.

    Attributes:
        api_key: Sent with each request.
        secret: 32 bytes, never sent.
    """

    api_key: str
    secret: bytes


class Call(Veiled, Generic[T], frozen=True, kw_only=True):
    """What to ask, and how to read the answer.

    Attributes:
        path: The endpoint.
        payload: The request's JSON, or the bare refresh token.
        parse: Reads the opened reply.
        binary: Whether raw bytes go both ways instead of base64 text.
        bare: Whether the payload is sent as it is (token/refresh).
        reply_key: What opens the reply where it is not the client secret; empty where
            the reply comes in the clear.
        own_crypto: What seals the request and opens the reply where that is not the
            envelope's affair (token/client-generate); the payload does not count then.
        max_reply_bytes: How large the reply may be.
    """

    shown: ClassVar[tuple[str, ...]] = ("path", "binary")

    path: str
    payload: bytes = b""
    parse: Callable[[bytes], T]
    binary: bool = False
    bare: bool = False
    reply_key: bytes | None = None
    own_crypto: OwnCrypto | None = None
    max_reply_bytes: int = 1024 * 1024


class Pipeline:
    """Carries calls through envelope, transport and retry policy."""

    def __init__(
        self,
        *,
        transport: Transport,
        envelope: Envelope,
        credentials: Credentials | None,
        clock: Callable[[], datetime],
        slots: Slots,
        headers: Mapping[str, str] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Keep the seams.

        Args:
            transport: Carries the requests.
            envelope: Seals them and opens the replies.
            credentials: None where no call needs an API key or its secret.
            clock: Gives aware datetimes.
            slots: Bounds the attempts at once.
            headers: What to send beside the usual headers.
            random_bytes: Gives as many random bytes as asked for.
        """
        self._transport = transport
        self._envelope = envelope
        self._secret = b"" if credentials is None else credentials.secret
        self._own_headers = dict(headers or {})
        if credentials is not None:
            self._own_headers["Authorization"] = f"Bearer {credentials.api_key}"
        self._clock = clock
        self._slots = slots
        self._random_bytes = random_bytes
        self.clock_skew: float = 0.0

    async def run(
        self,
        call: Call[T],
        *,
        retry: RetryPolicy,
        timeout: float,
        hooks: Iterable[Hook] = (),
    ) -> T:
        """Make *call*, with retries, within *timeout* seconds.

        Raises:
            UID2Error: What the last attempt met, with endpoint, trace id and attempts.
        """
        loop = asyncio.get_running_loop()
        run = _CallRun(
            self,
            call,
            hooks=hooks,
            deadline=loop.time() + timeout,
            attempt_timeout=retry.attempt_timeout,
        )
        run.emit(CallStarted(endpoint=call.path))
        started = loop.time()
        error_type: str | None = None
        try:
            return await retry.run(
                run.attempt,
                deadline=run.deadline,
                now=loop.time,
                on_retry=run.retry_scheduled,
            )
        except BaseException as error:
            error_type = type(error).__name__
            if isinstance(error, UID2Error):
                run.gave_up(error)
            raise
        finally:
            run.emit(
                CallFinished(
                    endpoint=call.path,
                    attempts=run.attempts,
                    trace_id=run.trace_id,
                    elapsed=loop.time() - started,
                    error_type=error_type,
                    region=run.region,
                    skew=self.clock_skew,
                )
            )

    async def exchange(
        self,
        call: Call[T],
        *,
        trace_id: str,
        deadline: float,
        attempt_timeout: float,
        fresh: bool,
        on_reply: Callable[[Reply], None],
    ) -> T:
        """Make one attempt: everything that is done anew each time."""
        loop = asyncio.get_running_loop()
        async with self._slots.take(deadline):
            body, open_reply = self._seal(call, self._now_ms())
            request = Request(
                path=call.path,
                headers=self._headers(call, trace_id),
                body=body,
                timeout=max(0.0, min(attempt_timeout, deadline - loop.time())),
                max_reply_bytes=call.max_reply_bytes,
                fresh_connection=fresh,
            )
            reply = await self._transport.send(request)
        on_reply(reply)
        if reply.status != _OK:
            raise error_from_reply(
                reply.status, reply.headers, reply.body, now_ms=self._now_ms()
            )
        return call.parse(open_reply(reply.body))

    def _now_ms(self) -> int:
        return ms_from_datetime(self._clock())

    def _headers(self, call: Call[T], trace_id: str) -> dict[str, str]:
        """Make the headers of one attempt."""
        return {
            "Accept-Encoding": "identity",
            "Content-Type": _BINARY if call.binary else _TEXT,
            "UID-Trace-Id": trace_id,
            "User-Agent": CLIENT_VERSION,
            "X-UID2-Client-Version": CLIENT_VERSION,
            **self._own_headers,
        }

    def _seal(
        self, call: Call[T], now_ms: int
    ) -> tuple[bytes, Callable[[bytes], bytes]]:
        """Make the body of one attempt, and what opens the reply to it."""
        if call.own_crypto is not None:
            return call.own_crypto(now_ms, self._random_bytes)
        if call.bare:
            return call.payload, partial(self._open, call, None, now_ms)
        nonce = self._random_bytes(NONCE_BYTES)
        sealed = self._envelope.seal(
            call.payload,
            key=self._secret,
            now_ms=now_ms,
            nonce=nonce,
            iv=self._random_bytes(IV_BYTES),
        )
        body = sealed if call.binary else base64.encode(sealed)
        return body, partial(self._open, call, nonce, now_ms)

    def _open(
        self, call: Call[T], nonce: bytes | None, now_ms: int, body: bytes
    ) -> bytes:
        """Open a reply; one in the clear is taken only where none other is due."""
        if call.reply_key == b"":
            return body
        key = self._secret if call.reply_key is None else call.reply_key
        sealed = body if call.binary else base64.decode(body)
        if sealed is None:
            raise EnvelopeError
        opened = self._envelope.open(sealed, key=key, nonce=nonce)
        server_ms = opened.server_ms
        if server_ms is not None and abs(server_ms - now_ms) > _PLAUSIBLE_MS:
            raise EnvelopeError
        if server_ms is not None:
            self.clock_skew = (server_ms - now_ms) / 1000
        return opened.payload


class _CallRun(Generic[T]):
    """One call's attempts, as retries and hooks see them."""

    def __init__(
        self,
        pipeline: Pipeline,
        call: Call[T],
        *,
        hooks: Iterable[Hook],
        deadline: float,
        attempt_timeout: float,
    ) -> None:
        self._pipeline = pipeline
        self._call = call
        self._hooks = tuple(hooks)
        self.deadline = deadline
        self._attempt_timeout = attempt_timeout
        self.attempts = 0
        self.trace_id: str | None = None
        self.region: str | None = None

    async def attempt(self, fresh: bool) -> T:
        """Make one attempt under a trace id of its own."""
        self.attempts += 1
        self.trace_id = trace_id = str(uuid.uuid4())
        self.region = None
        self.emit(
            AttemptStarted(
                endpoint=self._call.path, attempt=self.attempts, trace_id=trace_id
            )
        )
        now = asyncio.get_running_loop().time
        started = now()
        try:
            return await self._pipeline.exchange(
                self._call,
                trace_id=trace_id,
                deadline=self.deadline,
                attempt_timeout=self._attempt_timeout,
                fresh=fresh,
                on_reply=self._note_region,
            )
        except UID2Error as error:
            self.region = error.region = error.region or self.region
            error.endpoint = self._call.path
            error.trace_id = trace_id
            error.attempts = self.attempts
            self.emit(
                AttemptFailed(
                    endpoint=self._call.path,
                    attempt=self.attempts,
                    trace_id=trace_id,
                    error_type=type(error).__name__,
                    status=error.status if isinstance(error, OperatorError) else None,
                    elapsed=now() - started,
                    region=self.region,
                )
            )
            raise

    def _note_region(self, reply: Reply) -> None:
        """Remember who answered."""
        self.region = reply.region

    def retry_scheduled(self, attempt: int, delay: float) -> None:
        """Tell hooks and log that another attempt follows."""
        logger.info("%s: attempt %d follows in %.3f s", self._call.path, attempt, delay)
        self.emit(
            RetryScheduled(endpoint=self._call.path, attempt=attempt, delay=delay)
        )

    def gave_up(self, error: UID2Error) -> None:
        """Log once that the call failed; the class alone, whatever the text says."""
        logger.warning(
            "%s failed with %s after %d attempt(s), trace id %s",
            self._call.path,
            type(error).__name__,
            self.attempts,
            self.trace_id,
        )

    def emit(self, event: Event) -> None:
        """Hand *event* to every hook."""
        emit(self._hooks, event)


class Slots:
    """At most so many attempts at once, so that no envelope ages in a queue.

    Bound to the event loop that runs: a client may outlive its loop.
    """

    def __init__(self, size: int) -> None:
        """Allow *size* attempts at once."""
        self._size = size
        self._semaphore = asyncio.Semaphore(size)
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def take(self, deadline: float) -> AsyncIterator[None]:
        """Hold a slot for the length of the block; wait for it until *deadline*.

        Raises:
            CallTimeoutError: If none became free by *deadline*, in the loop's seconds.
        """
        semaphore = self._semaphore_here()
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                taken = await semaphore.acquire()
        if not taken:
            raise CallTimeoutError("No connection became free in time.")
        try:
            yield
        finally:
            semaphore.release()

    def _semaphore_here(self) -> asyncio.Semaphore:
        """Give the semaphore of the running loop."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._semaphore = asyncio.Semaphore(self._size)
        return self._semaphore


def positive(value: float, name: str) -> float:
    """Give back an option, which must be above zero.

    Raises:
        ConfigError: If it is not; *name* is the option's.
    """
    if not value > 0:
        raise ConfigError(f"{name} must be above zero.")
    return value
