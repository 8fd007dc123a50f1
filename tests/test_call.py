"""Calls: what each attempt seals, sends and opens, and what hooks see."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from inspect import iscoroutinefunction
from itertools import count
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async import RetryPolicy, UID2Client, errors
from uid2_async._version import __version__
from uid2_async.connections import ConnectionLimit
from uid2_async.hooks import (
    AttemptFailed,
    AttemptStarted,
    CallFinished,
    CallStarted,
    ReplyMismatch,
    RetryScheduled,
)
from uid2_async.operator.envelope import decrypt_request, encrypt_reply
from uid2_async.protocol import base64
from uid2_async.protocol.wire import Call
from uid2_async.testing import ManualClock
from uid2_async.transport import Reply, Request

KEY = bytes(range(32))
START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = int(START.timestamp() * 1000)
PATH = "/v2/x"


class ScriptedTransport:
    """Answers each request by the next step of a script."""

    max_connections = 2

    def __init__(self, *script: Any) -> None:
        """Take errors to raise, statuses to answer, or functions of the request."""
        self.script = list(script)
        self.requests: list[Request] = []
        self.closed = 0
        self.renewed = 0

    async def renew(self) -> None:
        """Count."""
        self.renewed += 1

    async def send(self, request: Request) -> Reply:
        """Do the next step."""
        self.requests.append(request)
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        if isinstance(step, int):
            return Reply(status=step, headers={}, body=b"")
        return await step(request) if iscoroutinefunction(step) else step(request)

    async def aclose(self) -> None:
        """Count."""
        self.closed += 1


def answer(
    payload: bytes = b"answer",
    *,
    key: bytes = KEY,
    late_ms: int = 0,
    nonce: bytes | None = None,
    binary: bool = False,
) -> Callable[[Request], Reply]:
    """Seal *payload* as an operator whose clock is *late_ms* ahead."""

    def reply(request: Request) -> Reply:
        body = request.body if binary else base64.decode(request.body)
        opened = decrypt_request(body or b"", KEY)
        sealed = encrypt_reply(
            payload,
            key=key,
            now_ms=opened.sent_ms + late_ms,
            nonce=nonce or opened.nonce,
            iv=os.urandom(12),
        )
        return Reply(
            status=200, headers={}, body=sealed if binary else base64.encode(sealed)
        )

    return reply


class Bench:
    """A client over a script, with a clock that ticks by a second."""

    def __init__(self, *script: Any, random_bytes: Any = os.urandom) -> None:
        """Prepare the client."""
        self.transport = ScriptedTransport(*script)
        self.events: list[Any] = []
        ticks = count()
        self.client = UID2Client(
            "https://operator.example.com",
            api_key="canary-key",
            client_secret=base64.encode_text(KEY),
            transport=self.transport,
            clock=lambda: START + timedelta(seconds=next(ticks)),
            retry=RetryPolicy(_sleep=self.no_sleep, _random=lambda: 0.5),
            hooks=[self.events.append],
        )
        self.client._random_bytes = random_bytes

    async def no_sleep(self, seconds: float) -> None:
        """Wait for nothing."""

    async def run(self, timeout: float = 30, **options: Any) -> bytes:
        """Make one call that returns the opened payload."""
        options = {"path": PATH, "payload": b"question", "parse": bytes} | options
        call: Call[bytes] = Call(**options)
        return await self.client.run_call(call, timeout=timeout)


async def test_a_call_is_sealed_sent_opened_and_parsed() -> None:
    """The operator sees the payload, the caller gets the parsed answer."""
    bench = Bench(answer())

    assert await bench.run(parse=bytes.upper) == b"ANSWER"
    request = bench.transport.requests[0]
    opened = decrypt_request(base64.decode(request.body) or b"", KEY)
    assert (opened.payload, opened.sent_ms) == (b"question", START_MS)
    assert request.path == PATH
    assert request.timeout == pytest.approx(15, abs=1)
    assert request.headers["Authorization"] == "Bearer canary-key"
    assert request.headers["Content-Type"] == "text/plain"
    assert request.headers["Accept-Encoding"] == "identity"
    assert request.headers["X-UID2-Client-Version"] == f"uid2-async-{__version__}"
    assert "canary" not in repr(request)


async def test_a_binary_call_carries_raw_bytes() -> None:
    """No base64 either way, and the media type bare of parameters."""
    bench = Bench(answer(binary=True))

    assert await bench.run(binary=True) == b"answer"
    request = bench.transport.requests[0]
    assert request.headers["Content-Type"] == "application/octet-stream"
    assert request.body[0] == 1


async def test_each_attempt_is_sealed_anew() -> None:
    """Time, nonce, IV and trace id are fresh, and no retry sends an old envelope."""
    bench = Bench(503, errors.ConnectError("x"), answer())

    await bench.run()

    bodies = [base64.decode(one.body) or b"" for one in bench.transport.requests]
    opened = [decrypt_request(body, KEY) for body in bodies]
    times = [one.sent_ms for one in opened]
    assert times == sorted(set(times))
    assert len({one.nonce for one in opened}) == len({b[1:13] for b in bodies}) == 3
    traces = {one.headers["UID-Trace-Id"] for one in bench.transport.requests}
    assert len(traces) == 3


async def test_randomness_is_an_argument() -> None:
    """Nonce and IV come from the function given."""
    bench = Bench(answer(), random_bytes=bytes)

    await bench.run()

    body = base64.decode(bench.transport.requests[0].body) or b""
    assert body[1:13] == bytes(12)
    assert decrypt_request(body, KEY).nonce == bytes(8)


async def test_an_error_names_its_call() -> None:
    """Endpoint, attempts and the last trace id stand on the error."""
    bench = Bench(503, 503, 503, 401)

    with pytest.raises(errors.AuthError) as caught:
        await bench.run()

    assert caught.value.endpoint == PATH
    assert caught.value.attempts == 4
    last = bench.transport.requests[-1].headers["UID-Trace-Id"]
    assert caught.value.trace_id == last
    assert any(last in note for note in caught.value.__notes__)


async def test_hooks_see_the_whole_course() -> None:
    """Start, failed attempt, scheduled retry and end, with no more than allowed."""
    bench = Bench(503, answer())

    await bench.run()

    first, last = (one.headers["UID-Trace-Id"] for one in bench.transport.requests)
    started, began, failed, scheduled, again, finished = bench.events
    assert started == CallStarted(endpoint=PATH)
    assert began == AttemptStarted(endpoint=PATH, attempt=1, trace_id=first)
    assert again == AttemptStarted(endpoint=PATH, attempt=2, trace_id=last)
    assert isinstance(failed, AttemptFailed)
    assert (failed.attempt, failed.trace_id, failed.status) == (1, first, 503)
    assert failed.error_type == "ServerError"
    assert scheduled == RetryScheduled(endpoint=PATH, attempt=2, delay=0.1)
    assert isinstance(finished, CallFinished)
    assert (finished.attempts, finished.trace_id) == (2, last)
    assert finished.error_type is None
    assert finished.elapsed >= failed.elapsed >= 0


async def test_hooks_see_a_failure_without_answer() -> None:
    """Where there was no HTTP status there is none in the event."""
    bench = Bench(errors.CertificateError("x"))

    with pytest.raises(errors.CertificateError):
        await bench.run()

    assert bench.events[2].status is None
    assert bench.events[2].region is None
    assert bench.events[-1].error_type == "CertificateError"


async def test_hooks_are_told_the_operator_s_clock() -> None:
    """By how much it is ahead, as sealed replies say, where that matters."""
    far, near = Bench(answer(late_ms=90_000)), Bench(answer(late_ms=-1_500))

    await far.run()
    await near.run()

    (ahead,) = [one.skew for one in far.events if isinstance(one, CallFinished)]
    (level,) = [one.skew for one in near.events if isinstance(one, CallFinished)]
    assert ahead == pytest.approx(90, abs=5)
    assert level == 0


async def test_the_operators_clock_is_known_after_a_suspension() -> None:
    """The event loop's clock stood still meanwhile; that is no clock that was set."""
    clock = ManualClock(START)
    transport = ScriptedTransport(answer(late_ms=300_000), answer())
    client = UID2Client(
        "https://operator.example.com",
        api_key="key",
        client_secret=base64.encode_text(KEY),
        transport=transport,
        clock=clock,
    )
    call: Call[bytes] = Call(path=PATH, parse=bytes)
    await client.run_call(call)
    clock.advance(86_400)

    assert client.clock_skew == 300
    await client.run_call(call)
    opened = decrypt_request(base64.decode(transport.requests[-1].body) or b"", KEY)
    assert opened.sent_ms == START_MS + 86_400_000 + 300_000


