"""An event loop in a thread, for code that has no loop and for any number of threads.

The loop starts with the first call. After a fork, the child starts a loop of its own
with its next call. What is still open when the interpreter exits is closed then.
"""

from __future__ import annotations

import asyncio
import atexit
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from threading import Lock, Thread, current_thread
from typing import Any, Final, ParamSpec, Self, TypeVar
from weakref import WeakSet

from uid2_async.errors import ClientClosedError

__all__ = ["Portal"]

P = ParamSpec("P")
T = TypeVar("T")

_EXIT_SECONDS: Final = 5.0


class Portal:
    """An event loop in a daemon thread of its own; all methods are thread-safe.

    Example:
        >>> with Portal("uid2") as portal:
        ...     portal.run(asyncio.sleep, 1)
    """

    def __init__(self, name: str) -> None:
        """Prepare; *name* is that of the thread, which the first call starts."""
        self._name = name
        self._closed = False
        self.after_fork()
        _living.add(self)

    def after_fork(self) -> None:
        """Forget the thread, which lives in the parent only, and its lock."""
        self._lock = Lock()
        self._thread: _LoopThread | None = None

    def __enter__(self) -> Self:
        """Enter; nothing is started before the first call."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the loop."""
        self.close()

    def run(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Await ``function(*args, **kwargs)`` in the loop, and block until it ends.

        If the caller is interrupted (Ctrl-C), the coroutine is cancelled and its end is
        awaited. A second interrupt stops waiting.

        Raises:
            ClientClosedError: If the portal is closed, or is closed meanwhile.
            BaseException: What the coroutine raises.
        """
        call = _Call[T](partial(function, *args, **kwargs))
        try:
            self._schedule(call)
            return call.result()
        except BaseException:
            if not call.done() and call.cancel():  # the wait was interrupted
                wait([call])
            raise
        finally:
            # The error refers to this frame, and the call to the error.
            del call, function, args, kwargs

    def submit(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[T]:
        """Start ``function(*args, **kwargs)`` in the loop, and return its future.

        To await the future in any other event loop, use ``asyncio.wrap_future``.
        Cancelling it cancels the coroutine.

        Raises:
            ClientClosedError: If the portal is closed.
        """
        call = _Call[T](partial(function, *args, **kwargs))
        self._schedule(call)
        return call

    def _schedule(self, call: _Call[Any]) -> None:
        """Start *call* in the loop; under the lock, so that it is before the stop."""
        with self._lock:
            call.thread = self._started()
            call.thread.loop.call_soon_threadsafe(call.thread.begin, call)

    def open(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter *context* in the loop, which leaves it when the portal is closed."""
        return self.run(self.enter, context)

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter *context*; to be awaited in the loop of the portal."""
        with self._lock:
            closing = self._started().closing
        return await closing.enter_async_context(context)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, if it runs in this process."""
        thread = self._thread
        return None if thread is None else thread.loop

    def close(self, *, timeout: float | None = None) -> None:
        """Leave what was entered, cancel what runs, and stop; safe to call twice.

        Args:
            timeout: How many seconds to wait for the end; None for any number.

        Raises:
            BaseException: What a context raised when it was left.
        """
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            if thread is not None:
                thread.stop()
        if thread is not None and thread is not current_thread():
            thread.join(timeout)
            if thread.failure is not None:
                raise thread.failure

    def _started(self) -> _LoopThread:
        """Return the thread of this process, started if need be."""
        if self._closed:
            raise ClientClosedError("The client is closed.")
        if self._thread is None:
            self._thread = _LoopThread(self._name)
        return self._thread


class _Call(Future[T]):
    """A coroutine that runs in the loop of the thread."""

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        super().__init__()
        self.start = start
        self.thread: _LoopThread | None = None
        self.task: asyncio.Task[None] | None = None

    def cancel(self) -> bool:
        """Cancel the coroutine, which decides itself when it ends.

        Returns:
            Whether the future will have a result.
        """
        if self.thread is None:
            return False
        with suppress(RuntimeError):  # the loop is closed, and the coroutine has ended
            self.thread.loop.call_soon_threadsafe(self._cancel_here)
        return True

    def _cancel_here(self) -> None:
        """Cancel; in the loop."""
        if self.task is not None:
            self.task.cancel()
        elif not self.done():  # interrupted before it was scheduled
            self.set_exception(RuntimeError("The call was canceled before it started."))


class _LoopThread(Thread):
    """An event loop that runs until it is stopped."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.loop = asyncio.new_event_loop()
        self.closing = AsyncExitStack()
        self.failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        try:
            self.start()
        except BaseException:
            self.loop.close()
            raise

    def stop(self) -> None:
        """End the loop; from any thread."""
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def begin(self, call: _Call[Any]) -> None:
        """Start *call*; in the loop."""
        if call.done():
            return
        call.task = task = self.loop.create_task(self._perform(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, call: _Call[Any]) -> None:
        """Run *call*, and settle it however it ends."""
        start, call.start = call.start, _nothing
        try:
            result = await start()
        except asyncio.CancelledError:
            call.set_exception(self._cancelled())
        except BaseException as error:  # noqa: BLE001 - it is for the calling thread
            # The error refers to this frame: it must hold no argument of the call.
            del start
            call.set_exception(error)
        else:
            call.set_result(result)
        finally:
            del call

    def _cancelled(self) -> Exception:
        """Return what a caller gets whose coroutine was cancelled."""
        if self._stopping:
            return ClientClosedError("The client was closed during the call.")
        # A CancelledError would end the caller's own task, if it has one.
        return RuntimeError("The call ended with CancelledError.")

    def run(self) -> None:
        """Run the thread.

        A SystemExit or KeyboardInterrupt in a task stops a loop, and a thread that
        waits for an answer of this thread would wait forever.
        """
        while not self._stopping:
            with suppress(BaseException):
                self.loop.run_forever()
        try:
            self.loop.run_until_complete(self._finish())
        except BaseException as error:  # noqa: BLE001 - it is for the closing thread
            self.failure = error
        finally:
            self.loop.close()

    async def _finish(self) -> None:
        """Leave what was entered, then cancel what still runs."""
        try:
            await self.closing.aclose()
        finally:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.loop.shutdown_asyncgens()
            await self.loop.shutdown_default_executor()


async def _nothing() -> None:
    """Take the place of a coroutine that has been started."""


_living: Final[WeakSet[Portal]] = WeakSet()
# Collected in a child, loops and sessions would take sockets off the epoll that parent
# and child share.
_inherited: Final[list[object]] = []


def _after_fork() -> None:
    """In the child process, let every portal start again."""
    for portal in list(_living):
        _inherited.append(portal._thread)  # noqa: SLF001 - of this module
        portal.after_fork()


def _at_exit() -> None:
    """Close what the program left open."""
    for portal in list(_living):
        with suppress(BaseException):
            portal.close(timeout=_EXIT_SECONDS)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
