"""Tokens against the official SDK: each opens what the other has made."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis.strategies import binary, sampled_from

from tokens_by_ring import encrypt
from uid2_async.errors import TokenFailure
from uid2_async.models import IdentityScope, IdentityType, datetime_from_ms
from uid2_async.protocol.keyring import KeyRing
from uid2_async.protocol.token_codec import AdvertisingToken, open_token, seal_token
from uid2_async.protocol.token_rules import (
    ClientType,
    DecryptedToken,
    try_decrypt,
)

pytest.importorskip("uid2_client")
sdk = pytest.importorskip("uid2_client.encryption")
generator = pytest.importorskip("uid2_client.uid2_token_generator")
refresh_keys_util = pytest.importorskip("uid2_client.refresh_keys_util")

pytestmark = pytest.mark.differential

UID2, EUID = IdentityScope
EMAIL, PHONE = IdentityType

# The SDK keeps whole seconds.
NOW_MS = 1_700_000_000_000
NOW = datetime_from_ms(NOW_MS)
SITE_ID = 124
SDK_CLIENTS = {
    ClientType.BIDSTREAM: sdk.ClientType.BIDSTREAM,
    ClientType.SHARING: sdk.ClientType.SHARING,
}
SDK_VERSIONS = {
    2: sdk.AdvertisingTokenVersion.ADVERTISING_TOKEN_V2,
    3: sdk.AdvertisingTokenVersion.ADVERTISING_TOKEN_V3,
    4: sdk.AdvertisingTokenVersion.ADVERTISING_TOKEN_V4,
}
GCM_IVS: dict[str, Any] = {"master_iv": b"master iv 12", "site_iv": b"site iv 12 b"}
CBC_IVS: dict[str, Any] = {
    "master_iv": b"master iv of CBC",
    "site_iv": b"site iv for CBC!",
}


def make_reply(scope: IdentityScope, **more: Any) -> dict[str, Any]:
    """Make the body of key/sharing, with a spare keyset and every limit."""
    keys = [
        {
            "id": number,
            "keyset_id": keyset,
            "created": 1_600_000_000,
            "activates": activates,
            "expires": 1_800_000_000,
            "secret": b64encode(bytes([number]) * 32).decode(),
        }
        for number, keyset, activates in [
            (64, 9_999_999, 1_600_000_100),
            (65, 700, 1_600_000_100),
            (66, 700, 1_650_000_000),
            (67, 701, 1_600_000_100),
        ]
    ]
    return {
        "caller_site_id": SITE_ID,
        "master_keyset_id": 9_999_999,
        "default_keyset_id": 700,
        "token_expiry_seconds": "86400",
        "max_sharing_lifetime_seconds": 86_410,
        "max_bidstream_lifetime_seconds": 86_410,
        "identity_scope": scope.value,
        "allow_clock_skew_seconds": 1800,
        "keys": keys,
    } | more


def load(scope: IdentityScope, **more: Any) -> tuple[KeyRing, Any]:
    """Read the same reply with both."""
    body = make_reply(scope, **more)
    ours = KeyRing.from_json(json.dumps({"body": body, "status": "success"}))
    return ours, refresh_keys_util.parse_keys_json(body).keys


RINGS = {scope: load(scope) for scope in IdentityScope}


def make_uid(
    version: int, scope: IdentityScope, identity_type: IdentityType, tail: bytes
) -> str:
    """Make a raw UID of 32 or 33 bytes."""
    if version == 2:
        return b64encode(tail).decode()
    more = 0xA0 if version == 4 else 0
    kind = scope.bit << 4 | identity_type.bit << 2 | more
    return b64encode(bytes([kind]) + tail).decode()


def sdk_decrypt(token: str, keys: Any, client: ClientType, now: datetime) -> Any:
    """Open with the SDK."""
    return sdk.decrypt_token(token, keys, "example.com", SDK_CLIENTS[client], now)


def assert_same(ours: DecryptedToken, theirs: Any) -> None:
    """Compare every field that both know."""
    assert theirs.status is sdk.DecryptionStatus.SUCCESS
    assert theirs.uid == ours.raw_uid
    # The SDK reads it without a sign; only a tampered v2 token has a negative one.
    assert theirs.site_id == ours.site_id % 2**32
    assert theirs.established == ours.established
    assert theirs.expiry == ours.expires
    assert theirs.identity_scope.name == ours.scope.name
    assert theirs.advertising_token_version is SDK_VERSIONS[ours.version]
    if ours.version == 2:
        assert theirs.identity_type is ours.identity_type is None
    else:
        assert ours.identity_type is not None
        assert theirs.identity_type.name.upper() == ours.identity_type.name


def sdk_make(
    version: int, uid: str, scope: IdentityScope, expires: datetime = NOW
) -> str:
    """Make a token with the SDK's generator, which its own tests use."""
    _, keys = RINGS[scope]
    make = {
        2: generator.UID2TokenGenerator.generate_uid2_token_v2,
        3: generator.UID2TokenGenerator.generate_uid2_token_v3,
        4: generator.UID2TokenGenerator.generate_uid2_token_v4,
    }[version]
    params = generator.Params(
        expiry=expires + timedelta(hours=1),
        identity_scope=scope.bit,
        token_generated=NOW,
        identity_established=NOW - timedelta(days=2),
    )
    return str(make(uid, keys.get(64), SITE_ID, keys.get(66), params))


