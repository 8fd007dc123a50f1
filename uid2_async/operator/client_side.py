"""The endpoint token/client-generate (docs/protocol.md 2.10).

The host of an Origin is parsed like Java's ``URL`` and validated like Guava's
``InternetDomainName``, because the operator's reply depends on both.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from uid2_async._private import RedactedRepr
from uid2_async.operator.data import Site
from uid2_async.operator.http_messages import RefusedError, client_error, unknown_error
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.java import (
    JavaDouble,
    JavaJsonError,
    as_java_string,
    parse_raw,
    trim,
)
from uid2_async.operator.minting import CLIENT_SIDE
from uid2_async.operator.tokens import (
    IdentityInput,
    generate_for,
    read_identity_input,
)
from uid2_async.protocol import base64
from uid2_async.protocol.client_side import (
    additional_data,
    load_public_der,
    shared_cipher,
)
from uid2_async.protocol.envelope import IV_BYTES

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList


_HASHES = ("email_hash", "phone_hash")


def client_generate(
    index: DataIndex, body: bytes, *, origin: str | None, now_ms: int
) -> tuple[bytes, AESGCM]:
    """Answer token/client-generate with JSON, and with the cipher to encrypt it."""
    request = parse_client_generate_request(body)
    found = index.keypair(request.subscription_id)
    if found is None:
        raise client_error("bad subscription_id")
    pair, private_key = found
    if pair.disabled:
        raise RefusedError(401, "unauthorized", "Unauthorized")
    if index.settings.client_side_token_generate_domain_name_check_enabled:
        _check_site(index.site(pair.site_id), request, origin)
    fields, cipher = decrypt_client_generate_request(request, private_key)
    payload = generate_for(
        index,
        _read_hash(index, fields),
        site_id=pair.site_id,
        privacy_bits=CLIENT_SIDE,
        now_ms=now_ms,
    )
    return payload, cipher


def _check_site(site: Site, request: ClientGenerateRequest, origin: str | None) -> None:
    """Reject apps and web pages that do not belong to the site."""
    if request.app_name is not None:
        if not app_allowed(request.app_name, site.app_names):
            raise RefusedError(403, "invalid_app_name", "unexpected app name")
    elif not origin_allowed(origin, site.domain_names):
        raise RefusedError(403, "invalid_http_origin", "unexpected http origin")


def _read_hash(index: DataIndex, fields: Mapping[str, object]) -> IdentityInput:
    """Read the one hash of the inner JSON. Plain DII is ignored."""
    phones = index.settings.enable_phone_support
    hashes = {key: fields.get(key) for key in _HASHES}
    if hashes["phone_hash"] is not None and not phones:
        raise client_error("phone support not enabled")
    which = "exactly one of: email_hash, phone_hash" if phones else "email_hash"
    missing = client_error(f"please provide {which}")
    return read_identity_input(index, hashes, missing=missing)


_LONG: Final = range(-(2**63), 2**63)

# Java's parseLong() reads UTF-16 code units, so digits beyond U+FFFF are not digits.
_LONG_TEXT = re.compile(r"[+-]?(?:(?![\U00010000-\U0010ffff])\d)+")
_LONG_TEXT_CHARS: Final = 4_000

# A SubjectPublicKeyInfo with an uncompressed point on one of the common curves that
# Java knows: P-192 to P-521, secp256k1 and Brainpool's.
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

_KEYS: Final = frozenset(
    {"subscription_id", "public_key", "timestamp", "iv", "payload", "app_name"}
)


def unknown_client_side_error() -> RefusedError:
    """Return the catch-all error of this endpoint."""
    return unknown_error("Unknown error while handling client side token generate")


class ClientGenerateRequest(RedactedRepr, frozen=True, kw_only=True):
    """The outer JSON of a request as the operator reads it. Absent strings are None."""

    subscription_id: str | None
    public_key: str | None
    timestamp: int
    iv: str | None
    payload: str | None
    app_name: str | None


def parse_client_generate_request(body: bytes) -> ClientGenerateRequest:
    """Read the outer JSON, whose schema is strict."""
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
    # Java converts a scalar to a string, but rejects a list or an object.
    if timestamp is None or any(isinstance(x, list | dict) for x in fields.values()):
        raise unknown_client_side_error()
    return ClientGenerateRequest(
        timestamp=timestamp,
        **{key: as_java_string(fields.get(key)) for key in _KEYS - {"timestamp"}},
    )


def _as_long(value: object) -> int | None:
    """Read a ``long`` as Jackson does, or return None if Jackson would reject it.

    Fractions are truncated, and strings read like ``Long.parseLong()``.
    """
    if isinstance(value, JavaDouble):
        in_range = -_LONG.stop <= value <= _LONG.stop
        return min(int(value), _LONG.stop - 1) if in_range else None
    number = _long_of_text(value) if isinstance(value, str) else value
    if number is None:
        return 0 if value is None else None
    is_int = isinstance(number, int) and not isinstance(number, bool)
    # For a value that is not an int, Python would search the whole range one by one.
    return number if is_int and number in _LONG else None  # type: ignore[return-value] # is_int


def _long_of_text(text: str) -> int | None:
    """Read a string as an integer of any size, or return None if it is not one."""
    text = trim(text)
    if text in {"", "null"}:
        return 0
    is_number = len(text) <= _LONG_TEXT_CHARS and _LONG_TEXT.fullmatch(text)
    return int(text) if is_number else None


def decrypt_client_generate_request(
    request: ClientGenerateRequest, server_key: EllipticCurvePrivateKey
) -> tuple[dict[str, object], AESGCM]:
    """Decrypt the inner JSON object of *request*. Return it with the reply's cipher."""
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
    """Agree on the key (ECDH).

    Java accepts any uncompressed point in the right format, and fails later if the
    point is not on the server key's curve.
    """
    found = _POINT.fullmatch(der)
    if found is None or not _has_der_lengths(found):
        raise client_error("bad public key")
    client_key = load_public_der(der)
    try:
        if client_key is not None:
            return shared_cipher(server_key, client_key)
    except ValueError:
        pass
    raise unknown_client_side_error()


