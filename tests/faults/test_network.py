"""N1 to N22: what a network does to a call."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from typing import Any

import aiohttp

from canaries import EMAIL
from fault_bench import Bench, Rows
from fault_server import (
    Exchange,
    FaultServer,
    Relay,
    Step,
    hang_up,
    in_pieces,
    ok,
    rst,
    silence,
    then_close,
)
from memory_operator import MemoryOperator
from uid2_async import IdentityTokens, errors
from uid2_async.bulk import BulkMapper
from uid2_async.bulk.private_files import System
from uid2_async.retry import RetryBudget

rows = Rows()


async def clears_or_stays(
    bench: Bench,
    fault: Step,
    kind: type[errors.UID2Error],
    *,
    spent: int = 0,
    **options: Any,
) -> errors.UID2Error:
    """A fault that clears ends in success, one that stays in its error, 4 tries."""
    async with bench.server(fault, ok) as server:
        client = bench.client(server, **options)
        assert isinstance(await bench.generate(client), IdentityTokens)
        assert len(server.requests) == 2
        assert bench.spent(client) == spent
    async with bench.server(fault) as server:
        client = bench.client(server, **options)
        error = await bench.fails(kind, bench.generate(client))
        assert len(server.requests) == error.attempts == 4
    assert error.retryable
    return error


@rows.add("N1", requests=0)
async def connection_refused(bench: Bench) -> None:
    """Nothing listens."""
    client = bench.client("http://127.0.0.1:1")
    error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert error.attempts == 4
    assert bench.spent(client) == 3 * RetryBudget.TRANSIENT_COST


class NameLoop(asyncio.SelectorEventLoop):
    """An event loop in which names resolve as given."""

    answers: tuple[str, ...] | None = ()

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """Find addresses, nothing, or no end."""
        if self.answers is None:
            await asyncio.Event().wait()
        if not self.answers:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is unknown")
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (address, port)) for address in self.answers]


class HangingLoop(NameLoop):
    """Names resolve never."""

    answers = None


class DeadFirstLoop(NameLoop):
    """The first address of a name is dead."""

    answers = ("127.0.0.77", "127.0.0.1")


class EmptyLoop(NameLoop):
    """Names resolve to no address at all."""

    async def getaddrinfo(self, host: Any, port: Any, **options: Any) -> Any:
        """Find nothing, and say nothing of it."""
        return []


@rows.add("N2", requests=0, loop=NameLoop)
async def no_such_name(bench: Bench) -> None:
    """The host is unknown."""
    client = bench.client("http://operator.invalid:8080")
    error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert error.attempts == 4


@rows.add("N3", requests=0, within=1.5, loop=HangingLoop)
async def name_hangs(bench: Bench) -> None:
    """The resolver does not answer: the connect bound holds for it too."""
    client = bench.client("http://operator.invalid:8080", pool={"connect_timeout": 0.2})
    error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert error.attempts == 4


@rows.add("N4", requests=1, loop=DeadFirstLoop)
async def dead_address_first(bench: Bench) -> None:
    """The second address of the same name serves, in the same attempt."""
    async with bench.server(ok) as server:
        client = bench.client(f"http://operator.invalid:{server.port}")
        await bench.generate(client)


@rows.add("N5", requests=0, within=2.0)
async def black_hole(bench: Bench) -> None:
    """SYNs are dropped: the listener's backlog is full."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.settimeout(0)
            one.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        client = bench.client(url, pool={"connect_timeout": 0.2})
        error = await bench.fails(errors.ConnectError, bench.generate(client))
        assert error.attempts == 4
        for one in fillers:
            one.close()


@rows.add("N6", requests=1)
async def reset_before_reading(bench: Bench) -> None:
    """The first connections die before a request is read."""
    accept = [rst, rst]
    async with bench.server(ok, accept=accept) as server:
        client = bench.client(server)
        await bench.generate(client)
        assert server.connections == 3
        # The first is taken for a stale connection and is free; the second is not.
        assert bench.delays[0] == 0
        assert bench.delays[1] > 0


@rows.add("N7", requests=6)
async def reset_after_reading(bench: Bench) -> None:
    """The request was read: it is sent again, as one of its own."""
    await clears_or_stays(bench, rst, errors.ConnectError)


