"""What the bytes of a raw UID say (docs/protocol.md 4.4).

Three formats coexist: v2 is a bare hash, v3 a hash after a type byte, v4 a part of the
first-level hash, sealed under the key of its salt bucket.
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
"""How many bytes a raw UID has, v2, and v3 or v4."""

TYPE_MASK = 0b0001_1100
"""The bits of a type byte that hold the scope and the identity type."""

_TEXT_LENGTH = 44
V4_FLAG = 1 << 5


class Environment(IntEnum):
    """Where a v4 raw UID was made (docs/protocol.md 4.4)."""

    TEST = 0
    INTEG = 1
    PROD = 2


@attrs.frozen(kw_only=True)
class RawUIDInfo:
    """What the bytes of a raw UID reveal without a key.

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


def inspect_raw_uid(text: str) -> RawUIDInfo | None:
    """Return what a raw UID says about itself, or None if *text* cannot be one.

    A v2 raw UID carries no information, so any 32 bytes pass for one.
    """
    data = base64.decode(text) if len(text) == _TEXT_LENGTH else None
    return None if data is None else inspect_raw_uid_bytes(data)


def inspect_raw_uid_bytes(data: bytes) -> RawUIDInfo | None:
    """Return the same from the bytes of a raw UID (docs/protocol.md 4.4)."""
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
    """Return the version of a raw UID, by its size in bytes and its first byte.

    None means that it cannot be a raw UID. The checksum of v4 is not verified.
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

    Such a record keeps the low six bits of byte 0 (docs/protocol.md 2.7). The last byte
    is the XOR of all others as they were, and so gives the two missing ones.

    Args:
        data: The bytes of a raw UID of any version.

    Returns:
        The bytes as the operator made them; *data* itself if nothing is missing.
    """
    if len(data) != RAW_UID_SIZES[1] or not data[0] & V4_FLAG:
        return data
    missing = reduce(xor, data)
    if missing & 0x3F or data[0] >> 6:
        return data
    return bytes((data[0] | missing,)) + data[1:]


strip_tracebacks(globals())
