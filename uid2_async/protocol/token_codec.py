"""The bytes of advertising tokens v2, v3 and v4 (docs/protocol.md 5.1 to 5.4).

A token is opened in two steps, since it has two shells: the master key opens the first,
which names the site key that opens the second. Whoever wants to judge the expiry before
looking for the site key stops in between. Each step returns a :class:`TokenFailure`
where it fails, because bulk work cannot afford an exception for each bad row;
:func:`open_token` is for a single one and raises.
"""

from __future__ import annotations

from functools import lru_cache

from uid2_async.errors import InputError, TokenError, TokenFailure
from uid2_async.models import IdentityScope
from uid2_async.protocol import base64, token_layout as layout
from uid2_async.protocol.key import Key, KeyLookup
from uid2_async.protocol.raw_uid import (
    RAW_UID_SIZES,
    TYPE_BYTES,
    TYPE_MASK,
    type_byte,
)
from uid2_async.protocol.token_layout import (
    AdvertisingToken,
    MasterPayload,
    SitePayload,
)

__all__ = [
    "AdvertisingToken",
    "MasterPayload",
    "SitePayload",
    "open_master",
    "open_site",
    "open_token",
    "read_text",
    "seal_token",
]

_HEADER_CHARS = 4


def read_text(text: object, *, strict: bool = False) -> bytes | TokenFailure:
    """Decode the text of a token by the alphabet of its version.

    The first four characters tell the version (docs/protocol.md 5.1).

    Args:
        text: The token; what is no str is refused, as it may come from foreign JSON.
        strict: Take v4 in the URL-safe alphabet alone, as the operator does; the SDKs
            take either.

    Returns:
        The bytes of a v2, v3 or v4 token, or INVALID_PAYLOAD, or VERSION_NOT_SUPPORTED.
    """
    if not isinstance(text, str) or len(text) < _HEADER_CHARS:
        return TokenFailure.INVALID_PAYLOAD
    version = _read_version(text[:_HEADER_CHARS])
    if not isinstance(version, int):
        return version
    if version != layout.V4:
        data = base64.decode(text)
    elif strict:
        data = base64.decode_url(text)
    else:
        data = base64.decode(text.replace("-", "+").replace("_", "/"))
    return TokenFailure.INVALID_PAYLOAD if data is None else data


# Nearly all tokens of a day share their first characters: type, version and the high
# byte of the master key id.
@lru_cache(maxsize=256)
def _read_version(head: str) -> int | TokenFailure:
    """Tell the version by the first four characters of a token."""
    url = "-" in head or "_" in head
    data = base64.decode_url(head) if url else base64.decode(head)
    if data is None:
        return TokenFailure.INVALID_PAYLOAD
    if data[0] == layout.V2_BYTE:
        return layout.V2
    if len(data) == 1:
        return TokenFailure.INVALID_PAYLOAD
    return layout.VERSIONS.get(data[1], TokenFailure.VERSION_NOT_SUPPORTED)


def open_master(
    data: bytes, key_of: KeyLookup, *, scope: IdentityScope | None = None
) -> MasterPayload | TokenFailure:
    """Open the outer shell of a token.

    Args:
        data: The bytes that :func:`read_text` returned.
        key_of: Finds a key by its id.
        scope: The one scope to accept; None accepts both. v2 does not tell its own.

    Returns:
        The payload, or INVALID_PAYLOAD, INVALID_IDENTITY_SCOPE,
        NOT_AUTHORIZED_FOR_MASTER_KEY or VERSION_NOT_SUPPORTED.
    """
    if len(data) < layout.HEADER.size:
        return TokenFailure.INVALID_PAYLOAD
    if data[0] == layout.V2_BYTE:
        return _open_master_v2(data, key_of)
    if data[1] not in layout.VERSIONS:
        return TokenFailure.VERSION_NOT_SUPPORTED
    if scope is not None and TYPE_BYTES[data[0]][0] is not scope:
        return TokenFailure.INVALID_IDENTITY_SCOPE
    return _open_master_v3(data, key_of)


