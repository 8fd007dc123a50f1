"""How many attempts may be made at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from weakref import WeakKeyDictionary

from uid2_async.errors import CallTimeoutError

__all__ = ["Slots"]


class Slots:
    """At most so many attempts at once, so that no envelope ages in a queue.

    Each event loop has its own: a client may outlive its loop.
    """

    def __init__(self, size: int) -> None:
        """Allow *size* attempts at once."""
        self._size = size
        self._semaphores: WeakKeyDictionary[
            asyncio.AbstractEventLoop, asyncio.Semaphore
        ] = WeakKeyDictionary()

    def take(self, deadline: float) -> _Taken:
        """Hold a slot for the length of an ``async with``; wait until *deadline*.

        Raises:
            CallTimeoutError: On entry, if none became free by *deadline*, in the loop's
                seconds.
        """
        return _Taken(self._semaphore_here(), deadline)

    def _semaphore_here(self) -> asyncio.Semaphore:
        """Give the semaphore of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._semaphores.get(loop)
        if found is None:
            found = self._semaphores[loop] = asyncio.Semaphore(self._size)
        return found


class _Taken:
    """A slot for the length of a block; asks for no timer where one is free."""

    __slots__ = ("_deadline", "_semaphore")

    def __init__(self, semaphore: asyncio.Semaphore, deadline: float) -> None:
        self._semaphore = semaphore
        self._deadline = deadline

    async def __aenter__(self) -> None:
        if not self._semaphore.locked():
            # This does not wait.
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
