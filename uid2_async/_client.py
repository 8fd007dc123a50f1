"""The base of UID2Client and ClientSideClient: connections, options, token refresh."""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, TypeVar

from uid2_async._call import Call, Credentials, Pipeline, positive
from uid2_async._private import Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.clock import Clock
from uid2_async.connections import ConnectionLimit
from uid2_async.errors import ConfigError
from uid2_async.hooks import Hook, count_identity
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import InsufficientConsent, OptedOut
from uid2_async.protocol import tokens
from uid2_async.protocol.envelope import Envelope
from uid2_async.retry import RetryPolicy
from uid2_async.transport import SessionPool, Transport

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")
R = TypeVar("R", bound=IdentityTokens | OptedOut | InsufficientConsent)

_DEFAULT_CONNECTIONS: Final = 100


class CallOptions(TypedDict, total=False):
    """Options of calls, which can change without new connections."""

    retry: RetryPolicy | None
    max_retries: int | None
    hooks: Iterable[Hook]
    timeout: float


class OperatorClient(Unpicklable):
    """The connections to an operator, and the options of calls.

    Attributes:
        base_urls: The operator's URLs, in order of preference.
        hooks: The hooks that are called with each event.
    """

    base_urls: tuple[str, ...]
    hooks: tuple[Hook, ...]

    def _connect(
        self,
        base_url: str | Sequence[str],
        *,
        session: aiohttp.ClientSession | None,
        transport: Transport | None,
        proxy: str | None,
        ca_file: str | os.PathLike[str] | None,
        allow_http: bool,
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

    def _make_pipeline(
        self,
        envelope: Envelope,
        *,
        credentials: Credentials | None,
        clock: Clock | None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
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
        return self._pipeline.skew.seconds

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
        now_ms = self._pipeline.skew.now_ms
        call = Call(
            path=tokens.REFRESH_PATH,
            payload=tokens.build_refresh_request(identity_tokens),
            parse=partial(tokens.parse_new_tokens, held=identity_tokens, now_ms=now_ms),
            bare=True,
            reply_key=tokens.refresh_reply_key(identity_tokens),
        )
        return await self._run_for_one(call, "token", timeout)

    def _run_for_one(
        self, call: Call[R], kind: str, timeout: float | None
    ) -> Coroutine[Any, Any, R]:
        """Make a call about one person, and count its result for hooks."""
        work = self._run(call, timeout)
        if not self.hooks:
            return work
        return count_identity(work, hooks=self.hooks, endpoint=call.path, kind=kind)

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


strip_tracebacks(globals())
