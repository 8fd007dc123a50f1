"""Threads: an event loop in a thread, and blocking work in threads.

:class:`Portal` is an event loop for code without one, and for any number of threads.

The first call starts the loop. After a fork, the child starts its own loop with its
next call. Contexts that are still open are closed when the interpreter exits.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, Final, ParamSpec, Self, TypeAlias, TypeVar
from weakref import WeakSet

from uid2_async._failures import CONTROL_FLOW
from uid2_async.errors import ClientClosedError

P = ParamSpec("P")
T = TypeVar("T")

_EXIT_SECONDS: Final = 5.0


class Portal:
    """An event loop in its own daemon thread. All methods are thread-safe.

    Example:
        >>> with Portal("uid2") as portal:
        ...     portal.run(asyncio.sleep, 1)
    """

    def __init__(self, name: str) -> None:
        """Set the *name* of the thread. It is started by the first call."""
        self._name = name
        self._closed = False
        self.after_fork()
        _living.add(self)

    def after_fork(self) -> None:
        """Drop the thread and its lock. Both exist only in the parent."""
        self._lock = Lock()
        self._thread: _LoopThread | None = None

    def __enter__(self) -> Self:
        """Enter, without starting the thread."""
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

        If the caller is interrupted (Ctrl-C), the coroutine is canceled and awaited. A
        second interrupt stops the wait.

        Raises:
            ClientClosedError: If the portal is closed before or during the call.
            BaseException: Any error that the coroutine raises.
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
            # The error references this frame, and the call references the error.
            del call, function, args, kwargs

    def submit(
        self,
        function: Callable[P, Coroutine[Any, Any, T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Future[T]:
        """Start ``function(*args, **kwargs)`` in the loop, and return its future.

        To await the future in another event loop, use ``asyncio.wrap_future``.
        Canceling it cancels the coroutine.

        Raises:
            ClientClosedError: If the portal is closed.
        """
        call = _Call[T](partial(function, *args, **kwargs))
        self._schedule(call)
        return call

    def _schedule(self, call: _Call[Any]) -> None:
        """Start *call* in the loop. Holds the lock, so that it precedes the stop."""
        with self._lock:
            call.thread = self._started()
            call.thread.loop.call_soon_threadsafe(call.thread.start_call, call)

    def open(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter *context* in the loop. It is exited when the portal is closed."""
        return self.run(self.enter, context)

    async def enter(self, context: AbstractAsyncContextManager[T]) -> T:
        """Enter *context*. Must be awaited in the loop of the portal."""
        with self._lock:
            closing = self._started().closing
        return await closing.enter_async_context(context)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop, or None if it is not running in this process."""
        thread = self._thread
        return None if thread is None else thread.loop

    def close(self, *, timeout: float | None = None) -> None:
        """Exit the entered contexts, cancel running calls, and stop. Idempotent.

        Args:
            timeout: Seconds to wait for the end. None waits without a limit.

        Raises:
            BaseException: An error that a context raised on exit.
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
        """Return the thread of this process, starting it if needed."""
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
        """Cancel the coroutine, which may still take time to end.

        Returns:
            Whether the future will have a result.
        """
        if self.thread is None:
            return False
        with suppress(RuntimeError):  # the loop is closed, and the coroutine has ended
            self.thread.loop.call_soon_threadsafe(self._cancel_here)
        return True

    def _cancel_here(self) -> None:
        """Cancel the coroutine. Runs in the loop."""
        if self.task is not None:
            self.task.cancel()
        elif not self.done():  # interrupted before it was scheduled
            self.set_exception(RuntimeError("The call was canceled before it started."))


