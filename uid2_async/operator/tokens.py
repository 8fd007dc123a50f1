"""The operator's half of token/generate, refresh, validate and logout.

See docs/protocol.md 2.0 to 2.3 and 2.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from uid2_async._private import RedactedRepr
from uid2_async.errors import TokenError
from uid2_async.models import IdentityScope, IdentityType
from uid2_async.operator.data import EMBEDDED_OPT_OUT
from uid2_async.operator.http_messages import (
    RefusedError,
    client_error,
    reply_error,
    text_error,
    unknown_error,
)
from uid2_async.operator.indexes import AuthorizedRequest, DataIndex
from uid2_async.operator.java_json import decode_utf8
from uid2_async.operator.java_text import as_java_string, utf16_length
from uid2_async.operator.minting import (
    SERVER_SIDE,
    WRAPPED_CHARS,
    RefreshToken,
    RefreshTokenError,
    RefreshTokenFailure,
    Subject,
    UnwrappableError,
    mint_tokens,
    open_refresh_token,
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
from uid2_async.protocol.tokens import TokensBody


class InputFault(Enum):
    """What is wrong with the identity in a request."""

    MISSING = "not exactly one identity"
    INVALID = "an identity that does not normalize"


class IdentityInput(RedactedRepr, frozen=True, kw_only=True):
    """The one identity of a request, as the operator reads it.

    Attributes:
        identity_type: Email or phone.
        data: The identity bytes.
    """

    identity_type: IdentityType
    data: bytes


def read_identity_input(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> IdentityInput | InputFault:
    """Return the one identity of a request, or what is wrong with it.

    Args:
        payload: The request's JSON object, or None if it was empty.
        phones: Whether the operator supports phones. If not, they are ignored.
    """
    kinds = KINDS if phones else KINDS[:2]
    fields = payload or {}
    present = [kind for kind in kinds if fields.get(kind) is not None]
    if len(present) != 1:
        return InputFault.MISSING
    kind = present[0]
    data = identity_bytes(kind, as_java_string(fields[kind]) or "")
    if data is None:
        return InputFault.INVALID
    return IdentityInput(identity_type=IdentityType(kind.partition("_")[0]), data=data)


def missing_message(*, phones: bool) -> str:
    """Return the message for a request that does not have exactly one identity."""
    which = "[email, email_hash, phone, phone_hash]" if phones else None
    return (
        "Required Parameter Missing: exactly one of "
        f"{which or 'email or email_hash'} must be specified"
    )


def refuse_input(fault: InputFault, *, phones: bool) -> RefusedError:
    """Return the error of generate and validate for *fault*."""
    if fault is InputFault.MISSING:
        return client_error(missing_message(phones=phones))
    return client_error("Invalid Identifier")


class GenerateRequest(RedactedRepr, frozen=True, kw_only=True):
    """A generate request as the operator reads it.

    Attributes:
        identity: The identity to generate tokens for.
        has_consent: Whether the key ``tcf_consent_string`` is present, even with null.
        consent: The value of that key. None for null.
    """

    identity: IdentityInput
    has_consent: bool
    consent: str | None


def parse_generate_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> GenerateRequest:
    """Parse a generate request.

    Raises:
        RefusedError: If there is not exactly one valid identity.
    """
    identity = _one_identity(payload, phones=phones)
    fields = payload or {}
    return GenerateRequest(
        identity=identity,
        has_consent="tcf_consent_string" in fields,
        consent=as_java_string(fields.get("tcf_consent_string")),
    )


def _one_identity(payload: Mapping[str, Any] | None, *, phones: bool) -> IdentityInput:
    """Return the one identity, or raise the error of generate and validate."""
    identity = read_identity_input(payload, phones=phones)
    if isinstance(identity, InputFault):
        raise refuse_input(identity, phones=phones)
    return identity


def build_tokens_reply(body: TokensBody) -> bytes:
    """Build the reply to a successful generate or refresh."""
    return wire.encode({"body": body, "status": "success"})


def build_status_reply(status: str) -> bytes:
    """Build a reply without a body, for ``optout`` or ``insufficient_user_consent``."""
    return wire.encode({"status": status})


class ValidateRequest(RedactedRepr, frozen=True, kw_only=True):
    """A validate request as the operator reads it."""

    identity: IdentityInput
    token: str


def parse_validate_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> ValidateRequest:
    """Parse a validate request. The identity is checked first.

    Raises:
        RefusedError: If the identity or the token is missing or invalid.
    """
    identity = _one_identity(payload, phones=phones)
    token = as_java_string((payload or {}).get("token"))
    if token is None:
        raise client_error("Invalid token")
    return ValidateRequest(identity=identity, token=token)


def build_validate_reply(*, same: bool) -> bytes:
    """Build the reply to validate."""
    return wire.encode({"body": same, "status": "success"})


def parse_logout_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> IdentityInput:
    """Parse a logout request.

    Raises:
        RefusedError: 400 ``invalid_token``. For an invalid identity, the real message
            ends with the name of a Java object. Only the text before it is stable.
    """
    identity = read_identity_input(payload, phones=phones)
    if isinstance(identity, InputFault):
        shown = "null" if identity is InputFault.MISSING else "InputVal"
        raise RefusedError(400, "invalid_token", f"Invalid Token presented {shown}")
    return identity


def build_logout_reply() -> bytes:
    """Build the reply to logout."""
    return wire.encode({"body": {"optout": "OK"}, "status": "success"})


def no_active_key() -> RefusedError:
    """Return the error for a site without a key if the fallback has none either."""
    return unknown_error("No active encryption key available")


def generate(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer token/generate."""
    request = parse_generate_request(
        call.payload, phones=index.settings.enable_phone_support
    )
    if not _has_consent(index, request):
        return build_status_reply("insufficient_user_consent")
    identity = request.identity
    flh = index.buckets.first_level_hash(identity.data)
    if index.opt_outs.is_out(flh, identity.identity_type):
        return build_status_reply("optout")
    subject = Subject(
        flh=flh,
        identity_type=identity.identity_type,
        site_id=call.client.site_id,
        privacy_bits=SERVER_SIDE,
        established_ms=call.now_ms,
    )
    tokens = mint_tokens(index, subject, call.now_ms)
    if tokens is None:
        raise no_active_key()
    return build_tokens_reply(tokens)


