"""The client's half of token/generate, refresh, validate and logout.

See docs/protocol.md 2.1, 2.2, 2.3 and 2.9.
"""

from __future__ import annotations

from typing import Final

import msgspec

from uid2_async._private import RedactedRepr
from uid2_async._traceback import strip_tracebacks, unwrapped
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import Identity, InsufficientConsent, OptedOut, datetime_from_ms
from uid2_async.protocol import wire
from uid2_async.protocol.normalize import write_identity_input
from uid2_async.protocol.reply import ReplyContent, body_of, error_from_status_word

GENERATE_PATH: Final = "/v2/token/generate"
REFRESH_PATH: Final = "/v2/token/refresh"
VALIDATE_PATH: Final = "/v2/token/validate"
LOGOUT_PATH: Final = "/v2/token/logout"

# Called by functions that are wrapped themselves, some of them several times in a call.
_decode = unwrapped(wire.decode)
_body_of = unwrapped(body_of)
_datetime = unwrapped(datetime_from_ms)
_write_identity_input = unwrapped(write_identity_input)

# A refresh token of this length is a wrapper, and the reply to it is encrypted.
SEALED_REFRESH_CHARS: Final = 388


class TokensBody(RedactedRepr, omit_defaults=True, frozen=True):
    """The body of a successful generate or refresh. Times are in ms since the epoch."""

    advertising_token: str
    refresh_token: str
    identity_expires: wire.EpochMs
    refresh_expires: wire.EpochMs
    refresh_from: wire.EpochMs
    refresh_response_key: str | None = None


class _LogoutBody(msgspec.Struct):
    optout: str


def build_generate_request(
    identity: Identity, *, tcf_consent_string: str | None = None, send_raw: bool = False
) -> bytes:
    """Build the JSON of a generate request (docs/protocol.md 2.1).

    Args:
        identity: The identity to generate tokens for.
        tcf_consent_string: The TCF v2 consent string, which EUID operators check.
        send_raw: Send DII itself instead of its hash.

    Raises:
        InputError: If *identity* is invalid.
    """
    fields = _write_identity_input(identity, send_raw=send_raw)
    if tcf_consent_string is not None:
        fields["tcf_consent_string"] = tcf_consent_string
    return wire.encode(fields)


def parse_tokens_reply(
    payload: bytes,
) -> IdentityTokens | OptedOut | InsufficientConsent:
    """Parse the decrypted reply to generate or refresh.

    Raises:
        ProtocolError: If it does not have the documented structure.
        OperatorError: If the status is another word.
    """
    reply = _decode(payload, ReplyContent[TokensBody])
    if reply.status == "optout":
        return OptedOut()
    if reply.status == "insufficient_user_consent":
        return InsufficientConsent()
    return _tokens(_body_of(reply))


def parse_refresh_reply(payload: bytes) -> IdentityTokens | OptedOut:
    """Parse the decrypted reply to refresh, like :func:`parse_tokens_reply`.

    Raises:
        OperatorError: Also for ``insufficient_user_consent``, which is valid only for
            generate.
    """
    result = parse_tokens_reply(payload)
    if isinstance(result, InsufficientConsent):
        raise error_from_status_word("insufficient_user_consent")
    return result


def _tokens(body: TokensBody) -> IdentityTokens:
    """Convert the times in ms to datetimes."""
    return IdentityTokens(
        advertising_token=body.advertising_token,
        refresh_token=body.refresh_token,
        refresh_response_key=body.refresh_response_key,
        identity_expires=_datetime(body.identity_expires),
        refresh_expires=_datetime(body.refresh_expires),
        refresh_from=_datetime(body.refresh_from),
    )


def build_validate_request(
    identity: Identity, advertising_token: str, *, send_raw: bool = False
) -> bytes:
    """Build the JSON of a validate request (docs/protocol.md 2.3).

    Raises:
        InputError: If *identity* is invalid.
    """
    fields = write_identity_input(identity, send_raw=send_raw)
    return wire.encode(fields | {"token": advertising_token})


def parse_validate_reply(payload: bytes) -> bool:
    """Parse the decrypted reply to validate: whether the token is the identity's."""
    return body_of(wire.decode(payload, ReplyContent[bool]))


def build_logout_request(identity: Identity, *, send_raw: bool = False) -> bytes:
    """Build the JSON of a logout request (docs/protocol.md 2.9).

    Raises:
        InputError: If *identity* is invalid.
    """
    return wire.encode(write_identity_input(identity, send_raw=send_raw))


def parse_logout_reply(payload: bytes) -> None:
    """Parse the decrypted reply to logout. Raises if the logout failed."""
    body_of(wire.decode(payload, ReplyContent[_LogoutBody]))


strip_tracebacks(globals())
