"""Strict base64, as the operator decodes it (docs/protocol.md 1.3).

The operator's decoders, which are Java's basic and URL ones, reject every foreign
character. Padding may be absent but not wrong. Python's own decoder accepts too much
padding even in its strict mode; msgspec's does not, and takes half of the time.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence

from msgspec import ValidationError, convert, to_builtins

from uid2_async._traceback import strip_tracebacks

# By how many characters are over; a single one is beyond help.
_PADDING = ("", "", "==", "=")


def encode(data: bytes) -> bytes:
    """Encode *data* in the standard alphabet, with padding."""
    return b2a_base64(data, newline=False)


def encode_text(data: bytes) -> str:
    """Encode *data* in the standard alphabet, with padding, as str."""
    text: str = to_builtins(data)
    return text


def encode_texts(many: Sequence[bytes]) -> list[str]:
    """Apply :func:`encode_text` to each of *many*, in one call."""
    texts: list[str] = to_builtins(many)
    return texts


def encode_url_text(data: bytes) -> str:
    """Encode *data* in the URL-safe alphabet, without padding, as str."""
    return encode_text(data).rstrip("=").replace("+", "-").replace("/", "_")


def decode(text: str | bytes) -> bytes | None:
    """Decode *text* of the standard alphabet, or return None if it is not base64.

    Padding may be absent; where it is present it must be right. Bits that are left
    over in the last character are ignored. White space is refused.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    over = len(text) & 3
    if over:
        # Padding that is there but wrong must not be made right.
        if text[-1] == "=":
            return None
        text += _PADDING[over]
    try:
        return convert(text, bytes)
    except (ValidationError, UnicodeEncodeError):
        return None


def decode_many(texts: Sequence[str]) -> list[bytes] | None:
    """Decode texts of whole groups of 4 characters at once; None if one is wrong."""
    try:
        return convert(texts, list[bytes])
    except (ValidationError, UnicodeEncodeError):
        return None


def decode_url(text: str | bytes) -> bytes | None:
    """Decode *text* of only the URL-safe alphabet; otherwise as :func:`decode`."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if "+" in text or "/" in text:
        return None
    return decode(text.replace("-", "+").replace("_", "/"))


strip_tracebacks(globals())
