"""X1 to X14: cancellation, event loops, forks, and what ends when and for whom."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from traceback import walk_tb
from typing import Any

from msgspec.structs import replace

from canaries import API_KEY, CLIENT_SECRET, EMAIL
from fault_bench import CONTEXT, Bench, Rows
from fault_server import Exchange, ok, refuse, silence
from memory_operator import MemoryOperator, refusal
from sealed_answers import held_tokens
from uid2_async import (
    KeyRing,
    KeyStore,
    RetryPolicy,
    SessionPool,
    TokenRefresher,
    UID2Client,
    errors,
)
from uid2_async.bulk import BulkMapper
from uid2_async.protocol.keyring import Key

rows = Rows()
PEOPLE = [f"{n}.{EMAIL}" for n in range(3_000)]


async def cancelled(bench: Bench, call: Any, after: float) -> None:
    """Cancel a call after a while: it ends at once, as cancelled."""
    task = asyncio.create_task(call)
    await asyncio.sleep(after)
    began = time.monotonic()
    task.cancel()
    await bench.fails(asyncio.CancelledError, task)
    assert time.monotonic() - began < 5


@rows.add("X1", requests=(9, 30), within=10.0)
async def cancel_anywhere(bench: Bench) -> None:
    """Wherever it is canceled, nothing is leaked, and the pool remains usable."""
    # Before the first step, and while sealing: there is no await in between.
    async with bench.server(ok) as server:
        client = bench.client(server)
        await cancelled(bench, bench.generate(client), 0)
        await bench.generate(client)
    # In the slot: 20 calls on 2 connections.
    async with bench.server(*[silence] * 2, ok) as server:
        client = bench.client(server, pool={"max_connections": 2})
        tasks = [asyncio.create_task(bench.generate(client)) for _ in range(20)]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in found)
        bench.errors += found
        bench._check_clients()
        await bench.generate(client)
    # In the connection, which a full TLS handshake holds up.
    async with bench.server(accept=[silence]) as server:
        client = bench.client(f"https://127.0.0.1:{server.port}")
        await cancelled(bench, bench.generate(client), 0.1)
    # In the upload.
    async with bench.server(ok, accept=[unread], receive_buffer=4096) as server:
        client = bench.client(server, send_raw=True)
        people = [f"{'x' * 200}{n}@example.com" for n in range(4_000)]
        await cancelled(bench, client.map_identities(people), 0.3)
    # While reading, and while backing off.
    for fault in (silence, refuse("503 Busy", "Retry-After: 19")):
        async with bench.server(fault, ok) as server:
            client = bench.client(server)
            await cancelled(bench, bench.generate(client), 0.1)
            await bench.generate(client)
    # At the gate of bulk work.
    fates: list[Any] = [refusal(429, retry_after="60")]
    wire = bench.wire(MemoryOperator(lambda path: fates.pop() if fates else None))
    job = BulkMapper(bench.client(wire, max_batch_size=100)).map(PEOPLE)
    await cancelled(bench, read(job), 0.5)


async def unread(exchange: Exchange) -> None:
    """Read nothing of what is sent."""
    exchange.reader._transport.pause_reading()
    await asyncio.sleep(0.6)
    exchange.reset()


async def read(job: Any) -> None:
    """Read a job to its end."""
    async with job as records:
        async for _ in records:
            pass


@rows.add("X2", requests=1)
async def callers_own_time_out(bench: Bench) -> None:
    """asyncio.timeout ends in TimeoutError, at its time, and shows nothing of ours."""
    async with bench.server(silence) as server:
        client = bench.client(server)
        began = time.monotonic()

        async def in_time() -> None:
            # Long enough for the request to leave a busy machine.
            async with asyncio.timeout(0.5):
                await bench.generate(client)

        await bench.fails(TimeoutError, in_time())
        assert 0.45 < time.monotonic() - began < 5


@rows.add("X3", requests=(1, 40))
async def break_out(bench: Bench) -> None:
    """A loop over records that is left takes its workers with it."""
    wire = bench.wire(MemoryOperator())
    mapper = BulkMapper(bench.client(wire, max_batch_size=100))
    async with mapper.map(PEOPLE) as records:
        async for _ in records:
            break
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert asyncio.all_tasks() == {asyncio.current_task()}


@rows.add("X4", requests=(1, 40))
async def consumer_fails(bench: Bench) -> None:
    """The consumer's own exception comes out as it is, and nothing runs on."""
    wire = bench.wire(MemoryOperator())
    mapper = BulkMapper(bench.client(wire, max_batch_size=100))
    mine = ZeroDivisionError("mine")

    async def consume() -> None:
        async with mapper.map(PEOPLE) as records:
            async for _ in records:
                raise mine

    assert await bench.fails(ZeroDivisionError, consume()) is mine
    assert asyncio.all_tasks() == {asyncio.current_task()}


