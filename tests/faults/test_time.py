"""D1 to D15: clocks that are off, set, or stopped, and how often is asked."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from msgspec.structs import replace
from tenacity import stop_after_attempt

from canaries import ADVERTISING_TOKEN, API_KEY, CLIENT_SECRET, REFRESH_TOKEN
from fault_bench import Bench, Rows
from fault_server import Exchange, FaultServer, ok, refuse
from memory_operator import MemoryOperator, refusal
from sealed_answers import held_tokens, now_ms, seal, success, tokens_body
from uid2_async import (
    IdentityTokens,
    KeyRing,
    KeyStore,
    MappedUID,
    TokenRefresher,
    errors,
)
from uid2_async.bulk import BulkMapper
from uid2_async.bulk.private_files import System
from uid2_async.protocol.keyring import Key
from uid2_async.transport import Reply

rows = Rows()
BAD_TIME = b'{"status":"client_error","message":"Invalid timestamp: request too old"}'


def judging(limit_ms: int = 60_000, *, date: Any = None) -> Any:
    """Make the step of an operator that refuses times that are off."""

    async def step(exchange: Exchange) -> None:
        if abs(exchange.request.age_ms) <= limit_ms:
            await ok(exchange)
            return
        headers = [] if date is None else [f"Date: {date(exchange.server)}"]
        await exchange.answer(BAD_TIME, "400 Bad", headers)

    return step


def http_date(server: FaultServer) -> str:
    """Write the server's time as an edge does."""
    at = datetime.now(UTC) + timedelta(milliseconds=server.off_ms)
    return format_datetime(at, usegmt=True)


async def is_corrected(bench: Bench, off_ms: int) -> None:
    """Two requests the first time, one from then on; the budget is not used."""
    async with bench.server(judging(date=http_date), off_ms=off_ms) as server:
        client = bench.client(server)
        assert isinstance(await bench.generate(client), IdentityTokens)
        assert len(server.requests) == 2
        await bench.generate(client)
        assert len(server.requests) == 3
        assert bench.spent(client) == 0
        assert bench.delays == [0]
        assert abs(client.clock_skew - off_ms / 1000) < 1


@rows.add("D1", requests=3)
async def behind(bench: Bench) -> None:
    """This machine's clock is five minutes behind, and the refusal has a Date."""
    await is_corrected(bench, 300_000)


@rows.add("D2", requests=3)
async def ahead(bench: Bench) -> None:
    """The same, ahead."""
    await is_corrected(bench, -300_000)


async def is_not_corrected(bench: Bench, date: Any = None) -> errors.ClockSkewError:
    """One request, and the error that says so."""
    async with bench.server(judging(date=date), off_ms=300_000) as server:
        client = bench.client(server)
        error = await bench.fails(errors.ClockSkewError, bench.generate(client))
        assert len(server.requests) == 1
        assert not error.retryable
    return error


@rows.add("D3", requests=1)
async def no_witness(bench: Bench) -> None:
    """The right time is not available."""
    error = await is_not_corrected(bench)
    assert error.offset is None


@rows.add("D4", requests=6)
async def odd_dates(bench: Bench) -> None:
    """An invalid or absurd Date corrects nothing; the offset is reported."""
    for date in (
        "canary",
        "Thu, 01 Jan 2026 00:00:00",
        "Thu, 01 Jan 2026",
        "Thu, 01 Jan 2026 00:00:00 -0000",
    ):
        error = await is_not_corrected(bench, lambda server, date=date: date)
        assert error.offset is None
    for year in (1970, 9999):
        date = f"Thu, 01 Jan {year} 00:00:00 GMT"
        error = await is_not_corrected(bench, lambda server, date=date: date)
        assert abs(error.offset or 0) > 86_400
        assert any("the time sent was" in note for note in error.__notes__)


@rows.add("D5", requests=2)
async def refused_for_ever(bench: Bench) -> None:
    """One correction in a call, and the error says by how much."""

    async def never(exchange: Exchange) -> None:
        date = f"Date: {http_date(exchange.server)}"
        await exchange.answer(BAD_TIME, "400 Bad", [date])

    async with bench.server(never, off_ms=300_000) as server:
        client = bench.client(server)
        error = await bench.fails(errors.ClockSkewError, bench.generate(client))
        assert len(server.requests) == error.attempts == 2
        assert not error.retryable


class Wall:
    """A wall clock that can be set."""

    def __init__(self) -> None:
        """Start at the right time."""
        self.off = timedelta()

    def __call__(self) -> datetime:
        """Tell the time."""
        return datetime.fromtimestamp(now_ms() / 1000, UTC) + self.off


