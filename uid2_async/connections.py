"""Connections: limits on their number and time, and what aiohttp does differently.

Everything that uses aiohttp's private names is optional. If a later aiohttp lacks one,
a kept connection is reused, a rejection with an unreadable body counts as not HTTP, or
each read has its own timer.
"""

from __future__ import annotations

import asyncio
import copy
import math
import ssl
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from uid2_async.errors import (
    CallTimeoutError,
    CertificateError,
    ConfigError,
    ConnectError,
    ProtocolError,
    TransportError,
    UID2Error,
)
from uid2_async.tls import explain_certificate_error

_PROXY_AUTH_REQUIRED: Final = 407


class ConnectionUse:
    """Whether the connection of a request has served another one before."""

    reused: bool = False


current_use: ContextVar[ConnectionUse | None] = ContextVar("current_use", default=None)
"""Where the next request of this task notes what it is sent over; aiohttp's tracing
would tell too, and takes a tenth of a whole call."""


class RefusalConnector(aiohttp.TCPConnector):
    """A connector that delivers the head of an error reply before parsing its body."""

    def __init__(self, **options: Any) -> None:
        """Pass *options* to aiohttp's own connector."""
        super().__init__(**options)
        self._factory = partial(_HeadFirst, loop=self._loop)  # type: ignore[assignment] # partial is invariant


class _HeadFirst(ResponseHandler):
    """Parses the head and the body of an error response separately.

    aiohttp parses both in one step if they arrive together. If the body then violates
    HTTP, the status would be lost with it.

    The limit on silence (``sock_read``) has one timer per connection. aiohttp arms and
    cancels two for each request.
    """

    _served = False
    _silent_until: float | None = None
    _silence_timer: asyncio.TimerHandle | None = None

    def set_response_params(self, **options: Any) -> None:
        """Begin a request, in its own task."""
        use = current_use.get()
        if use is not None:
            use.reused = use.reused or self._served
        self._served = True
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        if data[8:12] == b" 200" or not data.startswith(b"HTTP/1."):
            super().data_received(data)
            return
        head, end, body = data.partition(b"\r\n\r\n")
        super().data_received(head + end)
        if body:
            super().data_received(body)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _reschedule_timeout(self) -> None:
        """Start the time again in which data must be received."""
        seconds = self._read_timeout
        if not seconds:
            self._silent_until = None
            return
        self._silent_until = until = self._loop.time() + seconds
        if self._silence_timer is not None and self._silence_timer.when() > until:
            self._cancel_timer()
        if self._silence_timer is None:
            self._silence_timer = self._loop.call_at(until, self._end_if_silent)

    def _drop_timeout(self) -> None:
        """Expect no data. The timer may be needed again soon, so it is left."""
        self._silent_until = None

    def _end_if_silent(self) -> None:
        """End the request if no data was received for too long."""
        self._silence_timer = None
        until, self._silent_until = self._silent_until, None
        if until is None:
            return
        if until > self._loop.time():
            self._silent_until = until
            self._silence_timer = self._loop.call_at(until, self._end_if_silent)
        else:
            self._on_read_timeout()

    def _cancel_timer(self) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()
            self._silence_timer = None


def close_idle(session: aiohttp.ClientSession, base_urls: Iterable[str]) -> None:
    """Close the idle connections of a session to the hosts of *base_urls*."""
    hosts = {(url.raw_host, url.port) for url in map(URL, base_urls)}
    idle = getattr(session.connector, "_conns", {})
    for key, connections in list(idle.items()):
        if (key.host, key.port) in hosts:
            for protocol, _ in connections:
                protocol.close()


def drop_connection(response: aiohttp.ClientResponse) -> None:
    """Make sure that the connection of a reply is not reused, as more may arrive on it.

    The connection of a reply whose body arrived with its head has already been returned
    to the pool. It is closed there, before another task can run.
    """
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.force_close()
    elif (released := getattr(response, "_protocol", None)) is not None:
        released.close()


