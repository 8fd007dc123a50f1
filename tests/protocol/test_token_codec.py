"""The bytes of advertising tokens (docs/protocol.md 5.1 to 5.4)."""

from __future__ import annotations

import json
import pickle
from base64 import b64decode, b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis.strategies import (
    binary,
    builds,
    integers,
    lists,
    one_of,
    sampled_from,
    text,
    tuples,
)

from uid2_async._private import RedactedRepr
from uid2_async.errors import InputError, TokenError, TokenFailure
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol.keyring import Key
from uid2_async.protocol.raw_uid import type_byte
from uid2_async.protocol.token_codec import (
    AdvertisingToken,
    open_layers,
    open_token,
    read_text,
    seal_token,
)

VALUES = [
    AdvertisingToken(
        version=4,
        master_key_id=1,
        site_key_id=2,
        expires_ms=3,
        site_id=4,
        established_ms=5,
        raw_uid="veiled",
    ),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_no_raw_uid_is_shown(value: RedactedRepr) -> None:
    """Neither repr nor rich shows it; the harmless fields are there."""
    assert "veiled" not in repr(value)
    assert "veiled" not in str(value.__rich_repr__())
    assert repr(value).startswith(f"{type(value).__name__}(")
    assert "version=4" in repr(value) or "site_id=4" in repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_they_are_values(value: RedactedRepr) -> None:
    """They compare, hash, pickle and do not change."""
    again = pickle.loads(pickle.dumps(value))  # noqa: S301 - made one line above
    assert again == value
    assert hash(again) == hash(value)
    with pytest.raises(AttributeError, match="immutable"):
        value.version = 5  # type: ignore[attr-defined] # that it fails is the point


WORLDS = Path(__file__).parents[1] / "conformance"
UID2, EUID = IdentityScope
EMAIL, PHONE = IdentityType
TIMES = {"created": 0, "activates": 0, "expires": 2**40}
MASTER = Key(id=164, secret=bytes(range(16, 48)), **TIMES)
SITE = Key(id=165, secret=bytes(range(80, 112)), **TIMES)
KEYS = {164: MASTER, 165: SITE}
IVS = {2: (b"master iv of CBC", b"site iv for CBC!")}
GCM_IVS = (b"master iv 12", b"site iv 12 b")
V2_UID = b64encode(bytes(range(200, 232))).decode()

TOKEN = AdvertisingToken(
    version=4,
    scope=UID2,
    identity_type=EMAIL,
    master_key_id=164,
    site_key_id=165,
    expires_ms=1_700_259_200_123,
    created_ms=1_700_000_000_123,
    site_id=124,
    privacy_bits=1,
    established_ms=1_699_990_000_456,
    refreshed_ms=1_700_000_000_123,
    raw_uid=V2_UID,
)

V3 = msgspec.structs.replace(TOKEN, version=3)

V2 = msgspec.structs.replace(
    TOKEN, version=2, scope=None, identity_type=None, created_ms=None, refreshed_ms=None
)

int32, int64 = integers(-(2**31), 2**31 - 1), integers(-(2**63), 2**63 - 1)


def seal(token: AdvertisingToken) -> str:
    """Seal *token* with fixed IVs."""
    master_iv, site_iv = IVS.get(token.version, GCM_IVS)
    return seal_token(token, KEYS.get, master_iv=master_iv, site_iv=site_iv)


def seal_any(site_payload: bytes, *, kind: int = 3, version: int = 128) -> str:
    """Seal any site payload as a v3 or v4 token."""
    brief = bytes(29) + SITE.id.to_bytes(4, "big")
    master = brief + SITE.seal_gcm(GCM_IVS[1], site_payload)
    head = bytes((kind, version)) + MASTER.id.to_bytes(4, "big")
    return b64encode(head + MASTER.seal_gcm(GCM_IVS[0], master)).decode()


def seal_any_v2(site_payload: bytes) -> str:
    """Seal any identity payload as a v2 token."""
    brief = bytes(8) + SITE.id.to_bytes(4, "big")
    master = brief + SITE.seal_cbc(IVS[2][1], site_payload)
    head = b"\x02" + MASTER.id.to_bytes(4, "big")
    return b64encode(head + MASTER.seal_cbc(IVS[2][0], master)).decode()


def failure(token: str, keys: dict[int, Key] = KEYS) -> TokenFailure:
    """Give the reason why *token* does not open."""
    with pytest.raises(TokenError) as caught:
        open_token(token, keys.get)
    assert caught.value.__context__ is None
    return caught.value.reason


@pytest.mark.parametrize("number", range(8))
def test_every_vector(vectors: dict[str, Any], number: int) -> None:
    """Each token opens to its fields, and sealing these gives its text again."""
    case = vectors["advertising_tokens"][number]
    for name in ("master", "site"):
        given_key = vectors["token_keys"][name]
        assert KEYS[given_key["id"]].secret == b64decode(given_key["secret_b64"])
    token = open_token(case["token"], KEYS.get)
    v2 = case["version"] == 2
    assert token == AdvertisingToken(
        version=case["version"],
        scope=None if v2 else IdentityScope(case["scope"]),
        identity_type=None if v2 else IdentityType(case["identity_type"]),
        master_key_id=164,
        site_key_id=165,
        expires_ms=case["expires_ms"],
        created_ms=case["created_ms"],
        site_id=case["site_id"],
        privacy_bits=case["privacy_bits"],
        established_ms=case["established_ms"],
        refreshed_ms=case["refreshed_ms"],
        raw_uid=case["raw_uid"],
    )
    assert case["token"] == seal_token(
        token,
        KEYS.get,
        master_iv=bytes.fromhex(case["master_iv_hex"]),
        site_iv=bytes.fromhex(case["site_iv_hex"]),
    )
    data = read_text(case["token"], strict=True)
    assert isinstance(data, bytes)
    assert len(data) == case["decoded_len"]


@pytest.mark.parametrize("world", ["uid2", "euid"])
def test_every_recorded_token_is_what_we_would_write(world: str) -> None:
    """A token of a real operator opens, and encrypting it again gives the same text."""
    folder = WORLDS / world
    listed = json.loads((folder / "world" / "keyset_keys.json").read_bytes())
    keys = {
        one["id"]: Key(id=one["id"], secret=b64decode(one["secret"]), **TIMES)
        for one in listed
    }
    count = 0
    for case in json.loads((folder / "exchanges.json").read_bytes())["cases"]:
        body = json.loads(case["response"]["opened"] or "{}").get("body")
        if not isinstance(body, dict) or "advertising_token" not in body:
            continue
        count += 1
        given_text = body["advertising_token"]
        token = open_token(given_text, keys.get, strict=True)
        assert token.expires_ms == body["identity_expires"]
        assert token.scope is IdentityScope(world.upper())
        data = read_text(given_text)
        assert isinstance(data, bytes)
        opened = open_layers(data, keys.get)
        assert isinstance(opened, tuple)
        ivs = {"master_iv": data[6:18], "site_iv": opened[7][33:45]}
        assert seal_token(token, keys.get, **ivs) == given_text
    assert count > 100


def make_token(
    version: int, scope: IdentityScope, identity_type: IdentityType, tail: bytes
) -> AdvertisingToken:
    """Make a token whose raw UID fits to scope and type; 31 bytes make one of v2."""
    head = bytes((type_byte(scope, identity_type) | (tail[0] & 0xE0),))
    uid = tail[:32] if len(tail) > 32 else head + tail
    return msgspec.structs.replace(
        TOKEN,
        version=version,
        scope=scope,
        identity_type=identity_type,
        raw_uid=b64encode(uid).decode(),
    )


tokens = builds(
    make_token,
    sampled_from([3, 4]),
    sampled_from(IdentityScope),
    sampled_from(IdentityType),
    one_of(binary(min_size=32, max_size=32), binary(min_size=33, max_size=33)),
)


@given(tokens, tuples(*[int64] * 4), tuples(*[int32] * 6), integers(0, 255))
def test_round_trip(
    token: AdvertisingToken,
    longs: tuple[int, ...],
    ints: tuple[int, ...],
    operator_type: int,
) -> None:
    """Every field is read as it was written, in v3 and in v4."""
    token = msgspec.structs.replace(
        token,
        expires_ms=longs[0],
        created_ms=longs[1],
        established_ms=longs[2],
        refreshed_ms=longs[3],
        publisher_id=longs[0],
        site_id=ints[0],
        privacy_bits=ints[1],
        client_key_id=ints[2],
        operator_site_id=ints[3],
        operator_version=ints[4],
        operator_key_id=ints[5],
        operator_type=operator_type,
    )
    sealed = seal(token)
    assert open_token(sealed, KEYS.get, strict=True) == token
    assert len(sealed) == 220 if token.version == 3 else len(sealed) in {218, 219}


@given(int64, int64, int32, int32, sampled_from([32, 33]))
def test_round_trip_of_v2(
    expires_ms: int, established_ms: int, site_id: int, bits: int, size: int
) -> None:
    """v2 keeps the text of the raw UID, and knows neither scope nor type."""
    token = msgspec.structs.replace(
        V2,
        expires_ms=expires_ms,
        established_ms=established_ms,
        site_id=site_id,
        privacy_bits=bits,
        raw_uid=b64encode(b"x" * size).decode(),
    )
    sealed = seal(token)
    assert len(sealed) == 180
    assert open_token(sealed, KEYS.get, strict=True) == token


@pytest.mark.parametrize(
    ("scope", "identity_type", "start"),
    [(UID2, EMAIL, "A"), (UID2, PHONE, "B"), (EUID, EMAIL, "E"), (EUID, PHONE, "F")],
)
@pytest.mark.parametrize("version", [3, 4])
def test_the_second_character_spells_the_version(
    scope: IdentityScope, identity_type: IdentityType, start: str, version: int
) -> None:
    """The first one gives scope and type (5.1)."""
    sealed = seal(make_token(version, scope, identity_type, bytes(33)))
    assert sealed.startswith(f"{start}{version}")


def test_v2_begins_with_its_version() -> None:
    """Byte 0 is 2."""
    assert seal(V2).startswith("Ag")


# The alphabets of 5.1. This token has both of the characters that differ.
BOTH = next(
    sealed
    for number in range(1000)
    if (sealed := seal(msgspec.structs.replace(TOKEN, site_id=number)))
    and "-" in sealed
    and "_" in sealed
)

STANDARD = BOTH.replace("-", "+").replace("_", "/")


@pytest.mark.parametrize(
    ("given_text", "lenient", "strict"),
    [
        pytest.param(BOTH, True, True, id="url"),
        pytest.param(STANDARD, True, False, id="standard"),
        pytest.param(BOTH.replace("-", "+"), True, False, id="mixed"),
        pytest.param(BOTH + "==", True, True, id="padded"),
        pytest.param(BOTH + "=", False, False, id="half padded"),
        pytest.param(BOTH + "===", False, False, id="over-padded"),
        pytest.param(BOTH + "\n", False, False, id="newline"),
        pytest.param(BOTH[:-1] + "%", False, False, id="foreign character"),
        pytest.param(BOTH[:-1] + "Ä", False, False, id="beyond ASCII"),
    ],
)
def test_alphabets_of_v4(given_text: str, *, lenient: bool, strict: bool) -> None:
    """SDKs accept either alphabet, the operator only the URL-safe one (5.1)."""
    assert len(BOTH) == 218
    assert isinstance(read_text(given_text), bytes) is lenient
    assert isinstance(read_text(given_text, strict=True), bytes) is strict


@pytest.mark.parametrize("token", [V2, V3])
@pytest.mark.parametrize("strict", [False, True])
def test_v2_and_v3_take_the_standard_alphabet_alone(
    token: AdvertisingToken, *, strict: bool
) -> None:
    """The URL-safe spelling is refused, but padding may be absent (5.1)."""
    data = b64decode(seal(token))
    assert read_text(b64encode(data).decode().rstrip("="), strict=strict) == data
    other = b64encode(data[:8] + b"\xfb\xff\xff" + data[11:])
    spelled = other.replace(b"+", b"-").replace(b"/", b"_").decode()
    assert read_text(spelled, strict=strict) is TokenFailure.INVALID_PAYLOAD


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, TokenFailure.INVALID_PAYLOAD),
        (b"A4AAAACk", TokenFailure.INVALID_PAYLOAD),
        (5, TokenFailure.INVALID_PAYLOAD),
        ("", TokenFailure.INVALID_PAYLOAD),
        ("A4A", TokenFailure.INVALID_PAYLOAD),
        ("!!!!", TokenFailure.INVALID_PAYLOAD),
        ("====", TokenFailure.INVALID_PAYLOAD),
        ("AA==", TokenFailure.INVALID_PAYLOAD),
        ("A4-+", TokenFailure.INVALID_PAYLOAD),
        ("AAAA", TokenFailure.VERSION_NOT_SUPPORTED),
        ("AAAA!", TokenFailure.VERSION_NOT_SUPPORTED),
        ("A5AA", TokenFailure.VERSION_NOT_SUPPORTED),
        ("-_-_", TokenFailure.VERSION_NOT_SUPPORTED),
        ("Ag==", b"\x02"),
        ("A4A=", b"\x03\x80"),
        ("A4A_", b"\x03\x80\x3f"),
        ("A3A/", b"\x03\x70\x3f"),
        ("A3A_", TokenFailure.INVALID_PAYLOAD),
    ],
)
def test_the_first_four_characters_tell_the_version(
    value: object, reason: TokenFailure | bytes
) -> None:
    """Whatever follows; a header that is no base64 is no token (5.1)."""
    assert read_text(value) == reason