def _has_consent(index: DataIndex, request: GenerateRequest) -> bool:
    """Check the consent string. Only EUID operators do so.

    Raises:
        RefusedError: If a consent string is present but invalid or of TCF version 1.
    """
    if index.scope is not IdentityScope.EUID or not request.has_consent:
        return True
    try:
        consent = read_consent(request.consent) if request.consent else None
    except UnusableConsentError:
        raise unknown_error("Unknown error while generating token v2") from None
    if consent is None:
        raise client_error("User consent is invalid")
    return consent.allows(REQUIRED_PURPOSES, index.settings.tcf_vendor_id)


def validate(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer token/validate, regardless of expiry and opt-out."""
    request = parse_validate_request(
        call.payload, phones=index.settings.enable_phone_support
    )
    token = _open_token(index, request.token)
    key = index.keysets.key(token.site_key_id)
    owner = None if key is None else index.keysets.site_of(key)
    if owner is None:
        # The key can decrypt tokens, but its keyset does not exist, so no site owns
        # it.
        raise text_error()
    if owner != call.client.site_id:
        raise client_error("Unauthorised to validate token")
    identity = request.identity
    raw_uid = index.buckets.raw_uid(
        index.buckets.first_level_hash(identity.data),
        identity.identity_type,
        call.now_ms,
    )
    return build_validate_reply(same=raw_uid == token.raw_uid)


def _open_token(index: DataIndex, text: str) -> AdvertisingToken:
    """Decrypt an advertising token as strictly as the real operator."""
    try:
        return open_token(text, index.keysets.key, strict=True)
    except TokenError:
        pass
    raise client_error("Invalid token")


def opt_out(index: DataIndex, call: AuthorizedRequest) -> bytes:
    """Answer token/logout.

    A real operator forwards it to an opt-out service, and fails if it has none. The
    built-in service takes effect at once. Other services are not called.
    """
    identity = parse_logout_request(
        call.payload, phones=index.settings.enable_phone_support
    )
    if index.settings.optout_api_uri != EMBEDDED_OPT_OUT:
        raise text_error()
    flh = index.buckets.first_level_hash(identity.data)
    raw_uid = index.buckets.raw_uid(flh, identity.identity_type, call.now_ms)
    index.opt_outs.add(flh, raw_uid, call.now_ms // 1000)
    return build_logout_reply()


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


def refresh(
    index: DataIndex, body: bytes, *, authenticated: bool, now_ms: int
) -> tuple[bytes, bytes | None]:
    """Answer token/refresh.

    Args:
        index: The operator's data.
        body: The refresh token.
        authenticated: Whether the API key is known, even if it is disabled. If not, the
            operator does not return the cause of an error.
        now_ms: The operator's time, in ms since the Unix epoch.

    Returns:
        The reply's JSON, and the key to encrypt it with, or None to send it
        unencrypted.

    Raises:
        RefusedError: If the token is not refreshed.
    """
    text = decode_utf8(body)
    key = None
    if utf16_length(text) == WRAPPED_CHARS:
        text, key = _unwrap(index, text)
    token = _open_inner(index, text, authenticated=authenticated)
    return _refresh_token(index, token, authenticated=authenticated, now_ms=now_ms), key


def _unwrap(index: DataIndex, text: str) -> tuple[str, bytes]:
    """Decrypt the wrapper."""
    try:
        return unwrap_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        message = _WRAPPER_FAULTS[error.reason].format(key_id=error.key_id)
    raise client_error(message)


def _open_inner(index: DataIndex, text: str, *, authenticated: bool) -> RefreshToken:
    """Decrypt the inner token."""
    try:
        token = open_refresh_token(text, index.keysets.key)
    except RefreshTokenError as error:
        malformed = error.reason.malformed
    else:
        if token.scope is index.scope:
            return token
        malformed = True
    if not malformed:
        raise unknown_error("Unknown error while refreshing token v2")
    raise _disclose(_invalid_token(), authenticated=authenticated)


def _invalid_token() -> RefusedError:
    return RefusedError(400, "invalid_token", "Invalid Token presented")


def _refresh_token(
    index: DataIndex, token: RefreshToken, *, authenticated: bool, now_ms: int
) -> bytes:
    """Check a decrypted token, and create new ones."""
    if token.established_ms < _FIRST_ESTABLISHED_MS:
        return build_status_reply("optout")
    if token.expires_ms < now_ms:
        refusal = RefusedError(400, "expired_token", "Expired Token presented")
        raise _disclose(refusal, authenticated=authenticated)
    flh = token.first_level_hash
    if index.opt_outs.is_out_on_refresh(flh, token.identity_type):
        return build_status_reply("optout")
    if not index.buckets.can_map(flh, now_ms):
        raise _disclose(_invalid_token(), authenticated=authenticated)
    subject = Subject(
        flh=flh,
        identity_type=token.identity_type,
        site_id=token.site_id,
        privacy_bits=token.privacy_bits,
        established_ms=token.established_ms,
    )
    try:
        tokens = mint_tokens(index, subject, now_ms)
    except UnwrappableError:
        raise reply_error() from None
    if tokens is None:
        raise _disclose(no_active_key(), authenticated=authenticated)
    return build_tokens_reply(tokens)


def _disclose(refusal: RefusedError, *, authenticated: bool) -> RefusedError:
    """Hide the cause of an error from callers without a known API key."""
    if authenticated:
        return refusal
    return RefusedError(400, "error", "Error refreshing token")
