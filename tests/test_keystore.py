"""The key store: first load, refreshes, failures, single flight, and cold starts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import stat
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest

from uid2_async import KeyRing, KeyStore, UID2Client, errors
from uid2_async.operator import LocalOperator
from uid2_async.protocol.keyring import Key
from uid2_async.testing import ManualClock
from virtual_time import run_virtual

START = datetime(2026, 1, 1, tzinfo=UTC)
START_S = int(START.timestamp())
HOUR = 3600.0


def make_ring(number: int = 1, *, expires: int = START_S + 86_400) -> KeyRing:
    """Make a ring that differs by the number of its only key."""
    key = Key(
        id=number,
        secret=b"canary" + bytes(26),
        created=0,
        activates=0,
        expires=expires,
    )
    return KeyRing(keys={number: key})


class World:
    """Two clocks, a sleep that a test steps through, and a scripted fetch."""

    def __init__(self, *script: KeyRing | BaseException) -> None:
        """Take what each fetch gives or raises; the last stays for good."""
        self.now = START
        self.wall_is_off = timedelta()
        self.script = list(script)
        self.fetches = 0
        self.delays: list[float] = []
        self._woken: asyncio.Queue[None] = asyncio.Queue()
        self._asleep: asyncio.Queue[None] = asyncio.Queue()

    def clock(self) -> datetime:
        """Tell the time, as the wall clock is set."""
        return self.now + self.wall_is_off

    def monotonic(self) -> float:
        """Tell how much time has passed."""
        return (self.now - START).total_seconds()

    async def fetch(self) -> KeyRing:
        """Do the next step of the script."""
        self.fetches += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(step, BaseException):
            raise step
        return step

    async def sleep(self, seconds: float) -> None:
        """Sleep until the test wakes."""
        self.delays.append(seconds)
        self._asleep.put_nowait(None)
        await self._woken.get()
        self.now += timedelta(seconds=seconds)

    async def fall_asleep(self) -> None:
        """Wait until the background task sleeps."""
        await self._asleep.get()

    async def next_round(self) -> None:
        """Wake the background task, and wait until it sleeps again."""
        self._woken.put_nowait(None)
        await self.fall_asleep()

    def store(
        self, fetch: Callable[[], Awaitable[KeyRing]] | None = None, **options: Any
    ) -> KeyStore:
        """Make a store in this world, whose jitter leaves out a tenth."""
        settings: dict[str, Any] = {
            "clock": self.clock,
            "monotonic": self.monotonic,
            "_random": lambda: 0.5,
            "_sleep": self.sleep,
        }
        return KeyStore(fetch or self.fetch, **(settings | options))


async def test_entering_loads_the_keys() -> None:
    """Inside the block there is a ring; before it there is none."""
    world = World(make_ring())
    store = world.store()

    assert (store.ready, store.age) == (False, math.inf)
    with pytest.raises(errors.KeysUnavailableError, match="No keys have been loaded"):
        _ = store.ring
    async with store as entered:
        assert entered is store
        assert store.ready
        assert store.ring == make_ring()
        assert store.last_error is None
        world.now += timedelta(seconds=90)
        assert store.age == 90.0
        assert repr(store) == "<KeyStore ready age=90s>"
    assert repr(world.store()) == "<KeyStore not ready age=infs>"


async def test_keys_are_refreshed_every_hour_with_jitter() -> None:
    """At most an hour passes, and a random part of a fifth is left out."""
    world = World(make_ring(1), make_ring(2), make_ring(3))
    async with world.store() as store:
        await world.fall_asleep()
        assert world.delays == [pytest.approx(0.9 * HOUR)]
        await world.next_round()
        assert store.ring == make_ring(2)
        await world.next_round()
        assert store.ring == make_ring(3)
        assert store.age == 0.0


@pytest.mark.parametrize(("draw", "delay"), [(0.0, 100.0), (0.999, 80.02)])
async def test_the_interval_and_the_randomness_are_arguments(
    draw: float, delay: float
) -> None:
    """The delay lies between four fifths of the interval and the whole."""
    world = World(make_ring())
    async with world.store(refresh_every=100.0, _random=lambda: draw):
        await world.fall_asleep()

    assert world.delays == [pytest.approx(delay)]


async def test_the_last_good_ring_is_served_while_refreshes_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is in sight, tries follow sooner and then less often, and it heals."""
    failure = errors.ServerError("canary")
    world = World(make_ring(1), *[failure] * 7, make_ring(2))
    async with world.store(_random=lambda: 0.0) as store:
        await world.fall_asleep()
        for _ in range(7):
            await world.next_round()
            assert str(store.last_error) == str(failure)
            assert store.ring == make_ring(1)
            assert store.ready
        assert world.delays == [HOUR, 10, 20, 40, 80, 160, 300, 300]
        assert store.age == sum(world.delays[:-1])
        await world.next_round()
        assert store.last_error is None
        assert store.ring == make_ring(2)
        assert world.delays[-1] == HOUR
    assert "Fetching the keys failed with ServerError" in caplog.text
    assert "canary" not in caplog.text


