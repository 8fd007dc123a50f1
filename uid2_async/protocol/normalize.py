"""Normalizes and hashes DII exactly as the operator does (docs/protocol.md 3).

Each identity becomes *identity bytes*: the SHA-256 of the normalized value, or the
bytes that a given hash decodes to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.models import Identity
from uid2_async.protocol import base64

KINDS: Final = ("email", "email_hash", "phone", "phone_hash")

# The key under which each kind is sent.
HASH_KINDS: Final = {kind: f"{kind.removesuffix('_hash')}_hash" for kind in KINDS}

# The operator lowercases only ASCII letters. "Ü" and the Kelvin sign do not change.
_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_PHONE = re.compile(r"\+[0-9]{10,15}")
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_BASE64_CHARS = 44

# How many emails are hashed together. An unusual one makes the whole group slower.
_TOGETHER = 250
_USUAL = bytes(set(range(256)) - set(b"@ \n"))


def normalize_email(text: str) -> str | None:
    """Normalize an email address, or return None if the operator rejects it.

    Removes all spaces from the local part, and trailing spaces from the domain. For
    ``gmail.com``, also removes the dots and everything from the first ``+`` in the
    local part. The domain must not be empty, but is not checked further
    (docs/protocol.md 3.1).
    """
    text = text.lower() if text.isascii() else text.translate(_ASCII_LOWER)
    local, _, domain = text.partition("@")
    if "@" in domain:
        return None
    local = local.replace(" ", "")
    domain = domain.rstrip(" ")
    if domain == "gmail.com":
        local = local.partition("+")[0].replace(".", "")
    return f"{local}@{domain}" if local and domain else None


def normalize_phone(text: str) -> str | None:
    """Return *text* if it is ``+`` and 10 to 15 ASCII digits, else None.

    The operator does not rewrite phone numbers (docs/protocol.md 3.2).
    """
    return text if _PHONE.fullmatch(text) else None


def decode_hash(text: str) -> bytes | None:
    """Decode a hash of 44 base64 or 64 hex characters, or return None.

    The length of decoded base64 is not checked, so it may be 31 to 33 bytes
    (docs/protocol.md 3.3).
    """
    if len(text) == _BASE64_CHARS:
        return base64.decode(text)
    return bytes.fromhex(text) if _HEX.fullmatch(text) else None


def _hash_email(text: str) -> bytes | None:
    normalized = normalize_email(text)
    if normalized is None:
        return None
    # A lone surrogate becomes "?", as in Java.
    return sha256(normalized.encode("utf-8", "replace")).digest()


def _hash_phone(text: str) -> bytes | None:
    return sha256(text.encode("ascii")).digest() if _PHONE.fullmatch(text) else None


READERS: Final[dict[str, Callable[[str], bytes | None]]] = {
    "email": _hash_email,
    "phone": _hash_phone,
    "email_hash": decode_hash,
    "phone_hash": decode_hash,
}


def identity_bytes(kind: str, value: str) -> bytes | None:
    """Convert a value of *kind* to identity bytes, or return None if it is invalid.

    Args:
        kind: One of ``KINDS``.
        value: The DII or its hash.

    Returns:
        32 bytes, or 31 or 33 for some unusual hashes that the operator accepts.
    """
    return READERS[kind](value)


def many_identity_bytes(kind: str, values: Sequence[str]) -> list[bytes | None]:
    """Apply :func:`identity_bytes` to many values of one kind.

    This takes half the time for emails, and a third for base64 hashes.
    """
    if kind == "email":
        found: list[bytes | None] = []
        for at in range(0, len(values), _TOGETHER):
            found += _hash_emails(values[at : at + _TOGETHER])
        return found
    if HASH_KINDS[kind] == kind and set(map(len, values)) == {_BASE64_CHARS}:
        decoded = base64.decode_many(values)
        if decoded is not None:
            return [*decoded]
    return list(map(READERS[kind], values))


def _hash_emails(texts: Sequence[str]) -> list[bytes | None]:
    """Apply :func:`_hash_email` to several texts at once.

    Hashing is only a third of the work. The rest is Python, with a call for each step
    of each address. The steps are therefore done for all addresses together. Joined by
    line ends, the addresses are encoded and lowercased in two calls (bytes lowercase
    only ASCII letters, as the rule requires). Then all bytes except "@", space and line
    end are deleted. If each line then has a single "@", and no address begins or ends
    with "@", all addresses are ordinary. Only those of Gmail need more work. If one is
    not ordinary, all are hashed one by one.
    """
    joined = b"\n%b\n" % "\n".join(texts).encode("utf-8", "replace").lower()
    if (
        joined.translate(None, _USUAL) != b"\n" + b"@\n" * len(texts)
        or b"\n@" in joined
        or b"@\n" in joined
    ):
        return list(map(_hash_email, texts))
    return [
        sha256(line).digest() if line[-10:] != b"@gmail.com" else _hash_gmail(line)
        for line in joined[1:-1].split(b"\n")
    ]


def _hash_gmail(address: bytes) -> bytes | None:
    """Hash a lowercase Gmail address without spaces."""
    local = address.partition(b"@")[0].partition(b"+")[0].replace(b".", b"")
    return sha256(local + b"@gmail.com").digest() if local else None


def identity_hash(identity: Identity) -> str | None:
    """Return the canonical base64 hash of *identity*, or None if it is invalid."""
    data = READERS[identity.kind](identity.value)
    return None if data is None else base64.encode_text(data)


def sendable(kind: str, value: str, *, send_raw: bool) -> tuple[str, str] | None:
    """Return the key and the value to send for an identity, or None if it is invalid.

    A hash is sent in its canonical encoding. DII is sent as its hash, unless *send_raw*
    is set and JSON can represent it (a lone surrogate can only be hashed).
    """
    data = identity_bytes(kind, value)
    if data is None:
        return None
    hash_kind = HASH_KINDS[kind]
    if send_raw and kind != hash_kind and _is_utf8(value):
        return kind, value
    return hash_kind, base64.encode_text(data)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_identity_input(identity: Identity, *, send_raw: bool) -> dict[str, str]:
    """Build the request field of *identity*. See :func:`sendable`.

    Raises:
        InputError: If the operator would reject it. The message names only the kind.
    """
    field = sendable(identity.kind, identity.value, send_raw=send_raw)
    if field is None:
        raise InputError(
            f"The {identity.kind} is not valid.",
            hint=(
                "The documentation, under Wire protocol, section 3, says what an "
                "operator accepts."
            ),
        )
    key, value = field
    return {key: value}


strip_tracebacks(globals())
