"""Blocking work goes to threads that nothing waits for."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from uid2_async._portal import _run_jobs, run_in_thread


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
    daemons: list[bool] = []

    def work() -> None:
        daemons.append(threading.current_thread().daemon)
        blocked.set()
        release.wait(30)

    task = asyncio.create_task(run_in_thread(work))
    await asyncio.to_thread(blocked.wait, 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    release.set()
    assert daemons == [True]


def test_the_loop_may_be_gone() -> None:
    """Work that outlives the event loop ends without noise."""
    blocked, release = threading.Event(), threading.Event()
    discarded = threading.Event()

    def work() -> None:
        blocked.set()
        release.wait(30)

    async def leave() -> None:
        waiting = run_in_thread(work, discard=lambda _: discarded.set())
        task = asyncio.create_task(waiting)
        await asyncio.to_thread(blocked.wait, 30)
        task.cancel()

    asyncio.run(leave())
    release.set()

    assert discarded.wait(30)


async def test_a_result_that_nobody_waits_for_is_discarded() -> None:
    """A file that is opened while its job is cancelled is closed."""
    go, started, discarded = (threading.Event() for _ in range(3))
    results: list[str] = []

    def work() -> str:
        started.set()
        go.wait(30)
        return "opened"

    def discard(result: str) -> None:
        results.append(result)
        discarded.set()

    task = asyncio.create_task(run_in_thread(work, discard=discard))
    assert await asyncio.to_thread(started.wait, 30)
    task.cancel()
    await asyncio.wait([task])
    go.set()
    assert await asyncio.to_thread(discarded.wait, 30)

    assert results == ["opened"]
    assert task.cancelled()


async def test_work_is_done_even_if_it_is_cancelled_at_once() -> None:
    """It may be to close a file."""
    done = threading.Event()
    task = asyncio.create_task(run_in_thread(done.set))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

    assert await asyncio.to_thread(done.wait, 30)


async def test_a_result_that_comes_as_its_waiter_is_cancelled_is_discarded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is closed also if the result was there and the waiter had not yet run."""
    posted, discarded = threading.Event(), list[str]()
    loop = asyncio.get_running_loop()
    post = loop.call_soon_threadsafe

    def post_and_tell(*args: Any) -> asyncio.Handle:
        handle = post(*args)
        posted.set()
        return handle

    monkeypatch.setattr(loop, "call_soon_threadsafe", post_and_tell)
    waiter = asyncio.create_task(
        run_in_thread(lambda: "opened", discard=discarded.append)
    )
    await asyncio.sleep(0)
    assert posted.wait(30)
    loop.call_soon(waiter.cancel)
    with pytest.raises(asyncio.CancelledError):
        await waiter

    assert discarded == ["opened"]


async def test_threads_are_used_again() -> None:
    """A file is read in many pieces, which need one thread, or two in turn."""
    used = {await run_in_thread(threading.current_thread) for _ in range(50)}

    assert len(used) < 10


def test_an_idle_thread_ends() -> None:
    """Nothing is left behind by a program that has read its files."""
    done: list[int] = []
    jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
    jobs.put(lambda: done.append(1))

    _run_jobs(jobs, idle_seconds=0)

    assert done == [1]


FORKING = """
import asyncio, os, sys, warnings
from uid2_async._portal import run_in_thread

warnings.filterwarnings("ignore", "This process .* is multi-threaded")
asyncio.run(run_in_thread(os.getpid))
pid = os.fork()
found = asyncio.run(run_in_thread(os.getpid))
if pid == 0:
    os._exit(found != os.getpid())
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), found == os.getpid())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_does_not_wait_for_threads_of_the_parent() -> None:
    """The child has none of them, and starts its own."""
    done = subprocess.run(  # noqa: S603 - the program above
        [sys.executable, "-W", "error", "-c", FORKING],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert (done.stdout.split(), done.stderr) == (["0", "True"], "")
