"""From identity bytes to raw UIDs, and back to what their bytes tell."""

from __future__ import annotations

from base64 import b64decode, b64encode
from functools import reduce
from hashlib import sha256
from operator import xor
from typing import Any

import pytest
from hypothesis import given
from hypothesis.strategies import binary, integers, sampled_from, text

from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.salts import (
    bucket_index,
    first_level_hash,
    raw_uid_v2,
    raw_uid_v3,
    raw_uid_v4,
)
from uid2_async.protocol.raw_uid import (
    TYPE_BYTES,
    Environment,
    RawUIDInfo,
    inspect_raw_uid,
    inspect_raw_uid_bytes,
    restore_environment,
    type_byte,
)

UID2, EUID = IdentityScope
EMAIL, PHONE = IdentityType
KEY = "key12345key12345key12345key12345"
SALT = "salt1234salt1234salt1234salt1234"

scopes, types = sampled_from(IdentityScope), sampled_from(IdentityType)


def test_every_v4_vector(vectors: dict[str, Any]) -> None:
    """The twelve raw UIDs of all scopes, types and environments come out exactly."""
    assert len(vectors["raw_uid_v4"]) == 12
    for case in vectors["raw_uid_v4"]:
        scope = tuple(IdentityScope)[case["scope"]]
        identity_type = tuple(IdentityType)[case["type"]]
        made = raw_uid_v4(
            b64decode(case["first_level_hash_b64"]),
            case["key_id"],
            case["key"],
            case["salt"],
            scope=scope,
            identity_type=identity_type,
            environment=Environment(case["environment"]),
        )
        assert b64encode(made).decode() == case["raw_uid"]
        assert made[:1].hex() == case["metadata_hex"]
        assert case["raw_uid"][0] == case["first_char"]
        assert inspect_raw_uid(case["raw_uid"]) == RawUIDInfo(
            version=4,
            scope=scope,
            identity_type=identity_type,
            environment=Environment(case["environment"]),
            key_id=case["key_id"],
        )


def test_first_level_hash_takes_the_base64_text() -> None:
    """What is hashed is the base64 of the identity and the salt as text (4.1)."""
    identity = sha256(b"user@example.com").digest()
    expected = sha256(b64encode(identity) + "sält".encode()).digest()
    assert first_level_hash(identity, "sält") == expected


@pytest.mark.parametrize("size", [31, 33])
def test_first_level_hash_takes_odd_identities(size: int) -> None:
    """Odd hashes have 31 or 33 bytes, and are no error (3.3)."""
    assert len(first_level_hash(bytes(size), "salt")) == 32


@pytest.mark.parametrize(
    ("head", "count", "index"),
    [
        ("000000", 1_048_576, 0),
        ("ffffff", 1_048_576, 1_048_575),
        ("fffff0", 1_048_576, 1_048_560),
        ("0000f1", 1_048_576, 1),
        ("123456", 1_048_576, 0x12346),
        ("123456", 1000, 0x12346 % 1000),
        ("123456", 1, 0),
    ],
)
def test_bucket_index(head: str, count: int, index: int) -> None:
    """Two bytes and the low nibble of the third count, modulo the lines (4.2)."""
    assert bucket_index(bytes.fromhex(head) + bytes(29), count) == index


def test_v2_is_a_bare_hash() -> None:
    """v2 hashes the base64 of the first-level hash with the salt, 32 bytes (4.4)."""
    flh = bytes(range(32))
    assert raw_uid_v2(flh, "salt") == sha256(b64encode(flh) + b"salt").digest()


@pytest.mark.parametrize(
    ("scope", "identity_type", "char"),
    [(UID2, EMAIL, "A"), (UID2, PHONE, "B"), (EUID, EMAIL, "E"), (EUID, PHONE, "F")],
)
def test_v3_is_the_v2_hash_after_a_type_byte(
    scope: IdentityScope, identity_type: IdentityType, char: str
) -> None:
    """The first character of the base64 gives scope and type (4.4)."""
    flh = bytes(range(32))
    made = raw_uid_v3(flh, "salt", scope=scope, identity_type=identity_type)
    assert made[1:] == raw_uid_v2(flh, "salt")
    assert b64encode(made).decode()[0] == char
    assert inspect_raw_uid_bytes(made) == RawUIDInfo(
        version=3, scope=scope, identity_type=identity_type
    )


