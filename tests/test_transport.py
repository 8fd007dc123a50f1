"""The session pool, over real sockets."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import subprocess
import sys
from typing import Any, ClassVar, Self

import aiohttp
import pytest
import trustme
from aioresponses import aioresponses
from multidict import CIMultiDict

from uid2_async import SessionPool, UID2Client, errors
from uid2_async.protocol import base64
from uid2_async.transport import Reply, Request
from virtual_time import run_virtual

HEAD = b"HTTP/1.1 200 OK\r\n"
OK = HEAD + b"Content-Length: 2\r\n\r\nhi"
HEADERS = {"Authorization": "Bearer canary-key", "Content-Type": "text/plain"}


def request(**options: Any) -> Request:
    """Make a request."""
    defaults = {"path": "/v2/x", "headers": HEADERS, "body": b"b", "timeout": 5}
    return Request(**(defaults | options))


async def send(url: str | list[str], options: dict | None = None, **more: Any) -> Reply:
    """Send one request over a pool of its own."""
    async with SessionPool(url, **(options or {})) as pool:
        return await pool.send(request(**more))


async def failure(answer: bytes, raw_server: Any, **more: Any) -> errors.UID2Error:
    """Send to a server that gives *answer*; return the error, which is detached."""
    async with raw_server(answer) as server:
        with pytest.raises(errors.UID2Error) as caught:
            await send(server.url, **more)
    error = caught.value
    assert error.__cause__ is error.__context__ is None
    assert "canary" not in str(error)
    return error


async def test_a_request_goes_out_as_given(raw_server: Any) -> None:
    """Path, headers and body arrive; the names in a reply may be in any case."""
    answer = b"HTTP/1.1 418 Odd\r\nX-Some: Thing\r\nContent-Length: 2\r\n\r\nhi"
    async with raw_server(answer) as server:
        reply = await send(server.url + "/base/v2/")
        head = server.requests[0]

    assert reply.status == 418
    assert reply.headers["x-some"] == "Thing"
    assert reply.body == b"hi"
    assert head.startswith(b"POST /base/v2/x HTTP/1.1\r\n")
    assert b"Authorization: Bearer canary-key" in head
    assert b"canary" not in repr(reply).encode()


async def test_connections_are_kept_unless_a_fresh_one_is_asked_for(
    raw_server: Any,
) -> None:
    """Two calls share a connection; a fresh lane never reuses one."""
    async with raw_server(OK, keep=True) as server, SessionPool(server.url) as pool:
        for _ in range(3):
            await pool.send(request())
        assert server.connections == 1
        for _ in range(2):
            await pool.send(request(fresh_connection=True))
        assert server.connections == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(raw_server: Any, status: int) -> None:
    """The API key goes to nobody else."""
    async with raw_server(OK) as target:
        answer = f"HTTP/1.1 {status} Moved\r\nLocation: {target.url}/v2/x\r\n"
        async with raw_server(answer.encode() + b"Content-Length: 0\r\n\r\n") as server:
            assert (await send(server.url)).status == status
            assert len(server.requests) == 1
        assert target.requests == []


async def test_cookies_are_not_kept(raw_server: Any) -> None:
    """What a load balancer sets is not sent back."""
    answer = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n")
    async with raw_server(answer, keep=True) as server, SessionPool(server.url) as pool:
        await pool.send(request())
        await pool.send(request())

    assert not any(b"cookie" in head.lower() for head in server.requests)


async def test_the_environment_has_no_say(
    raw_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy variables are not used."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    async with raw_server(OK) as server:
        assert (await send(server.url)).body == b"hi"


async def test_an_explicit_proxy_is_used(raw_server: Any) -> None:
    """The proxy sees the whole URL; one that cannot be reached is named as such."""
    async with raw_server(OK) as proxy:
        url = "http://127.0.0.1:1"
        assert (await send(url, {"proxy": proxy.url})).body == b"hi"
        assert proxy.requests[0].startswith(b"POST http://127.0.0.1:1/v2/x ")
    with pytest.raises(errors.ConnectError, match="proxy"):
        await send(url, {"proxy": "http://127.0.0.1:1"})


async def test_a_refused_connection_is_a_connect_error() -> None:
    """Nothing listens there."""
    with pytest.raises(errors.ConnectError) as caught:
        await send("http://127.0.0.1:1")

    assert not caught.value.disconnected
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("answer", "cls"),
    [
        pytest.param(b"", errors.ConnectError, id="nothing"),
        pytest.param(HEAD + b"X-Canary: canary\r\n", errors.ConnectError, id="head"),
        pytest.param(
            HEAD + b"Content-Length: 9\r\n\r\nhi", errors.TransportError, id="cut"
        ),
        pytest.param(b"canary canary\r\n\r\n", errors.ProtocolError, id="garbage"),
        pytest.param(
            HEAD + b"X: " + b"x" * 20_000 + b"\r\n\r\n", errors.ProtocolError, id="long"
        ),
        pytest.param(
            HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
            errors.ProtocolError,
            id="gzip",
        ),
        pytest.param(
            HEAD + b"Content-Length: 999999999\r\n\r\n",
            errors.ProtocolError,
            id="large",
        ),
        pytest.param(
            HEAD + b"\r\n" + b"x" * (1024 * 1024 + 1),
            errors.ProtocolError,
            id="endless",
        ),
    ],
)
async def test_an_unusable_answer_is_an_error_of_ours(
    raw_server: Any, answer: bytes, cls: type
) -> None:
    """No foreign exception and no foreign text comes out."""
    error = await failure(answer, raw_server)

    assert type(error) is cls


async def test_a_lost_connection_is_marked(raw_server: Any) -> None:
    """The retry policy treats a stale connection apart."""
    error = await failure(b"", raw_server)

    assert isinstance(error, errors.ConnectError)
    assert error.disconnected


async def test_unparseable_http_is_marked(raw_server: Any) -> None:
    """A garbled answer may be an accident of the connection."""
    error = await failure(b"garbage\r\n\r\n", raw_server)

    assert isinstance(error, errors.ProtocolError)
    assert error.unparseable_http


async def test_the_limit_belongs_to_the_request(raw_server: Any) -> None:
    """Large replies are allowed where they are due."""
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (1024 * 1024 + 1)
    async with raw_server(answer) as server:
        reply = await send(server.url, max_reply_bytes=2 * 1024 * 1024)

    assert len(reply.body) == 1024 * 1024 + 1


async def test_a_slow_operator_meets_the_attempts_bound(raw_server: Any) -> None:
    """The bound of an attempt covers a reply that only drips in."""
    error = await failure(
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        lambda answer: raw_server(answer, keep=True),
        timeout=0.05,
    )

    assert type(error) is errors.CallTimeoutError


async def test_the_callers_own_time_out_stays_its_own(raw_server: Any) -> None:
    """asyncio.timeout around a call ends in TimeoutError, not in ours."""
    async with raw_server(b"", keep=True) as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await send(server.url)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make a certificate authority."""
    return trustme.CA()


