"""What the operator's HTTP server refuses before any handler (docs/protocol.md 1.9).

The operator's is Netty, whose limits and answers differ from those of aiohttp: what
aiohttp would refuse by itself is let through to here as far as it goes.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import LineTooLong

from uid2_async.operator.exchange import Reply, as_latin1, bad_request, bare_status

__all__ = ["Runner", "refuse_early", "respond_bare"]

_MAX_LINE: Final = 4_096
_MAX_HEADERS: Final = 8_192
# How much aiohttp takes; the two differ so that its error tells which one it was.
_TAKEN_LINE: Final = 65_536
_TAKEN_HEADER: Final = 65_535

_TOO_LONG_LINE: Final = 414
_TOO_LONG_HEADERS: Final = 431
_NO_SUCH_VERSION: Final = 501

# RFC 3986's host, of which Vert.x looks at no more than this, and a port.
_AUTHORITY = re.compile(
    r"(?:\[[^\]][^\]]*\]|[A-Za-z0-9\-._~!$&'()*+,;=]*)(?::(?P<port>[0-9]*))?"
)
_PORTS = range(65_536)

# What aiohttp wants to see once; Netty takes the first of each.
_REPEATED = re.compile(
    rb"(content-location|content-range|content-type|etag|host|max-forwards|server"
    rb"|transfer-encoding|user-agent):",
    re.IGNORECASE,
)
_HEAD = re.compile(rb"[A-Z]+ [^\r\n]+ HTTP/1\.[01]\r\n.*?\r\n\r\n", re.DOTALL)


def refuse_early(http: web.BaseRequest) -> Reply | None:
    """Refuse another HTTP, what is too long, and a bad Host; None for no refusal."""
    if http.version not in {HttpVersion10, HttpVersion11}:
        return bare_status(_NO_SUCH_VERSION)
    line = len(http.method) + len(as_latin1(http.raw_path)) + len("  HTTP/1.1")
    if line > _MAX_LINE:
        return bare_status(_TOO_LONG_LINE)
    size = sum(len(name) + len(value) + 2 for name, value in http.raw_headers)
    if size > _MAX_HEADERS:
        return bare_status(_TOO_LONG_HEADERS)
    host = http.headers.get(hdrs.HOST)
    if http.version == HttpVersion11 and (host is None or not _is_authority(host)):
        return bad_request()
    return None


def _is_authority(text: str) -> bool:
    """Tell whether *text* is a host, possibly empty, and maybe a port."""
    found = _AUTHORITY.fullmatch(text)
    return found is not None and int((found["port"] or "0")[:6]) in _PORTS


def respond_bare(reply: Reply) -> web.Response:
    """Send a refusal, and close the connection."""
    response = web.Response(status=reply.status, body=reply.body)
    response.force_close()
    return response


class _Protocol(web.RequestHandler):
    """Reads requests as aiohttp does, and refuses them as Netty does."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Take in *data*, without the headers that Netty would not look at."""
        super().data_received(_without_repeated(data))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, or not be answered."""
        # It logs, and checks that nothing has been sent.
        super().handle_error(request, status, exc, message)
        if status == 500:  # noqa: PLR2004 - an HTTP status reads best as its number
            reply = Reply(status=status, body=b"Internal Server Error")
        elif isinstance(exc, LineTooLong):
            is_line = str(_TAKEN_LINE) in map(str, exc.args)
            reply = bare_status(_TOO_LONG_LINE if is_line else _TOO_LONG_HEADERS)
        elif message is not None and message.startswith("Missing 'Host'"):
            reply = bad_request()
        else:
            reply = bare_status(status)
        return respond_bare(reply)


def _without_repeated(data: bytes) -> bytes:
    """Take out of the head of a request what repeats a header that should be single.

    Heads that come in several pieces are left alone.
    """
    head = _HEAD.match(data)
    if head is None:
        return data
    seen: set[bytes] = set()
    lines = []
    for line in head[0].split(b"\r\n"):
        name = _REPEATED.match(line)
        if name is None or name[1].lower() not in seen:
            lines.append(line)
        if name is not None:
            seen.add(name[1].lower())
    return b"\r\n".join(lines) + data[head.end() :]


class _Server(web.Server):
    """Makes such protocols."""

    def __call__(self) -> web.RequestHandler:
        """Make a protocol for a new connection."""
        return _Protocol(
            self,
            loop=self._loop,
            **{
                **self._kwargs,
                "max_line_size": _TAKEN_LINE,
                "max_field_size": _TAKEN_HEADER,
                "max_headers": _MAX_HEADERS,
            },
        )


class Runner(web.AppRunner):
    """Runs an application on such a server."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        # aiohttp offers no other way to choose the protocol.
        server.__class__ = _Server
        return server