async def test_retries_are_no_rarer_than_refreshes() -> None:
    """An interval that is shorter than the first retry's delay holds for both."""
    world = World(make_ring(), errors.ServerError("x"))
    async with world.store(refresh_every=5.0, _random=lambda: 0.0):
        await world.fall_asleep()
        await world.next_round()

    assert world.delays == [5.0, 5.0]


async def test_a_ring_whose_keys_have_expired_replaces_no_good_one() -> None:
    """Useless keys are a failure, and the good ones stay."""
    world = World(make_ring(1), make_ring(2, expires=START_S))
    async with world.store() as store:
        await world.fall_asleep()
        await world.next_round()
        assert store.ring == make_ring(1)
        assert isinstance(store.last_error, errors.KeysUnavailableError)


async def test_a_ring_can_expire_while_it_is_held() -> None:
    """Then the store is not ready any more, and fetches whatever the ring's age."""
    world = World(make_ring(expires=START_S + 30), errors.ConnectError("x"))
    store = world.store()
    await store.ensure_fresh(60)
    world.now += timedelta(seconds=30)

    assert not store.ready
    for _ in range(3):
        with pytest.raises(errors.ConnectError):
            await store.ensure_fresh(60)
    assert world.fetches == 2
    assert store.age == 30.0


async def test_after_a_failure_nobody_tries_for_a_while() -> None:
    """As long as the ring is usable, a request does not wait for a dead operator."""
    world = World(make_ring(1), errors.ConnectError("x"), make_ring(2))
    store = world.store()
    await store.ensure_fresh(60)
    world.now += timedelta(seconds=61)

    assert await store.ensure_fresh(60) == make_ring(1)
    assert isinstance(store.last_error, errors.ConnectError)
    world.now += timedelta(seconds=9)
    assert await store.ensure_fresh(60) == make_ring(1)
    assert world.fetches == 2
    world.now += timedelta(seconds=1)
    assert await store.ensure_fresh(60) == make_ring(2)


@pytest.mark.parametrize("failure", [errors.AuthError("no"), RuntimeError("theirs")])
async def test_entering_fails_without_keys(failure: Exception) -> None:
    """What the fetch met is raised, and no task is left."""
    world = World(failure)

    with pytest.raises(type(failure)) as caught:
        await world.store().__aenter__()

    assert str(caught.value) == str(failure)
    assert len(asyncio.all_tasks()) == 1


async def test_keys_that_are_not_required_may_come_later() -> None:
    """A service can start without operator, and is ready once there are keys."""
    world = World(errors.ConnectError("x"), make_ring())
    async with world.store(required=False) as store:
        await world.fall_asleep()
        assert not store.ready
        assert isinstance(store.last_error, errors.ConnectError)
        assert world.delays == [9.0]
        await world.next_round()
        assert store.ready


async def test_the_first_load_has_a_deadline() -> None:
    """A fetch that hangs is given up."""

    async def hang() -> KeyRing:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(errors.CallTimeoutError, match="not received"):
        await World(make_ring()).store(hang, timeout=1e-9).__aenter__()


@pytest.mark.parametrize("option", ["refresh_every", "timeout"])
def test_options_are_above_zero(option: str) -> None:
    """Nothing is fetched without end."""
    with pytest.raises(errors.ConfigError, match=option):
        World(make_ring()).store(**{option: 0})


async def test_leaving_the_block_ends_the_task() -> None:
    """No task is left behind, by return, by error, or by closing twice."""
    world = World(make_ring())
    store = world.store()

    async def fail() -> None:
        async with store:
            await world.fall_asleep()
            assert len(asyncio.all_tasks()) == 2
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await store.aclose()

    assert len(asyncio.all_tasks()) == 1
    assert store.ready


