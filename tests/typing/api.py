"""The public types as a user's type checker sees them: never run, only checked."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

from uid2_async import (
    AesGcmEnvelope,
    BidstreamClient,
    BlockingClient,
    Bucket,
    ClientSideClient,
    DecryptedToken,
    Email,
    Envelope,
    Freshness,
    Hook,
    Identity,
    IdentityMap,
    IdentityTokens,
    InsufficientConsent,
    JobSummary,
    KeyRing,
    KeyStore,
    MapOptions,
    MappedUID,
    MappingState,
    OptedOut,
    OptOutStatus,
    RetryPolicy,
    SessionPool,
    SharingClient,
    TokenFailure,
    TokenRefresher,
    TokenState,
    Transport,
    UID2Client,
    Unmapped,
    map_file,
)
from uid2_async.hooks import Event
from uid2_async.operator import LocalOperator
from uid2_async.publisher import from_cookie, from_session, to_cookie, to_session


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
    assert_type(found[0], MappedUID | Unmapped)
    assert_type(found[:1], tuple[MappedUID | Unmapped, ...])
    assert_type(found.get("x"), MappedUID | Unmapped | None)
    assert_type(list(found), list[MappedUID | Unmapped])
    for identity, row in found.items():
        assert_type(identity, Identity | str)
        assert_type(row.raw_uid, str | None)
        assert_type(row.refresh_from, datetime | None)
    await client.map_identities(["only", "texts"])
    await client.map_identities([Email("only identities")])
    assert_type(
        await client.identity_buckets(datetime.now().astimezone()), list[Bucket]
    )
    assert_type(await client.opt_out_status(["uid"]), OptOutStatus)
    assert_type(await client.fetch_sharing_keys(), KeyRing)
    assert_type(client.with_options(retry=RetryPolicy.never()), UID2Client)


def every_blocking_call(uid2: BlockingClient, tokens: IdentityTokens) -> None:
    """The same types, without await."""
    with BlockingClient.from_env() as opened:
        assert_type(opened, BlockingClient)
    BlockingClient("https://x.example", api_key="k", client_secret="s", timeout=3.0)
    assert_type(
        uid2.generate_token("user@example.com", timeout=3.0),
        IdentityTokens | OptedOut | InsufficientConsent,
    )
    assert_type(uid2.map_identities(["only", "texts"]), IdentityMap)
    assert_type(uid2.with_options(timeout=3.0), BlockingClient)
    assert_type(uid2.token_refresher(jitter=1.0).ensure_fresh(tokens), Freshness)
    with uid2.bidstream_keys(refresh_every=60.0) as keys:
        assert_type(keys.ring, KeyRing)
        BidstreamClient(keys)


async def jobs(client: UID2Client) -> None:
    """One object has all options of a job, and one name purges a person."""
    options = MapOptions(column="mail", type="email", concurrency=10, force=True)
    assert_type(
        await map_file("in.csv", "out.csv", client=client, options=options), JobSummary
    )
    async with MappingState("people.db") as state:
        assert_type(await state.purge("user@example.com"), int)
        await state.purge([Email("user@example.com"), "+12345678901"])
        found = await state.get("user@example.com")
        if found is not None:
            assert_type(found.refresh_from, datetime | None)
            assert_type(found.result, MappedUID | Unmapped)


async def publishing(client: UID2Client, tokens: IdentityTokens) -> None:
    """What a publisher calls between login and logout."""
    async with TokenRefresher(client) as refresher:
        assert_type(refresher, TokenRefresher)
        found = await refresher.ensure_fresh(tokens)
    assert_type(found, Freshness)
    assert_type(found.tokens, IdentityTokens | None)
    assert_type(found.state, TokenState)
    assert_type(found.advertising_token, str | None)
    assert_type(from_session(to_session(tokens)), IdentityTokens | OptedOut | None)
    assert_type(from_cookie(to_cookie(OptedOut())), IdentityTokens | OptedOut | None)


async def blocks() -> None:
    """What is opened by a block has its own type inside."""
    async with UID2Client.from_env() as client:
        assert_type(client, UID2Client)
    async with LocalOperator() as operator:
        assert_type(operator, LocalOperator)
    with LocalOperator.in_thread() as operator:
        assert_type(operator, LocalOperator)


async def keys_and_tokens(client: UID2Client, page: ClientSideClient) -> None:
    """Bulk answers have a failure in place of an exception."""
    async with KeyStore(client.fetch_bidstream_keys) as store:
        assert_type(store, KeyStore)
        assert_type(store.ring, KeyRing)
        assert_type(await store.ensure_fresh(60), KeyRing)
        bidstream = BidstreamClient(store)
    assert_type(bidstream.decrypt("token", "example.com"), DecryptedToken)
    assert_type(bidstream.decrypt_many(["token"]), list[DecryptedToken | TokenFailure])
    sharing = SharingClient(await client.fetch_sharing_keys())
    assert_type(sharing.encrypt("uid"), str)
    assert_type(sharing.encrypt_many(["uid"]), list[str | TokenFailure])
    assert_type(await page.generate_token("a@b.com"), IdentityTokens | OptedOut)
