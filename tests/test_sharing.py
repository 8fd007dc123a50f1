"""Sharing: raw UIDs into tokens and back, with the keys of key/sharing."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from msgspec import structs

from uid2_async import (
    DecryptedToken,
    IdentityScope,
    KeyRing,
    KeyStore,
    MappedUID,
    SharingClient,
    TokenFailure,
    UID2Client,
    errors,
)
from uid2_async.models import IdentityType
from uid2_async.operator import LocalOperator
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.token_codec import open_token

UID2, EUID = IdentityScope
EMAIL, PHONE = IdentityType
MASTERS, OWN, OTHER = 9_999_999, 700, 701

NOW = datetime(2026, 1, 1, 12, 0, 0, 789_000, tzinfo=UTC)
NOW_S = int(NOW.timestamp())
V2_UID = base64.b64encode(bytes(32)).decode()


def make_key(number: int, keyset: int | None) -> Key:
    """Make a key that holds now."""
    return Key(
        id=number,
        secret=bytes([number]) * 32,
        created=0,
        activates=NOW_S - 10,
        expires=NOW_S + 86_400,
        keyset_id=keyset,
    )


RING = KeyRing(
    keys={
        key.id: key
        for key in (make_key(1, MASTERS), make_key(2, OWN), make_key(3, OTHER))
    },
    caller_site_id=124,
    master_keyset_id=MASTERS,
    default_keyset_id=OWN,
    token_expiry_seconds=3600,
    max_sharing_lifetime_seconds=3610,
)


def client_of(ring: KeyRing, **later: int) -> SharingClient:
    """Make a client of *ring* whose clock is *later* than NOW."""
    return SharingClient(ring, clock=lambda: NOW + timedelta(**later))


def make_uid(
    version: int, identity_type: IdentityType, scope: IdentityScope = UID2
) -> str:
    """Make a raw UID of 33 bytes; of version 4 the one that production makes."""
    kind = scope.bit << 4 | identity_type.bit << 2 | (0xA0 if version == 4 else 0)
    return base64.b64encode(bytes([kind]) + bytes(32)).decode()


@pytest.mark.parametrize("scope", IdentityScope)
@pytest.mark.parametrize("identity_type", IdentityType)
@pytest.mark.parametrize("version", [3, 4])
def test_what_is_shared_comes_back(
    scope: IdentityScope, identity_type: IdentityType, version: int
) -> None:
    """With site, times to the millisecond, and the type that the raw UID tells."""
    client = client_of(attrs.evolve(RING, identity_scope=scope))
    uid = make_uid(version, identity_type, scope)

    found = client.decrypt(client.encrypt(uid))

    assert found == DecryptedToken(
        raw_uid=uid,
        site_id=124,
        established_ms=NOW_S * 1000 + 789,
        created_ms=NOW_S * 1000 + 789,
        expires_ms=NOW_S * 1000 + 789 + 3_600_000,
        identity_type=identity_type,
        scope=scope,
        version=4,
        client_side_generated=False,
    )
    assert found.created == found.established == NOW
    assert found.expires == NOW + timedelta(hours=1)
    assert uid not in repr(found)


@pytest.mark.parametrize("given", [None, EMAIL, PHONE])
def test_a_bare_hash_is_of_the_type_that_is_given(given: IdentityType | None) -> None:
    """32 bytes do not say; by default they count as an email's."""
    client = client_of(RING)

    found = client.decrypt(client.encrypt(V2_UID, identity_type=given))

    assert found.raw_uid == V2_UID
    assert found.identity_type is (given or EMAIL)


def test_any_permitted_keyset_seals() -> None:
    """The default one, or the one that is named."""
    client = client_of(RING)

    tokens = [client.encrypt(V2_UID), client.encrypt(V2_UID, keyset_id=OTHER)]

    opened = [open_token(token, RING.key) for token in tokens]
    assert [one.site_key_id for one in opened] == [2, 3]
    assert tokens[0] != client.encrypt(V2_UID)


@pytest.mark.parametrize(
    ("ring", "keyset", "reason"),
    [
        (RING, 999, TokenFailure.NOT_AUTHORIZED_FOR_KEY),
        (
            attrs.evolve(RING, default_keyset_id=None),
            None,
            TokenFailure.NOT_AUTHORIZED_FOR_KEY,
        ),
        (
            attrs.evolve(RING, master_keyset_id=None),
            OWN,
            TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY,
        ),
        (
            attrs.evolve(RING, caller_site_id=None),
            OWN,
            TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY,
        ),
    ],
)
def test_without_a_key_to_seal_nothing_is_made(
    ring: KeyRing, keyset: int | None, reason: TokenFailure
) -> None:
    """One by one or in bulk: it concerns all rows, and so it is raised."""
    client = client_of(ring)

    with pytest.raises(errors.TokenError) as caught:
        client.encrypt(V2_UID, keyset_id=keyset)
    assert caught.value.reason is reason
    with pytest.raises(errors.TokenError) as caught:
        client.encrypt_many([V2_UID], keyset_id=keyset)
    assert caught.value.reason is reason


@pytest.mark.parametrize("uid", ["", "canary", V2_UID[:-4], None, 7, b"x" * 44])
def test_what_is_no_raw_uid_is_not_shared(uid: Any) -> None:
    """It is the caller's mistake, and its value is not shown."""
    with pytest.raises(errors.InputError, match=r"raw.(UID|uid)") as caught:
        client_of(RING).encrypt(uid)

    assert "canary" not in str(caught.value)


def test_a_type_that_contradicts_the_raw_uid_is_refused() -> None:
    """The raw UID's own byte is right."""
    with pytest.raises(errors.InputError, match="identity_type"):
        client_of(RING).encrypt(make_uid(4, PHONE), identity_type=EMAIL)


