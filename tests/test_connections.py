"""Time limits: those of attempts share a timer, as those on silence of a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from canaries import API_KEY, CLIENT_SECRET, EMAIL
from fault_server import FaultServer, ok
from uid2_async import UID2Client
from uid2_async.connections import Deadlines, TimeLimit
from virtual_time import run_virtual


def limited(work: Callable[[Deadlines], Coroutine[Any, Any, None]]) -> None:
    """Run *work* in virtual time."""

    async def main() -> None:
        await work(Deadlines(asyncio.get_running_loop()))

    run_virtual(main())


def test_a_limit_ends_what_takes_too_long() -> None:
    """After its time, with a TimeoutError, and the task can go on."""

    async def work(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError), TimeLimit(deadlines, 2):
            await asyncio.sleep(5)
        assert loop.time() == pytest.approx(2, abs=0.01)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    limited(work)


def test_each_limit_has_its_own_time() -> None:
    """Whether it begins before or after a longer one, and whoever ended meanwhile."""

    async def work(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()

        async def wait(seconds: float, busy: float) -> float | None:
            try:
                with TimeLimit(deadlines, seconds):
                    await asyncio.sleep(busy)
            except TimeoutError:
                return loop.time()
            return None

        ends = await asyncio.gather(
            *(
                wait(seconds, busy)
                for seconds, busy in [(9, 1), (5, 10), (2, 10), (7, 10)]
            )
        )
        assert ends == [None, *(pytest.approx(at, abs=0.01) for at in (5, 2, 7))]

    limited(work)


def test_many_limits_need_one_timer() -> None:
    """One limit after the other arms no further timer."""

    async def work(deadlines: Deadlines) -> None:
        loop = asyncio.get_running_loop()
        armed: list[float] = []
        arm = loop.call_at

        def call_at(when: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
            armed.append(when)
            return arm(when, *args, **options)

        loop.call_at = call_at  # type: ignore[method-assign] # counted, not replaced
        for _ in range(100):
            with TimeLimit(deadlines, 15):
                pass
        assert len(armed) == 1

    limited(work)


def test_a_cancellation_is_not_a_timeout() -> None:
    """Canceled by others, also at the same time, a task ends as canceled."""

    async def work(deadlines: Deadlines) -> None:
        async def wait() -> None:
            with TimeLimit(deadlines, 2):
                await asyncio.sleep(5)

        for delay in (1, 2):
            task = asyncio.create_task(wait())
            asyncio.get_running_loop().call_later(delay, task.cancel)
            await asyncio.wait([task])
            assert task.cancelled()

    limited(work)


def test_a_lifted_limit_ends_nothing() -> None:
    """What is known already may take its time."""

    async def work(deadlines: Deadlines) -> None:
        with TimeLimit(deadlines, 2) as limit:
            limit.lift()
            await asyncio.sleep(5)

    limited(work)


async def test_calls_arm_no_timers_of_their_own() -> None:
    """Over a kept connection, neither an attempt nor a read arms a timer."""
    loop = asyncio.get_running_loop()
    armed: list[str] = []
    arm = loop.call_at

    def call_at(when: float, callback: Any, *args: Any, **options: Any) -> Any:
        armed.append(callback.__qualname__)
        return arm(when, callback, *args, **options)

    async with (
        FaultServer(ok) as server,
        UID2Client(server.url, api_key=API_KEY, client_secret=CLIENT_SECRET) as client,
    ):
        await client.generate_token(EMAIL)
        loop.call_at = call_at  # type: ignore[method-assign] # counted, not replaced
        for _ in range(20):
            await client.generate_token(EMAIL)
        assert not any("timeout" in name for name in armed), armed