def test_v4_writes_24_bits_of_the_key_id() -> None:
    """A key id beyond 24 bits is cut to its low ones."""
    made = raw_uid_v4(
        bytes(32),
        0x7F_12_34_56,
        KEY,
        SALT,
        scope=UID2,
        identity_type=EMAIL,
        environment=Environment.TEST,
    )
    assert made[1:4].hex() == "123456"


@given(
    binary(min_size=32, max_size=32),
    integers(0, 2**24 - 1),
    scopes,
    types,
    sampled_from(Environment),
)
def test_v4_always_tells_what_it_was_made_from(
    flh: bytes,
    key_id: int,
    scope: IdentityScope,
    identity_type: IdentityType,
    environment: Environment,
) -> None:
    """Scope, type, environment and key id are read back; the XOR of all bytes is 0."""
    made = raw_uid_v4(
        flh,
        key_id,
        KEY,
        SALT,
        scope=scope,
        identity_type=identity_type,
        environment=environment,
    )
    assert len(made) == 33
    assert reduce(xor, made) == 0
    assert inspect_raw_uid(b64encode(made).decode()) == RawUIDInfo(
        version=4,
        scope=scope,
        identity_type=identity_type,
        environment=environment,
        key_id=key_id,
    )


def test_v2_tells_nothing() -> None:
    """32 bytes are a v2 raw UID, whatever they are."""
    assert inspect_raw_uid_bytes(b"\xff" * 32) == RawUIDInfo(version=2)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(31), id="31 bytes"),
        pytest.param(bytes(34), id="34 bytes"),
        pytest.param(b"\x08" + bytes(32), id="type 2"),
        pytest.param(b"\x0c" + bytes(32), id="type 3"),
        pytest.param(b"\x03" + bytes(32), id="low bits"),
        pytest.param(b"\x40" + bytes(32), id="environment without the flag"),
        pytest.param(b"\xe0" + bytes(31) + b"\xe0", id="environment 3"),
        pytest.param(b"\x20" + bytes(31) + b"\x21", id="wrong checksum"),
    ],
)
def test_other_bytes_are_no_raw_uid(data: bytes) -> None:
    """Wrong sizes, unknown types and environments, and wrong checksums are refused."""
    assert inspect_raw_uid_bytes(data) is None
    assert inspect_raw_uid(b64encode(data).decode()) is None


@pytest.mark.parametrize("value", ["", "A" * 43, "A" * 45, "-" * 44, "Ä" * 44])
def test_other_text_is_no_raw_uid(value: str) -> None:
    """A raw UID is 44 characters of standard base64."""
    assert inspect_raw_uid(value) is None


@given(text(max_size=60) | binary(min_size=33, max_size=33).map(b64encode).map(str))
def test_inspect_never_raises(value: str) -> None:
    """Any text is answered."""
    assert inspect_raw_uid(value) is None or len(value) == 44


@given(scopes, types)
def test_a_type_byte_is_read_as_it_was_written(
    scope: IdentityScope, identity_type: IdentityType
) -> None:
    """The other bits of the byte do not matter."""
    byte = type_byte(scope, identity_type)
    assert TYPE_BYTES[byte] == TYPE_BYTES[byte | 0b1110_0011] == (scope, identity_type)


def test_the_environment_is_restored_in_every_v4_vector(
    vectors: dict[str, Any],
) -> None:
    """From the check byte, where an opt-out record keeps six bits of byte 0 (2.7)."""
    for case in vectors["raw_uid_v4"]:
        whole = b64decode(case["raw_uid"])
        dropped = bytes([whole[0] & 0x3F]) + whole[1:]
        assert restore_environment(dropped) == restore_environment(whole) == whole


@given(binary(max_size=40))
def test_nothing_else_is_restored(data: bytes) -> None:
    """What is not a v4 raw UID, or is foreign, stays as it is."""
    v3 = b"\x04" + data
    wrong = b"\x20" + (data + bytes(32))[:31] + bytes([reduce(xor, data, 0x21)])
    for one in (data[:32], v3):
        assert restore_environment(one) is one
    assert restore_environment(wrong)[1:] == wrong[1:]
