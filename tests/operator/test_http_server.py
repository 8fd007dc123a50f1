"""What the HTTP server says by itself, byte by byte as the real operator does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from uid2_async.operator import LocalOperator

HEALTH = b"/ops/healthcheck"
GENERATE = b"/v2/token/generate"


@pytest.fixture
async def operator() -> AsyncIterator[LocalOperator]:
    """Run an operator."""
    async with LocalOperator() as running:
        yield running


async def send(operator: LocalOperator, data: bytes) -> tuple[int, bytes, bytes]:
    """Send raw bytes; give the status, the head and the body of the last answer."""
    port = int(operator.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.removeprefix(CONTINUE).partition(b"\r\n\r\n")
    return int(head.split()[1]), answer, body


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def request(
    *headers: bytes,
    method: bytes = b"POST",
    path: bytes = GENERATE,
    version: bytes = b"1.1",
    host: bytes | None = b"x",
    body: bytes = b"",
) -> bytes:
    """Write a request that wants the connection closed."""
    lines = [b"%b %b HTTP/%b" % (method, path, version), b"Connection: close"]
    lines += [] if host is None else [b"Host: " + host]
    if not any(one.lower().startswith(b"transfer-encoding") for one in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*lines, *headers, b"", b""]) + body


@pytest.mark.parametrize(
    "host",
    [
        *(b"", b"a", b"a:", b"a:80", b"a:0", b"a:65535", b"1.2.3.4", b"256.1.1.1"),
        *(b"[::1]", b"[::1]:80", b"[v1.a]", b"a_b", b"a..b", b".", b"-a", b"*", b"~"),
        b"!$&'()*+,;=",
    ],
)
async def test_a_host_is_lenient(operator: LocalOperator, host: bytes) -> None:
    """It may even be empty, but it must be there (docs/protocol.md 1.9)."""
    found = await send(operator, request(method=b"GET", path=HEALTH, host=host))

    assert (found[0], found[2]) == (200, b"OK")


@pytest.mark.parametrize(
    "host",
    [
        *(None, b"a b", b"a:b", b"a:65536", b"a:-1", b"a:80:90", b"a@b", b"a/b"),
        *(b"a?b", b"a#b", b"[::1", b"[::1]x", b"::1", b'"a"', b"<a>", b"{a}", b"|"),
        *(b"^", b"`", b"\\", b"\xc3\xa9", b"\xe9", b"http://a", b"a\tb"),
    ],
)
async def test_a_bad_host_is_a_bad_request(
    operator: LocalOperator, host: bytes | None
) -> None:
    """It comes before everything else, and only HTTP/1.1 needs one (1.6 and 1.9)."""
    new = await send(operator, request(b"Origin:", path=b"/nowhere", host=host))
    old = await send(operator, request(path=b"/nowhere", host=host, version=b"1.0"))

    assert (new[0], new[2]) == (400, b"Bad Request")
    assert b"vary" not in new[1].lower()
    assert old[0] == 404


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS"])
@pytest.mark.parametrize(("over", "status"), [(0, 404), (1, 414), (70_000, 414)])
async def test_a_request_line_has_4096_bytes(
    operator: LocalOperator, method: bytes, over: int, status: int
) -> None:
    """One more is too long (docs/protocol.md 1.9)."""
    path = b"/" + b"a" * (4_096 - len(method) - len(b" / HTTP/1.1") + over)

    found = await send(operator, request(method=method, path=path))

    assert found[0] == status
    assert status == 404 or found[2] == b""


@pytest.mark.parametrize(("over", "status"), [(0, 200), (1, 431), (70_000, 431)])
@pytest.mark.parametrize("pieces", [1, 2, 100, 1_000])
async def test_headers_have_8192_bytes(
    operator: LocalOperator, pieces: int, over: int, status: int
) -> None:
    """All of them together, without the ends of the lines (docs/protocol.md 1.9)."""
    others = len(b"Connection: close" + b"Host: x" + b"Content-Length: 0")
    room = 8_192 - others - pieces * len(b"X: ")
    sizes = [room // pieces] * pieces
    sizes[-1] += room % pieces + over

    data = request(
        *(b"X: " + b"a" * size for size in sizes), method=b"GET", path=HEALTH
    )

    assert (await send(operator, data))[0] == status


@pytest.mark.parametrize(
    ("first", "second", "status"),
    [
        (b"Content-Type: text/plain", b"content-type : multipart/form-data", 400),
        (b"Content-Type: multipart/form-data;boundary", b"Content-Type: x/y", 500),
        (b"Content-Type: x/y", b"Content-Type: multipart/form-data;boundary", 401),
        (b"User-Agent: a", b"User-Agent: b", 401),
        (b"Host: other", b"ETag: a\r\nETag: b\r\nServer: a\r\nServer: b", 401),
        (b"Content-Range: a", b"Content-Range: b", 401),
    ],
)
async def test_of_repeated_headers_the_first_counts(
    operator: LocalOperator, first: bytes, second: bytes, status: int
) -> None:
    """Repeating one is no fault (docs/protocol.md 1.9)."""
    found = await send(operator, request(first, second, body=b"abcd"))

    assert found[0] == status


async def test_a_body_that_looks_like_a_head_is_left_alone(
    operator: LocalOperator,
) -> None:
    """Only the head of a request is looked at."""
    body = b"Content-Type: a\r\nContent-Type: b\r\n\r\n"
    headers = b"Authorization: Bearer " + operator.api_key.encode()

    await send(operator, request(headers, body=body))

    assert operator.calls[-1].size == len(body)


async def test_the_length_must_not_be_repeated(operator: LocalOperator) -> None:
    """That is refused, with nothing to say about it (docs/protocol.md 1.9)."""
    found = await send(operator, request(b"Content-Length: 4", body=b"abcd"))

    assert (found[0], found[2]) == (400, b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/v2/token/%67enerate", 401),
        (b"/v2/token/%2e/generate", 401),
        (b"/v2/./x/../token/generate", 401),
        (b"/../v2/token/generate/.", 401),
        (b"//v2//token/generate//?x=%zz", 401),
        (b"http://other/v2/token/generate", 401),
        (b"/v2/token/generate/..", 404),
        (b"/v2/token/generate/%2E%2e", 404),
        (b"/v2/token%2fgenerate", 404),
        (b"/v2/token/generate%20", 404),
        (b"/v2/token/generate;x", 404),
        (b"/v2/token/generate#x", 404),
        (b"/V2/token/generate", 404),
        (b"/v2/token/gener%zzate", 400),
        (b"/v2/token/generate%4", 400),
    ],
)
async def test_paths_are_cleaned(
    operator: LocalOperator, path: bytes, status: int
) -> None:
    """Needless escapes and dots are resolved (docs/protocol.md 1.1)."""
    found = await send(operator, request(path=path))

    assert found[0] == status


@pytest.mark.parametrize(
    ("expect", "status", "is_continued"),
    [
        (b"100-continue", 401, True),
        (b"100-CONTINUE", 401, True),
        (b"foo", 417, False),
        (b"", 417, False),
    ],
)
async def test_expectations(
    operator: LocalOperator, expect: bytes, status: int, *, is_continued: bool
) -> None:
    """One is known; it matters only where there is a body (docs/protocol.md 1.9)."""
    header = b"Expect: " + expect

    found = await send(operator, request(header, body=b"abcd"))
    old = await send(operator, request(header, body=b"abcd", version=b"1.0"))
    without = await send(operator, request(header))

    assert (found[0], found[1].startswith(CONTINUE)) == (status, is_continued)
    assert status != 417 or found[2] == b"Expectation Failed"
    assert (old[0], old[1].startswith(CONTINUE)) == (status, False)
    assert without[0] == 401


async def test_chunks_are_taken_from_http_1_0_too(operator: LocalOperator) -> None:
    """The real server does not mind (docs/protocol.md 1.9)."""
    headers = b"Transfer-Encoding: chunked"
    body = b"4\r\nabcd\r\n0\r\n\r\n"

    await send(operator, request(headers, body=body, version=b"1.0"))

    assert (operator.calls[-1].status, operator.calls[-1].size) == (401, 4)


@pytest.mark.parametrize(
    "data",
    [
        request(b"Content-Length: 4", body=b"abcd"),
        request(host=None),
        request(b"no colon"),
        request(b"X: " + b"a" * 70_000),
        request(path=b"/" + b"a" * 70_000),
        request(method=b"foo"),
        request(b"Transfer-Encoding: chunked", body=b"zz\r\n"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    ],
)
async def test_what_cannot_be_parsed_is_answered_with_the_same_headers(
    operator: LocalOperator, data: bytes
) -> None:
    """No response of an operator names its software or the date (1.9)."""
    found = await send(operator, data)

    assert 400 <= found[0] < 500
    head = found[1].partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    names = {line.partition(b":")[0].lower() for line in head}
    assert names <= {b"connection", b"content-length"}


@pytest.mark.parametrize(
    ("method", "path"), [(b"OPTIONS", b"*"), (b"CONNECT", b"a:443")]
)
async def test_every_request_reaches_the_operator(
    operator: LocalOperator, method: bytes, path: bytes
) -> None:
    """A target that is not a path is not found, and recorded like any other."""
    found = await send(operator, request(method=method, path=path))

    assert (found[0], found[2]) == (404, b"Not Found")
    assert [(one.method, one.status) for one in operator.calls] == [
        (method.decode(), 404)
    ]


@pytest.mark.parametrize("version", [b"2.0", b"0.9"])
async def test_another_http_is_not_implemented(
    operator: LocalOperator, version: bytes
) -> None:
    """Whatever it asks for (docs/protocol.md 1.9)."""
    found = await send(operator, request(version=version))

    assert (found[0], found[2]) == (501, b"")


MIB = 1_048_576


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [
        (b"text/plain", 413, b"Request Too Long"),
        (b"application/x-www-form-urlencoded", 400, b"Bad Request"),
    ],
)
async def test_a_form_that_streams_too_much_is_a_bad_request(
    operator: LocalOperator, kind: bytes, status: int, body: bytes
) -> None:
    """Where its length is declared, it is too long like others (1.9)."""
    chunks = b"100000\r\n" + b"a" * MIB + b"\r\n1\r\na\r\n0\r\n\r\n"
    streamed = (b"Content-Type: " + kind, b"Transfer-Encoding: chunked")

    found = await send(operator, request(*streamed, body=chunks))
    declared = await send(operator, request(streamed[0], body=b"a" * (MIB + 1)))

    assert (found[0], found[2]) == (status, body)
    assert declared[0] == 413


@pytest.mark.parametrize("value", [b"", b" \t ", b"a\x85b", b"a\xc2\x85b"])
async def test_an_impossible_origin_comes_before_the_size(
    operator: LocalOperator, value: bytes
) -> None:
    """And after the Host (docs/protocol.md 1.6)."""
    found = await send(
        operator, request(b"Origin: " + value, b"Expect: x", body=b"a" * (MIB + 1))
    )

    assert (found[0], found[2]) == (403, b"Forbidden")
    assert b"vary" not in found[1].lower()


@pytest.mark.parametrize("name", [b"Origin", b"X-Amzn-Trace-Id"])
async def test_headers_that_are_repeated_may_hold_any_byte(
    operator: LocalOperator, name: bytes
) -> None:
    """UTF-8 is returned unchanged; aiohttp cannot send anything else."""
    found = await send(operator, request(name + b": a\xc3\xa9\xe9b"))

    assert found[0] == 401
    assert b": a\xc3\xa9b\r\n" in found[1]
    assert operator.calls[-1].headers[name.decode().lower()].isprintable()


async def test_a_key_is_read_byte_by_byte(operator: LocalOperator) -> None:
    """A no-break space in UTF-8 is two characters after the key (1.2)."""
    header = b"Authorization: Bearer " + operator.api_key.encode()

    good = await send(operator, request(header))
    bad = await send(operator, request(header + b"\xc2\xa0"))

    assert (good[0], bad[0]) == (400, 401)