@rows.add("N8", requests=6)
async def closed_without_reply(bench: Bench) -> None:
    """FIN in place of a reply."""
    await clears_or_stays(bench, hang_up, errors.ConnectError)


def once_per_connection() -> Step:
    """Make the step that answers a connection's first request and closes at the next.

    To the client that is a connection that was closed while it did not look.
    """
    served: set[int] = set()

    async def step(exchange: Exchange) -> None:
        if exchange.request.connection in served:
            exchange.writer.close()
            return
        served.add(exchange.request.connection)
        await ok(exchange)

    return step


@rows.add("N9", requests=(750, 900), within=30.0)
async def closes_between_calls(bench: Bench) -> None:
    """300 calls to a server that closes after each reply, seen in time or not."""
    spent: list[int] = []

    async def look(seconds: float) -> None:
        assert seconds == 0
        # What a retry costs is given back after it: this is when it can be seen.
        spent.append(bench.spent(client))

    for step in (then_close(ok), once_per_connection()):
        async with bench.server(step) as server:
            client = bench.client(server, retry={"_sleep": look})
            for _ in range(300):
                await bench.generate(client)
    assert 150 <= len(spent) <= 300
    assert set(spent) == {0}


@rows.add("N10", requests=60)
async def all_connections_stale(bench: Bench) -> None:
    """20 kept connections are stale: each call meets one of them, and no more."""
    both = asyncio.Barrier(20)
    once = once_per_connection()

    async def together(exchange: Exchange) -> None:
        await both.wait()
        await once(exchange)

    async with bench.server(*[together] * 20, once) as server:
        client = bench.client(server)
        await asyncio.gather(*(bench.generate(client) for _ in range(20)))
        assert server.connections == 20
        await bench.generate(client)
        assert len(server.requests) == 22
        await asyncio.gather(*(bench.generate(client) for _ in range(19)))
        assert bench.delays == [0] * 20
        assert bench.spent(client) == 0


@rows.add("N11", requests=6, within=2.0)
async def half_open(bench: Bench) -> None:
    """The peer is gone without a word: the read bound ends each attempt."""
    client_options = {"retry": {"idle_timeout": 0.1}}
    await clears_or_stays(
        bench, silence, errors.CallTimeoutError, spent=0, **client_options
    )


@rows.add("N12", requests=(1, 4), within=2.0)
async def never_answers(bench: Bench) -> None:
    """The call ends at its deadline, not before and not much later."""
    async with bench.server(silence) as server:
        client = bench.client(server)
        started = time.monotonic()
        await bench.fails(errors.CallTimeoutError, bench.generate(client, timeout=0.4))
        # On an idle machine it is within 5 ms; CI is not an idle machine.
        assert -0.01 < time.monotonic() - started - 0.4 < 3


@rows.add("N13", requests=2, within=3.0)
async def drips(bench: Bench) -> None:
    """A byte every 20 ms never lets the read bound fire: the attempt's does."""
    slow = in_pieces(ok, 1, 0.02)
    async with bench.server(slow) as server:
        retry = {"attempt_timeout": 0.3, "idle_timeout": 0.1, "attempts": 2}
        client = bench.client(server, retry=retry)
        await bench.fails(errors.CallTimeoutError, bench.generate(client))
        assert len(server.requests) == 2


@rows.add("N14", requests=1, within=6.0)
async def upload_stalls(bench: Bench) -> None:
    """A zero window: the server reads nothing of the first request."""

    async def never_read(exchange: Exchange) -> None:
        exchange.reader._transport.pause_reading()
        await asyncio.sleep(2)
        exchange.reset()

    async with bench.server(ok, accept=[never_read], receive_buffer=4096) as server:
        retry = {"attempt_timeout": 1.5}
        client = bench.client(server, retry=retry, send_raw=True)
        people = [f"{'x' * 200}{n}@example.com" for n in range(3_000)]
        assert len(await client.map_identities(people)) == 3_000


@rows.add("N15", requests=1, within=3.0)
async def slow_way(bench: Bench) -> None:
    """Latency of 0.2 s, give or take a half: a tenth of the row's."""
    noise = random.Random(1)  # noqa: S311 - a made-up network
    async with (
        bench.server(ok) as server,
        Relay(server, latency=lambda: noise.uniform(0.1, 0.3)) as relay,
    ):
        await bench.generate(bench.client(relay))


