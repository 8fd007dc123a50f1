"""The operator as an HTTP server of aiohttp (docs/protocol.md 1.6, 1.9)."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping
from email.utils import formatdate
from time import perf_counter
from typing import Final

import attrs
from aiohttp import HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import LineTooLong

from uid2_async._private import access_logger, http_logger, logger
from uid2_async.operator import dispatch
from uid2_async.operator.console.console import Console
from uid2_async.operator.http_messages import (
    BAD_REQUEST,
    EXPECTATION_FAILED,
    SERVER_ERROR,
    TOO_LONG,
    HttpReply,
    HttpRequest,
    answer_preflight,
    as_latin1,
    cors_headers,
    is_form,
    read_target,
)
from uid2_async.operator.indexes import DataIndex
from uid2_async.operator.state import NO_FAULT, Fault, OperatorState, RecordedCall

_MAX_BODY: Final = 1_048_576
_CONTINUE: Final = "100-continue"


def _log_access(request: HttpRequest, reply: HttpReply, took: float) -> None:
    """Log a request. An unknown path is not logged, because it may contain anything."""
    known = reply.status != 404  # noqa: PLR2004 - Not Found
    access_logger.info(
        "%(method)s %(path)s %(status)d %(ms).1f ms",
        {
            "method": request.method,
            "path": request.path if known else "-",
            "status": reply.status,
            "ms": took * 1000,
        },
    )


def _strip_content(record: logging.LogRecord) -> bool:
    """Log only the type of an error, because its text can quote the request."""
    if record.exc_info and record.exc_info[0]:
        record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
    record.exc_info = record.exc_text = None
    return True


http_logger.addFilter(_strip_content)


def make_runner(
    index: DataIndex, state: OperatorState, console: Console | None = None
) -> web.ServerRunner:
    """Create the server that answers from *index*, with the *console* if given."""
    server = _Server(
        Handler(index, state, console).handle,
        access_log=None,
        auto_decompress=False,
        logger=http_logger,
        max_line_size=_PARSER_MAX_LINE,
        max_field_size=_PARSER_MAX_HEADER,
        max_headers=_MAX_HEADERS,
    )
    return web.ServerRunner(server, shutdown_timeout=_GRACE_SECONDS)


class Handler:
    """Answers every request that can be parsed."""

    def __init__(
        self, index: DataIndex, state: OperatorState, console: Console | None = None
    ) -> None:
        """Answer from *index*, with the *console* if given."""
        self._index = index
        self._state = state
        self._console = console

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and count it as in flight until then."""
        await _continue(http)
        path, refusal = read_target(as_latin1(http.raw_path))
        request = HttpRequest(method=http.method, path=path, headers=http.headers)
        if self._console is not None and self._console.owns(http.method, path):
            body = await _read_body(http)
            return _make_response(self._console.answer(request, body))
        refusal = refuse_malformed(http) or refusal
        with self._state.answering() as resets:
            return await self._handle(http, request, refusal, resets=resets)

    async def _handle(
        self,
        http: web.BaseRequest,
        request: HttpRequest,
        refusal: HttpReply | None,
        *,
        resets: int,
    ) -> web.StreamResponse:
        """Answer one request, with *refusal* if it is not None, and record the call."""
        started = perf_counter()
        due = http.method == hdrs.METH_POST
        injected = self._state.take_fault(request.path) if due else None
        fault = injected or NO_FAULT
        now_ms = self._state.now_ms() + round(fault.clock_offset * 1000)
        if fault.status is not None:
            request = attrs.evolve(request, body=await _read_body(http) or b"")
            reply = _scripted(fault, fault.status)
        elif refusal is not None:
            reply = refusal
        else:
            request, reply = await self._reply(http, request, now_ms, fault)
        reply = _with_headers(reply, fault.headers)
        if fault.date:
            date = formatdate(now_ms / 1000, usegmt=True)
            reply = attrs.evolve(reply, headers={**reply.headers, hdrs.DATE: date})
        if fault.delay:
            await asyncio.sleep(fault.delay)
        call = _call(request, reply, injected)
        recorded = self._state.record(call, resets=resets)
        took = perf_counter() - started
        _log_access(request, reply, took)
        if recorded and self._console is not None:
            self._console.record(call, request, reply, now_ms=now_ms, took=took)
        return await _respond(http, reply, fault)

    async def _reply(
        self, http: web.BaseRequest, request: HttpRequest, now_ms: int, fault: Fault
    ) -> tuple[HttpRequest, HttpReply]:
        """Read the body and answer, in the order of docs/protocol.md 1.6."""
        early = answer_preflight(request)
        if early is not None:
            return request, early
        endpoint = dispatch.find(request.method, request.path, self._index.settings)
        if isinstance(endpoint, HttpReply):
            reply = endpoint
        elif (refusal := _refuse_body(http)) is not None:
            reply = refusal
        elif (body := await _read_body(http)) is None:
            reply = BAD_REQUEST if is_form(request.content_type) else TOO_LONG
        else:
            request = attrs.evolve(request, body=body)
            reply = self._answer(endpoint, request, now_ms, fault)
        return request, _with_headers(
            reply, cors_headers(request.path, request.headers)
        )

    def _answer(
        self, endpoint: dispatch.Route, request: HttpRequest, now_ms: int, fault: Fault
    ) -> HttpReply:
        """Answer, or return a 500 like the real operator on an unexpected exception."""
        try:
            return dispatch.answer(
                self._index, endpoint, request, now_ms=now_ms, fault=fault
            )
        except ImportError as error:
            # An extra is not installed. The message names it.
            logger.error("The embedded operator cannot answer: %s", error)
        except Exception as error:  # noqa: BLE001 - the real operator answers 500 as well
            # Log neither the message nor the traceback: they could contain request
            # data.
            logger.error(
                "The embedded operator failed on %s: %s",
                request.path,
                type(error).__name__,
            )
        return SERVER_ERROR


