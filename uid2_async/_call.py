"""One call to an operator: limit, encrypt, send, decrypt and parse, with retries.

Each attempt encrypts anew after every wait, so that an envelope has a fresh time, nonce
and IV and never expires in a queue (docs/protocol.md 1.4).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Self,
    TypedDict,
    TypeVar,
)

from uid2_async._private import Secret, Unpicklable, logger
from uid2_async._traceback import strip_tracebacks, unwrapped
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
    count_identities,
    emit,
)
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import OptedOut
from uid2_async.protocol import base64, tokens
from uid2_async.protocol.envelope import (
    IV_BYTES,
    NONCE_BYTES,
    AesGcmEnvelope,
    Envelope,
    OpenedReply,
)
from uid2_async.protocol.wire import Call, error_from_reply, http_date_ms
from uid2_async.retry import Retries, RetryPolicy
from uid2_async.transport import Reply, Request, SessionPool, Transport

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

CLIENT_VERSION: Final = f"uid2-async-{__version__}"

_DEFAULT_CONNECTIONS: Final = 100
# The maximum difference between the time in a reply and ours, which limits replays in
# addition to the nonce. Operators reject requests that differ by two minutes.
_PLAUSIBLE_MS: Final = 10 * 60 * 1000

# A refresh does not use the client secret.
_REPLY_KEY_HINT = (
    "Check that the refresh_response_key belongs to this refresh token, and that no "
    "proxy or captive portal replies instead of the operator."
)
_OK: Final = 200
_TEXT: Final = "text/plain"
_BINARY: Final = "application/octet-stream"


class CallOptions(TypedDict, total=False):
    """Options of calls, which can change without new connections."""

    retry: RetryPolicy | None
    max_retries: int | None
    hooks: Iterable[Hook]
    timeout: float


class OperatorClient(Unpicklable):
    """The connections to an operator, and the calls over them.

    Attributes:
        base_urls: The operator's URLs, in order of preference.
        hooks: The hooks that are called with each event.
    """

    base_urls: tuple[str, ...]
    hooks: tuple[Hook, ...]
    # Only a client with an API key has both.
    _api_key: Secret[str] | None = None
    _secret: Secret[bytes] = Secret(b"")

    def _connect(  # noqa: PLR0913 - keyword options, each of its own meaning
        self,
        base_url: str | Sequence[str],
        *,
        session: aiohttp.ClientSession | None = None,
        transport: Transport | None = None,
        envelope: Envelope | None = None,
        proxy: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        allow_http: bool = False,
        clock: Clock | None = None,
        headers: Mapping[str, str] | None = None,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Validate the connection options. Nothing is opened yet.

        Raises:
            ConfigError: If an option is not valid or contradicts another one.
            TypeError: If both a session and a transport are passed.
        """
        if transport is not None and session is not None:
            raise TypeError("Pass either session or transport, not both.")
        if transport is not None and not (proxy is None and ca_file is None):
            raise ConfigError(
                "A transport has its own proxy and certificates.",
                hint="Pass proxy= and ca_file= to the SessionPool that is the "
                "transport, not to the client.",
            )
        pool = SessionPool(
            base_url,
            session=session,
            proxy=proxy,
            ca_file=ca_file,
            allow_http=allow_http,
        )
        self.base_urls = pool.base_urls
        self._transport: Transport = transport or pool
        self._owns_transport = transport is None
        self._send: Callable[[Request], Awaitable[Reply]] = unwrapped(
            self._transport.send
        )
        self._envelope = envelope or AesGcmEnvelope()
        self._headers = Secret(
            {
                "Accept-Encoding": "identity",
                "User-Agent": CLIENT_VERSION,
                "X-UID2-Client-Version": CLIENT_VERSION,
                **(headers or {}),
            }
        )
        # The event loop's clock does not run while the machine is suspended.
        self._skew = ClockSkew(ns_clock(clock), monotonic_of(clock, None))
        limit = getattr(self._transport, "max_connections", _DEFAULT_CONNECTIONS)
        self._connection_limit = ConnectionLimit(limit)
        self._random_bytes = random_bytes

    def _set_call_options(self, options: CallOptions) -> None:
        if "retry" in options or "max_retries" in options:
            self._retry = _retry_policy(
                options.get("retry"), options.get("max_retries")
            )
        if "hooks" in options:
            self.hooks = tuple(options["hooks"])
        if "timeout" in options:
            self._timeout = positive(options["timeout"], "timeout")

    async def __aenter__(self) -> Self:
        """Return the client. Nothing is opened before the first call."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the client."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that this client opened. Calling it twice is safe."""
        if self._owns_transport:
            await self._transport.aclose()

    @property
    def clock_skew(self) -> float:
        """The number of seconds that the operator's clock is ahead of this machine's.

        It is estimated from encrypted replies, or from a request that was rejected
        because of its time. It is 0 if it is below 5 s or unknown. The times in
        requests are corrected by it. Use it only to shorten, never to extend, the
        lifetime of tokens.
        """
        return self._skew.read().offset_s

    async def refresh_token(
        self, identity_tokens: IdentityTokens, *, timeout: float | None = None
    ) -> IdentityTokens | OptedOut:
        """Refresh identity tokens (docs/protocol.md 2.2). The API key is not needed.

        The old tokens remain valid until they expire, so a lost reply loses nothing.

        Example:
            >>> if tokens.state(datetime.now(UTC)) is TokenState.DUE:
            ...     tokens = await client.refresh_token(tokens)

        Args:
            identity_tokens: The result of generate_token or of the last refresh.
            timeout: In seconds, instead of the client's.

        Returns:
            New tokens with a new refresh_response_key; or OptedOut.

        Raises:
            InputError: If the tokens lack what is needed to decrypt the reply.
            ExpiredTokenError: If the refresh token has expired. Generate new tokens.
            InvalidTokenError: If the operator does not know the refresh token, or if it
                has expired and the API key is not valid.
        """
        call = tokens.refresh_call(
            identity_tokens, now_ms=lambda: self._skew.read().operator_ms
        )
        return await self._counted(self._run(call, timeout), call.path, ["token"])

    def _counted(
        self, work: Coroutine[Any, Any, T], endpoint: str, kinds: Iterable[str]
    ) -> Coroutine[Any, Any, T]:
        """Let hooks see the results of *work*, for one identity of each of *kinds*."""
        if not self.hooks:
            return work
        return count_identities(work, hooks=self.hooks, endpoint=endpoint, kinds=kinds)

    async def _run(self, call: Call[T], timeout: float | None) -> T:
        """Make *call*, with retries, within *timeout* seconds or the client's.

        Raises:
            UID2Error: The error of the last attempt, with endpoint, trace ID and
                attempts.
        """
        seconds = self._timeout if timeout is None else positive(timeout, "timeout")
        run = _CallRun(call.path, self._retry, self.hooks, seconds)
        error_type: str | None = None
        try:
            while True:
                run.begin_attempt()
                try:
                    result = await self._attempt(call, run)
                except UID2Error as error:
                    # The frames below contain the secret, the request and the reply.
                    # The caller's stop and wait objects may log them.
                    failure = error.with_traceback(None)
                else:
                    if run.retry.budget is not None:
                        run.retry.budget.succeeded(run.last_cost)
                    return result
                run.failed(failure)
                if isinstance(failure, EnvelopeError):
                    await self._renew_after(failure, run)
                await run.wait_or_raise(failure)
        except BaseException as error:
            error_type = type(error).__name__
            if isinstance(error, UID2Error):
                run.log_failure(error)
            raise
        finally:
            if self.hooks:
                run.finish(error_type, self.clock_skew)

    async def _attempt(self, call: Call[T], run: _CallRun) -> T:
        connection = await self._connection_limit.acquire(run.deadline)
        try:
            sent = self._skew.read()
            body, open_reply = self._seal(call, sent.operator_ms)
            reply = await self._send(self._request(call, run, body))
            received = self._skew.read()
        finally:
            connection.release()
        run.region = reply.region
        try:
            if reply.status != _OK:
                raise self._refusal(call, reply, sent, received)
            opened = open_reply(reply.body)
        except UID2Error as error:
            error.reused_connection = reply.reused_connection
            raise
        if opened.server_ms is not None:
            self._skew.observe(sent, received, opened.server_ms)
        return call.parse(opened.payload)

    def _request(self, call: Call[T], run: _CallRun, body: bytes) -> Request:
        retry, left = run.retry, run.deadline - run.now()
        return Request(
            path=call.path,
            headers={
                **self._headers.reveal(),
                "Content-Type": _BINARY if call.binary else _TEXT,
                "UID-Trace-Id": run.trace_id,
            },
            body=body,
            timeout=max(0.0, min(retry.attempt_timeout, left)),
            idle_timeout=retry.idle_timeout,
            max_reply_bytes=call.max_reply_bytes,
            # An unencrypted reply does not identify its request.
            fresh_connection=run.fresh_connection or call.reply_key == b"",
        )

    def _seal(
        self, call: Call[T], now_ms: int
    ) -> tuple[bytes, Callable[[bytes], OpenedReply]]:
        """Return the body of one attempt, and the function that decrypts its reply."""
        if call.own_crypto is not None:
            body, open_own = call.own_crypto(now_ms, self._random_bytes)
            return body, lambda reply: OpenedReply(open_own(reply))
        secret = self._secret.reveal()
        key = secret if call.reply_key is None else call.reply_key
        if call.bare:
            return call.payload, partial(self._open, call, key, None, now_ms)
        # One system call for both.
        random = self._random_bytes(NONCE_BYTES + IV_BYTES)
        nonce, iv = random[:NONCE_BYTES], random[NONCE_BYTES:]
        sealed = self._envelope.seal(
            call.payload, key=secret, now_ms=now_ms, nonce=nonce, iv=iv
        )
        body = sealed if call.binary else base64.encode(sealed)
        return body, partial(self._open, call, key, nonce, now_ms)

    def _open(
        self, call: Call[T], key: bytes, nonce: bytes | None, now_ms: int, body: bytes
    ) -> OpenedReply:
        """Decrypt a reply, unless an unencrypted one is expected."""
        if call.reply_key == b"":
            return OpenedReply(body)
        sealed = body if call.binary else base64.decode(body)
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

    def _refusal(
        self, call: Call[T], reply: Reply, sent: ClockReading, received: ClockReading
    ) -> UID2Error:
        """Return the error for an HTTP status other than 200."""
        secrets = [call.payload.decode("ascii", "replace")] if call.bare else []
        if self._api_key is not None:
            secrets.append(self._api_key.reveal())
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
            self._skew.on_time_rejected(error, sent, received, date_ms)
        return error

    async def _renew_after(self, error: EnvelopeError, run: _CallRun) -> None:
        """Renew connections that carry foreign replies, and report such a reply."""
        mismatch = error.foreign_nonce or error.untimely
        renew = getattr(self._transport, "renew", None)
        if renew is not None and (mismatch or error.reused_connection):
            await renew()
        if mismatch:
            run.report_mismatch()


