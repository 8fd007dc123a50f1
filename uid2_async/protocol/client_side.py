"""token/client-generate, both halves (docs/protocol.md 2.10).

P-256 ECDH; the shared X coordinate is the AES key. There is no API key, and the time
in the request is no protection: it is only authenticated.
"""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
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
    load_der_private_key,
    load_der_public_key,
)

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import ConfigError, EnvelopeError
from uid2_async.models import Identity
from uid2_async.protocol import base64, wire
from uid2_async.protocol.envelope import IV_BYTES, gcm_open, gcm_seal
from uid2_async.protocol.identity_input import write_identity_input
from uid2_async.protocol.java_json import JavaJsonError, parse_raw
from uid2_async.protocol.java_text import as_java_string
from uid2_async.protocol.refusal import RefusedError, client_error, unknown_error
from uid2_async.veiled import Veiled

CLIENT_GENERATE_PATH: Final = "/v2/token/client-generate"

_PREFIX_CHARS = 9  # "UID2-X-L-", "UID2-Y-L-"
_KEYS: Final = frozenset(
    {"subscription_id", "public_key", "timestamp", "iv", "payload", "app_name"}
)


def unknown_client_side_error() -> RefusedError:
    """Refuse with the catch-all of this endpoint."""
    return unknown_error("Unknown error while handling client side token generate")


def load_server_public_key(text: str) -> EllipticCurvePublicKey:
    """Read the server public key that a publisher was given.

    Raises:
        ConfigError: If it is not 9 characters of prefix and a P-256 key.
    """
    key = _load_public(text[_PREFIX_CHARS:])
    if key is None or not isinstance(key.curve, SECP256R1):
        raise ConfigError(
            "The server public key is not valid.",
            hint="It starts with UID2-X- or EUID-X-, as the UID2 portal shows it.",
        )
    return key


def load_server_private_key(text: str) -> EllipticCurvePrivateKey:
    """Read the operator's private key of a subscription.

    Raises:
        ConfigError: If it is not 9 characters of prefix and an EC key.
    """
    der = base64.decode(text[_PREFIX_CHARS:]) or b""
    try:
        key = load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ConfigError("The server private key is not valid.")
    return key


def _load_public(text: str) -> EllipticCurvePublicKey | None:
    der = base64.decode(text)
    try:
        key = load_der_public_key(der or b"")
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, EllipticCurvePublicKey) else None


def shared_cipher(
    private: EllipticCurvePrivateKey, public: EllipticCurvePublicKey
) -> AESGCM:
    """Agree on the key of one exchange: the X coordinate as it is.

    Raises:
        ValueError: If the two are not on the same curve.
    """
    return AESGCM(private.exchange(ECDH(), public))


def _additional_data(timestamp: int, app_name: str | None) -> bytes:
    """Write the AAD: ``[timestamp]`` or ``[timestamp,"app_name"]``."""
    return wire.encode([timestamp] if app_name is None else [timestamp, app_name])


# --- the client's half ----------------------------------------------------------------


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
        identity: Whom the token is for; sent as its hash.
        subscription_id: Names the key pair and thereby the site.
        client_key: A key made for this exchange.
        cipher: What *client_key* and the server's key agree on.
        now_ms: The time, in ms.
        iv: 12 random bytes.
        app_name: The mobile app's name, instead of an Origin header.

    Raises:
        InputError: If *identity* is invalid.
    """
    inner = wire.encode(write_identity_input(identity, send_raw=False))
    sealed = cipher.encrypt(iv, inner, _additional_data(now_ms, app_name))
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
    """Open a reply; the JSON is that of generate.

    Raises:
        EnvelopeError: Whatever is wrong with it.
    """
    sealed = base64.decode(body)
    payload = None if sealed is None else gcm_open(sealed, cipher)
    if payload is None:
        raise EnvelopeError
    return payload


# --- the operator's half --------------------------------------------------------------


class ClientGenerateRequest(Veiled, frozen=True, kw_only=True):
    """The outer JSON of a request as the operator reads it; absent texts are None."""

    subscription_id: str | None
    public_key: str | None
    timestamp: int
    iv: str | None
    payload: str | None
    app_name: str | None


def parse_client_generate_request(body: bytes) -> ClientGenerateRequest:
    """Read the outer JSON.

    Raises:
        RefusedError: If there is none, it is no JSON, or not of the strict schema.
    """
    missing = "json payload expected but not found"
    if not body:
        raise client_error(missing)
    try:
        fields = parse_raw(body)
    except JavaJsonError:
        raise client_error("json payload is not valid") from None
    if fields is None:
        raise client_error(missing)
    if not isinstance(fields, dict) or fields.keys() - _KEYS:
        raise unknown_client_side_error()
    timestamp = fields.pop("timestamp", None) or 0
    if not isinstance(timestamp, int):
        raise unknown_client_side_error()
    return ClientGenerateRequest(
        timestamp=timestamp,
        **{key: as_java_string(fields.get(key)) for key in _KEYS - {"timestamp"}},
    )


def open_client_generate_request(
    request: ClientGenerateRequest, server_key: EllipticCurvePrivateKey
) -> tuple[dict[str, object], AESGCM]:
    """Open the sealed part of *request*.

    Returns:
        The inner JSON object, and the cipher for the reply.

    Raises:
        RefusedError: With the first fault in the order of docs/protocol.md 2.10.
    """
    texts = (request.payload, request.iv, request.public_key)
    if None in texts:
        raise client_error("required parameters: payload, iv, public_key")
    payload, iv, public = (text or "" for text in texts)
    client_key = _load_public(public)
    if client_key is None:
        raise client_error("bad public key")
    cipher = _agree(server_key, client_key)
    iv_bytes = base64.decode(iv)
    if iv_bytes is None or len(iv_bytes) != IV_BYTES:
        raise client_error("bad iv")
    inner = _decrypt(base64.decode(payload), iv_bytes, request, cipher)
    try:
        fields = parse_raw(inner)
    except JavaJsonError:
        fields = None
    if not isinstance(fields, dict):
        raise client_error("encrypted payload contains invalid json")
    return fields, cipher


def _agree(
    server_key: EllipticCurvePrivateKey, client_key: EllipticCurvePublicKey
) -> AESGCM:
    """Agree on the key, or answer as for a foreign curve."""
    try:
        return shared_cipher(server_key, client_key)
    except ValueError:
        pass
    raise unknown_client_side_error()


def _decrypt(
    sealed: bytes | None, iv: bytes, request: ClientGenerateRequest, cipher: AESGCM
) -> bytes:
    """Decrypt the inner JSON."""
    aad = _additional_data(request.timestamp, request.app_name)
    try:
        if sealed is not None:
            return cipher.decrypt(iv, sealed, aad)
    except InvalidTag:
        pass
    raise client_error("payload decryption failed")


def seal_client_generate_reply(payload: bytes, cipher: AESGCM, iv: bytes) -> bytes:
    """Seal a reply as base64 text: no time, no nonce."""
    return base64.encode(gcm_seal(payload, cipher, iv))


strip_tracebacks(globals())
