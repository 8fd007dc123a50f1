"""HTTP requests and replies as the operator's HTTP library reads and writes them.

The operator runs on Vert.x and Netty, which read request targets and forms, add CORS
headers and refuse by rules of their own (docs/protocol.md 1.2, 1.7 and 1.9). Nothing
here depends on an HTTP library.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote_plus

import attrs

from uid2_async.operator.java_charsets import codec_of, decode
from uid2_async.operator.java_text import trim
from uid2_async.protocol import wire
from uid2_async.protocol.tokens import VALIDATE_PATH

BINARY = "application/octet-stream"
TEXT = "text/plain"
JSON = "application/json"


def as_latin1(text: str) -> str:
    """Return text read by aiohttp with one character for each byte."""
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


@attrs.frozen(kw_only=True)
class Request:
    """An HTTP request.

    Attributes:
        method: The method.
        path: The path, without double and trailing slashes.
        headers: The headers; looking them up ignores letter case.
        body: The body.
    """

    method: str
    path: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header of that *name* as the operator reads it, or None.

        It takes each byte for one character, whereas aiohttp decodes UTF-8.
        """
        value = self.headers.get(name)
        return None if value is None else as_latin1(value)

    @property
    def content_type(self) -> str:
        """The content type, empty if there is none."""
        return self.header("Content-Type") or ""

    @property
    def binary(self) -> bool:
        """Whether the body is declared as raw bytes: the bare type, no parameters."""
        return self.content_type.lower() == BINARY


@attrs.frozen(kw_only=True)
class Reply:
    """The answer to an HTTP request.

    Attributes:
        status: The HTTP status.
        content_type: The content type, None for no such header.
        headers: Further headers.
        body: The body.
        client: The name of the API key that was used.
        sealed: Whether the body is sealed.
        keys: The known keys of the request's JSON.
        items: How many identities or raw UIDs the request named.
    """

    status: int
    content_type: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = attrs.field(default=b"", repr=False)
    client: str | None = None
    sealed: bool = False
    keys: tuple[str, ...] = ()
    items: int = 0


class RefusedError(Exception):
    """A request that the operator refuses.

    The operator raises and answers it; the client never sees this class.

    Attributes:
        status: The HTTP status.
        code: The status word, or None for a plain-text answer.
        message: The message; None if there is none (401).
    """

    def __init__(self, status: int, code: str | None, message: str | None) -> None:
        """Keep what to answer."""
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message


def client_error(message: str) -> RefusedError:
    """Refuse with 400 ``client_error``."""
    return RefusedError(400, "client_error", message)


def unknown_error(message: str) -> RefusedError:
    """Refuse with 500 ``unknown``."""
    return RefusedError(500, "unknown", message)


def reply_error() -> RefusedError:
    """Refuse because the reply cannot be built (docs/protocol.md 1.7)."""
    return RefusedError(500, "error", "")


def text_error() -> RefusedError:
    """Refuse with the plain text of an uncaught exception (docs/protocol.md 1.9)."""
    return RefusedError(500, None, "Internal Server Error")


def reply_to_refusal(refusal: RefusedError) -> Reply:
    """Answer a refusal: JSON, or plain text without a type (docs/protocol.md 1.7)."""
    if refusal.code is None:
        return Reply(status=refusal.status, body=(refusal.message or "").encode())
    fields = {"message": refusal.message, "status": refusal.code}
    if refusal.message is None:
        del fields["message"]
    return Reply(status=refusal.status, content_type=JSON, body=wire.encode(fields))


def not_found() -> Reply:
    """Answer an unknown path (docs/protocol.md 1.9)."""
    return Reply(
        status=404,
        content_type="text/html; charset=utf-8",
        body=b"<html><body><h1>Resource not found</h1></body></html>",
    )


def no_method(allowed: str) -> Reply:
    """Answer a known path with the wrong method (docs/protocol.md 1.9)."""
    return Reply(status=405, headers={"Allow": allowed})


def bad_request() -> Reply:
    """Answer what is not an HTTP request (docs/protocol.md 1.6 and 1.9)."""
    return Reply(status=400, body=b"Bad Request")


def unexpected() -> Reply:
    """Answer an expectation that is not known (docs/protocol.md 1.9)."""
    return Reply(status=417, body=b"Expectation Failed")


def too_long() -> Reply:
    """Answer a body over the limit (docs/protocol.md 1.9)."""
    return Reply(status=413, body=b"Request Too Long")


_TARGET_ORIGIN = re.compile(r"[^/][^?]*?://[^/?]*")
_PATH_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_BAD_PATH_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(string.ascii_letters + string.digits + "-._~")


def read_target(target: str) -> tuple[str, Reply | None]:
    """Read the target of a request: its path, and what is wrong with it.

    Args:
        target: The part of the request line between method and version.

    Returns:
        The path, cleaned, and None; or the path as it is, and the refusal.
    """
    path = _TARGET_ORIGIN.sub("", target, count=1) if target[:1] != "/" else target
    path = path.partition("?")[0] or ("/" if path != target else "")
    if path and path[0] != "/":
        return path, Reply(status=404, body=b"Not Found")
    if not path or _BAD_PATH_ESCAPE.search(path):
        return path, bad_request()
    return clean_path(path), None


def clean_path(path: str) -> str:
    """Decode what need not be escaped, and take out empty and dotted segments.

    So does RFC 3986 (6.2.2), except for empty segments and the slash at the end.
    """
    segments: list[str] = []
    for segment in _PATH_ESCAPE.sub(_unescape, path).split("/"):
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    return "/" + "/".join(segments)