@rows.add("D6", requests=4)
async def clock_is_set(bench: Bench) -> None:
    """A step of nine minutes between two attempts: deadlines hold, times are right."""
    wall = Wall()
    wall.off = timedelta(minutes=-9)

    async def set_clock(exchange: Exchange) -> None:
        wall.off = timedelta()
        await refuse("503 Busy")(exchange)

    async with bench.server(ok, set_clock, judging()) as server:
        # This machine learns the operator's time, and then is set right.
        client = bench.client(server, clock=wall)
        await bench.generate(client)
        assert abs(client.clock_skew - 540) < 1
        began = time.monotonic()
        await bench.generate(client, timeout=5)
        assert abs(server.requests[-1].age_ms) < 1_000
        assert client.clock_skew == 0
        await bench.generate(client, timeout=5)
        assert time.monotonic() - began < 4.5
        assert abs(server.requests[-1].age_ms) < 1_000


@rows.add("D7", requests=2, virtual=True, within=31.0)
async def clock_goes_back(bench: Bench) -> None:
    """The wall clock plays no part in waiting."""
    wall = Wall()
    fates = [refusal(503)]

    def fate(path: str) -> Any:
        wall.off = timedelta(hours=-1)
        return fates.pop() if fates else None

    wire = bench.wire(MemoryOperator(fate))
    client = bench.client(wire, clock=wall)
    # The reply's time is an hour from what was sent then: that is not to be believed.
    error = await bench.fails(errors.EnvelopeError, bench.generate(client))
    assert error.untimely
    assert bench.delays == [0.1]


@rows.add("D8", requests=2, virtual=True, within=100.0)
async def queued_before_its_slot(bench: Bench) -> None:
    """40 s of waiting for a slot age no envelope."""
    start = datetime.now(UTC)
    loop = asyncio.get_running_loop()

    def clock() -> datetime:
        return start + timedelta(seconds=loop.time())

    wire = MemoryOperator(lambda path: 40.0 if wire.requests == 1 else None)
    wire.max_connections = 1
    arrived: list[float] = []
    send = wire.send

    async def timed(request: Any) -> Any:
        arrived.append(clock().timestamp() * 1000)
        return await send(request)

    wire.send = timed
    client = bench.client(bench.wire(wire), clock=clock, retry={"attempt_timeout": 60})
    await asyncio.gather(*(bench.generate(client, timeout=90) for _ in range(2)))
    ages = [at - sent for at, sent in zip(arrived, wire.times, strict=True)]
    assert loop.time() > 40
    assert max(ages) < 1_000


@rows.add("D9", requests=(60, 60), virtual=True, within=4_000.0)
async def clock_drifts(bench: Bench) -> None:
    """2 s a minute for an hour: no request is refused."""
    start = datetime.now(UTC)
    loop = asyncio.get_running_loop()
    # This machine loses two seconds a minute; the operator is right.
    wire = bench.wire(MemoryOperator())
    wire.clock = lambda: now_ms() + round(loop.time() * 1000)
    client = bench.client(
        wire, clock=lambda: start + timedelta(seconds=loop.time() * (1 - 2 / 60))
    )
    for _ in range(60):
        await bench.generate(client)
        off = wire.times[-1] - wire.clock()
        assert abs(off) < 60_000, off
        await asyncio.sleep(60)
    assert abs(wire.times[-1] - wire.clock()) < 90_000
    assert 100 < client.clock_skew < 140


CHILD = """
import asyncio, sys
from uid2_async import UID2Client

async def main():
    async with UID2Client(sys.argv[1], api_key=sys.argv[2], client_secret=sys.argv[3],
                          send_raw=True) as client:
        await client.map_identities(["first@example.com"])
        people = [f"{'x' * 150}{n}@example.com" for n in range(4000)]
        print(len(await client.map_identities(people)))

asyncio.run(main())
"""


@rows.add("D10", requests=3, within=20.0)
async def suspended(bench: Bench) -> None:
    """A process stopped in the middle of its upload sends a new envelope after it."""
    first, stopped = asyncio.Event(), asyncio.Event()

    async def slow_reading(exchange: Exchange) -> None:
        await ok(exchange)
        first.set()
        # The next request is looked at only when its sender has been stopped.
        exchange.reader._transport.pause_reading()
        await stopped.wait()
        exchange.reader._transport.resume_reading()

    script = [slow_reading, judging(500), ok]
    async with bench.server(*script, receive_buffer=4096) as server:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CHILD, server.url, API_KEY, CLIENT_SECRET),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=asyncio.subprocess.PIPE,
        )
        await first.wait()
        await asyncio.sleep(0.5)
        child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(1)
        stopped.set()
        child.send_signal(signal.SIGCONT)
        out, _ = await child.communicate()
        assert out.split() == [b"4000"]
        assert server.requests[1].age_ms > 500
        assert server.requests[2].age_ms < 500


class Keys:
    """Gives keys that stay valid, or does not, and counts.

    Attributes:
        fetches: How often they were asked for.
        up: Whether there are any.
    """

    def __init__(self) -> None:
        """Nothing has been fetched yet."""
        self.fetches = 0
        self.up = True

    async def fetch(self) -> KeyRing:
        """Fetch."""
        self.fetches += 1
        if not self.up:
            raise errors.ConnectError("down")
        key = Key(id=1, secret=bytes(32), created=0, activates=0, expires=2**40)
        return KeyRing(keys={1: key})


