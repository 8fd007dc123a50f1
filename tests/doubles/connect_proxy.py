"""A CONNECT proxy and a TLS front end, which forward bytes to servers on loopback."""

from __future__ import annotations

import asyncio
import base64
import ssl
from typing import Self

from connections import Connections

_CHUNK = 64 * 1024


class _Forwarder:
    """A server that forwards each connection to a port of this machine.

    Attributes:
        port: The port to connect to.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._connections = Connections(self._serve)

    async def __aenter__(self) -> Self:
        """Start listening on a free port."""
        await self._connections.listen("127.0.0.1", 0, ssl=self._context)
        self.port = self._connections.port
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._connections.aclose()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        raise NotImplementedError


class TlsFront(_Forwarder):
    """Terminates TLS in front of a server that does not support it."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        """Forward to *port*."""
        super().__init__(context)
        self._target = port

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await _forward(reader, writer, self._target)


class ConnectProxy(_Forwarder):
    """An HTTP proxy that opens tunnels, for clients that send *login* if it is set.

    Attributes:
        tunnels: The ``host:port`` of each opened tunnel.
        refused: The number of requests that were rejected without the login.
    """

    def __init__(
        self, *, login: str | None = None, context: ssl.SSLContext | None = None
    ) -> None:
        """Use TLS with clients if there is a *context*."""
        super().__init__(context)
        self._login = login and base64.b64encode(login.encode())
        self.tunnels: list[str] = []
        self.refused = 0

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        method, target, _ = head.split(b" ", 2)
        if method != b"CONNECT":
            writer.write(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
        elif self._login and b"Basic %s\r\n" % self._login not in head:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n")
        else:
            self.tunnels.append(target.decode())
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            port = int(target.rpartition(b":")[2])
            await _forward(reader, writer, port)
        await writer.drain()


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int
) -> None:
    """Forward in both directions until either side closes."""
    there, back = await asyncio.open_connection("127.0.0.1", port)
    ways = [
        asyncio.ensure_future(_copy(reader, back)),
        asyncio.ensure_future(_copy(there, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        back.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy bytes until the end."""
    while data := await source.read(_CHUNK):
        target.write(data)
        await target.drain()
