"""The operator as an aiohttp.web application (docs/protocol.md 1.6 and 1.9)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from email.utils import formatdate
from time import perf_counter
from typing import Final

import attrs
from aiohttp import HttpVersion10, hdrs, web

from uid2_async._log import access_logger, http_logger, logger
from uid2_async.operator import dispatch, routes
from uid2_async.operator.console.console import Console
from uid2_async.operator.content_type import is_form
from uid2_async.operator.cors import answer_early, cors_headers
from uid2_async.operator.exchange import (
    Reply,
    Request,
    as_latin1,
    bad_request,
    too_long,
    unexpected,
)
from uid2_async.operator.faults import Fault
from uid2_async.operator.http_server import refuse_early
from uid2_async.operator.state import Call, OperatorState
from uid2_async.operator.world import World

__all__ = ["http_log", "make_app"]

_MAX_BODY: Final = 1_048_576
_CONTINUE: Final = "100-continue"

http_log: logging.Logger = http_logger
"""For the runner: what aiohttp cannot read or handle, without any content."""


def _log_access(request: Request, reply: Reply, took: float) -> None:
    """Write a request to the access log; a path that is not ours may hold anything."""
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


def _forget(record: logging.LogRecord) -> bool:
    """Keep the kind of an error alone: its text can quote the request."""
    if record.exc_info and record.exc_info[0]:
        record.msg = f"{record.msg}: {record.exc_info[0].__name__}"
    record.exc_info = record.exc_text = None
    return True


http_log.addFilter(_forget)


def make_app(
    world: World, state: OperatorState, console: Console | None = None
) -> web.Application:
    """Make the application that answers from *world*, with a console if one is given.

    Give its runner ``auto_decompress=False``: an operator takes bodies as they come.
    """
    handler = _Handler(world, state, console)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler.handle, expect_handler=_continue)
    app.on_response_prepare.append(_strip)
    return app


async def _continue(http: web.Request) -> None:
    """Let the client send its body; what else it may expect is judged later."""
    expected = http.headers.get(hdrs.EXPECT, "").lower()
    if expected == _CONTINUE and http.version != HttpVersion10:
        await http.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        # Reset the size, because it is taken for that of the answer.
        http.writer.output_size = 0


class _Whole(web.Response):
    """An answer that remembers which headers it was given."""

    kept: frozenset[str] = frozenset()


class _Cut(web.StreamResponse):
    """An answer that ends too early."""

    kept: frozenset[str] = frozenset()


async def _strip(_request: web.Request, response: web.StreamResponse) -> None:
    """Take out the headers that aiohttp adds by itself."""
    kept = response.kept if isinstance(response, _Whole | _Cut) else frozenset()
    for name in (hdrs.SERVER, hdrs.DATE, hdrs.CONTENT_TYPE):
        if name not in kept:
            response.headers.popall(name, None)


class _Handler:
    """Answers every request."""

    def __init__(
        self, world: World, state: OperatorState, console: Console | None
    ) -> None:
        self._world = world
        self._state = state
        self._console = console

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """Answer one request, counted as in flight meanwhile."""
        path, refusal = routes.read_target(as_latin1(http.raw_path))
        if self._console is not None and self._console.owns(http.method, path):
            return await _show(self._console, http, path)
        with self._state.answering():
            return await self._handle(http, path, refuse_early(http) or refusal)

    async def _handle(
        self, http: web.Request, path: str, refusal: Reply | None
    ) -> web.StreamResponse:
        """Answer one request, with *refusal* if there is one, and note the call."""
        began = perf_counter()
        resets = self._state.resets
        due = http.method == hdrs.METH_POST
        fault = self._state.take_fault(path) if due else None
        request = Request(method=http.method, path=path, headers=http.headers)
        now_ms = self._state.now_ms()
        if fault is not None:
            now_ms += round(fault.clock_offset * 1000)
        if refusal is not None and (fault is None or fault.status is None):
            reply = refusal
        else:
            request, reply = await self._reply(http, request, now_ms, fault)
        if fault is not None:
            await asyncio.sleep(fault.delay)
            reply = _with_headers(reply, _fault_headers(fault, now_ms))
        call = _call(request, reply, fault)
        recorded = self._state.record(call, resets=resets)
        took = perf_counter() - began
        _log_access(request, reply, took)
        if recorded and self._console is not None:
            self._console.record(call, request, reply, now_ms=now_ms, took=took)
        return await _respond(http, reply, fault)

    async def _reply(
        self, http: web.Request, request: Request, now_ms: int, fault: Fault | None
    ) -> tuple[Request, Reply]:
        """Read the body and answer, in the order of docs/protocol.md 1.6."""
        if fault is not None and fault.status is not None:
            return await _with_body(http, request) or request, _scripted(fault)
        early = answer_early(request)
        if early is not None:
            return request, early
        endpoint = routes.find(request.method, request.path, self._world.settings)
        if isinstance(endpoint, Reply):
            reply = endpoint
        elif (refusal := _refuse_body(http, request)) is not None:
            reply = refusal
        elif (whole := await _with_body(http, request)) is None:
            reply = _refuse_stream(request)
        else:
            request = whole
            reply = self._answer(endpoint, request, now_ms, fault)
        return request, _with_headers(
            reply, cors_headers(request.path, request.headers)
        )

    def _answer(
        self,
        endpoint: routes.Endpoint,
        request: Request,
        now_ms: int,
        fault: Fault | None,
    ) -> Reply:
        """Answer, or fail as the real operator does on what it did not foresee."""
        try:
            return dispatch.answer(
                self._world, endpoint, request, now_ms=now_ms, fault=fault
            )
        except ImportError as error:
            # A missing extra: the message names it.
            logger.error("The embedded operator cannot answer: %s", error)
        except Exception as error:  # noqa: BLE001 - the real one answers 500 as well
            # Neither message nor traceback: they could hold what was sent.
            logger.error(
                "The embedded operator failed on %s: %s",
                request.path,
                type(error).__name__,
            )
        return Reply(status=500, body=b"Internal Server Error")


async def _show(console: Console, http: web.Request, path: str) -> web.StreamResponse:
    """Answer a request of the console's page; it is no call."""
    request = Request(method=http.method, path=path, headers=http.headers)
    whole = await _with_body(http, request)
    return await _respond(http, console.answer(whole) if whole else too_long(), None)


