"""What aiohttp does with connections, as far as its public names do not reach.

All of it is optional: where a later aiohttp lacks a name, a kept connection is reused,
or a refusal that cannot be read to its end is taken for no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

__all__ = [
    "ConnectionUse",
    "RefusalConnector",
    "close_idle",
    "drop_connection",
    "watch",
]


class ConnectionUse:
    """What is known of the connection that a request is sent over.

    Attributes:
        reused: Whether it had served another request before.
    """

    __slots__ = ("reused",)

    def __init__(self, *, reused: bool = False) -> None:
        """Start with what is known beforehand."""
        self.reused: bool = reused


_current_use: ContextVar[ConnectionUse] = ContextVar("current_use")


def watch(use: ConnectionUse) -> ConnectionUse:
    """Let the next request of this task note on *use* what it is sent over.

    Tracing would tell too, and takes a tenth of a whole call.
    """
    _current_use.set(use)
    return use


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
        use = _current_use.get(None)
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
