"""An HTTP request and its answer, without any HTTP library."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from uid2_async.protocol import wire
from uid2_async.protocol.refusal import RefusedError

__all__ = [
    "Reply",
    "Request",
    "as_latin1",
    "bad_request",
    "bare_status",
    "no_method",
    "not_found",
    "refused",
    "too_long",
    "unexpected",
    "unrooted",
]

BINARY = "application/octet-stream"
TEXT = "text/plain"
JSON = "application/json"


def as_latin1(text: str) -> str:
    """Take each byte of what aiohttp has read for one character."""
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
        """Give the first header of that *name* as the operator reads it, or None.

        It takes each byte for one character, whereas aiohttp decodes UTF-8.
        """
        value = self.headers.get(name)
        return None if value is None else as_latin1(value)

    @property
    def content_type(self) -> str:
        """The content type, empty where there is none."""
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


def refused(refusal: RefusedError) -> Reply:
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
    """Answer what is no request to the HTTP server (docs/protocol.md 1.6 and 1.9)."""
    return Reply(status=400, body=b"Bad Request")


def unrooted() -> Reply:
    """Answer a path that does not begin with a slash (docs/protocol.md 1.9)."""
    return Reply(status=404, body=b"Not Found")


def bare_status(status: int) -> Reply:
    """Answer what the HTTP server refuses by itself (docs/protocol.md 1.9)."""
    return Reply(status=status)


def unexpected() -> Reply:
    """Answer an expectation that is not known (docs/protocol.md 1.9)."""
    return Reply(status=417, body=b"Expectation Failed")


def too_long() -> Reply:
    """Answer a body over the limit (docs/protocol.md 1.9)."""
    return Reply(status=413, body=b"Request Too Long")
