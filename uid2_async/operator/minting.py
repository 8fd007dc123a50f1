"""Make identity tokens, and seal and open refresh tokens.

docs/protocol.md 2.1, 2.2 and 5.5. A refresh token is opaque to clients, who send it
back as it is. The operator answers each way in which one can be invalid differently, so
:class:`RefreshTokenFailure` names them all.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import Any, Final

import attrs

from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.java_json import parse_object
from uid2_async.operator.java_text import as_java_string
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import IV_BYTES, KEY_BYTES
from uid2_async.protocol.keyring import Key, KeyLookup
from uid2_async.protocol.raw_uid import TYPE_BYTES, TYPE_MASK, type_byte
from uid2_async.protocol.token_codec import AdvertisingToken, seal_token
from uid2_async.protocol.tokens import TokensBody

WRAPPED_CHARS: Final = 388
"""How long a wrapped refresh token is, in UTF-16 code units as Java counts them.

A body of any other length is not a wrapper.
"""

_V2, _V3 = 2, 3
_V3_BYTE = 112
_TYPE_FILL = 0b11

# v2 allows one more minute for a refresh in the last moment.
_V2_GRACE_MS = 60_000
_HEADER = Struct(">BBi")  # type byte, version, key id

# expires, created, operator's four, site, publisher, client key, bits, established,
# type byte; then comes the first-level hash
_PAYLOAD = Struct(">qqiBiiiqiiqB")
_HASH_SIZE = 32
_SERVICE = (0, 1, 0, 0)
_HEADER_V2 = Struct(">Bqqqi")  # version, created, expires, valid till, key id
_IDENTITY_V2 = Struct(">ii")  # site id, length of the hash's text
_TAIL_V2 = Struct(">iq")  # privacy bits, established
_WRAPPER = Struct(">Bi")  # scope, key id


@attrs.frozen(kw_only=True)
class RefreshToken:
    """What a refresh token says; times in ms since the Unix epoch.

    Attributes:
        version: 2 or 3.
        scope: UID2 or EUID; v2 is UID2 always.
        identity_type: What the identity is; v2 is an e-mail always.
        expires_ms: When it expires. A v2 token is valid for a minute longer after it is
            opened.
        created_ms: When it was made.
        site_id: The site that generated the identity.
        privacy_bits: int32, see docs/protocol.md 5.4.
        established_ms: When the identity was first generated.
        first_level_hash: 32 bytes, from which each refresh makes the raw UID;
            a forged v2 token may hold any other number of them.
    """

    version: int = _V3
    scope: IdentityScope
    identity_type: IdentityType
    expires_ms: int
    created_ms: int
    site_id: int
    privacy_bits: int
    established_ms: int
    first_level_hash: bytes = attrs.field(repr=False)


class RefreshTokenFailure(Enum):
    """Why a refresh token, or its wrapper, could not be opened."""

    NOT_BASE64 = "not base64"
    UNKNOWN_KEY = "unknown key id"
    UNDECRYPTABLE = "not authentic, or wrongly padded"
    TOO_SHORT = "cut off"
    BAD_JSON = "the wrapper does not hold the documented JSON"
    EMPTY = "no token at all"
    UNKNOWN_VERSION = "unknown version"
    MISMATCH = "header and payload name different scopes or types"
    BAD_IDENTITY = "the identity segment is no base64"

    @property
    def malformed(self) -> bool:
        """Whether the operator calls the token invalid for this reason.

        Any other reason makes the operator fail with 500 (docs/protocol.md 2.2).
        """
        return self not in _FATAL


_FATAL = frozenset({RefreshTokenFailure.UNDECRYPTABLE, RefreshTokenFailure.TOO_SHORT})


class RefreshTokenError(Exception):
    """A refresh token, or its wrapper, could not be opened.

    Attributes:
        reason: Why.
        key_id: The signed key id that it names, where the reason is UNKNOWN_KEY.
    """

    def __init__(self, reason: RefreshTokenFailure, key_id: int | None = None) -> None:
        """Keep the reason."""
        super().__init__(reason, key_id)
        self.reason = reason
        self.key_id = key_id


def seal_refresh_token(token: RefreshToken, key: Key, *, iv: bytes) -> str:
    """Seal a refresh token in the layout of its version, without the wrapper.

    Args:
        token: What it says.
        key: The active key of the refresh keyset.
        iv: 12 random bytes, or 16 for v2.

    Returns:
        168 characters of base64, with a first-level hash of 32 bytes.

    Raises:
        ValueError: If the version is neither 2 nor 3.
    """
    if token.version == _V3:
        return base64.encode_text(_seal_v3(token, key, iv))
    if token.version == _V2:
        return base64.encode_text(_seal_v2(token, key, iv))
    raise ValueError("A refresh token has version 2 or 3.")


def _seal_v3(token: RefreshToken, key: Key, iv: bytes) -> bytes:
    """Write the 124 bytes of v3."""
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
    sealed = key.seal_gcm(iv, payload + token.first_level_hash)
    return _HEADER.pack(kind, _V3_BYTE, key.id) + sealed


def _seal_v2(token: RefreshToken, key: Key, iv: bytes) -> bytes:
    """Write the 125 bytes of v2."""
    header = _HEADER_V2.pack(
        _V2,
        token.created_ms,
        token.expires_ms,
        token.expires_ms + _V2_GRACE_MS,
        key.id,
    )
    text = base64.encode(token.first_level_hash)
    payload = (
        _IDENTITY_V2.pack(token.site_id, len(text))
        + text
        + _TAIL_V2.pack(token.privacy_bits, token.established_ms)
    )
    return header + key.seal_cbc(iv, payload)


def open_refresh_token(text: str, key_of: KeyLookup) -> RefreshToken:
    """Open a refresh token without its wrapper.

    Expiry, and the operator's own scope, are left to the caller.

    Args:
        text: The token in base64, or the body of a request that is not a wrapper.
        key_of: Finds a key by its id.

    Raises:
        RefreshTokenError: If it cannot be opened; never BAD_JSON.
    """
    if not text:
        raise RefreshTokenError(RefreshTokenFailure.EMPTY)
    data = base64.decode(text)
    if data is None:
        raise RefreshTokenError(RefreshTokenFailure.NOT_BASE64)
    if len(data) < 2:  # noqa: PLR2004 - the bytes that can hold a version
        raise RefreshTokenError(RefreshTokenFailure.TOO_SHORT)
    # In this order: the first byte of a v3 token may be anything.
    if data[1] == _V3_BYTE:
        return _open_v3(data, key_of)
    if data[0] == _V2:
        return _open_v2(data, key_of)
    raise RefreshTokenError(RefreshTokenFailure.UNKNOWN_VERSION)


def _open_v3(data: bytes, key_of: KeyLookup) -> RefreshToken:
    """Read the bytes of v3."""
    kind, _, key_id = _unpack(_HEADER, data)
    payload = _find(key_of, key_id).open_gcm(data, _HEADER.size)
    if payload is None:
        raise RefreshTokenError(RefreshTokenFailure.UNDECRYPTABLE)
    fields = _unpack(_PAYLOAD, payload)
    flh = payload[_PAYLOAD.size : _PAYLOAD.size + _HASH_SIZE]
    if len(flh) < _HASH_SIZE:
        raise RefreshTokenError(RefreshTokenFailure.TOO_SHORT)
    sealed_kind: int = fields[11]
    scope, identity_type = TYPE_BYTES[sealed_kind]
    if identity_type is None or (sealed_kind ^ kind) & TYPE_MASK:
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


def _open_v2(data: bytes, key_of: KeyLookup) -> RefreshToken:
    """Read the bytes of v2; the written expiry is ignored for the one with grace."""
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
    text: str,
    refresh_response_key: bytes,
    key: Key,
    *,
    scope: IdentityScope,
    iv: bytes,
) -> str:
    """Wrap a refresh token with the key that will seal the answer to its refresh.

    Args:
        text: The token, 168 characters.
        refresh_response_key: 32 random bytes.
        key: The active key of the refresh keyset.
        scope: The operator's scope.
        iv: 12 random bytes.

    Returns:
        388 characters of base64.

    Raises:
        ValueError: If the result has another length, since its first-level hash has:
            no operator would open it.
    """
    # In the order of the operator.
    inner = {
        "refresh_response_key": base64.encode_text(refresh_response_key),
        "refresh_token": text,
    }
    header = _WRAPPER.pack(scope.bit << 4, key.id)
    wrapped = base64.encode_text(header + key.seal_gcm(iv, wire.encode(inner)))
    if len(wrapped) != WRAPPED_CHARS:
        raise ValueError("A wrapped refresh token has 388 characters.")
    return wrapped


def unwrap_refresh_token(text: str, key_of: KeyLookup) -> tuple[str, bytes]:
    """Open the wrapper of a refresh token. Its scope byte is not looked at.

    Args:
        text: The body of a request, of 388 UTF-16 code units.
        key_of: Finds a key by its id.

    Returns:
        The token inside, empty if there is none, and the key that seals the answer.
        The key has 32 bytes, or any number in a forged token.

    Raises:
        RefreshTokenError: With NOT_BASE64, UNKNOWN_KEY, UNDECRYPTABLE, BAD_JSON, or
            TOO_SHORT, which 388 characters cannot be.
    """
    data = base64.decode(text)
    if data is None:
        raise RefreshTokenError(RefreshTokenFailure.NOT_BASE64)
    _, key_id = _unpack(_WRAPPER, data)
    payload = _find(key_of, key_id).open_gcm(data, _WRAPPER.size)
    if payload is None:
        raise RefreshTokenError(RefreshTokenFailure.UNDECRYPTABLE)
    inner = _read_inner(payload)
    if inner is None:
        raise RefreshTokenError(RefreshTokenFailure.BAD_JSON)
    return inner


def _read_inner(payload: bytes) -> tuple[str, bytes] | None:
    """Read the JSON of a wrapper, or None if it has no key in base64.

    Values of the wrong type are turned into text (docs/protocol.md 1.3).
    """
    fields = parse_object(payload) or {}
    key_text = as_java_string(fields.get("refresh_response_key"))
    response_key = None if key_text is None else base64.decode(key_text)
    if response_key is None:
        return None
    return as_java_string(fields.get("refresh_token")) or "", response_key


def _find(key_of: KeyLookup, key_id: int) -> Key:
    """Find the key that a token names."""
    key = key_of(key_id)
    if key is None:
        raise RefreshTokenError(RefreshTokenFailure.UNKNOWN_KEY, key_id)
    return key


def _unpack(struct: Struct, data: bytes, start: int = 0) -> tuple[Any, ...]:
    """Unpack what must be there."""
    if len(data) - start < struct.size:
        raise RefreshTokenError(RefreshTokenFailure.TOO_SHORT)
    return struct.unpack_from(data, start)


SERVER_SIDE = 0b01
CLIENT_SIDE = 0b11


class UnwrappableError(Exception):
    """The first-level hash is of a size with which a refresh token is not wrapped."""


@attrs.frozen(kw_only=True)
class Subject:
    """For whom tokens are made.

    Attributes:
        flh: The first-level hash.
        identity_type: E-mail or phone.
        site_id: The publisher.
        privacy_bits: How the identity came about (docs/protocol.md 5.4).
        established_ms: When it was first generated, in ms.
    """

    flh: bytes = attrs.field(repr=False)
    identity_type: IdentityType
    site_id: int
    privacy_bits: int
    established_ms: int


def mint_tokens(index: DataIndex, subject: Subject, now_ms: int) -> TokensBody | None:
    """Make the tokens of *subject*, or return None if a key is missing.

    Raises:
        UnwrappableError: If its first-level hash, from a forged token, has not 32 to 34
            bytes.
    """
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
    """Make a v4 token; its raw UID is that of today's salts."""
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
        raw_uid=index.buckets.raw_uid(subject.flh, subject.identity_type, now_ms),
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
    """Make a v3 refresh token in its wrapper."""
    token = RefreshToken(
        scope=index.scope,
        identity_type=subject.identity_type,
        expires_ms=expires_ms,
        created_ms=now_ms,
        site_id=subject.site_id,
        privacy_bits=subject.privacy_bits,
        established_ms=subject.established_ms,
        first_level_hash=subject.flh,
    )
    inner = seal_refresh_token(token, key, iv=index.random(IV_BYTES))
    iv = index.random(IV_BYTES)
    try:
        return wrap_refresh_token(inner, response_key, key, scope=index.scope, iv=iv)
    except ValueError:
        pass
    raise UnwrappableError
