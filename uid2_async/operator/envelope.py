"""The operator's half of the envelope: every check of docs/protocol.md 1.3 to 1.7."""

from __future__ import annotations

from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async._private import RedactedRepr
from uid2_async.models import IdentityScope
from uid2_async.operator import java
from uid2_async.operator.http_messages import RefusedError, client_error
from uid2_async.protocol import base64
from uid2_async.protocol.envelope import HEAD, gcm_open, gcm_seal

REQUEST_VERSION = 1
MIN_REQUEST_BYTES = 45


class RequestEnvelopeError(Exception):
    """A request envelope that the operator cannot decrypt. The text is its message."""


class DecryptedRequest(RedactedRepr, frozen=True, kw_only=True):
    """The client's time in ms, the nonce to repeat, and the JSON as bytes."""

    sent_ms: int
    nonce: bytes
    payload: bytes


def decrypt_request(body: bytes, key: bytes) -> DecryptedRequest:
    """Decrypt a request envelope as the operator does (docs/protocol.md 1.3 and 1.7).

    Raises:
        RequestEnvelopeError: For the first fault.
    """
    if len(body) < MIN_REQUEST_BYTES:
        fault = "Body too short. Check encryption method."
    elif body[0] != REQUEST_VERSION:
        fault = (
            f"Invalid request envelope format version: received {body[0]}, must be 1."
        )
    elif (inner := gcm_open(body[1:], AESGCM(key))) is None:
        fault = "Check encryption key (ClientSecret)."
    else:
        sent_ms, nonce = HEAD.unpack_from(inner)
        return DecryptedRequest(
            sent_ms=sent_ms, nonce=nonce, payload=inner[HEAD.size :]
        )
    raise RequestEnvelopeError(f"Invalid body: {fault}")


def encrypt_reply(
    payload: bytes, *, key: bytes, now_ms: int, nonce: bytes, iv: bytes
) -> bytes:
    """Encrypt a reply, which has no version byte (docs/protocol.md 1.5)."""
    return gcm_seal(HEAD.pack(now_ms, nonce) + payload, AESGCM(key), iv)


def is_timely(sent_ms: int, now_ms: int) -> bool:
    """Return whether the operator accepts the time in a request envelope.

    The operator rounds the difference down to whole seconds, truncates it to whole
    minutes and rejects more than one minute. It therefore accepts requests that are
    less than 120 s late or at most 119 s early (docs/protocol.md 1.4). Only 60 s is
    guaranteed, so clients should stay within that.
    """
    seconds = (now_ms - sent_ms) // 1000
    return -120 < seconds < 120  # noqa: PLR2004 - two minutes, as in the rule above


_HOSTS: Final = {
    IdentityScope.UID2: "https://unifiedid.com",
    IdentityScope.EUID: "https://euid.eu",
}

_HINT: Final = (
    " See {host}/docs/getting-started/gs-encryption-decryption for details on the "
    "request envelope format."
)

_UNENCRYPTED: Final = (
    "Invalid body: The request body is unencrypted JSON. It must be an encrypted "
    "request envelope. See {host}/docs/getting-started/gs-encryption-decryption"
    "#encryption-and-decryption-code-examples for encryption and decryption code "
    "examples."
)


class RequestBody(RedactedRepr, frozen=True, kw_only=True):
    """A request as the operator reads it.

    *payload* is None if it was empty. *binary* asks for a reply of raw bytes.
    """

    nonce: bytes
    payload: dict[str, Any] | None
    binary: bool


def read_request_body(
    body: bytes, *, binary: bool, key: bytes, now_ms: int, scope: IdentityScope
) -> RequestBody:
    """Decrypt a request body with every check in the real operator's order.

    A binary body that cannot be read is retried as base64. If it is valid base64, the
    result of that attempt is used, and the reply is text (docs/protocol.md 1.3).
    """
    if not body:
        raise client_error("Invalid body: Body is missing.")
    if binary:
        try:
            return _read(body, key, now_ms, scope, binary=True)
        except RefusedError:
            decoded = base64.decode(body)
            if decoded is None:
                raise
    else:
        decoded = base64.decode(body)
        if decoded is None:
            raise _refuse(body, "Invalid body: Body is not valid base64.", scope)
    return _read(decoded, key, now_ms, scope, binary=False)


def _read(
    data: bytes, key: bytes, now_ms: int, scope: IdentityScope, *, binary: bool
) -> RequestBody:
    """Read a raw envelope, and check framing, key, time and JSON in this order."""
    try:
        decrypted = decrypt_request(data, key)
    except RequestEnvelopeError as error:
        raise _refuse(data, str(error), scope) from None
    if not is_timely(decrypted.sent_ms, now_ms):
        raise client_error("Invalid timestamp: Request too old or client time drift.")
    payload = None
    if decrypted.payload:
        payload = java.parse_object(decrypted.payload)
        if payload is None:
            raise client_error(
                "Invalid payload in body: Data is not valid json string."
            )
    return RequestBody(nonce=decrypted.nonce, payload=payload, binary=binary)


def _refuse(data: bytes, message: str, scope: IdentityScope) -> RefusedError:
    """Return the error for *data*. Unencrypted JSON has its own message."""
    host = _HOSTS[scope]
    if java.parse_object(data) is not None:
        return client_error(_UNENCRYPTED.format(host=host))
    return client_error(message + _HINT.format(host=host))
