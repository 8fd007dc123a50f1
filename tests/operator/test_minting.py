"""Refresh tokens and their wrapper, and each way in which they do not open."""

from __future__ import annotations

import json
import pickle
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis.strategies import binary, builds, integers, sampled_from, text
from msgspec import structs

from refresh_tokens import encrypt_refresh_token
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.http_messages import RefusedError
from uid2_async.operator.minting import (
    WRAPPED_CHARS,
    RefreshToken,
    RefreshTokenError,
    RefreshTokenFailure as Failure,
    decrypt_inner_token,
    unwrap_refresh_token,
    wrap_refresh_token,
)
from uid2_async.protocol.keyring import Key

WORLDS = Path(__file__).parents[1] / "conformance"
UID2, EUID = IdentityScope
EMAIL, PHONE = IdentityType

KEY = Key(id=166, secret=bytes(range(32)), created=0, activates=0, expires=2**40)
KEYS = {KEY.id: KEY}
GCM_IV, CBC_IV = b"gcm iv 12 by", b"cbc iv 16 bytes."
RESPONSE_KEY = bytes(range(32, 64))
TOKEN = RefreshToken(
    scope=UID2,
    identity_type=PHONE,
    expires_ms=1_702_592_000_123,
    created_ms=1_700_000_000_123,
    site_id=124,
    privacy_bits=1,
    established_ms=1_699_990_000_456,
    first_level_hash=b"this is the first-level hash 32!",
)
V2 = attrs.evolve(TOKEN, version=2, identity_type=EMAIL)

int32, int64 = integers(-(2**31), 2**31 - 1), integers(-(2**63), 2**63 - 1)
tokens = builds(
    RefreshToken,
    scope=sampled_from(IdentityScope),
    identity_type=sampled_from(IdentityType),
    expires_ms=int64,
    created_ms=int64,
    site_id=int32,
    privacy_bits=int32,
    established_ms=int64,
    first_level_hash=binary(min_size=32, max_size=32),
)


def refusal(call: Callable[..., object], text: str) -> RefreshTokenError:
    """Give the error that opening *text* raises."""
    with pytest.raises(RefreshTokenError) as caught:
        call(text, KEYS.get)
    assert caught.value.__context__ is None
    return caught.value


def reseal_v3(kind: int, payload: bytes) -> str:
    """Seal any payload as a v3 token."""
    head = bytes((kind, 112)) + KEY.id.to_bytes(4, "big")
    return b64encode(head + KEY.seal_gcm(GCM_IV, payload)).decode()


def reseal_v2(payload: bytes) -> str:
    """Seal any payload as a v2 token."""
    head = b"\x02" + bytes(24) + KEY.id.to_bytes(4, "big")
    return b64encode(head + KEY.seal_cbc(CBC_IV, payload)).decode()


def rewrap(payload: bytes) -> str:
    """Seal any payload as a wrapper."""
    head = b"\0" + KEY.id.to_bytes(4, "big")
    return b64encode(head + KEY.seal_gcm(GCM_IV, payload)).decode()


def test_the_vectors(vectors: dict[str, Any]) -> None:
    """Both inner versions and the wrapper come out exactly, and open again."""
    case = vectors["refresh_tokens"]
    given_key = vectors["token_keys"]["refresh"]
    key = structs.replace(
        KEY, id=given_key["id"], secret=b64decode(given_key["secret_b64"])
    )
    v3 = RefreshToken(
        scope=UID2,
        identity_type=EMAIL,
        first_level_hash=b64decode(case["first_level_hash_b64"]),
        **{name: case[name] for name in ("site_id", "privacy_bits", "created_ms")},
        **{name: case[name] for name in ("established_ms", "expires_ms")},
    )
    inner_v3 = encrypt_refresh_token(v3, key, iv=bytes.fromhex(case["inner_v3_iv_hex"]))
    assert inner_v3 == case["inner_v3_b64"]
    assert decrypt_inner_token(inner_v3, {key.id: key}.get) == v3

    v2 = attrs.evolve(v3, version=2)
    inner_v2 = encrypt_refresh_token(v2, key, iv=bytes.fromhex(case["inner_v2_iv_hex"]))
    assert inner_v2 == case["inner_v2_b64"]
    opened = decrypt_inner_token(inner_v2, {key.id: key}.get)
    assert opened == attrs.evolve(v2, expires_ms=v2.expires_ms + 60_000)

    response_key = b64decode(case["refresh_response_key_b64"])
    wrapped = wrap_refresh_token(
        inner_v3,
        response_key,
        key,
        scope=UID2,
        iv=bytes.fromhex(case["wrapper_iv_hex"]),
    )
    assert wrapped == case["wrapped_b64"]
    assert len(wrapped) == case["wrapped_chars"] == WRAPPED_CHARS
    assert unwrap_refresh_token(wrapped, {key.id: key}.get) == (inner_v3, response_key)


