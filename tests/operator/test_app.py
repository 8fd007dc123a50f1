"""The operator over HTTP: headers, limits and faults."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp.test_utils import make_mocked_request

from uid2_async._private import http_logger
from uid2_async.operator import Fault, LocalOperator, OperatorData, client_side
from uid2_async.operator.app import Handler
from uid2_async.operator.data import ClientSideKeypair
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.state import OperatorState

MIB = 1_048_576
GENERATE = "/v2/token/generate"


@attrs.frozen
class Answer:
    """An HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
async def operator() -> AsyncIterator[LocalOperator]:
    """Run an operator."""
    async with LocalOperator() as running:
        yield running


async def send(operator: LocalOperator, head: str, body: bytes = b"") -> Answer:
    """Send raw bytes, and read the answer up to the end of the connection."""
    port = int(operator.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [*head.strip().splitlines(), "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    start, _, content = answer.partition(b"\r\n\r\n")
    status, *fields = start.decode().split("\r\n")
    headers = dict(one.lower().split(": ", 1) for one in fields)
    return Answer(int(status.split()[1]), headers, content)


async def post(operator: LocalOperator, path: str, body: bytes = b"x") -> Answer:
    """Send a POST request without API key."""
    head = f"POST {path} HTTP/1.1\nHost: x\nContent-Length: {len(body)}"
    return await send(operator, head, body)


async def test_only_the_documented_headers_are_sent(operator: LocalOperator) -> None:
    """Neither Date nor Server, and a type where there is one (docs/protocol.md 1.9)."""
    health = await send(operator, "GET /ops/healthcheck HTTP/1.1\nHost: x")
    refused = await post(operator, GENERATE)
    method = await send(operator, f"GET {GENERATE} HTTP/1.1\nHost: x")

    assert (health.status, health.body) == (200, b"OK")
    assert health.headers.keys() == {"vary", "content-length", "connection"}
    assert refused.status == 401
    assert refused.headers.keys() == health.headers.keys() | {"content-type"}
    assert method.status == 405
    assert method.headers.keys() == health.headers.keys() | {"allow"}


async def test_an_unknown_path_is_not_found(operator: LocalOperator) -> None:
    """As the real router says it (docs/protocol.md 1.9)."""
    answer = await post(operator, "/v9/x")

    assert answer.status == 404
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.body == b"<html><body><h1>Resource not found</h1></body></html>"


async def test_a_request_without_host_is_bad(operator: LocalOperator) -> None:
    """Only HTTP/1.1 needs it, and it comes first (docs/protocol.md 1.6)."""
    new = await send(operator, f"POST {GENERATE} HTTP/1.1\nContent-Length: 0")
    old = await send(operator, f"POST {GENERATE} HTTP/1.0\nContent-Length: 0")

    assert (new.status, old.status) == (400, 401)


async def test_host_is_looked_for_if_aiohttp_does_not() -> None:
    """Its older versions let such requests pass."""
    world = DataIndex(OperatorData.sample())
    request = make_mocked_request("POST", GENERATE)

    answer = await Handler(world, OperatorState()).handle(request)

    assert isinstance(answer, aiohttp.web.Response)
    assert (answer.status, answer.body) == (400, b"Bad Request")


async def test_what_is_no_http_is_not_quoted(
    operator: LocalOperator, caplog: pytest.LogCaptureFixture
) -> None:
    """Aiohttp would log the line that it cannot read."""
    answer = await send(operator, "POST / HTTP/1.1\nHost: x\nAuthoriza\ttion: hush")

    assert answer.status == 400
    http_logger.warning("plain words stay")

    assert "hush" not in caplog.text
    assert "Error handling request" in caplog.text
    assert "plain words stay" in caplog.text


async def test_a_preflight_has_no_body_and_no_vary(operator: LocalOperator) -> None:
    """204 with only the headers of CORS (docs/protocol.md 1.9)."""
    answer = await send(
        operator,
        "OPTIONS /v2/token/client-generate HTTP/1.1\nHost: x\n"
        "Origin: https://a.example\nAccess-Control-Request-Method: POST",
    )

    assert (answer.status, answer.body) == (204, b"")
    assert "vary" not in answer.headers
    assert "content-type" not in answer.headers
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


async def test_a_body_of_one_mib_is_read(operator: LocalOperator) -> None:
    """One byte more is too long, and is reported before 401 (docs/protocol.md 1.9)."""
    fits = await post(operator, GENERATE, bytes(MIB))
    declared = await post(operator, GENERATE, bytes(MIB + 1))

    assert fits.status == 401
    assert (declared.status, declared.body) == (413, b"Request Too Long")


async def test_a_body_without_length_is_counted(operator: LocalOperator) -> None:
    """The limit holds while streaming (docs/protocol.md 1.9)."""
    chunk = b"80000\r\n" + bytes(0x80000) + b"\r\n"
    head = f"POST {GENERATE} HTTP/1.1\nHost: x\nTransfer-Encoding: chunked"

    fits = await send(operator, head, chunk * 2 + b"0\r\n\r\n")
    long = await send(operator, head, chunk * 2 + b"1\r\nx\r\n0\r\n\r\n")

    assert (fits.status, long.status) == (401, 413)


async def test_a_body_is_taken_as_it_comes(operator: LocalOperator) -> None:
    """An operator does not decompress."""
    answer = await send(
        operator,
        "POST /v2/token/refresh HTTP/1.1\nHost: x\nContent-Length: 4\n"
        "Content-Encoding: gzip",
        b"abcd",
    )

    assert json.loads(answer.body)["message"] == "Error refreshing token"


async def test_what_was_not_foreseen_is_a_500(
    base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names only the kind of the error and the path."""
    sample = OperatorData.sample(base=base)
    # An AES key of no known size: nothing checks it before it is used.
    clients = [attrs.evolve(one, secret=b"x") for one in sample.clients]
    data = attrs.evolve(sample, clients=tuple(clients))
    async with LocalOperator(data) as operator:
        answer = await send(
            operator,
            f"POST {GENERATE} HTTP/1.1\nHost: x\nContent-Length: 64\n"
            f"Authorization: Bearer {operator.api_key}",
            b"AQAA" * 16,
        )

    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    assert answer.headers["vary"] == "origin"
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [
        (logging.ERROR, f"The embedded operator failed on {GENERATE}: ValueError")
    ]


async def test_a_missing_extra_is_named_in_the_log(
    base: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judging an Origin needs a package that is optional."""
    monkeypatch.setitem(sys.modules, "publicsuffixlist", None)
    sample = OperatorData.sample(base=base)
    pair: ClientSideKeypair = sample.keypairs[0]
    body = json.dumps({"subscription_id": pair.subscription_id}).encode()
    client_side._suffix_list.cache_clear()
    async with LocalOperator(sample) as operator:
        answer = await send(
            operator,
            "POST /v2/token/client-generate HTTP/1.1\nHost: x\n"
            f"Origin: https://example.com\nContent-Length: {len(body)}",
            body,
        )

    assert answer.status == 500
    assert "uid2-async[sandbox]" in caplog.text


# --- faults ---------------------------------------------------------------------------


async def test_any_status_can_be_answered(operator: LocalOperator) -> None:
    """Like something in front of the operator: none of its headers."""
    fault = Fault(
        status=429, body="slow down", retry_after=2, headers={"X-Edge": "yes"}
    )
    operator.fail_next(fault)

    answer = await post(operator, GENERATE)
    again = await post(operator, GENERATE)

    assert (answer.status, answer.body) == (429, b"slow down")
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-edge"] == "yes"
    assert not {"vary", "content-type", "date", "server"} & answer.headers.keys()
    assert again.status == 401


async def test_a_gateway_can_name_itself(operator: LocalOperator) -> None:
    """In any spelling, and with a date of its own."""
    headers = {"server": "edge", "DATE": "now", "content-type": "a/b"}
    operator.fail_next(Fault(status=503, headers=headers, body="x"))

    answer = await post(operator, GENERATE)

    assert headers.items() <= {**answer.headers, "DATE": answer.headers["date"]}.items()


async def test_a_status_can_come_with_a_type(operator: LocalOperator) -> None:
    """A portal answers HTML, whatever is asked for."""
    operator.fail_next(Fault(status=200, body=b"<html>", content_type="text/html"))

    answer = await post(operator, "/anything")

    assert (answer.status, answer.body) == (200, b"<html>")
    assert answer.headers["content-type"] == "text/html"


async def test_a_date_is_sent_on_demand(operator: LocalOperator) -> None:
    """It is that of the operator's clock; a real one sends none."""
    operator.fail_next(Fault(date=True, clock_offset=-86_400, headers={"X-Edge": "1"}))

    answer = await post(operator, GENERATE)

    assert answer.status == 401
    assert answer.headers["date"].endswith(" gmt")
    assert (answer.headers["vary"], answer.headers["x-edge"]) == ("origin", "1")


async def test_a_connection_can_be_dropped(operator: LocalOperator) -> None:
    """Before any byte of an answer."""
    operator.fail_next(Fault(drop=True))

    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await session.post(operator.url + GENERATE, data=b"x")

    assert operator.calls[-1].status == 0


async def test_a_body_can_be_cut(operator: LocalOperator) -> None:
    """The length promises more than comes."""
    operator.fail_next(Fault(cut_after=5))

    answer = await post(operator, GENERATE)

    assert answer.body == b'{"sta'
    assert int(answer.headers["content-length"]) > 5
    assert not {"date", "server"} & answer.headers.keys()


async def test_an_answer_can_be_delayed(operator: LocalOperator) -> None:
    """Leaving the block does not wait for it."""
    operator.fail_next(Fault(delay=60))

    async with aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await session.post(
                operator.url + GENERATE,
                data=b"x",
                timeout=aiohttp.ClientTimeout(total=0.05),
            )


async def test_faults_wait_for_their_path(operator: LocalOperator) -> None:
    """And only POST requests count: no health check uses one up."""
    operator.fail_next(Fault(status=503), 2, path="/v3/identity/map")

    await send(operator, "GET /ops/healthcheck HTTP/1.1\nHost: x")
    statuses = [
        (await post(operator, path)).status
        for path in (GENERATE, "/v3/identity/map", "//v3/identity/map/", GENERATE)
    ]

    assert statuses == [401, 503, 503, 401]


async def test_calls_are_noted_without_what_they_hold(operator: LocalOperator) -> None:
    """Who called what, by which headers; the API key is left out."""
    await send(
        operator,
        f"POST /{GENERATE} HTTP/1.1\nHost: x\nContent-Length: 2\nUID-Trace-Id: t1\n"
        "X-UID2-Client-Version: uid2-async-1\nAuthorization: Bearer hush\n"
        "Content-Type: application/octet-stream",
        b"xx",
    )

    (call,) = operator.calls
    assert (call.method, call.path, call.status) == ("POST", GENERATE, 401)
    assert (call.trace_id, call.client_version) == ("t1", "uid2-async-1")
    assert call.binary
    assert not call.encrypted
    assert call.size == 2
    assert call.headers["host"] == "x"
    assert "hush" not in str(attrs.asdict(call))