def test_unknown_keys() -> None:
    """Each shell names its key (6.6)."""
    for token in (V2, V3, TOKEN):
        sealed = seal(token)
        assert failure(sealed, {165: SITE}) is (
            TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY
        )
        assert failure(sealed, {164: MASTER}) is TokenFailure.NOT_AUTHORIZED_FOR_KEY


def test_a_scope_may_be_demanded() -> None:
    """The other one is refused before any key is looked for; v2 tells none (6.6)."""
    none: dict[int, Key] = {}
    for token in (V3, TOKEN):
        data = read_text(seal(token))
        assert isinstance(data, bytes)
        wrong = open_layers(data, none.get, EUID)
        assert wrong is TokenFailure.INVALID_IDENTITY_SCOPE
        assert isinstance(open_layers(data, KEYS.get, UID2), tuple)
    data = read_text(seal(V2))
    assert isinstance(data, bytes)
    assert isinstance(open_layers(data, KEYS.get, EUID), tuple)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", TokenFailure.INVALID_PAYLOAD),
        (b"\x02\0\0\0\xa4", TokenFailure.INVALID_PAYLOAD),
        (b"\x03\x80\0\0\0", TokenFailure.INVALID_PAYLOAD),
        (b"\x02\0\0\0\xa4\0", TokenFailure.INVALID_PAYLOAD),
        (b"\x03\x80\0\0\0\xa4", TokenFailure.INVALID_PAYLOAD),
        (b"\x03\x71\0\0\0\xa4", TokenFailure.VERSION_NOT_SUPPORTED),
    ],
)
def test_bytes_that_are_cut_off(data: bytes, reason: TokenFailure) -> None:
    """Any bytes may come."""
    assert open_layers(data, KEYS.get) is reason


