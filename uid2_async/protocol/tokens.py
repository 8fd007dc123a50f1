"""token/generate, token/refresh, token/validate and token/logout, both halves.

docs/protocol.md 2.1, 2.2, 2.3 and 2.9. Builders and parsers of the client come first in
each part, then those of the operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ProtocolError
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.models import (
    Identity,
    InsufficientConsent,
    OptedOut,
    datetime_from_ms,
)
from uid2_async.protocol import wire
from uid2_async.protocol.identity_input import (
    IdentityInput,
    InputFault,
    read_identity_input,
    refuse_input,
    write_identity_input,
)
from uid2_async.protocol.java_text import as_java_string
from uid2_async.protocol.refusal import RefusedError, client_error
from uid2_async.protocol.reply import error_from_status_word, expect_success
from uid2_async.veiled import Veiled

GENERATE_PATH: Final = "/v2/token/generate"
REFRESH_PATH: Final = "/v2/token/refresh"
VALIDATE_PATH: Final = "/v2/token/validate"
LOGOUT_PATH: Final = "/v2/token/logout"

# A refresh token of this length is a wrapper, and the reply to it is sealed.
SEALED_REFRESH_CHARS: Final = 388


class TokensBody(Veiled, omit_defaults=True, frozen=True):
    """The body of a successful generate or refresh; times in ms."""

    advertising_token: str
    refresh_token: str
    identity_expires: wire.EpochMs
    refresh_expires: wire.EpochMs
    refresh_from: wire.EpochMs
    refresh_response_key: str | None = None


class _TokensReply(msgspec.Struct):
    status: str
    body: TokensBody | None = None


class _ValidateReply(msgspec.Struct):
    status: str
    body: bool | None = None


class _LogoutBody(msgspec.Struct):
    optout: str


class _LogoutReply(msgspec.Struct):
    status: str
    body: _LogoutBody | None = None


# --- generate -------------------------------------------------------------------------


def build_generate_request(
    identity: Identity, *, tcf_consent_string: str | None = None, send_raw: bool = False
) -> bytes:
    """Build the JSON of a generate request (docs/protocol.md 2.1).

    Args:
        identity: Whom the token is for.
        tcf_consent_string: The TCF v2 consent string, which EUID operators judge.
        send_raw: Whether DII is sent as it is and not as its hash.

    Raises:
        InputError: If *identity* is invalid.
    """
    fields = write_identity_input(identity, send_raw=send_raw)
    if tcf_consent_string is not None:
        fields["tcf_consent_string"] = tcf_consent_string
    return wire.encode(fields)


def parse_tokens_reply(
    payload: bytes,
) -> IdentityTokens | OptedOut | InsufficientConsent:
    """Read the opened reply to generate or refresh.

    Raises:
        ProtocolError: If it is not of the documented shape.
        OperatorError: If the status word is another one.
    """
    reply = wire.decode(payload, _TokensReply)
    if reply.status == "optout":
        return OptedOut()
    if reply.status == "insufficient_user_consent":
        return InsufficientConsent()
    if reply.status != "success":
        raise error_from_status_word(reply.status)
    if reply.body is None:
        raise ProtocolError("The reply has no body.", path="body")
    return _tokens(reply.body)


def parse_refresh_reply(payload: bytes) -> IdentityTokens | OptedOut:
    """Read the opened reply to refresh, as :func:`parse_tokens_reply`.

    Raises:
        OperatorError: Also for ``insufficient_user_consent``, which only generate uses.
    """
    result = parse_tokens_reply(payload)
    if isinstance(result, InsufficientConsent):
        raise error_from_status_word("insufficient_user_consent")
    return result


def _tokens(body: TokensBody) -> IdentityTokens:
    """Turn the wire's ms into datetimes."""
    return IdentityTokens(
        advertising_token=body.advertising_token,
        refresh_token=body.refresh_token,
        refresh_response_key=body.refresh_response_key,
        identity_expires=datetime_from_ms(body.identity_expires),
        refresh_expires=datetime_from_ms(body.refresh_expires),
        refresh_from=datetime_from_ms(body.refresh_from),
    )


class GenerateRequest(Veiled, frozen=True, kw_only=True):
    """A generate request as the operator reads it.

    Attributes:
        identity: Whom the token is for.
        has_consent: Whether the key tcf_consent_string is there, even with null.
        consent: Its value, None for null.
    """

    identity: IdentityInput
    has_consent: bool
    consent: str | None


def parse_generate_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> GenerateRequest:
    """Read a generate request.

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
    """Read the one identity, or refuse as generate and validate do."""
    identity = read_identity_input(payload, phones=phones)
    if isinstance(identity, InputFault):
        raise refuse_input(identity, phones=phones)
    return identity


def build_tokens_reply(body: TokensBody) -> bytes:
    """Build the reply to a successful generate or refresh."""
    return wire.encode({"body": body, "status": "success"})


def build_status_reply(status: str) -> bytes:
    """Build a reply without body: ``optout`` or ``insufficient_user_consent``."""
    return wire.encode({"status": status})


# --- validate -------------------------------------------------------------------------


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
    """Read the opened reply to validate: whether the token is this identity's."""
    reply = wire.decode(payload, _ValidateReply)
    expect_success(reply.status, reply.body)
    return bool(reply.body)


class ValidateRequest(Veiled, frozen=True, kw_only=True):
    """A validate request as the operator reads it."""

    identity: IdentityInput
    token: str


def parse_validate_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> ValidateRequest:
    """Read a validate request; the identity is checked first.

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


# --- logout ---------------------------------------------------------------------------


def build_logout_request(identity: Identity, *, send_raw: bool = False) -> bytes:
    """Build the JSON of a logout request (docs/protocol.md 2.9).

    Raises:
        InputError: If *identity* is invalid.
    """
    return wire.encode(write_identity_input(identity, send_raw=send_raw))


def parse_logout_reply(payload: bytes) -> None:
    """Read the opened reply to logout; returning is success."""
    reply = wire.decode(payload, _LogoutReply)
    expect_success(reply.status, reply.body)


def parse_logout_request(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> IdentityInput:
    """Read a logout request.

    Raises:
        RefusedError: 400 ``invalid_token``. The real operator names a Java object in
            place of an invalid identity; only the text before it can be relied on.
    """
    identity = read_identity_input(payload, phones=phones)
    if isinstance(identity, InputFault):
        shown = "null" if identity is InputFault.MISSING else "InputVal"
        raise RefusedError(400, "invalid_token", f"Invalid Token presented {shown}")
    return identity


def build_logout_reply() -> bytes:
    """Build the reply to logout."""
    return wire.encode({"body": {"optout": "OK"}, "status": "success"})


strip_tracebacks(globals())
