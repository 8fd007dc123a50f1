"""A thousand random tokens each way between the official SDK and ours."""

from __future__ import annotations

import random
from base64 import b64encode
from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec
import pytest

from uid2_async import (
    BidstreamClient,
    DecryptedToken,
    IdentityScope,
    KeyRing,
    SharingClient,
)
from uid2_async.models import IdentityType, datetime_from_ms
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token

pytest.importorskip("uid2_client")
sdk = pytest.importorskip("uid2_client.encryption")
generator = pytest.importorskip("uid2_client.uid2_token_generator")
refresh_keys_util = pytest.importorskip("uid2_client.refresh_keys_util")

pytestmark = pytest.mark.differential

COUNT = 1_000
# The SDK keeps whole seconds.
NOW_MS = 1_700_000_000_000
NOW = datetime_from_ms(NOW_MS)
MASTERS, SITES = (64, 65), (70, 71, 72)
MAKERS = {
    2: generator.UID2TokenGenerator.generate_uid2_token_v2,
    3: generator.UID2TokenGenerator.generate_uid2_token_v3,
    4: generator.UID2TokenGenerator.generate_uid2_token_v4,
}


class World(NamedTuple):
    """The same keys as both read them."""

    ring: KeyRing
    keys: Any


def make_world(scope: IdentityScope) -> World:
    """Make keys in two keysets, from a seed."""
    dice = random.Random(scope.value)  # noqa: S311 - to be repeated, not to be secret
    body = {
        "caller_site_id": 124,
        "master_keyset_id": 9_999_999,
        "default_keyset_id": 700,
        "token_expiry_seconds": "86400",
        "identity_scope": scope.value,
        "allow_clock_skew_seconds": 1800,
        "keys": [
            {
                "id": number,
                "keyset_id": 9_999_999 if number in MASTERS else 700,
                "created": 1_600_000_000,
                "activates": 1_600_000_000 + number,
                "expires": 1_800_000_000,
                "secret": b64encode(dice.randbytes(32)).decode(),
            }
            for number in (*MASTERS, *SITES)
        ],
    }
    reply = msgspec.json.encode({"body": body, "status": "success"})
    return World(KeyRing.from_json(reply), refresh_keys_util.parse_keys_json(body).keys)


WORLDS = {scope: make_world(scope) for scope in IdentityScope}


class Case(NamedTuple):
    """What a random token says."""

    version: int
    scope: IdentityScope
    identity_type: IdentityType
    raw_uid: str
    site_id: int
    master_key: int
    site_key: int
    expires_s: int
    established_s: int


def cases(seed: int) -> list[Case]:
    """Draw the cases of a test; the SDK's raw UIDs of 33 bytes tell their type."""
    dice = random.Random(seed)  # noqa: S311 - as above
    drawn = []
    for _ in range(COUNT):
        scope = dice.choice(tuple(IdentityScope))
        identity_type = dice.choice(tuple(IdentityType))
        first = bytes([scope.bit << 4 | identity_type.bit << 2])
        drawn.append(
            Case(
                version=dice.choice((2, 3, 4)),
                scope=scope,
                identity_type=identity_type,
                raw_uid=b64encode(first + dice.randbytes(32)).decode(),
                site_id=dice.randrange(1, 2**31),
                master_key=dice.choice(MASTERS),
                site_key=dice.choice(SITES),
                expires_s=dice.randrange(0, 86_400),
                established_s=-dice.randrange(0, 10**8),
            )
        )
    kinds = Counter((one.version, one.scope, one.identity_type) for one in drawn)
    assert len(kinds) == 12
    return drawn


def test_we_open_what_the_sdk_makes() -> None:
    """Of all versions, scopes and types, with every field."""
    for case in cases(1):
        ring, keys = WORLDS[case.scope]
        params = generator.Params(
            expiry=NOW + timedelta(seconds=case.expires_s),
            identity_scope=case.scope.bit,
            token_generated=NOW,
            identity_established=NOW + timedelta(seconds=case.established_s),
        )
        token = MAKERS[case.version](
            case.raw_uid,
            keys.get(case.master_key),
            case.site_id,
            keys.get(case.site_key),
            params,
        )
        for client in (SharingClient, BidstreamClient):
            found = client(ring, clock=lambda: NOW).decrypt(token)
            assert_case(found, case)


def assert_case(found: DecryptedToken, case: Case) -> None:
    """Compare what we have read with what was drawn."""
    v2 = case.version == 2
    assert found == DecryptedToken(
        raw_uid=case.raw_uid,
        site_id=case.site_id,
        established_ms=NOW_MS + case.established_s * 1000,
        created_ms=None if v2 else NOW_MS,
        expires_ms=NOW_MS + case.expires_s * 1000,
        identity_type=None if v2 else case.identity_type,
        scope=case.scope,
        version=case.version,
        client_side_generated=False,
    )


def test_the_sdk_opens_what_we_make() -> None:
    """Of all versions, scopes and types, with every field that it tells."""
    dice = random.Random(3)  # noqa: S311 - as above
    for case in cases(2):
        ring, keys = WORLDS[case.scope]
        v2 = case.version == 2
        token = seal_token(
            AdvertisingToken(
                version=case.version,
                scope=case.scope,
                identity_type=case.identity_type,
                master_key_id=case.master_key,
                site_key_id=case.site_key,
                expires_ms=NOW_MS + case.expires_s * 1000,
                created_ms=NOW_MS,
                site_id=case.site_id,
                established_ms=NOW_MS + case.established_s * 1000,
                refreshed_ms=NOW_MS,
                raw_uid=case.raw_uid,
            ),
            ring.key,
            master_iv=dice.randbytes(16 if v2 else 12),
            site_iv=dice.randbytes(16 if v2 else 12),
        )
        assert_sdk_reads(token, keys, case)


def test_the_sdk_opens_what_we_share() -> None:
    """Through the client that users have; the site is the caller's."""
    for case in cases(4):
        ring, keys = WORLDS[case.scope]
        token = SharingClient(ring, clock=lambda: NOW).encrypt(case.raw_uid)
        shared = case._replace(
            version=4, site_id=124, expires_s=86_400, established_s=0
        )
        assert_sdk_reads(token, keys, shared)


def assert_sdk_reads(token: str, keys: Any, case: Case) -> None:
    """Compare what the SDK reads with what was drawn."""
    theirs = sdk.decrypt_token(token, keys, None, sdk.ClientType.SHARING, NOW)
    assert theirs.status is sdk.DecryptionStatus.SUCCESS
    assert (theirs.uid, theirs.site_id) == (case.raw_uid, case.site_id)
    assert theirs.established == NOW + timedelta(seconds=case.established_s)
    assert theirs.expiry == NOW + timedelta(seconds=case.expires_s)
    assert theirs.identity_scope.name == case.scope.name
    if case.version != 2:
        assert theirs.identity_type.name.upper() == case.identity_type.name
