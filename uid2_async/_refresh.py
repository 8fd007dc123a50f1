"""token/refresh as a call (docs/protocol.md 2.2), for every client that has tokens."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest

from uid2_async._call import Call
from uid2_async.errors import InputError, ProtocolError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import OptedOut, ms_from_datetime
from uid2_async.protocol import base64, tokens
from uid2_async.protocol.envelope import KEY_BYTES

__all__ = ["refresh_call"]


def refresh_call(
    identity_tokens: IdentityTokens, now_ms: Callable[[], int]
) -> Call[IdentityTokens | OptedOut]:
    """Make the call that refreshes *identity_tokens*; it needs no API key.

    The reply carries no nonce. So one that repeats what is held, or has expired by
    *now_ms*, the operator's clock as far as it is known, is not taken: it may be an old
    one played again.

    Raises:
        InputError: If the reply could not be opened with what the tokens hold.
    """
    return Call(
        path=tokens.REFRESH_PATH,
        payload=_refresh_body(identity_tokens),
        parse=lambda payload: _read_new(payload, identity_tokens, now_ms()),
        bare=True,
        reply_key=_refresh_reply_key(identity_tokens),
    )


def _read_new(
    payload: bytes, held: IdentityTokens, now_ms: int
) -> IdentityTokens | OptedOut:
    """Read the reply, and refuse tokens that are no news."""
    answer = tokens.parse_refresh_reply(payload)
    if isinstance(answer, OptedOut):
        return answer
    if ms_from_datetime(answer.identity_expires) <= now_ms:
        raise _refused("The refreshed tokens have expired.", "identity_expires")
    for name in ("advertising_token", "refresh_token"):
        if compare_digest(_bytes(getattr(held, name)), _bytes(getattr(answer, name))):
            raise _refused("The refresh reply repeats what was held.", name)
    return answer


def _refused(message: str, name: str) -> ProtocolError:
    """Make the error for a reply that is well-formed and not to be trusted."""
    return ProtocolError(
        message,
        hint="Check this machine's clock; if it is right, something replays replies.",
        path=f"body.{name}",
    )


def _bytes(token: str) -> bytes:
    """Take the bytes of a stored token, which may hold anything that a str can."""
    return token.encode(errors="surrogatepass")


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
