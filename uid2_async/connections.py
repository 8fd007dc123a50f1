"""Connections: a limit on their number, and details that aiohttp has no public API for.

Everything that uses aiohttp's private names is optional. If a later aiohttp lacks one,
a kept connection is reused, or a rejection with an unreadable body counts as not HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from uid2_async.errors import CallTimeoutError


class ConnectionUse:
    """What is known about the connection of a request.

    Attributes:
        reused: Whether it has served another request before.
    """

    reused: bool = False


current_use: ContextVar[ConnectionUse | None] = ContextVar("current_use", default=None)
"""Where the next request of this task notes what it is sent over; aiohttp's tracing
would tell too, and takes a tenth of a whole call."""


class RefusalConnector(aiohttp.TCPConnector):
    """A connector that delivers the head of an error reply before parsing its body."""

    def __init__(self, **options: Any) -> None:
        """Pass *options* to aiohttp's own connector."""
        super().__init__(**options)
        self._factory = partial(_make_handler, loop=self._loop)


class _HeadFirst(ResponseHandler):
    """Parses the head and the body of an error response separately.

    aiohttp parses both in one step if they arrive together. If the body then violates
    HTTP, the status would be lost with it.
    """

    _served = False

    def set_response_params(self, **options: Any) -> None:
        """Begin a request, in its own task."""
        use = current_use.get()
        if use is not None:
            use.reused = use.reused or self._served
        self._served = True
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        head, end, body = data, b"", b""
        if data.startswith(b"HTTP/1.") and not data.startswith(b" 200", 8):
            head, end, body = data.partition(b"\r\n\r\n")
        super().data_received(head + end)
        if body:
            super().data_received(body)


def _make_handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    """Create the protocol of one connection."""
    return _HeadFirst(loop)


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
