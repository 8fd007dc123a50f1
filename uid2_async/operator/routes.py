"""Which path leads where, and who may go there (docs/protocol.md 2)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from uid2_async.operator.endpoints import keys, maps, tokens
from uid2_async.operator.exchange import Reply, no_method, not_found
from uid2_async.operator.settings import Settings
from uid2_async.operator.world import Question, World
from uid2_async.protocol.buckets import BUCKETS_PATH
from uid2_async.protocol.client_side import CLIENT_GENERATE_PATH
from uid2_async.protocol.identity import MAP_V2_PATH, MAP_V3_PATH
from uid2_async.protocol.keys import (
    BIDSTREAM_PATH,
    LATEST_PATH,
    SHARING_PATH,
)
from uid2_async.protocol.optout import STATUS_PATH
from uid2_async.protocol.tokens import (
    GENERATE_PATH,
    LOGOUT_PATH,
    REFRESH_PATH,
    VALIDATE_PATH,
)

__all__ = ["HEALTH_PATH", "PATHS", "Endpoint", "Sealed", "clean_path", "find"]

HEALTH_PATH: Final = "/ops/healthcheck"

_SLASHES = re.compile(r"/{2,}")


@attrs.frozen
class Sealed:
    """An endpoint behind an API key, with sealed requests and replies.

    Attributes:
        handle: Turns an opened request into the reply's JSON.
        roles: Any one of them is enough.
    """

    handle: Callable[[World, Question], bytes]
    roles: frozenset[str]


Endpoint: TypeAlias = Sealed | str
"""A sealed endpoint, or the path of one of the three others."""


def _sealed(handle: Callable[[World, Question], bytes], *roles: str) -> Sealed:
    return Sealed(handle, frozenset(roles))


_SEALED: Final = {
    GENERATE_PATH: _sealed(tokens.generate, "GENERATOR"),
    VALIDATE_PATH: _sealed(tokens.validate, "GENERATOR"),
    LOGOUT_PATH: _sealed(tokens.log_out, "OPTOUT"),
    BUCKETS_PATH: _sealed(maps.buckets, "MAPPER"),
    MAP_V2_PATH: _sealed(maps.map_v2, "MAPPER"),
    MAP_V3_PATH: _sealed(maps.map_v3, "MAPPER"),
    STATUS_PATH: _sealed(maps.opt_out_status, "MAPPER", "SHARER", "ID_READER"),
    SHARING_PATH: _sealed(keys.sharing_keys, "SHARER", "ID_READER"),
    BIDSTREAM_PATH: _sealed(keys.bidstream_keys, "ID_READER"),
    LATEST_PATH: _sealed(keys.latest_keys, "ID_READER"),
}


PATHS: Final = (*_SEALED, REFRESH_PATH, CLIENT_GENERATE_PATH)
"""All that can be called by POST."""


def clean_path(path: str) -> str:
    """Take double slashes and one trailing slash out of *path*."""
    path = _SLASHES.sub("/", path)
    return path.removesuffix("/") or "/"


def find(method: str, path: str, settings: Settings) -> Endpoint | Reply:
    """Find the endpoint of a cleaned *path*, or answer 404 or 405."""
    if path == HEALTH_PATH:
        return path if method == "GET" else no_method("GET")
    endpoint = _endpoint(path, settings)
    if endpoint is None:
        return not_found()
    return endpoint if method == "POST" else no_method("POST")


def _endpoint(path: str, settings: Settings) -> Endpoint | None:
    """Find what *path* leads to with these settings."""
    if path == STATUS_PATH and not settings.optout_status_api_enabled:
        return None
    if path == CLIENT_GENERATE_PATH:
        return path if settings.client_side_token_generate else None
    return path if path == REFRESH_PATH else _SEALED.get(path)
