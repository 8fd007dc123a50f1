"""How much of the calls is kept, and who called."""

from __future__ import annotations

from typing import Any

import pytest

from uid2_async.operator.console.calls import Exchange, ExchangeLog, KeyCheck
from uid2_async.operator.http_messages import HttpReply
from uid2_async.operator.state import RecordedCall


def exchange(size: int = 0) -> Exchange:
    """Make an exchange with so many bytes."""
    return Exchange(
        at_ms=0,
        took_ms=0.0,
        call=RecordedCall(method="POST", path="/", status=200),
        key_check=KeyCheck.MISSING,
        body=bytes(size // 2),
        reply=HttpReply(status=200, body=bytes(size - size // 2)),
    )


def numbers(kept: ExchangeLog) -> list[int]:
    """List what is kept."""
    return [one.number for one in kept.after(0)]


def test_the_oldest_go_when_there_are_too_many() -> None:
    """Numbers continue, so that dropped calls are noticed."""
    kept = ExchangeLog(calls_kept=3)
    for _ in range(5):
        kept.add(exchange())

    assert numbers(kept) == [3, 4, 5]
    assert kept.first == 3
    assert kept.find(2) is None
    assert kept.after(4) == [kept.find(5)]


def test_the_oldest_go_when_they_are_too_large() -> None:
    """All bodies count, and the newest is kept however large it is."""
    kept = ExchangeLog(bytes_kept=100)
    for size in (60, 40, 1):
        kept.add(exchange(size))
    assert numbers(kept) == [2, 3]
    kept.add(exchange(500))

    assert numbers(kept) == [4]
    kept.add(exchange(10))
    assert numbers(kept) == [5]


def test_an_operator_keeps_500_calls(desk: Any) -> None:
    """The log for tests keeps more, without any content."""
    for _ in range(501):
        desk.operator._console.exchanges.add(exchange())

    updates = desk.see("updates/0")
    assert len(updates["calls"]) == 500
    assert updates["first"] == 2


def test_clearing_and_resetting_forget_the_calls(desk: Any) -> None:
    """The log of calls is only forgotten by the second."""
    desk.send("GET", "/ops/healthcheck")
    desk.order("clear", {})
    assert desk.see("updates/0")["calls"] == []
    assert desk.see("updates/0")["first"] == 2
    assert len(desk.operator.calls) == 1
    desk.send("GET", "/ops/healthcheck")
    desk.operator.reset()

    assert desk.see("updates/0")["calls"] == []
    assert desk.operator.calls == []
    assert desk.send("GET", "/_console/calls/1").status == 404


@pytest.mark.parametrize(
    ("header", "check"),
    [
        (None, "no API key"),
        ("", "no API key"),
        ("Basic x", "not of the form 'Bearer KEY'"),
        ("Bearer x", "an API key that this operator does not know"),
    ],
)
def test_a_key_that_is_none(desk: Any, header: str | None, check: str) -> None:
    """The fault of the header is shown, and the header itself is not."""
    desk.send("POST", "/v2/token/generate", b"x", Authorization=header)

    call = desk.last()
    assert call["key"] == check
    assert "authorization" not in dict(call["request_headers"])


def test_no_key_is_kept(desk: Any) -> None:
    """Neither the API key nor a cookie is in what is shown of a call."""
    desk.call("/v2/key/sharing", Cookie="session=hush", X_Odd="seen")

    shown = str(desk.last())
    assert desk.operator.credentials["everything"].api_key not in shown
    assert "hush" not in shown
    assert "seen" in shown