async def test_a_broken_hook_cannot_break_a_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Observation never changes the outcome; the hook's own text is not logged."""

    def broken(event: Any) -> None:
        raise RuntimeError("canary")

    bench = Bench(answer())
    client = bench.client.with_options(hooks=[broken])

    await client.run_call(Call(path=PATH, parse=bytes))

    assert "A hook failed with RuntimeError" in caplog.text
    assert "canary" not in caplog.text


async def test_a_failed_call_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """One warning when a call gives up, retries at INFO, and nothing of the content."""
    caplog.set_level(logging.DEBUG)
    bench = Bench(503, 503, 503, 503)

    with pytest.raises(errors.ServerError):
        await bench.run()

    levels = [record.levelname for record in caplog.records]
    assert levels == ["INFO", "INFO", "INFO", "WARNING"]
    assert "question" not in caplog.text
    assert "canary" not in caplog.text


async def test_a_cancelled_call_is_finished_for_hooks() -> None:
    """Cancellation is an end like any other, and is not logged as failure."""
    began = asyncio.Event()

    async def hang(request: Request) -> Reply:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench = Bench(hang)
    task = asyncio.create_task(bench.run())
    await began.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.events[-1].error_type == "CancelledError"


@pytest.mark.parametrize(
    "step",
    [
        answer(key=bytes(32)),
        lambda request: Reply(status=200, headers={}, body=b"not base64!"),
        lambda request: Reply(status=200, headers={}, body=b'{"status":"success"}'),
        lambda request: Reply(status=200, headers={}, body=b"<html>portal</html>"),
        lambda request: Reply(status=200, headers={}, body=b""),
    ],
    ids=["key", "text", "clear", "portal", "empty"],
)
async def test_what_does_not_open_is_no_answer(step: Any) -> None:
    """A reply in the clear is never taken where a sealed one is due; two tries."""
    bench = Bench(step, step, answer())

    with pytest.raises(errors.EnvelopeError):
        await bench.run()

    assert len(bench.transport.requests) == 2
    assert bench.transport.requests[1].fresh_connection