async def _continue(http: web.BaseRequest) -> None:
    """Send ``100 Continue`` if the client asks for it; check other values later."""
    expected = http.headers.get(hdrs.EXPECT, "").lower()
    if expected == _CONTINUE and http.version != HttpVersion10:
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # aiohttp would otherwise count these bytes as part of the response.
        http.writer.output_size = 0


def _refuse_body(http: web.BaseRequest) -> HttpReply | None:
    """Reject a body by its headers before it is read, or return None."""
    if http.method != hdrs.METH_POST or not http.can_read_body:
        return None
    if (http.content_length or 0) > _MAX_BODY:
        return TOO_LONG
    expected = http.headers.get(hdrs.EXPECT, _CONTINUE)
    return None if expected.lower() == _CONTINUE else EXPECTATION_FAILED


async def _read_body(http: web.BaseRequest) -> bytes | None:
    """Read the body, or return None if it is over the limit."""
    if (http.content_length or 0) > _MAX_BODY:
        return None
    body = bytearray()
    async for piece in http.content.iter_any():
        body += piece
        if len(body) > _MAX_BODY:
            return None
    return bytes(body)


def _scripted(fault: Fault, status: int) -> HttpReply:
    """Return the reply that *fault* scripts, as if from a gateway."""
    body = fault.body.encode() if isinstance(fault.body, str) else fault.body
    again = fault.retry_after
    return HttpReply(
        status=status,
        content_type=fault.content_type,
        headers={} if again is None else {"Retry-After": str(again)},
        body=body,
    )


def _with_headers(reply: HttpReply, headers: Mapping[str, str]) -> HttpReply:
    """Add *headers* to *reply*."""
    return attrs.evolve(reply, headers={**headers, **reply.headers})


def _call(request: HttpRequest, reply: HttpReply, fault: Fault | None) -> RecordedCall:
    """Build the record of a call, without personal data, tokens or keys."""
    # Every value can be printed, even if its bytes are not UTF-8.
    headers = {
        name.lower(): value if value.isprintable() else as_latin1(value)
        for name, value in request.headers.items()
        if name.lower() != "authorization"
    }
    return RecordedCall(
        method=request.method,
        path=request.path,
        status=0 if fault is not None and fault.drop else reply.status,
        client=reply.client,
        trace_id=headers.get("uid-trace-id"),
        client_version=headers.get("x-uid2-client-version"),
        binary=request.binary,
        encrypted=reply.encrypted,
        keys=reply.keys,
        items=reply.items,
        size=len(request.body),
        headers=headers,
        fault=fault,
    )


async def _respond(
    http: web.BaseRequest, reply: HttpReply, fault: Fault
) -> web.StreamResponse:
    """Send *reply*, or truncate it or close the connection if the fault says so."""
    response = _make_response(reply, fault.cut_after)
    if fault.drop or fault.cut_after is not None:
        if not fault.drop:
            await response.prepare(http)
            await response.write_eof()
        if http.transport is not None:
            http.transport.close()  # after what has been written
    return response