class _CallRun:
    """What hooks, logs and the retry policy see of one call.

    Times are the event loop's, in seconds.
    """

    def __init__(
        self, endpoint: str, retry: RetryPolicy, hooks: Sequence[Hook], seconds: float
    ) -> None:
        self.endpoint = endpoint
        self.retry = retry
        self.hooks = hooks
        self.now = asyncio.get_running_loop().time
        self.began = self.now()
        self.deadline = self.began + seconds
        self.attempts = 0
        self.started = 0.0
        self.trace_id = ""
        self.region: str | None = None
        self.retries: Retries | None = None
        self.fresh_connection = False
        self.last_cost: int | None = None
        self.time_retried = False
        if hooks:
            emit(hooks, CallStarted(endpoint=endpoint))

    def begin_attempt(self) -> None:
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
                endpoint=self.endpoint, attempt=self.attempts, trace_id=self.trace_id
            )
            emit(self.hooks, started)

    def failed(self, error: UID2Error) -> None:
        """Add the details of the attempt to its error, and notify hooks."""
        # A fresh connection is not reused, whatever the transport says, so that a
        # failure is confirmed only once.
        error.reused_connection = error.reused_connection and not self.fresh_connection
        self.region = error.region = error.region or self.region
        error.endpoint = self.endpoint
        error.trace_id = self.trace_id
        error.attempts = self.attempts
        if isinstance(error, ClockSkewError) and not error.reused_connection:
            # A call gets only one extra attempt because of its time.
            if self.time_retried:
                error.corrected = error.late = False
            self.time_retried = True
        failed = AttemptFailed(
            endpoint=self.endpoint,
            attempt=self.attempts,
            trace_id=self.trace_id,
            error_type=type(error).__name__,
            status=error.status if isinstance(error, OperatorError) else None,
            elapsed=self.now() - self.started,
            region=self.region,
        )
        emit(self.hooks, failed)

    def report_mismatch(self) -> None:
        """Report a reply that answers another request."""
        path, trace_id = self.endpoint, self.trace_id
        logger.warning(
            "%s: the reply was encrypted for another request, trace id %s",
            path,
            trace_id,
        )
        emit(self.hooks, ReplyMismatch(endpoint=path, trace_id=trace_id))

    async def wait_or_raise(self, error: UID2Error) -> None:
        """Wait before the attempt that follows *error*, or raise it if none does."""
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
        self.last_cost = self.retries.last_cost
        path, number = self.endpoint, self.attempts + 1
        logger.info("%s: attempt %d follows in %.3f s", path, number, delay)
        emit(self.hooks, RetryScheduled(endpoint=path, attempt=number, delay=delay))
        await self.retries.sleep(delay)

    def log_failure(self, error: UID2Error) -> None:
        """Log that the call failed, with only the class of the error."""
        logger.warning(
            "%s failed with %s after %d attempt(s), trace id %s",
            self.endpoint,
            type(error).__name__,
            self.attempts,
            self.trace_id,
        )

    def finish(self, error_type: str | None, skew: float) -> None:
        """Notify hooks of the end of the call."""
        finished = CallFinished(
            endpoint=self.endpoint,
            attempts=self.attempts,
            trace_id=self.trace_id or None,
            elapsed=self.now() - self.began,
            error_type=error_type,
            region=self.region,
            skew=skew,
        )
        emit(self.hooks, finished)


def positive(value: float, name: str) -> float:
    """Return *value* if it is above zero.

    Raises:
        ConfigError: If it is not. The message contains the *name* of the option.
    """
    if not value > 0:
        raise ConfigError(f"{name} must be above zero.")
    return value


def _retry_policy(retry: RetryPolicy | None, max_retries: int | None) -> RetryPolicy:
    """Return the policy that was passed, or one with *max_retries*."""
    if max_retries is None:
        return retry or RetryPolicy()
    if retry is not None:
        raise ConfigError(
            "Both retry and max_retries were passed.",
            hint=(
                "max_retries=N is short for retry=RetryPolicy(attempts=N + 1). Pass "
                "only one."
            ),
        )
    if max_retries < 0:
        raise ConfigError("max_retries must be 0 or more.")
    if max_retries == 0:
        return RetryPolicy.never()
    return RetryPolicy(attempts=max_retries + 1)


strip_tracebacks(globals())
