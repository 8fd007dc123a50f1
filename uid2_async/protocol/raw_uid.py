"""From identity bytes to a raw UID, and what the bytes of a raw UID tell.

Three formats coexist (docs/protocol.md 4.4): v2 is a bare hash, v3 a hash after a type
byte, v4 a part of the first-level hash sealed under the key of its salt bucket.
"""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from hashlib import sha256
from operator import xor
from typing import Final

import attrs
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol import base64

__all__ = [
    "RAW_UID_SIZES",
    "TYPE_BYTES",
    "TYPE_MASK",
    "Environment",
    "RawUIDInfo",
    "bucket_index",
    "first_level_hash",
    "inspect_raw_uid",
    "inspect_raw_uid_bytes",
    "raw_uid_v2",
    "raw_uid_v3",
    "raw_uid_v4",
    "raw_uid_version",
    "restore_environment",
    "type_byte",
]

RAW_UID_SIZES = (32, 33)
"""How many bytes a raw UID has, v2, and v3 or v4."""

TYPE_MASK = 0b0001_1100
"""The bits of a type byte that hold the scope and the identity type."""

_TEXT_LENGTH = 44
_V4_FLAG = 1 << 5
_V4_SEALED = slice(16, 32)
_V4_IV_SIZE = 12
_CTR_START = bytes(4)


class Environment(IntEnum):
    """Where a v4 raw UID was made (docs/protocol.md 4.4)."""

    TEST = 0
    INTEG = 1
    PROD = 2


@attrs.frozen(kw_only=True)
class RawUIDInfo:
    """What the bytes of a raw UID tell, without any key.

    Attributes:
        version: 2, 3 or 4.
        scope: UID2 or EUID; None for v2.
        identity_type: What it was made from; None for v2.
        environment: Where it was made; None for v2 and v3.
        key_id: The low 24 bits of the id of the bucket's key; None for v2 and v3.
    """

    version: int
    scope: IdentityScope | None = None
    identity_type: IdentityType | None = None
    environment: Environment | None = None
    key_id: int | None = None


def type_byte(scope: IdentityScope, identity_type: IdentityType) -> int:
    """Write the bits of scope and type, as they stand in raw UIDs and tokens."""
    return scope.bit << 4 | identity_type.bit << 2


def _read_type_byte(byte: int) -> tuple[IdentityScope, IdentityType | None]:
    """Read the scope, and the identity type where the two bits name one."""
    types = (*IdentityType, None, None)
    return tuple(IdentityScope)[byte >> 4 & 1], types[byte >> 2 & 3]


TYPE_BYTES: Final = tuple(_read_type_byte(byte) for byte in range(256))
"""What each type byte says, namely the scope, and the identity type or None.

A table, because it is read for each token.
"""


def first_level_hash(identity: bytes, first_level_salt: str) -> bytes:
    """Hash an identity with the salt that all buckets share (docs/protocol.md 4.1).

    Args:
        identity: The identity bytes, mostly 32 (docs/protocol.md 3.3).
        first_level_salt: The salt as it stands in the metadata: text, not decoded.
    """
    return sha256(base64.encode(identity) + first_level_salt.encode()).digest()


def bucket_index(flh: bytes, count: int) -> int:
    """Choose the line of the salt file, of *count* lines (docs/protocol.md 4.2)."""
    return (flh[0] << 12 | flh[1] << 4 | flh[2] & 0x0F) % count


def raw_uid_v2(flh: bytes, salt: str) -> bytes:
    """Make the 32 bytes of a v2 raw UID from the first-level hash *flh*."""
    return sha256(base64.encode(flh) + salt.encode()).digest()


def raw_uid_v3(
    flh: bytes, salt: str, *, scope: IdentityScope, identity_type: IdentityType
) -> bytes:
    """Make the 33 bytes of a v3 raw UID from the first-level hash *flh*."""
    return bytes((type_byte(scope, identity_type),)) + raw_uid_v2(flh, salt)