@rows.add("D11", requests=3, virtual=True, within=31.0)
async def clock_is_set_in_a_pause(bench: Bench) -> None:
    """Ages and pauses neither stop nor end where the wall clock is set by days."""
    wall = Wall()
    keys = Keys()
    store = KeyStore(keys.fetch, clock=wall)
    await store.ensure_fresh(60)
    wire = bench.wire(MemoryOperator(lambda path: refusal(503)))
    client = bench.client(wire, retry={"stop": stop_after_attempt(1)})
    refresher = TokenRefresher(client, clock=wall, _random=lambda: 0.0)
    held = replace(
        held_tokens(),
        refresh_from=datetime(2000, 1, 1, tzinfo=UTC),
        identity_expires=datetime(2100, 1, 1, tzinfo=UTC),
        refresh_expires=datetime(2100, 1, 1, tzinfo=UTC),
    )
    for number, days in enumerate([0, -30, 30], start=1):
        wall.off = timedelta(days=days)
        for _ in range(5):
            assert (await refresher.ensure_fresh(held)).error is not None
        assert wire.requests == number
        wall.off = -wall.off
        await asyncio.sleep(2)
        # The pause is 5 s, then 10 s.
        await refresher.ensure_fresh(held)
        assert wire.requests == number
        assert abs(store.age - asyncio.get_running_loop().time()) < 1
        await asyncio.sleep(3 + 5 * (number - 1))
    assert keys.fetches == 1


@rows.add("D12", virtual=True, within=200.0)
async def machine_sleeps(bench: Bench) -> None:
    """Keys are fetched within a minute after a suspended machine resumes."""
    loop = asyncio.get_running_loop()
    keys = Keys()
    slept = 0.0
    async with KeyStore(keys.fetch, monotonic=lambda: loop.time() + slept) as store:
        await asyncio.sleep(100)
        slept = 86_400.0
        assert store.age > slept
        await asyncio.sleep(61)
        assert keys.fetches == 2
        assert store.age < 120


@rows.add("D13", requests=(1, 400), virtual=True, within=7_400.0)
async def process_is_frozen(bench: Bench) -> None:
    """A job that was suspended for two hours continues when it wakes."""
    loop: Any = asyncio.get_running_loop()
    frozen_until = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal frozen_until
        if not frozen_until and loop.time() > 60:
            # Nothing of the loop runs meanwhile, and then the clock has jumped.
            loop.virtual.waited += 7_200.0
            frozen_until = loop.time()
            return
        await asyncio.sleep(seconds)

    def fate(path: str) -> Any:
        is_back = frozen_until and loop.time() > frozen_until + 30
        return None if is_back else errors.ConnectError("lost", disconnected=True)

    wire = bench.wire(MemoryOperator(fate))
    mapper = BulkMapper(bench.client(wire), _system=System(sleep=sleep))
    async with mapper.map(["somebody@example.com"]) as records:
        found = [record.result async for record in records]
    assert [type(one) for one in found] == [MappedUID]


@rows.add("D14", requests=(55, 61), virtual=True, within=3_700.0)
async def due_at_once(bench: Bench) -> None:
    """10,000 page views in an hour with tokens that come back due: one a minute."""
    now = datetime.now(UTC)
    made = 0

    def fate(path: str) -> Reply:
        nonlocal made
        made += 1
        body = tokens_body(
            advertising_token=f"{made:04}{ADVERTISING_TOKEN[4:]}",
            refresh_token=f"{made:04}{REFRESH_TOKEN[4:]}",
            refresh_from=now_ms() - 3_600_000,
        )
        sealed = seal(path, b"", success(body))
        return Reply(status=200, headers={}, body=sealed)

    wire = bench.wire(MemoryOperator(fate))
    client = bench.client(wire)
    due = now - timedelta(hours=1)
    held = replace(held_tokens(), refresh_from=due)
    async with TokenRefresher(client, clock=lambda: now) as refresher:
        for _ in range(10_000):
            found = await refresher.ensure_fresh(held)
            assert found.tokens is not None
            held = found.tokens
            await asyncio.sleep(0.36)


@rows.add("D15", virtual=True, within=3_700.0)
async def no_keys_yet(bench: Bench) -> None:
    """10,000 calls in an hour of outage make 70 fetches, before any success too."""
    keys = Keys()
    keys.up = False
    store = KeyStore(keys.fetch)
    found = []
    for _ in range(10_000):
        found.append(await bench.fails(errors.ConnectError, store.ensure_fresh(3_600)))
        await asyncio.sleep(0.36)
    assert 50 <= keys.fetches <= 70
    assert len({id(error) for error in found}) == len(found)
    bench.errors.clear()  # they are all alike
    keys.up = True
    await asyncio.sleep(60)
    await store.ensure_fresh(3_600)


test_fault = rows.test()
