"""The endpoints token/generate, refresh, validate and logout.

See docs/protocol.md 2.0 to 2.3 and 2.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uid2_async._private import RedactedRepr
from uid2_async.errors import TokenError
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.data import EMBEDDED_OPT_OUT
from uid2_async.operator.http_messages import (
    RefusedError,
    client_error,
    encode_success,
    text_error,
    unknown_error,
)
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex
from uid2_async.operator.java import as_java_string, decode_utf8, utf16_length
from uid2_async.operator.minting import (
    SERVER_SIDE,
    WRAPPED_CHARS,
    RefreshToken,
    RefreshTokenError,
    RefreshTokenFailure,
    Subject,
    decrypt_inner_token,
    mint_tokens,
    unwrap_refresh_token,
)
from uid2_async.operator.tcf import (
    REQUIRED_PURPOSES,
    UnusableConsentError,
    read_consent,
)
from uid2_async.protocol import wire
from uid2_async.protocol.normalize import KINDS, identity_bytes
from uid2_async.protocol.token_codec import AdvertisingToken, open_token

# For a site without a key, if the fallback has none either.
_NO_ACTIVE_KEY = "No active encryption key available"


class IdentityInput(RedactedRepr, frozen=True, kw_only=True):
    """The one identity of a request, as the operator reads it."""

    identity_type: IdentityType
    flh: bytes


def read_identity_input(
    index: DataIndex,
    payload: Mapping[str, Any] | None,
    *,
    missing: RefusedError | None = None,
    invalid: RefusedError | None = None,
) -> IdentityInput:
    """Return the one identity of a request.

    Operators without phone support ignore phones.

    Raises:
        RefusedError: *missing* if there is not exactly one identity, and *invalid* if
            it does not normalize. By default, those of generate and validate.
    """
    kinds = KINDS if index.settings.enable_phone_support else KINDS[:2]
    fields = payload or {}
    present = [kind for kind in kinds if fields.get(kind) is not None]
    if len(present) != 1:
        phones = index.settings.enable_phone_support
        raise missing or client_error(missing_message(phones=phones))
    kind = present[0]
    data = identity_bytes(kind, as_java_string(fields[kind]) or "")
    if data is None:
        raise invalid or client_error("Invalid Identifier")
    return IdentityInput(
        identity_type=IdentityType(kind.partition("_")[0]),
        flh=index.buckets.first_level_hash(data),
    )


def missing_message(*, phones: bool) -> str:
    """Return the message for a request that does not have exactly one identity."""
    which = "[email, email_hash, phone, phone_hash]" if phones else None
    return (
        "Required Parameter Missing: exactly one of "
        f"{which or 'email or email_hash'} must be specified"
    )


def encode_status(status: str) -> bytes:
    """Encode a reply without a body, ``optout`` or ``insufficient_user_consent``."""
    return wire.encode({"status": status})


# --- generate, validate and logout ----------------------------------------------------


def generate(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer token/generate."""
    identity = read_identity_input(index, call.payload)
    if not _has_consent(index, call.payload or {}):
        return encode_status("insufficient_user_consent")
    return generate_for(
        index,
        identity,
        site_id=call.client.site_id,
        privacy_bits=SERVER_SIDE,
        now_ms=call.now_ms,
    )


def generate_for(
    index: DataIndex,
    identity: IdentityInput,
    *,
    site_id: int,
    privacy_bits: int,
    now_ms: int,
) -> bytes:
    """Create the tokens of *identity*, unless the person has opted out."""
    if index.opt_outs.is_out(identity.flh, identity.identity_type):
        return encode_status("optout")
    subject = Subject(
        first_level_hash=identity.flh,
        identity_type=identity.identity_type,
        site_id=site_id,
        privacy_bits=privacy_bits,
        established_ms=now_ms,
    )
    tokens = mint_tokens(index, subject, now_ms)
    if tokens is None:
        raise unknown_error(_NO_ACTIVE_KEY)
    return encode_success(tokens)


def _has_consent(index: DataIndex, fields: Mapping[str, Any]) -> bool:
    """Check the consent string, if there is one. Only EUID operators do so.

    A JSON null counts as a consent string, which is invalid.
    """
    key = "tcf_consent_string"
    if index.scope is not IdentityScope.EUID or key not in fields:
        return True
    text = as_java_string(fields[key])
    try:
        consent = read_consent(text) if text else None
    except UnusableConsentError:
        raise unknown_error("Unknown error while generating token v2") from None
    if consent is None:
        raise client_error("User consent is invalid")
    return consent.allows(REQUIRED_PURPOSES, index.settings.tcf_vendor_id)


