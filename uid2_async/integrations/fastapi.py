"""FastAPI: the lifespan of Starlette's integration, and dependencies to annotate with.

Example:
    >>> app = FastAPI(lifespan=uid2_lifespan())
    >>>
    >>> @app.get("/")
    ... async def page(freshness: FreshnessDep) -> dict[str, str]: ...

Tests replace them by ``app.dependency_overrides[get_client]`` and its like.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from fastapi import Depends
from fastapi.requests import HTTPConnection

from uid2_async._traceback import strip_traceback, strip_tracebacks
from uid2_async.client import UID2Client
from uid2_async.errors import ConfigError
from uid2_async.integrations.starlette import (
    FreshTokensMiddleware,
    SealedSessionMiddleware,
    UID2State,
    generate_tokens,
    keep_fresh,
    uid2_lifespan,
)
from uid2_async.keystore import KeyStore
from uid2_async.publisher import Freshness, TokenRefresher

__all__ = [
    "ClientDep",
    "FreshTokensMiddleware",
    "FreshnessDep",
    "KeysDep",
    "RefresherDep",
    "SealedSessionMiddleware",
    "UID2State",
    "generate_tokens",
    "get_client",
    "get_freshness",
    "get_keys",
    "get_refresher",
    "keep_fresh",
    "uid2_lifespan",
]


# Wrapped here and not at the end: overriding a dependency goes by its identity.
@strip_traceback
def get_client(connection: HTTPConnection) -> UID2Client:
    """Return the client that the lifespan opened."""
    client: UID2Client = connection.state.uid2_client
    return client


@strip_traceback
def get_refresher(connection: HTTPConnection) -> TokenRefresher:
    """Return the refresher that the lifespan opened."""
    refresher: TokenRefresher = connection.state.uid2_refresher
    return refresher


@strip_traceback
def get_keys(connection: HTTPConnection) -> KeyStore:
    """Give the keys that the lifespan opened.

    Raises:
        ConfigError: If it opened none.
    """
    keys: KeyStore | None = getattr(connection.state, "uid2_keys", None)
    if keys is None:
        raise ConfigError(
            "The lifespan opens no keys.", hint='Use uid2_lifespan(keys="bidstream").'
        )
    return keys


ClientDep: TypeAlias = Annotated[UID2Client, Depends(get_client)]
"""A parameter of this type is the application's client."""

RefresherDep: TypeAlias = Annotated[TokenRefresher, Depends(get_refresher)]
"""A parameter of this type is what refreshes tokens."""

KeysDep: TypeAlias = Annotated[KeyStore, Depends(get_keys)]
"""A parameter of this type is the keys of ``uid2_lifespan(keys=...)``."""


@strip_traceback
async def get_freshness(
    connection: HTTPConnection, refresher: RefresherDep
) -> Freshness | None:
    """Keep the session's tokens fresh; see :func:`keep_fresh`."""
    return await keep_fresh(connection, refresher=refresher)


FreshnessDep: TypeAlias = Annotated[Freshness | None, Depends(get_freshness)]
"""A parameter of this type keeps the session's tokens fresh for this one route."""


strip_tracebacks(globals())
