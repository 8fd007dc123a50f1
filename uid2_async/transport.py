"""The session pool: aiohttp sessions, explicit limits, regions with failover.

Foreign exceptions are mapped and *detached*: the mapped one is raised after the
``except`` block, because the frames of a foreign one refer to the API key.
"""

from __future__ import annotations

import asyncio
import os
import ssl as _ssl
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import lru_cache, partial
from typing import ClassVar, Final, Protocol, Self

import aiohttp

from uid2_async._private import RedactedRepr, Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.config import Proxy, normalize_base_url, parse_proxy, sends_clear
from uid2_async.connections import (
    ConnectionUse,
    Deadlines,
    RefusalConnector,
    TimeLimit,
    close_idle,
    current_use,
    drop_connection,
    map_error,
)
from uid2_async.errors import (
    ClientClosedError,
    ClientForkError,
    ClientLoopError,
    ConfigError,
    ProtocolError,
    TransportError,
    UID2Error,
)
from uid2_async.tls import check_connector, check_context, verifying_context

__all__ = ["Reply", "Request", "SessionPool", "Transport", "verifying_context"]

_CONNECT_SECONDS: Final = 5.0
_GRACE_SECONDS: Final = 1.0
# Shorter than the usual 60 s of load balancers, so that few connections are stale.
_KEEPALIVE_SECONDS: Final = 10.0
_DNS_SECONDS: Final = 30
_REFUSAL_BYTES: Final = 64 * 1024
# How long to wait for the body of an error reply, whose status is already known.
_REFUSAL_SECONDS: Final = 1.0
_OK: Final = 200
_FAILOVER_STATUSES: Final = frozenset({502, 503, 504})
# Sessions that a fork inherited. If they were garbage-collected in the child, aiohttp
# would remove the sockets from the epoll that it shares with the parent, which would
# then wait forever.
_inherited: Final[list[object]] = []


class Request(RedactedRepr, Unpicklable, frozen=True, kw_only=True):
    """One POST.

    Attributes:
        path: The path below the base URL, such as ``/v2/token/generate``.
        headers: The headers, including the API key.
        body: The encrypted envelope, or a refresh token.
        timeout: How long this attempt may take, in seconds.
        idle_timeout: How long it may wait for the next byte, in seconds.
        max_reply_bytes: The maximum size of the reply.
        fresh_connection: Whether the request requires a new connection.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("path", "timeout", "fresh_connection")

    path: str
    headers: Mapping[str, str]
    body: bytes
    timeout: float
    idle_timeout: float = 10.0
    max_reply_bytes: int = 1024 * 1024
    fresh_connection: bool = False


class Reply(RedactedRepr, frozen=True, kw_only=True):
    """An HTTP reply of any status.

    Attributes:
        status: The HTTP status.
        headers: The headers. They are read by lower-case name.
        body: The body as sent.
        region: The base URL that replied, or None if the transport does not report it.
        reused_connection: Whether it came over a connection that had served another
            request, so that it may not be the reply to this one.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("status",)

    status: int
    headers: Mapping[str, str]
    body: bytes
    region: str | None = None
    reused_connection: bool = False


class Transport(Protocol):
    """Sends requests to an operator. Replace it with your own implementation.

    It may also have a coroutine method ``renew()``, without arguments, which is called
    when a reply belongs to another request, and must close all current connections. The
    optional attribute ``max_connections`` limits the concurrent requests (default 100).
    """

    async def send(self, request: Request) -> Reply:
        """Send *request* once, to one region, and return the reply of any status.

        Raises:
            TransportError: If there is no usable HTTP reply.
            ProtocolError: If the reply is not HTTP, or larger than allowed.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections. It is safe to call this twice."""
        ...


def refuse_second_loop(first: asyncio.AbstractEventLoop | None) -> None:
    """Raise if the *first* event loop of a client is open, but another one runs.

    Raises:
        ClientLoopError: If that is so.
    """
    if first is None or first is asyncio.get_running_loop() or first.is_closed():
        return
    raise ClientLoopError("The client is used in a second event loop.")