def _make_response(reply: HttpReply, cut_after: int | None = None) -> web.Response:
    """Build a response, which announces the whole body even if it is cut."""
    # aiohttp cannot send header bytes that are not UTF-8.
    headers = {
        name: value.encode("utf-8", "ignore").decode()
        for name, value in reply.headers.items()
    }
    if reply.content_type is not None:
        headers[hdrs.CONTENT_TYPE] = reply.content_type
    if cut_after is not None:
        headers[hdrs.CONTENT_LENGTH] = str(len(reply.body))
    return _Response(status=reply.status, headers=headers, body=reply.body[:cut_after])


class _Response(web.Response):
    """A response without the headers that aiohttp adds on its own."""

    async def _prepare_headers(self) -> None:
        names = (hdrs.SERVER, hdrs.DATE, hdrs.CONTENT_TYPE)
        absent = [name for name in names if name not in self.headers]
        await super()._prepare_headers()
        for name in absent:
            self.headers.popall(name, None)


# Long enough to finish writing a response, but not for a scripted delay.
_GRACE_SECONDS: Final = 0.05

_MAX_LINE: Final = 4_096
_MAX_HEADERS: Final = 8_192

# The limits passed to aiohttp. They differ, so that its error shows which one was
# exceeded.
_PARSER_MAX_LINE: Final = 65_536
_PARSER_MAX_HEADER: Final = 65_535
_TOO_LONG_LINE: Final = 414
_TOO_LONG_HEADERS: Final = 431
_NO_SUCH_VERSION: Final = 501

# A host as in RFC 3986, as far as Vert.x checks it, and an optional port. It may be
# empty.
_AUTHORITY = re.compile(
    r"(?:\[[^\]][^\]]*\]|[A-Za-z0-9\-._~!$&'()*+,;=]*)(?::(?P<port>[0-9]*))?"
)

_PORTS = range(65_536)

# aiohttp rejects a request that repeats one of these headers. Netty uses the first.
_REPEATED = re.compile(
    rb"(content-location|content-range|content-type|etag|host|max-forwards|server"
    rb"|transfer-encoding|user-agent):",
    re.IGNORECASE,
)

_HEAD = re.compile(rb"[A-Z]+ [^\r\n]+ HTTP/1\.[01]\r\n.*?\r\n\r\n", re.DOTALL)


def refuse_malformed(http: web.BaseRequest) -> HttpReply | None:
    """Reject a bad HTTP version, a long head or a bad Host, or return None."""
    if http.version not in {HttpVersion10, HttpVersion11}:
        return HttpReply(status=_NO_SUCH_VERSION)
    line = len(http.method) + len(as_latin1(http.raw_path)) + len("  HTTP/1.1")
    if line > _MAX_LINE:
        return HttpReply(status=_TOO_LONG_LINE)
    size = sum(len(name) + len(value) + 2 for name, value in http.raw_headers)
    if size > _MAX_HEADERS:
        return HttpReply(status=_TOO_LONG_HEADERS)
    if http.version == HttpVersion11:
        host = _AUTHORITY.fullmatch(http.headers.get(hdrs.HOST, "/"))
        if host is None or int((host["port"] or "0")[:6]) not in _PORTS:
            return BAD_REQUEST
    return None


class _HttpProtocol(web.RequestHandler):
    """Parses requests as aiohttp does, and rejects them as Netty does."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """Receive *data* without the repeated headers that Netty ignores."""
        super().data_received(_without_repeated(data))

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a request that could not be parsed or handled."""
        # The base class logs the error and checks that nothing has been sent.
        super().handle_error(request, status, exc, message)
        if status == 500:  # noqa: PLR2004 - an HTTP status reads best as its number
            reply = SERVER_ERROR
        elif isinstance(exc, LineTooLong):
            is_line = str(_PARSER_MAX_LINE) in map(str, exc.args)
            reply = HttpReply(status=_TOO_LONG_LINE if is_line else _TOO_LONG_HEADERS)
        elif message is not None and message.startswith("Missing 'Host'"):
            reply = BAD_REQUEST
        else:
            reply = HttpReply(status=status)
        response = _make_response(reply)
        response.force_close()
        return response


def _without_repeated(data: bytes) -> bytes:
    """Remove repeats of headers that may occur only once from the head of a request.

    A head that arrives in several pieces is not changed.
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
    """Creates a ``_HttpProtocol`` for each connection."""

    def __call__(self) -> web.RequestHandler:
        """Create the protocol for a new connection."""
        return _HttpProtocol(self, loop=self._loop, **self._kwargs)
