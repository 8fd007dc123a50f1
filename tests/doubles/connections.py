"""The connections of a server, none of which outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

Serve: TypeAlias = Callable[
    [asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]
]


class Connections:
    """A server on raw sockets, and the task of each of its connections.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, serve: Serve) -> None:
        """Let *serve* do each connection, which is closed when it returns."""
        self._serve = serve
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def listen(self, *where: Any, **options: Any) -> None:
        """Start; the arguments are those of ``asyncio.start_server``."""
        self._server = await asyncio.start_server(self._accept, *where, **options)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Know of the connection before anything of it has run."""
        task = asyncio.ensure_future(self._run(reader, writer))
        self._open[task] = writer
        task.add_done_callback(self._end)

    async def _run(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Do a connection, which may break at any time."""
        with suppress(asyncio.IncompleteReadError, OSError, ExceptionGroup):
            await self._serve(reader, writer)

    def _end(self, task: asyncio.Task[None]) -> None:
        """Close a connection: a task that was cancelled early has closed nothing."""
        self._open.pop(task).close()

    async def aclose(self) -> None:
        """Stop, whatever hangs, and whatever was not sent yet."""
        self._server.close()
        writers = list(self._open.values())
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        for writer in writers:
            # CPython before 3.11.4 cannot abort TLS that is closed already.
            with suppress(AttributeError):
                writer.transport.abort()
        # What was still shaking hands is nobody's yet; from Python 3.12 on it is waited
        # for, as far as its other end is gone.
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._server.wait_closed()
