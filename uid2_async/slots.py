"""A limit on concurrent attempts."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakKeyDictionary

from uid2_async.errors import CallTimeoutError

__all__ = ["ConnectionLimit"]


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

    def acquire(self, deadline: float) -> _HeldConnection:
        """Return an async context manager that waits for and holds one connection.

        Raises:
            CallTimeoutError: On entry, if no connection is free by *deadline*, a time
                of the event loop, in seconds.
        """
        return _HeldConnection(self._semaphore_here(), deadline)

    def _semaphore_here(self) -> asyncio.Semaphore:
        """Return the semaphore of the running loop."""
        loop = asyncio.get_running_loop()
        semaphore = self._semaphores.get(loop)
        if semaphore is None:
            semaphore = asyncio.Semaphore(self._size)
            self._semaphores[loop] = semaphore
        return semaphore


class _HeldConnection:
    """One connection, held inside ``async with``. Sets no timer if one is free."""

    __slots__ = ("_deadline", "_semaphore")

    def __init__(self, semaphore: asyncio.Semaphore, deadline: float) -> None:
        self._semaphore = semaphore
        self._deadline = deadline

    async def __aenter__(self) -> None:
        if not self._semaphore.locked():
            # A semaphore that is not locked is acquired without waiting.
            await self._semaphore.acquire()
            return
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._deadline):
                taken = await self._semaphore.acquire()
        if not taken:
            raise CallTimeoutError("No connection became free in time.")

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()
