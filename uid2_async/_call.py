"""The pipeline: limit, encrypt, send, decrypt and parse, with retries around all of it.

Each attempt encrypts anew after every wait, so that an envelope has a fresh time, nonce
and IV and never expires in a queue (docs/protocol.md 1.4).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Final, Generic, TypeAlias, TypeVar

import attrs

from uid2_async._private import RedactedRepr, Secret, Unpicklable
from uid2_async._traceback import unwrapped
from uid2_async._version import __version__
from uid2_async.clock import Clock, ClockReading, ClockSkew, monotonic_of, ns_clock
from uid2_async.connections import ConnectionLimit
from uid2_async.errors import (
    ClockSkewError,
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
    Hook,
    ReplyMismatch,
    RetryScheduled,
    emit,
)
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import (
    IV_BYTES,
    NONCE_BYTES,
    Envelope,
    OpenedReply,
)
from uid2_async.protocol.reply import error_from_reply, http_date_ms
from uid2_async.retry import Retries, RetryPolicy
from uid2_async.transport import Reply, Request, Transport

T = TypeVar("T")

OwnCrypto: TypeAlias = Callable[
    [int, Callable[[int], bytes]], tuple[bytes, Callable[[bytes], bytes]]
]
"""Encrypts one attempt. Takes the time in ms and a source of random bytes. Returns the
body, and a function that decrypts the body of the reply."""

_OpenReply: TypeAlias = Callable[[bytes], OpenedReply]

logger: logging.Logger = logging.getLogger("uid2_async")

CLIENT_VERSION: Final = f"uid2-async-{__version__}"

# The maximum difference between the time in a reply and ours, which limits replays in
# addition to the nonce. Operators reject requests that differ by two minutes.
_PLAUSIBLE_MS: Final = 10 * 60 * 1000

# A refresh does not use the client secret.
_REPLY_KEY_HINT = (
    "Check that the refresh_response_key belongs to this refresh token, and that no "
    "proxy or captive portal replies instead of the operator."
)
_OK: Final = 200
# Calls strip their tracebacks anyway.
_encode = unwrapped(base64.encode)
_decode = unwrapped(base64.decode)
_TEXT: Final = "text/plain"
_BINARY: Final = "application/octet-stream"


class Credentials(RedactedRepr, Unpicklable, frozen=True, kw_only=True):
    """An API key and its client secret.

    Attributes:
        api_key: The API key, which is sent with each request.
        secret: The client secret, 32 bytes, which is never sent.
    """

    api_key: Secret[str]
    secret: Secret[bytes]


class Call(RedactedRepr, Unpicklable, Generic[T], frozen=True, kw_only=True):
    """A request, and how to parse its reply.

    Attributes:
        path: The endpoint.
        payload: The request's JSON, or the bare refresh token.
        parse: Parses the decrypted reply.
        binary: Whether both bodies are raw bytes instead of base64 text.
        bare: Whether the payload is sent unencrypted (token/refresh).
        reply_key: The key that decrypts the reply. None means the client secret, and
            empty that the reply is not encrypted.
        own_crypto: Encrypts the request and decrypts the reply instead of the envelope
            (token/client-generate). The payload is then ignored.
        max_reply_bytes: The maximum size of the reply.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("path", "binary")

    path: str
    payload: bytes = b""
    parse: Callable[[bytes], T]
    binary: bool = False
    bare: bool = False
    reply_key: bytes | None = None
    own_crypto: OwnCrypto | None = None
    max_reply_bytes: int = 1024 * 1024


