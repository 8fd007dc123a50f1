"""B1 to B15: refusals with any body, and replies that nobody asked for."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, TypeAlias

import aiohttp
import attrs

from canaries import EMAIL
from fault_bench import Bench, Rows
from fault_server import Exchange, FaultServer, Step, ok, reply_bytes
from sealed_answers import success, tokens_body
from uid2_async import IdentityTokens, SessionPool, UID2Client, errors
from uid2_async.bulk import BulkMapper, MapFailure
from uid2_async.bulk.private_files import System
from uid2_async.hooks import ReplyMismatch

rows = Rows()

STATUSES = (401, 403, 404, 413, 429, 500, 502, 503, 504)
LARGE = b"x" * (64 * 1024 + 1)
CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"


def whole(status: int, body: bytes, *headers: str) -> bytes:
    """Write a refusal with its right length."""
    return reply_bytes(body, f"{status} No", headers)


def with_head(status: int, rest: str) -> bytes:
    """Write a refusal with whatever stands for its length, and for its body."""
    return f"HTTP/1.1 {status} No\r\n{rest}".encode()


@cache
def zipped() -> bytes:
    """Compress 10 MB, once."""
    return gzip.compress(bytes(10_000_000))


BODIES: dict[str, Callable[[int], bytes]] = {
    "empty": lambda status: whole(status, b""),
    "large": lambda status: whole(status, LARGE),
    "endless": lambda status: with_head(status, "\r\n") + LARGE * 32,
    "gzip": lambda status: whole(status, zipped(), "Content-Encoding: gzip"),
    "unknown encoding": lambda status: whole(
        status, b"hello", "Content-Encoding: canary"
    ),
    "too long": lambda status: with_head(status, "Content-Length: 2\r\n\r\nhello"),
    "too short": lambda status: with_head(status, "Content-Length: 9\r\n\r\nhello"),
    "cut off": lambda status: with_head(status, f"{CHUNKED}10\r\nhello"),
    "bad chunk": lambda status: with_head(status, f"{CHUNKED}5\r\nhello\r\nzz\r\n"),
    "trailers": lambda status: with_head(
        status, f"{CHUNKED}5\r\nhello\r\n0\r\nX-Canary: canary\r\nY: z\r\n\r\n"
    ),
}


def refuse_with(data: bytes, *, close: bool) -> Step:
    """Make the step that refuses, and ends the body with the connection or not."""

    async def step(exchange: Exchange) -> None:
        await exchange.write(data)
        if close:
            exchange.writer.close()

    return step


def drip(status: int) -> Step:
    """Make the step that sends one byte of the body a second."""

    async def step(exchange: Exchange) -> None:
        await exchange.write(with_head(status, "Content-Length: 999\r\n\r\nx"))
        while not exchange.reader.at_eof():
            try:
                await asyncio.wait_for(exchange.reader.read(1), timeout=1)
            except TimeoutError:
                await exchange.write(b"x")
        exchange.writer.close()

    return step


def steps(status: int) -> dict[str, Step]:
    """Make every body of a status, as it is sent."""
    kept = {name: make(status) for name, make in BODIES.items()}
    closing = ("endless", "too short", "cut off")
    made = {
        name: refuse_with(data, close=name in closing) for name, data in kept.items()
    }
    return made | {"slow": drip(status)}


# aiohttp reads head and body together, and in a session that is given nobody can help.
UNREADABLE_AT_ONCE = ("too long", "bad chunk")


# Each costs a second in bulk, whose bounds are its own.
WAITING = ("bad chunk", "slow")


def apart(data: bytes) -> Step:
    """Make the step that sends a body after its head."""

    async def step(exchange: Exchange) -> None:
        head, end, body = data.partition(b"\r\n\r\n")
        await exchange.write(head + end)
        await asyncio.sleep(0.005)
        await exchange.write(body)

    return step


async def picky(response: aiohttp.ClientResponse) -> None:
    """Raise for a status, as a session may be configured to."""
    response.raise_for_status()


Open: TypeAlias = Callable[[], Any]
SESSIONS: dict[str, dict[str, Any] | None] = {
    "B1": None,
    "B2": {"raise_for_status": True},
    "B3": {"raise_for_status": picky},
}


@asynccontextmanager
async def client_of(
    bench: Bench, server: FaultServer, session: dict[str, Any] | None, **options: Any
) -> AsyncIterator[UID2Client]:
    """Make a client with its own sessions, or with one that is given to it."""
    if session is None:
        client = bench.client(server, **options)
        yield client
        await client._transport.aclose()
        return
    async with aiohttp.ClientSession(**session) as given:
        yield bench.client(server, pool={"session": given}, **options)


@attrs.frozen
class Outcome:
    """What a call makes of a refusal that clears, and of one that stays."""

    after: str
    kind: str
    status: int
    attempts: int
    spent: int
    requests: int


async def outcome_of(bench: Bench, step: Step, session: Any, **retry: float) -> Outcome:
    """Meet a refusal once, and for ever."""
    retry = {"idle_timeout": 0.2, "attempts": 2} | retry
    async with (
        bench.server(step, ok) as server,
        client_of(bench, server, session, retry=retry) as client,
    ):
        try:
            after = type(await bench.generate(client)).__name__
        except errors.OperatorError as error:
            after = type(error).__name__
    async with bench.server(step) as server:
        async with client_of(bench, server, session, retry=retry) as client:
            try:
                await bench.generate(client)
            except errors.OperatorError as error:
                bench.errors.append(error)
                found = error
            spent = bench.spent(client)
        # No refusal leaves a connection behind that another request could meet.
        assert server.connections == len(server.requests)
    return Outcome(
        after=after,
        kind=type(found).__name__,
        status=found.status,
        attempts=found.attempts,
        spent=spent,
        requests=len(server.requests),
    )


@rows.add("B1", "B2", "B3", within=60.0)
async def any_body(bench: Bench) -> None:
    """A status counts as with an empty body, whatever happens to its body."""
    # What a callable raises is not different for each.
    statuses = STATUSES if bench.id != "B3" else (401, 503)
    for status in statuses:
        made = steps(status)
        expected = await outcome_of(bench, made.pop("empty"), SESSIONS[bench.id])
        assert expected.status == status
        # A session that is given may have reused a connection: it is asked once more.
        own = SESSIONS[bench.id] is None
        ends = own and status <= 413
        assert expected.after == (expected.kind if ends else "IdentityTokens")
        if not own:
            late = {name: apart(BODIES[name](status)) for name in UNREADABLE_AT_ONCE}
            made |= late
        # aiohttp does not notice that it is over: the attempt's own bound ends it.
        garbled = made.pop("bad chunk")
        for name, step in made.items():
            found = await outcome_of(bench, step, SESSIONS[bench.id])
            assert found == expected, (status, name)
        if status in (401, 503):
            bounds = {"attempt_timeout": 0.3}
            found = await outcome_of(bench, garbled, SESSIONS[bench.id], **bounds)
            assert found == expected, (status, "bad chunk")


@rows.add("B4", requests=(100, 300), within=30.0)
async def many_in_bulk(bench: Bench) -> None:
    """30 % of 503 with bodies of every kind lose no row."""
    jitter = random.Random(4)  # noqa: S311 - a made-up operator
    numbers = itertools.count()
    made = [step for name, step in steps(503).items() if name not in WAITING]
    refused = Counter[bool]()

    async def fault(exchange: Exchange) -> None:
        refused[bad := next(numbers) % 10 in {0, 3, 7}] += 1
        await (made[refused[True] % len(made)] if bad else ok)(exchange)

    async with bench.server(fault) as server:
        client = bench.client(server, max_batch_size=20)
        people = [f"{n}.{EMAIL}" for n in range(2_000)]
        mapper = BulkMapper(
            client, _system=System(sleep=bench.sleep, random=jitter.random)
        )
        async with mapper.map(people) as records:
            found = [record async for record in records]
    assert len(found) == 2_000
    assert not [one for one in found if isinstance(one.outcome, MapFailure)]
    assert refused[True] > 25


@rows.add("B5", requests=(1, 25), within=20.0)
async def unauthorized_in_bulk(bench: Bench) -> None:
    """A 401 with a body that cannot be read ends a job as one without."""
    async with bench.server(steps(401)["large"]) as server:
        client = bench.client(server, max_batch_size=10)
        people = [f"{n}.{EMAIL}" for n in range(600)]

        async def run() -> None:
            async with BulkMapper(client).map(people) as records:
                async for _ in records:
                    pass

        await bench.fails(errors.AuthError, run())


@rows.add("B6", requests=(5, 40), within=20.0)
async def too_large_in_bulk(bench: Bench) -> None:
    """A 413 with a body of any kind splits a batch until it passes."""
    ways = [step for name, step in steps(413).items() if name not in WAITING]
    made = iter(ways * 9)

    async def fault(exchange: Exchange) -> None:
        small = len(exchange.request.body) < 1_000
        await (ok if small else next(made))(exchange)

    async with bench.server(fault) as server:
        client = bench.client(server, max_batch_size=40)
        people = [f"{n}.{EMAIL}" for n in range(40)]
        async with BulkMapper(client).map(people) as records:
            found = [record async for record in records]
    assert not [one for one in found if isinstance(one.outcome, MapFailure)]


@rows.add("B7", requests=30, within=20.0)
async def failover(bench: Bench) -> None:
    """The next attempt goes to the next region, whatever the body of a 502 to 504."""
    for status in (502, 503, 504):
        for name in ("large", "gzip", "too short", "cut off", "slow"):
            async with (
                bench.server(steps(status)[name]) as first,
                bench.server(ok) as second,
            ):
                pool = SessionPool([first.url, second.url], grace=0.05)
                bench.pools.append(pool)
                client = bench.client(pool, retry={"idle_timeout": 0.2})
                await bench.generate(client)
                await pool.aclose()
                assert len(first.requests) == len(second.requests) == 1


@rows.add("B15", requests=4)
async def bombs(bench: Bench) -> None:
    """A session that is given, and decompresses, does not undo one."""
    bomb = gzip.compress(bytes(200_000_000), compresslevel=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encoded = ["Content-Encoding: gzip"]
    for status, kind in (("401 Who", errors.AuthError), ("200", errors.ProtocolError)):
        step = refuse_with(reply_bytes(bomb, status, encoded), close=False)
        async with (
            bench.server(step) as server,
            client_of(bench, server, {}, retry={"attempts": 1}) as client,
        ):
            await bench.fails(kind, bench.generate(client))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 10_000, f"{grown} kB"


# --- what nobody asked for ------------------------------------------------------------

EXPIRED = b'{"status":"expired_token"}'
UNREQUESTED: dict[str, bytes] = {
    "400": reply_bytes(b'{"status":"client_error"}', "400 Bad"),
    "400 about another token": reply_bytes(EXPIRED, "400 Bad"),
    "400 about the time": reply_bytes(
        b'{"status":"client_error","message":"Invalid timestamp"}',
        "400 Bad",
        ["Date: Thu, 01 Jan 2026 00:00:00 GMT"],
    ),
    "401": reply_bytes(b"", "401 Who"),
    "401, not yet whole": b"HTTP/1.1 401 Who\r\nContent-Length: 9\r\n\r\nx",
    "403": reply_bytes(b"", "403 No"),
    "404": reply_bytes(b"", "404 Where"),
    "408": reply_bytes(b"", "408 Late"),
    "413": reply_bytes(b"", "413 Large"),
    "429": reply_bytes(b"", "429 Slow"),
    "429 for a day": reply_bytes(b"", "429 Slow", ["Retry-After: 86400"]),
    "500": reply_bytes(b"", "500 No"),
    "503": reply_bytes(b"", "503 No"),
    "302": reply_bytes(b"", "302 There", ["Location: /"]),
    "204": b"HTTP/1.1 204 Nothing\r\n\r\n",
    "200, a page": reply_bytes(b"<html>"),
    "200, empty": reply_bytes(b""),
    "200, too large": b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n",
    "200, encoded": reply_bytes(b"x", headers=["Content-Encoding: gzip"]),
    "200, cut": b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx",
    "no HTTP": b"canary\r\n\r\n",
}


def then(data: bytes | None, sent: asyncio.Event) -> Step:
    """Make the step that answers, and later says more; None repeats the answer."""

    async def step(exchange: Exchange) -> None:
        answer = exchange.sealed()
        await exchange.answer(answer)
        # Once the client has put the connection aside.
        await asyncio.sleep(0.01)
        await exchange.write(reply_bytes(answer) if data is None else data)
        sent.set()
        await asyncio.sleep(0.01)

    return step


async def meet(bench: Bench, data: bytes | None, session: Any, **retry: Any) -> int:
    """Call over a connection with an unrequested reply on it; count the requests."""
    sent = asyncio.Event()
    async with bench.server(then(data, sent), ok) as server:
        async with client_of(bench, server, session, retry=retry) as client:
            await bench.generate(client)
            await sent.wait()
            await asyncio.sleep(0.02)
            assert isinstance(await bench.generate(client), IdentityTokens)
            assert bench.spent(client) == 0
        return len(server.requests)


@rows.add("B8", "B9", within=30.0)
async def unrequested(bench: Bench) -> None:
    """An unrequested reply on an idle connection is no answer to the next call."""
    session = {"B8": None, "B9": {}}[bench.id]
    for name, data in (*UNREQUESTED.items(), ("200, again", None)):
        # What is missing of it never comes: only the attempt's own bound ends that.
        partial = name in ("401, not yet whole", "200, cut")
        options: dict[str, Any] = {"attempt_timeout": 0.5} if partial else {}
        assert await meet(bench, data, session, **options) <= 3
        # Not even where the policy allows one attempt.
        options["attempts"] = 1
        assert await meet(bench, data, session, **options) <= 3


@rows.add("B10", within=10.0, requests=(10, 12))
async def many_unrequested(bench: Bench) -> None:
    """There is one on every kept connection: each call meets one at most."""
    both = asyncio.Barrier(4)
    sent = asyncio.Event()
    late = then(UNREQUESTED["401"], sent)

    async def together(exchange: Exchange) -> None:
        await both.wait()
        await late(exchange)

    for session in (None, {}):
        async with (
            bench.server(*[together] * 4, ok) as server,
            client_of(bench, server, session) as client,
        ):
            await asyncio.gather(*(bench.generate(client) for _ in range(4)))
            await asyncio.sleep(0.05)
            assert server.connections == 4
            await bench.generate(client)


@rows.add("B11", requests=(2, 60), within=20.0)
async def job_goes_on(bench: Bench) -> None:
    """A late 401 on a kept connection ends no job, and fails no row."""
    sent = asyncio.Event()
    async with bench.server(then(UNREQUESTED["401"], sent), ok) as server:
        client = bench.client(server, max_batch_size=20)
        await bench.generate(client)
        await sent.wait()
        await asyncio.sleep(0.02)
        people = [f"{n}.{EMAIL}" for n in range(600)]
        async with BulkMapper(client).map(people) as records:
            found = [record async for record in records]
    assert len(found) == 600
    assert not [one for one in found if isinstance(one.outcome, MapFailure)]


@rows.add("B12", requests=19, within=20.0)
async def asked_twice_at_most(bench: Bench) -> None:
    """An operator that refuses is asked once more after a success, and then no more."""
    cases: list[tuple[str, type[errors.UID2Error], dict[str, Any], list[int]]] = [
        ("401 Who", errors.AuthError, {}, [2, 1, 1]),
        ("404 Where", errors.UnexpectedStatusError, {}, [2, 1, 1]),
        ("503 Busy", errors.ServerError, {"attempts": 1}, [2, 1, 1]),
        # Retries follow anyway.
        ("429 Slow", errors.RateLimitError, {"attempts": 3}, [3]),
    ]
    for status, kind, retry, counts in cases:
        refusal = reply_bytes(b"", status)
        async with bench.server(ok, refuse_with(refusal, close=False)) as server:
            client = bench.client(server, retry=retry)
            await bench.generate(client)
            for count in counts:
                before = len(server.requests)
                await bench.fails(kind, bench.generate(client))
                assert len(server.requests) - before == count, status


@rows.add("B13", requests=(2, 3))
async def replayed_late(bench: Bench) -> None:
    """An earlier reply that comes again is reported, and costs the connections."""
    await meet(bench, None, None)
    forged = [one for one in bench.events if isinstance(one, ReplyMismatch)]
    assert len(forged) == 1


@rows.add("B14", requests=2)
async def unrequested_in_clear(bench: Bench) -> None:
    """What is not sealed names no request: it is asked for over a fresh connection."""
    sent = asyncio.Event()
    opted_out = then(reply_bytes(b'{"status":"optout"}'), sent)
    body = tokens_body(advertising_token="another", refresh_token="another")
    refreshed = refuse_with(reply_bytes(success(body)), close=False)
    held = IdentityTokens.from_dict(tokens_body(refresh_token="an-old-one"))
    async with bench.server(opted_out, refreshed) as server:
        client = bench.client(server)
        await bench.generate(client)
        await sent.wait()
        await asyncio.sleep(0.02)
        assert isinstance(await client.refresh_token(held), IdentityTokens)


test_fault = rows.test()