def server_context(authority: trustme.CA, host: str) -> ssl.SSLContext:
    """Make the TLS side of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return context


async def test_an_unknown_authority_is_refused(
    raw_server: Any, authority: trustme.CA
) -> None:
    """A certificate is verified by default."""
    async with raw_server(OK, context=server_context(authority, "127.0.0.1")) as server:
        with pytest.raises(errors.CertificateError) as caught:
            await send(server.url)
        assert server.requests == []

    assert caught.value.__context__ is None


async def test_a_private_authority_can_be_given(
    raw_server: Any, authority: trustme.CA
) -> None:
    """A context of the caller's own serves for private CAs; the host must match."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    good = server_context(authority, "127.0.0.1")
    wrong = server_context(authority, "other.example")
    async with raw_server(OK, context=good) as server:
        assert (await send(server.url, {"ssl": context})).body == b"hi"
    async with raw_server(OK, context=wrong) as server:
        with pytest.raises(errors.CertificateError):
            await send(server.url, {"ssl": context})


@pytest.mark.parametrize(
    ("answer", "loses"), [(OK, False), (HEAD + b"Content-Length: 9\r\n\r\nhi", True)]
)
async def test_renewed_connections_end_with_their_requests(
    raw_server: Any, answer: bytes, loses: bool
) -> None:
    """Requests in flight continue; the next request gets a new connection."""
    async with raw_server(OK, keep=True) as server, SessionPool(server.url) as pool:
        await pool.send(request())
        await pool.renew()
        await pool.renew()
        await pool.send(request())
        assert server.connections == 2
    async with raw_server(answer, keep=True) as server, SessionPool(server.url) as pool:
        asking = asyncio.create_task(pool.send(request(timeout=0.2)))
        await asyncio.sleep(0.05)
        await pool.renew()
        if loses:
            with pytest.raises(errors.CallTimeoutError):
                await asking
        else:
            assert (await asking).body == b"hi"
        assert pool._retired == set()


