"""token/client-generate, both halves (docs/protocol.md 2.10).

P-256 ECDH; the shared X coordinate is the AES key. There is no API key, and the time
in the request is no protection: it is only authenticated.
"""

from __future__ import annotations

import re
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
from uid2_async.protocol.java_text import (
    JavaDouble,
    as_java_string,
    json_string,
    trim,
)
from uid2_async.protocol.refusal import RefusedError, client_error, unknown_error
from uid2_async.veiled import Veiled

CLIENT_GENERATE_PATH: Final = "/v2/token/client-generate"

_LONG: Final = range(-(2**63), 2**63)
# Java's parseLong() reads code units, so that digits beyond U+FFFF are none.
_LONG_TEXT = re.compile(r"[+-]?(?:(?![\U00010000-\U0010ffff])\d)+")
_LONG_TEXT_CHARS: Final = 4_000

# An uncompressed point in a SubjectPublicKeyInfo, of one of the curves in use: P-192 to
# P-521, secp256k1 and Brainpool's, all of which Java knows.
_P256: Final = bytes.fromhex("06082a8648ce3d030107")
_P256_BITS_BYTES: Final = 66
_POINT = re.compile(
    rb"\x30(?P<length>\x81.|[\x00-\x7f])(?P<body>\x30(?P<algorithm_length>.)"
    rb"(?P<algorithm>\x06\x07\x2a\x86\x48\xce\x3d\x02\x01(?P<curve>"
    rb"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01[\x01\x07]"
    rb"|\x06\x05\x2b\x81\x04\x00[\x0a\x21-\x23]"
    rb"|\x06\x09\x2b\x24\x03\x03\x02\x08\x01\x01[\x07\x0b\x0d]))"
    rb"\x03(?P<bits_length>\x81.|[\x00-\x7f])(?P<bits>[\x00-\x07]\x04(?:..)+))",
    re.DOTALL,
)

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
    key = _load_public(base64.decode(text[_PREFIX_CHARS:]) or b"")
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


def _load_public(der: bytes) -> EllipticCurvePublicKey | None:
    try:
        key = load_der_public_key(der)
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
    """Write the AAD: ``[timestamp]`` or ``[timestamp,"app_name"]``, as Jackson does."""
    name = b"" if app_name is None else b"," + json_string(app_name)
    return b"[%d%b]" % (timestamp, name)


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
    timestamp = _as_long(fields.pop("timestamp", None))
    # A scalar becomes text, but neither a list nor an object does.
    if timestamp is None or any(isinstance(x, list | dict) for x in fields.values()):
        raise unknown_client_side_error()
    return ClientGenerateRequest(
        timestamp=timestamp,
        **{key: as_java_string(fields.get(key)) for key in _KEYS - {"timestamp"}},
    )


def _as_long(value: object) -> int | None:
    """Read a ``long`` as Jackson does, or return None where it refuses.

    Fractions are cut off, and a text is read by Java's ``Long.parseLong()``, which
    takes the digits of any script (docs/protocol.md 2.10).
    """
    if isinstance(value, JavaDouble):
        return _long_of_double(value)
    number = _long_of_text(value) if isinstance(value, str) else value
    if number is None:
        return 0 if value is None else None
    is_int = isinstance(number, int) and not isinstance(number, bool)
    # Python searches a range from end to end for what is not an int.
    return number if is_int and number in _LONG else None  # type: ignore[return-value] # is_int


def _long_of_text(text: str) -> int | None:
    """Read a text as a number of any size, or return None where it is none."""
    text = trim(text)
    if text in {"", "null"}:
        return 0
    is_number = len(text) <= _LONG_TEXT_CHARS and _LONG_TEXT.fullmatch(text)
    return int(text) if is_number else None


def _long_of_double(value: float) -> int | None:
    """Cast a ``double`` as Java does: its greatest ``long`` is one less than 2**63."""
    if not -_LONG.stop <= value <= _LONG.stop:
        return None
    return min(int(value), _LONG.stop - 1)


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
    cipher = _agree(server_key, base64.decode(public) or b"")
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


def _agree(server_key: EllipticCurvePrivateKey, der: bytes) -> AESGCM:
    """Agree on the key.

    Java takes any point that has the right form, compressed ones aside, and fails on
    using one that is not on the server key's curve.

    Raises:
        RefusedError: If *der* is no public key, or one of another curve.
    """
    if not _POINT.fullmatch(der) or not _has_der_lengths(der):
        raise client_error("bad public key")
    client_key = _load_public(der)
    try:
        if client_key is not None:
            return shared_cipher(server_key, client_key)
    except ValueError:
        pass
    raise unknown_client_side_error()


def _has_der_lengths(der: bytes) -> bool:
    """Tell whether the lengths in a key that matches ``_POINT`` are right."""
    found = _POINT.fullmatch(der)
    if found is None:
        return False
    algorithm, bits = found["algorithm"], found["bits"]
    return (
        _der_length(len(der) - found.start("body")) == found["length"]
        and _der_length(len(algorithm)) == found["algorithm_length"]
        and _der_length(len(bits)) == found["bits_length"]
        and (found["curve"] != _P256 or len(bits) == _P256_BITS_BYTES)
    )


def _der_length(length: int) -> bytes:
    return bytes((length,)) if length < 0x80 else bytes((0x81, length & 0xFF))  # noqa: PLR2004 - DER


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