@pytest.mark.parametrize(
    "step",
    [
        answer(nonce=b"another!"),
        answer(late_ms=11 * 60 * 1000),
        answer(late_ms=-11 * 60 * 1000),
    ],
    ids=["nonce", "ahead", "behind"],
)
async def test_a_reply_to_another_request_is_never_retried(step: Any) -> None:
    """A foreign nonce or time is an attack or a mix-up; its connection is given up."""
    bench = Bench(step, answer())

    with pytest.raises(errors.EnvelopeError) as caught:
        await bench.run()

    assert len(bench.transport.requests) == 1
    assert bench.transport.renewed == 1
    assert caught.value.foreign_nonce is not caught.value.untimely
    forged = [one for one in bench.events if isinstance(one, ReplyMismatch)]
    assert forged == [
        ReplyMismatch(endpoint=PATH, trace_id=caught.value.trace_id or "")
    ]


async def test_a_bare_call_sends_its_payload_as_it_is() -> None:
    """token/refresh goes out unsealed, and its reply opens with another key."""
    reply_key = bytes(range(1, 33))
    sealed = bytes(12) + _seal_bare(reply_key)
    reply = Reply(status=200, headers={}, body=base64.encode(sealed))
    bench = Bench(lambda request: reply)

    assert await bench.run(bare=True, reply_key=reply_key) == b"bare"
    assert bench.transport.requests[0].body == b"question"


