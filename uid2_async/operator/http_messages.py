"""HTTP requests and replies as the operator's HTTP library parses and writes them.

The operator runs on Vert.x and Netty, which have their own rules for request targets,
forms, CORS headers and rejections (docs/protocol.md 1.2, 1.7 and 1.9). This module does
not depend on an HTTP library.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote_plus

import attrs

from uid2_async.operator.java import codec_of, decode_charset, trim
from uid2_async.protocol import wire
from uid2_async.protocol.tokens import VALIDATE_PATH

BINARY = "application/octet-stream"
TEXT = "text/plain"
JSON = "application/json"


def as_latin1(text: str) -> str:
    """Convert text that aiohttp decoded as UTF-8 to one character per byte."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


@attrs.frozen(kw_only=True)
class HttpRequest:
    """An HTTP request. The path has no repeated or trailing slashes."""

    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first *name* header as the operator reads it, or None.

        The operator decodes headers as Latin-1, whereas aiohttp decodes them as UTF-8.
        """
        value = self.headers.get(name)
        return None if value is None else as_latin1(value)

    @property
    def content_type(self) -> str:
        """The content type. Empty if there is none."""
        return self.header("Content-Type") or ""

    @property
    def binary(self) -> bool:
        """Whether the content type is exactly that of raw bytes, with no parameters."""
        return self.content_type.lower() == BINARY


@attrs.frozen(kw_only=True)
class HttpReply:
    """The reply to an HTTP request. No content type means that none is sent.

    The last four fields are notes for the call log: the name of the API key, whether
    the body is encrypted, the known keys of the request's JSON, and the number of
    identities or raw UIDs in it.
    """

    status: int
    content_type: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = attrs.field(default=b"", repr=False)
    client: str | None = None
    encrypted: bool = False
    keys: tuple[str, ...] = ()
    items: int = 0


class RefusedError(Exception):
    """A request that the operator rejects. Clients never see this class.

    *code* is ``status`` in the reply's JSON, or None for a plain-text reply. A 401 may
    have no *message*.
    """

    def __init__(self, status: int, code: str | None, message: str | None) -> None:
        """Store the parts of the reply."""
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message


def client_error(message: str) -> RefusedError:
    """Return a 400 ``client_error``."""
    return RefusedError(400, "client_error", message)


def unknown_error(message: str) -> RefusedError:
    """Return a 500 ``unknown``."""
    return RefusedError(500, "unknown", message)


def reply_error() -> RefusedError:
    """Return the error for a reply that cannot be built (docs/protocol.md 1.7)."""
    return RefusedError(500, "error", "")


def text_error() -> RefusedError:
    """Return the plain-text error of an uncaught exception (docs/protocol.md 1.9)."""
    return RefusedError(500, None, "Internal Server Error")


def reply_to_refusal(refusal: RefusedError) -> HttpReply:
    """Build an error reply, as JSON or as plain text (docs/protocol.md 1.7)."""
    if refusal.code is None:
        return HttpReply(status=refusal.status, body=(refusal.message or "").encode())
    fields = {"message": refusal.message, "status": refusal.code}
    if refusal.message is None:
        del fields["message"]
    return HttpReply(status=refusal.status, content_type=JSON, body=wire.encode(fields))


def encode_success(body: object) -> bytes:
    """Encode the JSON of a successful reply."""
    return wire.encode({"body": body, "status": "success"})


# The replies of the HTTP library itself (docs/protocol.md 1.6 and 1.9).
NOT_FOUND: Final = HttpReply(
    status=404,
    content_type="text/html; charset=utf-8",
    body=b"<html><body><h1>Resource not found</h1></body></html>",
)
BAD_REQUEST: Final = HttpReply(status=400, body=b"Bad Request")
EXPECTATION_FAILED: Final = HttpReply(status=417, body=b"Expectation Failed")
TOO_LONG: Final = HttpReply(status=413, body=b"Request Too Long")
SERVER_ERROR: Final = HttpReply(status=500, body=b"Internal Server Error")

_TARGET_ORIGIN = re.compile(r"[^/][^?]*?://[^/?]*")
_PATH_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_PATH_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


def read_target(target: str) -> tuple[str, HttpReply | None]:
    """Parse the target of a request line to a normalized path and None.

    A rejected target returns the path as received, and the reply.
    """
    path = _TARGET_ORIGIN.sub("", target, count=1) if target[:1] != "/" else target
    path = path.partition("?")[0] or ("/" if path != target else "")
    if path and path[0] != "/":
        return path, HttpReply(status=404, body=b"Not Found")
    if not path or _BAD_PATH_ESCAPE.search(path):
        return path, BAD_REQUEST
    return clean_path(path), None


def clean_path(path: str) -> str:
    """Decode needlessly escaped characters, and remove empty and dot segments.

    Follows RFC 3986 (6.2.2), except that it also removes empty segments and the
    trailing slash.
    """
    segments: list[str] = []
    for segment in _PATH_ESCAPE.sub(_unescape, path).split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    return "/" + "/".join(segments)


def _unescape(escape: re.Match[str]) -> str:
    """Decode an escape if its character need not be escaped."""
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0]


_METHODS = "GET,POST,OPTIONS"

_HEADERS = (
    "X-UID2-Client-Version,Access-Control-Request-Method,"
    "Access-Control-Allow-Credentials,Access-Control-Allow-Origin,"
    "Access-Control-Allow-Headers,Content-Type"
)

# Java's regular expressions treat this as a line end, so the operator's pattern for
# origins does not match it.
_NEXT_LINE = "\x85"


def answer_preflight(request: HttpRequest) -> HttpReply | None:
    """Answer a preflight request or a malformed Origin, or return None for any other.

    This applies to every method and path, even to unknown paths.
    """
    origin = request.header("Origin")
    if origin is None:
        return None
    if not origin or _NEXT_LINE in origin:
        return HttpReply(status=403, body=b"Forbidden")
    asked = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or asked is None:
        return None
    # token/validate has its own handler, which allows one more header.
    extra = ",Authorization" if request.path == VALIDATE_PATH else ""
    return HttpReply(
        status=204,
        headers={
            "Access-Control-Allow-Origin": request.headers["Origin"],
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS + extra,
        },
    )


def cors_headers(path: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Build the CORS headers of every reply, except that to a preflight request."""
    # Two handlers run for token/validate, and each adds its own word.
    found = {"Vary": "origin,origin" if path == VALIDATE_PATH else "origin"}
    origin = headers.get("Origin")
    if origin:
        found["Access-Control-Allow-Origin"] = origin
    return found


