"""What the content type of a request makes of its body (docs/protocol.md 1.2).

The operator's HTTP library (Vert.x on Netty) reads forms before anything else sees the
body, and decodes what is left by the charset of the content type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_plus

from uid2_async.operator.java_charsets import codec_of, decode
from uid2_async.protocol.java_text import trim
from uid2_async.protocol.refusal import RefusedError, text_error

__all__ = ["body_text", "is_form", "take_form"]

_FORM: Final = "application/x-www-form-urlencoded"
_MULTIPART: Final = "multipart/form-data"
_MAX_FIELDS: Final = 256
_MAX_VALUE_BYTES: Final = 8_192

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_NAME_END = re.compile(rb"[=&]")
_VALUE_END = re.compile(rb"&|\r?\n|\r")


def is_form(content_type: str) -> bool:
    """Tell whether the body is read as a form while it comes in."""
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
    """Tell whether Netty refuses a form: too many or too long fields, or a bad escape.

    Of the last field only name and size count: the rest would be found too late.
    """
    complete = 0
    for name, value, is_complete in _read_fields(body):
        complete += is_complete
        if (
            complete > _MAX_FIELDS
            or len(value) > _MAX_VALUE_BYTES
            or _is_bad_name(name)
            or (is_complete and _BAD_ESCAPE.search(value))
        ):
            return True
    return False


def _read_fields(body: bytes) -> Iterator[tuple[bytes, bytes, bool]]:
    """Read the fields of a form: name, value, and whether they have an end.

    The last name counts for nothing without an end, and nothing is read behind the end
    of a line. A field without a name stands for a line end that is none.
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
    """Tell whether a field cannot be called that."""
    if _BAD_ESCAPE.search(name):
        return True
    return not trim(unquote_plus(name.decode("utf-8", "replace")))


# --- charset --------------------------------------------------------------------------


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
    """Take a quote from each end, and all backslashes."""
    return value.removeprefix('"').removesuffix('"').replace("\\", "")
