"""The format of raw UIDs (docs/protocol.md 4.4).

Three formats coexist. v2 is only a hash. v3 is a type byte and a hash. v4 is a part of
the first-level hash, encrypted with the key of its salt bucket.
"""

from __future__ import annotations

from enum import IntEnum
from functools import reduce
from operator import xor
from typing import Final

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol import base64

RAW_UID_SIZES = (32, 33)
"""The sizes of a raw UID of v2, and of v3 and v4, in bytes."""

TYPE_MASK = 0b0001_1100
"""The bits of a type byte that contain the scope and the identity type."""

_TEXT_LENGTH = 44
V4_FLAG = 1 << 5


class Environment(IntEnum):
    """The environment in which a v4 raw UID was created (docs/protocol.md 4.4)."""

    TEST = 0
    INTEG = 1
    PROD = 2


@attrs.frozen(kw_only=True)
class RawUIDInfo:
    """What the bytes of a raw UID show without any key.

    Attributes:
        version: 2, 3 or 4.
        scope: UID2 or EUID. None for v2.
        identity_type: The type of the identity: email or phone. None for v2.
        environment: The environment in which it was created. None for v2 and v3.
        key_id: The low 24 bits of the ID of the bucket's key. None for v2 and v3.
    """

    version: int
    scope: IdentityScope | None = None
    identity_type: IdentityType | None = None
    environment: Environment | None = None
    key_id: int | None = None


def type_byte(scope: IdentityScope, identity_type: IdentityType) -> int:
    """Encode scope and identity type as the bits of raw UIDs and tokens."""
    return scope.bit << 4 | identity_type.bit << 2


def _read_type_byte(byte: int) -> tuple[IdentityScope, IdentityType | None]:
    """Decode the scope, and the identity type if its two bits are valid."""
    types = (*IdentityType, None, None)
    return tuple(IdentityScope)[byte >> 4 & 1], types[byte >> 2 & 3]


TYPE_BYTES: Final = tuple(_read_type_byte(byte) for byte in range(256))
"""The scope, and the identity type or None, of each type byte.

A table, because each token looks it up.
"""


def inspect_raw_uid(text: str) -> RawUIDInfo | None:
    """Return what a raw UID shows about itself, or None if *text* cannot be one.

    A v2 raw UID contains no information, so any 32 bytes are accepted as one.
    """
    data = base64.decode(text) if len(text) == _TEXT_LENGTH else None
    return None if data is None else inspect_raw_uid_bytes(data)


def inspect_raw_uid_bytes(data: bytes) -> RawUIDInfo | None:
    """Return the same for the bytes of a raw UID (docs/protocol.md 4.4)."""
    version = raw_uid_version(len(data), data[0] if data else 0)
    if version is None:
        return None
    if version == 2:  # noqa: PLR2004 - v2
        return RawUIDInfo(version=version)
    scope, identity_type = TYPE_BYTES[data[0]]
    if version == 3:  # noqa: PLR2004 - v3
        return RawUIDInfo(version=version, scope=scope, identity_type=identity_type)
    # The last byte is the XOR of all others, so the XOR of all bytes must be 0.
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
    """Return the version of a raw UID by its size in bytes and its first byte.

    Returns None if it cannot be a raw UID. The checksum of v4 is not verified.
    """
    if size == RAW_UID_SIZES[0]:
        return 2
    if size != RAW_UID_SIZES[1] or TYPE_BYTES[first][1] is None or first & 0b11:
        return None
    if first & ~TYPE_MASK == 0:
        return 3
    return 4 if first & V4_FLAG and first >> 6 <= Environment.PROD else None


def restore_environment(data: bytes) -> bytes:
    """Restore the environment of a v4 raw UID, which an opt-out record drops.

    Such a record keeps only the low six bits of byte 0 (docs/protocol.md 2.7). The last
    byte is the XOR of all others before that, and so determines the two missing bits.

    Args:
        data: The bytes of a raw UID of any version.

    Returns:
        The bytes as the operator created them. Returns *data* if nothing is missing.
    """
    if len(data) != RAW_UID_SIZES[1] or not data[0] & V4_FLAG:
        return data
    missing = reduce(xor, data)
    if missing & 0x3F or data[0] >> 6:
        return data
    return bytes((data[0] | missing,)) + data[1:]


strip_tracebacks(globals())
