"""How many attempts may be made at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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

    @asynccontextmanager
    async def take(self, deadline: float) -> AsyncIterator[None]:
        """Hold a slot for the length of the block; wait for it until *deadline*.

        Raises:
            CallTimeoutError: If none became free by *deadline*, in the loop's seconds.
        """
        semaphore = self._semaphore_here()
        taken = False
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                taken = await semaphore.acquire()
        if not taken:
            raise CallTimeoutError("No connection became free in time.")
        try:
            yield
        finally:
            semaphore.release()

    def _semaphore_here(self) -> asyncio.Semaphore:
        """Give the semaphore of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._semaphores:
            self._semaphores[loop] = asyncio.Semaphore(self._size)
        return self._semaphores[loop]