def _unescape(escape: re.Match[str]) -> str:
    """Decode one escape, if it stands for what need not be escaped."""
    char = chr(int(escape[1], 16))
    return char if char in _UNRESERVED else escape[0]


_METHODS = "GET,POST,OPTIONS"

_HEADERS = (
    "X-UID2-Client-Version,Access-Control-Request-Method,"
    "Access-Control-Allow-Credentials,Access-Control-Allow-Origin,"
    "Access-Control-Allow-Headers,Content-Type"
)

# A line end of Java's regular expressions, on which the operator's pattern for origins
# does not match.
_NEXT_LINE = "\x85"


def answer_early(request: Request) -> Reply | None:
    """Answer a preflight request, or one with an impossible Origin; else give None.

    So it is with any method and path, whether there is such an endpoint or not.
    """
    origin = request.header("Origin")
    if origin is None:
        return None
    if not origin or _NEXT_LINE in origin:
        return Reply(status=403, body=b"Forbidden")
    asked = request.headers.get("Access-Control-Request-Method")
    if request.method != "OPTIONS" or asked is None:
        return None
    # token/validate has a handler of its own, which allows one header more.
    extra = ",Authorization" if request.path == VALIDATE_PATH else ""
    return Reply(
        status=204,
        headers={
            "Access-Control-Allow-Origin": request.headers["Origin"],
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS + extra,
        },
    )


def cors_headers(path: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Make the headers of every answer but that to a preflight request."""
    # On token/validate two handlers run, and each adds its word.
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
    """Return whether the body is read as a form while it comes in."""
    kind = content_type.lower()
    return kind.startswith(_FORM) or (
        kind.startswith(_MULTIPART) and _read_boundary(content_type) is None
    )


def take_form(content_type: str, body: bytes) -> bytes:
    """Read a form, and give what is left of the *body*: all of it, or nothing.

    Raises:
        RefusedError: 400, if the form has a fault; 500, if the content type has.
    """
    is_multipart = content_type.lower().startswith(_MULTIPART)
    if body and is_form(content_type) and _has_fault(body):
        raise RefusedError(400, None, "Bad Request")
    return b"" if is_multipart else body


def _read_boundary(content_type: str) -> str | None:
    """Read the boundary of a multipart body; without one it is read as a form.

    Raises:
        RefusedError: If there is one that Netty fails on, or a charset.
    """
    parts = [trim(part) for part in content_type.split(";", 2)[1:]]
    boundary = next((one for one in parts if one.lower().startswith("boundary")), None)
    if boundary is None:
        return None
    _, has_value, value = boundary.partition("=")
    if not has_value or value in {"", '"'}:
        raise text_error()
    others = (one for one in parts if one is not boundary)
    charset = next(others, "").partition("=")
    if charset[0].lower().startswith("charset") and charset[1]:
        _find_codec(charset[2])
    return value


def _has_fault(body: bytes) -> bool:
    """Return whether Netty rejects a form: many or long fields, or a bad escape.

    Of the last field only name and size count: the rest would be found too late.
    """
    complete = 0
    for name, value, is_complete in _read_fields(body):
        complete += is_complete
        if (
            complete > _MAX_FIELDS
            or len(value) > _MAX_VALUE_BYTES
            or _is_bad_name(name)
            or (is_complete and _BAD_FORM_ESCAPE.search(value))
        ):
            return True
    return False


def _read_fields(body: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Read the fields of a form: name, value, and whether they have an end.

    The last name does not count without an end, and nothing is read after the end of a
    line. A field without a name stands for a stray carriage return.
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


def _is_bad_name(name: bytes) -> bool:
    """Return whether a field cannot be called that."""
    if _BAD_FORM_ESCAPE.search(name):
        return True
    return not trim(unquote_plus(name.decode("utf-8", "replace")))


def body_text(content_type: str, body: bytes) -> bytes:
    """Decode a *body* by the charset of its content type, and encode it as UTF-8.

    Raises:
        RefusedError: If Java does not know the charset.
    """
    name = _read_parameters(content_type).get("charset")
    if name is None or not body:
        return body
    codec = _find_codec(name)
    return body if codec == "utf_8" else decode(body, codec).encode("utf-8", "replace")


def _find_codec(name: str) -> str:
    """Find Python's codec for a charset.

    Raises:
        RefusedError: If Java does not know it.
    """
    codec = codec_of(name)
    if codec is None:
        raise text_error()
    return codec


def _read_parameters(content_type: str) -> dict[str, str]:
    """Read the parameters as Vert.x does: names keep their case, the last one wins.

    Raises:
        RefusedError: If a value is a lone quote, on which Vert.x fails.
    """
    _, _, rest = content_type.partition(";")
    pairs = (part.partition("=") for part in _split(rest))
    # It reads q as a weight.
    values = {name: value for name, _, value in pairs if name.lower() != "q"}
    if '"' in values.values():
        raise text_error()
    return {name: _unquote(value) for name, value in values.items()}


def _split(text: str) -> Iterator[str]:
    """Split at semicolons outside of quotes; spaces around, and nothing, are left out.

    A quote counts unless a backslash stands before it, inside of quotes or not.
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


def _unquote(value: str) -> str:
    """Remove a quote from each end, and all backslashes."""
    return value.removeprefix('"').removesuffix('"').replace("\\", "")
