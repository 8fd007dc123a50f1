"""Starlette: a lifespan that opens the client, and fresh tokens in sessions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import deepcopy
from typing import Any, NotRequired, TypedDict

from starlette.datastructures import MutableHeaders
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
from uid2_async.publisher import Freshness, GenerateResult, TokenRefresher, try_generate
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
    """The objects that the lifespan adds to ``request.state``."""

    uid2_client: UID2Client
    uid2_refresher: TokenRefresher
    uid2_keys: NotRequired[KeyStore]


def uid2_lifespan(
    make_client: Callable[[], UID2Client] = _visitor.make_client,
    *,
    make_refresher: Callable[[UID2Client], TokenRefresher] = _visitor.make_refresher,
    keys: _visitor.KeySource | None = None,
) -> Callable[[Any], AbstractAsyncContextManager[UID2State]]:
    """Return a lifespan for the application, or for use in its own lifespan.

    Args:
        make_client: Creates the client at startup. The lifespan closes it. Defaults to
            a client from the environment with a timeout of 3 s.
        make_refresher: Creates the refresher, for example with a lock. Defaults to one
            with a timeout of 3 s.
        keys: ``"bidstream"`` or ``"sharing"`` to fetch and refresh these keys, or the
            path of a file to which another process saves keys. If there are no usable
            keys, the application starts anyway with a store that is not ready.

    Returns:
        The value for ``lifespan=``. In your own lifespan, enter it and yield
        ``{**state, ...}``.
    """

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[UID2State]:
        async with _visitor.open_services(make_client, make_refresher, keys) as opened:
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
    """Generate tokens at login, and store them in ``request.session``.

    A failure of the operator does not raise, and the call takes at most 3 s. See
    :func:`~uid2_async.try_generate`. If there are neither tokens nor an opt-out, the
    previous tokens in the session are deleted.

    Args:
        connection: The request, with a session from a middleware.
        identity: An email address, a phone number or a hash of one.
        tcf_consent_string: The TCF v2 consent string, which EUID operators check.
        key: The key of the session for the tokens.
        client: The client. Defaults to that of the lifespan.
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
    """Refresh the tokens in ``request.session`` if they are due, and store new ones.

    The operator is called only if a refresh is due. Do not use this for pages on which
    Prebid.js or the web SDK refreshes the tokens.

    Args:
        connection: The request, with a session from a middleware.
        key: The key of the session for the tokens.
        refresher: The refresher. Defaults to that of the lifespan.

    Returns:
        The tokens and their state (DEAD if they are damaged), or None if there are
        none.
    """
    stored = connection.session.get(key)
    found = find_tokens(connection.session, key)
    if not isinstance(found, IdentityTokens):
        return found
    opened: TokenRefresher = refresher or connection.state.uid2_refresher
    freshness = await opened.ensure_fresh(found)
    # Requests may share a session in memory, and another one may have logged out.
    if freshness.changed and connection.session.get(key) == stored:
        store_freshness(connection.session, freshness, key)
    return freshness


class _Session(dict[str, Any]):
    """A session that Starlette marks when it is used."""

    accessed = False

    def mark_accessed(self) -> None:
        self.accessed = True


class SealedSessionMiddleware:
    """Stores ``request.session`` in an encrypted cookie.

    Use it instead of Starlette's SessionMiddleware, whose cookie is only signed and
    must not contain tokens. Responses that may depend on the cookie get the header
    ``Vary: Cookie``, so that no cache sends them to somebody else.
    """

    def __init__(self, app: ASGIApp, *, cookie: SealedCookie) -> None:
        """Wrap *app*. *cookie* has the name and the keys."""
        self._app = app
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        sent = HTTPConnection(scope).cookies.get(self._cookie.name)
        opened = scope["session"] = _Session(self._cookie.open(sent))
        before = deepcopy(dict(opened))

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                changed = scope["session"] != before
                message.setdefault("headers", [])
                headers = MutableHeaders(scope=message)
                if changed:
                    holder = Response()
                    self._cookie.save(holder, scope["session"])
                    headers.append("set-cookie", holder.headers["set-cookie"])
                # Older versions of Starlette do not say whether the session was used.
                if changed or opened.accessed or sent is not None:
                    headers.add_vary_header("Cookie")
            await send(message)

        await self._app(scope, receive, send_with_cookie)


class FreshTokensMiddleware:
    """Refreshes the tokens of the session for requests that *where* selects.

    Add it inside the session middleware. It sets ``request.state.uid2`` to a Freshness,
    or to None if *where* returns False or the session has no tokens.
    """

    def __init__(
        self, app: ASGIApp, *, where: Callable[[HTTPConnection], bool]
    ) -> None:
        """Wrap *app*. *where* is called for each request."""
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
