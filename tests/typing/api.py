"""The public types as a user's type checker sees them: never run, only checked."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

from uid2_async import (
    AesGcmEnvelope,
    Bucket,
    Email,
    Envelope,
    Hook,
    Identity,
    IdentityMap,
    IdentityTokens,
    InsufficientConsent,
    KeyRing,
    MappedUID,
    OptedOut,
    OptOutStatus,
    RetryPolicy,
    SessionPool,
    Transport,
    UID2Client,
    Unmapped,
)
from uid2_async.hooks import Event
from uid2_async.operator import LocalOperator


def hook(event: Event) -> None:
    """Any function of an event is a hook."""


seam: Hook = hook
envelope: Envelope = AesGcmEnvelope()
transport: Transport = SessionPool("https://operator.example")


async def every_call(client: UID2Client, tokens: IdentityTokens) -> None:
    """Each method has the type that the documentation gives."""
    assert_type(
        await client.generate_token("user@example.com"),
        IdentityTokens | OptedOut | InsufficientConsent,
    )
    assert_type(await client.refresh_token(tokens), IdentityTokens | OptedOut)
    assert_type(await client.validate_token(Email("x"), "token"), bool)
    mixed: list[Identity | str] = [Email("x"), "+12345678901"]
    found = await client.map_identities(mixed)
    assert_type(found, IdentityMap)
    assert_type(found["x"], MappedUID | Unmapped)
    assert_type(found.rows, tuple[MappedUID | Unmapped, ...])
    await client.map_identities(["only", "texts"])
    await client.map_identities([Email("only identities")])
    assert_type(
        await client.identity_buckets(datetime.now().astimezone()), list[Bucket]
    )
    assert_type(await client.opt_out_status(["uid"]), OptOutStatus)
    assert_type(await client.fetch_sharing_keys(), KeyRing)
    assert_type(client.with_options(retry=RetryPolicy.never()), UID2Client)


async def blocks() -> None:
    """What is opened by a block has its own type inside."""
    async with UID2Client.from_env() as client:
        assert_type(client, UID2Client)
    async with LocalOperator() as operator:
        assert_type(operator, LocalOperator)
    with LocalOperator.in_thread() as operator:
        assert_type(operator, LocalOperator)
