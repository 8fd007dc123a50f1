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

import attrs

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
    for its end.

    Raises:
        Exception: Any error that *transform* or *source* raises, unchanged.
    """
    return _Stream(transform).serve(iter(source))


@attrs.frozen
class _ItemRequested:
    """The loop requests the next item of the source."""

    answer: asyncio.Future[Any]


@attrs.frozen
class _ItemReady(Generic[B]):
    """The loop has produced an item, and waits until it is *taken*."""

    item: B
    taken: asyncio.Future[Any]


@attrs.frozen
class _Ended:
    """The loop has ended."""

    error: BaseException | None


class _Stream(Generic[A, B]):
    """A transform in the loop of a portal, which sends messages to the caller."""

    def __init__(self, transform: Transform[A, B]) -> None:
        self._transform = transform
        self._messages: SimpleQueue[_ItemRequested | _ItemReady[B] | _Ended] = (
            SimpleQueue()
        )

    # --- in the caller's thread -------------------------------------------------------

    def serve(self, source: Iterator[A]) -> Generator[B, None, None]:
        """Handle the messages."""
        with Portal("uid2-stream") as portal:
            portal.submit(self._produce).add_done_callback(self._end)
            while not isinstance(message := self._messages.get(), _Ended):
                if isinstance(message, _ItemRequested):
                    _set_result(message.answer, next(source, _NOTHING))
                else:
                    _set_result(message.taken, None)
                    yield message.item
        if message.error is not None:
            raise message.error

    def _end(self, done: Future[None]) -> None:
        """Send the last message. Runs in the loop's thread."""
        error = done.exception()
        if isinstance(error, CONTROL_FLOW):
            # In the caller's thread, it would mean something else or nothing.
            error = RuntimeError(f"The stream ended with {type(error).__name__}.")
        self._messages.put(_Ended(error))

    # --- in the loop's thread ---------------------------------------------------------

    async def _produce(self) -> None:
        """Send one item after another."""
        loop = asyncio.get_running_loop()
        async with aclosing(self._transform(self._read())) as made:
            async for item in made:
                taken = loop.create_future()
                self._messages.put(_ItemReady(item, taken))
                await taken

    async def _read(self) -> AsyncIterator[A]:
        """Request the items of the source, one at a time."""
        loop = asyncio.get_running_loop()
        while True:
            answer = loop.create_future()
            self._messages.put(_ItemRequested(answer))
            item = await answer
            if item is _NOTHING:
                return
            yield item


def _set_result(future: asyncio.Future[Any], result: object) -> None:
    """Set the result of *future*, unless nobody is waiting for it anymore."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(
            lambda: None if future.done() else future.set_result(result)
        )
