"""Creates identity tokens, and encrypts and decrypts refresh tokens.

See docs/protocol.md 2.1, 2.2 and 5.5. A refresh token is opaque to clients, who return
it unchanged. The operator's reply depends on why a refresh token is invalid, so
:class:`RefreshTokenFailure` lists all reasons.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import Any, Final

import attrs

from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.http_messages import reply_error
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.java import as_java_string, parse_object, utf16_length
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import IV_BYTES, KEY_BYTES
from uid2_async.protocol.keyring import Key, KeyLookup
from uid2_async.protocol.raw_uid import TYPE_BYTES, TYPE_MASK, type_byte
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token
from uid2_async.protocol.tokens import TokensBody

WRAPPED_CHARS: Final = 388
"""The length of a wrapped refresh token, in UTF-16 code units, as Java counts it.

A body of any other length is not a wrapper.
"""

_V2, _V3 = 2, 3
_V3_BYTE = 112
_TYPE_FILL = 0b11

_HEADER = Struct(">BBi")  # type byte, version, key ID

# expires, created, four fields of the service, site, publisher, client key, privacy
# bits, established, type byte. The first-level hash follows.
_PAYLOAD = Struct(">qqiBiiiqiiqB")
_HASH_SIZE = 32
_SERVICE = (0, 1, 0, 0)
# Version, created, expires, valid until (one minute later), key ID.
_HEADER_V2 = Struct(">Bqqqi")
_IDENTITY_V2 = Struct(">ii")  # site ID, length of the hash as text
_TAIL_V2 = Struct(">iq")  # privacy bits, established
_WRAPPER = Struct(">Bi")  # scope, key ID


@attrs.frozen(kw_only=True)
class Subject:
    """The subject of an identity's tokens.

    A forged v2 token may contain a first-level hash of any length. The privacy bits say
    how the identity was generated (docs/protocol.md 5.4).
    """

    identity_type: IdentityType
    site_id: int
    privacy_bits: int
    established_ms: int
    first_level_hash: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class RefreshToken(Subject):
    """The content of a refresh token of version 2 or 3. The scope of v2 is UID2.

    The expiry of a decrypted v2 token includes the extra minute.
    """

    version: int = _V3
    scope: IdentityScope
    expires_ms: int
    created_ms: int


class RefreshTokenFailure(Enum):
    """Why a refresh token or its wrapper could not be decrypted."""

    NOT_BASE64 = "not base64"
    UNKNOWN_KEY = "unknown key id"
    UNDECRYPTABLE = "not authentic, or wrongly padded"
    TOO_SHORT = "truncated"
    BAD_JSON = "the wrapper does not hold the documented JSON"
    EMPTY = "no token"
    UNKNOWN_VERSION = "unknown version"
    MISMATCH = "header and payload have different scopes or types"
    BAD_IDENTITY = "the identity is not base64"

    @property
    def malformed(self) -> bool:
        """Whether the operator answers that the token is invalid, instead of a 500."""
        return self not in _FATAL


_FATAL = frozenset({RefreshTokenFailure.UNDECRYPTABLE, RefreshTokenFailure.TOO_SHORT})


class RefreshTokenError(Exception):
    """A refresh token or wrapper that cannot be decrypted. UNKNOWN_KEY has a key ID."""

    def __init__(self, reason: RefreshTokenFailure, key_id: int | None = None) -> None:
        """Store the reason."""
        super().__init__(reason, key_id)
        self.reason = reason
        self.key_id = key_id


def encrypt_refresh_token(token: RefreshToken, key: Key, *, iv: bytes) -> str:
    """Encrypt a refresh token in the layout of v3, as base64 without the wrapper."""
    kind = type_byte(token.scope, token.identity_type) | _TYPE_FILL
    payload = _PAYLOAD.pack(
        token.expires_ms,
        token.created_ms,
        *_SERVICE,
        token.site_id,
        0,  # publisher id
        0,  # client key id
        token.privacy_bits,
        token.established_ms,
        kind,
    )
    encrypted = key.seal_gcm(iv, payload + token.first_level_hash)
    return base64.encode_text(_HEADER.pack(kind, _V3_BYTE, key.id) + encrypted)


def decrypt_inner_token(text: str, key_of: KeyLookup) -> RefreshToken:
    """Decrypt a refresh token without its wrapper, or any body that is not a wrapper.

    The caller checks the expiry and the scope.

    Raises:
        RefreshTokenError: If it cannot be decrypted. The reason is never BAD_JSON.
    """
    if not text:
        raise RefreshTokenError(RefreshTokenFailure.EMPTY)
    data = base64.decode(text)
    if data is None:
        raise RefreshTokenError(RefreshTokenFailure.NOT_BASE64)
    if len(data) < 2:  # noqa: PLR2004 - the bytes that can contain the version
        raise RefreshTokenError(RefreshTokenFailure.TOO_SHORT)
    # In this order, because the first byte of a v3 token may have any value.
    if data[1] == _V3_BYTE:
        return _decrypt_v3(data, key_of)
    if data[0] == _V2:
        return _decrypt_v2(data, key_of)
    raise RefreshTokenError(RefreshTokenFailure.UNKNOWN_VERSION)


def _decrypt_v3(data: bytes, key_of: KeyLookup) -> RefreshToken:
    """Decrypt the bytes of v3."""
    kind, _, key_id = _unpack(_HEADER, data)
    payload = _find(key_of, key_id).open_gcm(data, _HEADER.size)
    if payload is None:
        raise RefreshTokenError(RefreshTokenFailure.UNDECRYPTABLE)
    fields = _unpack(_PAYLOAD, payload)
    flh = payload[_PAYLOAD.size : _PAYLOAD.size + _HASH_SIZE]
    if len(flh) < _HASH_SIZE:
        raise RefreshTokenError(RefreshTokenFailure.TOO_SHORT)
    inner_kind: int = fields[11]
    scope, identity_type = TYPE_BYTES[inner_kind]
    if identity_type is None or (inner_kind ^ kind) & TYPE_MASK:
        raise RefreshTokenError(RefreshTokenFailure.MISMATCH)
    return RefreshToken(
        version=_V3,
        scope=scope,
        identity_type=identity_type,
        expires_ms=fields[0],
        created_ms=fields[1],
        site_id=fields[6],
        privacy_bits=fields[9],
        established_ms=fields[10],
        first_level_hash=flh,
    )


def _decrypt_v2(data: bytes, key_of: KeyLookup) -> RefreshToken:
    """Decrypt the bytes of v2. The later one of its two expiries counts."""
    _, created_ms, _, valid_till_ms, key_id = _unpack(_HEADER_V2, data)
    payload = _find(key_of, key_id).open_cbc(data, _HEADER_V2.size)
    if payload is None:
        raise RefreshTokenError(RefreshTokenFailure.UNDECRYPTABLE)
    site_id, length = _unpack(_IDENTITY_V2, payload)
    tail = _IDENTITY_V2.size + length
    fits = length >= 0 and tail <= len(payload)
    flh = base64.decode(payload[_IDENTITY_V2.size : tail]) if fits else None
    if flh is None:
        raise RefreshTokenError(RefreshTokenFailure.BAD_IDENTITY)
    privacy_bits, established_ms = _unpack(_TAIL_V2, payload, tail)
    return RefreshToken(
        version=_V2,
        scope=IdentityScope.UID2,
        identity_type=IdentityType.EMAIL,
        expires_ms=valid_till_ms,
        created_ms=created_ms,
        site_id=site_id,
        privacy_bits=privacy_bits,
        established_ms=established_ms,
        first_level_hash=flh,
    )


def wrap_refresh_token(
    text: str, refresh_response_key: bytes, key: Key, *, scope: IdentityScope, iv: bytes
) -> str:
    """Wrap a refresh token with the key that will encrypt the reply to its refresh.

    Raises:
        RefusedError: If the first-level hash does not have 32 to 34 bytes, so that the
            result does not have 388 characters. No operator would accept it.
    """
    # The operator writes the keys in this order.
    inner = {
        "refresh_response_key": base64.encode_text(refresh_response_key),
        "refresh_token": text,
    }
    header = _WRAPPER.pack(scope.bit << 4, key.id)
    wrapped = base64.encode_text(header + key.seal_gcm(iv, wire.encode(inner)))
    if len(wrapped) != WRAPPED_CHARS:
        raise reply_error()
    return wrapped


def unwrap_refresh_token(text: str, key_of: KeyLookup) -> tuple[str, bytes]:
    """Decrypt a wrapper to the inner token and the key of the reply to its refresh.

    Its scope byte is ignored. In a forged token, either may have any length.

    Raises:
        RefreshTokenError: With NOT_BASE64, UNKNOWN_KEY, UNDECRYPTABLE or BAD_JSON.
    """
    data = base64.decode(text)
    if data is None:
        raise RefreshTokenError(RefreshTokenFailure.NOT_BASE64)
    _, key_id = _unpack(_WRAPPER, data)
    payload = _find(key_of, key_id).open_gcm(data, _WRAPPER.size)
    if payload is None:
        raise RefreshTokenError(RefreshTokenFailure.UNDECRYPTABLE)
    fields = parse_object(payload) or {}
    key_text = as_java_string(fields.get("refresh_response_key"))
    response_key = None if key_text is None else base64.decode(key_text)
    if response_key is None:
        raise RefreshTokenError(RefreshTokenFailure.BAD_JSON)
    return as_java_string(fields.get("refresh_token")) or "", response_key


def decrypt_refresh_token(
    text: str, key_of: KeyLookup
) -> tuple[RefreshToken, bytes | None]:
    """Decrypt a refresh token with or without a wrapper.

    Return it with the key of the reply to its refresh, if it has one.

    Raises:
        RefreshTokenError: If it cannot be decrypted.
    """
    key = None
    if utf16_length(text) == WRAPPED_CHARS:
        text, key = unwrap_refresh_token(text, key_of)
    return decrypt_inner_token(text, key_of), key


def _find(key_of: KeyLookup, key_id: int) -> Key:
    """Return the key that a token names, or raise."""
    key = key_of(key_id)
    if key is None:
        raise RefreshTokenError(RefreshTokenFailure.UNKNOWN_KEY, key_id)
    return key


def _unpack(struct: Struct, data: bytes, start: int = 0) -> tuple[Any, ...]:
    """Unpack a structure, or raise if the data is too short."""
    if len(data) - start < struct.size:
        raise RefreshTokenError(RefreshTokenFailure.TOO_SHORT)
    return struct.unpack_from(data, start)


SERVER_SIDE = 0b01
CLIENT_SIDE = 0b11


def mint_tokens(index: DataIndex, subject: Subject, now_ms: int) -> TokensBody | None:
    """Create the tokens of *subject*, or return None if a key is missing."""
    site = index.keysets.site_key(subject.site_id, now_ms)
    master = index.keysets.master_key(now_ms)
    refresh = index.keysets.refresh_key(now_ms)
    if site is None or master is None or refresh is None:
        return None
    runtime = index.runtime
    expires_ms = now_ms + runtime.identity_token_expires_after_seconds * 1000
    refresh_expires = now_ms + runtime.refresh_token_expires_after_seconds * 1000
    response_key = index.random(KEY_BYTES)
    return TokensBody(
        advertising_token=_make_advertising_token(
            index, subject, (master, site), now_ms, expires_ms
        ),
        refresh_token=_make_refresh_token(
            index, subject, refresh, response_key, now_ms, refresh_expires
        ),
        identity_expires=expires_ms,
        refresh_expires=refresh_expires,
        refresh_from=now_ms + runtime.refresh_identity_token_after_seconds * 1000,
        refresh_response_key=base64.encode_text(response_key),
    )


def _make_advertising_token(
    index: DataIndex,
    subject: Subject,
    keys: tuple[Key, Key],
    now_ms: int,
    expires_ms: int,
) -> str:
    """Create a v4 token with the raw UID of the current salts."""
    master, site = keys
    token = AdvertisingToken(
        version=4,
        scope=index.scope,
        identity_type=subject.identity_type,
        master_key_id=master.id,
        site_key_id=site.id,
        expires_ms=expires_ms,
        created_ms=now_ms,
        site_id=subject.site_id,
        privacy_bits=subject.privacy_bits,
        established_ms=subject.established_ms,
        refreshed_ms=now_ms,
        raw_uid=index.buckets.raw_uid(
            subject.first_level_hash, subject.identity_type, now_ms
        ),
    )
    return seal_token(
        token,
        index.keysets.key,
        master_iv=index.random(IV_BYTES),
        site_iv=index.random(IV_BYTES),
    )


def _make_refresh_token(
    index: DataIndex,
    subject: Subject,
    key: Key,
    response_key: bytes,
    now_ms: int,
    expires_ms: int,
) -> str:
    """Create a v3 refresh token in its wrapper."""
    token = RefreshToken(
        scope=index.scope,
        identity_type=subject.identity_type,
        expires_ms=expires_ms,
        created_ms=now_ms,
        site_id=subject.site_id,
        privacy_bits=subject.privacy_bits,
        established_ms=subject.established_ms,
        first_level_hash=subject.first_level_hash,
    )
    inner = encrypt_refresh_token(token, key, iv=index.random(IV_BYTES))
    iv = index.random(IV_BYTES)
    return wrap_refresh_token(inner, response_key, key, scope=index.scope, iv=iv)
