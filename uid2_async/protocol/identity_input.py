"""One identity in a request: token/generate, token/validate and token/logout.

Both halves of docs/protocol.md 2.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.models import Identity, IdentityType
from uid2_async.protocol import base64
from uid2_async.protocol.java_text import as_java_string
from uid2_async.protocol.normalize import HASH_KINDS, KINDS, identity_bytes
from uid2_async.protocol.refusal import RefusedError, client_error
from uid2_async.veiled import Veiled

__all__ = [
    "IdentityInput",
    "InputFault",
    "missing_message",
    "read_identity_input",
    "refuse_input",
    "sendable",
    "write_identity_input",
]


def sendable(kind: str, value: str, *, send_raw: bool) -> tuple[str, str] | None:
    """Say under which key and as what an identity is sent, or None where it is invalid.

    A hash goes out in its canonical spelling; DII as its hash, unless *send_raw* says
    otherwise and JSON can carry it (a lone surrogate can only be hashed).
    """
    data = identity_bytes(kind, value)
    if data is None:
        return None
    hash_kind = HASH_KINDS[kind]
    if send_raw and kind != hash_kind and _is_utf8(value):
        return kind, value
    return hash_kind, base64.encode_text(data)


def _is_utf8(text: str) -> bool:
    """Tell whether *text* can be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_identity_input(identity: Identity, *, send_raw: bool) -> dict[str, str]:
    """Make the request field of *identity*; see :func:`sendable`.

    Raises:
        InputError: If the operator would call it invalid; names the kind alone.
    """
    field = sendable(identity.kind, identity.value, send_raw=send_raw)
    if field is None:
        raise InputError(
            f"The {identity.kind} is not valid.",
            hint="See docs/protocol.md 3 for what the operator accepts.",
        )
    key, value = field
    return {key: value}


class InputFault(Enum):
    """What is wrong with the identity of a request."""

    MISSING = "not exactly one identity"
    INVALID = "an identity that does not normalize"


class IdentityInput(Veiled, frozen=True, kw_only=True):
    """The one identity of a request, as the operator reads it.

    Attributes:
        identity_type: E-mail or phone.
        data: The identity bytes.
    """

    identity_type: IdentityType
    data: bytes


def read_identity_input(
    payload: Mapping[str, Any] | None, *, phones: bool
) -> IdentityInput | InputFault:
    """Find the one identity of a request.

    Args:
        payload: The request's JSON object, None where it was empty.
        phones: Whether the operator supports phones; if not, they count as absent.
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
    """Say that there is not exactly one identity."""
    which = "[email, email_hash, phone, phone_hash]" if phones else None
    return (
        "Required Parameter Missing: exactly one of "
        f"{which or 'email or email_hash'} must be specified"
    )


def refuse_input(fault: InputFault, *, phones: bool) -> RefusedError:
    """Make the refusal of generate and validate for *fault*."""
    if fault is InputFault.MISSING:
        return client_error(missing_message(phones=phones))
    return client_error("Invalid Identifier")


strip_tracebacks(globals())
