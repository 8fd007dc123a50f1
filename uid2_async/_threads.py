"""Blocking work in threads that never keep a process alive."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from uid2_async._failures import CONTROL_FLOW

__all__ = ["run_in_thread"]

T = TypeVar("T")


async def run_in_thread(
    work: Callable[[], T], *, discard: Callable[[T], object] = lambda _: None
) -> T:
    """Run *work* in its own thread, and wait for it.

    Unlike with ``asyncio.to_thread``, nothing waits for the thread after a
    cancellation. A read from a terminal or pipe may never end, and Ctrl-C must end the
    program.

    Args:
        work: The blocking function.
        discard: Closes the result if the caller was canceled.
    """
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    _start_thread(work, done, discard)
    try:
        return await done
    except asyncio.CancelledError:
        # The result may be there already, and the waiter cancelled before it ran.
        if not done.cancelled() and done.exception() is None:
            discard(done.result())
        raise


def _start_thread(
    work: Callable[[], T], done: asyncio.Future[T], discard: Callable[[T], object]
) -> None:
    """Run *work* in a thread, and set its result in *done*."""
    loop = done.get_loop()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            if error is None:
                discard(result)  # type: ignore[arg-type] # as below
        elif error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # None only with an error, or if T is None

    def run() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is awaited
            failure = error
            if isinstance(error, CONTROL_FLOW):  # no future takes a StopIteration
                failure = RuntimeError(f"A thread ended with {type(error).__name__}.")
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:  # the loop is gone, and its waiters with it
            if failure is None:
                discard(result)  # type: ignore[arg-type] # as above

    threading.Thread(target=run, name="uid2-io", daemon=True).start()
