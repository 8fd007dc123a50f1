"""Calls: the JSON of requests and replies, and the errors of other replies.

Only a 200 reply is encrypted (docs/protocol.md 1.7 and 1.9). Every other body is
unauthenticated. Only its status word is used and, for 400 and 401, a message that is
truncated here and escaped by the error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Generic, TypeAlias, TypeVar

import msgspec

from uid2_async._private import RedactedRepr, Unpicklable
from uid2_async._traceback import strip_tracebacks
from uid2_async.errors import (
    AuthError,
    BadRequestError,
    ClockSkewError,
    ExpiredTokenError,
    InvalidTokenError,
    OperatorError,
    PayloadTooLargeError,
    ProtocolError,
    RateLimitError,
    ServerError,
    UID2Error,
    UnexpectedStatusError,
)
from uid2_async.models import datetime_from_ms

T = TypeVar("T")
R = TypeVar("R")
FIRST_MS, LAST_MS = -62_135_596_800_000, 253_402_300_799_999
"""The years 1 to 9999, which a datetime can represent, in ms since the Unix epoch."""

EpochMs: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=LAST_MS)]
"""A time in ms since the Unix epoch, up to the year 9999, as for a datetime."""

# msgspec ends its messages with the path: "... - at `$.body.email_hash[3].u`". The
# rest can contain the rejected value (of an enum) and is discarded.
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")

encode: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode
"""Encode a value as compact UTF-8 JSON."""


# Decoders by type, cached because creating one costs more than a small reply.
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode(data: bytes | str, kind: type[T]) -> T:
    """Decode JSON *data* as a value of type *kind*.

    Raises:
        ProtocolError: If it is not JSON or does not have the expected structure. The
            message contains only the JSON path. The error is raised outside the
            handler, so that it does not reference another error that may contain the
            reply.
    """
    decoder: msgspec.json.Decoder[T] | None = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    path = ""
    message = "The reply is not JSON."
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        path = found["path"] if found else ""
        message = f"The reply has an unexpected structure at {path or 'the top level'}."
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise ProtocolError(message, path=path)


def iso(ms: int) -> str:
    """Format *ms* since the Unix epoch as ISO 8601 in UTC, with ms only if needed.

    A time out of a datetime's range, such as the end of a key that never expires, is
    returned in ms.
    """
    try:
        instant = datetime_from_ms(ms)
    except OverflowError:
        return f"{ms} ms"
    unit = "milliseconds" if ms % 1000 else "seconds"
    return instant.isoformat(timespec=unit).replace("+00:00", "Z")


class _ReplyContent(msgspec.Struct, Generic[T]):
    """The JSON of a decrypted reply: a status word, and what a success returns."""

    status: str
    body: T | None = None


@cache
def _content_of(kind: Any) -> Any:
    """Return the type of a reply. It takes longer to make than to use."""
    return _ReplyContent[kind]


def read_body(
    payload: bytes, kind: type[T], results: Mapping[str, R] | None = None
) -> T | R:
    """Return the body of a decrypted reply, as a value of type *kind*.

    Args:
        payload: The JSON of the reply.
        kind: The type of the body of a success.
        results: What to return for the other status words of the endpoint.

    Raises:
        OperatorError: If the status is neither ``success`` nor in *results*.
        ProtocolError: If the reply does not have this structure, or has no body.
    """
    content = _content_of(kind)  # type: ignore[arg-type] # any type is hashable
    reply: _ReplyContent[T] = decode(payload, content)
    if reply.status != "success":
        if results is not None and reply.status in results:
            return results[reply.status]
        raise OperatorError(
            "The operator answered 200 with an unexpected status word.",
            status=200,
            code=_word(reply.status),
        )
    if reply.body is None:
        raise ProtocolError("The reply has no body.", path="body")
    return reply.body


# --- calls ----------------------------------------------------------------------------

OwnCrypto: TypeAlias = Callable[
    [int, Callable[[int], bytes]], tuple[bytes, Callable[[bytes], bytes]]
]
"""Encrypts one attempt. Takes the time in ms and a source of random bytes. Returns the
body, and a function that decrypts the body of the reply."""


class Call(RedactedRepr, Unpicklable, Generic[T], frozen=True, kw_only=True):
    """A request, and how to parse its reply.

    Attributes:
        path: The endpoint.
        payload: The request's JSON, or the bare refresh token.
        parse: Parses the decrypted reply.
        binary: Whether both bodies are raw bytes instead of base64 text.
        bare: Whether the payload is sent unencrypted (token/refresh).
        reply_key: The key that decrypts the reply. None means the client secret, and
            empty that the reply is not encrypted.
        own_crypto: Encrypts the request and decrypts the reply instead of the envelope
            (token/client-generate). The payload is then ignored.
        max_reply_bytes: The maximum size of the reply.
    """

    _repr_fields: ClassVar[tuple[str, ...]] = ("path", "binary")

    path: str
    payload: bytes = b""
    parse: Callable[[bytes], T]
    binary: bool = False
    bare: bool = False
    reply_key: bytes | None = None
    own_crypto: OwnCrypto | None = None
    max_reply_bytes: int = 1024 * 1024


# --- replies other than 200 -----------------------------------------------------------

_MESSAGE_CHARS = 200
_MESSAGE_BODY_BYTES = 64 * 1024
_WORD = re.compile(r"[A-Za-z0-9_-]{1,40}", re.ASCII)

# A match of this many characters of a secret is not a coincidence.
_ECHO_CHARS = 12
_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)
_BAD_SECRET = "Invalid body: Check encryption key"  # noqa: S105 - the operator's words
_BAD_TIME = "Invalid timestamp"
_SECRET_HINT = "The client secret does not belong to this API key. Check both."  # noqa: S105 - advice
_LINK_HINT = "Check link_id: it must belong to this service and be enabled."

_ORIGIN_HINTS = {
    "invalid_http_origin": (
        "origin= must be on a domain that is registered for the subscription. Add it "
        "in the UID2 portal."
    ),
    "invalid_app_name": (
        "app_name= must be registered for the subscription. Add it in the UID2 portal."
    ),
}

_REFRESH_HINT = (
    "The refresh token is invalid or has expired. Generate a new token. (The operator "
    "states which one it is only if the call uses a valid API key.)"
)


class _ErrorBody(msgspec.Struct):
    """The JSON of an error reply. Any part may be missing."""

    status: str | None = None
    message: str | None = None


_error_body = msgspec.json.Decoder(_ErrorBody)


def error_from_reply(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_ms: int,
    secrets: Sequence[str] = (),
) -> UID2Error:
    """Return the error for an HTTP *status* other than 200.

    Args:
        status: The HTTP status.
        headers: The reply's headers, by lowercase name.
        body: The reply's body, which may be JSON, text, HTML or empty.
        now_ms: The corrected time in ms since the Unix epoch, for a ``Retry-After``
            that is a date.
        secrets: The secrets that the request contained in the clear. A message that
            repeats one of them, or a part of one, is not shown.

    Returns:
        The error. It is not raised, because the caller adds the endpoint, trace ID and
        attempts.
    """
    code, message = _read_error_body(body, secrets)
    retry_after = parse_retry_after(
        headers.get("retry-after"), date=headers.get("date"), now_ms=now_ms
    )
    error = _make_error(status, code, message)
    if isinstance(error, OperatorError):
        error.status = status
        error.code = code
        error.retry_after = retry_after
    return error


def _make_error(status: int, code: str | None, message: str | None) -> UID2Error:
    """Choose the error class by status, status word and message."""
    said = f"The operator said: {message}" if message else f"HTTP {status}."
    if status == 400:  # noqa: PLR2004 - an HTTP status reads best as its number
        return _make_bad_request(code, message or "", said)
    if status == 401:  # noqa: PLR2004 - as above
        hint = _LINK_HINT if message == "Invalid link_id" else None
        return AuthError(said, hint=hint)
    if status == 403 and code in _ORIGIN_HINTS:  # noqa: PLR2004 - as above
        return AuthError("The operator replied HTTP 403.", hint=_ORIGIN_HINTS[code])
    if 200 <= status < 300:  # noqa: PLR2004 - as above
        return ProtocolError(f"The operator answered HTTP {status} instead of 200.")
    kind = _BY_STATUS.get(status, UnexpectedStatusError)
    return kind(f"The operator replied HTTP {status}.")


_BY_STATUS: dict[int, type[OperatorError]] = {
    413: PayloadTooLargeError,
    429: RateLimitError,
    500: ServerError,
    502: ServerError,
    503: ServerError,
    504: ServerError,
}


def _make_bad_request(code: str | None, message: str, said: str) -> OperatorError:
    if message.startswith(_BAD_SECRET):
        return AuthError("The operator cannot decrypt the request.", hint=_SECRET_HINT)
    if message.startswith(_BAD_TIME):
        return ClockSkewError("The operator rejected the time of the request.")
    if code == "invalid_token":
        return InvalidTokenError(said)
    if code == "expired_token":
        return ExpiredTokenError(said)
    if code == "error":
        # Only token/refresh returns this word, and only without a valid API key.
        return InvalidTokenError(said, hint=_REFRESH_HINT)
    return BadRequestError(said)


def _read_error_body(
    body: bytes, secrets: Sequence[str]
) -> tuple[str | None, str | None]:
    """Return the status word and message of a JSON body, or None for a missing one."""
    if not body.startswith(b"{") or len(body) > _MESSAGE_BODY_BYTES:
        return None, None
    try:
        read = _error_body.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None, None
    message = read.message
    if message is not None and any(_echoes(message, one) for one in secrets if one):
        message = None
    return _word(read.status), message and message[:_MESSAGE_CHARS]


def _word(text: str | None) -> str | None:
    """Return a status word, or None if it does not look like one."""
    return text if text is not None and _WORD.fullmatch(text) else None


def _echoes(text: str, secret: str) -> bool:
    """Return whether *text* contains a part of *secret*."""
    starts = range(max(1, len(secret) - _ECHO_CHARS + 1))
    return any(secret[start : start + _ECHO_CHARS] in text for start in starts)


def parse_retry_after(
    text: str | None, *, date: str | None = None, now_ms: int
) -> float | None:
    """Parse a ``Retry-After`` header into seconds from now, or None if it is unusable.

    Accepts up to six ASCII digits, or an HTTP date that ends in ``GMT``. Everything
    else (signs, decimals, exponents, ``nan``, lists) is ignored. A date is relative to
    the same reply's ``Date`` header if there is one, so that a wrong local clock does
    not matter.

    Args:
        text: The header, or None.
        date: The same reply's ``Date`` header, or None.
        now_ms: The corrected time in ms since the Unix epoch.

    Returns:
        Seconds, never negative, or None if the header is unusable.
    """
    if text is None:
        return None
    if _SECONDS.fullmatch(text):
        return float(text)
    until = _http_date(text)
    if until is None:
        return None
    now = _http_date(date) if date is not None else None
    return max(0.0, until - (now_ms / 1000 if now is None else now))


def http_date_ms(text: str | None) -> int | None:
    """Parse a ``Date`` header into ms since the Unix epoch, or None if unusable."""
    seconds = _http_date(text) if text is not None else None
    return None if seconds is None else round(seconds * 1000)


def _http_date(text: str) -> float | None:
    """Parse an IMF-fixdate into seconds since the Unix epoch, or return None."""
    # Imported here, because few replies have a date.
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - reason above

    if not text.endswith(" GMT"):
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError, TypeError):
        return None


strip_tracebacks(globals())
