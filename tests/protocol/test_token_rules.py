"""How the holder of a key ring judges tokens, and makes them."""

from __future__ import annotations

import pickle
from base64 import b64decode, b64encode
from datetime import UTC, datetime
from itertools import product
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.strategies import binary, integers, sampled_from, text

from tokens_by_ring import decrypt, encrypt
from uid2_async.errors import (
    InputError,
    KeysUnavailableError,
    TokenError,
    TokenFailure,
)
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol.keyring import Key, KeyRing
from uid2_async.protocol.raw_uid import type_byte
from uid2_async.protocol.token_codec import AdvertisingToken, open_token, seal_token
from uid2_async.protocol.token_rules import (
    ClientType,
    DecryptedToken,
    try_decrypt,
)

UID2, EUID = IdentityScope
EMAIL, PHONE = IdentityType
BIDSTREAM, SHARING = ClientType

NOW = 1_700_000_000_000
HOUR = 3_600_000
TIMES = {"created": 0, "activates": 0, "expires": NOW // 1000 + 86_400}
MASTER = Key(id=164, secret=bytes(range(16, 48)), keyset_id=99, **TIMES)
SITE = Key(id=165, secret=bytes(range(80, 112)), keyset_id=700, **TIMES)
RING = KeyRing(
    keys={164: MASTER, 165: SITE},
    caller_site_id=9,
    master_keyset_id=99,
    default_keyset_id=700,
    token_expiry_seconds=7200,
    max_bidstream_lifetime_seconds=3610,
    max_sharing_lifetime_seconds=7210,
    site_data={124: frozenset({"example.com", "com.app"})},
)
IVS = {2: (b"master iv of CBC", b"site iv for CBC!")}
GCM_IVS: dict[str, Any] = {"master_iv": b"master iv 12", "site_iv": b"site iv 12 b"}

UID = b64encode(bytes(range(200, 232))).decode()
TOKEN = AdvertisingToken(
    version=4,
    scope=UID2,
    identity_type=EMAIL,
    master_key_id=164,
    site_key_id=165,
    expires_ms=NOW + HOUR,
    created_ms=NOW,
    site_id=124,
    privacy_bits=1,
    established_ms=NOW - HOUR,
    refreshed_ms=NOW,
    raw_uid=UID,
)
NO_TIMES = {"scope": None, "identity_type": None, "created_ms": None}
V2 = msgspec.structs.replace(TOKEN, version=2, refreshed_ms=None, **NO_TIMES)
CLIENT_SIDE = msgspec.structs.replace(TOKEN, privacy_bits=3)


def seal(token: AdvertisingToken, **changes: Any) -> str:
    """Seal *token* with changes."""
    token = msgspec.structs.replace(token, **changes)
    ivs = IVS.get(token.version, tuple(GCM_IVS.values()))
    keys = RING.keys.get
    return seal_token(token, keys, master_iv=ivs[0], site_iv=ivs[1])


def verdict(
    token: str,
    ring: KeyRing = RING,
    *,
    now_ms: int = NOW,
    client: ClientType = BIDSTREAM,
    domain: str | None = None,
) -> TokenFailure | None:
    """Give the reason why *token* is refused, or None, in both ways to ask."""
    asked: dict[str, Any] = {"now_ms": now_ms, "client": client}
    found = try_decrypt(token, ring, domain_or_app=domain, **asked)
    if isinstance(found, DecryptedToken):
        assert decrypt(token, ring, domain_or_app=domain, **asked) == found
        return None
    with pytest.raises(TokenError) as caught:
        decrypt(token, ring, domain_or_app=domain, **asked)
    assert caught.value.reason is found
    return found


def test_what_a_token_says() -> None:
    """All fields arrive, and instants are aware datetimes when asked for."""
    found = decrypt(seal(TOKEN), RING, now_ms=NOW, client=BIDSTREAM)
    assert found == DecryptedToken(
        raw_uid=UID,
        site_id=124,
        established_ms=NOW - HOUR,
        created_ms=NOW,
        expires_ms=NOW + HOUR,
        identity_type=EMAIL,
        scope=UID2,
        version=4,
        client_side_generated=False,
    )
    assert found.created == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    assert found.established == datetime(2023, 11, 14, 21, 13, 20, tzinfo=UTC)
    assert found.expires == datetime(2023, 11, 14, 23, 13, 20, tzinfo=UTC)


def test_what_a_v2_token_says() -> None:
    """No creation and no type; the scope is that of the keys."""
    ring = attrs.evolve(RING, identity_scope=EUID)
    found = decrypt(seal(V2), ring, now_ms=NOW, client=SHARING)
    assert (found.version, found.scope, found.identity_type) == (2, EUID, None)
    assert found.created is None
    assert found.created_ms is None
    assert found.raw_uid == UID


def test_a_decrypted_token_hides_the_raw_uid_and_pickles() -> None:
    """It may be logged, and handed to other processes."""
    found = decrypt(seal(TOKEN), RING, now_ms=NOW, client=BIDSTREAM)
    assert UID not in repr(found)
    assert "site_id=124" in repr(found)
    assert pickle.loads(pickle.dumps(found)) == found  # noqa: S301 - made above


@pytest.mark.parametrize("number", range(8))
def test_every_vector_is_accepted(vectors: dict[str, Any], number: int) -> None:
    """The tokens of a real operator pass with the keys of its scope."""
    case = vectors["advertising_tokens"][number]
    ring = attrs.evolve(
        RING,
        identity_scope=IdentityScope(case["scope"]),
        max_bidstream_lifetime_seconds=259_210,
    )
    assert verdict(case["token"], ring, now_ms=1_700_000_000_123) is None


@pytest.mark.parametrize("token", [TOKEN, V2])
def test_a_ring_without_a_valid_key_opens_nothing(token: AdvertisingToken) -> None:
    """That is no property of the token, so it is another error (6.6)."""
    end = (NOW // 1000 + 86_400) * 1000
    for ring, now in [(RING, end), (KeyRing(keys={}), NOW)]:
        with pytest.raises(KeysUnavailableError):
            try_decrypt(seal(token), ring, now_ms=now, client=BIDSTREAM)
    assert verdict(seal(token), now_ms=end - 1) is TokenFailure.EXPIRED_TOKEN


@pytest.mark.parametrize("value", ["", "A4A", "A4AA!", None, 5])
def test_what_is_no_token(value: Any) -> None:
    """It is refused like a broken one, even where foreign JSON holds no string."""
    assert verdict(value) is TokenFailure.INVALID_PAYLOAD


def test_the_first_rule_that_is_broken_is_the_one_named() -> None:
    """Scope, master key, site key, expiry, domain, lifetime: in this order (6.6)."""
    broken: dict[TokenFailure, dict[str, Any]] = {
        TokenFailure.INVALID_IDENTITY_SCOPE: {"identity_scope": EUID},
        TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY: {"keys": {165: SITE}},
        TokenFailure.NOT_AUTHORIZED_FOR_KEY: {"keys": {164: MASTER}},
        TokenFailure.EXPIRED_TOKEN: {"expires_ms": NOW - 1},
        TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED: {"privacy_bits": 3},
        TokenFailure.INVALID_TOKEN_LIFETIME: {"created_ms": NOW - 9 * HOUR},
    }
    names = list(broken)
    # Each alone, and with each later one: the earlier is named. Two sets of keys do
    # not combine.
    for first, second in product(range(6), range(6)):
        if second < first or (first, second) == (1, 2):
            continue
        ring_changes: dict[str, Any] = {}
        token_changes: dict[str, Any] = {}
        for name in (names[second], names[first]):
            changes = broken[name]
            ring_side = changes.keys() & {"identity_scope", "keys"}
            (ring_changes if ring_side else token_changes).update(changes)
        token = seal(TOKEN, **token_changes)
        assert verdict(token, attrs.evolve(RING, **ring_changes)) is names[first]


def test_both_keys_missing_names_the_master_key() -> None:
    """It is looked for first."""
    other = msgspec.structs.replace(MASTER, id=1)
    ring = attrs.evolve(RING, keys={1: other})
    assert verdict(seal(TOKEN), ring) is TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY


@pytest.mark.parametrize("token", [TOKEN, V2])
def test_a_token_holds_up_to_its_last_millisecond(token: AdvertisingToken) -> None:
    """Equal is fine (6.6)."""
    sealed = seal(token)
    assert verdict(sealed, now_ms=NOW + HOUR) is None
    assert verdict(sealed, now_ms=NOW + HOUR + 1) is TokenFailure.EXPIRED_TOKEN


@pytest.mark.parametrize(
    ("client", "most"), [(BIDSTREAM, 3_610_999), (SHARING, 7_210_999)]
)
@pytest.mark.parametrize("token", [TOKEN, V2])
def test_the_longest_life_is_counted_in_whole_seconds(
    token: AdvertisingToken, client: ClientType, most: int
) -> None:
    """From creation on, or for v2 from now on; each client has its own limit (6.6)."""
    assert verdict(seal(token, expires_ms=NOW + most), client=client) is None
    longer = seal(token, expires_ms=NOW + most + 1)
    assert verdict(longer, client=client) is TokenFailure.INVALID_TOKEN_LIFETIME


@pytest.mark.parametrize("client", ClientType)
def test_without_a_limit_any_life_will_do(client: ClientType) -> None:
    """An absent lifetime is unlimited."""
    ring = attrs.evolve(
        RING, max_bidstream_lifetime_seconds=None, max_sharing_lifetime_seconds=None
    )
    assert verdict(seal(TOKEN, expires_ms=NOW + 10**12), ring, client=client) is None


@pytest.mark.parametrize(("ahead", "fine"), [(1_800_999, True), (1_801_000, False)])
@pytest.mark.parametrize("client", ClientType)
def test_a_token_from_the_future_is_bounded_by_the_clock_skew(
    client: ClientType, ahead: int, *, fine: bool
) -> None:
    """Half an hour by default, in whole seconds, with or without a longest life."""
    token = seal(TOKEN, created_ms=NOW + ahead, expires_ms=NOW + ahead + 1000)
    refused = None if fine else TokenFailure.INVALID_TOKEN_LIFETIME
    assert verdict(token, client=client) is refused
    ring = attrs.evolve(RING, max_bidstream_lifetime_seconds=None)
    assert verdict(token, ring, client=client) is refused


@pytest.mark.parametrize(
    ("domain", "fine"),
    [
        ("example.com", True),
        ("EXAMPLE.com", True),
        ("com.App", True),
        ("www.example.com", False),
        ("", False),
        (None, False),
    ],
)
def test_a_client_side_token_must_be_at_home(domain: str | None, *, fine: bool) -> None:
    """In the bidstream, by the names of the site in the token (6.6)."""
    refused = None if fine else TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED
    assert verdict(seal(CLIENT_SIDE), domain=domain) is refused
    assert verdict(seal(CLIENT_SIDE), domain=domain, client=SHARING) is None
    assert verdict(seal(TOKEN), domain=domain) is None


def test_a_client_side_token_of_an_unknown_site_is_nowhere_at_home() -> None:
    """No names are known of it."""
    token = seal(CLIENT_SIDE, site_id=125)
    failed = TokenFailure.DOMAIN_OR_APP_NAME_CHECK_FAILED
    assert verdict(token, domain="example.com") is failed


@pytest.mark.parametrize(
    ("bits", "client_side"), [(0, False), (1, False), (2, True), (3, True), (-1, True)]
)
def test_client_side_generated_is_bit_1(bits: int, *, client_side: bool) -> None:
    """Bit 0 is the least significant (5.4)."""
    found = try_decrypt(
        seal(TOKEN, privacy_bits=bits), RING, now_ms=NOW, client=SHARING
    )
    assert isinstance(found, DecryptedToken)
    assert found.client_side_generated is client_side


@pytest.mark.parametrize(
    "change",
    [
        {"established_ms": 2**62},
        {"established_ms": -(2**62)},
        {"expires_ms": 2**62},
        {"created_ms": -(2**62)},
        {"created_ms": 2**62},
    ],
)
def test_times_that_no_datetime_holds_are_refused(change: dict[str, int]) -> None:
    """So that no property of an accepted token raises."""
    ring = attrs.evolve(RING, max_bidstream_lifetime_seconds=None)
    assert verdict(seal(TOKEN, **change), ring) is TokenFailure.INVALID_PAYLOAD


@given(integers(0, 132), integers(1, 255), integers())
def test_no_mutation_of_v2_raises_anything_else(at: int, flip: int, now: int) -> None:
    """What is accepted can be looked at."""
    data = bytearray(b64decode(seal(V2)))
    data[at] ^= flip
    ring = attrs.evolve(RING, max_bidstream_lifetime_seconds=None)
    asked: dict[str, Any] = {"now_ms": min(now, NOW), "client": BIDSTREAM}
    found = try_decrypt(b64encode(data).decode(), ring, **asked)
    if isinstance(found, DecryptedToken):
        assert found.expires > found.expires.min.replace(tzinfo=UTC)


@settings(max_examples=200)
@given(text(max_size=300) | binary(max_size=200).map(lambda d: b64encode(d).decode()))
def test_no_text_raises_anything_else(value: str) -> None:
    """A bulk job continues after any row."""
    found = try_decrypt(value, RING, now_ms=NOW, client=BIDSTREAM)
    assert isinstance(found, TokenFailure)


def make_uid(kind: int, tail: bytes = bytes(32)) -> str:
    """Make a raw UID of 33 bytes."""
    return b64encode(bytes((kind,)) + tail).decode()


def test_a_sharing_token_says_what_the_ring_says() -> None:
    """Times in ms, the caller's site, no privacy bits, a service as operator (6.5)."""
    sealed = encrypt(UID, RING, now_ms=NOW + 7, **GCM_IVS)
    token = open_token(sealed, RING.key, strict=True)
    assert token == AdvertisingToken(
        version=4,
        scope=UID2,
        identity_type=EMAIL,
        master_key_id=164,
        site_key_id=165,
        expires_ms=NOW + 7 + 7_200_000,
        created_ms=NOW + 7,
        site_id=9,
        privacy_bits=0,
        established_ms=NOW + 7,
        refreshed_ms=NOW + 7,
        raw_uid=UID,
    )
    assert verdict(sealed, now_ms=NOW + 7, client=SHARING) is None


@given(
    sampled_from(IdentityScope),
    sampled_from(IdentityType),
    sampled_from([0x00, 0x20, 0x60, 0xA0]),
    binary(min_size=32, max_size=32),
)
def test_the_type_is_read_from_the_raw_uid(
    scope: IdentityScope, identity_type: IdentityType, more: int, tail: bytes
) -> None:
    """From v3 and from v4 of any environment, not by its first character."""
    ring = attrs.evolve(RING, identity_scope=scope)
    uid = make_uid(type_byte(scope, identity_type) | more, tail)
    sealed = encrypt(uid, ring, now_ms=NOW, **GCM_IVS)
    found = decrypt(sealed, ring, now_ms=NOW, client=SHARING)
    assert (found.raw_uid, found.identity_type) == (uid, identity_type)
    assert found.scope is scope


@given(binary(min_size=32, max_size=32), sampled_from([None, *IdentityType]))
def test_a_raw_uid_of_32_bytes_is_an_email_unless_told(
    data: bytes, identity_type: IdentityType | None
) -> None:
    """Its first character does not determine its type."""
    uid = b64encode(data).decode()
    asked: dict[str, Any] = {"now_ms": NOW, "identity_type": identity_type}
    sealed = encrypt(uid, RING, **asked, **GCM_IVS)
    assert open_token(sealed, RING.key).identity_type is (identity_type or EMAIL)


def test_a_type_may_be_told_but_not_against_the_raw_uid() -> None:
    """No reader would accept such a token."""
    uid = make_uid(0x04)
    sealed = encrypt(uid, RING, now_ms=NOW, identity_type=PHONE, **GCM_IVS)
    assert open_token(sealed, RING.key).identity_type is PHONE
    with pytest.raises(InputError):
        encrypt(uid, RING, now_ms=NOW, identity_type=EMAIL, **GCM_IVS)


def test_a_raw_uid_of_the_other_scope_is_refused() -> None:
    """The ring decides the scope, and no reader would accept the mix."""
    with pytest.raises(TokenError) as caught:
        encrypt(make_uid(0x14), RING, now_ms=NOW, **GCM_IVS)
    assert caught.value.reason is TokenFailure.INVALID_IDENTITY_SCOPE


@pytest.mark.parametrize(
    "uid",
    ["", "canary", "canary!", UID[:-4], UID + "AAAA", make_uid(0x08), None, b"A" * 44],
)
def test_what_is_no_raw_uid_is_refused(uid: Any) -> None:
    """The error does not show it."""
    with pytest.raises(InputError) as caught:
        encrypt(uid, RING, now_ms=NOW, **GCM_IVS)
    assert "canary" not in str(caught.value)


def test_another_keyset_may_be_chosen() -> None:
    """Its members read the token then."""
    other = msgspec.structs.replace(SITE, id=166, keyset_id=701)
    ring = attrs.evolve(RING, keys={**RING.keys, 166: other})
    sealed = encrypt(UID, ring, now_ms=NOW, keyset_id=701, **GCM_IVS)
    assert open_token(sealed, ring.key).site_key_id == 166
    default = encrypt(UID, ring, now_ms=NOW, **GCM_IVS)
    assert open_token(default, ring.key).site_key_id == 165


EXPIRED = msgspec.structs.replace(SITE, expires=NOW // 1000)
FUTURE = msgspec.structs.replace(SITE, activates=NOW // 1000 + 1)
NO_MASTER, NO_SITE = (
    TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY,
    TokenFailure.NOT_AUTHORIZED_FOR_KEY,
)


@pytest.mark.parametrize(
    ("change", "keyset_id", "reason"),
    [
        ({"master_keyset_id": None}, None, NO_MASTER),
        ({"master_keyset_id": 98}, None, NO_MASTER),
        ({"caller_site_id": None}, None, NO_MASTER),
        ({"default_keyset_id": None}, None, NO_SITE),
        ({}, 702, NO_SITE),
        ({"keys": {164: MASTER, 165: EXPIRED}}, None, NO_SITE),
        ({"keys": {164: MASTER, 165: FUTURE}}, None, NO_SITE),
        (
            {"keys": {164: MASTER, 165: msgspec.structs.replace(SITE, keyset_id=None)}},
            None,
            NO_SITE,
        ),
    ],
)
def test_encrypting_needs_active_keys(
    change: dict[str, Any], keyset_id: int | None, reason: TokenFailure
) -> None:
    """A bidstream ring has none, nor has a keyset of others (6.5)."""
    ring = attrs.evolve(RING, **change)
    with pytest.raises(TokenError) as caught:
        encrypt(UID, ring, now_ms=NOW, keyset_id=keyset_id, **GCM_IVS)
    assert caught.value.reason is reason


def test_an_outdated_ring_encrypts_nothing() -> None:
    """As it opens nothing."""
    with pytest.raises(KeysUnavailableError):
        encrypt(UID, RING, now_ms=NOW + 10**9, **GCM_IVS)


def test_the_key_is_that_of_the_time() -> None:
    """After a rotation the newer key seals, and both open (6.4)."""
    newer = msgspec.structs.replace(SITE, id=170, activates=NOW // 1000 + 60)
    ring = attrs.evolve(RING, keys={170: newer, **RING.keys})
    before = encrypt(UID, ring, now_ms=NOW, **GCM_IVS)
    after = encrypt(UID, ring, now_ms=NOW + 60_000, **GCM_IVS)
    assert [open_token(one, ring.key).site_key_id for one in (before, after)] == [
        165,
        170,
    ]
    assert verdict(before, ring, now_ms=NOW + 60_000, client=SHARING) is None
