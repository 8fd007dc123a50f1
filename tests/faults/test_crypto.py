"""C1 to C13: what a reply's seal can be, and a secret."""

from __future__ import annotations

import asyncio
import os
import pickle
from typing import Any

from canaries import API_KEY, CLIENT_SECRET, KEY
from fault_bench import Bench, Rows
from fault_server import Exchange, Seen, refuse, sealed
from memory_operator import MemoryOperator
from sealed_answers import held_tokens, seal, success, tokens_body
from uid2_async import AesGcmEnvelope, UID2Client, errors
from uid2_async._private import Secret
from uid2_async.hooks import ReplyMismatch
from uid2_async.operator.envelope import encrypt_reply
from uid2_async.protocol import base64

rows = Rows()
NONCE = b"8 bytes."
ENVELOPE = AesGcmEnvelope()


async def is_not_opened(
    bench: Bench, *faults: Any, requests: int = 2
) -> errors.EnvelopeError:
    """The reply is no answer; the error is the same for every cause."""
    async with bench.server(*faults) as server:
        client = bench.client(server)
        error = await bench.fails(errors.EnvelopeError, bench.generate(client))
        assert len(server.requests) == error.attempts == requests
    assert error.message == errors.EnvelopeError().message
    return error


def refuses(body: bytes) -> None:
    """The envelope is refused with the one message, and without another error."""
    try:
        ENVELOPE.open(body, key=KEY, nonce=NONCE)
    except errors.EnvelopeError as error:
        caught = error
    else:
        raise AssertionError("it was opened")
    assert caught.message == errors.EnvelopeError().message
    assert caught.__context__ is None


def small_reply() -> bytes:
    """Seal a small reply."""
    return encrypt_reply(
        b'{"status":"success"}', key=KEY, now_ms=1, nonce=NONCE, iv=os.urandom(12)
    )


@rows.add("C1", requests=8)
async def no_base64(bench: Bench) -> None:
    """White space and the URL alphabet are no base64 here."""

    def spoil(old: bytes, new: bytes) -> Any:
        async def step(exchange: Exchange) -> None:
            body = exchange.sealed()
            while old not in body:
                body = exchange.sealed()
            await exchange.answer(body.replace(old, new))

        return step

    await is_not_opened(bench, refuse("200 OK", body=b"!!! not base64"))
    await is_not_opened(bench, spoil(b"A", b"\nA"))
    await is_not_opened(bench, spoil(b"+", b"-"))
    await is_not_opened(bench, spoil(b"/", b"_"))


@rows.add("C2")
async def short(bench: Bench) -> None:
    """Every length up to the shortest possible one, and a tag over too little."""
    for length in range(45):
        refuses(os.urandom(length))
    whole = encrypt_reply(b"", key=KEY, now_ms=1, nonce=NONCE, iv=os.urandom(12))
    assert ENVELOPE.open(whole, key=KEY, nonce=NONCE).payload == b""


