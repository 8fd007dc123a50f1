"""P1 to P8: what a sealed reply says, and what a caller gives."""

from __future__ import annotations

from typing import Any

from canaries import EMAIL, UID
from fault_bench import Bench, Rows
from fault_server import sealed
from memory_operator import MemoryOperator
from sealed_answers import success, tokens_body
from uid2_async import Email, Phone, Unmapped, UnmappedReason, errors
from uid2_async.bulk import BulkMapper
from uid2_async.models import MappedUID, OptedOut

rows = Rows()


async def says(bench: Bench, payload: bytes, call: Any = None) -> Any:
    """Let an operator seal *payload*, and make a call."""
    async with bench.server(sealed(payload=payload)) as server:
        client = bench.client(server)
        return await (call or bench.generate)(client)


async def is_no_reply(bench: Bench, payload: bytes, call: Any = None) -> str:
    """The reply is refused after one request; give the path that is named."""
    error = await bench.fails(errors.ProtocolError, says(bench, payload, call))
    assert error.attempts == 1
    assert not error.retryable
    return error.path


@rows.add("P1", requests=8)
async def no_json(bench: Bench) -> None:
    """What is no JSON, or no sane JSON, is refused without keeping it."""
    broken = (
        b"",
        b"no JSON",
        b'{"status":"succ',
        b'\xff\xfe{"status":"success"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"status":"success","body":NaN}',
    )
    for payload in broken:
        await is_no_reply(bench, payload)
    # The last of two keys counts, as everywhere else.
    twice = b'{"status":"optout","status":"optout"}'
    assert await says(bench, twice) == OptedOut()


@rows.add("P2", requests=4)
async def status_words(bench: Bench) -> None:
    """Missing, unknown, or optout."""
    assert await is_no_reply(bench, b'{"body":null}') == ""
    unknown = b'{"status":"canary_word"}'
    error = await bench.fails(errors.OperatorError, says(bench, unknown))
    assert (error.status, error.code) == (200, "canary_word")
    assert await says(bench, b'{"status":"optout"}') == OptedOut()
    assert await is_no_reply(bench, b'{"status":"success"}') == "body"


def map_reply(*found: Any) -> bytes:
    """Make a map reply for hashes of emails."""
    return success({"email_hash": list(found)})


async def map_two(client: Any) -> Any:
    """Map two people."""
    return await client.map_identities([EMAIL, f"2.{EMAIL}"])


ROW = {"u": UID, "p": None, "r": 2_000_000_000}


@rows.add("P3", requests=4)
async def misaligned(bench: Bench) -> None:
    """Too few or too many rows are none: nobody gets another's UID."""
    for found in ((), (ROW,), (ROW,) * 3):
        assert await is_no_reply(bench, map_reply(*found), map_two) == "body.email_hash"
    assert len(await says(bench, map_reply(ROW, ROW), map_two)) == 2


@rows.add("P4", requests=1)
async def odd_rows(bench: Bench) -> None:
    """A row says what it says; the others are not hurt."""
    odd = ({}, {"u": UID, "e": "optout"}, {"e": "new"}, ROW | {"more": [1]})

    async def map_four(client: Any) -> Any:
        return await client.map_identities([f"{n}.{EMAIL}" for n in range(4)])

    found = await says(bench, map_reply(*odd), map_four)
    assert found[0] == Unmapped(UnmappedReason.UNKNOWN, None)
    assert found[1] == Unmapped(UnmappedReason.OPTED_OUT)
    assert found[2] == Unmapped(UnmappedReason.UNKNOWN, "new")
    assert isinstance(found[3], MappedUID)


@rows.add("P5", requests=6)
async def wrong_types(bench: Bench) -> None:
    """The place is named, the value is not."""
    for value in ("canary", -1, 10**20, 1.5):
        payload = map_reply(ROW, ROW | {"r": value})
        path = await is_no_reply(bench, payload, map_two)
        assert path == "body.email_hash[1].r"
    for field in ("identity_expires", "refresh_from"):
        body = success(tokens_body(**{field: "canary"}))
        assert await is_no_reply(bench, body) == f"body.{field}"


@rows.add("P6", requests=1)
async def odd_uids(bench: Bench) -> None:
    """A raw UID is opaque: an odd one is its own row's affair."""
    payload = map_reply(ROW | {"u": "short"}, ROW)
    found = await says(bench, payload, map_two)
    assert [row.raw_uid for row in found] == ["short", UID]


@rows.add("P7", requests=(2, 3), within=30.0)
async def large_batch(bench: Bench) -> None:
    """5,000 of the longest emails are split by size, below the operator's 1 MiB."""
    wire = bench.wire(MemoryOperator())
    client = bench.client(wire, send_raw=True)
    people = [f"{n:05d}{'x' * 236}@example.com" for n in range(5_000)]
    async with BulkMapper(client).map(people) as records:
        assert len([record async for record in records]) == 5_000
        assert records.progress.failed == 0
    assert max(len(one.body) for one in wire.sent) < 2**20


ODD = (
    "\ud800@example.com",
    "a\x00b@example.com",
    "\u202ea@example.com",
    "no address",
    "",
    "x" * 10_000_000,
    "+1",
)


@rows.add("P8", requests=(0, 1))
async def odd_identities(bench: Bench) -> None:
    """What cannot be right is reported before anything is sent; the rest is a hash."""
    wire = bench.wire(MemoryOperator())
    client = bench.client(wire)
    found = await client.map_identities([Email(one) for one in ODD])
    assert len(found) == len(ODD)
    for one in ("no address", "", "+1"):
        call = client.generate_token(one)
        await bench.fails(errors.InputError, call)
        assert wire.requests <= 1
    assert found[3] == Unmapped(UnmappedReason.INVALID_IDENTIFIER)
    await bench.fails(errors.InputError, client.generate_token(Phone(EMAIL)))
    await bench.fails(errors.InputError, client.map_identities([EMAIL, 7]))  # type: ignore[list-item]
    await bench.fails(errors.InputError, client.map_identities(EMAIL))
    await bench.fails(errors.InputError, client.opt_out_status([UID] * 5_001))


test_fault = rows.test()