def _has_der_lengths(found: re.Match[bytes]) -> bool:
    """Return whether the DER lengths in a key that matches ``_POINT`` are right."""
    algorithm, bits = found["algorithm"], found["bits"]
    return (
        _der_length(found.end() - found.start("body")) == found["length"]
        and _der_length(len(algorithm)) == found["algorithm_length"]
        and _der_length(len(bits)) == found["bits_length"]
        and (found["curve"] != _P256 or len(bits) == _P256_BITS_BYTES)
    )


def _der_length(length: int) -> bytes:
    return bytes((length,)) if length < 0x80 else bytes((0x81, length & 0xFF))  # noqa: PLR2004 - DER


def _decrypt(
    encrypted: bytes | None, iv: bytes, request: ClientGenerateRequest, cipher: AESGCM
) -> bytes:
    """Decrypt the inner JSON."""
    aad = additional_data(request.timestamp, request.app_name)
    try:
        if encrypted is not None:
            return cipher.decrypt(iv, encrypted, aad)
    except InvalidTag:
        pass
    raise client_error("payload decryption failed")


_LOCALHOST = "localhost"
_MAX_NAME = 253
_PORTS = range(-1, 2**31)  # the range that Java accepts; the port itself is not used
_PORT_DIGITS = 10

# At most one "@", and before it no character that Java rejects there since release
# 20. No brackets, so that an IPv6 address does not match.
_ORIGIN = re.compile(
    r"(?:url:)?(?:https?|ftp|file|jrt)://(?:[^\x00-\x1f\x7f/?#@\[\\\]]*@)?"
    r"(?P<host>[^/?#@:\[\]]*)(?::(?P<port>[+-]?[0-9]+)?)?(?:[/?#].*)?",
    re.ASCII | re.IGNORECASE | re.DOTALL,
)

_INNER = r"[a-z0-9_\u0080-\U0010ffff-]"
_OUTER = r"[a-z0-9\u0080-\U0010ffff]"
_LABEL = rf"{_OUTER}(?:{_INNER}{{0,61}}{_OUTER})?"

# The last label must not start with a digit, so that an IPv4 address does not match.
_NAME = re.compile(rf"(?:{_LABEL}\.){{0,126}}(?![0-9]){_LABEL}")

# Lowercase only ASCII letters, and convert the full stops of other scripts.
_FOLD = str.maketrans(
    string.ascii_uppercase + "\u3002\uff0e\uff61", string.ascii_lowercase + "..."
)


def registrable_domain(origin: str) -> str | None:
    """Return the public suffix of the host in *origin* plus one label, in lowercase.

    ``localhost`` and its direct subdomains return ``localhost`` without using the list.
    Return None if *origin* is not a URL, or if its host is an IP address, a bare public
    suffix, or has an unknown suffix.
    """
    name = _host_name(origin)
    if name is None:
        return None
    *before, last = name.split(".")
    if last == _LOCALHOST:
        return _LOCALHOST if len(before) <= 1 else None
    return _suffix_list().privatesuffix(name)


def origin_allowed(origin: str | None, domains: Collection[str]) -> bool:
    """Return whether the registrable domain of *origin* is one of the site's *domains*.

    A name below the registrable domain never matches.
    """
    if origin is None:
        return False
    domain = registrable_domain(origin)
    return domain is not None and domain in domains


def app_allowed(name: str, app_names: Collection[str]) -> bool:
    """Return whether *name* is one of the site's *app_names*.

    Compare like Java's ``equalsIgnoreCase``, character by character.
    """
    return any(
        len(name) == len(other)
        and all(
            a.upper() == b.upper() or a.lower() == b.lower()
            for a, b in zip(name, other, strict=True)
        )
        for other in app_names
    )


def _host_name(origin: str) -> str | None:
    """Return the host in *origin* in lowercase, or None if it is not a domain name."""
    found = _ORIGIN.fullmatch(trim(origin))
    if found is None:
        return None
    port = found["port"] or "0"
    digits = port.lstrip("+-").lstrip("0") or "0"
    if len(digits) > _PORT_DIGITS:
        return None
    if int(f"-{digits}" if port[0] == "-" else digits) not in _PORTS:
        return None
    name = found["host"].translate(_FOLD).removesuffix(".")
    return name if len(name) <= _MAX_NAME and _NAME.fullmatch(name) else None


@cache
def _suffix_list() -> PublicSuffixList:
    """Load the public suffix list, including its private section, once."""
    try:
        from publicsuffixlist import PublicSuffixList  # noqa: PLC0415 - an extra
    except ImportError:
        pass
    else:
        return PublicSuffixList(accept_unknown=False)
    raise ImportError(
        "Checking an Origin requires the public suffix list. Install it with: "
        "pip install 'uid2-async[sandbox]'"
    )
