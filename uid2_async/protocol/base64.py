"""Strict base64, as the operator decodes it (docs/protocol.md 1.3).

The operator uses Java's basic and URL decoders, which reject every character outside
their alphabet. Padding may be absent but must not be wrong. Python's own decoder
accepts too much padding even in strict mode. msgspec's decoder does not, and takes half
the time.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable, Sequence
from typing import Final

from msgspec import ValidationError, convert, to_builtins

from uid2_async._traceback import strip_tracebacks

# By the length modulo 4. A single remaining character cannot be decoded.
_PADDING = ("", "", "==", "=")


def encode(data: bytes) -> bytes:
    """Encode *data* in the standard alphabet, with padding."""
    return b2a_base64(data, newline=False)


encode_text: Final[Callable[[bytes], str]] = to_builtins
"""Encode bytes in the standard alphabet, with padding, as str."""

encode_texts: Final[Callable[[Sequence[bytes]], list[str]]] = to_builtins
"""Apply :func:`encode_text` to each element, in one call."""


def encode_url_text(data: bytes) -> str:
    """Encode *data* in the URL-safe alphabet, without padding, as str."""
    return encode_text(data).rstrip("=").replace("+", "-").replace("/", "_")


def decode(text: str | bytes) -> bytes | None:
    """Decode *text* from the standard alphabet, or return None if it is not base64.

    Padding may be absent, but must be correct if it is present. Unused bits of the last
    character are ignored. White space is rejected.
    """
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    over = len(text) & 3
    if over:
        # Wrong padding must not be completed.
        if text[-1] == "=":
            return None
        text += _PADDING[over]
    try:
        return convert(text, bytes)
    except (ValidationError, UnicodeEncodeError):
        return None


def decode_many(texts: Sequence[str]) -> list[bytes] | None:
    """Decode padded texts in one call. Return None if any of them is not base64."""
    try:
        return convert(texts, list[bytes])
    except (ValidationError, UnicodeEncodeError):
        return None


def decode_url(text: str | bytes) -> bytes | None:
    """Decode *text* like :func:`decode`, but accept only the URL-safe alphabet."""
    if isinstance(text, bytes):
        text = text.decode("latin-1")
    if "+" in text or "/" in text:
        return None
    return decode(text.replace("-", "+").replace("_", "/"))


strip_tracebacks(globals())
