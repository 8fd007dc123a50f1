"""An async stream for sync code: a generator with an event loop in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
)
from concurrent.futures import Future
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any, Final, TypeAlias, TypeVar

from uid2_async._failures import CONTROL_FLOW
from uid2_async._portal import Portal

A = TypeVar("A")
B = TypeVar("B")

Transform: TypeAlias = Callable[[AsyncIterator[A]], AsyncGenerator[B, None]]

# A message is a future that the loop waits for, and the item that the caller has to
# take before. If there is no item, the result is the next item of the source. None
# is the last message.
_Messages: TypeAlias = "SimpleQueue[tuple[Future[Any], Any] | None]"
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
    items = iter(source)
    messages: _Messages = SimpleQueue()
    with Portal("uid2-stream") as portal:
        produced = portal.submit(_produce, transform, messages)
        produced.add_done_callback(lambda _: messages.put(None))
        while (message := messages.get()) is not None:
            future, item = message
            answer = next(items, _NOTHING) if item is _NOTHING else None
            if future.set_running_or_notify_cancel():
                future.set_result(answer)
            if item is not _NOTHING:
                yield item
    error = produced.exception()
    if isinstance(error, CONTROL_FLOW):
        # In the caller's thread, it would mean something else or nothing.
        error = RuntimeError(f"The stream ended with {type(error).__name__}.")
    if error is not None:
        raise error


async def _produce(transform: Transform[A, B], messages: _Messages) -> None:
    """Send one item after another. Runs in the loop's thread."""

    async def ask(item: object) -> Any:
        future: Future[Any] = Future()
        messages.put((future, item))
        return await asyncio.wrap_future(future)

    async def read() -> AsyncIterator[A]:
        while (item := await ask(_NOTHING)) is not _NOTHING:
            yield item

    async with aclosing(transform(read())) as made:
        async for item in made:
            await ask(item)
