"""Detects what a value is, without any key.

Meant for text found in a log, a column or a cookie: what it is, and what is wrong with
it. The result contains only the IDs, versions and times of the value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum, IntEnum, StrEnum
from struct import Struct
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote

import attrs

from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import InputError
from uid2_async.identity_tokens import IdentityTokens, TokenState
from uid2_async.models import (
    IdentityScope,
    IdentityType,
    datetime_from_ms,
    ms_from_datetime,
)
from uid2_async.protocol import base64
from uid2_async.protocol.hash_spelling import HashSpelling, diagnose_hash
from uid2_async.protocol.normalize import normalize_email, normalize_phone
from uid2_async.protocol.raw_uid import (
    RAW_UID_SIZES,
    TYPE_BYTES,
    TYPE_MASK,
    Environment,
    inspect_raw_uid_bytes,
)
from uid2_async.protocol.token_codec import (
    HEADER,
    HEADER_V2,
    TYPE_FILL,
    V2_BYTE,
    V3,
    VERSIONS,
    read_text,
)
from uid2_async.protocol.tokens import SEALED_REFRESH_CHARS
from uid2_async.protocol.wire import iso


class ValueKind(StrEnum):
    """The kinds of values that are detected."""

    ADVERTISING_TOKEN = "advertising token"  # noqa: S105 - a name, not a secret
    REFRESH_TOKEN = "refresh token"  # noqa: S105 - a name, not a secret
    IDENTITY_TOKENS = "identity tokens"
    RAW_UID = "raw UID"
    HASH = "hash of DII"
    CLIENT_SECRET = "client secret"  # noqa: S105 - a name, not a secret
    API_KEY = "API key"
    EMAIL = "email address"
    PHONE = "phone number"


class Encoding(StrEnum):
    """How the 32 bytes of a hash are encoded."""

    HEX = "hex"
    BASE64 = "base64"
    BASE64URL = "base64url"
    BASE64_OF_HEX = "base64 of hex"
    BASE64_OF_BASE64 = "base64 of base64"


class Note(StrEnum):
    """What is wrong or ambiguous about a value, and what to do, for people to read."""

    TRIMMED = "White space around it was ignored. Operators reject it."
    URL_SAFE = (
        "It is in the URL-safe alphabet, which operators reject here. Replace - by + "
        "and _ by /."
    )
    AMBIGUOUS = (
        "32 bytes in base64 can be the SHA-256 of DII, a raw UID of version 2 or a "
        "client secret. Only the source of the value shows which. If it is a secret "
        "that others may have seen, as in a shell's history, replace it."
    )
    NO_RAW_UID = (
        "It has 33 bytes like a raw UID of version 3 or 4, but its first byte or "
        "checksum is wrong. It was changed in transit, or is something else."
    )
    HASH = "A hash does not show whether it is of an email address or a phone number."
    DII = "This is DII itself. Keep it out of logs. 'uid2 hash' hashes it."
    CUT = (
        "It is damaged: it begins like a token, but has the wrong length or contains "
        "invalid characters. Look for a column or cookie that is too short, or a line "
        "break."
    )
    ALPHABET = (
        "It is not in the alphabet of its version, so operators reject it. Version 4 "
        "is URL-safe base64. Versions 2 and 3 are standard base64."
    )
    SILENT_V2 = "Version 2 contains neither the scope nor the identity type."
    NO_WRAPPER = (
        "It lacks the wrapper of 388 characters that current operators add. They do "
        "not encrypt their reply to a refresh with it."
    )
    NO_RESPONSE_KEY = (
        "There is no refresh_response_key. The reply to a refresh cannot be decrypted "
        "without it, unless the operator does not encrypt."
    )
    ODD_KEY = "It begins like an API key, but does not have the documented form."


def _no_parts() -> Mapping[str, Inspection]:
    return MappingProxyType({})


@attrs.frozen(kw_only=True)
class Inspection:
    """What a value shows about itself. Fields that it does not show are None.

    Attributes:
        kinds: What it may be, most likely first. Empty if unknown.
        length: The number of characters.
        version: The version of a token or raw UID: 2, 3 or 4.
        scope: UID2 or EUID.
        identity_type: The type of the identity: email or phone.
        environment: The environment in which a v4 raw UID was created.
        key_environment: The environment of an API key.
        key_id: The master or refresh key of a token, or the low 24 bits of the ID of a
            v4 raw UID's bucket key.
        site_id: The site of an API key.
        encoding: How a hash is encoded.
        state: The state of identity tokens, such as expired.
        refresh_from: When identity tokens should be refreshed.
        identity_expires: When the advertising token of identity tokens expires.
        refresh_expires: When the refresh token of identity tokens expires.
        parts: The inspected tokens of identity tokens, by field name.
        notes: Sentences about what is wrong or ambiguous, and what to do.
    """

    kinds: tuple[ValueKind, ...] = ()
    length: int = 0
    version: int | None = None
    scope: IdentityScope | None = None
    identity_type: IdentityType | None = None
    environment: Environment | None = None
    key_environment: str | None = None
    key_id: int | None = None
    site_id: int | None = None
    encoding: Encoding | None = None
    state: TokenState | None = None
    refresh_from: datetime | None = None
    identity_expires: datetime | None = None
    refresh_expires: datetime | None = None
    parts: Mapping[str, Inspection] = attrs.field(factory=_no_parts, hash=False)
    notes: tuple[str, ...] = ()


_API_KEY: Final = re.compile(
    r"(UID2|EUID)-[CO]-([LTIP])-([0-9]{1,10})-.{6}\..{38}", re.DOTALL
)

_API_KEY_BEGIN: Final = re.compile(r"E?UID2?-[CO]-", re.IGNORECASE)
_ENVIRONMENTS: Final = {"L": "local", "T": "test", "I": "integ", "P": "prod"}
_SHA256_BYTES: Final = 32
_SHORT_CHARS: Final = (43, 44)
_HEADER_CHARS: Final = 8  # which base64 decodes to the six bytes of a header
_V2_BYTES: Final = 133
_TOKEN_BYTES: Final = (163, 164)
_INNER_V3_BYTES: Final = 124
_INNER_V2_BYTES: Final = 125
_INNER_V2_KEY: Final = Struct(">25xi")
_WRAPPER: Final = Struct(">Bi")  # scope, key ID

# Base64 of 32 bytes is missing here, because it need not be a hash.
_HASHES: Final = {
    HashSpelling.HEX: Encoding.HEX,
    HashSpelling.EMPTY_HASHED: Encoding.HEX,
    HashSpelling.BASE64_OF_HEX: Encoding.BASE64_OF_HEX,
    HashSpelling.BASE64_OF_BASE64: Encoding.BASE64_OF_BASE64,
    HashSpelling.PREFIXED_HEX: Encoding.HEX,
}


def inspect_value(text: str, *, now_ms: int) -> Inspection:
    """Detect what *text* is, without any key (docs/protocol.md 1.2, 3.3, 4.4 and 5).

    Args:
        text: A token, identity tokens as JSON, a raw UID, a hash, a key, or any other
            text.
        now_ms: The time in ms since the Unix epoch, to determine the state of identity
            tokens.

    Returns:
        The result. :attr:`Inspection.kinds` is empty if the value is unknown.

    Raises:
        OverflowError: If *now_ms* is outside the years 1 to 9999.
    """
    trimmed = text.strip()
    notes = () if trimmed == text else (Note.TRIMMED,)
    found = _inspect(trimmed, now_ms)
    if not found.kinds and "%" in trimmed:
        plain = _inspect(unquote(trimmed), now_ms)
        if plain.kinds:
            found, notes = plain, (*notes, HashSpelling.PERCENT_ENCODED.advice)
    return attrs.evolve(found, length=len(text), notes=(*notes, *found.notes))


def _inspect(text: str, now_ms: int) -> Inspection:
    """Inspect a text that has been stripped of white space."""
    return _read_json(text, now_ms) if text.startswith("{") else _read_plain(text)


def _read_plain(text: str) -> Inspection:
    """Return the result of the first reader that recognizes *text*."""
    found = next(filter(None, (read(text) for read in _READERS)), Inspection())
    return attrs.evolve(found, length=len(text))


def _read_json(text: str, now_ms: int) -> Inspection:
    try:
        tokens = IdentityTokens.from_json(text.encode("utf-8", "replace"))
    except InputError as error:
        return Inspection(notes=(error.message,))
    return Inspection(
        kinds=(ValueKind.IDENTITY_TOKENS,),
        state=tokens.state(datetime_from_ms(now_ms)),
        refresh_from=tokens.refresh_from,
        identity_expires=tokens.identity_expires,
        refresh_expires=tokens.refresh_expires,
        parts=MappingProxyType(
            {
                "advertising_token": _read_plain(tokens.advertising_token),
                "refresh_token": _read_plain(tokens.refresh_token),
            }
        ),
        notes=() if tokens.refresh_response_key else (Note.NO_RESPONSE_KEY,),
    )


def _read_api_key(text: str) -> Inspection | None:
    if not _API_KEY_BEGIN.match(text):
        return None
    found = _API_KEY.fullmatch(text)
    if not found:
        return Inspection(kinds=(ValueKind.API_KEY,), notes=(Note.ODD_KEY,))
    return Inspection(
        kinds=(ValueKind.API_KEY,),
        scope=IdentityScope(found[1]),
        key_environment=_ENVIRONMENTS[found[2]],
        site_id=int(found[3]),
    )


def _read_hash(text: str) -> Inspection | None:
    """Recognize text that can only be a hash, valid or not (docs/protocol.md 3.3)."""
    spelling = diagnose_hash(text)
    if spelling is HashSpelling.OTHER_HASH:
        return Inspection(notes=(spelling.advice,))
    encoding = _HASHES.get(spelling)
    if encoding is None:
        return None
    if spelling is HashSpelling.EMPTY_HASHED and len(text) == _SHORT_CHARS[1]:
        encoding = Encoding.BASE64
    return Inspection(
        kinds=(ValueKind.HASH,),
        encoding=encoding,
        notes=(spelling.advice or Note.HASH,),
    )


def _read_short(text: str) -> Inspection | None:
    """Recognize a hash, a raw UID or a secret by its size (docs/protocol.md 4.4)."""
    data = _decode(text) if len(text) in _SHORT_CHARS else None
    if data is None or len(data) not in RAW_UID_SIZES:
        return None
    url_safe = _standard(text) != text
    notes = (Note.URL_SAFE,) if url_safe else ()
    if len(data) == _SHA256_BYTES:
        if len(text) != _SHORT_CHARS[1]:
            notes = (*notes, HashSpelling.UNPADDED.advice)
        return Inspection(
            kinds=(ValueKind.HASH, ValueKind.RAW_UID, ValueKind.CLIENT_SECRET),
            version=2,
            encoding=Encoding.BASE64URL if url_safe else Encoding.BASE64,
            notes=(*notes, Note.AMBIGUOUS),
        )
    info = inspect_raw_uid_bytes(data)
    if info is None:
        return Inspection(notes=(*notes, Note.NO_RAW_UID))
    return Inspection(
        kinds=(ValueKind.RAW_UID,),
        version=info.version,
        scope=info.scope,
        identity_type=info.identity_type,
        environment=info.environment,
        key_id=info.key_id,
        notes=notes,
    )


def _read_dii(text: str) -> Inspection | None:
    """Recognize DII that is not hashed (docs/protocol.md 3.1 and 3.2)."""
    if normalize_phone(text):
        return Inspection(kinds=(ValueKind.PHONE,), notes=(Note.DII,))
    if normalize_email(text):
        return Inspection(kinds=(ValueKind.EMAIL,), notes=(Note.DII,))
    return None


def _read_old(text: str) -> Inspection | None:
    """Recognize a v2 token, which begins with byte 2 (docs/protocol.md 5.2, 5.5)."""
    data = _decode(text)
    if data is None or data[:1] != bytes((V2_BYTE,)):
        return None
    if len(data) == _V2_BYTES:
        _, key_id = HEADER_V2.unpack_from(data)
        notes = (*_judge_alphabet(text), Note.SILENT_V2)
        return Inspection(
            kinds=(ValueKind.ADVERTISING_TOKEN,), version=2, key_id=key_id, notes=notes
        )
    if len(data) == _INNER_V2_BYTES:
        (key_id,) = _INNER_V2_KEY.unpack_from(data)
        return Inspection(
            kinds=(ValueKind.REFRESH_TOKEN,),
            version=2,
            key_id=key_id,
            notes=(Note.NO_WRAPPER,),
        )
    return None


def _read_token(text: str) -> Inspection | None:
    """Recognize a token of version 3 or 4 by its header (docs/protocol.md 5.3, 5.5)."""
    head = _decode(text[:_HEADER_CHARS])
    if head is None or len(head) != HEADER.size:
        return None
    first, version_byte, key_id = HEADER.unpack(head)
    version = VERSIONS.get(version_byte)
    scope, identity_type = TYPE_BYTES[first]
    if version is None or identity_type is None:
        return None
    if first & ~TYPE_MASK != TYPE_FILL:
        return None
    size = len(_decode(text) or b"")
    kind, notes = ValueKind.ADVERTISING_TOKEN, _judge_alphabet(text)
    if version == V3 and size == _INNER_V3_BYTES:
        kind, notes = ValueKind.REFRESH_TOKEN, (Note.NO_WRAPPER,)
    elif size not in _TOKEN_BYTES:
        notes = (Note.CUT,)
    return Inspection(
        kinds=(kind,),
        version=version,
        scope=scope,
        identity_type=identity_type,
        key_id=key_id,
        notes=notes,
    )


def _read_wrapper(text: str) -> Inspection | None:
    """Recognize the wrapper of a refresh token (docs/protocol.md 5.5)."""
    data = base64.decode(text) if len(text) == SEALED_REFRESH_CHARS else None
    if data is None:
        return None
    first, key_id = _WRAPPER.unpack_from(data)
    scope = _WRAPPER_SCOPES.get(first)
    if scope is None:
        return None
    return Inspection(kinds=(ValueKind.REFRESH_TOKEN,), scope=scope, key_id=key_id)


_WRAPPER_SCOPES: Final = {scope.bit << 4: scope for scope in IdentityScope}

_READERS: Final[tuple[Callable[[str], Inspection | None], ...]] = (
    _read_api_key,
    _read_hash,
    _read_short,
    _read_dii,
    _read_old,
    _read_token,
    _read_wrapper,
)


def _judge_alphabet(text: str) -> tuple[str, ...]:
    """Return a note if an operator would not decode a token in its alphabet."""
    return () if isinstance(read_text(text, strict=True), bytes) else (Note.ALPHABET,)


def _standard(text: str) -> str:
    """Convert the URL-safe alphabet to the standard one."""
    return text.replace("-", "+").replace("_", "/")


def _decode(text: str) -> bytes | None:
    """Decode base64 in either alphabet."""
    return base64.decode(_standard(text))


def describe(found: Inspection) -> dict[str, Any]:
    """Return the fields of *found* as JSON values, without those that are None."""
    report: dict[str, Any] = {"kinds": [kind.value for kind in found.kinds]}
    for field in attrs.fields(Inspection):
        value = getattr(found, field.name)
        if field.name in {"kinds", "parts", "notes"} or value is None:
            continue
        report[field.name] = _plain(value)
    for name, part in found.parts.items():
        report[name] = describe(part)
    report["notes"] = [str(note) for note in found.notes]
    return report


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return iso(ms_from_datetime(value))
    if isinstance(value, IntEnum):
        return value.name.lower()
    return value.value if isinstance(value, Enum) else value


strip_tracebacks(globals())