@pytest.mark.parametrize("kind", [0x0B, 0x0F])
def test_a_type_that_does_not_exist(kind: int) -> None:
    """Two of the four identity types are not defined."""
    payload = bytes(36) + bytes(32)
    assert failure(seal_any(payload, kind=kind)) is TokenFailure.INVALID_PAYLOAD
    assert open_token(seal_any(payload), KEYS.get).version == 4


@pytest.mark.parametrize("size", [0, 35, 36, 67, 70])
def test_a_raw_uid_has_32_or_33_bytes(size: int) -> None:
    """Even the holder of the keys cannot make us take another."""
    assert failure(seal_any(bytes(size))) is TokenFailure.INVALID_PAYLOAD


def test_a_sealed_payload_that_is_too_short() -> None:
    """Even where it is authentic."""
    gcm = b"\x03\x80\0\0\0\xa4" + MASTER.seal_gcm(GCM_IVS[0], bytes(32))
    cbc = b"\x02\0\0\0\xa4" + MASTER.seal_cbc(IVS[2][0], bytes(11))
    for data in (gcm, cbc):
        assert open_layers(data, KEYS.get) is TokenFailure.INVALID_PAYLOAD


@pytest.mark.parametrize("flip", [0x04, 0x10, 0x14])
def test_a_raw_uid_of_33_bytes_must_be_of_the_tokens_scope_and_type(flip: int) -> None:
    """Byte 0 of the token is not protected, so it is compared (5.3)."""
    sealed = seal(make_token(4, UID2, EMAIL, bytes(32)))
    data = bytearray(b64decode(sealed.replace("-", "+").replace("_", "/") + "="))
    data[0] ^= flip
    assert failure(b64encode(data).decode()) is TokenFailure.INVALID_PAYLOAD