def validate(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer token/validate, regardless of expiry and opt-out."""
    identity = read_identity_input(index, call.payload)
    token = _decrypt_token(index, as_java_string((call.payload or {}).get("token")))
    key = index.keysets.key(token.site_key_id)
    owner = None if key is None else index.keysets.site_of(key)
    if owner is None:
        # The key can decrypt tokens, but its keyset does not exist, so no site owns
        # it.
        raise text_error()
    if owner != call.client.site_id:
        raise client_error("Unauthorised to validate token")
    raw_uid = index.buckets.raw_uid(identity.flh, identity.identity_type, call.now_ms)
    return encode_success(raw_uid == token.raw_uid)


def _decrypt_token(index: DataIndex, text: str | None) -> AdvertisingToken:
    """Decrypt an advertising token as strictly as the real operator."""
    try:
        if text is not None:
            return open_token(text, index.keysets.key, strict=True)
    except TokenError:
        pass
    raise client_error("Invalid token")


def opt_out(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer token/logout.

    A real operator forwards it to an opt-out service, and fails if it has none. The
    built-in service takes effect at once. Other services are not called.
    """
    message = "Invalid Token presented"
    identity = read_identity_input(
        index,
        call.payload,
        missing=RefusedError(400, "invalid_token", f"{message} null"),
        invalid=RefusedError(400, "invalid_token", f"{message} InputVal"),
    )
    if index.settings.optout_api_uri != EMBEDDED_OPT_OUT:
        raise text_error()
    raw_uid = index.buckets.raw_uid(identity.flh, identity.identity_type, call.now_ms)
    index.opt_outs.add(identity.flh, raw_uid, call.now_ms // 1000)
    return encode_success({"optout": "OK"})


# --- refresh --------------------------------------------------------------------------

# 2021-03-08T17:00:00Z. Identities established before count as opted out.
_FIRST_ESTABLISHED_MS = 1_615_222_800_000

_WRAPPER_FAULTS = {
    RefreshTokenFailure.NOT_BASE64: "Invalid body: Body is not valid base64.",
    RefreshTokenFailure.UNKNOWN_KEY: (
        "Invalid key: Generator of this token (Key ID: {key_id}) does not exist."
    ),
    RefreshTokenFailure.UNDECRYPTABLE: (
        "Invalid data: Check encryption method and encryption key."
    ),
    RefreshTokenFailure.BAD_JSON: (
        "Invalid format: Payload is not valid json or missing required data."
    ),
}


class _HiddenError(RefusedError):
    """An error whose cause is hidden from callers without a known API key."""


def refresh(
    index: DataIndex, body: bytes, *, authenticated: bool, now_ms: int
) -> tuple[bytes, bytes | None]:
    """Answer token/refresh with JSON, and the key to encrypt it with, or None.

    *authenticated* is whether the API key is known, even if it is disabled.
    """
    text = decode_utf8(body)
    key = None
    if utf16_length(text) == WRAPPED_CHARS:
        text, key = _unwrap(index, text)
    try:
        return _refresh_token(index, _decrypt_inner(index, text), now_ms), key
    except _HiddenError:
        if authenticated:
            raise
    raise RefusedError(400, "error", "Error refreshing token")


def _unwrap(index: DataIndex, text: str) -> tuple[str, bytes]:
    """Decrypt the wrapper."""
    try:
        return unwrap_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        message = _WRAPPER_FAULTS[error.reason].format(key_id=error.key_id)
    raise client_error(message)


def _decrypt_inner(index: DataIndex, text: str) -> RefreshToken:
    """Decrypt the inner token."""
    try:
        token = decrypt_inner_token(text, index.keysets.key)
        if token.scope is index.scope:
            return token
    except RefreshTokenError as error:
        if not error.reason.malformed:
            raise unknown_error("Unknown error while refreshing token v2") from None
    raise _invalid_token()


def _invalid_token() -> RefusedError:
    return _HiddenError(400, "invalid_token", "Invalid Token presented")


def _refresh_token(index: DataIndex, token: RefreshToken, now_ms: int) -> bytes:
    """Check a decrypted token, and create new ones."""
    if token.established_ms < _FIRST_ESTABLISHED_MS:
        return encode_status("optout")
    if token.expires_ms < now_ms:
        raise _HiddenError(400, "expired_token", "Expired Token presented")
    flh = token.first_level_hash
    if index.opt_outs.is_out_on_refresh(flh, token.identity_type):
        return encode_status("optout")
    if not index.buckets.is_long_enough(flh, now_ms):
        raise _invalid_token()
    tokens = mint_tokens(index, token, now_ms)
    if tokens is None:
        raise _HiddenError(500, "unknown", _NO_ACTIVE_KEY)
    return encode_success(tokens)
