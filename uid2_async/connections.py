"""Connections: a limit on them, and what aiohttp's public names do not tell.

What uses aiohttp's private names is optional. If a later aiohttp lacks one, a kept
connection is reused, or a rejection that cannot be read to its end counts as not HTTP.
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
    """What is known of the connection that a request is sent over.

    Attributes:
        reused: Whether it had served another request before.
    """

    reused: bool = False


current_use: ContextVar[ConnectionUse | None] = ContextVar("current_use", default=None)
"""Where the next request of this task notes what it is sent over; aiohttp's tracing
would tell too, and takes a tenth of a whole call."""


class RefusalConnector(aiohttp.TCPConnector):
    """A connector that delivers the head of a refusal before its body is looked at."""

    def __init__(self, **options: Any) -> None:
        """Take the options of aiohttp's own."""
        super().__init__(**options)
        self._factory = partial(_make_handler, loop=self._loop)


class _HeadFirst(ResponseHandler):
    """Reads head and body of a refusal apart, even if they come together.

    aiohttp parses them in one go: where the body breaks the rules of HTTP, the status
    would be lost with it.
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
        """Take what arrived."""
        head, end, body = data, b"", b""
        if data.startswith(b"HTTP/1.") and not data.startswith(b" 200", 8):
            head, end, body = data.partition(b"\r\n\r\n")
        super().data_received(head + end)
        if body:
            super().data_received(body)


def _make_handler(loop: asyncio.AbstractEventLoop) -> ResponseHandler:
    """Make the handler of one connection."""
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
    """Let the connection of a reply serve nobody else: more may come over it.

    A reply whose body came with its head has given its connection back already. It is
    closed there, before anybody else can run.
    """
    connection = response.connection
    if connection is not None and connection.protocol is not None:
        connection.protocol.force_close()
    elif (released := getattr(response, "_protocol", None)) is not None:
        released.close()


class ConnectionLimit:
    """Limits concurrent attempts, so that no sealed envelope waits in a queue.

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
            CallTimeoutError: If none is free by *deadline*, a time of the event loop,
                in seconds.
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
