"""The client's half of token/client-generate (docs/protocol.md 2.10).

The key is agreed on by P-256 ECDH, and the shared X coordinate is the AES key. There is
no API key. The time in a request is authenticated, but does not prevent replays.
"""

from __future__ import annotations

import re
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError, EnvelopeError
from uid2_async.models import Identity
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import gcm_open
from uid2_async.protocol.normalize import write_identity_input

CLIENT_GENERATE_PATH: Final = "/v2/token/client-generate"
PREFIX_CHARS = 9  # "UID2-X-L-", "UID2-Y-L-"


def load_server_public_key(text: str) -> EllipticCurvePublicKey:
    """Parse the server public key that a publisher was given.

    Raises:
        ConfigError: If it is not a P-256 key in base64 with a 9-character prefix.
    """
    key = load_public_der(base64.decode(text[PREFIX_CHARS:]) or b"")
    if key is None or not isinstance(key.curve, SECP256R1):
        raise ConfigError(
            "The server public key is not valid.",
            hint="Copy it from the UID2 portal. It starts with UID2-X- or EUID-X-.",
        )
    return key


def load_public_der(der: bytes) -> EllipticCurvePublicKey | None:
    """Load an EC public key from DER, or return None if it is not one."""
    try:
        key = load_der_public_key(der)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) else None


def shared_cipher(
    private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey
) -> AESGCM:
    """Agree on the key of one exchange, which is the shared X coordinate.

    Raises:
        ValueError: If the two keys are not on the same curve.
    """
    return AESGCM(private.exchange(ECDH(), public))


def additional_data(timestamp: int, app_name: str | None) -> bytes:
    """Return the AAD: ``[timestamp]`` or ``[timestamp,"app_name"]``, like Jackson."""
    name = b"" if app_name is None else b"," + json_string(app_name)
    return b"[%d%b]" % (timestamp, name)


def build_client_generate_request(
    identity: Identity,
    *,
    subscription_id: str,
    client_key: EllipticCurvePrivateKey,
    cipher: AESGCM,
    now_ms: int,
    iv: bytes,
    app_name: str | None = None,
) -> bytes:
    """Build the JSON body of a client-generate request.

    Args:
        identity: The identity to generate tokens for. It is sent as its hash.
        subscription_id: Identifies the key pair and thereby the site.
        client_key: An ephemeral key for this exchange.
        cipher: The cipher that *client_key* and the server's key agree on.
        now_ms: The time in ms since the Unix epoch.
        iv: 12 random bytes.
        app_name: The name of the mobile app, which is sent instead of an Origin header.

    Raises:
        InputError: If *identity* is invalid.
    """
    inner = wire.encode(write_identity_input(identity, send_raw=False))
    sealed = cipher.encrypt(iv, inner, additional_data(now_ms, app_name))
    public = client_key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    fields: dict[str, object] = {
        "payload": base64.encode_text(sealed),
        "iv": base64.encode_text(iv),
        "public_key": base64.encode_text(public),
        "timestamp": now_ms,
        "subscription_id": subscription_id,
    }
    if app_name is not None:
        fields["app_name"] = app_name
    return wire.encode(fields)


def open_client_generate_reply(body: bytes, cipher: AESGCM) -> bytes:
    """Decrypt a reply. Its JSON has the form of token/generate.

    Raises:
        EnvelopeError: If it cannot be decrypted.
    """
    sealed = base64.decode(body)
    payload = None if sealed is None else gcm_open(sealed, cipher)
    if payload is None:
        raise EnvelopeError
    return payload


# Jackson's short escapes, and its uppercase hex digits.
_ESCAPES = {code: f"\\u{code:04X}" for code in range(0x20)} | {
    8: "\\b",
    9: "\\t",
    10: "\\n",
    12: "\\f",
    13: "\\r",
    34: '\\"',
    92: "\\\\",
}

_SURROGATES = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]")


def json_string(text: str) -> bytes:
    """Write *text* as Jackson writes a JSON string to bytes.

    Unlike other encoders, Jackson writes a character beyond U+FFFF as two escapes.
    """
    escaped = _SURROGATES.sub(_escape_utf16, text.translate(_ESCAPES))
    return f'"{escaped}"'.encode()


def _escape_utf16(found: re.Match[str]) -> str:
    data = found[0].encode("utf-16-be", "surrogatepass").hex().upper()
    return "".join(f"\\u{data[at : at + 4]}" for at in range(0, len(data), 4))


strip_tracebacks(globals())