class Deadlines:
    """The time limits of the tasks of one event loop, with one timer for all of them.

    ``asyncio.timeout`` arms and cancels a timer for each, which takes longer than all
    else that bounds a call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Limit nothing yet."""
        self.loop: asyncio.AbstractEventLoop = loop
        self.limits: set[TimeLimit] = set()
        self.due: float = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, when: float) -> None:
        """End limits at *when*, and not only later."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self.due = self.loop.call_at(when, self._check), when

    def close(self) -> None:
        """Cancel the timer, if no limit needs it."""
        if self._timer is not None and not self.limits:
            self._timer.cancel()
            self._timer, self.due = None, math.inf

    def _check(self) -> None:
        """End the limits whose time is over, and wait for the next one."""
        self._timer, self.due = None, math.inf
        now = self.loop.time()
        for limit in [limit for limit in self.limits if limit.when <= now]:
            self.limits.remove(limit)
            limit.expire()
        if self.limits:
            self.arm(min(limit.when for limit in self.limits))


class TimeLimit:
    """Cancels the current task when its time is over, and raises a TimeoutError.

    Attributes:
        when: The time of the event loop at which it expires, in seconds.
    """

    __slots__ = ("_cancelling", "_deadlines", "_is_expired", "_task", "when")

    _task: asyncio.Task[Any]
    _cancelling: int

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        """Limit a block to *seconds*."""
        self._deadlines = deadlines
        self._is_expired = False
        self.when: float = deadlines.loop.time() + seconds

    def __enter__(self) -> Self:
        """Start to watch the current task."""
        deadlines = self._deadlines
        task = asyncio.current_task(deadlines.loop)
        assert task is not None  # noqa: S101 - only coroutines have limits
        self._task, self._cancelling = task, task.cancelling()
        deadlines.limits.add(self)
        if self.when < deadlines.due:
            deadlines.arm(self.when)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, _: object
    ) -> None:
        """Raise a TimeoutError if the limit has canceled the task, and nobody else."""
        self._deadlines.limits.discard(self)
        if not self._is_expired or self._task.uncancel() > self._cancelling:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError

    def expire(self) -> None:
        """Cancel the task."""
        self._is_expired = True
        self._task.cancel()

    def lift(self) -> None:
        """Let the task go on for as long as it needs."""
        self._deadlines.limits.discard(self)


class ConnectionLimit:
    """Limits concurrent attempts, so that no encrypted request waits in a queue.

    Each event loop has its own semaphore, because a client may outlive its loop.
    """

    def __init__(self, size: int) -> None:
        """Allow *size* concurrent attempts."""
        self._size = size
        self._semaphores: WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.Semaphore
        ] = WeakKeyDictionary()

    async def acquire(self, deadline: float) -> asyncio.Semaphore:
        """Wait for a free connection; the caller releases what is returned.

        Raises:
            CallTimeoutError: If no connection is free by *deadline*, a time of the
                event loop in seconds.
        """
        loop = asyncio.get_running_loop()
        semaphore = self._semaphores.get(loop)
        if semaphore is None:
            semaphore = self._semaphores[loop] = asyncio.Semaphore(self._size)
        if not semaphore.locked():
            # Acquired without waiting, and so without a timer.
            await semaphore.acquire()
            return semaphore
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                taken = await semaphore.acquire()
        if not taken:
            raise CallTimeoutError("No connection became free in time.")
        return semaphore


# --- errors --------------------------------------------------------------------------


def map_error(error: Exception) -> UID2Error:
    """Convert an exception to a new error of this library that does not reference it.

    The class and numbers of an aiohttp error decide. Its text is not used, because it
    may contain headers of the reply, a URL or a proxy's credentials.

    An error of this library is copied, because it may come from a resolver or connector
    of the caller, with frames of aiohttp in its traceback.
    """
    name = type(error).__name__
    try:
        mapped = copy.copy(error) if isinstance(error, UID2Error) else _map(error)
    except Exception:  # noqa: BLE001 - a foreign class may fail in any way
        mapped = TransportError("Sending failed.")
    if not isinstance(error, UID2Error):
        mapped.message = f"{mapped.message.rstrip('.')} ({name})."
        mapped.args = (mapped.message,)
    return mapped


def _map(  # noqa: C901, PLR0911 - one table, to be read as a whole
    error: Exception,
) -> UID2Error:
    """Choose the error by the class, never by the text."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _map_certificate(getattr(error, "certificate_error", None))
        case ssl.SSLCertVerificationError():
            return _map_certificate(error)
        case aiohttp.ServerFingerprintMismatch():
            return CertificateError("The certificate does not match the fingerprint.")
        case aiohttp.ConnectionTimeoutError():
            return ConnectError("Connecting to the operator took too long.")
        case TimeoutError():
            return CallTimeoutError("The operator did not reply in time.")
        case aiohttp.ClientHttpProxyError() | aiohttp.ClientProxyConnectionError():
            return _map_proxy(getattr(error, "status", 0))
        case aiohttp.ClientConnectorError():
            return ConnectError("The operator could not be reached.")
        case aiohttp.ServerDisconnectedError() | OSError():
            return ConnectError(
                "The operator closed the connection.", disconnected=True
            )
        case aiohttp.ClientPayloadError():
            return TransportError("The reply was truncated.")
        case aiohttp.InvalidURL():
            return ConfigError("The base URL is not a URL.")
        case aiohttp.ClientResponseError():
            return ProtocolError("The reply is not HTTP.", unparseable_http=True)
        case _:
            return TransportError("Sending failed.")


def _map_proxy(status: int) -> UID2Error:
    """Return the error for a proxy's HTTP status, or 0 if it could not be reached."""
    if not status:
        hint = "Check the proxy's host and port (proxy=, UID2_PROXY or EUID_PROXY)."
        return ConnectError("The proxy could not be reached.", hint=hint)
    message = f"The proxy refused the connection: HTTP {status}."
    if status == _PROXY_AUTH_REQUIRED:
        hint = "Put the user name and password into the proxy's URL."
        return ConnectError(message, hint=hint)
    hint = "Ask the proxy's administrator to allow the operator's host and port."
    return ConnectError(message, hint=hint)


def _map_certificate(reason: BaseException | None) -> UID2Error:
    """Return the error for the fault that OpenSSL found, without any other text."""
    if not isinstance(reason, ssl.SSLCertVerificationError):
        return CertificateError("The operator's certificate was rejected.")
    problem = explain_certificate_error(reason)
    return CertificateError(problem.message, hint=problem.fault.value)
