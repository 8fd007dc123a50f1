"""What an advertising token is made of: its fields and their layouts.

The layouts are those of docs/protocol.md 5.2 (v2) and 5.3 (v3 and v4); the two latter
differ in nothing but the alphabet of their text.
"""

from __future__ import annotations

from struct import Struct
from typing import ClassVar

from uid2_async._traceback import strip_tracebacks
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.veiled import Veiled

__all__ = [
    "CLIENT_SIDE_GENERATED",
    "AdvertisingToken",
]

CLIENT_SIDE_GENERATED = 1 << 1
"""The privacy bit of tokens that a browser or app has generated."""

V2, V3, V4 = 2, 3, 4

# The version as tokens spell it: byte 0 in v2, byte 1 since v3.
V2_BYTE, V3_BYTE, V4_BYTE = 2, 112, 128
VERSIONS = {V3_BYTE: V3, V4_BYTE: V4}
VERSION_BYTES = {version: byte for byte, version in VERSIONS.items()}

# The low bits of a type byte make the second base64 character spell the version.
TYPE_FILL = 0b11

HEADER = Struct(">BBi")  # type byte, version, master key id
MASTER = Struct(">qqiBiii")  # expires, created, operator's four, site key id
MASTER_BRIEF = Struct(">qq13xi")  # the same without the operator, to be read fast
SITE = Struct(">iqiiqq")  # site, publisher, client key, bits, established, refreshed

HEADER_V2 = Struct(">Bi")  # version, master key id
MASTER_V2 = Struct(">qi")  # expires, site key id
SITE_V2 = Struct(">ii")  # site id, length of the raw UID's text
TAIL_V2 = Struct(">iq")  # privacy bits, established


class AdvertisingToken(Veiled, frozen=True, kw_only=True, gc=False):
    """What both shells of a token say, in one; times in ms since the Unix epoch.

    Attributes:
        version: 2, 3 or 4.
        scope: UID2 or EUID; None for v2, which does not say.
        identity_type: What the raw UID was made from; None for v2.
        master_key_id: The key of the outer shell.
        site_key_id: The key of the inner shell.
        expires_ms: Until when it holds.
        created_ms: When it was made; None for v2.
        operator_site_id: The operator's site.
        operator_type: 1 is a service.
        operator_version: The operator's version.
        operator_key_id: The operator's key.
        site_id: The publisher's site, or the sharer's.
        publisher_id: Not in use.
        client_key_id: Not in use.
        privacy_bits: int32, see docs/protocol.md 5.4.
        established_ms: When the identity was first generated.
        refreshed_ms: When it was last generated; None for v2.
        raw_uid: The raw UID in base64; in v2 the very text that was embedded.
    """

    shown: ClassVar[tuple[str, ...]] = (
        "version",
        "scope",
        "identity_type",
        "master_key_id",
        "site_key_id",
        "expires_ms",
        "created_ms",
        "site_id",
        "privacy_bits",
        "established_ms",
        "refreshed_ms",
    )

    version: int
    scope: IdentityScope | None = None
    identity_type: IdentityType | None = None
    master_key_id: int
    site_key_id: int
    expires_ms: int
    created_ms: int | None = None
    operator_site_id: int = 0
    operator_type: int = 1
    operator_version: int = 0
    operator_key_id: int = 0
    site_id: int
    publisher_id: int = 0
    client_key_id: int = 0
    privacy_bits: int = 0
    established_ms: int
    refreshed_ms: int | None = None
    raw_uid: str


strip_tracebacks(globals())