@rows.add("X5", requests=30, within=4.0)
async def closed_early(bench: Bench) -> None:
    """Closing lets calls end for the grace, ends the others, and can be repeated."""
    async with bench.server(*[silence] * 20) as server:
        client = bench.client(server)
        await client._transport.aclose()
        client = bench.client(server)
        calls = [
            asyncio.create_task(
                bench.fails(errors.ClientClosedError, bench.generate(client))
            )
            for _ in range(20)
        ]
        await asyncio.sleep(0.3)
        pool = client._transport
        await asyncio.gather(pool.aclose(), pool.aclose())
        await asyncio.gather(*calls)
        await bench.fails(errors.ClientClosedError, bench.generate(client))
        await pool.aclose()

    async def slowly(exchange: Exchange) -> None:
        await asyncio.sleep(0.3)
        await ok(exchange)

    async with bench.server(slowly) as server:
        client = bench.client(server, pool={"grace": 5})
        calls = [asyncio.create_task(bench.generate(client)) for _ in range(10)]
        await asyncio.sleep(0.1)
        await client._transport.aclose()
        assert all(task.done() for task in calls)
        await asyncio.gather(*calls)


@rows.add("X6", requests=2)
async def second_loop(bench: Bench) -> None:
    """A second running loop is rejected, also for closing; the first continues."""
    async with bench.server(ok) as server:
        client = bench.client(server)
        await bench.generate(client)
        pool = client._transport

        def elsewhere() -> None:
            refused = errors.ClientLoopError
            asyncio.run(bench.fails(refused, bench.generate(client)))
            asyncio.run(bench.fails(refused, pool.aclose()))

        await asyncio.to_thread(elsewhere)
        await bench.generate(client)


FORK = """
import asyncio, gc, os, sys, time
from uid2_async import UID2Client, errors

async def child(client, how):
    try:
        if how == "use":
            await client.generate_token("somebody@example.com")
        else:
            await client.aclose()
    except errors.ClientForkError:
        return 7
    return 1

async def main():
    async with UID2Client(sys.argv[1], api_key=sys.argv[2],
                          client_secret=sys.argv[3]) as client:
        await client.generate_token("somebody@example.com")
        for how in ("use", "close"):
            if os.fork() == 0:
                asyncio.events._set_running_loop(None)
                code = asyncio.new_event_loop().run_until_complete(child(client, how))
                gc.collect()
                os._exit(code)
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid:
                    break
                await asyncio.sleep(0.01)
            began = time.monotonic()
            await client.generate_token("somebody@example.com")
            print(os.waitstatus_to_exitcode(status), time.monotonic() - began < 5)

asyncio.run(main())
"""


@rows.add("X7", requests=3, within=15.0)
async def forked(bench: Bench) -> None:
    """A child is refused without harm: the parent's next call takes less than 5 s."""
    async with bench.server(ok) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FORK, server.url, API_KEY, CLIENT_SECRET),
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert out.decode().splitlines() == ["7 True"] * 2
        assert server.connections == 1


@rows.add("X8", requests=1)
async def forgotten(bench: Bench) -> None:
    """A client that nobody closed is warned about, and leaves no socket."""
    async with bench.server(ok) as server:
        pool = SessionPool(server.url, ssl=CONTEXT)
        client = UID2Client(
            server.url,
            api_key=API_KEY,
            client_secret=CLIENT_SECRET,
            transport=pool,
            retry=RetryPolicy(),
        )
        await bench.generate(client)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            del client, pool
            gc.collect()
            told: list[str] = []
            # A record keeps what it is about, and so what that holds.
            while caught:
                told += [
                    str(one.message)
                    for one in caught
                    if issubclass(one.category, ResourceWarning)
                ]
                caught.clear()
                gc.collect()
        # Session and connector warn, unless the garbage collector takes the connector
        # first, which closes the session.
        assert 1 <= len(told) <= 2
        assert API_KEY not in "".join(told)
        await bench._check_closed()