class SessionPool(Unpicklable):
    """Sends requests over pooled connections, to the first region that works.

    The first call opens the sessions, in the running event loop. If that loop has been
    closed, the pool opens new sessions. While it is open, calls from another loop or
    from a forked process raise, and do not affect its connections.

    A connection is closed after a reply with a status other than 200. A request that
    requires a fresh connection gets its own. If you pass a *session*, its idle
    connections to the same host are closed first.
    """

    def __init__(  # noqa: PLR0913 - keyword options, each of its own meaning
        self,
        base_urls: str | Sequence[str],
        *,
        session: aiohttp.ClientSession | None = None,
        max_connections: int = 100,
        proxy: str | None = None,
        ssl: _ssl.SSLContext | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cooldown: float = 30.0,
        connect_timeout: float = _CONNECT_SECONDS,
        grace: float = _GRACE_SECONDS,
        allow_http: bool = False,
    ) -> None:
        """Store the settings. Nothing is opened yet.

        Args:
            base_urls: One base URL, or several regional ones in order of preference.
            session: A session to use as is. It is not closed.
            max_connections: The maximum number of open connections. A lower limit of
                *session* takes precedence.
            proxy: The URL of an HTTP proxy. The variables of the environment are never
                used. Its credentials are never shown.
            ssl: A context, for example with client certificates. It must verify.
            ca_file: A PEM file with the CAs to trust instead of the system's.
            cooldown: How long a failed region is skipped, in seconds.
            connect_timeout: The timeout of name resolution, TCP and TLS together, in
                seconds.
            grace: How long closing waits for running requests, in seconds.
            allow_http: Allow plain http for hosts other than loopback.

        Raises:
            ConfigError: If a base URL or an option is not valid, or *session* is known
                not to verify certificates.
        """
        urls = [base_urls] if isinstance(base_urls, str) else base_urls
        normal = [normalize_base_url(url, allow_http=allow_http) for url in urls]
        parsed = None if proxy is None else parse_proxy(proxy)
        if self._check_proxy(parsed, normal, allow_http=allow_http):
            warnings.warn("The API key is sent unencrypted over http.", stacklevel=2)
        if max_connections < 1:
            raise ConfigError("max_connections must be at least 1.")
        if not (connect_timeout > 0 and grace >= 0):
            raise ConfigError(
                "connect_timeout must be above zero, and grace must not be negative."
            )
        if ssl is not None:
            if ca_file is not None:
                raise ConfigError(
                    "Both ssl and ca_file were passed.", hint="Pass only one."
                )
            check_context(ssl)
        elif ca_file is not None:
            ssl = verifying_context(ca_file)
        connector = session and session.connector
        if connector and connector.limit:
            max_connections = min(max_connections, connector.limit)
        if connector and any(url.startswith("https:") for url in normal):
            check_connector(connector)
        self.failover: Failover = Failover(normal, cooldown=cooldown)
        self.max_connections: int = max_connections
        self._passed = session
        self._proxy = parsed and parsed.url
        self._proxy_login = parsed and parsed.login
        self._ssl = ssl
        # A session that is passed has its own connector.
        self._request_ssl: _ssl.SSLContext | bool = (session and ssl) or True
        # Creating a context takes longer than a call to an operator on loopback.
        self._needs_tls = any(
            url.startswith("https:") for url in (*normal, self._proxy or "")
        )
        self._connect_timeout = connect_timeout
        self._grace = grace
        self._pooled: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._retired: set[aiohttp.ClientSession] = set()
        self._running: Counter[aiohttp.ClientSession] = Counter()
        self._ended = asyncio.Event()
        self._deadlines: Deadlines
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0
        self._closed = False

    @staticmethod
    def _check_proxy(
        proxy: Proxy | None, base_urls: Sequence[str], *, allow_http: bool
    ) -> bool:
        """Return whether the API key is sent unencrypted over a network.

        Raises:
            ConfigError: If only the proxy causes that, and it is not allowed.
        """
        if any(map(sends_clear, base_urls)):
            return True
        is_http = any(url.startswith("http:") for url in base_urls)
        if not is_http or proxy is None or proxy.is_loopback:
            return False
        if not allow_http:
            raise ConfigError(
                "Plain http through a proxy would send the API key unencrypted.",
                hint="Do not use a proxy for an operator on this machine.",
            )
        return True

    @property
    def base_urls(self) -> tuple[str, ...]:
        """The base URLs, in order of preference."""
        return self.failover.base_urls

    async def send(self, request: Request) -> Reply:
        """Send *request* once, as described in :class:`Transport`.

        A region that cannot be reached, is too slow, or returns 502, 503 or 504 is
        skipped for *cooldown* seconds. The next attempt goes to the next region.
        """
        loop = asyncio.get_running_loop()
        base_url = self.failover.pick(loop.time())
        if self._closed:
            raise ClientClosedError("The client is closed.")
        if self._loop is not loop or self._pid != os.getpid():
            await self._enter_loop(loop)
        session = self._session(fresh=request.fresh_connection)
        # A local variable, because a new event loop replaces the counter.
        running = self._running
        running[session] += 1
        try:
            reply = await self._post(session, base_url, request)
        except UID2Error as error:
            error.region = base_url
            if isinstance(error, TransportError):
                self.failover.cool_down(base_url, loop.time())
            raise
        finally:
            running[session] -= 1
            self._ended.set()
            if session in self._retired and not running[session]:
                self._retired.discard(session)
                await session.close()
        if reply.status in _FAILOVER_STATUSES:
            self.failover.cool_down(base_url, loop.time())
        return reply

    async def renew(self) -> None:
        """Use new connections for all further requests.

        Running requests are not interrupted. Their connections are closed afterward,
        except in a session that was passed.
        """
        if self._passed is not None:
            close_idle(self._passed, self.base_urls)
        session, self._pooled = self._pooled, None
        if session is None:
            return
        if self._running[session]:
            self._retired.add(session)
        else:
            await session.close()

    async def _post(
        self, session: aiohttp.ClientSession, base_url: str, request: Request
    ) -> Reply:
        """Send to one region, with every foreign exception mapped and detached."""
        connection = ConnectionUse()
        current_use.set(connection)
        if self._passed is not None:
            self._prepare_passed(connection, base_url, fresh=request.fresh_connection)
        headers, proxy_headers = request.headers, None
        if self._proxy_login is not None:
            headers, proxy_headers = self._log_in(headers, base_url)
        try:
            with TimeLimit(self._deadlines, request.timeout) as limit:
                async with session.post(
                    base_url + request.path,
                    data=request.body,
                    headers=headers,
                    proxy_headers=proxy_headers,
                    allow_redirects=False,
                    proxy=self._proxy,
                    ssl=self._request_ssl,
                    timeout=_timeouts(self._connect_timeout, request.idle_timeout),
                    # A given session may have other defaults for both.
                    raise_for_status=False,
                    auto_decompress=False,
                ) as response:
                    body = await _read(response, request.max_reply_bytes, limit)
                return Reply(
                    status=response.status,
                    headers=response.headers,
                    body=body,
                    region=base_url,
                    reused_connection=connection.reused,
                )
        except Exception as error:  # noqa: BLE001 - whatever it is, it holds the API key
            mapped = map_error(error)
        if self._closed:
            raise ClientClosedError("The client was closed during the call.")
        mapped.reused_connection = connection.reused
        raise mapped

    def _log_in(
        self, headers: Mapping[str, str], base_url: str
    ) -> tuple[Mapping[str, str], Mapping[str, str] | None]:
        """Return the headers for the operator and for the proxy, which gets the login.

        With plain http there is no tunnel: the proxy reads every request.
        """
        assert self._proxy_login is not None  # noqa: S101 - the caller checks it
        login = {"Proxy-Authorization": self._proxy_login.reveal()}
        if base_url.startswith("https:"):
            return headers, login
        return {**headers, **login}, None

    def _prepare_passed(
        self, connection: ConnectionUse, base_url: str, *, fresh: bool
    ) -> None:
        """Record what is known about the connection that a given session will use."""
        assert self._passed is not None  # noqa: S101 - the caller checks it
        if fresh:
            close_idle(self._passed, [base_url])
        # aiohttp does not report it, so a given session is assumed to reuse
        # connections.
        connector = self._passed.connector
        kept = connector is None or not connector.force_close
        connection.reused = kept and not fresh

    def _session(self, *, fresh: bool) -> aiohttp.ClientSession:
        if self._passed is not None:
            if self._passed.closed:
                raise ClientClosedError("The session that was given is closed.")
            return self._passed
        if fresh:
            if self._fresh is None:
                self._fresh = self._open(force_close=True)
            return self._fresh
        if self._pooled is None:
            self._pooled = self._open(force_close=False)
        return self._pooled

    async def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Bind to the running loop, or raise if bound to another one."""
        self._check_owner(loop)
        await self._close_sessions()
        self._loop = loop
        self._pid = os.getpid()
        self._running = Counter()
        self._ended = asyncio.Event()
        self._deadlines = Deadlines(loop)

    def _check_owner(self, loop: asyncio.AbstractEventLoop) -> None:
        """Reject callers that must not use the open sessions."""
        if self._passed is not None or self._loop is None:
            return
        if self._loop is loop and self._pid == os.getpid():
            return
        if self._pid != os.getpid():
            _inherited.append(self)
            raise ClientForkError(
                "The client was created before this process was forked."
            )
        refuse_second_loop(self._loop)

    def _open(self, *, force_close: bool) -> aiohttp.ClientSession:
        """Open a session with every default set explicitly."""
        if self._ssl is None and self._needs_tls:
            self._ssl = verifying_context()
        connector = partial(
            RefusalConnector,
            limit=self.max_connections,
            ssl=self._ssl or True,
            ttl_dns_cache=_DNS_SECONDS,
        )
        return aiohttp.ClientSession(
            connector=connector(force_close=True)
            if force_close
            else connector(keepalive_timeout=_KEEPALIVE_SECONDS),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            raise_for_status=False,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        """Return the pool. Nothing is opened before the first request."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the pool."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the sessions that this pool opened, but not one that was passed.

        New requests fail immediately. Running requests can finish within *grace*
        seconds, and then fail with a ClientClosedError. It is safe to call this twice.

        Raises:
            ClientLoopError: If the connections belong to another event loop.
            ClientForkError: If they belong to the parent process.
        """
        self._check_owner(asyncio.get_running_loop())
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while self._passed is None and self._running.total():
                    self._ended.clear()
                    await self._ended.wait()
        await asyncio.shield(self._close_sessions())

    async def _close_sessions(self) -> None:
        """Close all sessions. Those of a closed event loop are only dropped."""
        sessions = [self._pooled, self._fresh, *self._retired]
        self._pooled = self._fresh = None
        self._retired = set()
        async with AsyncExitStack() as stack:
            # A cancellation while one session closes must not skip the others.
            for session in filter(None, sessions):
                stack.push_async_callback(session.close)
        if self._loop is asyncio.get_running_loop():
            self._deadlines.close()

    def __repr__(self) -> str:
        """Return the regions, and whether it is open."""
        state = "closed" if self._closed else "open" if self._pooled else "idle"
        return f"<SessionPool {', '.join(self.base_urls)} {state}>"


async def _read(
    response: aiohttp.ClientResponse, limit: int, attempt: TimeLimit
) -> bytes:
    """Read the body of a reply. With status 200, read all of it or raise.

    Raises:
        ProtocolError: If the body of a status 200 is larger than *limit* bytes, or has
            a content encoding, which was not requested.
    """
    if response.status != _OK:
        return await _read_refusal(response, attempt)
    chunks: list[bytes] = []
    encoding = response.headers.get("Content-Encoding")
    if encoding is not None and not _is_identity(encoding):
        message = "The reply has a content encoding, which was not requested."
    elif (response.content_length or 0) > limit or not await _collect(
        response, limit, chunks
    ):
        message = f"The reply is larger than {limit} bytes."
    else:
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    drop_connection(response)
    raise ProtocolError(message)


def _is_identity(encoding: str) -> bool:
    """Return whether a Content-Encoding does not encode the body."""
    encodings = encoding.split(",")
    return all(one.strip().lower() in ("identity", "") for one in encodings)


async def _read_refusal(response: aiohttp.ClientResponse, attempt: TimeLimit) -> bytes:
    """Read the body of an error reply as far as it arrives, and ignore failures."""
    drop_connection(response)
    until = min(asyncio.get_running_loop().time() + _REFUSAL_SECONDS, attempt.when)
    attempt.lift()
    chunks: list[bytes] = []
    # If the body is truncated, encoded or slow, the status is still known.
    with suppress(Exception):
        async with asyncio.timeout_at(until):
            await _collect(response, _REFUSAL_BYTES, chunks)
    response.close()
    return b"".join(chunks)


async def _collect(
    response: aiohttp.ClientResponse, limit: int, chunks: list[bytes]
) -> bool:
    """Read into *chunks*; return whether the body ended within *limit* bytes."""
    size = 0
    # Checking for the end first reads a small reply in one step.
    while not response.content.at_eof():
        chunk = await response.content.readany()
        size += len(chunk)
        if size > limit:
            return False
        chunks.append(chunk)
    return True


@lru_cache
def _timeouts(connect: float, idle: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(
        total=None, connect=connect, sock_connect=connect, sock_read=idle
    )


class Failover:
    """Chooses the base URL of the next attempt.

    That is the first one that is not cooling down. If all are, it is the one that
    recovers first. Times are the event loop's, in seconds.
    """

    def __init__(self, base_urls: Sequence[str], *, cooldown: float) -> None:
        """Use *base_urls* in order, and skip a failed one for *cooldown* seconds."""
        if not base_urls:
            raise ConfigError("No base URL was given.")
        self.base_urls: tuple[str, ...] = tuple(base_urls)
        self._cooldown = cooldown
        self._cool_until = dict.fromkeys(self.base_urls, 0.0)

    def pick(self, now: float) -> str:
        """Return the base URL for an attempt at *now*."""
        for base_url, until in self._cool_until.items():
            if until <= now:
                return base_url
        return min(self._cool_until, key=self._cool_until.__getitem__)

    def cool_down(self, base_url: str, now: float) -> None:
        """Skip *base_url*, which failed at *now*, until it has cooled down."""
        self._cool_until[base_url] = now + self._cooldown

    def __repr__(self) -> str:
        """Return the base URLs in order."""
        return f"Failover({', '.join(self.base_urls)})"


strip_tracebacks(globals())