async def test_a_given_sessions_limit_bounds_the_requests(raw_server: Any) -> None:
    """No envelope waits in a session's own queue."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=3)
    ) as session:
        assert SessionPool("https://x", session=session).max_connections == 3


def blind_context(*, verify: bool) -> ssl.SSLContext:
    """Make a context that does not check host names, or nothing at all."""
    context = ssl.create_default_context()
    context.check_hostname = False
    if not verify:
        context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    "verifies",
    [False, blind_context(verify=False), blind_context(verify=True)],
    ids=["nothing", "no certificate", "no host name"],
)
async def test_a_given_session_that_does_not_verify_is_refused(verifies: Any) -> None:
    """By every client that takes one, unless all base URLs are http."""
    connector = aiohttp.TCPConnector(ssl=verifies)
    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(errors.ConfigError, match="verify"):
            SessionPool(["http://127.0.0.1", "https://x"], session=session)
        with pytest.raises(errors.ConfigError, match="verify"):
            UID2Client(
                "https://x",
                api_key="k",
                client_secret=base64.encode_text(bytes(32)),
                session=session,
            )
        SessionPool("http://127.0.0.1", session=session)


async def test_a_given_session_that_verifies_is_accepted() -> None:
    """By the default, a private CA, or the fingerprint of the certificate."""
    private = ssl.create_default_context()
    for verifies in (True, private, aiohttp.Fingerprint(bytes(32))):
        connector = aiohttp.TCPConnector(ssl=verifies)
        async with aiohttp.ClientSession(connector=connector) as session:
            SessionPool("https://x", session=session)


class _Slow:
    """A refusal whose body comes at a byte a second, and its session."""

    closed = False
    connector = None
    connection = None
    status = 503
    headers: ClassVar = CIMultiDict({"Retry-After": "3"})

    def __init__(self) -> None:
        self.content = self
        self.dropped = False

    def post(self, *_: Any, **__: Any) -> _Slow:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    def at_eof(self) -> bool:
        return False

    async def readany(self) -> bytes:
        await asyncio.sleep(0.4)
        return b"x"

    def close(self) -> None:
        self.dropped = True


@pytest.mark.parametrize(("timeout", "most"), [(15, 1.0), (0.5, 0.5)])
def test_the_body_of_a_refusal_may_take_a_second(timeout: float, most: float) -> None:
    """No longer, nor longer than the attempt: then the status counts without it."""

    async def main() -> None:
        slow = _Slow()
        pool = SessionPool("http://127.0.0.1", session=slow)  # type: ignore[arg-type] # a double
        reply = await pool.send(request(timeout=timeout))
        assert (reply.status, reply.headers["retry-after"]) == (503, "3")
        assert reply.body == b"x" * int(most / 0.4)
        assert slow.dropped
        assert asyncio.get_running_loop().time() == pytest.approx(most, abs=0.01)

    run_virtual(main())


@pytest.mark.parametrize("encoding", ["Identity", "IDENTITY ", "identity, identity"])
async def test_the_encoding_that_is_none_is_accepted(
    raw_server: Any, encoding: str
) -> None:
    """In any case, since names of encodings have none."""
    answer = OK.replace(b"\r\n\r\n", b"\r\nContent-Encoding: %b\r\n\r\n")
    async with raw_server(answer % encoding.encode()) as server:
        assert (await send(server.url)).body == b"hi"


async def test_a_given_session_decompresses_nothing(raw_server: Any) -> None:
    """A bomb stays what it is, whatever the session would do."""
    bomb = gzip.compress(bytes(50_000_000))
    head = "HTTP/1.1 {} X\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n"
    async with aiohttp.ClientSession() as session:
        for status in (200, 503):
            answer = head.format(status, len(bomb)).encode() + bomb
            async with raw_server(answer) as server:
                sending = send(server.url, {"session": session})
                if status == 503:
                    assert len((await sending).body) <= 64 * 1024
                    continue
                with pytest.raises(errors.ProtocolError, match="encoding"):
                    await sending


def test_a_context_that_does_not_verify_is_refused() -> None:
    """Verification cannot be switched off by accident."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    with pytest.raises(errors.ConfigError, match="verify"):
        SessionPool("https://x", ssl=context)