async def test_a_block_is_entered_once_at_a_time() -> None:
    """A second task would refresh at the same time as the first one."""
    world = World(make_ring())
    async with world.store() as store:
        with pytest.raises(RuntimeError, match="in use"):
            await store.__aenter__()
    async with store:
        assert store.ready
    assert world.fetches == 2


async def test_a_cancelled_entry_leaves_nothing() -> None:
    """Cancellation during the first load reaches the fetch."""
    began = asyncio.Event()
    ended: list[str] = []

    async def hang() -> KeyRing:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")
        raise AssertionError

    store = World(make_ring()).store(hang)
    task = asyncio.create_task(store.__aenter__())
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == ["cancelled"]
    assert len(asyncio.all_tasks()) == 1


async def test_without_a_task_the_ring_is_fetched_when_it_is_too_old() -> None:
    """A frozen process asks on each request, and pays for a fetch when it must."""
    world = World(make_ring(1), make_ring(2))
    store = world.store()

    assert await store.ensure_fresh(60) == make_ring(1)
    world.now += timedelta(seconds=60)
    assert await store.ensure_fresh(60) == make_ring(1)
    world.now += timedelta(seconds=1)
    assert await store.ensure_fresh(60) == make_ring(2)
    assert world.fetches == 2


async def test_many_who_ask_at_once_make_one_fetch() -> None:
    """And all get its outcome, also where it fails."""
    release = asyncio.Event()
    world = World(make_ring(1), errors.ServerError("x"))

    async def slow() -> KeyRing:
        ring = world.fetch()
        await release.wait()
        return await ring

    store = world.store(slow)
    tasks = [asyncio.create_task(store.ensure_fresh(60)) for _ in range(200)]
    for _ in range(3):
        await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*tasks) == [make_ring(1)] * 200
    assert world.fetches == 1

    world.now += timedelta(hours=1)
    assert await asyncio.gather(*(store.ensure_fresh(60) for _ in range(9))) == (
        [make_ring(1)] * 9
    )
    assert world.fetches == 2
    assert isinstance(store.last_error, errors.ServerError)


async def test_each_waiter_gets_an_error_of_its_own() -> None:
    """Its traceback is short, and holds no frame of another waiter or of the fetch."""
    release = asyncio.Event()

    async def fetch() -> KeyRing:
        secret_of_fetch = "canary"
        await release.wait()
        raise errors.ServerError(secret_of_fetch[:0] or "down")

    store = World(make_ring()).store(fetch)

    async def wait(number: int) -> errors.ServerError:
        mine = f"waiter {number}"
        try:
            await store.ensure_fresh(60)
        except errors.ServerError as error:
            assert mine
            return error
        raise AssertionError

    tasks = [asyncio.create_task(wait(number)) for number in range(1_000)]
    for _ in range(3):
        await asyncio.sleep(0)
    release.set()
    found = [*await asyncio.gather(*tasks), await wait(1_000)]

    assert len({id(error) for error in found}) == 1_001
    for number, error in enumerate(found):
        assert str(error) == str(errors.ServerError("down"))
        assert error.__cause__ is error.__context__ is None
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        assert len(frames) <= 3
        assert frames[0].f_locals["mine"] == f"waiter {number}"
        names = {name for frame in frames[1:] for name in frame.f_locals}
        assert not names & {"mine", "secret_of_fetch"}


STRAYS = [
    asyncio.CancelledError,
    GeneratorExit,
    StopAsyncIteration,
]


