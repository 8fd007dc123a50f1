"""The key store: first load, refreshes, failures, single flight, and cold starts."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import stat
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from uid2_async import KeyRing, KeyStore, UID2Client, errors
from uid2_async.operator import LocalOperator
from uid2_async.protocol.key import Key

START = datetime(2026, 1, 1, tzinfo=UTC)
START_S = int(START.timestamp())
HOUR = 3600.0


def make_ring(number: int = 1, *, expires: int = START_S + 86_400) -> KeyRing:
    """Make a ring that its only key's number tells from others."""
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
        clocks = {"clock": self.clock, "monotonic": self.monotonic}
        options = {"random": lambda: 0.5} | clocks | options
        return KeyStore(fetch or self.fetch, sleep=self.sleep, **options)


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
    async with world.store(refresh_every=100.0, random=lambda: draw):
        await world.fall_asleep()

    assert world.delays == [pytest.approx(delay)]


async def test_the_last_good_ring_is_served_while_refreshes_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error is in sight, tries follow sooner and then less often, and it heals."""
    failure = errors.ServerError("canary")
    world = World(make_ring(1), *[failure] * 7, make_ring(2))
    async with world.store(random=lambda: 0.0) as store:
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
    async with world.store(refresh_every=5.0, random=lambda: 0.0):
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

    with pytest.raises(errors.CallTimeoutError, match="did not arrive"):
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
    """A second task would refresh behind the first one's back."""
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


async def test_a_cancelled_fetch_is_made_by_the_next_in_line() -> None:
    """Whoever gives up takes nobody else along."""
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
    """Mode 0600 whatever the umask or an older file says, and nothing beside it."""
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


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    """Whoever can plant a link does not get the keys written elsewhere."""
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
