"""Starlette: a lifespan that opens the client, and tokens kept fresh where asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypedDict

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.errors import InputError
from uid2_async.identity_tokens import TokenState
from uid2_async.models import OptedOut
from uid2_async.publisher import Freshness, TokenRefresher, from_session, to_session

__all__ = ["FreshTokensMiddleware", "UID2State", "keep_fresh", "uid2_lifespan"]


class UID2State(TypedDict):
    """What the lifespan puts into ``request.state``."""

    uid2_client: UID2Client
    uid2_refresher: TokenRefresher


def uid2_lifespan(
    make_client: Callable[[], UID2Client] = UID2Client.from_env,
    *,
    make_refresher: Callable[[UID2Client], TokenRefresher] = TokenRefresher,
) -> Callable[[Any], AbstractAsyncContextManager[UID2State]]:
    """Make a lifespan for the application, or a part of its own lifespan.

    Args:
        make_client: Makes the client at the start; the lifespan closes it at the end.
        make_refresher: Makes what refreshes tokens: the place for a clock or a lock.

    Returns:
        What ``lifespan=`` takes; or enter it in your own and yield ``{**state, ...}``.
    """

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[UID2State]:
        async with make_client() as client, make_refresher(client) as refresher:
            yield UID2State(uid2_client=client, uid2_refresher=refresher)

    return lifespan


async def keep_fresh(
    connection: HTTPConnection,
    *,
    key: str = "uid2",
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
    try:
        held = from_session(stored)
    except InputError as error:
        del connection.session[key]
        return Freshness(tokens=None, state=TokenState.DEAD, changed=True, error=error)
    if held is None:
        return None
    if isinstance(held, OptedOut):
        return Freshness(tokens=None, state=TokenState.OPTED_OUT, changed=False)
    opened: TokenRefresher = refresher or connection.state.uid2_refresher
    freshness = await opened.ensure_fresh(held)
    # Somebody may have logged out meanwhile: sessions in memory are shared by requests.
    if freshness.changed and connection.session.get(key) == stored:
        _write(connection.session, key, freshness)
    return freshness


def _write(session: dict[str, Any], key: str, freshness: Freshness) -> None:
    """Put into *session* what is to be held from now on."""
    if freshness.state is TokenState.OPTED_OUT:
        session[key] = to_session(OptedOut())
    elif freshness.tokens is None:
        del session[key]
    else:
        session[key] = to_session(freshness.tokens)


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