def _open_master_v3(data: bytes, key_of: KeyLookup) -> MasterPayload | TokenFailure:
    """Open the outer shell of a v3 or v4 token (docs/protocol.md 5.3)."""
    kind, version_byte, key_id = layout.HEADER.unpack_from(data)
    key = key_of(key_id)
    if key is None:
        return TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY
    scope, identity_type = TYPE_BYTES[kind]
    payload = key.open_gcm(data, layout.HEADER.size)
    if identity_type is None or payload is None or len(payload) < layout.MASTER.size:
        return TokenFailure.INVALID_PAYLOAD
    expires_ms, created_ms, site_key_id = layout.MASTER_BRIEF.unpack_from(payload)
    return MasterPayload(
        version=layout.VERSIONS[version_byte],
        type_byte=kind,
        scope=scope,
        identity_type=identity_type,
        master_key_id=key_id,
        site_key_id=site_key_id,
        expires_ms=expires_ms,
        created_ms=created_ms,
        opened=payload,
    )


def _open_master_v2(data: bytes, key_of: KeyLookup) -> MasterPayload | TokenFailure:
    """Open the outer shell of a v2 token (docs/protocol.md 5.2)."""
    _, key_id = layout.HEADER_V2.unpack_from(data)
    key = key_of(key_id)
    if key is None:
        return TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY
    payload = key.open_cbc(data, layout.HEADER_V2.size)
    if payload is None or len(payload) < layout.MASTER_V2.size:
        return TokenFailure.INVALID_PAYLOAD
    expires_ms, site_key_id = layout.MASTER_V2.unpack_from(payload)
    return MasterPayload(
        version=layout.V2,
        master_key_id=key_id,
        site_key_id=site_key_id,
        expires_ms=expires_ms,
        opened=payload,
    )


def open_site(master: MasterPayload, key_of: KeyLookup) -> SitePayload | TokenFailure:
    """Open the inner shell of a token.

    Args:
        master: What :func:`open_master` returned.
        key_of: Finds a key by its id.

    Returns:
        The payload, or INVALID_PAYLOAD or NOT_AUTHORIZED_FOR_KEY.
    """
    key = key_of(master.site_key_id)
    if key is None:
        return TokenFailure.NOT_AUTHORIZED_FOR_KEY
    kind = master.type_byte
    if kind is None:
        return _open_site_v2(master, key)
    payload = key.open_gcm(master.opened, layout.MASTER.size)
    if payload is None:
        return TokenFailure.INVALID_PAYLOAD
    raw_uid = payload[layout.SITE.size :]
    if not _belongs(raw_uid, kind):
        return TokenFailure.INVALID_PAYLOAD
    fields = layout.SITE.unpack_from(payload)
    return SitePayload(
        site_id=fields[0],
        publisher_id=fields[1],
        client_key_id=fields[2],
        privacy_bits=fields[3],
        established_ms=fields[4],
        refreshed_ms=fields[5],
        raw_uid=base64.encode_text(raw_uid),
    )


def _belongs(raw_uid: bytes, kind: int) -> bool:
    """Tell whether *raw_uid* is of the type byte *kind*; 32 bytes are of any."""
    if len(raw_uid) == RAW_UID_SIZES[1]:
        return not (raw_uid[0] ^ kind) & TYPE_MASK
    return len(raw_uid) == RAW_UID_SIZES[0]


def _open_site_v2(master: MasterPayload, key: Key) -> SitePayload | TokenFailure:
    """Open the inner shell of a v2 token (docs/protocol.md 5.2)."""
    payload = key.open_cbc(master.opened, layout.MASTER_V2.size)
    if payload is None or len(payload) < layout.SITE_V2.size:
        return TokenFailure.INVALID_PAYLOAD
    site_id, length = layout.SITE_V2.unpack_from(payload)
    tail = layout.SITE_V2.size + length
    # CBC does not notice a forged token, so the content has to fit exactly.
    if length <= 0 or len(payload) != tail + layout.TAIL_V2.size:
        return TokenFailure.INVALID_PAYLOAD
    raw_uid = payload[layout.SITE_V2.size : tail]
    if base64.decode(raw_uid) is None:
        return TokenFailure.INVALID_PAYLOAD
    privacy_bits, established_ms = layout.TAIL_V2.unpack_from(payload, tail)
    return SitePayload(
        site_id=site_id,
        privacy_bits=privacy_bits,
        established_ms=established_ms,
        raw_uid=raw_uid.decode("ascii"),
    )


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
    master = open_master(data, key_of)
    if not isinstance(master, MasterPayload):
        raise TokenError(master)
    site = open_site(master, key_of)
    if not isinstance(site, SitePayload):
        raise TokenError(site)
    return _join(master, site)


