"""Detects how a hash is encoded, and how to fix it if operators reject it.

Meant for a column whose hashes are all invalid, which usually has one cause. Operators
accept 64 hex characters or 44 base64 characters (docs/protocol.md 3.3).
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import sha256
from typing import Final

from uid2_async._traceback import strip_tracebacks
from uid2_async.protocol import base64
from uid2_async.protocol.normalize import normalize_email, normalize_phone
from uid2_async.protocol.raw_uid import inspect_raw_uid_bytes


class HashSpelling(StrEnum):
    """How a text that should be the SHA-256 of DII is encoded."""

    HEX = "hex"
    BASE64 = "base64"
    EMPTY_HASHED = "hash of nothing"
    BASE64URL = "URL-safe base64"
    UNPADDED = "base64 without padding"
    BASE64_OF_HEX = "base64 of hex"
    BASE64_OF_BASE64 = "base64 of base64"
    PREFIXED_HEX = "hex with a prefix"
    PERCENT_ENCODED = "percent-encoded"
    SPACED = "white space around it"
    OTHER_HASH = "another hash"
    RAW_UID = "raw UID"
    NOT_HASHED = "DII that is not hashed"
    EMPTY = "empty"
    UNKNOWN = "nothing known"

    @property
    def advice(self) -> str:
        """How to fix it, as a sentence. Empty if nothing is wrong."""
        return _ADVICE.get(self, "")


_ADVICE: Final = {
    HashSpelling.EMPTY_HASHED: (
        "It is the SHA-256 of an empty text. Remove rows without a value before "
        "hashing, or they all become the same person."
    ),
    HashSpelling.BASE64URL: (
        "It is in the URL-safe alphabet, which operators reject here. Replace - by + "
        "and _ by /, and append one =."
    ),
    HashSpelling.UNPADDED: "The padding is missing. Append one =.",
    HashSpelling.BASE64_OF_HEX: (
        "The hex text was encoded, not the 32 bytes, so no operator accepts it. Decode "
        "it once and send the 64 hex characters, or encode the bytes."
    ),
    HashSpelling.BASE64_OF_BASE64: "It was encoded in base64 twice. Decode it once.",
    HashSpelling.PREFIXED_HEX: (
        r"It begins with 0x or \x, as databases print bytes. Remove the prefix and "
        "send the 64 hex characters."
    ),
    HashSpelling.PERCENT_ENCODED: (
        "It is percent-encoded, as in a URL or cookie. Decode it before use."
    ),
    HashSpelling.SPACED: "Remove the white space around it. Operators reject it.",
    HashSpelling.OTHER_HASH: (
        "It looks like another hash in hex. UID2 and EUID require SHA-256, which has "
        "64 characters."
    ),
    HashSpelling.RAW_UID: "It is already a raw UID.",
    HashSpelling.NOT_HASHED: (
        "It is DII itself. Pass it as email or phone, and it will be hashed."
    ),
    HashSpelling.EMPTY: "The value is empty.",
    HashSpelling.UNKNOWN: (
        "It is not a SHA-256 in hex (64 characters) or base64 (44). Look for a column "
        "that is too short, or that contains other values."
    ),
}

_GOOD: Final = frozenset({HashSpelling.HEX, HashSpelling.BASE64})
_HEX: Final = re.compile(r"[0-9a-fA-F]+")
_PREFIXES: Final = ("0x", "0X", "\\x")
_SHA256_BYTES: Final = 32
_SHA256_CHARS: Final = 2 * _SHA256_BYTES

# The lengths of MD5, SHA-1, SHA-224, SHA-384 and SHA-512 in hex.
_OTHER_HASH_CHARS: Final = frozenset({32, 40, 56, 96, 128})
_BASE64_CHARS: Final = 44
_OF_NOTHING: Final = sha256(b"").digest()


def diagnose_hash(text: str) -> HashSpelling:
    """Return how *text*, which should be the SHA-256 of DII, is encoded.

    If one hash of a column is rejected, the others are usually encoded the same way.
    The return value contains nothing of *text*.
    """
    if not text or text.isspace():
        return HashSpelling.EMPTY
    if text != text.strip():
        found = diagnose_hash(text.strip())
        return HashSpelling.SPACED if found in _GOOD else found
    return _read_hex(text) or _read_base64(text) or _read_foreign(text)


def _read_hex(text: str) -> HashSpelling | None:
    """Classify hex digits, with or without a prefix."""
    digits = text[2:] if text.startswith(_PREFIXES) else text
    if not _HEX.fullmatch(digits):
        return None
    if digits != text:
        whole = len(digits) == _SHA256_CHARS
        return HashSpelling.PREFIXED_HEX if whole else None
    if len(text) == _SHA256_CHARS:
        empty = bytes.fromhex(text) == _OF_NOTHING
        return HashSpelling.EMPTY_HASHED if empty else HashSpelling.HEX
    return HashSpelling.OTHER_HASH if len(text) in _OTHER_HASH_CHARS else None


def _read_base64(text: str) -> HashSpelling | None:
    """Classify base64 of a hash, or of the text of a hash."""
    url_safe = "-" in text or "_" in text
    data = base64.decode_url(text) if url_safe else base64.decode(text)
    if data is None:
        return None
    if len(data) != _SHA256_BYTES:
        return _read_decoded(data)
    if url_safe:
        return HashSpelling.BASE64URL
    if len(text) != _BASE64_CHARS:
        return HashSpelling.UNPADDED
    return HashSpelling.EMPTY_HASHED if data == _OF_NOTHING else HashSpelling.BASE64


def _read_decoded(data: bytes) -> HashSpelling | None:
    """Classify decoded bytes that are not a SHA-256."""
    if len(data) == _SHA256_CHARS and _HEX.fullmatch(data.decode("latin-1")):
        return HashSpelling.BASE64_OF_HEX
    if len(base64.decode(data) or b"") == _SHA256_BYTES:
        return HashSpelling.BASE64_OF_BASE64
    if inspect_raw_uid_bytes(data) is not None:
        return HashSpelling.RAW_UID
    return None


def _read_foreign(text: str) -> HashSpelling:
    """Classify text that is not a hash in any encoding."""
    if "%" in text and "@" not in text:
        # Imported here, because few columns contain such text.
        from urllib.parse import unquote  # noqa: PLC0415 - reason above

        plain = unquote(text)
        if plain != text and diagnose_hash(plain) in _GOOD:
            return HashSpelling.PERCENT_ENCODED
    if normalize_phone(text) or normalize_email(text):
        return HashSpelling.NOT_HASHED
    return HashSpelling.UNKNOWN


strip_tracebacks(globals())
