"""token/refresh as a call (docs/protocol.md 2.2), for every client that has tokens."""

from __future__ import annotations

from uid2_async._call import Call
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import OptedOut
from uid2_async.protocol import base64, tokens
from uid2_async.protocol.envelope import KEY_BYTES

__all__ = ["refresh_call"]


def refresh_call(identity_tokens: IdentityTokens) -> Call[IdentityTokens | OptedOut]:
    """Make the call that refreshes *identity_tokens*; it needs no API key.

    Raises:
        InputError: If the reply could not be opened with what the tokens hold.
    """
    return Call(
        path=tokens.REFRESH_PATH,
        payload=_refresh_body(identity_tokens),
        parse=tokens.parse_refresh_reply,
        bare=True,
        reply_key=_refresh_reply_key(identity_tokens),
    )


def _refresh_body(identity_tokens: IdentityTokens) -> bytes:
    """Take the refresh token as the request's body."""
    try:
        body = identity_tokens.refresh_token.encode("ascii")
    except UnicodeEncodeError:
        body = b""
    if not body or any(char <= ord(" ") for char in body):
        raise InputError("The refresh token is empty or holds foreign characters.")
    return body


def _refresh_reply_key(identity_tokens: IdentityTokens) -> bytes:
    """Take the key that opens the refresh reply; empty where it comes in the clear."""
    if len(identity_tokens.refresh_token) != tokens.SEALED_REFRESH_CHARS:
        return b""
    key = base64.decode(identity_tokens.refresh_response_key or "")
    if key is None or len(key) != KEY_BYTES:
        raise InputError(
            "The refresh_response_key is missing or not base64 of 32 bytes.",
            hint="Store it with the refresh token: it changes with every refresh.",
        )
    return key