@pytest.mark.parametrize("scope", IdentityScope)
@pytest.mark.parametrize("identity_type", IdentityType)
@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("client", ClientType)
def test_we_open_what_the_sdk_makes(
    scope: IdentityScope, identity_type: IdentityType, version: int, client: ClientType
) -> None:
    """All versions; v3 raw UIDs, of which the SDK recognizes the type."""
    ring, keys = RINGS[scope]
    uid = make_uid(3, scope, identity_type, bytes(range(32)))
    token = sdk_make(version, uid, scope)
    found = try_decrypt(token, ring, now_ms=NOW_MS, client=client)
    assert isinstance(found, DecryptedToken)
    assert found.raw_uid == uid
    assert found.identity_type is (None if version == 2 else identity_type)
    assert_same(found, sdk_decrypt(token, keys, client, NOW))


@pytest.mark.parametrize("scope", IdentityScope)
@pytest.mark.parametrize("identity_type", IdentityType)
@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("uid_version", [2, 3, 4])
@pytest.mark.parametrize("client", ClientType)
def test_the_sdk_opens_what_we_make(
    scope: IdentityScope,
    identity_type: IdentityType,
    version: int,
    uid_version: int,
    client: ClientType,
) -> None:
    """All versions of tokens around all versions of raw UIDs."""
    ring, keys = RINGS[scope]
    v2 = version == 2
    token = AdvertisingToken(
        version=version,
        scope=None if v2 else scope,
        identity_type=None if v2 else identity_type,
        master_key_id=64,
        site_key_id=65,
        expires_ms=NOW_MS + 1,
        created_ms=None if v2 else NOW_MS - 999,
        site_id=9,
        privacy_bits=1,
        established_ms=NOW_MS - 12_345,
        refreshed_ms=None if v2 else NOW_MS,
        raw_uid=make_uid(uid_version, scope, identity_type, bytes(range(32))),
    )
    sealed = seal_token(token, ring.key, **(CBC_IVS if v2 else GCM_IVS))
    theirs = sdk_decrypt(sealed, keys, client, NOW)
    ours = try_decrypt(sealed, ring, now_ms=NOW_MS, client=client)
    assert isinstance(ours, DecryptedToken)
    assert ours.raw_uid == token.raw_uid
    assert_same(ours, theirs)


@settings(max_examples=100)
@given(
    sampled_from(IdentityScope),
    sampled_from(IdentityType),
    sampled_from([2, 3, 4]),
    binary(min_size=32, max_size=32),
)
def test_the_sdk_opens_our_sharing_tokens(
    scope: IdentityScope, identity_type: IdentityType, uid_version: int, tail: bytes
) -> None:
    """With any raw UID, and it reads the type that we have written."""
    ring, keys = RINGS[scope]
    uid = make_uid(uid_version, scope, identity_type, tail)
    told = identity_type if uid_version == 2 else None
    token = encrypt(uid, ring, now_ms=NOW_MS, identity_type=told, **GCM_IVS)
    ours = try_decrypt(token, ring, now_ms=NOW_MS, client=ClientType.SHARING)
    assert isinstance(ours, DecryptedToken)
    assert (ours.raw_uid, ours.identity_type) == (uid, identity_type)
    assert_same(ours, sdk_decrypt(token, keys, ClientType.SHARING, NOW))


