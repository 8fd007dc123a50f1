"""The connections of a server. None of them outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

Serve: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]


class Connections:
    """A server on raw sockets, with a task for each connection.

    Attributes:
        port: The port to connect to.
    """

    def __init__(self, serve: Serve) -> None:
        """Handle each connection with *serve*. It is closed when *serve* returns."""
        self._serve = serve
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def listen(self, *where: Any, **options: Any) -> None:
        """Start listening. The arguments are those of ``asyncio.start_server``."""
        self._server = await asyncio.start_server(self._accept, *where, **options)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Register the connection before its task runs."""
        task = asyncio.ensure_future(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._end)

    async def _run(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Handle a connection, which may break at any time."""
        with suppress(asyncio.IncompleteReadError, OSError, ExceptionGroup):
            await self._serve(reader, writer)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Close a connection. A task that was canceled early has not closed it."""
        self._open.pop(task).close()

    async def aclose(self) -> None:
        """Stop, even if a connection hangs or has data left to send."""
        self._server.close()
        writers = list(self._open.values())
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        for writer in writers:
            # CPython before 3.11.4 cannot abort a TLS connection that is already
            # closed.
            with suppress(AttributeError):
                writer.transport.abort()
        # Connections in their TLS handshake are not registered yet. Python 3.12 and
        # later wait for them, unless the other end is gone.
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._server.wait_closed()