async def test_the_own_context_is_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """TLS 1.2 or newer, host names checked, and no key log."""
    monkeypatch.setenv("SSLKEYLOGFILE", os.devnull)
    async with SessionPool("https://127.0.0.1:1") as pool:
        with pytest.raises(errors.ConnectError):
            await pool.send(request())
        context = pool._ssl

    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.keylog_filename is None


@pytest.mark.parametrize("answer", [b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"])
async def test_a_failed_region_hands_over_to_the_next(
    raw_server: Any, answer: bytes
) -> None:
    """One send goes to one region; the next send, to the next one."""
    async with raw_server(answer) as first, raw_server(OK) as second:
        urls = ["http://127.0.0.1:1", first.url, second.url]
        async with SessionPool(urls) as pool:
            with pytest.raises(errors.ConnectError):
                await pool.send(request())
            assert (await pool.send(request())).status == 503
            assert (await pool.send(request())).status == 200


@pytest.mark.parametrize("status", [200, 400, 401, 429, 500])
async def test_other_answers_do_not_change_the_region(
    raw_server: Any, status: int
) -> None:
    """A 429 is about the caller, a 500 about the request: no region is better."""
    answer = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()
    async with (
        raw_server(answer, keep=True) as first,
        raw_server(OK) as second,
        SessionPool([first.url, second.url]) as pool,
    ):
        await pool.send(request())
        await pool.send(request())

    assert second.requests == []


async def test_a_region_is_preferred_again_after_its_cool_down(raw_server: Any) -> None:
    """With no cool-down the first region is always the first choice."""
    busy = b"HTTP/1.1 502 X\r\nContent-Length: 0\r\n\r\n"
    async with (
        raw_server(busy, keep=True) as first,
        raw_server(OK) as second,
        SessionPool([first.url, second.url], cooldown=0) as pool,
    ):
        await pool.send(request())
        await pool.send(request())

    assert len(first.requests) == 2


async def test_a_given_session_is_used_and_left_open(raw_server: Any) -> None:
    """The opener of a session closes it."""
    async with raw_server(OK) as server, aiohttp.ClientSession() as session:
        assert (await send(server.url, {"session": session})).body == b"hi"
        assert not session.closed


async def test_a_closed_pool_says_so(raw_server: Any) -> None:
    """Closing twice, and before the first use, is harmless; sending after it is not."""
    pool = SessionPool("https://x")
    assert repr(pool) == "<SessionPool https://x idle>"
    await pool.aclose()
    await pool.aclose()

    with pytest.raises(errors.ClientClosedError):
        await pool.send(request())
    assert repr(pool) == "<SessionPool https://x closed>"


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_closed_loop_is_replaced() -> None:
    """One asyncio.run per invocation works without a new client."""

    async def once(pool: SessionPool) -> str:
        with pytest.raises(errors.ConnectError):
            await pool.send(request())
        return repr(pool)

    pool = SessionPool("http://127.0.0.1:1")

    assert asyncio.run(once(pool)).endswith("open>")
    assert asyncio.run(once(pool)).endswith("open>")
    asyncio.run(pool.aclose())


async def test_a_second_running_loop_is_refused(raw_server: Any) -> None:
    """The first loop's connections are not touched, and go on working."""
    async with raw_server(OK, keep=True) as server, SessionPool(server.url) as pool:
        await pool.send(request())

        def elsewhere() -> None:
            with pytest.raises(errors.ClientLoopError):
                asyncio.run(pool.send(request()))

        await asyncio.to_thread(elsewhere)
        assert (await pool.send(request())).body == b"hi"


FORK = """
import asyncio, os, sys
from uid2_async import SessionPool, UID2Client, errors
from uid2_async.protocol import base64
from uid2_async.transport import Request

ask = Request(path="/", headers={}, body=b"", timeout=5)

async def once(pool):
    try:
        await pool.send(ask)
    except errors.ClientForkError:
        return 7
    except errors.ConnectError:
        return 0

async def main():
    pool = SessionPool("http://127.0.0.1:1")
    await once(pool)
    if os.fork() == 0:
        asyncio.events._set_running_loop(None)
        os._exit(asyncio.new_event_loop().run_until_complete(once(pool)))
    child = os.waitstatus_to_exitcode(os.wait()[1])
    parent = await once(pool)
    await pool.aclose()
    print(child, parent)

asyncio.run(main())
"""


def test_a_fork_is_detected() -> None:
    """The child is rejected, the parent continues."""
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["7", "0"], done.stderr


def test_wrong_options_are_refused() -> None:
    """Options are checked before anything is opened."""
    with pytest.raises(errors.ConfigError, match="connect_timeout"):
        SessionPool("https://x", connect_timeout=0)
    with pytest.raises(errors.ConfigError, match="max_connections"):
        SessionPool("https://x", max_connections=0)
    with pytest.raises(errors.ConfigError):
        SessionPool([])


def test_plain_http_to_another_machine_is_warned_about() -> None:
    """Once, when the pool is made; loopback needs no warning."""
    with pytest.warns(UserWarning, match="unencrypted"):
        SessionPool("http://operator", allow_http=True)
    SessionPool("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("raised", "cls"),
    [
        (aiohttp.ConnectionTimeoutError("canary"), errors.ConnectError),
        (aiohttp.SocketTimeoutError("canary"), errors.CallTimeoutError),
        (aiohttp.ServerTimeoutError("canary"), errors.CallTimeoutError),
        (aiohttp.ServerDisconnectedError("canary"), errors.ConnectError),
        (aiohttp.ClientOSError(104, "canary"), errors.ConnectError),
        (aiohttp.ClientConnectionError("canary"), errors.TransportError),
        (aiohttp.InvalidURL("canary"), errors.ConfigError),
        (aiohttp.ClientPayloadError("canary"), errors.TransportError),
        (ValueError("canary"), errors.TransportError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_foreign_exceptions_are_mapped_and_detached(
    raised: Exception, cls: type
) -> None:
    """By their class alone, with nothing of theirs left reachable."""
    with aioresponses() as mocked:
        mocked.post("http://127.0.0.1:1/v2/x", exception=raised)
        with pytest.raises(errors.UID2Error) as caught:
            await send("http://127.0.0.1:1")

    assert type(caught.value) is cls
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert "canary" not in str(caught.value)
