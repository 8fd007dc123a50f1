"""FastAPI: the lifespan of the Starlette integration, and dependencies.

Example:
    >>> app = FastAPI(lifespan=uid2_lifespan())
    >>>
    >>> @app.get("/")
    ... async def page(freshness: FreshnessDep) -> dict[str, str]: ...

Tests can replace them with ``app.dependency_overrides[get_client]``, for example.
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


# Wrapped here and not at the end, because dependencies are overridden by identity.
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
    """Return the keys that the lifespan opened.

    Raises:
        ConfigError: If it opened none.
    """
    keys: KeyStore | None = getattr(connection.state, "uid2_keys", None)
    if keys is None:
        raise ConfigError(
            "The lifespan opened no keys.", hint='Use uid2_lifespan(keys="bidstream").'
        )
    return keys


ClientDep: TypeAlias = Annotated[UID2Client, Depends(get_client)]
"""A parameter of this type is the application's client."""

RefresherDep: TypeAlias = Annotated[TokenRefresher, Depends(get_refresher)]
"""A parameter of this type is the application's refresher."""

KeysDep: TypeAlias = Annotated[KeyStore, Depends(get_keys)]
"""A parameter of this type contains the keys of ``uid2_lifespan(keys=...)``."""


@strip_traceback
async def get_freshness(
    connection: HTTPConnection, refresher: RefresherDep
) -> Freshness | None:
    """Refresh the tokens of the session. See :func:`keep_fresh`."""
    return await keep_fresh(connection, refresher=refresher)


FreshnessDep: TypeAlias = Annotated[Freshness | None, Depends(get_freshness)]
"""A parameter of this type refreshes the tokens of the session for this route."""


strip_tracebacks(globals())