class Pipeline:
    """Makes calls by means of the envelope, the transport and the retry policy."""

    def __init__(
        self,
        *,
        transport: Transport,
        envelope: Envelope,
        credentials: Credentials | None,
        clock: Clock | None,
        connection_limit: ConnectionLimit,
        headers: Mapping[str, str] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Store the parts. No clock means the system's."""
        self._transport = transport
        self.send: Callable[[Request], Awaitable[Reply]] = unwrapped(transport.send)
        self._envelope = envelope
        self._credentials = credentials
        self.headers: Secret[dict[str, str]] = Secret(
            _fixed_headers(credentials, headers or {})
        )
        # The event loop's clock does not run while the machine is suspended.
        self.skew: ClockSkew = ClockSkew(ns_clock(clock), monotonic_of(clock, None))
        self.connection_limit: ConnectionLimit = connection_limit
        self._random_bytes = random_bytes

    async def run(
        self,
        call: Call[T],
        *,
        retry: RetryPolicy,
        timeout: float,
        hooks: Sequence[Hook] = (),
    ) -> T:
        """Make *call*, with retries, within *timeout* seconds.

        Raises:
            UID2Error: The error of the last attempt, with endpoint, trace ID and
                attempts.
        """
        now = asyncio.get_running_loop().time
        began = now()
        run = _CallRun(self, call, retry, hooks, now, began, began + timeout)
        if hooks:
            emit(hooks, CallStarted(endpoint=call.path))
        error_type: str | None = None
        try:
            while True:
                try:
                    result = await run.attempt()
                except UID2Error as error:
                    # The frames below contain the secret, the request and the reply.
                    # The caller's stop and wait objects may log them.
                    failure = error.with_traceback(None)
                else:
                    if retry.budget is not None:
                        cost = None if run.retries is None else run.retries.last_cost
                        retry.budget.succeeded(cost)
                    return result
                await run.wait_or_raise(failure)
        except BaseException as error:
            error_type = type(error).__name__
            if isinstance(error, UID2Error):
                run.log_failure(error)
            raise
        finally:
            if hooks:
                emit(hooks, run.finished(error_type))

    def seal(self, call: Call[T], now_ms: int) -> tuple[bytes, _OpenReply]:
        """Return the body of one attempt, and the function that decrypts its reply."""
        if call.own_crypto is not None:
            body, open_own = call.own_crypto(now_ms, self._random_bytes)
            return body, lambda reply: OpenedReply(open_own(reply))
        secret = b"" if self._credentials is None else self._credentials.secret.reveal()
        key = secret if call.reply_key is None else call.reply_key
        if call.bare:
            return call.payload, partial(self._open, call, key, None, now_ms)
        # One system call for both.
        random = self._random_bytes(NONCE_BYTES + IV_BYTES)
        nonce, iv = random[:NONCE_BYTES], random[NONCE_BYTES:]
        sealed = self._envelope.seal(
            call.payload, key=secret, now_ms=now_ms, nonce=nonce, iv=iv
        )
        body = sealed if call.binary else _encode(sealed)
        return body, partial(self._open, call, key, nonce, now_ms)

    def _open(
        self, call: Call[T], key: bytes, nonce: bytes | None, now_ms: int, body: bytes
    ) -> OpenedReply:
        """Decrypt a reply, unless an unencrypted one is expected."""
        if call.reply_key == b"":
            return OpenedReply(body)
        sealed = body if call.binary else _decode(body)
        if sealed is None:
            raise EnvelopeError
        try:
            opened = self._envelope.open(sealed, key=key, nonce=nonce)
        except EnvelopeError as error:
            if call.reply_key is not None:
                error.hint = _REPLY_KEY_HINT
            raise
        server_ms = opened.server_ms
        if server_ms is not None and abs(server_ms - now_ms) > _PLAUSIBLE_MS:
            untimely = EnvelopeError()
            untimely.untimely = True
            raise untimely
        return opened

    def refusal(
        self, call: Call[T], reply: Reply, sent: ClockReading, received: ClockReading
    ) -> UID2Error:
        """Return the error for an HTTP status other than 200."""
        secrets = [call.payload.decode("ascii", "replace")] if call.bare else []
        if self._credentials is not None:
            secrets.append(self._credentials.api_key.reveal())
        error = error_from_reply(
            reply.status,
            reply.headers,
            reply.body,
            now_ms=received.operator_ms,
            secrets=secrets,
        )
        # A reply to another request says nothing about the time of this one.
        if isinstance(error, ClockSkewError) and not reply.reused_connection:
            date_ms = http_date_ms(reply.headers.get("date"))
            self.skew.on_time_rejected(error, sent, received, date_ms)
        return error

    async def renew(self) -> None:
        """Make the transport use other connections, if it can."""
        renew = getattr(self._transport, "renew", None)
        if renew is not None:
            await renew()


@attrs.define(eq=False, repr=False)
class _CallRun(Generic[T]):
    """The attempts of one call. Times are the event loop's, in seconds."""

    pipeline: Pipeline
    call: Call[T]
    retry: RetryPolicy
    hooks: Sequence[Hook]
    now: Callable[[], float]
    began: float
    deadline: float
    attempts: int = 0
    started: float = 0.0
    trace_id: str = ""
    region: str | None = None
    retries: Retries | None = None
    fresh_connection: bool = False
    time_retried: bool = False

    async def attempt(self) -> T:
        pipeline, call = self.pipeline, self.call
        self._begin_attempt()
        connection = await pipeline.connection_limit.acquire(self.deadline)
        try:
            sent = pipeline.skew.read()
            body, open_reply = pipeline.seal(call, sent.operator_ms)
            reply = await pipeline.send(self._request(body))
            received = pipeline.skew.read()
        finally:
            connection.release()
        self.region = reply.region
        try:
            if reply.status != _OK:
                raise pipeline.refusal(call, reply, sent, received)
            opened = open_reply(reply.body)
        except UID2Error as error:
            error.reused_connection = reply.reused_connection
            raise
        if opened.server_ms is not None:
            pipeline.skew.observe(sent, received, opened.server_ms)
        return call.parse(opened.payload)

    def _begin_attempt(self) -> None:
        """Count the attempt, and choose its trace ID."""
        # A random UUID of version 4. uuid.uuid4 takes three times as long.
        text = os.urandom(16).hex()
        self.trace_id = (
            f"{text[:8]}-{text[8:12]}-4{text[13:16]}-8{text[17:20]}-{text[20:]}"
        )
        self.attempts += 1
        self.region = None
        self.started = self.now()
        if self.hooks:
            started = AttemptStarted(
                endpoint=self.call.path, attempt=self.attempts, trace_id=self.trace_id
            )
            emit(self.hooks, started)

    def _request(self, body: bytes) -> Request:
        call, retry = self.call, self.retry
        return Request(
            path=call.path,
            headers={
                **self.pipeline.headers.reveal(),
                "Content-Type": _BINARY if call.binary else _TEXT,
                "UID-Trace-Id": self.trace_id,
            },
            body=body,
            timeout=max(0.0, min(retry.attempt_timeout, self.deadline - self.now())),
            idle_timeout=retry.idle_timeout,
            max_reply_bytes=call.max_reply_bytes,
            # An unencrypted reply does not identify its request.
            fresh_connection=self.fresh_connection or call.reply_key == b"",
        )

    async def wait_or_raise(self, error: UID2Error) -> None:
        """Wait before the attempt that follows *error*, or raise it if none does."""
        # A fresh connection is not reused, whatever the transport says, so that a
        # failure is confirmed only once.
        error.reused_connection = error.reused_connection and not self.fresh_connection
        self._failed(error)
        if isinstance(error, EnvelopeError):
            await self._not_opened(error)
        if self.retries is None:
            self.retries = Retries(
                self.retry, deadline=self.deadline, now=self.now, began=self.began
            )
        delay = self.retries.delay_after(error, self.attempts)
        if delay is None:
            try:
                raise error
            finally:
                # The error refers to this frame.
                del error
        self.fresh_connection = self.retries.fresh_connection
        self._retry_scheduled(delay)
        await self.retries.sleep(delay)

    def _failed(self, error: UID2Error) -> None:
        """Add the details of the attempt to its error, and notify hooks."""
        self.region = error.region = error.region or self.region
        error.endpoint = self.call.path
        error.trace_id = self.trace_id
        error.attempts = self.attempts
        if isinstance(error, ClockSkewError) and not error.reused_connection:
            # A call gets only one extra attempt because of its time.
            if self.time_retried:
                error.corrected = error.late = False
            self.time_retried = True
        failed = AttemptFailed(
            endpoint=self.call.path,
            attempt=self.attempts,
            trace_id=self.trace_id,
            error_type=type(error).__name__,
            status=error.status if isinstance(error, OperatorError) else None,
            elapsed=self.now() - self.started,
            region=self.region,
        )
        emit(self.hooks, failed)

    async def _not_opened(self, error: EnvelopeError) -> None:
        """Renew connections that carry foreign replies, and report such a reply."""
        mismatch = error.foreign_nonce or error.untimely
        if mismatch or error.reused_connection:
            await self.pipeline.renew()
        if not mismatch:
            return
        path, trace_id = self.call.path, self.trace_id
        logger.warning(
            "%s: the reply was encrypted for another request, trace id %s",
            path,
            trace_id,
        )
        emit(self.hooks, ReplyMismatch(endpoint=path, trace_id=trace_id))

    def _retry_scheduled(self, delay: float) -> None:
        path, number = self.call.path, self.attempts + 1
        logger.info("%s: attempt %d follows in %.3f s", path, number, delay)
        emit(self.hooks, RetryScheduled(endpoint=path, attempt=number, delay=delay))

    def finished(self, error_type: str | None) -> CallFinished:
        """Return the event for the end of the call."""
        return CallFinished(
            endpoint=self.call.path,
            attempts=self.attempts,
            trace_id=self.trace_id or None,
            elapsed=self.now() - self.began,
            error_type=error_type,
            region=self.region,
            skew=self.pipeline.skew.seconds,
        )

    def log_failure(self, error: UID2Error) -> None:
        """Log that the call failed, with only the class of the error."""
        logger.warning(
            "%s failed with %s after %d attempt(s), trace id %s",
            self.call.path,
            type(error).__name__,
            self.attempts,
            self.trace_id,
        )


def _fixed_headers(
    credentials: Credentials | None, own: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers that are the same in each request, including the API key."""
    headers = {
        "Accept-Encoding": "identity",
        "User-Agent": CLIENT_VERSION,
        "X-UID2-Client-Version": CLIENT_VERSION,
        **own,
    }
    if credentials is not None:
        headers["Authorization"] = f"Bearer {credentials.api_key.reveal()}"
    return headers


def positive(value: float, name: str) -> float:
    """Return *value* if it is above zero.

    Raises:
        ConfigError: If it is not. The message contains the *name* of the option.
    """
    if not value > 0:
        raise ConfigError(f"{name} must be above zero.")
    return value
