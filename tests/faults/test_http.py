"""H1 to H25: what comes back over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import resource
from typing import Any

from canaries import API_KEY, EMAIL
from fault_bench import Bench, Rows
from fault_server import (
    Exchange,
    Step,
    ok,
    raw,
    refuse,
    reply_bytes,
)
from memory_operator import MemoryOperator, refusal
from uid2_async import IdentityTokens, errors
from uid2_async.bulk import BulkMapper, MapFailure
from uid2_async.protocol.wire import parse_retry_after
from uid2_async.retry import RetryBudget

rows = Rows()
PEOPLE = [f"{n}.{EMAIL}" for n in range(600)]
BODIES = (b"", b'{"status":"error","message":"canary"}', b"<html>canary</html>")


@rows.add("H1", "H2", "H3", "H4", requests=(12, 18))
async def server_errors(bench: Bench) -> None:
    """500, 502, 503, 504, whatever the body: retried, and a ServerError if it stays."""
    status = {"H1": "500", "H2": "502", "H3": "503", "H4": "504"}[bench.id]
    for body in BODIES:
        fault = refuse(f"{status} Broken", body=body)
        async with bench.server(fault, ok) as server:
            client = bench.client(server)
            assert isinstance(await bench.generate(client), IdentityTokens)
            assert bench.spent(client) == 0
        async with bench.server(fault) as server:
            client = bench.client(server)
            error = await bench.fails(errors.ServerError, bench.generate(client))
            assert (error.status, error.attempts) == (int(status), 4)
            assert "canary" not in str(error)
            assert bench.spent(client) == 3 * RetryBudget.TRANSIENT_COST


async def waits_as_asked(bench: Bench, status: str, hint: float) -> None:
    """A hint is obeyed, and the retry costs what throttling does."""
    fault = refuse(status, f"Retry-After: {hint:.0f}")
    async with bench.server(fault, fault, ok) as server:
        client = bench.client(server)
        await bench.generate(client)
        assert len(bench.delays) == 2
        assert min(bench.delays) >= hint
        assert bench.spent(client) == RetryBudget.THROTTLING_COST


async def cut_in_bulk(bench: Bench, reply: Any) -> None:
    """Bulk work halves its limit and shuts its gate; nothing is lost."""
    fates = [None, None, reply]
    wire = bench.wire(MemoryOperator(lambda path: fates.pop(0) if fates else None))
    client = bench.client(wire, max_batch_size=100)
    began = asyncio.get_running_loop().time()
    async with BulkMapper(client).map(PEOPLE) as records:
        assert [r async for r in records if isinstance(r.outcome, MapFailure)] == []
        assert records.progress.throttled == 1
    assert asyncio.get_running_loop().time() - began >= 0.05


@rows.add("H5", requests=(10, 10))
async def overloaded(bench: Bench) -> None:
    """503 with a hint is throttling: here, and in bulk work."""
    await waits_as_asked(bench, "503 Busy", 3)
    await cut_in_bulk(bench, refusal(503, retry_after="1"))


@rows.add("H6", requests=4)
async def throttled_without_hint(bench: Bench) -> None:
    """429 with an empty body: the long backoff, doubled each time."""
    async with bench.server(refuse("429 Slow")) as server:
        client = bench.client(server)
        error = await bench.fails(errors.RateLimitError, bench.generate(client))
        assert error.retry_after is None
        assert bench.delays == [0.75, 1.5, 3.0]
        assert bench.spent(client) == 3 * RetryBudget.THROTTLING_COST


@rows.add("H7", requests=3)
async def throttled_with_hint(bench: Bench) -> None:
    """429 with a hint of 2 s: never sooner."""
    await waits_as_asked(bench, "429 Slow", 2)


@rows.add("H8", requests=(2, 6), within=1_000, virtual=True)
async def throttled_for_a_day(bench: Bench) -> None:
    """A wait that nobody wants: at once for a call, and a clean end for a job."""
    reply = refusal(429, retry_after="86400")
    wire = bench.wire(MemoryOperator(lambda path: reply))
    client = bench.client(wire)
    call = bench.generate(client, timeout=1e6)
    error = await bench.fails(errors.RateLimitError, call)
    assert (error.retry_after, error.attempts) == (86_400, 1)
    assert bench.delays == []
    job = BulkMapper(client).map(PEOPLE)
    await bench.fails(errors.StalledError, read_all(job))


async def read_all(job: Any) -> list[Any]:
    """Read a job to its end."""
    async with job as records:
        return [record async for record in records]


NOW_MS = 1_767_225_600_000  # Thu, 01 Jan 2026 00:00:00 GMT
HINTS: dict[str | None, float | None] = {
    "0": 0.0,
    "7": 7.0,
    "999999": 999_999.0,
    "Thu, 01 Jan 2026 00:00:09 GMT": 9.0,
    "Wed, 31 Dec 2025 23:59:00 GMT": 0.0,
    None: None,
    "": None,
    "-5": None,
    "+5": None,
    "1.5": None,
    "1e3": None,
    "inf": None,
    "nan": None,
    "1_000": None,
    "\uff11\uff12": None,
    "60, 120": None,
    "9" * 23: None,
    "Thu Jan  1 00:00:09 2026": None,
    "Thursday, 01-Jan-26 00:00:09 GMT": 9.0,
    "Thu, 01 Jan 100000 00:00:09 GMT": None,
    "Thu, 01 Jan 2026 00:00:09": None,
    "Thu, 01 Jan 2026 00:00:09 +0100": None,
    "GMT": None,
    "x GMT": None,
}


@rows.add("H9")
async def hints(bench: Bench) -> None:
    """Every spelling of Retry-After is seconds or no hint, and never an exception."""
    for text, seconds in HINTS.items():
        found = parse_retry_after(text, now_ms=NOW_MS)
        assert found == seconds, text
    later = "Thu, 01 Jan 2026 00:00:09 GMT"
    date = "Thu, 01 Jan 2026 00:00:04 GMT"
    assert parse_retry_after(later, date=date, now_ms=0) == 5


async def one_request(
    bench: Bench, kind: type[errors.UID2Error], fault: Step
) -> errors.UID2Error:
    """The answer is final: one request, and nothing spent."""
    async with bench.server(fault) as server:
        client = bench.client(server)
        error = await bench.fails(kind, bench.generate(client))
        assert len(server.requests) == error.attempts == 1
        assert not error.retryable
        assert bench.spent(client) == 0
    return error


@rows.add("H10", requests=3)
async def bad_request(bench: Bench) -> None:
    """400: the message is shown, cut and escaped, unless it repeats a secret."""
    forged = b'{"status":"client_error","message":"a\\r\\nb\\u001b[31m' + b"c" * 900
    error = await one_request(
        bench, errors.BadRequestError, refuse("400 Bad", body=forged + b'"}')
    )
    assert "\n" not in error.message
    assert "\x1b" not in error.message
    assert len(error.message) < 260
    for echo in (API_KEY, API_KEY[3:20]):
        body = b'{"status":"client_error","message":"got %b"}' % echo.encode()
        await one_request(bench, errors.BadRequestError, refuse("400 Bad", body=body))


@rows.add("H11", requests=(2, 25))
async def unauthorized(bench: Bench) -> None:
    """401: one request; a job ends at once."""
    await one_request(bench, errors.AuthError, refuse("401 Who"))
    wire = bench.wire(MemoryOperator(lambda path: refusal(401)))
    job = BulkMapper(bench.client(wire, max_batch_size=10)).map(PEOPLE)
    await bench.fails(errors.AuthError, read_all(job))


@rows.add("H12", requests=3)
async def no_such_place(bench: Bench) -> None:
    """403, 404, 405: one request each."""
    for status in ("403 No", "404 Where", "405 How"):
        await one_request(bench, errors.UnexpectedStatusError, refuse(status))


@rows.add("H13", requests=(8, 40))
async def too_large(bench: Bench) -> None:
    """413: a batch is split until it passes; a single item fails as a row."""

    def fate(path: str) -> Any:
        # The request that has just come is the last one.
        return refusal(413) if len(wire.sent[-1].body) > 600 else None

    wire = bench.wire(MemoryOperator(fate))
    client = bench.client(wire, max_batch_size=40, send_raw=True)
    people = [*PEOPLE[:40], "x" * 900 + "@example.com"]
    records = await read_all(BulkMapper(client).map(people))
    failed = [r for r in records if isinstance(r.outcome, MapFailure)]
    assert [one.outcome.error for one in failed] == ["PayloadTooLargeError"]
    assert failed == records[-1:]


@rows.add("H14", requests=10)
async def redirects(bench: Bench) -> None:
    """Nobody is followed, here or elsewhere: the target sees nothing."""
    async with bench.server(ok) as target:
        for status in (301, 302, 303, 307, 308):
            for base in (target.url, ""):
                fault = refuse(f"{status} Moved", f"Location: {base}/v2/elsewhere")
                error = await one_request(bench, errors.UnexpectedStatusError, fault)
                assert error.status == status
        assert target.connections == 0


@rows.add("H15", requests=3)
async def other_successes(bench: Bench) -> None:
    """202, 204, 206 are no 200."""
    for status in ("202 Later", "204 Nothing", "206 Some"):
        await one_request(bench, errors.ProtocolError, refuse(status))


GARBAGE = {
    "status line": b"canary garbage\r\n\r\n",
    "long header": b"HTTP/1.1 200 OK\r\nX: " + b"canary" * 4_000 + b"\r\n\r\n",
    "many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nhi",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    b"Content-Length: 3\r\n\r\nhi!",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhi\r\n",
}


@rows.add("H16", requests=12)
async def no_http(bench: Bench) -> None:
    """What cannot be read is no 400; it is tried twice."""
    for data in GARBAGE.values():
        async with bench.server(raw(data)) as server:
            error = await bench.fails(
                errors.ProtocolError, bench.generate(bench.client(server))
            )
            assert error.unparseable_http
            assert len(server.requests) == 2
            assert "canary" not in str(error)


@rows.add("H17", requests=6)
async def head_then_end(bench: Bench) -> None:
    """The head is not even whole: retried, and none of it in our text."""
    fault = raw(b"HTTP/1.1 200 OK\r\nX-Canary: canary\r\n")
    async with bench.server(fault, ok) as server:
        await bench.generate(bench.client(server))
    async with bench.server(fault) as server:
        client = bench.client(server)
        error = await bench.fails(errors.ConnectError, bench.generate(client))
    assert "anary" not in str(error)


@rows.add("H18", requests=1)
async def continue_first(bench: Bench) -> None:
    """100 Continue is no answer yet."""

    async def both(exchange: Exchange) -> None:
        await exchange.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await ok(exchange)

    async with bench.server(both) as server:
        await bench.generate(bench.client(server))


@rows.add("H19", requests=12)
async def cut_body(bench: Bench) -> None:
    """A body that ends too soon is retried, over a new connection."""
    head = b"HTTP/1.1 200 OK\r\n"
    cuts = (
        head + b"Content-Length: 99\r\n\r\nhalf",
        head + b"Transfer-Encoding: chunked\r\n\r\n10\r\nhalf",
    )
    for data in cuts:
        async with bench.server(raw(data), ok) as server:
            await bench.generate(bench.client(server))
            assert server.connections == 2
        async with bench.server(raw(data)) as server:
            client = bench.client(server)
            error = await bench.fails(errors.TransportError, bench.generate(client))
            assert len(server.requests) == error.attempts == 4


@rows.add("H20", requests=2)
async def too_many_bytes(bench: Bench) -> None:
    """What comes after the reply is no part of the next one."""

    async def more(exchange: Exchange) -> None:
        await exchange.write(reply_bytes(exchange.sealed()) + reply_bytes(b"extra"))

    async with bench.server(more, ok) as server:
        client = bench.client(server)
        await bench.generate(client)
        await bench.generate(client)
        assert server.connections == 2


@rows.add("H21", requests=2)
async def compressed(bench: Bench) -> None:
    """An encoding that was not asked for is refused before it is undone."""
    bomb = gzip.compress(bytes(200_000_000), compresslevel=1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for body in (gzip.compress(b"{}"), bomb):
        fault = refuse("200 OK", "Content-Encoding: gzip", body=body)
        await one_request(bench, errors.ProtocolError, fault)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 10_000, f"{grown} kB"


@rows.add("H22", requests=2)
async def endless(bench: Bench) -> None:
    """A gibibyte, declared or not, is cut at the cap."""
    sent = 0

    async def stream(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not exchange.writer.is_closing() and sent < 2**30:
            await exchange.write(bytes(65_536))
            sent += 65_536

    declared = raw(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n", close=False
    )
    await one_request(bench, errors.ProtocolError, declared)
    await one_request(bench, errors.ProtocolError, stream)
    assert sent < 32 * 2**20


@rows.add("H23", requests=2)
async def captive_portal(bench: Bench) -> None:
    """A page with status 200 is no reply: two tries, and none of it quoted."""
    page = b"<html><h1>canary hotel</h1></html>"
    async with bench.server(refuse("200 OK", body=page)) as server:
        client = bench.client(server)
        error = await bench.fails(errors.EnvelopeError, bench.generate(client))
    assert "canary hotel" not in str(error)


@rows.add("H24", requests=2)
async def cookies(bench: Bench) -> None:
    """What a load balancer sets is not sent back."""

    async def bake(exchange: Exchange) -> None:
        await exchange.answer(exchange.sealed(), headers=["Set-Cookie: a=b; Path=/"])

    async with bench.server(bake) as server:
        client = bench.client(server)
        await bench.generate(client)
        await bench.generate(client)
        assert not any(b"cookie" in one.head.lower() for one in server.requests)


@rows.add("H25", requests=4_000, within=1e6, virtual=True)
async def two_thousand_in_a_row(bench: Bench) -> None:
    """No number overflows, and each wait stays at its cap."""
    for kind, status, cap in (
        (errors.RateLimitError, 429, 15.0),
        (errors.ServerError, 500, 2.5),
    ):
        fate = refusal(status)
        wire = bench.wire(MemoryOperator(lambda path, fate=fate: fate))
        client = bench.client(wire, retry={"attempts": 2_000, "budget": None})
        error = await bench.fails(kind, bench.generate(client, timeout=1e6))
        assert error.attempts == 2_000
        assert max(bench.delays) == bench.delays[-1] == cap
        bench.delays.clear()


test_fault = rows.test()
