"""An event loop in a thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import NoReturn

import pytest

from uid2_async._portal import Portal
from uid2_async.errors import ClientClosedError


@pytest.fixture
def portal() -> Iterator[Portal]:
    """Give one, and see that its thread ends."""
    with Portal("uid2-test-portal") as opened:
        yield opened
    assert "uid2-test-portal" not in {one.name for one in threading.enumerate()}


async def fail(error: BaseException) -> NoReturn:
    """Raise *error*."""
    raise error


async def where() -> tuple[asyncio.AbstractEventLoop, str]:
    """Tell the loop and the thread."""
    return asyncio.get_running_loop(), threading.current_thread().name


class Endless:
    """A coroutine function that runs until it is cancelled."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self.began = threading.Event()
        self.ended = threading.Event()

    async def __call__(self) -> None:
        """Run."""
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended.set()


def test_all_threads_share_one_loop_that_starts_on_first_use(portal: Portal) -> None:
    """No thread before the first call, and one from then on."""
    assert portal.loop is None
    found: list[tuple[asyncio.AbstractEventLoop, str]] = []
    threads = [
        threading.Thread(target=lambda: found.append(portal.run(where)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {(portal.loop, "uid2-test-portal")}


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt])
def test_an_error_is_the_callers(portal: Portal, kind: type[BaseException]) -> None:
    """Also one that would end a loop: the next call is answered."""
    with pytest.raises(kind):
        portal.run(fail, kind("mine"))
    assert portal.run(where)


def test_a_task_that_stops_the_loop_does_not_end_the_thread(portal: Portal) -> None:
    """A waiting thread gets its answer, and the block can be left."""

    async def leave_a_task() -> asyncio.Task[None]:
        return asyncio.create_task(fail(SystemExit()))

    task = portal.run(leave_a_task)
    assert portal.run(where)
    assert isinstance(task.exception(), SystemExit)


def test_a_stray_cancellation_is_not_the_callers(portal: Portal) -> None:
    """A CancelledError would end the task of a caller that awaits the future."""
    with pytest.raises(RuntimeError, match="CancelledError"):
        portal.run(fail, asyncio.CancelledError())


def test_an_interrupt_cancels_and_waits(portal: Portal) -> None:
    """After Ctrl-C the coroutine has ended when the caller continues."""
    endless, main = Endless(), threading.get_ident()

    def interrupt() -> None:
        endless.began.wait()
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        portal.run(endless)
    assert endless.ended.is_set()
    thread.join()


async def test_cancelling_a_waiter_cancels_the_coroutine(portal: Portal) -> None:
    """Any event loop may await the future of a call."""
    endless = Endless()
    waiter = asyncio.wrap_future(portal.submit(endless))
    await asyncio.to_thread(endless.began.wait)
    waiter.cancel()
    await asyncio.to_thread(endless.ended.wait)


def test_closing_ends_what_runs(portal: Portal) -> None:
    """A caller under way gets an error, as does every later one."""
    endless = Endless()
    call = portal.submit(endless)
    endless.began.wait()
    portal.close()
    with pytest.raises(ClientClosedError, match="during"):
        call.result()
    assert endless.ended.is_set()
    with pytest.raises(ClientClosedError):
        portal.run(where)
    portal.close()


def test_what_is_opened_is_left_in_the_loop() -> None:
    """An error on leaving it is raised to the caller that closes it."""
    left: list[str] = []

    @asynccontextmanager
    async def context() -> AsyncIterator[str]:
        yield threading.current_thread().name
        left.append(threading.current_thread().name)
        raise ValueError("left badly")

    portal = Portal("uid2-test-portal")
    assert portal.open(context()) == "uid2-test-portal"
    with pytest.raises(ValueError, match="left badly"):
        portal.close()
    assert left == ["uid2-test-portal"]


def test_calls_have_the_context_of_their_caller(portal: Portal) -> None:
    """The caller's trace continues in hooks."""
    variable: ContextVar[str] = ContextVar("variable", default="")

    async def read() -> str:
        return variable.get()

    variable.set("mine")
    assert portal.run(read) == "mine"
