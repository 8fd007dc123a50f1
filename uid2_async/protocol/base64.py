"""Strict base64, as the operator's decoder takes it (docs/protocol.md 1.3).

Python's own decoder drops foreign characters unless told otherwise and wants padding;
the operator's (Java's basic and URL decoders) take no foreign character at all, and
padding may be left out but not be wrong.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

_PADDING = {2: b"==", 3: b"="}
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")
_TO_URL = bytes.maketrans(b"+/", b"-_")


def encode(data: bytes) -> bytes:
    """Encode *data* in the standard alphabet, with padding."""
    return b2a_base64(data, newline=False)


def encode_text(data: bytes) -> str:
    """Encode *data* in the standard alphabet, with padding, as str."""
    return b2a_base64(data, newline=False).decode("ascii")


def encode_url_text(data: bytes) -> str:
    """Encode *data* in the URL-safe alphabet, without padding, as str."""
    return encode(data).rstrip(b"=").translate(_TO_URL).decode("ascii")


def decode(text: str | bytes) -> bytes | None:
    """Decode *text* of the standard alphabet, or return None where it is no base64.

    Padding may be absent; where it is present it must be right. Bits that are left
    over in the last character are ignored. White space is refused.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
        if not raw.endswith(b"="):
            raw += _PADDING.get(len(raw) % 4, b"")
        elif len(raw) % 4:
            return None
        return a2b_base64(raw, strict_mode=True)
    except (Error, UnicodeEncodeError):
        return None


def decode_url(text: str | bytes) -> bytes | None:
    """Decode *text* of the URL-safe alphabet alone; else as :func:`decode`."""
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        return None
    if b"+" in raw or b"/" in raw:
        return None
    return decode(raw.translate(_TO_STANDARD))