@pytest.mark.parametrize(("ours", "theirs"), [(UID2, EUID), (EUID, UID2)])
def test_the_other_scope_is_not_shared(
    ours: IdentityScope, theirs: IdentityScope
) -> None:
    """A UID2 key does not seal an EUID, nor the reverse."""
    client = client_of(attrs.evolve(RING, identity_scope=ours))

    with pytest.raises(errors.TokenError) as caught:
        client.encrypt(make_uid(3, EMAIL, theirs))

    assert caught.value.reason is TokenFailure.INVALID_IDENTITY_SCOPE


def test_bulk_gives_one_answer_for_each_row() -> None:
    """Tokens and failures stand where their raw UIDs stood."""
    client = client_of(RING)
    uids: list[Any] = [V2_UID, "no", make_uid(4, PHONE), make_uid(3, EMAIL, EUID), None]

    rows = client.encrypt_many(uids)

    assert rows[1] is TokenFailure.INVALID_PAYLOAD
    assert rows[3] is TokenFailure.INVALID_IDENTITY_SCOPE
    assert rows[4] is TokenFailure.INVALID_PAYLOAD
    found = client.decrypt_many(rows)
    assert [isinstance(one, DecryptedToken) for one in found] == [1, 0, 1, 0, 0]
    assert isinstance(found[0], DecryptedToken)
    assert found[0].raw_uid == V2_UID
    assert client.encrypt_many([]) == client.decrypt_many([]) == []


def test_no_iv_is_used_twice() -> None:
    """Each token has two of its own."""
    token_bytes = [
        base64.urlsafe_b64decode(token + "==")
        for token in client_of(RING).encrypt_many([V2_UID] * 200)
    ]

    assert len({data[6:18] for data in token_bytes}) == 200


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ({"hours": 1}, None),
        ({"hours": 1, "milliseconds": 1}, TokenFailure.EXPIRED_TOKEN),
        ({"seconds": -1801}, TokenFailure.INVALID_TOKEN_LIFETIME),
    ],
)
def test_a_token_is_judged_by_the_clock(
    later: dict[str, int], reason: TokenFailure | None
) -> None:
    """Expired, or made too far in the future (docs/protocol.md 6.6)."""
    token = client_of(RING).encrypt(V2_UID)
    client = client_of(RING, **later)

    if reason is None:
        assert client.decrypt(token).raw_uid == V2_UID
        return
    assert client.decrypt_many([token]) == [reason]
    with pytest.raises(errors.TokenError) as caught:
        client.decrypt(token)
    assert caught.value.reason is reason


def test_a_shared_token_must_not_live_too_long() -> None:
    """The sharing limit counts, not that of the bid stream."""
    strict = attrs.evolve(
        RING, max_sharing_lifetime_seconds=3599, max_bidstream_lifetime_seconds=9999
    )
    token = client_of(RING).encrypt(V2_UID)

    assert client_of(strict).decrypt_many([token]) == [
        TokenFailure.INVALID_TOKEN_LIFETIME
    ]


def test_a_str_is_no_list() -> None:
    """Its characters are not meant."""
    client = client_of(RING)
    for call in (client.encrypt_many, client.decrypt_many):
        with pytest.raises(errors.InputError, match="must be a list"):
            call(V2_UID)


def test_expired_keys_are_no_keys() -> None:
    """Whatever is asked, bulk included."""
    client = client_of(RING, days=1)
    calls = (client.encrypt, client.decrypt, client.encrypt_many, client.decrypt_many)
    for call in calls:
        argument: Any = [V2_UID] if call in calls[2:] else V2_UID
        with pytest.raises(errors.KeysUnavailableError):
            call(argument)


def test_a_store_that_is_empty_has_no_keys() -> None:
    """The store says so, and the client shows it."""

    async def fetch() -> KeyRing:
        raise AssertionError

    client = SharingClient(KeyStore(fetch))

    with pytest.raises(errors.KeysUnavailableError, match="loaded"):
        client.decrypt("A4")
    assert repr(client) == "<SharingClient <KeyStore not ready age=infs>>"


def test_the_systems_clock_is_the_default() -> None:
    """Nothing but the keys has to be given."""
    key_times = {"activates": 0, "expires": 2**40}
    ring = attrs.evolve(
        RING, keys={k: structs.replace(v, **key_times) for k, v in RING.keys.items()}
    )
    client = SharingClient(ring)

    found = client.decrypt(client.encrypt(V2_UID))

    assert abs(found.established - datetime.now(UTC)) < timedelta(minutes=1)


async def test_partners_share_over_an_operator(operator: LocalOperator) -> None:
    """The sharer's token is opened by whom it has permitted, and by no other."""

    def connect(name: str) -> UID2Client:
        one = operator.credentials[name]
        return UID2Client(
            operator.url,
            api_key=one.api_key,
            client_secret=one.client_secret,
            scope=operator.data.scope,
            clock=lambda: operator.now,
        )

    async with (
        connect("sharer") as sharer,
        connect("everything") as partner,
        connect("advertiser") as mapper,
    ):
        mapped = (await mapper.map_identities(["user@example.com"]))[0]
        assert isinstance(mapped, MappedUID)
        rings = await asyncio.gather(
            sharer.fetch_sharing_keys(), partner.fetch_sharing_keys()
        )
    ours, theirs = (SharingClient(ring, clock=lambda: operator.now) for ring in rings)

    token = ours.encrypt(mapped.raw_uid)

    assert theirs.decrypt(token).raw_uid == mapped.raw_uid
    assert theirs.decrypt(token).site_id == rings[0].caller_site_id
