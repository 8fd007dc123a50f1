"""Starlette: a lifespan that opens the client, and tokens kept fresh where asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import deepcopy
from typing import Any, NotRequired, TypedDict

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.identity_tokens import IdentityTokens
from uid2_async.integrations import _visitor
from uid2_async.integrations._visitor import (
    SESSION_KEY,
    find_tokens,
    store_freshness,
    store_reply,
)
from uid2_async.keystore import KeyStore
from uid2_async.models import Identity
from uid2_async.publisher import (
    Freshness,
    GenerateResult,
    TokenRefresher,
    try_generate,
)
from uid2_async.publisher.sealed_cookie import SealedCookie

__all__ = [
    "FreshTokensMiddleware",
    "SealedSessionMiddleware",
    "UID2State",
    "generate_tokens",
    "keep_fresh",
    "uid2_lifespan",
]


class UID2State(TypedDict):
    """What the lifespan puts into ``request.state``."""

    uid2_client: UID2Client
    uid2_refresher: TokenRefresher
    uid2_keys: NotRequired[KeyStore]


def uid2_lifespan(
    make_client: Callable[[], UID2Client] = _visitor.make_client,
    *,
    make_refresher: Callable[[UID2Client], TokenRefresher] = _visitor.make_refresher,
    keys: _visitor.KeySource | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[UID2State]]:
    """Make a lifespan for the application, or a part of its own lifespan.

    Args:
        make_client: Makes the client at the start; the lifespan closes it at the end.
            By default the environment names the operator, and a call takes at most 3 s.
        make_refresher: Makes what refreshes tokens: the place for a clock or a lock. By
            default a refresh takes at most 3 s.
        keys: ``"bidstream"`` or ``"sharing"``, to fetch these keys and keep them fresh;
            or the path of a file to which another process saves them. The application
            also starts without usable keys: its store is not ready then.

    Returns:
        What ``lifespan=`` takes; or enter it in your own and yield ``{**state, ...}``.
    """

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[UID2State]:
        async with _visitor.open_all(make_client, make_refresher, keys) as opened:
            state = UID2State(
                uid2_client=opened.client, uid2_refresher=opened.refresher
            )
            if opened.keys is not None:
                state["uid2_keys"] = opened.keys
            yield state

    return lifespan


async def generate_tokens(
    connection: HTTPConnection,
    identity: Identity | str,
    *,
    tcf_consent_string: str | None = None,
    key: str = SESSION_KEY,
    client: UID2Client | None = None,
) -> GenerateResult:
    """Generate tokens at a login, and keep them in ``request.session``.

    It never raises because the operator fails, and takes at most 3 s: see
    :func:`~uid2_async.try_generate`. Without tokens and opt-out, what the
    session held before is deleted.

    Args:
        connection: The request; a middleware must have given it a session.
        identity: An email address, a phone number or a hash of one.
        tcf_consent_string: The TCF v2 consent string, which EUID operators check.
        key: Under what the session keeps what ``to_session`` makes.
        client: Instead of the one that the lifespan opened.
    """
    opened: UID2Client = client or connection.state.uid2_client
    reply = await try_generate(opened, identity, tcf_consent_string=tcf_consent_string)
    store_reply(connection.session, reply, key)
    return reply


async def keep_fresh(
    connection: HTTPConnection,
    *,
    key: str = SESSION_KEY,
    refresher: TokenRefresher | None = None,
) -> Freshness | None:
    """Keep the tokens in ``request.session`` fresh, and write it where they changed.

    It asks the operator when a refresh is due, and only then. It is not for pages on
    which Prebid.js or the web SDK refreshes.

    Args:
        connection: The request; a middleware must have given it a session.
        key: Under what the session keeps what ``to_session`` made.
        refresher: Instead of the one that the lifespan opened.

    Returns:
        What became of the tokens (DEAD if unreadable), or None if there are none.
    """
    stored = connection.session.get(key)
    found = find_tokens(connection.session, key)
    if not isinstance(found, IdentityTokens):
        return found
    opened: TokenRefresher = refresher or connection.state.uid2_refresher
    freshness = await opened.ensure_fresh(found)
    # Somebody may have logged out meanwhile: sessions in memory are shared by requests.
    if freshness.changed and connection.session.get(key) == stored:
        store_freshness(connection.session, freshness, key)
    return freshness


class SealedSessionMiddleware:
    """Keeps ``request.session`` in an encrypted cookie.

    Use it in place of Starlette's SessionMiddleware, whose cookie is only signed, and
    so must not hold tokens.
    """

    def __init__(self, app: ASGIApp, *, cookie: SealedCookie) -> None:
        """Wrap *app*; *cookie* says under which name and keys."""
        self._app = app
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        sent = HTTPConnection(scope).cookies.get(self._cookie.name)
        scope["session"] = self._cookie.open(sent)
        before = deepcopy(scope["session"])

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["session"] != before:
                holder = Response()
                self._cookie.save(holder, scope["session"])
                cookies = [one for one in holder.raw_headers if one[0] == b"set-cookie"]
                message["headers"] = [*message["headers"], *cookies]
            await send(message)

        await self._app(scope, receive, send_with_cookie)


class FreshTokensMiddleware:
    """Keeps the session's tokens fresh for the pages that *where* names.

    It goes inside of the session's middleware and sets ``request.state.uid2``: a
    Freshness, or None where *where* said no or the session has no tokens.
    """

    def __init__(
        self, app: ASGIApp, *, where: Callable[[HTTPConnection], bool]
    ) -> None:
        """Wrap *app*; *where* is asked for each request."""
        self._app = app
        self._where = where

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            request = HTTPConnection(scope)
            request.state.uid2 = None
            if self._where(request):
                request.state.uid2 = await keep_fresh(request)
        await self._app(scope, receive, send)


strip_tracebacks(globals())