@pytest.mark.parametrize("world", ["uid2", "euid"])
def test_every_recorded_token_is_what_we_would_write(world: str) -> None:
    """A token of a real operator opens, and encrypting it again gives the same text."""
    folder = WORLDS / world
    listed = json.loads((folder / "world" / "keyset_keys.json").read_bytes())
    keys = {
        one["id"]: structs.replace(KEY, id=one["id"], secret=b64decode(one["secret"]))
        for one in listed
    }
    count = 0
    for case in json.loads((folder / "exchanges.json").read_bytes())["cases"]:
        body = json.loads(case["response"]["opened"] or "{}").get("body")
        if not isinstance(body, dict) or "refresh_token" not in body:
            continue
        count += 1
        wrapped = body["refresh_token"]
        inner, response_key = unwrap_refresh_token(wrapped, keys.get)
        assert b64encode(response_key).decode() == body["refresh_response_key"]
        token = decrypt_inner_token(inner, keys.get)
        assert token.expires_ms == body["refresh_expires"]
        assert token.scope is IdentityScope(world.upper())
        outer_data, inner_data = b64decode(wrapped), b64decode(inner)
        key = keys[int.from_bytes(outer_data[1:5], "big")]
        again = encrypt_refresh_token(token, key, iv=inner_data[6:18])
        assert again == inner
        assert wrapped == wrap_refresh_token(
            again, response_key, key, scope=token.scope, iv=outer_data[5:17]
        )
    assert count > 100


@given(tokens, binary(min_size=12, max_size=12))
def test_v3_round_trip(token: RefreshToken, iv: bytes) -> None:
    """Every v3 token is read as it was written, in 168 characters."""
    sealed = encrypt_refresh_token(token, KEY, iv=iv)
    assert len(sealed) == 168
    assert decrypt_inner_token(sealed, KEYS.get) == token


@given(tokens.filter(lambda one: one.expires_ms < 2**63 - 60_000))
def test_v2_round_trip(token: RefreshToken) -> None:
    """A v2 token is read as UID2 and email, and holds a minute longer."""
    token = attrs.evolve(token, version=2)
    sealed = encrypt_refresh_token(token, KEY, iv=CBC_IV)
    assert len(sealed) == 168
    assert decrypt_inner_token(sealed, KEYS.get) == attrs.evolve(
        token, scope=UID2, identity_type=EMAIL, expires_ms=token.expires_ms + 60_000
    )


@pytest.mark.parametrize("token", [TOKEN, V2])
@pytest.mark.parametrize("scope", IdentityScope)
def test_wrapper_round_trip(token: RefreshToken, scope: IdentityScope) -> None:
    """Either version is wrapped in 388 characters that begin with the scope."""
    iv = GCM_IV if token.version == 3 else CBC_IV
    inner = encrypt_refresh_token(token, KEY, iv=iv)
    wrapped = wrap_refresh_token(inner, RESPONSE_KEY, KEY, scope=scope, iv=GCM_IV)
    assert len(wrapped) == 388
    assert wrapped.startswith("AAAA" if scope is UID2 else "EAAA")
    assert unwrap_refresh_token(wrapped, KEYS.get) == (inner, RESPONSE_KEY)


def test_the_hash_is_not_shown() -> None:
    """The first-level hash identifies a person."""
    assert "this is" not in repr(TOKEN)


def test_the_error_pickles_and_shows_no_token() -> None:
    """It has only the reason and the key id."""
    error = pickle.loads(pickle.dumps(RefreshTokenError(Failure.UNKNOWN_KEY, -5)))  # noqa: S301 - made here
    assert (error.reason, error.key_id) == (Failure.UNKNOWN_KEY, -5)


def test_what_cannot_be_sealed() -> None:
    """A wrapper of another length, as of a wrong hash."""
    short = attrs.evolve(TOKEN, first_level_hash=bytes(31))
    for inner in ("short", encrypt_refresh_token(short, KEY, iv=GCM_IV)):
        with pytest.raises(RefusedError):
            wrap_refresh_token(inner, RESPONSE_KEY, KEY, scope=UID2, iv=GCM_IV)


