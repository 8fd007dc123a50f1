"""The bytes of advertising tokens v2, v3 and v4 (docs/protocol.md 5.1 to 5.4).

A token has two layers. The master key opens the outer one, which names the site key
that opens the inner one. :func:`open_shells` returns a
:class:`~uid2_async.TokenFailure` if that fails, because bulk work cannot afford an
exception for each bad row. :func:`open_token` is for a single token and raises.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import ClassVar, TypeAlias

from cryptography.exceptions import InvalidTag

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.errors import InputError, TokenError, TokenFailure
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.protocol import base64
from uid2_async.protocol.keyring import GCM_IV_SIZE, KeyLookup
from uid2_async.protocol.raw_uid import RAW_UID_SIZES, TYPE_BYTES, TYPE_MASK, type_byte

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


class AdvertisingToken(RedactedRepr, frozen=True, kw_only=True, gc=False):
    """What both layers of a token say, in one; times in ms since the Unix epoch.

    Attributes:
        version: 2, 3 or 4.
        scope: UID2 or EUID; None for v2, which does not say.
        identity_type: What the raw UID was made from; None for v2.
        master_key_id: The key of the outer layer.
        site_key_id: The key of the inner layer.
        expires_ms: When it expires.
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

    _repr_fields: ClassVar[tuple[str, ...]] = (
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


_HEADER_CHARS = 4

# What counts as the operator of a v2 token: site, type (a service), version and key.
_SERVICE = (0, 1, 0, 0)
_BARE_UID_BYTES, _TYPED_UID_BYTES = RAW_UID_SIZES

# Bound once, since looking them up costs as much as using them, for each token.
_HEADER_BYTES = HEADER.size
_MASTER_BYTES = MASTER.size
_SITE_BYTES = SITE.size
_unpack_header = HEADER.unpack_from
_unpack_master = MASTER_BRIEF.unpack_from
_unpack_site = SITE.unpack_from
_encode = unwrapped(base64.encode_text)
_decode = unwrapped(base64.decode)
_decode_url = unwrapped(base64.decode_url)
_MASTER_AT = _HEADER_BYTES + GCM_IV_SIZE
_SITE_AT = _MASTER_BYTES + GCM_IV_SIZE


def read_text(text: object, *, strict: bool = False) -> bytes | TokenFailure:
    """Decode the text of a token by the alphabet of its version.

    The first four characters tell the version (docs/protocol.md 5.1).

    Args:
        text: The token. It may come from foreign JSON, so that any type is handled.
        strict: Accept v4 only in the URL-safe alphabet, as the operator does. The SDKs
            accept either.

    Returns:
        The bytes of a v2, v3 or v4 token, or INVALID_PAYLOAD, or VERSION_NOT_SUPPORTED.
    """
    if not isinstance(text, str) or len(text) < _HEADER_CHARS:
        return TokenFailure.INVALID_PAYLOAD
    version = _read_version(text[:_HEADER_CHARS])
    if version == V4 and not strict:
        # str.translate would take thirty times as long.
        data = _decode(text.replace("-", "+").replace("_", "/"))
    elif version == V4:
        data = _decode_url(text)
    elif isinstance(version, int):
        data = _decode(text)
    else:
        return version
    return TokenFailure.INVALID_PAYLOAD if data is None else data


# Nearly all tokens of a day share their first characters: type, version and the high
# byte of the master key id.
@lru_cache(maxsize=256)
def _read_version(head: str) -> int | TokenFailure:
    """Return the version, by the first four characters of a token."""
    url = "-" in head or "_" in head
    data = base64.decode_url(head) if url else base64.decode(head)
    if data is None:
        return TokenFailure.INVALID_PAYLOAD
    if data[0] == V2_BYTE:
        return V2
    if len(data) == 1:
        return TokenFailure.INVALID_PAYLOAD
    return VERSIONS.get(data[1], TokenFailure.VERSION_NOT_SUPPORTED)


SiteFields: TypeAlias = tuple[int, int, int, int, int, int | None]
"""Site id, publisher id, client key id, privacy bits, established and refreshed ms."""

Opened: TypeAlias = tuple[
    int,
    IdentityScope | None,
    IdentityType | None,
    int,
    int,
    int,
    int | None,
    bytes,
    str,
    SiteFields,
]
"""Version, scope, identity type, master key id, site key id, expires and created ms,
the bytes of the master payload, the raw UID, and what stands beside it.

A tuple, not a struct, because one is made for each token and unpacked at once.
"""


def open_shells(  # noqa: C901, PLR0911 - one for each check, in their order
    data: bytes, key_of: KeyLookup, scope: IdentityScope | None = None
) -> Opened | TokenFailure:
    """Open both layers of a token.

    Args:
        data: The bytes that :func:`read_text` returned.
        key_of: Finds a key by its id.
        scope: The only scope to accept; None accepts both. v2 has none.

    Returns:
        Its fields; or, by the first check that fails, VERSION_NOT_SUPPORTED,
        INVALID_IDENTITY_SCOPE, NOT_AUTHORIZED_FOR_MASTER_KEY, NOT_AUTHORIZED_FOR_KEY or
        INVALID_PAYLOAD.
    """
    if len(data) < _HEADER_BYTES:
        return TokenFailure.INVALID_PAYLOAD
    kind, version_byte, master_key_id = _unpack_header(data)
    if kind == V2_BYTE:
        return _open_shells_v2(data, key_of)
    version = VERSIONS.get(version_byte)
    if version is None:
        return TokenFailure.VERSION_NOT_SUPPORTED
    own_scope, identity_type = TYPE_BYTES[kind]
    if scope is not None and own_scope is not scope:
        return TokenFailure.INVALID_IDENTITY_SCOPE
    key = key_of(master_key_id)
    if key is None:
        return TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY
    if identity_type is None:
        return TokenFailure.INVALID_PAYLOAD
    # As Key.open_gcm does: a call of it for each layer would take a tenth of the whole.
    try:
        master = key.decrypt_gcm(
            data[_HEADER_BYTES:_MASTER_AT], data[_MASTER_AT:], None
        )
        if len(master) < _MASTER_BYTES:
            return TokenFailure.INVALID_PAYLOAD
        expires_ms, created_ms, site_key_id = _unpack_master(master)
        key = key_of(site_key_id)
        if key is None:
            return TokenFailure.NOT_AUTHORIZED_FOR_KEY
        iv, body = master[_MASTER_BYTES:_SITE_AT], master[_SITE_AT:]
        site = key.decrypt_gcm(iv, body, None)
    except (InvalidTag, ValueError):
        return TokenFailure.INVALID_PAYLOAD
    raw_uid = site[_SITE_BYTES:]
    # Of the type byte of the token; a raw UID of 32 bytes fits any.
    if len(raw_uid) == _TYPED_UID_BYTES:
        if (raw_uid[0] ^ kind) & TYPE_MASK:
            return TokenFailure.INVALID_PAYLOAD
    elif len(raw_uid) != _BARE_UID_BYTES:
        return TokenFailure.INVALID_PAYLOAD
    return (
        version,
        own_scope,
        identity_type,
        master_key_id,
        site_key_id,
        expires_ms,
        created_ms,
        master,
        _encode(raw_uid),
        _unpack_site(site),
    )


def _belongs(raw_uid: bytes, kind: int) -> bool:
    """Return whether *raw_uid* is of the type byte *kind*; 32 bytes fit any."""
    if len(raw_uid) == _TYPED_UID_BYTES:
        return not (raw_uid[0] ^ kind) & TYPE_MASK
    return len(raw_uid) == _BARE_UID_BYTES


def _open_shells_v2(data: bytes, key_of: KeyLookup) -> Opened | TokenFailure:
    """Open both layers of a v2 token (docs/protocol.md 5.2)."""
    _, master_key_id = HEADER_V2.unpack_from(data)
    key = key_of(master_key_id)
    if key is None:
        return TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY
    master = key.open_cbc(data, HEADER_V2.size)
    if master is None or len(master) < MASTER_V2.size:
        return TokenFailure.INVALID_PAYLOAD
    expires_ms, site_key_id = MASTER_V2.unpack_from(master)
    key = key_of(site_key_id)
    if key is None:
        return TokenFailure.NOT_AUTHORIZED_FOR_KEY
    site = _read_site_v2(key.open_cbc(master, MASTER_V2.size))
    if site is None:
        return TokenFailure.INVALID_PAYLOAD
    head = (V2, None, None, master_key_id, site_key_id, expires_ms, None)
    return *head, master, *site


def _read_site_v2(payload: bytes | None) -> tuple[str, SiteFields] | None:
    """Read the raw UID and the fields beside it, or None if they do not fit."""
    if payload is None or len(payload) < SITE_V2.size:
        return None
    site_id, length = SITE_V2.unpack_from(payload)
    tail = SITE_V2.size + length
    # CBC does not detect a forged token, so the content must fit exactly.
    if length <= 0 or len(payload) != tail + TAIL_V2.size:
        return None
    raw_uid = payload[SITE_V2.size : tail]
    if base64.decode(raw_uid) is None:
        return None
    privacy_bits, established_ms = TAIL_V2.unpack_from(payload, tail)
    return raw_uid.decode("ascii"), (site_id, 0, 0, privacy_bits, established_ms, None)


def open_token(
    text: str, key_of: KeyLookup, *, strict: bool = False
) -> AdvertisingToken:
    """Open a token whole, without judging its times.

    Args:
        text: The token, of any version.
        key_of: Finds a key by its id.
        strict: As in :func:`read_text`.

    Raises:
        TokenError: If it cannot be opened; the reason says which step failed.
    """
    data = read_text(text, strict=strict)
    if not isinstance(data, bytes):
        raise TokenError(data)
    opened = open_shells(data, key_of)
    if not isinstance(opened, tuple):
        raise TokenError(opened)
    return _make_token(opened)


def _make_token(opened: Opened) -> AdvertisingToken:
    """Join the fields of both layers. v2 names no operator."""
    version, scope, identity_type, master_id, site_key_id = opened[:5]
    expires_ms, created_ms, master, raw_uid, site = opened[5:]
    operator = _SERVICE
    if version != V2:
        operator = MASTER.unpack_from(master)[2:6]
    return AdvertisingToken(
        version=version,
        scope=scope,
        identity_type=identity_type,
        master_key_id=master_id,
        site_key_id=site_key_id,
        expires_ms=expires_ms,
        created_ms=created_ms,
        operator_site_id=operator[0],
        operator_type=operator[1],
        operator_version=operator[2],
        operator_key_id=operator[3],
        site_id=site[0],
        publisher_id=site[1],
        client_key_id=site[2],
        privacy_bits=site[3],
        established_ms=site[4],
        refreshed_ms=site[5],
        raw_uid=raw_uid,
    )


def seal_token(
    token: AdvertisingToken, key_of: KeyLookup, *, master_iv: bytes, site_iv: bytes
) -> str:
    """Seal a token in the layout of its version.

    Args:
        token: What it says; its two key ids choose the keys.
        key_of: Finds a key by its id.
        master_iv: Of the outer layer: 12 random bytes, or 16 for v2.
        site_iv: Of the inner layer: as many, and others.

    Raises:
        TokenError: If a key is missing, or the version is unknown.
        InputError: If the raw UID is none, or belongs to another scope or type, or a
            field that the version has is None.
    """
    master, site = key_of(token.master_key_id), key_of(token.site_key_id)
    if master is None:
        raise TokenError(TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY)
    if site is None:
        raise TokenError(TokenFailure.NOT_AUTHORIZED_FOR_KEY)
    if token.version == V2:
        blob = site.seal_cbc(site_iv, _write_site_v2(token))
        payload = MASTER_V2.pack(token.expires_ms, site.id) + blob
        head = HEADER_V2.pack(V2_BYTE, master.id)
        return base64.encode_text(head + master.seal_cbc(master_iv, payload))
    if token.version not in VERSION_BYTES:
        raise TokenError(TokenFailure.VERSION_NOT_SUPPORTED)
    kind, site_payload = _write_site(token)
    payload = _write_master(token) + site.seal_gcm(site_iv, site_payload)
    head = HEADER.pack(kind, VERSION_BYTES[token.version], master.id)
    data = head + master.seal_gcm(master_iv, payload)
    url = token.version == V4
    return base64.encode_url_text(data) if url else base64.encode_text(data)


def _write_master(token: AdvertisingToken) -> bytes:
    """Write the master payload up to the site's blob (docs/protocol.md 5.3)."""
    if token.created_ms is None:
        raise InputError("A token of version 3 or 4 needs created_ms.")
    return MASTER.pack(
        token.expires_ms,
        token.created_ms,
        token.operator_site_id,
        token.operator_type,
        token.operator_version,
        token.operator_key_id,
        token.site_key_id,
    )


def _write_site(token: AdvertisingToken) -> tuple[int, bytes]:
    """Write the type byte and the site payload (docs/protocol.md 5.3)."""
    if token.scope is None or token.identity_type is None or token.refreshed_ms is None:
        raise InputError(
            "A token of version 3 or 4 needs scope, identity_type and refreshed_ms."
        )
    kind = type_byte(token.scope, token.identity_type) | TYPE_FILL
    raw_uid = base64.decode(token.raw_uid)
    if raw_uid is None or not _belongs(raw_uid, kind):
        raise InputError("The raw UID is none of this scope and identity type.")
    fields = SITE.pack(
        token.site_id,
        token.publisher_id,
        token.client_key_id,
        token.privacy_bits,
        token.established_ms,
        token.refreshed_ms,
    )
    return kind, fields + raw_uid


def _write_site_v2(token: AdvertisingToken) -> bytes:
    """Write the identity payload of v2 (docs/protocol.md 5.2)."""
    if not token.raw_uid or base64.decode(token.raw_uid) is None:
        raise InputError("The raw UID is not base64.")
    raw_uid = token.raw_uid.encode("ascii")
    head = SITE_V2.pack(token.site_id, len(raw_uid))
    return head + raw_uid + TAIL_V2.pack(token.privacy_bits, token.established_ms)


strip_tracebacks(globals())
