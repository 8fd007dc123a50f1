"""The embedded operator as a context manager."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
import subprocess
import sys
import threading
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from uid2_async.errors import InputError
from uid2_async.models import EmailHash, IdentityScope, Phone
from uid2_async.operator import Fault, LocalOperator, OperatorData, server
from uid2_async.protocol.envelope import AesGcmEnvelope

MAP = "/v3/identity/map"
WORLD = Path(__file__).parents[1] / "conformance" / "uid2" / "world"
START = datetime(2026, 3, 10, 12, tzinfo=UTC)


def ask(operator: LocalOperator, payload: dict[str, Any], **options: Any) -> Any:
    """Map over HTTP, at the operator's time, and give status and opened body."""
    key, secret = operator.api_key, b64decode(operator.client_secret)
    now_ms = options.get("now_ms", int(operator.now.timestamp() * 1000))
    nonce, iv = os.urandom(8), os.urandom(12)
    body = AesGcmEnvelope().seal(
        json.dumps(payload).encode(), key=secret, now_ms=now_ms, nonce=nonce, iv=iv
    )
    connection = HTTPConnection(operator.url.removeprefix("http://"), timeout=10)
    headers = {"Authorization": f"Bearer {key}"}
    connection.request("POST", MAP, b64encode(body), headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    if response.status != 200:
        return response.status, json.loads(content)
    opened = AesGcmEnvelope().open(b64decode(content), key=secret, nonce=nonce)
    return 200, json.loads(opened.payload)["body"]


def row(operator: LocalOperator, email: str) -> dict[str, Any]:
    """Map one email."""
    return ask(operator, {"email": [email]})[1]["email"][0]


async def test_it_listens_inside_its_block_alone() -> None:
    """On a free port of this machine; the block can be entered again."""
    operator = LocalOperator()
    for _ in range(2):
        async with operator:
            assert await asyncio.to_thread(ask, operator, {}) is not None
            assert operator.url in repr(operator)
        with pytest.raises(RuntimeError):
            _ = operator.url
    assert repr(operator) == "<LocalOperator UID2 stopped>"


async def test_leaving_a_block_that_was_not_entered_does_nothing() -> None:
    """So that an exit stack may be closed twice."""
    await LocalOperator().__aexit__(None, None, None)


async def test_two_operators_run_beside_each_other() -> None:
    """Each with a port and a store of its own."""
    async with LocalOperator() as one, LocalOperator() as other:
        one.opt_out("a@example.com")

        assert one.url != other.url
        assert "e" in await asyncio.to_thread(row, one, "a@example.com")
        assert "u" in await asyncio.to_thread(row, other, "a@example.com")


async def test_it_starts_in_milliseconds() -> None:
    """Once the world is made; two seconds of CPU are a generous bound."""
    data = OperatorData.sample()
    before = process_time()
    async with LocalOperator(data):
        assert process_time() - before < 2


def test_a_thread_serves_synchronous_code() -> None:
    """Every method works from here, and the thread ends with the block."""
    before = set(threading.enumerate())
    with LocalOperator.in_thread() as operator:
        (started,) = set(threading.enumerate()) - before
        mapped = row(operator, "a@example.com")
        operator.opt_out("a@example.com")
        gone = row(operator, "A@example.com ")
        operator.opt_in("a@example.com")
        back = row(operator, "a@example.com")
        calls = operator.calls
        operator.reset()

    assert started.name == "uid2-operator"
    assert gone == {"e": "optout"}
    assert back == mapped
    assert [call.client for call in calls] == ["everything"] * 3
    assert operator.calls == []
    assert not started.is_alive()


def test_the_thread_ends_when_the_block_fails() -> None:
    """And the error is the block's own."""
    before = set(threading.enumerate())

    with (
        pytest.raises(ZeroDivisionError),
        LocalOperator.in_thread(),
    ):
        raise ZeroDivisionError

    assert set(threading.enumerate()) == before


def test_a_port_that_is_taken_is_an_error() -> None:
    """It is raised where the block is entered, not lost in the thread."""
    with LocalOperator.in_thread() as operator:
        port = int(operator.url.rpartition(":")[2])

        with (
            pytest.raises(OSError, match="address already in use"),
            LocalOperator.in_thread(port=port),
        ):
            pass  # pragma: no cover - the block is not entered


def test_opting_out_takes_any_identity() -> None:
    """A str, an email, a phone or a hash (docs/protocol.md 3)."""
    with LocalOperator.in_thread() as operator:
        operator.opt_out("jane.doe+x@gmail.com")
        operator.opt_out("+15550001234")
        operator.opt_out(Phone("+15550001235"))
        hashed = "tMmiiTI7IaAcPpQPFQ65uMVCWH8av9jw4cwf/F5HVRQ="
        operator.opt_out(EmailHash(hashed))

        payload = {
            "email": ["janedoe@gmail.com", "user@example.com", "b@example.com"],
            "phone": ["+15550001234", "+15550001235", "+15550001236"],
        }
        body = ask(operator, payload)[1]

    for rows in (body["email"], body["phone"]):
        assert ["e" in one for one in rows] == [True, True, False]


@pytest.mark.parametrize("value", ["nobody", "+1", 5])
def test_opting_out_nobody_is_an_error(value: Any) -> None:
    """The message shows no value."""
    operator = LocalOperator()
    for change in (operator.opt_out, operator.opt_in):
        with pytest.raises(InputError) as caught:
            change(value)
        assert "nobody" not in str(caught.value)


def test_the_clock_is_injected_and_can_be_advanced() -> None:
    """It decides on the window of envelopes and on everything else."""
    with LocalOperator.in_thread(clock=lambda: START) as operator:
        before = row(operator, "a@example.com")
        operator.advance(before["r"] - START.timestamp())
        after = row(operator, "a@example.com")
        stale = ask(operator, {}, now_ms=int(START.timestamp() * 1000))

        assert operator.now == START + timedelta(
            seconds=before["r"] - START.timestamp()
        )
    assert after["p"] == before["u"] != after["u"]
    assert stale[1]["message"].startswith("Invalid timestamp")


@pytest.mark.parametrize("seconds", [1e12, -1e12, 1e300, math.inf, math.nan])
def test_the_clock_stays_where_there_are_dates(seconds: float) -> None:
    """Every later call would be a 500."""
    operator = LocalOperator(clock=lambda: START)
    operator.advance(5)
    with pytest.raises(InputError, match="between the years"):
        operator.advance(seconds)

    assert operator.now == START + timedelta(seconds=5)


@pytest.mark.parametrize("times", [0, -1])
def test_a_fault_is_injected_at_least_once(times: int) -> None:
    """Zero would be once, too."""
    with pytest.raises(InputError, match="at least once"):
        LocalOperator().fail_next(Fault(status=503), times)


@pytest.mark.parametrize(
    "fields",
    [
        *({"status": 99}, {"status": 600}, {"cut_after": -1}),
        *({"headers": {"X": "a\nb"}}, {"headers": {"X\r": "a"}}),
        {"status": 429, "retry_after": "1\n2"},
    ],
)
def test_a_fault_can_be_sent(fields: Any) -> None:
    """A client could not read the response."""
    with pytest.raises(InputError):
        Fault(**fields)


def test_the_path_of_a_fault_is_that_of_its_requests() -> None:
    """With or without slashes at its ends."""
    with LocalOperator.in_thread() as operator:
        for path in ("v3/identity/map", "/v3/identity/map/", "//v3/identity/map"):
            operator.fail_next(Fault(status=503, body="{}"), path=path)
            assert ask(operator, {})[0] == 503


async def test_an_operator_is_entered_once_at_a_time() -> None:
    """The second server would take the place of the first, and nothing stops that."""
    operator = LocalOperator()
    async with operator:
        with pytest.raises(RuntimeError, match="already running"):
            await operator.__aenter__()
    async with operator:
        assert operator.url


def test_a_thread_takes_the_arguments_of_the_class() -> None:
    """All of them, with the same defaults."""
    parameters = inspect.signature(LocalOperator).parameters

    assert inspect.signature(LocalOperator.in_thread).parameters == parameters


def test_the_built_in_world_begins_on_the_day_of_the_clock() -> None:
    """A clock far away has keys that hold."""
    far = START + timedelta(days=36_500)
    with LocalOperator.in_thread(clock=lambda: far) as operator:
        assert row(operator, "a@example.com")["r"] > far.timestamp()


def test_a_reset_undoes_the_advance_and_the_opt_outs() -> None:
    """One operator can serve many tests."""
    operator = LocalOperator(OperatorData.load(WORLD), clock=lambda: START)
    operator.opt_out("a@example.com")
    operator.opt_in("gone1.1@example.net")
    operator.advance(5)

    operator.reset()

    with LocalOperator.in_thread(clock=lambda: START):
        assert operator.now == START
    flh = operator._index.first_level_hash(EmailHash("00" * 32))
    assert not operator._index.opt_outs.is_out(flh, EmailHash.identity_type)
    assert len(operator._index.opt_outs._raw_uids) == 12


def test_the_best_key_can_do_everything() -> None:
    """In recorded worlds too, where it stands under another site."""
    for data in (OperatorData.sample(), OperatorData.load(WORLD)):
        operator = LocalOperator(data)

        best = operator.credentials["everything"]
        assert operator.data is data
        assert operator.api_key == best.api_key
        assert operator.client_secret == best.client_secret


def test_it_speaks_for_euid_too() -> None:
    """The scope is that of its data."""
    data = OperatorData.sample(scope=IdentityScope.EUID)
    with LocalOperator.in_thread(data) as operator:
        assert "EUID" in repr(operator)
        assert operator.api_key.startswith("EUID-C-L-")
        assert "u" in row(operator, "a@example.com")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),  # noqa: S104 - read, not bound
        ("::1", "http://[::1]:80"),
        ("::", "http://[::1]:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_the_url_is_one_for_this_machine(host: str, url: str) -> None:
    """An address that stands for all of them cannot be called."""
    assert server._url_of(host, 80) == url


def test_data_can_be_read_without_aiohttp() -> None:
    """The names of the package are loaded on first use."""
    code = (
        "import sys, uid2_async.operator as o\n"
        "o.OperatorData.sample()\n"
        "assert 'aiohttp' not in sys.modules\n"
        "assert {*o.__all__} <= {*dir(o)}\n"
        "assert o.LocalOperator and 'aiohttp' in sys.modules\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code


def test_an_unknown_name_is_no_attribute() -> None:
    """The package has the names that it lists."""
    from uid2_async import operator as package  # noqa: PLC0415 - asked for its names

    with pytest.raises(AttributeError):
        _ = package.nothing
    assert set(package.__all__) <= set(dir(package))


async def test_it_counts_how_many_requests_are_in_flight() -> None:
    """The most of them at once, since the last reset."""
    async with LocalOperator() as operator:
        operator.fail_next(Fault(delay=0.3), times=3)
        await asyncio.gather(*[asyncio.to_thread(ask, operator, {}) for _ in range(3)])
        most = operator.most_in_flight
        operator.reset()

        assert most == 3
        assert operator.most_in_flight == 0
