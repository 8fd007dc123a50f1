"""What hooks are told about identities, regions and the limit of bulk work."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

import pytest

from uid2_async import (
    BulkMapper,
    EmailHash,
    IdentityScope,
    IdentityTokens,
    Phone,
    UID2Client,
    errors,
)
from uid2_async.bulk.private_files import System
from uid2_async.hooks import (
    AttemptFailed,
    CallFinished,
    IdentitiesAnswered,
    LimitChanged,
    Throttled,
)
from uid2_async.operator import Fault, LocalOperator
from uid2_async.testing import ScriptedTransport, retry_at_once

OUT = "gone@example.com"
HASH = EmailHash(sha256(b"hashed@example.com").hexdigest())
PEOPLE = ["a@example.com", HASH, "+12345678901", OUT, "not valid", Phone("+3")]


@pytest.fixture
def events() -> list[Any]:
    """Collect the events of the hook."""
    return []


@pytest.fixture
async def seen(operator: LocalOperator, events: list[Any]) -> AsyncIterator[UID2Client]:
    """Give a client that is observed; one person has opted out."""
    operator.opt_out(OUT)
    async with UID2Client(
        operator.url,
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
        hooks=[events.append],
        retry=retry_at_once(attempts=2),
    ) as opened:
        yield opened


def told(events: list[Any]) -> dict[tuple[str, str, str], int]:
    """Add up the identities by endpoint, kind and result."""
    found = [one for one in events if isinstance(one, IdentitiesAnswered)]
    keys = [(one.endpoint, one.kind, one.result) for one in found]
    assert len(set(keys)) == len(keys)
    return dict(zip(keys, [one.count for one in found], strict=True))


async def test_a_map_is_counted_by_kind_and_result(
    seen: UID2Client, events: list[Any]
) -> None:
    """Hashes with what they are hashes of, and those that stayed here too."""
    await seen.map_identities(PEOPLE)

    path = "/v3/identity/map"
    assert told(events) == {
        (path, "email", "mapped"): 2,
        (path, "email", "optout"): 1,
        (path, "email", "invalid"): 1,
        (path, "phone", "mapped"): 1,
        (path, "phone", "invalid"): 1,
    }


async def test_a_map_of_nothing_valid_is_counted(
    seen: UID2Client, events: list[Any]
) -> None:
    """Although no call is made."""
    await seen.map_identities(["not valid"])

    assert told(events) == {("/v3/identity/map", "email", "invalid"): 1}
    assert len(events) == 1


async def test_the_old_map_is_counted_once_for_both_of_its_calls(
    seen: UID2Client, events: list[Any]
) -> None:
    """One kind at a time."""
    with warnings.catch_warnings(action="ignore"):
        await seen.map_identities_v2(["a@example.com", "+12345678901"])

    path = "/v2/identity/map"
    assert told(events) == {(path, "email", "mapped"): 1, (path, "phone", "mapped"): 1}


async def test_a_failed_map_is_counted_as_error(
    seen: UID2Client, operator: LocalOperator, events: list[Any]
) -> None:
    """Nobody knows what would have become of them."""
    operator.fail_next(Fault(status=503), times=2)

    with pytest.raises(errors.ServerError):
        await seen.map_identities(["a@example.com", "b@example.com"])

    assert told(events) == {("/v3/identity/map", "email", "error"): 2}


async def test_tokens_are_counted(
    seen: UID2Client, operator: LocalOperator, events: list[Any], consent: str | None
) -> None:
    """A publisher sees how many opt out, at login and on refresh."""
    tokens = await seen.generate_token(
        Phone("+12345678901"), tcf_consent_string=consent
    )
    assert isinstance(tokens, IdentityTokens)
    await seen.generate_token(OUT, tcf_consent_string=consent)
    await seen.refresh_token(tokens)
    # Over a kept connection one is confirmed by the next.
    operator.fail_next(Fault(status=400), times=2)
    with pytest.raises(errors.BadRequestError):
        await seen.generate_token("c@example.com", tcf_consent_string=consent)

    assert told(events) == {
        ("/v2/token/generate", "phone", "token"): 1,
        ("/v2/token/generate", "email", "optout"): 1,
        ("/v2/token/generate", "email", "error"): 1,
        ("/v2/token/refresh", "token", "token"): 1,
    }


async def test_missing_consent_is_counted(events: list[Any]) -> None:
    """EUID operators judge the consent string."""
    transport = ScriptedTransport({"status": "insufficient_user_consent"})
    client = transport.client(scope=IdentityScope.EUID, hooks=[events.append])

    await client.generate_token("a@example.com", tcf_consent_string="CP")

    assert told(events) == {("/v2/token/generate", "email", "no_consent"): 1}


async def test_bulk_work_is_counted_batch_by_batch(
    seen: UID2Client, events: list[Any]
) -> None:
    """Each identity once, whatever the number of its rows; the limit is told too."""
    people = [*(f"p{n}@example.com" for n in range(40)), OUT, OUT, "+12345678901"]
    async with BulkMapper(seen, batch_size=10).map(people) as records:
        assert len([one async for one in records]) == 43

    counts: dict[tuple[str, str], int] = {}
    for one in events:
        if isinstance(one, IdentitiesAnswered):
            key = (one.kind, one.result)
            counts[key] = counts.get(key, 0) + one.count
    assert counts == {
        ("email", "mapped"): 40,
        ("email", "optout"): 1,
        ("phone", "mapped"): 1,
    }
    limits = [one.limit for one in events if isinstance(one, LimitChanged)]
    assert limits[0] == 4
    assert all(one != two for one, two in pairwise(limits))


async def test_bulk_work_tells_of_throttling(
    seen: UID2Client, operator: LocalOperator, events: list[Any]
) -> None:
    """For how long the gate is shut, and that the limit was halved."""
    operator.fail_next(Fault(status=429))
    mapper = BulkMapper(seen, _system=System(random=lambda: 0.0))
    async with mapper.map(["a@example.com"]) as records:
        assert len([one async for one in records]) == 1

    waited = [one.delay for one in events if isinstance(one, Throttled)]
    assert waited == [pytest.approx(0.25)]
    assert [one.limit for one in events if isinstance(one, LimitChanged)] == [4, 2]


async def test_identities_that_bulk_work_gives_up_are_counted(
    seen: UID2Client, operator: LocalOperator, events: list[Any]
) -> None:
    """A batch that the operator refuses for good."""
    operator.fail_next(Fault(status=400))
    people = ["a@example.com", "b@example.com", "+12345678901"]
    async with BulkMapper(seen).map(people) as records:
        assert len([one async for one in records]) == 3

    path = "/v3/identity/map"
    assert told(events) == {(path, "email", "error"): 2, (path, "phone", "error"): 1}


async def test_events_name_the_region(
    operator: LocalOperator, events: list[Any], consent: str | None
) -> None:
    """Of each failed attempt and of the last one; the error does too."""
    dead = "http://127.0.0.1:9"
    async with UID2Client(
        [dead, operator.url],
        api_key=operator.api_key,
        client_secret=operator.client_secret,
        scope=operator.data.scope,
        hooks=[events.append],
        retry=retry_at_once(attempts=2),
    ) as client:
        await client.generate_token("a@example.com", tcf_consent_string=consent)
        operator.fail_next(Fault(status=401), times=2)
        with pytest.raises(errors.AuthError) as caught:
            await client.generate_token("a@example.com", tcf_consent_string=consent)

    failed = [one.region for one in events if isinstance(one, AttemptFailed)]
    finished = [one.region for one in events if isinstance(one, CallFinished)]
    assert failed == [dead, operator.url, operator.url]
    assert finished == [operator.url, operator.url]
    assert caught.value.region == operator.url
