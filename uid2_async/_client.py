"""The base of UID2Client and ClientSideClient: connections, options, token refresh."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from hmac import compare_digest
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, TypeVar, Unpack

from uid2_async._call import Call, Credentials, Pipeline, positive
from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock
from uid2_async.connections import ConnectionLimit
from uid2_async.errors import ConfigError, InputError, ProtocolError
from uid2_async.hooks import Hook
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import OptedOut, ms_from_datetime
from uid2_async.protocol import base64, tokens
from uid2_async.protocol.envelope import KEY_BYTES, Envelope
from uid2_async.retry import RetryPolicy
from uid2_async.transport import SessionPool, Transport

if TYPE_CHECKING:
    import aiohttp

# Only these are wrapped by strip_tracebacks.
__all__ = ["CallOptions", "ConnectionOptions", "OperatorClient"]

T = TypeVar("T")

_DEFAULT_CONNECTIONS: Final = 100
# Tokens contain no spaces or control characters, which could end a header.
_CONTROL: Final = bytes(range(ord(" ") + 1))


class CallOptions(TypedDict, total=False):
    """Options of calls, which can change without new connections."""

    retry: RetryPolicy | None
    max_retries: int | None
    hooks: Iterable[Hook]
    timeout: float


class ConnectionOptions(TypedDict, total=False):
    """Options of connections."""

    session: aiohttp.ClientSession | None
    transport: Transport | None
    proxy: str | None
    ca_file: str | os.PathLike[str] | None
    allow_http: bool


class OperatorClient(Unpicklable):
    """The connections to an operator, and the options of calls.

    Attributes:
        base_urls: The operator's URLs, in order of preference.
        hooks: The hooks that are called with each event.
    """

    base_urls: tuple[str, ...]
    hooks: tuple[Hook, ...]

    def _connect(
        self, base_url: str | Sequence[str], **options: Unpack[ConnectionOptions]
    ) -> None:
        """Validate the connection options. Nothing is opened yet.

        Raises:
            ConfigError: If an option is not valid or contradicts another one.
            TypeError: If both a session and a transport are passed.
        """
        transport, session = options.get("transport"), options.get("session")
        proxy, ca_file = options.get("proxy"), options.get("ca_file")
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
            allow_http=options.get("allow_http", False),
        )
        self.base_urls = pool.base_urls
        self._transport: Transport = transport or pool
        self._owns_transport = transport is None

    def _make_pipeline(
        self,
        envelope: Envelope,
        *,
        credentials: Credentials | None,
        clock: Clock | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Create the pipeline of calls."""
        limit = getattr(self._transport, "max_connections", _DEFAULT_CONNECTIONS)
        self._pipeline = Pipeline(
            transport=self._transport,
            envelope=envelope,
            credentials=credentials,
            clock=clock,
            connection_limit=ConnectionLimit(limit),
            headers=headers,
        )

    def _set_call_options(self, options: CallOptions) -> None:
        """Set the options that are passed."""
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

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
        return self._pipeline.clock_skew

    def _run(self, call: Call[T], timeout: float | None) -> Coroutine[Any, Any, T]:
        """Make *call* with this client's options."""
        return self._pipeline.run(
            call,
            retry=self._retry,
            timeout=self._timeout if timeout is None else positive(timeout, "timeout"),
            hooks=self.hooks,
        )


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


def refresh_call(
    identity_tokens: IdentityTokens, now_ms: Callable[[], int]
) -> Call[IdentityTokens | OptedOut]:
    """Return the call that refreshes *identity_tokens*. It needs no API key.

    The reply has no nonce, so it could be a replay of an old one. It is rejected if it
    repeats the current tokens or has expired by *now_ms*, the estimate of the
    operator's time.

    Raises:
        InputError: If the tokens lack what is needed to decrypt the reply.
    """
    return Call(
        path=tokens.REFRESH_PATH,
        payload=_refresh_body(identity_tokens),
        parse=lambda payload: _read_new(payload, identity_tokens, now_ms()),
        bare=True,
        reply_key=_refresh_reply_key(identity_tokens),
    )


def _read_new(
    payload: bytes, held: IdentityTokens, now_ms: int
) -> IdentityTokens | OptedOut:
    """Parse the reply, and reject tokens that are not new."""
    answer = tokens.parse_refresh_reply(payload)
    if isinstance(answer, OptedOut):
        return answer
    if ms_from_datetime(answer.identity_expires) <= now_ms:
        raise _refused("The refreshed tokens have expired.", "identity_expires")
    for name in ("advertising_token", "refresh_token"):
        if compare_digest(_bytes(getattr(held, name)), _bytes(getattr(answer, name))):
            raise _refused("The refresh reply repeats the current tokens.", name)
    return answer


def _refused(message: str, name: str) -> ProtocolError:
    """Return the error for a well-formed reply that cannot be trusted."""
    return ProtocolError(
        message,
        hint="Check this machine's clock. If it is right, replies are being replayed.",
        path=f"body.{name}",
    )


def _bytes(token: str) -> bytes:
    """Encode a stored token, which may be any str."""
    return token.encode(errors="surrogatepass")


def _refresh_body(identity_tokens: IdentityTokens) -> bytes:
    """Return the refresh token as the body of a request."""
    try:
        body = identity_tokens.refresh_token.encode("ascii")
    except UnicodeEncodeError:
        body = b""
    if not body or body.translate(None, _CONTROL) != body:
        raise InputError("The refresh token is empty or has invalid characters.")
    return body


def _refresh_reply_key(identity_tokens: IdentityTokens) -> bytes:
    """Return the key that decrypts the reply, or b"" if it is not encrypted."""
    if len(identity_tokens.refresh_token) != tokens.SEALED_REFRESH_CHARS:
        return b""
    key = base64.decode(identity_tokens.refresh_response_key or "")
    if key is None or len(key) != KEY_BYTES:
        raise InputError(
            "The refresh_response_key is missing or not base64 of 32 bytes.",
            hint="Store it with the refresh token. It changes with every refresh.",
        )
    return key


strip_tracebacks(globals())
