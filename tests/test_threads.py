"""Blocking work goes to threads that nothing waits for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from uid2_async._portal import run_in_thread


async def test_result() -> None:
    """The result comes back from another thread."""
    assert await run_in_thread(threading.get_ident) != threading.get_ident()


async def test_error() -> None:
    """An error is raised where it is awaited."""
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SystemExit, SystemExit),
        (StopIteration, RuntimeError),
        (asyncio.CancelledError, RuntimeError),
    ],
)
async def test_any_error(
    error: type[BaseException], expected: type[BaseException]
) -> None:
    """Whatever ends the thread reaches who waits, and not as an end of their own."""

    def work() -> None:
        raise error

    with pytest.raises(expected):
        await run_in_thread(work)


async def test_cancelled_while_blocked() -> None:
    """Cancelling does not wait for the thread; what it does later is ignored."""
    blocked, release = threading.Event(), threading.Event()

    def work() -> None:
        blocked.set()
        release.wait(30)

    task = asyncio.create_task(run_in_thread(work))
    await asyncio.to_thread(blocked.wait, 30)
    (worker,) = [one for one in threading.enumerate() if one.name == "uid2-io"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    release.set()
    await asyncio.to_thread(worker.join, 30)
    assert worker.daemon


def test_the_loop_may_be_gone() -> None:
    """A thread that outlives the event loop ends without noise."""
    blocked, release = threading.Event(), threading.Event()

    def work() -> None:
        blocked.set()
        release.wait(30)

    async def leave() -> None:
        task = asyncio.create_task(run_in_thread(work))
        await asyncio.to_thread(blocked.wait, 30)
        task.cancel()

    asyncio.run(leave())
    (worker,) = [one for one in threading.enumerate() if one.name == "uid2-io"]
    release.set()
    worker.join(30)

    assert not worker.is_alive()


async def test_a_result_that_nobody_waits_for_is_discarded() -> None:
    """A file that is opened while its job is cancelled is closed."""
    go, discarded = threading.Event(), asyncio.Event()

    def work() -> str:
        go.wait(5)
        return "opened"

    results: list[str] = []

    def discard(result: str) -> None:
        results.append(result)
        discarded.set()

    task = asyncio.create_task(run_in_thread(work, discard=discard))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    await asyncio.wait_for(discarded.wait(), 5)

    assert results == ["opened"]
    assert task.cancelled()


def test_a_result_that_comes_as_its_waiter_is_cancelled_is_discarded() -> None:
    """It is closed also if the result was there and the waiter had not yet run."""
    release, discarded = threading.Event(), list[str]()

    def work() -> str:
        release.wait()
        return "opened"

    async def main() -> None:
        waiter = asyncio.create_task(run_in_thread(work, discard=discarded.append))
        before = set(threading.enumerate())
        await asyncio.sleep(0)
        (thread,) = set(threading.enumerate()) - before
        release.set()
        thread.join()
        asyncio.get_running_loop().call_soon(waiter.cancel)
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(main())

    assert discarded == ["opened"]