_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_MAX_FIELDS: Final = 256
_MAX_VALUE_BYTES: Final = 8_192
_BAD_FORM_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NAME_END = re.compile(rb"[=&]")
_VALUE_END = re.compile(rb"&|\r?\n|\r")


def is_form(content_type: str) -> bool:
    """Return whether the operator parses the body as a form while receiving it."""
    kind = content_type.lower()
    return kind.startswith(_FORM) or (
        kind.startswith(_MULTIPART) and _read_boundary(content_type) is None
    )


def check_form(content_type: str, body: bytes) -> bytes:
    """Validate a form, and return the *body* that remains: all of it, or nothing."""
    is_multipart = content_type.lower().startswith(_MULTIPART)
    if body and is_form(content_type) and _has_fault(body):
        raise RefusedError(400, None, "Bad Request")
    return b"" if is_multipart else body


def _read_boundary(content_type: str) -> str | None:
    """Return the boundary of a multipart body, or None if there is none."""
    parts = [trim(part) for part in content_type.split(";", 2)[1:]]
    boundary = next((one for one in parts if one.lower().startswith("boundary")), None)
    if boundary is None:
        return None
    _, has_value, value = boundary.partition("=")
    if not has_value or value in {"", '"'}:
        raise text_error()  # Netty fails on it.
    others = (one for one in parts if one is not boundary)
    charset = next(others, "").partition("=")
    if charset[0].lower().startswith("charset") and charset[1]:
        _find_codec(charset[2])
    return value


def _has_fault(body: bytes) -> bool:
    """Return whether Netty rejects a form: too many or long fields, or a bad escape.

    Of the last field, only the name and the size count.
    """
    complete = 0
    for name, value, is_complete in _read_fields(body):
        complete += is_complete
        if (
            complete > _MAX_FIELDS
            or len(value) > _MAX_VALUE_BYTES
            or _BAD_FORM_ESCAPE.search(name)
            or not trim(unquote_plus(name.decode("utf-8", "replace")))
            or (is_complete and _BAD_FORM_ESCAPE.search(value))
        ):
            return True
    return False


def _read_fields(body: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Yield the name and value of each field, and whether the field is terminated.

    The last name is ignored if it is not terminated, and nothing is read after a line
    end. An empty name stands for a stray carriage return.
    """
    at = 0
    while (mark := _NAME_END.search(body, at)) is not None:
        name, at = body[at : mark.start()], mark.end()
        if mark[0] == b"&":
            if name:
                yield name, b"", True
            continue
        end = _VALUE_END.search(body, at)
        value = body[at : end.start() if end else None]
        if end is None or (end[0] == b"\r" and end.end() == len(body)):
            yield name, value, False
            return
        yield name if end[0] != b"\r" else b"", value, True
        if end[0] != b"&":
            return
        at = end.end()


def body_text(content_type: str, body: bytes) -> bytes:
    """Decode a *body* with the charset of its content type, and encode it as UTF-8."""
    name = _read_parameters(content_type).get("charset")
    if name is None or not body:
        return body
    codec = _find_codec(name)
    if codec == "utf_8":
        return body
    return decode_charset(body, codec).encode("utf-8", "replace")


def _find_codec(name: str) -> str:
    """Find Python's codec for a charset of Java."""
    codec = codec_of(name)
    if codec is None:
        raise text_error()
    return codec


def _read_parameters(content_type: str) -> dict[str, str]:
    """Parse parameters like Vert.x: names are case-sensitive, and the last one wins."""
    _, _, rest = content_type.partition(";")
    pairs = (part.partition("=") for part in _split(rest))
    # Vert.x reads q as a weight.
    values = {name: value for name, _, value in pairs if name.lower() != "q"}
    if '"' in values.values():
        raise text_error()  # Vert.x fails on a single quote character.
    return {
        name: value.removeprefix('"').removesuffix('"').replace("\\", "")
        for name, value in values.items()
    }


def _split(text: str) -> Iterator[str]:
    """Split at semicolons outside quotes, strip spaces, and skip empty parts.

    A quote counts unless it follows a backslash, both inside and outside quotes.
    """
    start = 0
    is_quoted = False
    last = " "
    for at, char in enumerate(text + ";"):
        is_end = at == len(text)
        if char == '"' and last != "\\":
            is_quoted = not is_quoted
        if is_end or (char == ";" and not is_quoted):
            if part := text[start:at].strip(" "):
                yield part
            start = at + 1
        last = char