@pytest.mark.parametrize("stray", STRAYS)
async def test_a_fetch_that_is_cancelled_by_itself_has_failed(
    stray: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """The store was not canceled: it continues, and callers get an error."""
    world = World(make_ring(1), stray(), make_ring(2))
    async with world.store() as store:
        await world.fall_asleep()
        await world.next_round()
        assert store.ring == make_ring(1)
        assert stray.__name__ in str(store.last_error)
        assert store.ready
        await world.next_round()
        assert (store.ring, store.last_error) == (make_ring(2), None)
    with pytest.raises(errors.KeysUnavailableError, match=stray.__name__):
        await World(stray()).store().ensure_fresh(60)
    assert "failed with KeysUnavailableError" in caplog.text


@pytest.mark.parametrize(
    "how", [asyncio.CancelledError, GeneratorExit, KeyError, BaseException, "cancel"]
)
async def test_a_background_task_that_ends_is_noticed(
    how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is not ready any more, says why, and can be entered again."""

    async def sleep(seconds: float) -> None:
        if how != "cancel":
            raise how
        await asyncio.Event().wait()

    world = World(make_ring())
    store = KeyStore(world.fetch, clock=world.clock, _sleep=sleep)
    await store.__aenter__()
    assert store.ready
    if how == "cancel":
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        task.cancel()
    for _ in range(3):
        await asyncio.sleep(0)

    name = "CancelledError" if how == "cancel" else how.__name__
    assert not store.ready
    assert name in str(store.last_error)
    assert f"The background refresh of the keys ended with {name}" in caplog.text
    assert store.ring == await store.ensure_fresh(60) == make_ring()
    store._sleep = world.sleep
    async with store:
        await world.fall_asleep()
        assert store.ready
    assert store.ready
    assert world.fetches == 2


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_ends_it(end: type[BaseException]) -> None:
    """Raised by a fetch in the background, it is not swallowed; the store notices."""
    world = World(make_ring(), end())
    store = world.store(_sleep=lambda _: asyncio.sleep(0))

    async def main() -> None:
        await store.__aenter__()
        await asyncio.Event().wait()

    with pytest.raises(end):
        asyncio.run(main())
    assert not store.ready
    assert end.__name__ in str(store.last_error)


async def test_a_fetch_that_swallows_the_cancellation_does_not_hold_up_the_end() -> (
    None
):
    """Leaving the block ends the task after the fetch."""
    world = World(make_ring())

    async def fetch() -> KeyRing:
        if store.ready:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return await world.fetch()

    store = world.store(fetch, _sleep=lambda _: asyncio.sleep(0))
    async with asyncio.timeout(5), store:
        for _ in range(5):
            await asyncio.sleep(0)

    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("cut", ["run", "loop"])
def test_a_loop_that_is_cut_off_in_a_refresh_holds_up_no_other(cut: str) -> None:
    """The next loop starts afresh: it fetches, enters and leaves the block."""
    world = World(make_ring(1), make_ring(2))
    began = asyncio.Event()

    async def hang() -> KeyRing:
        if began.is_set():
            return await world.fetch()
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    store = world.store(hang, required=False)

    async def first() -> None:
        waiter = asyncio.create_task(store.ensure_fresh(60))
        await began.wait()
        assert not waiter.done()

    async def then() -> None:
        async with asyncio.timeout(5):
            assert await store.ensure_fresh(60) == make_ring(1)
            async with store:
                assert store.ready

    if cut == "run":
        asyncio.run(first())
    else:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(first())
        leave_behind(loop)
    asyncio.run(then())
    assert store.ready


def test_a_block_whose_loop_is_gone_can_be_entered_again() -> None:
    """The store is not ready while nobody refreshes it; closing it does not wait."""
    world = World(make_ring())
    store = world.store()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(store.__aenter__())
    assert store.ready
    leave_behind(loop)

    async def again() -> None:
        async with asyncio.timeout(5):
            assert not store.ready
            async with store:
                assert store.ready

    asyncio.run(again())
    asyncio.run(store.aclose())
    assert store.ready


def leave_behind(loop: asyncio.AbstractEventLoop) -> None:
    """Close a loop whose tasks have not ended, as a crash of a runner does."""
    loop.set_exception_handler(lambda *_: None)
    KEPT.extend(asyncio.all_tasks(loop))
    for task in KEPT:
        task._log_destroy_pending = False  # type: ignore[attr-defined] # as asyncio does
    loop.close()


# Tasks that are collected close their coroutines, which is not what happens here.
KEPT: list[asyncio.Task[Any]] = []


@pytest.mark.parametrize("days", [-400, -1, 1, 400])
async def test_a_wall_clock_that_is_set_changes_no_duration(days: int) -> None:
    """Neither the age, nor the pause after a failure, nor when the next fetch is."""
    late = START_S + 10**9
    last = make_ring(2, expires=late)
    world = World(make_ring(1, expires=late), errors.ConnectError("x"), last)
    store = world.store()
    await store.ensure_fresh(60)
    world.now += timedelta(seconds=30)
    world.wall_is_off = timedelta(days=days)
    assert store.age == 30.0
    await store.ensure_fresh(60)
    assert world.fetches == 1
    world.now += timedelta(seconds=31)
    await store.ensure_fresh(60)
    world.wall_is_off = timedelta()
    await store.ensure_fresh(60)
    assert world.fetches == 2
    world.wall_is_off = timedelta(days=days)
    world.now += timedelta(seconds=10)
    assert await store.ensure_fresh(60) == last
    assert world.fetches == 3


def in_an_hour(store: KeyStore, callers: int, world: World) -> tuple[int, int]:
    """Let *callers* ask in the course of an hour; count failures and fetches."""

    async def main() -> int:
        failed = 0
        for _ in range(callers):
            try:
                await store.ensure_fresh(600)
            except errors.UID2Error:
                failed += 1
            await asyncio.sleep(3_600 / callers)
        return failed

    before = world.fetches
    return run_virtual(main()), world.fetches - before


@pytest.mark.parametrize("step", [errors.ConnectError("x"), make_ring(expires=START_S)])
def test_without_keys_an_outage_is_not_met_by_more_requests(step: Any) -> None:
    """10,000 calls in an hour make at most 70 fetches: after 10, 20, 40, then 60 s."""
    world = World(step)
    store = KeyStore(world.fetch, clock=world.clock)

    failed, fetches = in_an_hour(store, 10_000, world)

    assert failed == 10_000
    assert 60 <= fetches <= 70
    world.script = [make_ring()]
    failed, fetches = in_an_hour(store, 10_000, world)
    assert failed <= 170
    assert fetches == 6


def test_keys_that_expire_when_they_arrive_are_not_fetched_without_end() -> None:
    """An operator whose keys live for a second is asked every 10 s."""
    world = World(make_ring())

    async def fetch() -> KeyRing:
        await world.fetch()
        loop = asyncio.get_running_loop()
        return make_ring(expires=START_S + int(loop.time()) + 1)

    def clock() -> datetime:
        return START + timedelta(seconds=asyncio.get_running_loop().time())

    failed, fetches = in_an_hour(KeyStore(fetch, clock=clock), 10_000, world)

    assert failed > 8_000
    assert 350 <= fetches <= 361


def test_a_suspended_machine_fetches_soon_after_it_resumes() -> None:
    """The hour continues while it sleeps; the loop's clock does not."""
    world = World(make_ring())
    asleep = 0.0

    async def main() -> tuple[float, int]:
        nonlocal asleep
        loop = asyncio.get_running_loop()
        store = KeyStore(
            world.fetch, clock=world.clock, monotonic=lambda: loop.time() + asleep
        )
        async with store:
            await asyncio.sleep(100)
            asleep = 7_200.0
            age = store.age
            await asyncio.sleep(61)
            return age, world.fetches

    assert run_virtual(main()) == (pytest.approx(7_300, abs=1), 2)


async def test_a_cancelled_fetch_is_made_by_the_next_in_line() -> None:
    """A canceled caller does not cancel the others."""
    began = asyncio.Event()
    calls = 0

    async def hang_once() -> KeyRing:
        nonlocal calls
        calls += 1
        if calls == 1:
            began.set()
            await asyncio.Event().wait()
        return make_ring()

    store = World(make_ring()).store(hang_once)
    first = asyncio.create_task(store.ensure_fresh(60))
    await began.wait()
    second = asyncio.create_task(store.ensure_fresh(60))
    await asyncio.sleep(0)
    first.cancel()

    assert await second == make_ring()
    assert first.cancelled()
    assert calls == 2


def test_a_store_may_outlive_its_event_loop() -> None:
    """Each invocation of a frozen process may bring a loop of its own."""
    world = World(make_ring())
    store = world.store()

    async def contend() -> None:
        world.now += timedelta(hours=1)
        await asyncio.gather(*(store.ensure_fresh(60) for _ in range(3)))

    asyncio.run(contend())
    asyncio.run(contend())
    assert world.fetches == 2


async def test_a_saved_ring_serves_a_cold_start(tmp_path: Path) -> None:
    """With its age, and without the operator."""
    path = tmp_path / "keys.json"
    world = World(make_ring(1))
    async with world.store() as store:
        store.save(path)

    later = World(errors.ConnectError("x"))
    later.now = START + timedelta(minutes=5)
    cold = later.store()
    assert cold.load(path)
    assert cold.age == 300.0
    async with cold:
        assert cold.ring == make_ring(1)
        assert isinstance(cold.last_error, errors.ConnectError)


def test_a_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Mode 0600 whatever the umask or an older file says, and no other file."""
    path = tmp_path / "keys.json"
    path.write_text("old")
    path.chmod(0o644)
    store = asyncio.run(_loaded())
    before = os.umask(0)
    try:
        store.save(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


async def _loaded() -> KeyStore:
    """Make a store that has a ring."""
    store = World(make_ring()).store()
    await store.ensure_fresh(60)
    return store


def test_a_key_file_with_the_longest_name(tmp_path: Path) -> None:
    """The name of its temporary file is not too long."""
    path = tmp_path / ("k" * 255)
    asyncio.run(_loaded()).save(path)

    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """A planted link does not redirect the keys."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    path = tmp_path / "keys.json"
    path.symlink_to(elsewhere)

    asyncio.run(_loaded()).save(path)

    assert not path.is_symlink()
    assert elsewhere.read_text() == "untouched"


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """Neither a half of it nor a temporary one."""
    path = tmp_path / "keys.json"
    path.mkdir()

    with pytest.raises(OSError, match="directory"):
        asyncio.run(_loaded()).save(path)

    assert list(tmp_path.iterdir()) == [path]


def test_there_must_be_something_to_save(tmp_path: Path) -> None:
    """No empty file is written."""
    with pytest.raises(errors.KeysUnavailableError):
        World(make_ring()).store().save(tmp_path / "keys.json")

    assert not list(tmp_path.iterdir())


async def test_loading_takes_nothing_older_than_what_is_held(tmp_path: Path) -> None:
    """And no file at all is no error: it is the first start."""
    path = tmp_path / "keys.json"
    world = World(make_ring(1), make_ring(2))
    store = world.store()
    assert not store.load(path)
    await store.ensure_fresh(60)
    store.save(path)
    world.now += timedelta(hours=1)
    await store.ensure_fresh(60)

    assert not store.load(path)
    assert store.ring == make_ring(2)


async def test_a_file_from_the_future_is_of_unknown_age(tmp_path: Path) -> None:
    """A clock that was wrong does not make keys look fresh."""
    path = tmp_path / "keys.json"
    world = World(make_ring(1), make_ring(2))
    world.now += timedelta(days=1, hours=-1)
    store = world.store()
    await store.ensure_fresh(60)
    store.save(path)

    earlier = World(make_ring(3))
    again = earlier.store()
    assert again.load(path)
    assert again.age > 10**9
    assert await again.ensure_fresh(60) == make_ring(3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"canary",
        b"{}",
        b'{"fetched_ms":1,"reply":null}',
        b'{"fetched_ms":-1,"reply":{"body":{"keys":[]},"status":"success"}}',
        b'{"fetched_ms":1,"reply":{"body":{"keys":[{"secret":"canary"}]}}}',
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """Without showing what is in it."""
    path = tmp_path / "keys.json"
    path.write_bytes(content)

    with pytest.raises(errors.ProtocolError, match="key file") as caught:
        World(make_ring()).store().load(path)

    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


async def test_no_key_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    """Neither in a repr nor in a log."""
    caplog.set_level(logging.DEBUG)
    store = await _loaded()

    assert "canary" not in repr(store) + repr(store.ring) + caplog.text


async def test_a_client_fetches_the_keys(
    operator: LocalOperator, client: UID2Client
) -> None:
    """Both kinds of keys come as a client's methods give them."""
    for fetch in (client.fetch_bidstream_keys, client.fetch_sharing_keys):
        async with KeyStore(fetch, clock=lambda: operator.now) as store:
            assert store.ready
            assert store.ring == await fetch()


async def test_a_store_that_reads_what_another_saves(tmp_path: Path) -> None:
    """It never fetches, notices a change in time, and keeps keys that it has read."""
    clock, path = ManualClock(), tmp_path / "keys"
    async with LocalOperator(clock=clock) as operator:
        client = UID2Client(
            operator.url,
            api_key=operator.api_key,
            client_secret=operator.client_secret,
            clock=clock,
        )
        async with client, KeyStore(client.fetch_sharing_keys, clock=clock) as fetcher:
            reader = KeyStore.from_file(path, clock=clock)
            assert not reader.ready
            with pytest.raises(errors.KeysUnavailableError, match="cannot be read"):
                await reader.ensure_fresh(60)
            fetcher.save(path)
            assert not reader.ready  # it has looked within the last second
            clock.advance(1)
            async with reader:
                assert reader.ready
                assert reader.last_error is None
            assert reader.ring.to_json() == fetcher.ring.to_json()
            path.write_bytes(b"damaged")
            clock.advance(1)
            assert reader.ring.to_json() == fetcher.ring.to_json()
            assert isinstance(reader.last_error, errors.KeysUnavailableError)
            assert len(operator.calls) == 1