@pytest.mark.parametrize(
    ("body", "reason", "malformed"),
    [
        ("", Failure.EMPTY, True),
        ("not base64!", Failure.NOT_BASE64, True),
        ("ÄÄÄÄ", Failure.NOT_BASE64, True),
        ("AAAA\n", Failure.NOT_BASE64, True),
        ("AA==", Failure.TOO_SHORT, False),
        ("Ag==", Failure.TOO_SHORT, False),
        ("AgAA", Failure.TOO_SHORT, False),
        ("A3AA", Failure.TOO_SHORT, False),
        ("AAAA", Failure.UNKNOWN_VERSION, True),
        ("A4AA" * 30, Failure.UNKNOWN_VERSION, True),
    ],
)
def test_bodies_that_are_no_token(
    body: str, reason: Failure, *, malformed: bool
) -> None:
    """Each has its own reason; only what is cut off makes the operator fail (2.2)."""
    error = refusal(decrypt_inner_token, body)
    assert error.reason is reason
    assert error.reason.malformed is malformed


def test_an_unknown_key_is_named_with_its_sign() -> None:
    """Key ids are signed, in both versions and in the wrapper (2.2)."""
    for call, data in [
        (decrypt_inner_token, b"\x03\x70\xff\xff\xff\xfe" + bytes(118)),
        (decrypt_inner_token, b"\x02" + bytes(24) + b"\xff\xff\xff\xfe" + bytes(96)),
        (unwrap_refresh_token, b"\x00\xff\xff\xff\xfe" + bytes(286)),
    ]:
        error = refusal(call, b64encode(data).decode())
        assert error.reason is Failure.UNKNOWN_KEY
        assert error.key_id == -2
        assert error.reason.malformed


def test_version_3_is_looked_for_before_version_2() -> None:
    """A token with both marks is read as v3 (5.5)."""
    data = b"\x02\x70" + bytes(122)
    assert refusal(decrypt_inner_token, b64encode(data).decode()).key_id == 0


@pytest.mark.parametrize("at", [6, 20, -1])
def test_a_tampered_v3_token_is_undecryptable(at: int) -> None:
    """Not invalid, but a failure of the operator (2.2)."""
    data = bytearray(b64decode(encrypt_refresh_token(TOKEN, KEY, iv=GCM_IV)))
    data[at] ^= 1
    error = refusal(decrypt_inner_token, b64encode(data).decode())
    assert error.reason is Failure.UNDECRYPTABLE
    assert not error.reason.malformed


@pytest.mark.parametrize("kind", [0x03, 0x17, 0x0B, 0x0F])
def test_another_scope_or_type_in_the_header_is_a_mismatch(kind: int) -> None:
    """The header is not protected, so it is compared with the payload (5.5)."""
    data = bytearray(b64decode(encrypt_refresh_token(TOKEN, KEY, iv=GCM_IV)))
    assert data[0] == 0x07
    data[0] = kind
    error = refusal(decrypt_inner_token, b64encode(data).decode())
    assert error.reason is Failure.MISMATCH
    assert error.reason.malformed


def test_a_type_that_does_not_exist_is_a_mismatch() -> None:
    """Even where header and payload agree on it."""
    payload = bytes(57) + b"\x0b" + bytes(32)
    assert refusal(decrypt_inner_token, reseal_v3(0x0B, payload)).reason is (
        Failure.MISMATCH
    )


def test_the_other_bits_of_the_header_are_not_looked_at() -> None:
    """Only scope and type are compared."""
    data = bytearray(b64decode(encrypt_refresh_token(TOKEN, KEY, iv=GCM_IV)))
    data[0] ^= 0xE3
    assert decrypt_inner_token(b64encode(data).decode(), KEYS.get) == TOKEN


def test_a_sealed_payload_that_is_too_short() -> None:
    """Only the holder of the key could make one; the operator fails."""
    for sealed in (reseal_v3(3, bytes(89)), reseal_v2(bytes(7))):
        assert refusal(decrypt_inner_token, sealed).reason is Failure.TOO_SHORT


def test_the_v2_identity_segment() -> None:
    """Its length and its base64 are checked, then what follows must be there."""

    def write(length: int, rest: bytes) -> str:
        return reseal_v2(bytes(4) + length.to_bytes(4, "big", signed=True) + rest)

    good = b64encode(bytes(32)) + bytes(12)
    assert decrypt_inner_token(write(44, good), KEYS.get).first_level_hash == bytes(32)
    for sealed in (write(-1, good), write(57, good), write(44, b"!" * 56)):
        assert refusal(decrypt_inner_token, sealed).reason is Failure.BAD_IDENTITY
    assert (
        refusal(decrypt_inner_token, write(44, good[:-1])).reason is Failure.TOO_SHORT
    )