def test_the_environment_of_a_v4_raw_uid_is_not_compared() -> None:
    """Only scope and type are: a token has no environment."""
    token = make_token(4, EUID, PHONE, b"\xff" * 32)
    assert b64decode(token.raw_uid)[0] == 0xF4
    assert open_token(seal(token), KEYS.get) == token


def write_v2(length: int, uid: bytes, tail: bytes = bytes(12)) -> str:
    """Seal a v2 token with any length field and content."""
    head = bytes(4) + length.to_bytes(4, "big", signed=True)
    return seal_any_v2(head + uid + tail)


@pytest.mark.parametrize(
    "sealed",
    [
        pytest.param(seal_any_v2(bytes(7)), id="too short"),
        pytest.param(write_v2(-1, b""), id="negative length"),
        pytest.param(write_v2(0, b""), id="no raw UID"),
        pytest.param(write_v2(45, V2_UID.encode()), id="length too large"),
        pytest.param(write_v2(40, V2_UID.encode()), id="trailing bytes"),
        pytest.param(write_v2(44, V2_UID.encode(), bytes(11)), id="cut off"),
        pytest.param(write_v2(44, b"!" * 44), id="no base64"),
        pytest.param(write_v2(44, b"\xff" * 44), id="no text"),
    ],
)
def test_the_content_of_v2_must_fit_exactly(sealed: str) -> None:
    """CBC does not authenticate, so this is how a forged token is noticed."""
    assert failure(sealed) is TokenFailure.INVALID_PAYLOAD
    good = write_v2(44, V2_UID.encode())
    assert open_token(good, KEYS.get).raw_uid == V2_UID