class _LoopThread(Thread):
    """An event loop that runs until it is stopped."""

    # freezegun replaces the functions of modules: here a timeout ends in frozen time.
    _monotonic = staticmethod(time.monotonic)

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.loop = asyncio.new_event_loop()
        self.loop.time = self._monotonic  # type: ignore[method-assign] # as above
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
        """Stop the loop. Thread-safe."""
        self._stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)

    def start_call(self, call: _Call[Any]) -> None:
        """Start *call*. Runs in the loop."""
        if call.done():
            return
        call.task = task = self.loop.create_task(self._perform(call))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, call: _Call[Any]) -> None:
        """Run *call*, and set its result or error."""
        start, call.start = call.start, _nothing
        try:
            result = await start()
        except asyncio.CancelledError:
            call.set_exception(self._cancelled())
        except BaseException as error:  # noqa: BLE001 - passed to the calling thread
            # The error references this frame, which must not hold arguments of the
            # call.
            del start
            call.set_exception(error)
        else:
            call.set_result(result)
        finally:
            del call

    def _cancelled(self) -> Exception:
        """Return the error for a caller whose coroutine was canceled."""
        if self._stopping:
            return ClientClosedError("The client was closed during the call.")
        # A CancelledError would cancel the caller's own task, if it has one.
        return RuntimeError("The call ended with CancelledError.")

    def run(self) -> None:
        """Run the loop in the thread.

        A SystemExit or KeyboardInterrupt in a task stops a loop. Callers that wait for
        a result from this thread would then wait forever.
        """
        while not self._stopping:
            with suppress(BaseException):
                self.loop.run_forever()
        try:
            self.loop.run_until_complete(self._finish())
        except BaseException as error:  # noqa: BLE001 - passed to the closing thread
            self.failure = error
        finally:
            self.loop.close()

    async def _finish(self) -> None:
        """Exit the entered contexts, then cancel the calls that still run."""
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
    """Replace a coroutine that has been started."""


_living: Final[WeakSet[Portal]] = WeakSet()
# If the child collected them as garbage, loops and sessions would remove sockets from
# the epoll instance that parent and child share.
_inherited: Final[list[object]] = []


def _after_fork() -> None:
    """Forget the threads, which exist only in the parent process."""
    for portal in list(_living):
        _inherited.append(portal._thread)  # noqa: SLF001 - defined in this module
        portal.after_fork()
    _idle.clear()


def _at_exit() -> None:
    for portal in list(_living):
        with suppress(BaseException):
            portal.close(timeout=_EXIT_SECONDS)


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# --- blocking work --------------------------------------------------------------------

_Jobs: TypeAlias = "SimpleQueue[Callable[[], None]]"
_idle: Final[list[_Jobs]] = []
"""The queues of the threads without work, the last used one at the end."""
_IDLE_SECONDS: Final = 2.0


async def run_in_thread(
    work: Callable[[], T], *, discard: Callable[[T], object] = lambda _: None
) -> T:
    """Run *work* in a thread of its own, and wait for it.

    Unlike with ``asyncio.to_thread``, nothing waits for the thread after a
    cancellation. A read from a terminal or pipe may never end, and Ctrl-C must end the
    program.

    An idle thread is used again: starting one takes milliseconds while another thread
    is busy, since it has to wait for the interpreter lock first.

    Args:
        work: The blocking function.
        discard: Closes the result if the caller was canceled.
    """
    future: Future[T] = Future()
    # Cancellation does not stop the work, which may be to close a file.
    future.set_running_or_notify_cancel()
    try:
        jobs = _idle.pop()
    except IndexError:
        jobs = SimpleQueue()
        Thread(target=_run_jobs, args=(jobs,), name="uid2-io", daemon=True).start()
    jobs.put(partial(_settle, future, work))
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        # The result may come later, or be there already.
        future.add_done_callback(partial(_discard, discard))
        raise


def _settle(future: Future[T], work: Callable[[], T]) -> None:
    """Run *work*, and set its result."""
    try:
        result = work()
    except CONTROL_FLOW as error:  # no future takes a StopIteration
        name = type(error).__name__
        future.set_exception(RuntimeError(f"A thread ended with {name}."))
    except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
        future.set_exception(error)
    else:
        future.set_result(result)


def _discard(discard: Callable[[T], object], future: Future[T]) -> None:
    """Discard a result that nobody waits for."""
    if future.exception() is None:
        discard(future.result())


def _run_jobs(jobs: _Jobs, idle_seconds: float = _IDLE_SECONDS) -> None:
    """Run what arrives, until nothing has arrived for *idle_seconds*."""
    while True:
        try:
            run = jobs.get(timeout=idle_seconds)
        except Empty:
            with suppress(ValueError):  # somebody has just taken this thread
                _idle.remove(jobs)
                return
            run = jobs.get()
        run()
        del run  # and the result, while it waits
        _idle.append(jobs)
