"""What uid2_async.testing offers to those without pytest."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta

import pytest

from uid2_async import (
    Email,
    IdentityScope,
    IdentityTokens,
    MappedUID,
    OptedOut,
    errors,
)
from uid2_async.operator import Fault
from uid2_async.testing import ManualClock, OperatorThread, ScriptedTransport
from uid2_async.transport import Reply, Request

OPTED_OUT = {"status": "optout"}
EMAIL = "user@example.com"


def test_a_clock_moves_when_it_is_told_to() -> None:
    """Back and forth, from where it was set."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    clock = ManualClock(start)

    clock.advance(90)
    clock.advance(-30)

    assert clock() == clock() == start + timedelta(minutes=1)
    assert repr(clock) == "<ManualClock 2026-01-01T00:01:00+00:00>"


def test_a_clock_needs_a_time_zone_and_starts_now() -> None:
    """As every instant of the library."""
    with pytest.raises(errors.InputError):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - the point
    assert abs(ManualClock()() - datetime.now(UTC)) < timedelta(seconds=30)


async def test_a_script_answers_step_by_step() -> None:
    """JSON is sealed, a status is bare, an error is raised; retries do not wait."""
    transport = ScriptedTransport(503, errors.ConnectError("lost"), OPTED_OUT)

    async with transport.client() as client:
        assert await client.generate_token(EMAIL) == OptedOut()

    assert [request.path for request in transport.requests] == [
        "/v2/token/generate"
    ] * 3
    assert all("email_hash" in asked for asked in transport.questions)
    assert repr(transport) == "<ScriptedTransport 3 sent, 0 left>"


async def test_a_script_answers_binary_calls() -> None:
    """Raw bytes go back where raw bytes came."""
    row = {"u": "raw uid", "p": None, "r": 1_800_000_000}
    transport = ScriptedTransport({"status": "success", "body": {"email_hash": [row]}})

    found = await transport.client().map_identities([Email(EMAIL)])

    assert isinstance(found[0], MappedUID)


async def test_a_step_may_be_a_reply_or_a_function() -> None:
    """For whatever else there is."""

    def refuse(request: Request) -> Reply:
        return Reply(status=401, headers={}, body=request.path.encode())

    throttled = Reply(status=429, headers={"retry-after": "7"}, body=b"")
    client = ScriptedTransport(throttled, refuse).client()

    with pytest.raises(errors.AuthError) as caught:
        await client.generate_token(EMAIL)
    assert caught.value.attempts == 2


async def test_a_script_that_is_over_says_so() -> None:
    """The test fails; nothing is retried."""
    with pytest.raises(AssertionError, match=r"ended, but /v2/token/generate was"):
        await ScriptedTransport().client().generate_token(EMAIL)


async def test_json_cannot_answer_a_call_without_envelope() -> None:
    """token/refresh carries none, and the script does not know its key."""
    with OperatorThread() as thread, thread.client(thread.operator()) as client:
        tokens = await client.generate_token(EMAIL)
    assert isinstance(tokens, IdentityTokens)

    with pytest.raises(AssertionError, match="Use a Reply"):
        await ScriptedTransport(OPTED_OUT).client().refresh_token(tokens)


def test_a_thread_serves_every_loop_and_leaves_nothing() -> None:
    """One client, three loops, and a thread that ends with its block."""
    before = set(threading.enumerate())
    with OperatorThread() as thread:
        operator = thread.operator()
        with thread.client(operator, role="publisher") as client:
            for _ in range(3):
                asyncio.run(client.generate_token(EMAIL))
        assert [call.client for call in operator.calls] == ["publisher"] * 3
        assert thread.operator() is operator
        assert thread.operator(IdentityScope.EUID) is not operator
        assert operator.url in repr(thread)

    assert set(threading.enumerate()) == before
    with pytest.raises(RuntimeError):
        _ = operator.url


def test_a_cancelled_call_is_cancelled_on_the_thread() -> None:
    """A canceled call leaves no request that delays the end."""

    async def give_up() -> None:
        async with asyncio.timeout(0.05):
            await client.generate_token(EMAIL)

    with OperatorThread() as thread:
        operator = thread.operator()
        operator.fail_next(Fault(delay=60))
        with thread.client(operator) as client, pytest.raises(TimeoutError):
            asyncio.run(give_up())


def test_unknown_credentials_are_refused() -> None:
    """By a name that the operator does not have."""
    with (
        OperatorThread() as thread,
        pytest.raises(errors.InputError, match="'reader'") as caught,
        thread.client(thread.operator(), role="reader"),
    ):
        pass
    assert "publisher" in caught.value.hint