def _seal_bare(key: bytes) -> bytes:
    """Seal without time and nonce."""
    return AESGCM(key).encrypt(bytes(12), b"bare", None)


async def test_a_reply_in_the_clear_is_taken_where_it_is_due() -> None:
    """Only a call that says so takes a reply as it is."""
    bench = Bench(lambda request: Reply(status=200, headers={}, body=b"{}"))

    assert await bench.run(bare=True, reply_key=b"") == b"{}"


async def test_a_call_may_bring_its_own_crypto() -> None:
    """It encrypts each attempt again, and decrypts the reply to that attempt."""

    def seal(
        now_ms: int, random_bytes: Callable[[int], bytes]
    ) -> tuple[bytes, Callable[[bytes], bytes]]:
        made = f"{now_ms - START_MS}".encode() + random_bytes(2)
        return made, lambda body: made + b" opened " + body

    reply = Reply(status=200, headers={}, body=b"it")
    bench = Bench(503, lambda request: reply, random_bytes=lambda size: b"r" * size)

    opened = await bench.run(own_crypto=seal)

    first, second = (request.body for request in bench.transport.requests)
    assert first != second
    assert opened == second + b" opened it"
    assert second.endswith(b"rr")


async def test_an_attempt_gets_no_more_time_than_is_left() -> None:
    """The attempt's bound shrinks with the call's."""
    bench = Bench(answer())

    await bench.run(timeout=2)

    assert bench.transport.requests[0].timeout == pytest.approx(2, abs=1)


async def test_slots_bound_the_attempts_and_come_back() -> None:
    """No more than the pool's size at once, nothing sealed while waiting."""
    release = asyncio.Event()
    running = 0
    most = 0

    async def slow(request: Request) -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        return answer()(request)

    bench = Bench(*[slow] * 5)
    tasks = [asyncio.create_task(bench.run()) for _ in range(5)]
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(bench.transport.requests) == most == 2
    release.set()
    assert await asyncio.gather(*tasks) == [b"answer"] * 5
    assert most == 2


async def test_a_call_that_gets_no_slot_times_out() -> None:
    """Waiting for a slot counts against the call's own time."""
    connection_limit = ConnectionLimit(1)
    loop = asyncio.get_running_loop()
    held = await connection_limit.acquire(loop.time() + 9)
    with pytest.raises(errors.CallTimeoutError, match="No connection"):
        await connection_limit.acquire(loop.time())
    held.release()
    (await connection_limit.acquire(loop.time() + 9)).release()


async def test_a_cancelled_waiter_leaves_its_slot_to_others() -> None:
    """Cancellation while waiting takes nothing away."""
    connection_limit = ConnectionLimit(1)
    deadline = asyncio.get_running_loop().time() + 9
    held = await connection_limit.acquire(deadline)
    task = asyncio.create_task(connection_limit.acquire(deadline))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    held.release()
    (await connection_limit.acquire(deadline)).release()


def test_slots_follow_a_new_event_loop() -> None:
    """A client that outlives its loop is not bound to it."""
    connection_limit = ConnectionLimit(1)

    async def contend() -> None:
        deadline = asyncio.get_running_loop().time() + 9

        async def one() -> None:
            held = await connection_limit.acquire(deadline)
            await asyncio.sleep(0)
            held.release()

        await asyncio.gather(one(), one())

    asyncio.run(contend())
    asyncio.run(contend())


def test_calls_hide_their_content() -> None:
    """No repr shows a payload."""
    call: Call[bytes] = Call(path=PATH, payload=b"canary", parse=bytes)

    assert "canary" not in repr(call)
