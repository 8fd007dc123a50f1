"""The words in which an inspection speaks: kinds, encodings and notes."""

from __future__ import annotations

from enum import StrEnum

from uid2_async._traceback import strip_tracebacks

__all__ = ["Encoding", "Note", "ValueKind"]


class ValueKind(StrEnum):
    """What a value can be."""

    ADVERTISING_TOKEN = "advertising token"  # noqa: S105 - a name, no secret
    REFRESH_TOKEN = "refresh token"  # noqa: S105 - a name, no secret
    IDENTITY_TOKENS = "identity tokens"
    RAW_UID = "raw UID"
    HASH = "hash of DII"
    CLIENT_SECRET = "client secret"  # noqa: S105 - a name, no secret
    API_KEY = "API key"
    EMAIL = "e-mail address"
    PHONE = "phone number"


class Encoding(StrEnum):
    """How the 32 bytes of a hash are written."""

    HEX = "hex"
    BASE64 = "base64"
    BASE64URL = "base64url"
    BASE64_OF_HEX = "base64 of hex"
    BASE64_OF_BASE64 = "base64 of base64"


class Note(StrEnum):
    """What is wrong or ambiguous with a value, and what to do; for people to read."""

    TRIMMED = "White space around it was left out; operators refuse it."
    PERCENT_ENCODED = (
        "It is percent-encoded, as in a URL or cookie: decode it before use."
    )
    URL_SAFE = (
        "It is in the URL-safe alphabet, which operators refuse here: write + for - "
        "and / for _."
    )
    NO_PADDING = "The padding is missing: append one =."
    AMBIGUOUS = (
        "32 bytes in base64 look the same whether they are the SHA-256 of DII, a raw "
        "UID of version 2 or a client secret; only where it comes from tells. A secret "
        "that others may have seen, as in a shell's history, is to be replaced."
    )
    NO_RAW_UID = (
        "It has the 33 bytes of a raw UID of version 3 or 4, but not their first byte "
        "or checksum: it was changed on the way, or is something else."
    )
    HASH = "A hash does not tell whether it is of an e-mail address or a phone number."
    HEX_ENCODED = (
        "The hex text was encoded, not the 32 bytes that it stands for, so no operator "
        "takes it: decode it once and send the 64 hex characters, or encode the bytes."
    )
    ENCODED_TWICE = "It was encoded in base64 twice: decode it once."
    PREFIXED = (
        r"It begins with 0x or \x, as databases print bytes: leave out the prefix and "
        "send the 64 hex characters."
    )
    OF_NOTHING = (
        "It is the SHA-256 of an empty text: leave out people without the value before "
        "hashing, or all of them become one person."
    )
    OTHER_HASH = (
        "It looks like the hex of another hash; UID2 and EUID take SHA-256, 64 "
        "characters."
    )
    DII = "This is DII itself: keep it out of logs; 'uid2 hash' hashes it."
    CUT = (
        "It is damaged: it begins like a token, but has not its length, or holds other "
        "characters. Look for a column or cookie that is too short, or a line break."
    )
    ALPHABET = (
        "It is not in the alphabet of its version, so operators refuse it: version 4 "
        "is URL-safe base64, versions 2 and 3 are standard base64."
    )
    SILENT_V2 = "Version 2 tells neither scope nor identity type."
    NO_WRAPPER = (
        "It is without the wrapper of 388 characters that current operators put around "
        "it; what they answer to a refresh with it is not encrypted."
    )
    NO_RESPONSE_KEY = (
        "There is no refresh_response_key, without which the reply to a refresh cannot "
        "be opened, unless the operator does not encrypt."
    )
    ODD_KEY = "It begins like an API key but is not of the documented form."


strip_tracebacks(globals())
