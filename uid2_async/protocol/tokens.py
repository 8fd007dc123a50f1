"""The client's half of token/generate, refresh, validate and logout.

See docs/protocol.md 2.1, 2.2, 2.3 and 2.9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from hmac import compare_digest
from typing import Final, TypeVar

import msgspec

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError, ProtocolError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    Identity,
    InsufficientConsent,
    OptedOut,
    datetime_from_ms,
    ms_from_datetime,
)
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import KEY_BYTES
from uid2_async.protocol.normalize import write_identity_input
from uid2_async.protocol.wire import Call

R = TypeVar("R")

GENERATE_PATH: Final = "/v2/token/generate"
REFRESH_PATH: Final = "/v2/token/refresh"
VALIDATE_PATH: Final = "/v2/token/validate"
LOGOUT_PATH: Final = "/v2/token/logout"

# A refresh token of this length is a wrapper, and the reply to it is encrypted.
SEALED_REFRESH_CHARS: Final = 388
# Tokens contain no spaces or control characters, which could end a header.
_CONTROL: Final = bytes(range(ord(" ") + 1))


class TokensBody(RedactedRepr, omit_defaults=True, frozen=True):
    """The body of a successful generate or refresh. Times are in ms since the epoch."""

    advertising_token: str
    refresh_token: str
    identity_expires: wire.EpochMs
    refresh_expires: wire.EpochMs
    refresh_from: wire.EpochMs
    refresh_response_key: str | None = None


_REFRESH_RESULTS: Final = {"optout": OptedOut()}
_GENERATE_RESULTS: Final[dict[str, OptedOut | InsufficientConsent]] = {
    **_REFRESH_RESULTS,
    "insufficient_user_consent": InsufficientConsent(),
}


class _LogoutBody(msgspec.Struct):
    optout: str


def generate_call(
    identity: Identity, *, tcf_consent_string: str | None = None, send_raw: bool = False
) -> Call[IdentityTokens | OptedOut | InsufficientConsent]:
    """Build a token/generate call (docs/protocol.md 2.1).

    Args:
        identity: The identity to generate tokens for.
        tcf_consent_string: The TCF v2 consent string, which EUID operators check.
        send_raw: Send DII itself instead of its hash.

    Raises:
        InputError: If *identity* is invalid.
    """
    fields = write_identity_input(identity, send_raw=send_raw)
    if tcf_consent_string is not None:
        fields["tcf_consent_string"] = tcf_consent_string
    return Call(
        path=GENERATE_PATH, payload=wire.encode(fields), parse=parse_tokens_reply
    )


def parse_tokens_reply(
    payload: bytes,
) -> IdentityTokens | OptedOut | InsufficientConsent:
    """Parse the decrypted reply to generate.

    Raises:
        ProtocolError: If it does not have the documented structure.
        OperatorError: If the status is another word.
    """
    return _read_tokens(payload, _GENERATE_RESULTS)


def parse_refresh_reply(payload: bytes) -> IdentityTokens | OptedOut:
    """Parse the decrypted reply to refresh, which never refers to consent.

    Raises:
        ProtocolError: If it does not have the documented structure.
        OperatorError: If the status is another word.
    """
    return _read_tokens(payload, _REFRESH_RESULTS)


def _read_tokens(payload: bytes, results: Mapping[str, R]) -> IdentityTokens | R:
    """Read the tokens of a reply, or the result of its status word."""
    body = wire.read_body(payload, TokensBody, results)
    if not isinstance(body, TokensBody):
        return body
    return IdentityTokens(
        advertising_token=body.advertising_token,
        refresh_token=body.refresh_token,
        refresh_response_key=body.refresh_response_key,
        identity_expires=datetime_from_ms(body.identity_expires),
        refresh_expires=datetime_from_ms(body.refresh_expires),
        refresh_from=datetime_from_ms(body.refresh_from),
    )


def refresh_call(
    held: IdentityTokens, *, now_ms: Callable[[], int]
) -> Call[IdentityTokens | OptedOut]:
    """Build a token/refresh call, which sends only the token (docs/protocol.md 2.2).

    Args:
        held: The tokens to refresh.
        now_ms: Returns the operator's time in ms since the Unix epoch.

    Raises:
        InputError: If the refresh token is empty or could not be sent, or the key that
            decrypts the reply is needed, but missing or not valid.
    """
    try:
        body = held.refresh_token.encode("ascii")
    except UnicodeEncodeError:
        body = b""
    if not body or body.translate(None, _CONTROL) != body:
        raise InputError("The refresh token is empty or has invalid characters.")
    key: bytes | None = b""
    if len(body) == SEALED_REFRESH_CHARS:
        key = base64.decode(held.refresh_response_key or "")
        if key is None or len(key) != KEY_BYTES:
            raise InputError(
                "The refresh_response_key is missing or not base64 of 32 bytes.",
                hint="Store it with the refresh token. It changes with every refresh.",
            )
    return Call(
        path=REFRESH_PATH,
        payload=body,
        parse=partial(_parse_new_tokens, held=held, now_ms=now_ms),
        bare=True,
        reply_key=key,
    )


def _parse_new_tokens(
    payload: bytes, *, held: IdentityTokens, now_ms: Callable[[], int]
) -> IdentityTokens | OptedOut:
    """Parse the decrypted reply to a refresh of *held*, and reject an old one.

    The reply has no nonce, so it could be a replay. It is rejected if it repeats the
    current tokens or has expired by *now_ms*, the operator's time.

    Raises:
        ProtocolError: If the reply cannot be trusted.
        OperatorError: As in :func:`parse_refresh_reply`.
    """
    result = _read_tokens(payload, _REFRESH_RESULTS)
    if isinstance(result, OptedOut):
        return result
    if ms_from_datetime(result.identity_expires) <= now_ms():
        raise replay_error("The refreshed tokens have expired.", "identity_expires")
    for name in ("advertising_token", "refresh_token"):
        old, new = getattr(held, name), getattr(result, name)
        # Stored tokens may be any str.
        if compare_digest(old.encode(errors="surrogatepass"), new.encode()):
            raise replay_error("The refresh reply repeats the current tokens.", name)
    return result


def replay_error(message: str, name: str) -> ProtocolError:
    """Return the error for a well-formed refresh reply that cannot be trusted."""
    error = ProtocolError(
        message,
        hint="Check this machine's clock. If it is right, replies are being replayed.",
        path=f"body.{name}",
    )
    error.endpoint = REFRESH_PATH
    return error


def validate_call(
    identity: Identity, advertising_token: str, *, send_raw: bool = False
) -> Call[bool]:
    """Build a token/validate call: whether the token is the identity's.

    See docs/protocol.md 2.3.

    Raises:
        InputError: If *identity* is invalid.
    """
    fields = write_identity_input(identity, send_raw=send_raw)
    return Call(
        path=VALIDATE_PATH,
        payload=wire.encode(fields | {"token": advertising_token}),
        parse=lambda payload: wire.read_body(payload, bool),
    )


def logout_call(identity: Identity, *, send_raw: bool = False) -> Call[None]:
    """Build a token/logout call (docs/protocol.md 2.9).

    Raises:
        InputError: If *identity* is invalid.
    """
    payload = wire.encode(write_identity_input(identity, send_raw=send_raw))
    return Call(path=LOGOUT_PATH, payload=payload, parse=parse_logout_reply)


def parse_logout_reply(payload: bytes) -> None:
    """Parse the decrypted reply to logout. Raises if the logout failed."""
    wire.read_body(payload, _LogoutBody)


strip_tracebacks(globals())
