"""D1 to D10: clocks that are off, set, or stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from canaries import API_KEY, CLIENT_SECRET
from fault_bench import Bench, Rows
from fault_server import Exchange, FaultServer, ok, refuse
from memory_operator import MemoryOperator, refusal
from sealed_answers import now_ms
from uid2_async import IdentityTokens, errors

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
    """Two requests the first time, one from then on; the budget is left alone."""
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
    """Nobody tells the right time."""
    error = await is_not_corrected(bench)
    assert error.offset is None


@rows.add("D4", requests=6)
async def odd_dates(bench: Bench) -> None:
    """A Date that is none, or absurd, corrects nothing; how far it is off is told."""
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
        assert "the time sent was" in str(error)


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
        assert time.monotonic() - began < 2
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


test_fault = rows.test()
