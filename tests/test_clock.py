"""The clock that measures durations."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from uid2_async.clock import (
    MonotonicClock,
    monotonic_of,
    suspend_aware_sleep,
    system_clock,
)
from uid2_async.testing import ManualClock
from virtual_time import run_virtual


def test_it_goes_as_fast_as_time() -> None:
    """With and without an event loop, and across them."""
    clock = MonotonicClock()

    async def read() -> float:
        return clock()

    began, real = clock(), time.monotonic()
    readings = [clock(), asyncio.run(read()), clock(), asyncio.run(read()), clock()]

    assert readings == sorted(readings)
    assert abs((clock() - began) - (time.monotonic() - real)) < 0.5


def test_it_follows_a_loop_with_a_clock_of_its_own() -> None:
    """In virtual time a pause of an hour is over after an hour of that loop."""
    clock = MonotonicClock()

    async def wait() -> tuple[float, float]:
        before = clock()
        await asyncio.sleep(3_600)
        return before, clock()

    outside = clock()
    before, after = run_virtual(wait())

    assert 0 <= before - outside < 60
    assert 3_600 <= after - before < 3_601
    assert 0 <= clock() - after < 60
    again, _ = run_virtual(wait())
    assert 0 <= again - after < 60


def test_a_clock_may_bring_its_own() -> None:
    """ManualClock does; any other callable is for the wall alone."""
    manual = ManualClock()

    assert monotonic_of(manual, None) == manual.monotonic
    assert monotonic_of(manual, time.monotonic) is time.monotonic
    assert isinstance(monotonic_of(system_clock, None), MonotonicClock)
    assert isinstance(monotonic_of(None, None), MonotonicClock)


def test_a_manual_clock_can_be_set() -> None:
    """As a wall clock is: no time passes by it."""
    clock = ManualClock()
    clock.advance(10)
    clock.advance(-86_400)
    clock.set(datetime(2030, 1, 1, tzinfo=UTC))

    assert clock() == datetime(2030, 1, 1, tzinfo=UTC)
    assert clock.monotonic() == 10


def test_a_sleep_ends_soon_after_a_suspended_machine_resumes() -> None:
    """The loop's clock stands still meanwhile; this sleep looks at another one."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        suspended = 0.0

        def boot_time() -> float:
            return loop.time() + suspended

        async def suspend() -> None:
            nonlocal suspended
            await asyncio.sleep(100)
            suspended = 86_400

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(suspend())
            await suspend_aware_sleep(boot_time)(3_600)
            return loop.time()

    assert 100 <= run_virtual(main()) <= 160


def test_a_sleep_takes_its_time() -> None:
    """No longer and no less than it was asked for."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        await suspend_aware_sleep(loop.time)(3_599.5)
        return loop.time()

    assert 3_599.5 <= run_virtual(main()) < 3_600