def raw_uid_v4(
    flh: bytes,
    key_id: int,
    key: str,
    salt: str,
    *,
    scope: IdentityScope,
    identity_type: IdentityType,
    environment: Environment,
) -> bytes:
    """Make the 33 bytes of a v4 raw UID from the first-level hash *flh*.

    Args:
        flh: The first-level hash, 32 bytes.
        key_id: The id of the bucket's key; its low 24 bits are written.
        key: The bucket's key, 32 ASCII characters that are not decoded.
        salt: The salt of that key, text as well.
        scope: UID2 or EUID.
        identity_type: What the identity is.
        environment: Where the operator runs.

    Raises:
        ValueError: If *key* is no AES key.
    """
    # A shorter one can only come from a forged refresh token; Java fills it up.
    sealed = flh[_V4_SEALED].ljust(_V4_SEALED.stop - _V4_SEALED.start, b"\0")
    metadata = environment << 6 | _V4_FLAG | type_byte(scope, identity_type)
    header = bytes((metadata,)) + (key_id & 0xFFFFFF).to_bytes(3, "big")
    iv = sha256(salt.encode() + sealed + header).digest()[:_V4_IV_SIZE]
    cipher = Cipher(AES(key.encode()), CTR(iv + _CTR_START)).encryptor()
    body = header + iv + cipher.update(sealed) + cipher.finalize()
    return body + bytes((reduce(xor, body),))


def inspect_raw_uid(text: str) -> RawUIDInfo | None:
    """Tell what a raw UID says of itself, or None where *text* cannot be one.

    A v2 raw UID carries no information, so any 32 bytes pass for one.
    """
    data = base64.decode(text) if len(text) == _TEXT_LENGTH else None
    return None if data is None else inspect_raw_uid_bytes(data)


def inspect_raw_uid_bytes(data: bytes) -> RawUIDInfo | None:
    """Tell the same from the bytes of a raw UID (docs/protocol.md 4.4)."""
    version = raw_uid_version(len(data), data[0] if data else 0)
    if version is None:
        return None
    if version == 2:  # noqa: PLR2004 - v2
        return RawUIDInfo(version=version)
    scope, identity_type = TYPE_BYTES[data[0]]
    if version == 3:  # noqa: PLR2004 - v3
        return RawUIDInfo(version=version, scope=scope, identity_type=identity_type)
    # The last byte is the XOR of all others, so that the XOR of all bytes is 0.
    if reduce(xor, data):
        return None
    return RawUIDInfo(
        version=version,
        scope=scope,
        identity_type=identity_type,
        environment=Environment(data[0] >> 6),
        key_id=int.from_bytes(data[1:4], "big"),
    )


def raw_uid_version(size: int, first: int) -> int | None:
    """Tell the version of a raw UID by its size in bytes and its first byte.

    None is one that cannot be; a v4 raw UID may still have a wrong checksum.
    """
    if size == RAW_UID_SIZES[0]:
        return 2
    if size != RAW_UID_SIZES[1] or TYPE_BYTES[first][1] is None or first & 0b11:
        return None
    if first & ~TYPE_MASK == 0:
        return 3
    return 4 if first & _V4_FLAG and first >> 6 <= Environment.PROD else None


def restore_environment(data: bytes) -> bytes:
    """Give a v4 raw UID back the environment that an opt-out record drops.

    Such a record keeps the low six bits of byte 0 (docs/protocol.md 2.7). The last byte
    is the XOR of all others as they were, and so tells the two that are missing.

    Args:
        data: The bytes of a raw UID of any version.

    Returns:
        The bytes as the operator made them; *data* itself where nothing is missing.
    """
    if len(data) != RAW_UID_SIZES[1] or not data[0] & _V4_FLAG:
        return data
    missing = reduce(xor, data)
    if missing & 0x3F or data[0] >> 6:
        return data
    return bytes((data[0] | missing,)) + data[1:]


strip_tracebacks(globals())