@pytest.mark.parametrize("token", [V2, V3, TOKEN])
def test_a_key_that_does_not_fit_is_noticed(token: AdvertisingToken) -> None:
    """In either shell: by the tag, or in v2 by the padding."""
    wrong = Key(id=164, secret=bytes(32), **TIMES)
    for keys in ({164: wrong, 165: SITE}, {164: MASTER, 165: wrong}):
        assert failure(seal(token), keys) is TokenFailure.INVALID_PAYLOAD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scope": None}, "requires scope"),
        ({"identity_type": None}, "requires scope"),
        ({"refreshed_ms": None}, "refreshed_ms"),
        ({"created_ms": None}, "created_ms"),
        ({"raw_uid": ""}, "raw UID"),
        ({"raw_uid": "canary!"}, "raw UID"),
        ({"raw_uid": b64encode(bytes(31)).decode()}, "raw UID"),
        ({"raw_uid": b64encode(b"\x04" + bytes(32)).decode()}, "raw UID"),
        ({"raw_uid": b64encode(b"\x10" + bytes(32)).decode()}, "raw UID"),
        ({"version": 2, "raw_uid": ""}, "base64"),
        ({"version": 2, "raw_uid": "canary!"}, "base64"),
    ],
)
def test_what_cannot_be_sealed(change: dict[str, Any], message: str) -> None:
    """A field that is missing or does not fit is named, its value is not."""
    with pytest.raises(InputError, match=message) as caught:
        seal(msgspec.structs.replace(TOKEN, **change))
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"master_key_id": 1}, TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY),
        ({"site_key_id": 1}, TokenFailure.NOT_AUTHORIZED_FOR_KEY),
        ({"version": 5}, TokenFailure.VERSION_NOT_SUPPORTED),
    ],
)
def test_sealing_needs_both_keys_and_a_known_version(
    change: dict[str, Any], reason: TokenFailure
) -> None:
    """Else it says which is missing."""
    with pytest.raises(TokenError) as caught:
        seal(msgspec.structs.replace(TOKEN, **change))
    assert caught.value.reason is reason


