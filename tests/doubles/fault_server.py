"""An operator on raw sockets that fails as scripted, request by request."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeAlias

import attrs

from connections import Connections
from sealed_answers import iv_of, now_ms, open_body, seal

Step: TypeAlias = "Callable[[Exchange], Awaitable[None]]"
"""What to do with one request that has been read, or with a connection."""


@attrs.define
class Seen:
    """A request as received."""

    head: bytes
    path: str
    body: bytes
    connection: int
    at: float
    sent_ms: int | None = None
    nonce: bytes | None = None
    iv: bytes | None = None
    age_ms: int = 0


@attrs.define
class Exchange:
    """One request, and its connection."""

    server: FaultServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Seen

    async def write(self, data: bytes) -> None:
        """Send bytes unchanged."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes, status: str = "200 OK", headers: Sequence[str] = ()
    ) -> None:
        """Send a complete reply, and keep the connection open."""
        await self.write(reply_bytes(body, status, headers))

    def sealed(self, **options: Any) -> bytes:
        """Encrypt the correct reply, with the changes in *options*."""
        options.setdefault("off_ms", self.server.off_ms)
        return seal(self.request.path, self.request.body, **options)

    def reset(self) -> None:
        """Close the connection with RST."""
        reset(self.writer)


class FaultServer:
    """Runs one step of its script per request. The last step is repeated.

    Each envelope is decrypted on receipt, so that its time, nonce and IV can be
    checked.

    Attributes:
        url: The URL to connect to.
        requests: The requests that were read completely.
        received: All received bytes, valid or not.
        connections: The number of connections so far.
        open: The number of open connections.
        off_ms: The offset of the server's clock in ms.
    """

    def __init__(
        self,
        *script: Step,
        accept: Sequence[Step | None] = (),
        tls: ssl.SSLContext | None = None,
        off_ms: int = 0,
        receive_buffer: int | None = None,
    ) -> None:
        """Configure the server. *accept* has steps for new connections."""
        self.script = list(script) or [ok]
        self.accept = list(accept)
        self.off_ms = off_ms
        self.requests: list[Seen] = []
        self.received = bytearray()
        self.connections = 0
        self.open = 0
        self._tls = tls
        self._receive_buffer = receive_buffer
        self._taken = 0
        self._connections = Connections(self._serve)

    async def __aenter__(self) -> Self:
        """Start listening on a free port."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if self._receive_buffer is not None:
            listener.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer
            )
        listener.bind(("127.0.0.1", 0))
        await self._connections.listen(sock=listener, ssl=self._tls, limit=2**20)
        self.port = self._connections.port
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, even if a connection hangs."""
        await self._connections.aclose()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        number = self.connections
        self.connections += 1
        self.open += 1
        try:
            first = self.accept[number] if number < len(self.accept) else None
            if first is not None:
                nothing = Seen(b"", "", b"", number, time.monotonic())
                await first(Exchange(self, reader, writer, nothing))
            while not writer.is_closing():
                await self._one(number, reader, writer)
        finally:
            self.open -= 1

    async def _one(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Read a request, and run the next step."""
        seen = await self.read_request(number, reader)
        self.requests.append(seen)
        step = self.script[min(self._taken, len(self.script) - 1)]
        self._taken += 1
        await step(Exchange(self, reader, writer, seen))

    async def read_request(self, number: int, reader: asyncio.StreamReader) -> Seen:
        """Read one request, and decrypt its envelope."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.received += head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
        body = await reader.readexactly(length)
        self.received += body
        path = head.split(b" ")[1].decode()
        seen = Seen(head, path, body, number, time.monotonic())
        opened = open_body(path, body)
        if opened is not None:
            seen.sent_ms, seen.nonce, seen.iv = (
                opened.sent_ms,
                opened.nonce,
                iv_of(body),
            )
            seen.age_ms = now_ms() + self.off_ms - opened.sent_ms
        return seen


def reply_bytes(
    body: bytes, status: str = "200 OK", headers: Sequence[str] = ()
) -> bytes:
    """Return the bytes of a reply with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, linger
    )
    writer.transport.abort()


async def ok(exchange: Exchange) -> None:
    """Reply like a healthy operator."""
    await exchange.answer(exchange.sealed())


async def hang_up(exchange: Exchange) -> None:
    """Close the connection without a reply."""
    exchange.writer.close()


async def rst(exchange: Exchange) -> None:
    """Reset the connection."""
    exchange.reset()


async def silence(exchange: Exchange) -> None:
    """Never reply, until the client gives up."""
    await exchange.reader.read(1)
    exchange.writer.close()


def refuse(status: str, *headers: str, body: bytes = b"") -> Step:
    """Return a step that replies with an error status."""

    async def step(exchange: Exchange) -> None:
        await exchange.answer(body, status, headers)

    return step


def raw(data: bytes, *, close: bool = True) -> Step:
    """Return a step that sends bytes, and closes or keeps the connection."""

    async def step(exchange: Exchange) -> None:
        await exchange.write(data)
        if close:
            exchange.writer.close()

    return step


def sealed(**options: Any) -> Step:
    """Return a step that encrypts a reply with changes."""

    async def step(exchange: Exchange) -> None:
        await exchange.answer(exchange.sealed(**options))

    return step


def then_close(step: Step) -> Step:
    """Return a step that runs another step and closes the connection."""

    async def both(exchange: Exchange) -> None:
        await step(exchange)
        exchange.writer.close()

    return both


def in_pieces(step: Step, size: int, pause: float) -> Step:
    """Return a step that sends the bytes of another step in slices."""

    async def slow(exchange: Exchange) -> None:
        whole = _Collector()
        await step(attrs.evolve(exchange, writer=whole))
        for start in range(0, len(whole.data), size):
            await exchange.write(bytes(whole.data[start : start + size]))
            await asyncio.sleep(pause)

    return slow


class _Collector:
    """Collects bytes instead of sending them."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        """Do nothing, because there is no limit."""


class Relay:
    """Sits between client and server, and adds latency and a bandwidth limit.

    Attributes:
        url: The URL to connect to.
    """

    def __init__(
        self,
        server: FaultServer,
        *,
        latency: Callable[[], float] = lambda: 0.0,
        bytes_per_second: float | None = None,
        cut_after: int | None = None,
    ) -> None:
        """Forward to *server*, but nothing after *cut_after* bytes of the client."""
        self._server = server
        self._latency = latency
        self._rate = bytes_per_second
        self._cut_after = cut_after
        self._connections = Connections(self._serve)

    async def __aenter__(self) -> Self:
        """Start listening on a free port."""
        await self._connections.listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._connections.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self._connections.aclose()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        up_reader, up_writer = await asyncio.open_connection(
            "127.0.0.1", self._server.port
        )
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, up_writer, self._cut_after))
                both.create_task(self._pump(up_reader, writer, None))
        finally:
            up_writer.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        cut_after: int | None,
    ) -> None:
        """Forward bytes in one direction, with the configured delay."""
        passed = 0
        while data := await reader.read(4096 if self._rate else 65536):
            await asyncio.sleep(self._latency())
            if self._rate:
                await asyncio.sleep(len(data) / self._rate)
            passed += len(data)
            if cut_after is None or passed <= cut_after:
                writer.write(data)
                await writer.drain()
        writer.close()