def test_a_wrongly_padded_v2_token_is_undecryptable() -> None:
    """The padding is verified."""
    data = bytearray(b64decode(encrypt_refresh_token(V2, KEY, iv=CBC_IV)))
    data[-17] ^= 1
    error = refusal(decrypt_inner_token, b64encode(data).decode())
    assert error.reason is Failure.UNDECRYPTABLE


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("!" * 388, Failure.NOT_BASE64),
        ("AAAA", Failure.TOO_SHORT),
        (rewrap(b"")[:-1] + "A", Failure.UNDECRYPTABLE),
        (rewrap(b""), Failure.BAD_JSON),
        (rewrap(b"[]"), Failure.BAD_JSON),
        (rewrap(b"{}"), Failure.BAD_JSON),
        (rewrap(b'{"refresh_response_key":null}'), Failure.BAD_JSON),
        (rewrap(b'{"refresh_response_key":"!"}'), Failure.BAD_JSON),
        (rewrap(b'{"refresh_response_key":{}}'), Failure.BAD_JSON),
        (rewrap(b'{"refresh_response_key":-5}'), Failure.BAD_JSON),
    ],
)
def test_bodies_that_are_no_wrapper(body: str, reason: Failure) -> None:
    """Each has its own reason (2.2)."""
    assert refusal(unwrap_refresh_token, body).reason is reason


def test_a_wrapper_without_a_token_holds_an_empty_one() -> None:
    """Only the response key is required; the token is checked when it is opened."""
    key = b64encode(RESPONSE_KEY).decode()
    wrapped = rewrap(json.dumps({"refresh_response_key": key}).encode())
    assert unwrap_refresh_token(wrapped, KEYS.get) == ("", RESPONSE_KEY)


@pytest.mark.parametrize(
    ("fields", "text", "key"),
    [
        ('"refresh_response_key":"AAAA","refresh_token":null', "", bytes(3)),
        ('"refresh_response_key":"AAAA","refresh_token":5', "5", bytes(3)),
        ('"refresh_response_key":"AAAA","refresh_token":[]', "[]", bytes(3)),
        ('"refresh_response_key":"","refresh_token":{"a":1}', "{a=1}", b""),
        ('/**/"refresh_response_key":1234,"x":1', "", b"\xd7\x6d\xf8"),
    ],
)
def test_a_forged_wrapper_is_read_as_leniently(
    fields: str, text: str, key: bytes
) -> None:
    """Values become text, and any base64 is a key until it has to seal (2.2)."""
    wrapped = rewrap(f"{{{fields}}}".encode())

    assert unwrap_refresh_token(wrapped, KEYS.get) == (text, key)


@given(
    sampled_from([encrypt_refresh_token(TOKEN, KEY, iv=GCM_IV)]),
    integers(0, 123),
    integers(1, 255),
)
def test_no_mutation_of_v3_is_read_as_something_else(
    sealed: str, at: int, flip: int
) -> None:
    """Any changed byte is noticed, but for the bits of byte 0 that nobody reads."""
    data = bytearray(b64decode(sealed))
    data[at] ^= flip
    try:
        found = decrypt_inner_token(b64encode(data).decode(), KEYS.get)
    except RefreshTokenError:
        return
    assert at == 0
    assert found == TOKEN


@given(integers(0, 124), integers(1, 255), integers(0, 124))
def test_no_mutation_of_v2_raises_anything_else(at: int, flip: int, cut: int) -> None:
    """CBC does not notice everything, but no foreign exception gets out."""
    data = bytearray(b64decode(encrypt_refresh_token(V2, KEY, iv=CBC_IV)))
    data[at] ^= flip
    for changed in (data, data[:cut]):
        try:
            found = decrypt_inner_token(b64encode(changed).decode(), KEYS.get)
        except RefreshTokenError:
            continue
        assert isinstance(found, RefreshToken)


@given(text(max_size=400) | binary(max_size=300).map(lambda x: b64encode(x).decode()))
def test_no_body_raises_anything_else(body: str) -> None:
    """Whatever a caller sends, it does not open, and says why."""
    assert isinstance(refusal(decrypt_inner_token, body).reason, Failure)
    assert isinstance(refusal(unwrap_refresh_token, body).reason, Failure)
