"""An async stream for sync code: a generator with an event loop in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import Future
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any, Final, Generic, TypeAlias, TypeVar

from uid2_async._failures import CONTROL_FLOW
from uid2_async._portal import Portal

A = TypeVar("A")
B = TypeVar("B")

Transform: TypeAlias = Callable[[AsyncIterator[A]], AsyncGenerator[B, None]]

_NOTHING: Final = object()


def stream_in_thread(
    transform: Transform[A, B], source: Iterable[A]
) -> Generator[B, None, None]:
    """Yield the results of applying *transform* to *source*, one at a time.

    The event loop has its own thread, so requests continue and timeouts stay accurate
    while the caller processes an item or waits for *source*. *source* is read in the
    caller's thread when *transform* asks for the next item. At most one item is
    produced ahead of the caller. Closing the generator cancels *transform* and waits
    for its end. Errors of both are raised unchanged.
    """
    return _Stream(transform).serve(iter(source))


class _Stream(Generic[A, B]):
    """A transform in the loop of a portal, which sends messages to the caller.

    A message is a future that the loop waits for, and the item that the caller has to
    take before. If there is no item, the future's result is the next item of the
    source. None is the last message.
    """

    def __init__(self, transform: Transform[A, B]) -> None:
        self._transform = transform
        self._messages: SimpleQueue[tuple[asyncio.Future[Any], Any] | None] = (
            SimpleQueue()
        )
        self._error: BaseException | None = None

    # --- in the caller's thread -------------------------------------------------------

    def serve(self, source: Iterator[A]) -> Generator[B, None, None]:
        """Handle the messages."""
        with Portal("uid2-stream") as portal:
            portal.submit(self._produce).add_done_callback(self._end)
            while (message := self._messages.get()) is not None:
                future, item = message
                if item is _NOTHING:
                    _set_result(future, next(source, _NOTHING))
                else:
                    _set_result(future, None)
                    yield item
        if self._error is not None:
            raise self._error

    def _end(self, done: Future[None]) -> None:
        """Send the last message. Runs in the loop's thread."""
        self._error = done.exception()
        if isinstance(self._error, CONTROL_FLOW):
            # In the caller's thread, it would mean something else or nothing.
            name = type(self._error).__name__
            self._error = RuntimeError(f"The stream ended with {name}.")
        self._messages.put(None)

    # --- in the loop's thread ---------------------------------------------------------

    async def _ask(self, item: object) -> Any:
        """Send a message, and wait for its future."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._messages.put((future, item))
        return await future

    async def _produce(self) -> None:
        """Send one item after another."""
        async with aclosing(self._transform(self._read())) as made:
            async for item in made:
                await self._ask(item)

    async def _read(self) -> AsyncIterator[A]:
        """Request the items of the source, one at a time."""
        while (item := await self._ask(_NOTHING)) is not _NOTHING:
            yield item


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    """Set the result of *future*, unless nobody is waiting for it anymore."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(
            lambda: None if future.done() else future.set_result(result)
        )
