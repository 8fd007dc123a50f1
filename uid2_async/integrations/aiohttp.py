"""aiohttp.web: a cleanup context that opens the client, and typed keys for it.

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
"""The application's key for the client. It also works with ``config_dict``."""

REFRESHER: Final[web.AppKey[TokenRefresher]] = web.AppKey(
    "uid2_refresher", TokenRefresher
)
"""The application's key for the refresher of tokens."""

KEYS: Final[web.AppKey[KeyStore]] = web.AppKey("uid2_keys", KeyStore)
"""The application's key for the keys of ``uid2_context(keys=...)``."""


def uid2_context(
    make_client: Callable[[], UID2Client] = _visitor.make_client,
    *,
    make_refresher: Callable[[UID2Client], TokenRefresher] = _visitor.make_refresher,
    keys: _visitor.KeySource | None = None,
) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return a context for ``app.cleanup_ctx``.

    Args:
        make_client: Creates the client at startup, so that a missing setting stops the
            application. The context closes it. Defaults to a client from the
            environment with a timeout of 3 s.
        make_refresher: Creates the refresher, for example with a lock. Defaults to one
            with a timeout of 3 s.
        keys: ``"bidstream"`` or ``"sharing"`` to fetch and refresh these keys, or the
            path of a file to which another process saves keys. If there are no usable
            keys, the application starts anyway with a store that is not ready.

    Returns:
        A generator function that adds :data:`CLIENT`, :data:`REFRESHER` and
        :data:`KEYS` to the application.
    """

    async def context(app: web.Application) -> AsyncIterator[None]:
        async with _visitor.open_services(make_client, make_refresher, keys) as opened:
            app[CLIENT] = opened.client
            app[REFRESHER] = opened.refresher
            if opened.keys is not None:
                app[KEYS] = opened.keys
            yield

    return context


strip_tracebacks(globals())