# One token of each layout, as text; V2 is apart, because CBC protects nothing.
SEALED = {
    seal(token): token
    for token in (
        TOKEN,
        V3,
        make_token(4, UID2, PHONE, bytes(32)),
        make_token(3, EUID, EMAIL, b"\xa0" * 32),
    )
}


@settings(max_examples=300)
@given(sampled_from(sorted(SEALED)), lists(tuples(integers(0, 163), integers(1, 255))))
def test_no_mutation_is_read_as_something_else(
    sealed: str, flips: list[tuple[int, int]]
) -> None:
    """Any changed byte is noticed, but for what byte 0 says of a 32-byte raw UID."""
    data = read_text(sealed)
    assert isinstance(data, bytes)
    changed = bytearray(data)
    for at, flip in flips:
        changed[at % len(data)] ^= flip
    encode = urlsafe_b64encode if changed[1] == 128 else b64encode
    try:
        found = open_token(encode(changed).decode(), KEYS.get)
    except TokenError:
        return
    assert changed[1:] == data[1:]
    expected = SEALED[sealed]
    if len(b64decode(expected.raw_uid)) == 32:
        expected = msgspec.structs.replace(
            expected, scope=found.scope, identity_type=found.identity_type
        )
    assert found == expected


@settings(max_examples=300)
@given(integers(0, 132), integers(1, 255), integers(0, 133))
def test_no_mutation_of_v2_raises_anything_else(at: int, flip: int, cut: int) -> None:
    """CBC does not notice everything, but no foreign exception gets out."""
    changed = bytearray(b64decode(seal(V2)))
    changed[at] ^= flip
    for data in (changed, changed[:cut]):
        try:
            found = open_token(b64encode(data).decode(), KEYS.get)
        except TokenError:
            continue
        assert isinstance(found, AdvertisingToken)


@settings(max_examples=300)
@given(
    text(max_size=300)
    | binary(max_size=200).map(lambda data: b64encode(data).decode())
    | tuples(
        sampled_from([b"\x02\0\0\0\xa4", b"\x03\x80\0\0\0\xa4", b"\x13\x70\0\0\0\xa4"]),
        binary(max_size=200),
    ).map(lambda parts: b64encode(b"".join(parts)).decode())
)
def test_no_text_raises_anything_else(value: str) -> None:
    """Whatever comes, it does not open, and says why."""
    assert isinstance(failure(value), TokenFailure)
