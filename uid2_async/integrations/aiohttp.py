"""aiohttp.web: a cleanup context that opens the client, and typed keys to find it.

Example:
    >>> app = web.Application()
    >>> app.cleanup_ctx.append(uid2_context())
    >>>
    >>> async def page(request: web.Request) -> web.Response:
    ...     freshness = await request.app[REFRESHER].ensure_fresh(tokens)
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from uid2_async._traceback import strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.integrations import _visitor
from uid2_async.publisher import TokenRefresher

__all__ = ["CLIENT", "REFRESHER", "uid2_context"]

CLIENT: Final[web.AppKey[UID2Client]] = web.AppKey("uid2_client", UID2Client)
"""Where the application keeps its client, which ``config_dict`` finds too."""

REFRESHER: Final[web.AppKey[TokenRefresher]] = web.AppKey(
    "uid2_refresher", TokenRefresher
)
"""Where the application keeps what refreshes tokens."""


def uid2_context(
    make_client: Callable[[], UID2Client] = _visitor.make_client,
    *,
    make_refresher: Callable[[UID2Client], TokenRefresher] = _visitor.make_refresher,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Make a context for ``app.cleanup_ctx``.

    Args:
        make_client: Makes the client when the application starts, so that a missing
            setting stops it there; the context closes it. By default the environment
            names the operator, and a call takes at most 3 s.
        make_refresher: Makes what refreshes tokens: the place for a clock or a lock. By
            default a refresh takes at most 3 s.

    Returns:
        A generator function that puts both under :data:`CLIENT` and :data:`REFRESHER`.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with make_client() as client, make_refresher(client) as refresher:
            app[CLIENT] = client
            app[REFRESHER] = refresher
            yield

    return context


strip_tracebacks(globals())
