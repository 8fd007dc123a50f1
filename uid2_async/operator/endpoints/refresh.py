"""token/refresh (docs/protocol.md 2.2)."""

from __future__ import annotations

from uid2_async.operator.endpoints.tokens import no_active_key
from uid2_async.operator.minting import Subject, UnwrappableError, mint_tokens
from uid2_async.operator.world import World
from uid2_async.protocol.java_json import decode_utf8
from uid2_async.protocol.java_text import utf16_length
from uid2_async.protocol.refresh_token import (
    WRAPPED_CHARS,
    RefreshToken,
    RefreshTokenError,
    RefreshTokenFailure,
    open_refresh_token,
    unwrap_refresh_token,
)
from uid2_async.protocol.refusal import (
    RefusedError,
    client_error,
    reply_error,
    unknown_error,
)
from uid2_async.protocol.tokens import build_status_reply, build_tokens_reply

__all__ = ["refresh"]

# 2021-03-08T17:00:00Z: whoever was established before has opted out.
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
    world: World, body: bytes, *, authenticated: bool, now_ms: int
) -> tuple[bytes, bytes | None]:
    """Answer token/refresh.

    Args:
        world: The operator's data.
        body: The refresh token and nothing else.
        authenticated: Whether the API key is known, even if disabled; without one the
            operator does not say what is wrong.
        now_ms: The operator's clock.

    Returns:
        The reply's JSON, and the key that seals it; None where it goes out bare.

    Raises:
        RefusedError: If there is no refresh.
    """
    text = decode_utf8(body)
    key = None
    if utf16_length(text) == WRAPPED_CHARS:
        text, key = _unwrap(world, text)
    token = _open(world, text, authenticated=authenticated)
    return _answer(world, token, authenticated=authenticated, now_ms=now_ms), key


def _unwrap(world: World, text: str) -> tuple[str, bytes]:
    """Take the wrapper off."""
    try:
        return unwrap_refresh_token(text, world.keysets.key)
    except RefreshTokenError as error:
        message = _WRAPPER_FAULTS[error.reason].format(key_id=error.key_id)
    raise client_error(message)


def _open(world: World, text: str, *, authenticated: bool) -> RefreshToken:
    """Open the inner token."""
    try:
        token = open_refresh_token(text, world.keysets.key)
    except RefreshTokenError as error:
        malformed = error.reason.malformed
    else:
        if token.scope is world.scope:
            return token
        malformed = True
    if not malformed:
        raise unknown_error("Unknown error while refreshing token v2")
    raise _disclose(_invalid_token(), authenticated=authenticated)


def _invalid_token() -> RefusedError:
    return RefusedError(400, "invalid_token", "Invalid Token presented")


def _answer(
    world: World, token: RefreshToken, *, authenticated: bool, now_ms: int
) -> bytes:
    """Judge an opened token and make new ones."""
    if token.established_ms < _FIRST_ESTABLISHED_MS:
        return build_status_reply("optout")
    if token.expires_ms < now_ms:
        refusal = RefusedError(400, "expired_token", "Expired Token presented")
        raise _disclose(refusal, authenticated=authenticated)
    flh = token.first_level_hash
    if world.opt_outs.is_out_on_refresh(flh, token.identity_type):
        return build_status_reply("optout")
    if not world.buckets.can_map(flh, now_ms):
        raise _disclose(_invalid_token(), authenticated=authenticated)
    subject = Subject(
        flh=flh,
        identity_type=token.identity_type,
        site_id=token.site_id,
        privacy_bits=token.privacy_bits,
        established_ms=token.established_ms,
    )
    try:
        tokens = mint_tokens(world, subject, now_ms)
    except UnwrappableError:
        raise reply_error() from None
    if tokens is None:
        raise _disclose(no_active_key(), authenticated=authenticated)
    return build_tokens_reply(tokens)


def _disclose(refusal: RefusedError, *, authenticated: bool) -> RefusedError:
    """Tell the cause to those with a known API key alone."""
    if authenticated:
        return refusal
    return RefusedError(400, "error", "Error refreshing token")
