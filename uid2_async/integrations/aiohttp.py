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
from uid2_async.keystore import KeyStore
from uid2_async.publisher import TokenRefresher

__all__ = ["CLIENT", "KEYS", "REFRESHER", "uid2_context"]

CLIENT: Final[web.AppKey[UID2Client]] = web.AppKey("uid2_client", UID2Client)
"""Where the application keeps its client, which ``config_dict`` finds too."""

REFRESHER: Final[web.AppKey[TokenRefresher]] = web.AppKey(
    "uid2_refresher", TokenRefresher
)
"""Where the application keeps what refreshes tokens."""

KEYS: Final[web.AppKey[KeyStore]] = web.AppKey("uid2_keys", KeyStore)
"""Where the application keeps its keys, if ``uid2_context`` names some."""


def uid2_context(
    make_client: Callable[[], UID2Client] = _visitor.make_client,
    *,
    make_refresher: Callable[[UID2Client], TokenRefresher] = _visitor.make_refresher,
    keys: _visitor.KeySource | None = None,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Make a context for ``app.cleanup_ctx``.

    Args:
        make_client: Makes the client when the application starts, so that a missing
            setting stops it there; the context closes it. By default the environment
            names the operator, and a call takes at most 3 s.
        make_refresher: Makes what refreshes tokens: the place for a clock or a lock. By
            default a refresh takes at most 3 s.
        keys: ``"bidstream"`` or ``"sharing"``, to fetch these keys and keep them fresh;
            or the path of a file to which another process saves them. The application
            also starts without usable keys: its store is not ready then.

    Returns:
        A generator function that puts what it opens under :data:`CLIENT`,
        :data:`REFRESHER` and :data:`KEYS`.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with _visitor.open_all(make_client, make_refresher, keys) as opened:
            app[CLIENT] = opened.client
            app[REFRESHER] = opened.refresher
            if opened.keys is not None:
                app[KEYS] = opened.keys
            yield

    return context


strip_tracebacks(globals())