@rows.add("N16", requests=(0, 80), within=20_000)
async def narrow_way(bench: Bench) -> None:
    """An upload that exceeds the attempt's limit is aborted, and encrypted again."""
    async with (
        bench.server(ok) as server,
        Relay(server, bytes_per_second=300_000) as relay,
    ):
        retry = {"attempt_timeout": 0.3, "attempts": 2}
        client = bench.client(relay, retry=retry)
        people = [f"{n}@example.com" for n in range(5_000)]
        await bench.fails(errors.CallTimeoutError, client.map_identities(people))
        assert not server.requests


@rows.add("N17", requests=1)
async def sliced(bench: Bench) -> None:
    """A reply in segments of one byte is a reply."""
    async with bench.server(in_pieces(ok, 1, 0)) as server:
        await bench.generate(bench.client(server))


@rows.add("N18", requests=2)
async def pool_full(bench: Bench) -> None:
    """A call that hangs keeps the one connection; the next seals when it is free."""
    released = asyncio.Event()

    async def hang(exchange: Exchange) -> None:
        await released.wait()
        await ok(exchange)

    async with bench.server(hang, ok) as server:
        client = bench.client(server, pool={"max_connections": 1})
        calls = [asyncio.create_task(bench.generate(client)) for _ in range(2)]
        await asyncio.sleep(0.3)
        assert len(server.requests) == 1
        released.set()
        await asyncio.gather(*calls)
        assert server.requests[1].age_ms < 100
    waiting = bench.client("http://127.0.0.1:1", pool={"max_connections": 1})
    held = await waiting._connection_limit.acquire(
        asyncio.get_running_loop().time() + 5
    )
    late = bench.generate(waiting, timeout=0.05)
    error = await bench.fails(errors.CallTimeoutError, late)
    held.release()
    assert error.attempts == 1


@rows.add("N19", requests=(25, 60), within=60.0, virtual=True)
async def back_after_half_a_minute(bench: Bench) -> None:
    """Bulk work outlives an outage: nothing is failed."""
    now = asyncio.get_running_loop().time

    def fate(path: str) -> Any:
        if now() < 30:
            return errors.ConnectError("lost", disconnected=True)
        return None

    wire = bench.wire(MemoryOperator(fate))
    client = bench.client(wire, max_batch_size=100)
    people = [f"{n}.{EMAIL}" for n in range(2_000)]
    mapper = BulkMapper(client, _system=System(random=lambda: 0.5))
    async with mapper.map(people) as records:
        results = [record.result async for record in records]
        assert records.progress.failed == 0
    assert len(results) == 2_000


@rows.add("N20", requests=0)
async def proxy_refuses(bench: Bench) -> None:
    """CONNECT is refused; the proxy's credentials stay out of sight."""
    connects = []
    for status in ("407 Who", "502 Bad"):

        async def answer(exchange: Exchange, status: str = status) -> None:
            connects.append(await exchange.reader.readuntil(b"\r\n\r\n"))
            await exchange.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
            exchange.writer.close()

        async with FaultServer(accept=[answer] * 9) as proxy:
            url = f"http://name:canary-password@127.0.0.1:{proxy.port}"
            client = bench.client("https://127.0.0.1:1", pool={"proxy": url})
            error = await bench.fails(errors.ConnectError, bench.generate(client))
            assert connects.pop().startswith(b"CONNECT ")
            assert "canary-password" not in str(error) + repr(client._transport)


@rows.add("N21", requests=0, loop=EmptyLoop)
async def name_without_address(bench: Bench) -> None:
    """The resolver gives an empty answer, which aiohttp takes for impossible."""
    client = bench.client("http://operator.invalid:8080")
    error = await bench.fails(errors.TransportError, bench.generate(client))
    assert error.attempts == 4


@rows.add("N22", requests=0)
async def closed_session(bench: Bench) -> None:
    """A session that is given has been closed by its owner."""
    session = aiohttp.ClientSession()
    await session.close()
    client = bench.client("http://127.0.0.1:1", pool={"session": session})
    error = await bench.fails(errors.ClientClosedError, bench.generate(client))
    assert error.attempts == 1


test_fault = rows.test()