@rows.add("X10", requests=(0, 60), virtual=True, within=60.0)
async def odd_sources(bench: Bench) -> None:
    """Whatever a source raises ends the job, and never looks like another's end."""
    wire = bench.wire(MemoryOperator())
    mapper = BulkMapper(bench.client(wire, max_batch_size=100))

    def now(error: type[BaseException]) -> Any:
        yield from PEOPLE[:700]
        raise error

    async def later(error: type[BaseException]) -> Any:
        for one in PEOPLE[:700]:
            yield one
        raise error

    for make in (now, later):
        for error in (asyncio.CancelledError, SystemExit, BaseException):
            is_stray = error is asyncio.CancelledError
            kind = errors.JobError if is_stray else error
            await bench.fails(kind, read(mapper.map(make(error))))
        assert asyncio.all_tasks() == {asyncio.current_task()}


@rows.add("X11", requests=(1, 60), virtual=True, within=60.0)
async def left_block(bench: Bench) -> None:
    """Iterating after the block was left raises at once."""
    wire = bench.wire(MemoryOperator())
    mapper = BulkMapper(bench.client(wire, max_batch_size=100))
    async with mapper.map(PEOPLE) as records:
        await anext(records)

    async def read_on() -> None:
        async for _ in records:
            pass

    await bench.fails(RuntimeError, read_on())


@rows.add("X12", virtual=True, within=5.0)
async def shared_error(bench: Bench) -> None:
    """1,000 who wait for one fetch get errors of their own, without each other."""

    async def fetch() -> KeyRing:
        await asyncio.sleep(1)
        raise errors.ServerError("down")

    store = KeyStore(fetch)

    async def wait(number: int) -> BaseException:
        mine = EMAIL
        try:
            await store.ensure_fresh(60)
        except errors.ServerError as error:
            assert mine
            return error
        raise AssertionError

    found = await asyncio.gather(*map(wait, range(1_000)))
    assert len({id(error) for error in found}) == 1_000
    for error in found:
        frames = [frame for frame, _ in walk_tb(error.__traceback__)]
        assert len(frames) <= 3
        assert EMAIL not in repr([frame.f_locals for frame in frames[1:]])


@rows.add("X13", virtual=True, within=20_000.0)
async def stray_in_the_background(bench: Bench) -> None:
    """A refresh that was not canceled continues; a task that ended is noticed."""
    steps: list[Any] = [None, asyncio.CancelledError, GeneratorExit, None]

    async def fetch() -> KeyRing:
        step = steps.pop(0)
        if step is not None:
            raise step
        key = Key(id=1, secret=bytes(32), created=0, activates=0, expires=2**40)
        return KeyRing(keys={1: key})

    async with KeyStore(fetch) as store:
        await asyncio.sleep(3_650)
        assert store.ready
        assert steps == []
        assert store.last_error is None
        (task,) = asyncio.all_tasks() - {asyncio.current_task()}
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert not store.ready
        assert isinstance(store.last_error, errors.KeysUnavailableError)


@rows.add("X14", within=10.0)
async def lost_loop(bench: Bench) -> None:
    """After a loop that was closed in a refresh, the next one starts afresh."""
    asked: list[str] = []
    due = replace(held_tokens(), refresh_from=datetime(2000, 1, 1, tzinfo=UTC))

    class Client:
        clock_skew = 0.0

        async def refresh_token(self, held: Any, *, timeout: float) -> Any:
            asked.append("tokens")
            if len(asked) < 3:
                await asyncio.Event().wait()
            raise errors.ConnectError("lost")

    async def fetch() -> KeyRing:
        asked.append("keys")
        if len(asked) < 3:
            await asyncio.Event().wait()
        raise errors.ConnectError("lost")

    client: Any = Client()
    refresher = TokenRefresher(client, _random=lambda: 0.0)
    store = KeyStore(fetch)

    async def both() -> list[Any]:
        async with asyncio.timeout(5):
            return await asyncio.gather(
                refresher.ensure_fresh(due),
                store.ensure_fresh(60),
                return_exceptions=True,
            )

    def run() -> list[Any]:
        loop = asyncio.new_event_loop()
        task = loop.create_task(both())
        loop.run_until_complete(asyncio.sleep(0.05))
        assert len(asked) == 2
        left = asyncio.all_tasks(loop)
        loop.close()
        try:
            return asyncio.run(both())
        finally:
            for one in [task, *left]:
                one._log_destroy_pending = False  # type: ignore[attr-defined] # on purpose

    tokens, keys = await asyncio.to_thread(run)
    assert sorted(asked) == ["keys", "keys", "tokens", "tokens"]
    assert isinstance(tokens.error, errors.ConnectError)
    assert isinstance(keys, errors.ConnectError)


test_fault = rows.test()