def _refuse_body(http: web.Request, request: Request) -> Reply | None:
    """Refuse a body before it is read, by what the headers say; None for no refusal."""
    if request.method != hdrs.METH_POST or not http.can_read_body:
        return None
    if (http.content_length or 0) > _MAX_BODY:
        return too_long()
    expected = http.headers.get(hdrs.EXPECT, _CONTINUE)
    return None if expected.lower() == _CONTINUE else unexpected()


def _refuse_stream(request: Request) -> Reply:
    """Refuse a body that has turned out to be over the limit while it was read."""
    return bad_request() if is_form(request.content_type) else too_long()


async def _with_body(http: web.Request, request: Request) -> Request | None:
    """Read the body of *request*, or return None where it is over the limit."""
    if (http.content_length or 0) > _MAX_BODY:
        return None
    pieces = []
    size = 0
    async for piece in http.content.iter_any():
        size += len(piece)
        if size > _MAX_BODY:
            return None
        pieces.append(piece)
    return attrs.evolve(request, body=b"".join(pieces))


def _scripted(fault: Fault) -> Reply:
    """Answer as a fault says, like something in front of the operator."""
    body = fault.body.encode() if isinstance(fault.body, str) else fault.body
    again = fault.retry_after
    return Reply(
        status=fault.status or 0,
        content_type=fault.content_type,
        headers={} if again is None else {"Retry-After": str(again)},
        body=body,
    )


def _fault_headers(fault: Fault, now_ms: int) -> dict[str, str]:
    """Make the headers that a fault adds."""
    headers = dict(fault.headers)
    if fault.date:
        headers[hdrs.DATE] = formatdate(now_ms / 1000, usegmt=True)
    return headers


def _with_headers(reply: Reply, headers: Mapping[str, str]) -> Reply:
    """Add *headers* to *reply*."""
    return attrs.evolve(reply, headers={**headers, **reply.headers})


def _call(request: Request, reply: Reply, fault: Fault | None) -> Call:
    """Note a call without what identifies a person or opens anything."""
    headers = {
        name.lower(): _printable(value)
        for name, value in request.headers.items()
        if name.lower() != "authorization"
    }
    return Call(
        method=request.method,
        path=request.path,
        status=0 if fault is not None and fault.drop else reply.status,
        client=reply.client,
        trace_id=headers.get("uid-trace-id"),
        client_version=headers.get("x-uid2-client-version"),
        binary=request.binary,
        sealed=reply.sealed,
        keys=reply.keys,
        items=reply.items,
        size=len(request.body),
        headers=headers,
        fault=fault,
    )


def _printable(value: str) -> str:
    """Make a header printable whose bytes are not UTF-8."""
    return value if value.isprintable() else as_latin1(value)


def _sendable(value: str) -> str:
    """Leave out of a header what aiohttp cannot send: bytes that are not UTF-8."""
    return value.encode("utf-8", "ignore").decode()


async def _respond(
    http: web.Request, reply: Reply, fault: Fault | None
) -> web.StreamResponse:
    """Send *reply*, cut or not at all if the fault says so."""
    if fault is not None and fault.drop:
        _close(http)
        return web.Response()
    headers = {name: _sendable(value) for name, value in reply.headers.items()}
    if reply.content_type is not None:
        headers[hdrs.CONTENT_TYPE] = reply.content_type
    if fault is not None and fault.cut_after is not None:
        return await _send_cut(http, reply, headers, fault.cut_after)
    response = _Whole(status=reply.status, headers=headers, body=reply.body)
    response.kept = frozenset(headers)
    return response


async def _send_cut(
    http: web.Request, reply: Reply, headers: Mapping[str, str], size: int
) -> web.StreamResponse:
    """Promise the whole body, send *size* bytes of it and close the connection."""
    response = _Cut(status=reply.status, headers=headers)
    response.kept = frozenset(headers)
    response.content_length = len(reply.body)
    await response.prepare(http)
    await response.write(reply.body[:size])
    _close(http)
    return response


def _close(http: web.Request) -> None:
    """Close the connection; what has been written still goes out."""
    if http.transport is not None:
        http.transport.close()