def _join(master: MasterPayload, site: SitePayload) -> AdvertisingToken:
    """Put both shells into one value; v2 tells no operator, and counts as a service."""
    operator = (0, 1, 0, 0)
    if master.version != layout.V2:
        operator = layout.MASTER.unpack_from(master.opened)[2:6]
    return AdvertisingToken(
        version=master.version,
        scope=master.scope,
        identity_type=master.identity_type,
        master_key_id=master.master_key_id,
        site_key_id=master.site_key_id,
        expires_ms=master.expires_ms,
        created_ms=master.created_ms,
        operator_site_id=operator[0],
        operator_type=operator[1],
        operator_version=operator[2],
        operator_key_id=operator[3],
        site_id=site.site_id,
        publisher_id=site.publisher_id,
        client_key_id=site.client_key_id,
        privacy_bits=site.privacy_bits,
        established_ms=site.established_ms,
        refreshed_ms=site.refreshed_ms,
        raw_uid=site.raw_uid,
    )


def seal_token(
    token: AdvertisingToken, key_of: KeyLookup, *, master_iv: bytes, site_iv: bytes
) -> str:
    """Seal a token in the layout of its version.

    Args:
        token: What it says; its two key ids choose the keys.
        key_of: Finds a key by its id.
        master_iv: Of the outer shell: 12 random bytes, or 16 for v2.
        site_iv: Of the inner shell: as many, and others.

    Raises:
        TokenError: If a key is missing, or the version is none of the three.
        InputError: If the raw UID is none, or belongs to another scope or type, or a
            field that the version has is None.
    """
    master, site = key_of(token.master_key_id), key_of(token.site_key_id)
    if master is None:
        raise TokenError(TokenFailure.NOT_AUTHORIZED_FOR_MASTER_KEY)
    if site is None:
        raise TokenError(TokenFailure.NOT_AUTHORIZED_FOR_KEY)
    if token.version == layout.V2:
        blob = site.seal_cbc(site_iv, _write_site_v2(token))
        payload = layout.MASTER_V2.pack(token.expires_ms, site.id) + blob
        head = layout.HEADER_V2.pack(layout.V2_BYTE, master.id)
        return base64.encode_text(head + master.seal_cbc(master_iv, payload))
    if token.version not in layout.VERSION_BYTES:
        raise TokenError(TokenFailure.VERSION_NOT_SUPPORTED)
    kind, site_payload = _write_site(token)
    payload = _write_master(token) + site.seal_gcm(site_iv, site_payload)
    head = layout.HEADER.pack(kind, layout.VERSION_BYTES[token.version], master.id)
    data = head + master.seal_gcm(master_iv, payload)
    url = token.version == layout.V4
    return base64.encode_url_text(data) if url else base64.encode_text(data)


def _write_master(token: AdvertisingToken) -> bytes:
    """Write the master payload up to the site's blob (docs/protocol.md 5.3)."""
    if token.created_ms is None:
        raise InputError("A token of version 3 or 4 needs created_ms.")
    return layout.MASTER.pack(
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
    kind = type_byte(token.scope, token.identity_type) | layout.TYPE_FILL
    raw_uid = base64.decode(token.raw_uid)
    if raw_uid is None or not _belongs(raw_uid, kind):
        raise InputError("The raw UID is none of this scope and identity type.")
    fields = layout.SITE.pack(
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
    head = layout.SITE_V2.pack(token.site_id, len(raw_uid))
    return (
        head + raw_uid + layout.TAIL_V2.pack(token.privacy_bits, token.established_ms)
    )