@rows.add("C3")
async def flipped(bench: Bench) -> None:
    """Every single bit of a reply counts."""
    whole = small_reply()
    for bit in range(len(whole) * 8):
        body = bytearray(whole)
        body[bit // 8] ^= 1 << bit % 8
        refuses(bytes(body))


@rows.add("C4")
async def cut(bench: Bench) -> None:
    """No beginning of a reply is a reply."""
    whole = small_reply()
    for length in range(len(whole)):
        refuses(whole[:length])


@rows.add("C5", requests=2)
async def another_key(bench: Bench) -> None:
    """Sealed with another key: the hint names what it may be."""
    error = await is_not_opened(bench, sealed(key=bytes(32)))
    assert "secret" in error.hint
    assert "proxy" in error.hint


@rows.add("C6", requests=2)
async def swapped(bench: Bench) -> None:
    """Two replies are swapped: both calls fail at once, and both are reported."""
    waiting: list[Exchange] = []
    both = asyncio.Event()

    async def swap(exchange: Exchange) -> None:
        waiting.append(exchange)
        if len(waiting) == 2:
            both.set()
        await both.wait()
        other = waiting[waiting[0] is exchange]
        await exchange.answer(other.sealed())

    async with bench.server(swap) as server:
        client = bench.client(server)
        calls = [bench.generate(client) for _ in range(2)]
        found = await asyncio.gather(
            *(bench.fails(errors.EnvelopeError, one) for one in calls)
        )
        assert all(error.foreign_nonce and error.attempts == 1 for error in found)
        forged = [one for one in bench.events if isinstance(one, ReplyMismatch)]
        assert len(forged) == 2
        # What they came over is closed, and not used again.
        assert client._transport._pooled is None


@rows.add("C7", requests=3)
async def replayed(bench: Bench) -> None:
    """An earlier reply of one's own is no reply to another request, asked twice."""
    first: list[Seen] = []

    async def replay(exchange: Exchange) -> None:
        first.append(exchange.request)
        await exchange.answer(seal(first[0].path, first[0].body))

    async with bench.server(replay) as server:
        client = bench.client(server)
        await bench.generate(client)
        error = await bench.fails(errors.EnvelopeError, bench.generate(client))
        assert error.foreign_nonce
        assert len(server.requests) == 3


@rows.add("C8", requests=2)
async def hour_off(bench: Bench) -> None:
    """The right nonce with a time that cannot be: never sent again."""
    for off_ms in (-3_600_000, 3_600_000):
        error = await is_not_opened(bench, sealed(off_ms=off_ms), requests=1)
        assert error.untimely


@rows.add("C9", requests=4)
async def downgraded(bench: Bench) -> None:
    """JSON in the clear is not taken, nor for a refresh token that has a key."""
    await is_not_opened(bench, refuse("200 OK", body=success(tokens_body())))
    async with bench.server(refuse("200 OK", body=success(tokens_body()))) as server:
        held = held_tokens()
        assert len(held.refresh_token) == 388
        call = bench.client(server).refresh_token(held)
        await bench.fails(errors.EnvelopeError, call)
        assert len(server.requests) == 2


@rows.add("C10", requests=4)
async def no_news(bench: Bench) -> None:
    """A refresh reply that repeats what is held, or has expired, is an old one."""
    held = held_tokens()
    new = {"advertising_token": "another", "refresh_token": "another"}
    stale = (
        tokens_body(refresh_token="another"),
        tokens_body(advertising_token="another", refresh_token=held.refresh_token),
        tokens_body(**new, identity_expires=1),
    )
    for body in stale:
        async with bench.server(sealed(payload=success(body))) as server:
            call = bench.client(server).refresh_token(held)
            error = await bench.fails(errors.ProtocolError, call)
            assert error.attempts == 1
    # A life that is shorter than before is the operator's affair.
    short_lived = tokens_body(**new, identity_expires=held_tokens_expire() - 1_000)
    async with bench.server(sealed(payload=success(short_lived))) as server:
        await bench.client(server).refresh_token(held)


def held_tokens_expire() -> int:
    """Tell when the held tokens end, in ms."""
    return tokens_body()["identity_expires"]


@rows.add("C11", virtual=True, within=60.0)
async def repeated_randomness(bench: Bench) -> None:
    """Where randomness repeats itself, the guard over all rows says so."""
    wire = MemoryOperator()
    client = bench.client(wire)
    client._random_bytes = bytes
    await bench.generate(client)
    await bench.generate(client)
    assert len(wire.ivs) == 2
    assert len(set(wire.ivs)) == 1
    watched = Bench("C11")
    watched.wire(wire)
    try:
        watched._check_envelopes()
    except AssertionError:
        pass
    else:
        raise AssertionError("the guard is blind")
    fresh = MemoryOperator()
    honest = bench.client(bench.wire(fresh))
    for _ in range(200):
        await bench.generate(honest)


@rows.add("C12")
async def bad_secret(bench: Bench) -> None:
    """An invalid secret is rejected before anything else, and not shown."""
    secrets = (
        CLIENT_SECRET + "\n",
        CLIENT_SECRET[:-2],
        f'"{CLIENT_SECRET}"',
        base64.encode_text(KEY[:31]),
        base64.encode_text(KEY + b"!"),
        "canary",
        "",
    )
    keys = ("", "canary key", "canary\r\nX: y", "canaryé")
    wrong = [(API_KEY, one) for one in secrets] + [(one, CLIENT_SECRET) for one in keys]
    for api_key, secret in wrong:
        try:
            UID2Client("https://x", api_key=api_key, client_secret=secret)
        except errors.ConfigError as error:
            bench.errors.append(error)
            assert "canary" not in str(error)  # noqa: PT017 - several of them
    assert len(bench.errors) == len(wrong)


@rows.add("C13")
async def pickled(bench: Bench) -> None:
    """What holds secrets goes into no pickle, and so to no queue or cache."""
    client = bench.client("https://x")
    for holder in (client, client._transport, Secret("canary")):
        try:
            pickle.dumps([holder])
        except TypeError as error:
            bench.errors.append(error)
    assert len(bench.errors) == 3


test_fault = rows.test()
