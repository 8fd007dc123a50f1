"""An async stream for synchronous code: a generator with an event loop in a thread."""

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
from threading import Thread
from typing import Any, Final, Generic, TypeAlias, TypeVar

import attrs

from uid2_async._failures import CONTROL_FLOW

__all__ = ["Transform", "stream_in_thread"]

A = TypeVar("A")
B = TypeVar("B")

Transform: TypeAlias = Callable[[AsyncIterator[A]], AsyncGenerator[B, None]]

_NOTHING: Final = object()


def stream_in_thread(
    transform: Transform[A, B], source: Iterable[A]
) -> Generator[B, None, None]:
    """Give what *transform* makes of *source*, item by item.

    The event loop has a thread of its own: requests go on, and time-outs mean what they
    say, while the caller is busy with an item or waits for *source*. That is read here,
    in the caller's thread, when *transform* asks for it. One item at most is made ahead
    of the caller. Closing the generator cancels *transform* and waits for its end.

    Raises:
        Exception: What *transform* or *source* raises, as it is.
    """
    thread = _LoopThread(transform)
    try:
        yield from thread.serve(iter(source))
    finally:
        thread.stop()


@attrs.frozen
class _Wanted:
    """The loop asks for the next item of the source."""

    answer: asyncio.Future[Any]


@attrs.frozen
class _Made(Generic[B]):
    """The loop has made an item, and waits until it is *taken*."""

    item: B
    taken: asyncio.Future[Any]


@attrs.frozen
class _Ended:
    """The loop has ended."""

    error: BaseException | None


class _LoopThread(Generic[A, B]):
    """A thread with an event loop, which leaves messages for the caller's thread."""

    def __init__(self, transform: Transform[A, B]) -> None:
        """Start it."""
        self._transform = transform
        self._messages: SimpleQueue[_Wanted | _Made[B] | _Ended] = SimpleQueue()
        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]]
        self._started = Future()
        self._thread = Thread(target=self._run, name="uid2-stream", daemon=True)
        self._thread.start()
        self._loop, self._task = self._started.result()

    # --- in the caller's thread -------------------------------------------------------

    def serve(self, source: Iterator[A]) -> Iterator[B]:
        """Do what the messages say."""
        while True:
            message = self._messages.get()
            if isinstance(message, _Wanted):
                self._settle(message.answer, next(source, _NOTHING))
            elif isinstance(message, _Made):
                self._settle(message.taken, None)
                yield message.item
            elif message.error is not None:
                raise message.error
            else:
                return

    def stop(self) -> None:
        """End it early, if it has not ended, and wait for it."""
        self._call(self._task.cancel)
        self._thread.join()

    def _settle(self, future: asyncio.Future[Any], result: object) -> None:
        """Give *future* its result, unless nobody waits for it any more."""
        self._call(lambda: None if future.done() else future.set_result(result))

    def _call(self, function: Callable[[], object]) -> None:
        """Call *function* in the loop, unless that is closed by now."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    # --- in the loop's thread ---------------------------------------------------------

    def _run(self) -> None:
        """Be the thread."""
        error: BaseException | None = None
        try:
            with asyncio.Runner() as runner:
                runner.run(self._produce())
        except CONTROL_FLOW as caught:
            # In the caller's thread it would mean something else, or nothing.
            error = RuntimeError(f"The stream ended with {type(caught).__name__}.")
        except BaseException as caught:  # noqa: BLE001 - it is for the caller's thread
            error = caught
        if not self._started.done():
            self._started.set_exception(error or RuntimeError("The loop did not run."))
        self._messages.put(_Ended(error))

    async def _produce(self) -> None:
        """Hand over item after item."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs has a task
        self._started.set_result((loop, task))
        async with aclosing(self._transform(self._read())) as made:
            async for item in made:
                taken = loop.create_future()
                self._messages.put(_Made(item, taken))
                await taken

    async def _read(self) -> AsyncIterator[A]:
        """Ask for the source's items, one by one."""
        loop = asyncio.get_running_loop()
        while True:
            answer = loop.create_future()
            self._messages.put(_Wanted(answer))
            item = await answer
            if item is _NOTHING:
                return
            yield item
