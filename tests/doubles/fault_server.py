"""An operator on raw sockets, which fails as it is told to, request by request."""

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
    """A request as it came."""

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
    """One request and the connection that it came over."""

    server: FaultServer
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: Seen

    async def write(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def answer(
        self, body: bytes, status: str = "200 OK", headers: Sequence[str] = ()
    ) -> None:
        """Send a whole reply, and keep the connection."""
        await self.write(reply_bytes(body, status, headers))

    def sealed(self, **options: Any) -> bytes:
        """Seal the right answer, or as *options* say."""
        options.setdefault("off_ms", self.server.off_ms)
        return seal(self.request.path, self.request.body, **options)

    def reset(self) -> None:
        """Close the connection with RST."""
        reset(self.writer)


class FaultServer:
    """Takes a step of its script for each request; the last one is for all that follow.

    Each envelope is opened as it comes, so that its time, nonce and IV can be judged.

    Attributes:
        url: Where it listens.
        requests: What was read in full.
        received: All bytes that came, readable or not.
        connections: How many there were.
        open: How many there are.
        off_ms: By how much the server's clock is off.
    """

    def __init__(
        self,
        *script: Step,
        accept: Sequence[Step | None] = (),
        tls: ssl.SSLContext | None = None,
        off_ms: int = 0,
        receive_buffer: int | None = None,
    ) -> None:
        """Prepare; *accept* is what to do with connections before anything is read."""
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
        """Start on a free port."""
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
        """Stop, whatever hangs."""
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
        """Read a request, and do what is due."""
        seen = await self.read_request(number, reader)
        self.requests.append(seen)
        step = self.script[min(self._taken, len(self.script) - 1)]
        self._taken += 1
        await step(Exchange(self, reader, writer, seen))

    async def read_request(self, number: int, reader: asyncio.StreamReader) -> Seen:
        """Read one request, and open its envelope."""
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
    """Write a reply with its length."""
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
    """Answer as a healthy operator."""
    await exchange.answer(exchange.sealed())


async def hang_up(exchange: Exchange) -> None:
    """Close without any reply."""
    exchange.writer.close()


async def rst(exchange: Exchange) -> None:
    """Reset the connection."""
    exchange.reset()


async def silence(exchange: Exchange) -> None:
    """Never answer, until the client gives up."""
    await exchange.reader.read(1)
    exchange.writer.close()


def refuse(status: str, *headers: str, body: bytes = b"") -> Step:
    """Make the step that answers with a status."""

    async def step(exchange: Exchange) -> None:
        await exchange.answer(body, status, headers)

    return step


def raw(data: bytes, *, close: bool = True) -> Step:
    """Make the step that sends bytes, and hangs up or keeps the connection."""

    async def step(exchange: Exchange) -> None:
        await exchange.write(data)
        if close:
            exchange.writer.close()

    return step


def sealed(**options: Any) -> Step:
    """Make the step that seals an answer in its own way."""

    async def step(exchange: Exchange) -> None:
        await exchange.answer(exchange.sealed(**options))

    return step


def then_close(step: Step) -> Step:
    """Make the step that does another one and closes the connection."""

    async def both(exchange: Exchange) -> None:
        await step(exchange)
        exchange.writer.close()

    return both


def in_pieces(step: Step, size: int, pause: float) -> Step:
    """Make the step that sends what another one would, in slices."""

    async def slow(exchange: Exchange) -> None:
        whole = _Collector()
        await step(attrs.evolve(exchange, writer=whole))
        for start in range(0, len(whole.data), size):
            await exchange.write(bytes(whole.data[start : start + size]))
            await asyncio.sleep(pause)

    return slow


class _Collector:
    """Takes what would have been sent."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        """Have no limit."""


class Relay:
    """Stands between client and server, with latency and a bound on bandwidth.

    Attributes:
        url: Where it listens.
    """

    def __init__(
        self,
        server: FaultServer,
        *,
        latency: Callable[[], float] = lambda: 0.0,
        bytes_per_second: float | None = None,
        cut_after: int | None = None,
    ) -> None:
        """Stand before *server*; after *cut_after* bytes up nothing passes any more."""
        self._server = server
        self._latency = latency
        self._rate = bytes_per_second
        self._cut_after = cut_after
        self._connections = Connections(self._serve)

    async def __aenter__(self) -> Self:
        """Start on a free port."""
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
        """Carry bytes one way, at a given speed."""
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