@pytest.mark.parametrize("scope", IdentityScope)
@pytest.mark.parametrize("identity_type", IdentityType)
@pytest.mark.parametrize("keyset_id", [None, 701])
def test_both_make_the_same_sharing_token(
    scope: IdentityScope, identity_type: IdentityType, keyset_id: int | None
) -> None:
    """All but the IVs is equal: keys, times, site and raw UID (6.5)."""
    ring, keys = RINGS[scope]
    uid = make_uid(3, scope, identity_type, bytes(range(32)))
    theirs = sdk.encrypt(uid, None, keys, keyset_id, now=NOW)
    assert theirs.success
    opened = open_token(theirs.encrypted_data, ring.key, strict=True)
    ours = encrypt(uid, ring, now_ms=NOW_MS, keyset_id=keyset_id, **GCM_IVS)
    mine = open_token(ours, ring.key, strict=True)
    # The SDK writes the real time as the time of establishing, whatever now= says.
    assert abs(opened.established_ms / 1000 - datetime.now(UTC).timestamp()) < 60
    fields = set(AdvertisingToken.__struct_fields__) - {"established_ms"}
    assert {name: getattr(opened, name) for name in fields} == {
        name: getattr(mine, name) for name in fields
    }


def outcome(token: str, scope: IdentityScope, now_ms: int, **more: Any) -> object:
    """Ask both, who must agree, and give the status word."""
    ring, keys = load(scope, **more)
    ours = try_decrypt(token, ring, now_ms=now_ms, client=ClientType.SHARING)
    try:
        theirs = sdk_decrypt(
            token, keys, ClientType.SHARING, datetime_from_ms(now_ms)
        ).status
    except sdk.EncryptionError:
        theirs = sdk.DecryptionStatus.INVALID_PAYLOAD
    if isinstance(ours, DecryptedToken):
        assert theirs is sdk.DecryptionStatus.SUCCESS
        return None
    assert theirs.name == ours.name
    return ours


@pytest.mark.parametrize("version", [2, 3, 4])
def test_both_refuse_for_the_same_reason(version: int) -> None:
    """Where the rules of the two SDKs are the same, so are ours."""
    uid = make_uid(3, UID2, EMAIL, bytes(32))
    token = sdk_make(version, uid, UID2)
    end = NOW_MS + 3_600_000
    keys = make_reply(UID2)["keys"]
    asked: list[tuple[object, int, dict[str, Any]]] = [
        (None, NOW_MS, {}),
        (None, end, {}),
        (TokenFailure.EXPIRED_TOKEN, end + 1, {}),
        (TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY, NOW_MS, {"keys": keys[1:]}),
        (TokenFailure.NOT_AUTHORIZED_FOR_KEY, NOW_MS, {"keys": keys[:2]}),
        (None, NOW_MS, {"max_sharing_lifetime_seconds": 3600}),
        (
            TokenFailure.INVALID_TOKEN_LIFETIME,
            NOW_MS,
            {"max_sharing_lifetime_seconds": 3599},
        ),
    ]
    if version != 2:
        asked += [
            (None, NOW_MS - 1_800_000, {}),
            (TokenFailure.INVALID_TOKEN_LIFETIME, NOW_MS - 1_801_000, {}),
        ]
    for reason, now_ms, more in asked:
        assert outcome(token, UID2, now_ms, **more) is reason


@pytest.mark.parametrize("token", ["", "A4A", "AAAA", "A5AAAAAA", "!!!!"])
def test_both_refuse_what_is_no_token(token: str) -> None:
    """Short, unknown, or no base64 at all; of cut ones the SDK misses the end."""
    assert isinstance(outcome(token, UID2, NOW_MS), TokenFailure)


@settings(max_examples=200)
@given(
    sampled_from([2, 3, 4]).map(
        lambda version: sdk_make(version, make_uid(3, UID2, EMAIL, bytes(32)), UID2)
    ),
    binary(min_size=1, max_size=4),
    binary(min_size=1, max_size=4),
)
@example(sdk_make(2, make_uid(3, UID2, EMAIL, bytes(32)), UID2), b"\x11", b"\x80")
def test_we_never_take_a_token_that_the_sdk_refuses(
    token: str, places: bytes, flips: bytes
) -> None:
    """Of tokens that were tampered with in their bytes."""
    ring, keys = RINGS[UID2]
    standard = token.replace("-", "+").replace("_", "/")
    data = bytearray(b64decode(standard + "=" * (-len(standard) % 4)))
    for place, flip in zip(places, flips, strict=False):
        data[place % len(data)] ^= flip
    changed = b64encode(data).decode()
    ours = try_decrypt(changed, ring, now_ms=NOW_MS, client=ClientType.SHARING)
    if isinstance(ours, DecryptedToken):
        assert_same(ours, sdk_decrypt(changed, keys, ClientType.SHARING, NOW))
